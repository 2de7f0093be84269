# SPDX-License-Identifier: Apache-2.0
"""A cloud in a process of its own, in a fresh directory: started, killed, stopped and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cumulet.cli.chaos.coverage import Aim, Trail
from cumulet.cli.chaos.nursery import Child, Fresh, Launcher
from cumulet.kernel.files import write_whole

READY_WITHIN = 600.0
FROZEN = 6.0
"""Seconds of a SIGSTOP: longer than the lease of a saga (3.5 s) and the second in which another looks for it."""


@dataclass
class Struck:
    """What a blow hit."""

    what: str
    at_work: list[str] = field(default_factory=list)
    """The last point of each flow that was at work in a killed process."""
    held: str | None = None
    """The chosen point at which one of them stood."""


class CloudProcess:
    """One `cumulet up` with simulated machines."""

    aim_within = 30.0
    """Seconds that a blow waits for a flow to come to the chosen point; one is sent there, so this is for a busy
    machine."""
    pace = 1.0
    """The time between two blows, relative to the plan's."""

    def __init__(
        self, data: Path, *, halts: bool = False, settings: Path | None = None, launcher: Launcher | None = None
    ) -> None:
        """``halts``: the process can be made to stand still at chosen points (``kernel.halts``)."""
        self.data, self._settings, self._launcher = data, settings, launcher or Fresh()
        self.halts = data.parent / f"{data.name}.halts" if halts else None
        self._hypervisor: tuple[str, ...] = ("--hypervisor", "simulated")
        self._port = 0
        self._process: Child | None = None
        self.starts = 0
        self.restart_seconds: list[float] = []
        self.died: list[str] = []
        self.trail = Trail(self.halts) if self.halts is not None else None

    @property
    def known(self) -> set[str]:
        """All points that were ever passed."""
        return self.trail.known if self.trail is not None else set()

    @property
    def kinds(self) -> dict[str, float]:
        """What can happen to it besides kills, and how often, relative to them."""
        return {"stop": 0.04}

    def look(self) -> None:
        """Take in what the flows passed."""
        if self.trail is not None:
            self.trail.read()

    async def strike(self, kind: str, aim: Aim | None = None) -> Struck:
        """Kill it (when a flow stands where it aims, if one comes there) and start it again, or stop it."""
        if not self.alive:
            self.died.append(f"the cloud ended by itself: {self._said()[-300:]}")
            await self.start()
        if kind == "stop":
            await self.freeze(FROZEN)
            return Struck("the cloud (stopped)")
        held = await self._wait_for(aim) if aim is not None else None
        await self.kill()
        struck = Struck("the cloud", self.trail.at_work() if self.trail is not None else [], held)
        if self.trail is not None:
            self.trail.begin()  # whoever starts it again: the next process is another one
        if self.halts is not None:
            self.hold([])
        self.restart_seconds.append(await self.start())
        return struck

    async def _wait_for(self, aim: Aim) -> str | None:
        already = len(self.lines("held"))
        self.hold(list(aim.points))
        aim.begin()
        until = time.monotonic() + self.aim_within
        while time.monotonic() < until:
            if held := self.lines("held", already):
                return held[0].partition(" ")[2]
            await asyncio.sleep(0.02)
        return None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> float:
        """Start unless it runs (again: on the same port), wait until it serves; returns how many seconds that took."""
        begun = time.monotonic()
        if not self.alive:
            if self.trail is not None:
                self.trail.begin()
            await self._spawn()
        assert self._process is not None
        while not self._is_ready():
            if self._process.returncode is not None:
                raise RuntimeError(f"the cloud did not start: {self._said()[-2000:]}")
            if time.monotonic() > begun + READY_WITHIN:
                raise RuntimeError(f"the cloud was not up in {READY_WITHIN:g} s")
            await asyncio.sleep(0.02)
        self.starts += 1
        return time.monotonic() - begun

    def _said(self) -> str:
        try:
            return (self.data / "console.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    async def _spawn(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("OS_", "CUMULET_"))}
        if self.halts is not None:
            self.halts.mkdir(parents=True, exist_ok=True)
            environment["CUMULET_HALTS"] = str(self.halts)
        words = ["up", "--data", str(self.data), "--port", str(self._port), "--name", "here", *self._hypervisor]
        if self._settings is not None:
            words += ["--settings", str(self._settings)]
        self.data.mkdir(parents=True, exist_ok=True)
        self._process = await self._launcher.launch(words, environment, self.data / "console.log")

    def _is_ready(self) -> bool:
        try:
            facts: dict[str, Any] = json.loads((self.data / "run.json").read_bytes())
        except (OSError, ValueError):
            return False
        if self._process is None or facts.get("pid") != self._process.pid:
            return False
        self._port = int(facts["port"])
        return True

    async def kill(self) -> None:
        """SIGKILL: nothing is finished, nothing is said."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, and wait."""
        await self._end(signal.SIGTERM)

    async def remove(self) -> None:
        """End it for good."""
        await self.kill()

    async def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(how)
            await self._process.wait()

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after that time: every lease that it held is over when it wakes up."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._process.send_signal(signal.SIGCONT)

    def hold(self, points: list[str]) -> None:
        """From now on flows stand still at these points; none: all go on."""
        assert self.halts is not None
        write_whole(self.halts / "plan", json.dumps(points))

    def lines(self, name: str, after: int = 0) -> list[str]:
        """The points that flows ``reached``, or stand still at (``held``)."""
        assert self.halts is not None
        try:
            return (self.halts / name).read_text().splitlines()[after:]
        except FileNotFoundError:
            return []

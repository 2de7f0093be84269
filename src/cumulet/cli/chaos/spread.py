# SPDX-License-Identifier: Apache-2.0
"""A spread cloud under test: its roles in processes of their own on one PostgreSQL and one RabbitMQ.

Stands where `CloudProcess` stands: `kill` takes a process at random, `start`
brings back what is not there.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cumulet.assembly.table import SERVICES, entry_of

GROUPS = (
    ("identity-api", "image-api", "placement-api"),
    ("network-api", "volume-api", "volume-scheduler"),
    ("compute-api", "insight"),
    ("scheduler", "conductor"),
)
AGENTS = ("compute-agent", "network-agent", "volume-agent")
READY_WITHIN = 180.0


@dataclass
class _Part:
    """One process of the cloud."""

    roles: tuple[str, ...]
    name: str
    port: int
    data: Path
    log: Path
    process: asyncio.subprocess.Process | None = None
    begun: int = 0
    """How long its log was when it was last started."""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def ready(self) -> bool:
        return "ready: " in self.log.read_text(errors="replace")[self.begun :]


class SpreadCloud:
    """All processes of one cloud."""

    def __init__(self, folder: Path, database: str, bus: str, seed: int) -> None:
        """``database`` and ``bus`` are empty and for this cloud alone."""
        self.data = folder / "control"
        self.halts = None
        self.starts = 0
        self.killed: dict[str, int] = {}
        self._dice = random.Random(seed)  # noqa: S311 - a plan that can be repeated, no secret
        self._settings = folder / "cumulet.toml"
        front, host = ("front",), "host-1"
        self._parts = [
            *(_Part(roles, "control", _free_port(), self.data, folder / f"{roles[0]}.log") for roles in GROUPS),
            _Part(front, "control", _free_port(), self.data, folder / "front.log"),
            _Part(AGENTS, host, 0, folder / host, folder / "agents.log"),
        ]
        self.url = f"http://127.0.0.1:{self._parts[-2].port}"
        endpoints = {}
        for part in self._parts:
            for entry in SERVICES:
                if entry.roles[0] in part.roles and part.port:
                    endpoints[entry.type] = f"http://127.0.0.1:{part.port}{entry.mount}"
            if "compute-api" in part.roles:
                endpoints["metadata"] = f"http://127.0.0.1:{part.port}/metadata"
        assert {entry_of(role) for part in self._parts[:-2] for role in part.roles} == set(SERVICES)
        cloud = {"database": database, "bus": bus, "secrets": str(folder / "secrets.json"), "url": self.url}
        lines = ["[cloud]", *(f"{key} = {json.dumps(value)}" for key, value in cloud.items()), "[cloud.endpoints]"]
        folder.mkdir(parents=True, exist_ok=True)
        self._image = folder / "stand-in.raw"
        with self._image.open("wb") as blank:
            blank.truncate(1 << 20)
        self._settings.write_text("\n".join([*lines, *(f"{k} = {json.dumps(v)}" for k, v in endpoints.items()), ""]))
        self._settings.chmod(0o600)

    async def start(self) -> float:
        """Start what is not there and wait until it is ready; returns how many seconds that took."""
        begun = time.monotonic()
        missing = [part for part in self._parts if not part.alive]
        if len(missing) == len(self._parts):  # hosts need the secrets that controllers make
            await self._run(missing[:-1])
            missing = missing[-1:]
        await self._run(missing)
        self.starts += 1
        return time.monotonic() - begun

    async def _run(self, parts: list[_Part]) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("OS_", "CUMULET_"))}
        for part in parts:
            words = [
                "run",
                *part.roles,
                "--settings",
                str(self._settings),
                "--data",
                str(part.data),
                "--name",
                part.name,
            ]
            words += ["--hypervisor", "simulated", *(["--port", str(part.port)] if part.port else [])]
            if "image-api" in part.roles:
                words += ["--guest-image", str(self._image)]
            with open(part.log, "ab") as out:  # noqa: ASYNC230 - only the child writes to it
                part.begun = out.tell()
                part.process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "cumulet.cli", *words, stdin=asyncio.subprocess.DEVNULL, stdout=out,
                    stderr=out, env=environment, start_new_session=True,
                )  # fmt: skip
        until = time.monotonic() + READY_WITHIN
        while not all(part.ready for part in parts):
            ended = [part for part in parts if not part.alive]
            if ended or time.monotonic() > until:
                told = (ended or parts)[0].log.read_text(errors="replace")
                raise RuntimeError(f"{(ended or parts)[0].roles[0]} did not start: {told[-2000:]}")
            await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """SIGKILL to one of the processes."""
        part = self._dice.choice(self._parts)
        self.killed[part.roles[0]] = self.killed.get(part.roles[0], 0) + 1
        if part.process is not None and part.alive:
            part.process.send_signal(signal.SIGKILL)
            await part.process.wait()

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP to one of the processes, and SIGCONT after that time; the others go on meanwhile."""
        part = self._dice.choice(self._parts)
        if part.process is None or not part.alive:
            return
        self.killed[f"{part.roles[0]} (stopped)"] = self.killed.get(f"{part.roles[0]} (stopped)", 0) + 1
        part.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            part.process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """End them all at once."""
        for part in self._parts:
            if part.process is not None and part.alive:
                part.process.send_signal(signal.SIGKILL)
                await part.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

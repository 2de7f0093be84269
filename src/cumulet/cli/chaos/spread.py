# SPDX-License-Identifier: Apache-2.0
"""A spread cloud under test: its roles in processes of their own on one PostgreSQL and one RabbitMQ.

Two of each control role, one front door, two hosts. Each process reaches the
broker and the database through relays of its own, so that it alone can be cut
off. What was struck comes back in the background, as from a supervisor, while
the next blow falls; at most two processes are down at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import tomli_w

from cumulet.assembly.table import SERVICES, entry_of
from cumulet.cli.chaos.coverage import Aim, Trail
from cumulet.cli.chaos.loopback import free_ports
from cumulet.cli.chaos.nursery import Child, Fresh, Launcher
from cumulet.cli.chaos.process import FROZEN, CloudProcess, Struck
from cumulet.cli.chaos.relay import Relay, broker_of, bus_through, database_of, dsn_through
from cumulet.kernel.files import write_whole

TWINS = (
    ("identity-api", "image-api", "network-api", "volume-api", "conductor"),
    ("placement-api", "compute-api", "scheduler", "volume-scheduler", "insight"),
)
"""The control roles, so that whatever two roles say to each other crosses a process border; each group runs twice."""
SINGLES = (
    ("identity-api", "image-api", "placement-api"),
    ("network-api", "volume-api", "volume-scheduler"),
    ("compute-api", "insight"),
    ("scheduler", "conductor"),
)
"""The control roles, once each."""
FRONT = ("front",)
AGENTS = ("compute-agent", "network-agent", "volume-agent")
READY_WITHIN = 600.0
AT_ONCE = 2
"""How many processes may be down or cut off at the same time."""
Restart = Callable[[], Awaitable[None]]


class Part:
    """One process of the cloud, with its relays and its settings file."""

    def __init__(self, folder: Path, roles: tuple[str, ...], name: str, number: int, data: Path) -> None:
        self.roles, self.name, self.data = roles, name, data
        self.label = f"{roles[0]}-{number}"
        self.port = free_ports(1)[0] if set(roles) - set(AGENTS) else 0
        self.home = folder / self.label
        self.home.mkdir(parents=True)
        self.log, self.halts, self.settings = self.home / "log", self.home / "halts", self.home / "cumulet.toml"
        self.halts.mkdir()
        self.trail = Trail(self.halts)
        self.broker: Relay
        self.database: Relay | None = None
        self.child: Child | None = None
        self.begun = 0
        """How long its log was when it was last started."""
        self.troubled = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        return self.child is not None and self.child.returncode is None

    @property
    def ready(self) -> bool:
        return "ready: " in self.said

    @property
    def said(self) -> str:
        """Its log since it was last started."""
        try:
            with self.log.open("rb") as log:
                log.seek(self.begun)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def held(self) -> list[str]:
        try:
            return (self.halts / "held").read_text().splitlines()
        except FileNotFoundError:
            return []

    def hold(self, points: Sequence[str]) -> None:
        write_whole(self.halts / "plan", json.dumps(list(points)))

    async def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.child is not None and self.alive:
            self.child.send_signal(how)
            await self.child.wait()


class SpreadCloud:
    """All processes of one cloud."""

    aim_within, pace = CloudProcess.aim_within, CloudProcess.pace

    def __init__(
        self, folder: Path, database: str, bus: str, seed: int = 1, *, twins: bool = True, hosts: int = 2,
        each: int = 1, launcher: Launcher | None = None, restarts: Mapping[str, Restart] | None = None,
        halts: bool = True, groups: Sequence[tuple[str, ...]] = (),
    ) -> None:  # fmt: skip
        """``database`` and ``bus`` are empty and for this cloud alone; ``restarts``: how each is restarted.

        ``hosts`` processes of agents stand for ``each`` hosts, every one of them. ``groups``: the control
        processes, if not the usual ones.
        """
        self.data = folder / "control"
        self.starts = self.failed_starts = 0
        self._each, self._halts = each, halts
        self.restart_seconds: list[float] = []
        self.died: list[str] = []
        """Processes that ended although nobody killed them."""
        self.folder, self._database, self._bus = folder, database, bus
        self._dice = random.Random(seed)  # noqa: S311 - a plan that can be repeated, no secret
        self._launcher = launcher or Fresh()
        self._restarts = dict(restarts or {})
        self._mending: set[asyncio.Task[None]] = set()
        groups = groups or [group for group in (TWINS if twins else SINGLES) for _ in range(2 if twins else 1)]
        self.control = [Part(folder, roles, "control", one, self.data) for one, roles in enumerate(groups)]
        self.front = Part(folder, FRONT, "control", len(groups), self.data)
        names = [f"host-{one + 1}" for one in range(hosts)]
        self.hosts = [Part(folder, AGENTS, name, one, folder / name) for one, name in enumerate(names)]
        self.parts = [*self.control, self.front, *self.hosts]
        self.url = self.front.url
        self._image = folder / "stand-in.raw"
        with self._image.open("wb") as blank:
            blank.truncate(1 << 20)

    @property
    def kinds(self) -> dict[str, float]:
        """What can happen to it, and how often, relative to kills."""
        cuts = {f"{how}-{what}": 0.025 for how in ("cut", "silence") for what in ("broker", "database")}
        return {"stop": 0.03, **cuts, **{f"restart-{what}": 0.015 for what in self._restarts}}

    @property
    def known(self) -> set[str]:
        """All points that were ever passed."""
        return set().union(*(part.trail.known for part in self.parts))

    def look(self) -> None:
        """Take in what the flows passed."""
        for part in self.parts:
            part.trail.read()

    async def open(self) -> None:
        """Lay the relays, and write the settings files."""
        endpoints: dict[str, list[str]] = {}
        for part in self.control:
            for entry in SERVICES:
                if entry.roles[0] in part.roles:
                    endpoints.setdefault(entry.type, []).append(f"{part.url}{entry.mount}")
            if "compute-api" in part.roles:
                endpoints.setdefault("metadata", []).append(f"{part.url}/metadata")
        assert {entry_of(role) for part in self.control for role in part.roles} == set(SERVICES)
        for part in self.parts:
            part.broker = Relay(broker_of(self._bus))
            await part.broker.open()
            cloud: dict[str, object] = {
                "bus": bus_through(self._bus, part.broker.port), "secrets": str(self.folder / "secrets.json"),
                "url": self.url, "heartbeat_seconds": 1.0, "database_connections": 4,
            }  # fmt: skip
            if part in self.control:
                part.database = Relay(database_of(self._database))
                await part.database.open()
                cloud["database"] = dsn_through(self._database, part.database.port)
            part.settings.write_text(tomli_w.dumps({"cloud": {**cloud, "endpoints": endpoints}}), encoding="utf-8")
            part.settings.chmod(0o600)

    async def start(self) -> float:
        """Start what is not there and wait until everything is ready; returns how many seconds that took."""
        begun = time.monotonic()
        if not self.starts:
            await self.open()
            await asyncio.gather(*(self._run(part) for part in (*self.control, self.front)))
            await asyncio.gather(*(self._run(part) for part in self.hosts))  # hosts need the secrets that were made
        await self.whole()
        await asyncio.gather(*(self._revive(part) for part in self.parts if not part.alive))
        self.starts += 1
        return time.monotonic() - begun

    async def whole(self) -> None:
        """Wait until everything that was struck is back."""
        while self._mending:
            await asyncio.gather(*self._mending)

    async def _run(self, part: Part) -> None:
        """Start a process until it is ready, anew whenever it ends before that: what it needs may be away."""
        until = time.monotonic() + READY_WITHIN
        while True:
            await self._launch(part)
            while part.alive and not part.ready and time.monotonic() < until:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
            if part.alive and part.ready:
                return
            if time.monotonic() > until or not self.starts:
                await part.end()
                raise RuntimeError(f"{part.label} did not start: {part.said[-2000:]}")
            self.failed_starts += 1
            await asyncio.sleep(0.5)

    async def _launch(self, part: Part) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("OS_", "CUMULET_"))}
        if self._halts:
            environment["CUMULET_HALTS"] = str(part.halts)
        words = ["run", *part.roles, "--settings", str(part.settings), "--data", str(part.data), "--name", part.name]
        words += ["--hypervisor", "simulated", *(["--port", str(part.port)] if part.port else [])]
        if "image-api" in part.roles:
            words += ["--guest-image", str(self._image)]
        if part in self.hosts:
            words += ["--hosts", str(self._each)]
        part.begun = part.log.stat().st_size if part.log.exists() else 0
        part.hold([])
        part.trail.begin()
        part.child = await self._launcher.launch(words, environment, part.log)

    # ---- blows

    async def strike(self, kind: str, aim: Aim | None = None) -> Struck:
        """Let something happen: a kill (of a process in which a flow stands where it aims, if one comes there),
        a stop, a cut, a restart. Returns once it has happened; what comes back does so by itself."""
        for part in self.parts:
            if not part.troubled and not part.alive:
                self._trouble(part, self._revive(part))
        while sum(part.troubled for part in self.parts) >= AT_ONCE:
            await asyncio.wait(self._mending, return_when=asyncio.FIRST_COMPLETED)
        if kind.startswith("restart-"):
            await self._restarts[kind.removeprefix("restart-")]()
            return Struck(kind)
        if kind == "kill":
            return await self._kill(aim)
        possible = [part for part in self.parts if not part.troubled]
        if kind == "stop":
            part = self._dice.choice(possible)
            self._trouble(part, self._stop(part))
        else:
            how, _, what = kind.partition("-")
            part = self._dice.choice([one for one in possible if what == "broker" or one.database is not None])
            self._trouble(part, self._cut(part, how, what))
        return Struck(f"{kind} {part.roles[0]}")

    async def _kill(self, aim: Aim | None) -> Struck:
        part, held = await self._wait_for(aim) if aim is not None else (None, None)
        if part is None:
            part = self._dice.choice([one for one in self.parts if not one.troubled])
        await part.end()
        struck = Struck(part.roles[0], part.trail.at_work(), held)
        for one in self.parts:
            one.hold([])
        self._trouble(part, self._bring_back(part))
        return struck

    async def _wait_for(self, aim: Aim) -> tuple[Part, str] | tuple[None, None]:
        """The first process in which a flow stands where it aims, and where; none when none comes in time."""
        already: dict[str, int] = {}

        def well() -> list[Part]:
            """The processes that may be killed; each is held from the first time on that it is one of them."""
            found = [part for part in self.parts if not part.troubled]
            for part in found:
                if part.label not in already:
                    already[part.label] = len(part.held)
                    part.hold(aim.points)
            return found

        well()
        aim.begin()
        until = time.monotonic() + self.aim_within
        while time.monotonic() < until:
            for part in well():
                if held := part.held[already[part.label] :]:
                    return part, held[0].partition(" ")[2]
            await asyncio.sleep(0.02)
        return None, None

    def _trouble(self, part: Part, until_well: Awaitable[None]) -> None:
        """Note that something is wrong with a process until it is well again."""
        part.troubled = True

        async def watch() -> None:
            try:
                await until_well
            finally:
                part.troubled = False

        task = asyncio.ensure_future(watch())
        self._mending.add(task)
        task.add_done_callback(self._mending.discard)

    async def _bring_back(self, part: Part) -> None:
        begun = time.monotonic()
        await self._run(part)
        self.restart_seconds.append(time.monotonic() - begun)

    async def _stop(self, part: Part) -> None:
        if part.child is not None:
            part.child.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(FROZEN)
            finally:
                part.child.send_signal(signal.SIGCONT)

    async def _cut(self, part: Part, how: str, what: str) -> None:
        relay = part.broker if what == "broker" else part.database
        assert relay is not None
        try:
            relay.refuse() if how == "cut" else relay.silence()
            await asyncio.sleep(self._dice.uniform(1.0, 8.0))
        finally:
            relay.mend()
        if not part.alive:
            await self._revive(part)

    async def revive(self, part: Part) -> None:
        """Start a process that is not there."""
        await self._run(part)

    async def _revive(self, part: Part) -> None:
        """Start a process that ended although nobody killed it, which is a finding."""
        self.died.append(f"{part.label} ended by itself: {part.said[-300:]}")
        await self._run(part)

    async def remove(self) -> None:
        """End them all at once."""
        for task in self._mending:
            task.cancel()
        await asyncio.gather(*self._mending, return_exceptions=True)
        for part in self.parts:
            await part.end()
            for relay in (getattr(part, "broker", None), part.database):
                if relay is not None:
                    await relay.close()

# SPDX-License-Identifier: Apache-2.0
"""A cloud of separate processes, each started with `cumulet run`, on a real PostgreSQL and a real RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from cumulet.assembly.table import SERVICES, entry_of
from cumulet.cli.chaos.loopback import free_ports
from cumulet.kernel.secrets import SecretFile

READY_WITHIN = 600.0

GROUPS: tuple[tuple[str, ...], ...] = (
    ("identity-api", "image-api", "network-api", "volume-api", "conductor"),
    ("placement-api", "compute-api", "scheduler", "volume-scheduler", "insight"),
)
"""The control roles, so that whatever two roles say to each other crosses a process border."""
AGENTS = ("compute-agent", "network-agent", "volume-agent")


@dataclass
class Process:
    """One `cumulet run`."""

    roles: tuple[str, ...]
    name: str
    port: int | None
    log: Path
    popen: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    async def ready(self) -> None:
        """Wait until it says that it is; fails with its log when it ends instead."""
        await until(lambda: "ready: " in self.said() or self.popen.poll() is not None, READY_WITHIN, self.said)
        assert self.popen.poll() is None, self.said()[-4000:]

    async def ended(self, within: float = 60.0) -> int:
        """Its exit status."""
        await until(lambda: self.popen.poll() is not None, within, self.said)
        status: int = self.popen.returncode
        return status

    def tell(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)


async def until(done: Callable[[], Any], within: float, told: Callable[[], str] = lambda: "") -> None:
    """Poll a fact of another process until it holds."""
    deadline = time.monotonic() + within
    while not done():
        assert time.monotonic() < deadline, f"not within {within:g} s\n{told()[-4000:]}"
        await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Tls:
    """What the processes of a cloud prove themselves with, and who vouches for it."""

    certificate: Path
    key: Path
    ca: Path


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class Spread:
    """The cloud: its settings file, its processes, and a client of its front door."""

    folder: Path
    settings: Path
    database: str
    session: aiohttp.ClientSession
    processes: list[Process] = field(default_factory=list)
    token: str = ""
    count: int = 0
    tls: Tls | None = None

    @property
    def front(self) -> str:
        url = next(one.url for one in self.processes if one.roles == ("front",))
        return url.replace("http:", "https:") if self.tls else url

    def run(self, *roles: str, name: str = "control", port: int | None = None, data: str = "control") -> Process:
        """Start a process."""
        self.count += 1
        number = self.count
        log = self.folder / f"{number}-{roles[0]}.log"
        argv = [
            sys.executable, "-m", "cumulet.cli", "run", *roles, "--settings", str(self.settings), "--data",
            str(self.folder / data), "--name", name, "--hypervisor", "simulated",
        ]  # fmt: skip
        if port is not None:
            argv += ["--port", str(port)]
            if self.tls is not None:
                argv += ["--tls-cert", str(self.tls.certificate), "--tls-key", str(self.tls.key)]
        with log.open("wb") as out:
            popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_environ())
        process = Process(roles, name, port, log, popen)
        self.processes.append(process)
        return process

    def join(self, *words: str, name: str) -> Process:
        """Start `cumulet join` on a machine called ``name``, with a data directory of its own."""
        self.count += 1
        log = self.folder / f"{self.count}-join.log"
        argv = [
            sys.executable, "-m", "cumulet.cli", "join", *words, "--data", str(self.folder / name), "--name", name,
            "--hypervisor", "simulated",
        ]  # fmt: skip
        with log.open("wb") as out:
            popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_environ())
        process = Process(AGENTS, name, None, log, popen)
        self.processes.append(process)
        return process

    async def request(
        self, method: str, path: str, document: Any = None, *, token: str | None = None, base: str | None = None,
        headers: Mapping[str, str] | None = None, body: Any = None,
    ) -> Answer:  # fmt: skip
        """One request to the front door (or ``base``), as the admin unless ``token`` says otherwise."""
        sent = {"x-auth-token": self.token if token is None else token, **(headers or {})}
        if document is not None:
            body = json.dumps(document).encode()
            sent["content-type"] = "application/json"
        async with self.session.request(method, (base or self.front) + path, headers=sent, data=body) as reply:
            return Answer(reply.status, reply.headers, await reply.read())

    async def login(self, user: str = "admin", project: str = "admin") -> str:
        password = json.loads((self.folder / "secrets.json").read_text())["admin_password"]
        domain = {"id": "default"}
        auth = {
            "identity": {
                "methods": ["password"],
                "password": {"user": {"name": user, "domain": domain, "password": password}},
            },
            "scope": {"project": {"name": project, "domain": domain}},
        }
        reply = await self.request("POST", "/identity/v3/auth/tokens", {"auth": auth}, token="")
        assert reply.status == 201, reply.data
        return reply.headers["x-subject-token"]

    async def settle(self, path: str, member: str, wanted: Iterable[str], within: float = 60.0) -> dict[str, Any]:
        """Read a resource until its status is one of ``wanted``."""
        deadline = time.monotonic() + within
        while True:
            reply = await self.request("GET", path)
            assert reply.status == 200, reply.data
            shown: dict[str, Any] = reply.json[member]
            if shown["status"] in wanted:
                return shown
            assert shown["status"].lower() != "error", shown
            assert time.monotonic() < deadline, shown
            await asyncio.sleep(0.05)

    async def gone(self, path: str, within: float = 60.0) -> None:
        """Read a resource until it is not there."""
        deadline = time.monotonic() + within
        while (reply := await self.request("GET", path)).status != 404:
            assert time.monotonic() < deadline, reply.data
            await asyncio.sleep(0.05)

    async def replace(self, process: Process) -> Process:
        """Start the same again in the place of a process that ended."""
        process.popen.wait(30)
        fresh = self.run(*process.roles, name=process.name, port=process.port)
        self.processes.remove(process)
        await fresh.ready()
        return fresh

    def stop(self) -> None:
        """End all processes at once; what is left after a while is killed."""
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.kill()
        for process in self.processes:
            process.popen.wait(30)


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("CUMULET_", "OS_"))}


def write_settings(path: Path, sections: Mapping[str, Mapping[str, Any]]) -> Path:
    """A settings file; JSON's strings, numbers and lists are TOML's."""
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


@asynccontextmanager
async def spread_cloud(
    folder: Path, database: str, bus: str, *, groups: Iterable[tuple[str, ...]] = GROUPS, twice: bool = True,
    hosts: int = 1, management: tuple[str, str] | None = None, tls: Tls | None = None,
) -> AsyncIterator[Spread]:  # fmt: skip
    """A running cloud whose control roles run ``twice``, with a front door and ``hosts`` hosts of simulated guests.

    ``management``: URL and password of the broker's management API, for hosts that join.
    """
    scheme = "https" if tls else "http"
    planned = [(roles, free_ports(1)[0]) for roles in groups for _ in range(2 if twice else 1)]
    front = free_ports(1)[0]
    endpoints: dict[str, list[str]] = {}
    for roles, port in planned:
        for entry in {entry_of(role) for role in roles if role == entry_of(role).roles[0]}:
            endpoints.setdefault(entry.type, []).append(f"{scheme}://127.0.0.1:{port}{entry.mount}")
            if "compute-api" in roles and entry.package == "compute":
                endpoints.setdefault("metadata", []).append(f"{scheme}://127.0.0.1:{port}/metadata")
    settings = write_settings(
        folder / "cumulet.toml",
        {
            "cloud": {
                "database": database, "bus": bus, "secrets": str(folder / "secrets.json"), "database_connections": 4,
                "url": f"{scheme}://127.0.0.1:{front}", "heartbeat_seconds": 1.0,
                **({"ca": str(tls.ca)} if tls else {}),
                **({"bus_management": management[0]} if management else {}),
            },
            "cloud.endpoints": endpoints,
            "identity": {"hash_memory_kib": 8},
        },
    )  # fmt: skip
    assert len(endpoints) == len(SERVICES) + 1
    if management is not None:
        SecretFile(folder / "secrets.json").put("bus_management", management[1])
    trusted = ssl.create_default_context(cafile=tls.ca) if tls else True
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted)) as session:
        cloud = Spread(folder, settings, database, session, tls=tls)
        try:
            started = [cloud.run(*roles, port=port) for roles, port in planned]
            started.append(cloud.run("front", port=front))
            await asyncio.gather(*(one.ready() for one in started))
            agents = [cloud.run(*AGENTS, name=f"host-{one}", data=f"host-{one}") for one in range(hosts)]
            await asyncio.gather(*(one.ready() for one in agents))
            cloud.token = await cloud.login()
            yield cloud
        finally:
            cloud.stop()

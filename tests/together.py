# SPDX-License-Identifier: Apache-2.0
"""A cloud whose roles are apart, for the suite that otherwise runs on whole ones: CUMULET_TEST_SPREAD=1.

Each part is built as `cumulet run` builds a process: its own database connections, its own connection to RabbitMQ, a
listener of its own; whatever two parts say to each other crosses a socket. Of a service that runs without others there
are two processes, which take turns: what one learns, the other must know. They share this process, so that tests can
look into them and every answer is compared with its declared shape; real processes are in tests/spread.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cumulet.assembly.build import Cloud, Front, build
from cumulet.assembly.config import METADATA, for_roles
from cumulet.assembly.firststart import start_services
from cumulet.assembly.gate import Gate
from cumulet.assembly.health import READY
from cumulet.assembly.serve import Wish, listen, make_server
from cumulet.assembly.table import FRONT, entry_of
from cumulet.kernel import trace
from cumulet.kernel.registry import Parts, Service
from cumulet.kernel.secrets import SecretFile
from cumulet.kernel.settings import Settings
from tests.rabbit import Node, Rabbit

GROUPS = (
    ("identity-api", "image-api", "network-api", "volume-api", "conductor"),
    ("placement-api", "compute-api", "scheduler", "volume-scheduler", "insight"),
    ("compute-agent", "network-agent", "volume-agent"),
)
"""Whatever two roles of a service say to each other crosses a border, but for compute's API and scheduler."""

_ADDRESS = "asks a service as a client without a front door does"
_REFRESH = "drives the loop by hand in which one process asks the directory anew"
_TWICE = "runs other tests once more, on PostgreSQL, where spread they are anyway"
ALONE = {
    "compute/test_inventory.py": "drives an agent's loop and its clock by hand",
    "compute/test_versions.py::test_a_version_shows_itself_by_the_address_of_the_client": _ADDRESS,
    "identity/test_conversations.py::test_postgresql_answers_the_same": _TWICE,
    "identity/test_conversations.py::test_what_was_published_is_answered[catalogue: the catalogue is made": _ADDRESS,
    "identity/test_conversations.py::test_what_was_published_is_answered[discovery: versions need no token": _ADDRESS,
    "identity/test_directories.py": _REFRESH,
    "identity/test_directory_guesses.py": "each process counts wrong passwords",
    "identity/test_directory_rows.py": _REFRESH,
    "identity/test_proofs.py::test_too_many_wrong_passwords_have_to_wait": "each process counts wrong passwords",
    "insight/test_hosts.py::test_a_cloud_of_one_process_has_no_other_hosts": "is about a cloud of one process",
    "volume/test_postgresql.py": _TWICE,
}  # fmt: skip
"""The contract tests that are not run spread (by how their names below tests/contract begin), and why."""

SILENT = frozenset({"identity", "image", "placement"})
"""Services that neither send nor take messages: what their processes know of each other is in the database."""


class Buses:
    """Where the roles of this session's clouds hear each other: in memory, or each cloud on a virtual host."""

    node: ClassVar[Node | None] = None
    """The RabbitMQ of a session that runs spread."""

    @classmethod
    @asynccontextmanager
    async def fresh(cls, packages: Iterable[str] | None = None) -> AsyncIterator[str]:
        """The URL of a new virtual host, dropped afterwards; empty when none of the services says anything on a bus."""
        assert cls.node is not None
        if packages is not None and SILENT.issuperset(packages):
            yield ""
            return
        rabbit = await Rabbit.prepared(cls.node)
        try:
            yield rabbit.url().replace("@", f":{rabbit.password}@", 1)
        finally:
            await rabbit.broker._send([("DELETE", f"/vhosts/{rabbit.vhost}", None)])


class Buffers(trace.Buffer):
    """The events that no process has sent yet."""

    def __init__(self, each: list[trace.Buffer]) -> None:
        super().__init__()
        self._each = each

    async def flush(self, send: Callable[[list[trace.Event]], Awaitable[None]], batch: int = 500) -> None:
        for one in self._each:
            await one.flush(send, batch)
        await super().flush(send, batch)


@dataclass
class Apart:
    """What tests know of a cloud, of one whose roles are apart."""

    parts: Parts
    """Of the part with compute's API, if that is among them."""
    front: Front
    data: Path
    clouds: list[Cloud]
    services: dict[str, Service] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for cloud in self.clouds:
            for name, service in cloud.services.items():
                if name in self.services:
                    self.services[name].roles = [*self.services[name].roles, *service.roles]
                else:
                    self.services[name] = service
        self.health, self.config = self.clouds[0].health, self.clouds[0].config
        self.databases = {name: one for cloud in self.clouds for name, one in cloud.databases.items()}

    @property
    def buffer(self) -> Buffers:
        return Buffers([cloud.buffer for cloud in self.clouds])


@asynccontextmanager
async def cloud_apart(
    data: Path, database: str, bus: str, *, packages: Iterable[str] | None, settings: Mapping[str, Any],
    options: Mapping[str, Any], password: str,
) -> AsyncIterator[Apart]:  # fmt: skip
    """A started and bootstrapped cloud; its data directory is shared by all parts."""
    chosen = None if packages is None else set(packages)
    groups = [[role for role in group if chosen is None or entry_of(role).package in chosen] for group in GROUPS]
    groups = [group for group in groups if group]
    if len(groups) == 1:  # a service alone: two processes of it, which take turns
        groups *= 2
    listeners = [None if group[0].endswith("-agent") else listen("127.0.0.1", 0) for group in groups]
    endpoints: dict[str, Any] = {}
    for group, listener in zip(groups, listeners, strict=True):
        base = f"http://127.0.0.1:{listener.getsockname()[1]}" if listener is not None else ""
        for role in group if base else ():
            entry = entry_of(role)
            if role == entry.roles[0]:
                endpoints.setdefault(entry.type, []).append(base + entry.mount)
            if role == "compute-api":
                endpoints[METADATA] = f"{base}/{METADATA}"
    secrets = data / "secrets.json"
    SecretFile(secrets).put("admin_password", password)
    shared = {"database": database, "bus": bus, "secrets": str(secrets), "database_connections": 4,
              "endpoints": endpoints}  # fmt: skip
    values = {**settings, "cloud": {**settings.get("cloud", {}), **shared}}

    async def start(group: list[str], listener: socket.socket | None, stack: AsyncExitStack) -> Cloud:
        cloud = await build(
            for_roles(Settings(values, environ={}), group), data, host="node-1", roles=group, packages=chosen,
            options={"sole": False, **options},
        )  # fmt: skip
        stack.push_async_callback(cloud.stop)
        if listener is not None:
            stack.callback(listener.close)
            if (metadata := cloud.parts.options.get("metadata_app")) is not None:
                cloud.front.mount(METADATA, metadata)
            server = make_server(Gate(cloud.front, cloud.health, "", ["127.0.0.1"]), Wish(data), tls=False, patience=1)
            serving = asyncio.create_task(server.serve(sockets=[listener]))

            async def end() -> None:
                server.should_exit = True
                await serving

            stack.push_async_callback(end)
        await start_services(cloud)
        await cloud.start()
        cloud.health.state = READY
        return cloud

    async with AsyncExitStack() as stack:
        # each in a task, so in a context, of its own: as in a process of its own
        controls = [
            asyncio.create_task(start(group, listener, stack))
            for group, listener in zip(groups, listeners, strict=True)
            if listener is not None
        ]
        clouds = list(await asyncio.gather(*controls))
        clouds += [await asyncio.create_task(start(group, None, stack)) for group in groups[len(clouds) :]]
        front = await asyncio.create_task(start([FRONT], None, stack))
        main = next((one for one in clouds if "compute-api" in one.roles), clouds[0])
        for service in (service for one in clouds for service in one.services.values()):
            stack.callback(service.drain)
        yield Apart(main.parts, front.front, data, clouds)

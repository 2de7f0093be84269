# SPDX-License-Identifier: Apache-2.0
"""What a service is to the assembly: its parts, the roles it can play, and what each role runs.

Only the assembly knows all services; a service sees its `Parts` and nothing of
who else is in the process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import MetaData

from cumulet.kernel.bus import Bus
from cumulet.kernel.db import Database
from cumulet.kernel.hostnames import user_of_host
from cumulet.kernel.http.api import Authenticator
from cumulet.kernel.secrets import Seal, SecretFile
from cumulet.kernel.settings import Settings

T = TypeVar("T")


class Transport(Protocol):
    """How one service's REST API is reached: in process or by a socket, the same bytes."""

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, timeout: float = 60.0
    ) -> Reply:
        """One request below the service's mount. Raises Unavailable when nobody answers."""


class Reply(Protocol):
    """An answer whose body may be read at once or in pieces."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes: ...

    def pieces(self) -> Any: ...


class Runnable(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


HOST_SECRET = "host"  # noqa: S105 - its name
"""The secret that a joined host has instead of the services' own: the password of its own user."""
METADATA_KEY = "metadata:host"
"""The secret with which a joined host signs for the guests on it; others derive theirs from the secret `metadata`."""


def login_of(secrets: SecretFile, host: str, package: str) -> tuple[str, str]:
    """User and password of ``package`` in a process on ``host`` that has these secrets."""
    if secrets.known(HOST_SECRET):
        return user_of_host(host), secrets.get(HOST_SECRET)
    return package, secrets.get(f"service:{package}")


@dataclass
class Parts:
    """What the assembly hands to a service when it builds it."""

    settings: Settings
    data: Path
    """The data directory; a service keeps to ``data / <its name>``."""
    host: str
    """The name of this host, as it appears in os-services and bindings."""
    bus: Bus
    open_database: Callable[[str, MetaData, Path | None], Awaitable[Database]]
    """(service name, tables, migrations folder) → its database, its schema current."""
    transport: Callable[[str], Transport]
    """catalogue type of a service → how to reach it."""
    authenticator: Authenticator
    secrets: SecretFile
    seal: Seal
    privileged: Any
    """The privileged host operations (`kernel.host.Host`)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Facts of this start that are no settings: chosen hypervisor, uid and gid of the guest user …"""
    shared: dict[str, Any] = field(default_factory=dict)
    """What the hosts of one process have together; see `once`."""

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` makes, once for all hosts of this process: service tokens, pools of threads."""
        if name not in self.shared:
            self.shared[name] = make()
        found: T = self.shared[name]
        return found

    def login(self, package: str) -> tuple[str, str]:
        """User and password with which the service ``package`` asks others here: on a joined host the host's own."""
        return login_of(self.secrets, self.host, package)


@dataclass
class Role:
    """Something that can run on its own: an API, a conductor, an agent."""

    name: str
    app: Any = None
    """Its ASGI application, when it serves HTTP."""
    tasks: list[Runnable] = field(default_factory=list)
    """What it runs besides; started in order, stopped in reverse."""


@dataclass
class Service:
    """A built service."""

    name: str
    type: str
    """Its type in the catalogue, e.g. ``compute``."""
    mount: str
    """Its first path segment, e.g. ``/compute``."""
    endpoint: str
    """The catalogue URL below the mount, e.g. ``/v2.1``."""
    port: int
    """Its traditional port."""
    roles: list[Role]
    close: Callable[[], Awaitable[None]]
    bootstrap: Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]] | None = None
    """Ensures what a new cloud holds of this service; gets the facts that earlier services returned
    (``password``, ``service_passwords``, identity's ``projects`` by name …) and may add its own."""
    drain: Callable[[], None] = lambda: None
    """Lets answers that go on for as long as somebody listens come to their end, since the process ends."""
    aliases: tuple[str, ...] = ()
    """Further catalogue types of the same endpoint (volumev3)."""

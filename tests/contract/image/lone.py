# SPDX-License-Identifier: Apache-2.0
"""One service alone, spoken to over ASGI: real database, bus and files; only identity is played.

A token here says whom it stands for: ``user@project:role,role``. The whole
path with a real identity service is tested with a whole cloud.

In a session that runs spread (see `tests.together`) it is two API processes that take turns and one for each agent:
what each learns, the others know from PostgreSQL, RabbitMQ and the data directory alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson
from sqlalchemy import MetaData

from cumulet.client.transport import AbsentTransport, Body, LocalReply, LocalTransport
from cumulet.kernel import clock
from cumulet.kernel.bus import Bus, MemoryBus
from cumulet.kernel.bus.rabbit import RabbitBus
from cumulet.kernel.context import Context
from cumulet.kernel.db import Database
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.errors import Unauthorized
from cumulet.kernel.http.api import Verified
from cumulet.kernel.registry import Parts, Service
from cumulet.kernel.secrets import Seal, SecretFile
from cumulet.kernel.settings import Settings
from tests.cloud import Databases
from tests.together import Buses

IMPLIED = {"admin": ("manager", "member", "reader"), "manager": ("member", "reader"), "member": ("reader",)}
ADMIN = "admin@admin:admin"
DEMO = "demo@demo:member"
READER = "eve@demo:reader"
ALT = "alt@alt:member"
SERVICE = "compute@service:admin,service"


def project(name: str) -> str:
    """The id of a project of the played identity service: 32 hex digits."""
    return name.encode().hex().ljust(32, "0")[:32]


class Played:
    """The played identity service."""

    async def verify(self, token: str, *, allow_expired: bool = False) -> Verified:
        who, colon, roles = token.partition(":")
        user, _, where = who.partition("@")
        if not colon:
            raise Unauthorized
        held = dict.fromkeys(roles.split(","))
        for role in list(held):
            held |= dict.fromkeys(IMPLIED.get(role, ()))
        caller = Context(
            request_id="",
            user_id=project(user),
            user_name=user,
            project_id=None if where == "system" else project(where),
            system=where == "system",
            roles=list(held),
            audit_id=token[:22],
        )
        return Verified(caller, clock.now() + 3600)


class PlayedIdentity:
    """What a service asks of identity: a token of its own user, and lists of what the test put there."""

    def __init__(self) -> None:
        self.lists: dict[str, list[dict[str, Any]]] = {
            "services": [{"id": "played-image", "type": "image"}],
            "registered_limits": [],
            "limits": [],
            "endpoints": [],
        }

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, timeout: float = 60.0
    ) -> LocalReply:
        target, _, query = path.partition("?")
        status, more = 200, {}
        if method == "POST" and target == "/v3/auth/tokens":
            user = orjson.loads(body)["auth"]["identity"]["password"]["user"]["name"]
            status, more = 201, {"x-subject-token": f"{user}@service:admin,service"}
            answer: Any = {"token": {"expires_at": clock.iso_micro_z(clock.now() + 3600)}}
        else:
            assert method == "GET", path
            name = target.removeprefix("/v3/")
            asked = dict(parse_qsl(query))
            answer = {name: [one for one in self.lists[name] if all(one.get(k, v) == v for k, v in asked.items())]}
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        pieces.put_nowait(orjson.dumps(answer))
        pieces.put_nowait(None)
        return LocalReply(status, more, pieces)


@dataclass
class Reply:
    """An answer, read whole."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.data)


class Turns:
    """Sends each request to the next of several processes, as a front door does."""

    def __init__(self, transports: Sequence[LocalTransport]) -> None:
        self._order = itertools.cycle(transports)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: Body = b"", *, timeout: float = 60.0
    ) -> LocalReply:
        return await next(self._order).send(method, path, headers, body, timeout=timeout)


@dataclass
class Process:
    """What one process has of the service."""

    service: Service
    parts: Parts

    @property
    def app(self) -> Any:
        """The API, if it is here."""
        return next((role.app for role in self.service.roles if role.app is not None), None)

    @property
    def tasks(self) -> list[Any]:
        return [task for role in self.service.roles for task in role.tasks]


@dataclass
class Lone:
    """The service and a client of it."""

    processes: list[Process]
    transport: Turns
    identity: PlayedIdentity

    @property
    def service(self) -> Service:
        return self.processes[0].service

    @property
    def parts(self) -> Parts:
        return self.processes[0].parts

    @property
    def options(self) -> dict[str, Any]:
        """What all processes have noted there, e.g. an agent its drivers."""
        return {name: value for one in self.processes for name, value in one.parts.options.items()}

    @property
    def inners(self) -> list[Any]:
        """The service's own object of each API process."""
        return [one.app.service for one in self.processes if one.app is not None]

    @property
    def inner(self) -> Any:
        """That of the first."""
        return self.inners[0]

    def configure(self, **values: Any) -> None:
        """Change settings of every API process, as a restart with another settings file does."""
        for one in self.inners:
            for name, value in values.items():
                setattr(one.config, name, value)

    async def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        token: str | None = DEMO,
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] | None = None,
    ) -> Reply:
        """One request below the service's mount."""
        sent = {"accept": "application/json", **(headers or {})}
        if json is not None:
            body = orjson.dumps(json)
            sent.setdefault("content-type", "application/json")
        if body is None:
            body = b""
        if token is not None:
            sent["x-auth-token"] = token
        if isinstance(body, bytes):
            sent.setdefault("content-length", str(len(body)))
        reply = await self.transport.send(method, path, sent, body)
        return Reply(reply.status, reply.headers, await reply.read())


@asynccontextmanager
async def lone_service(
    package: str,
    data: Path,
    roles: Iterable[str],
    *,
    mount: str,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    others: Mapping[str, Any] | None = None,
    postgres: str = "",
    started: bool = True,
) -> AsyncIterator[Lone]:
    """The service ``package`` with ``roles``, started unless ``started`` is False (a test that owns the time).

    ``others``: catalogue type → how it is reached; ``postgres``: a DSN, for another database than SQLite.
    """
    data.mkdir(parents=True, exist_ok=True)
    identity = PlayedIdentity()
    spread = Buses.node is not None and started
    postgres = postgres or (Databases.server or "" if spread else "")
    mark = hashlib.sha256(bytes(data)).hexdigest()[:12]  # who starts again in that directory finds what was

    def transport(type_: str) -> Any:
        known = {"identity": identity, **(others or {})}
        return known.get(type_) or AbsentTransport(type_)

    async def process(here: set[str], bus: Bus, stack: AsyncExitStack) -> Process:
        stack.push_async_callback(bus.close)

        async def open_database(name: str, metadata: MetaData, migrations: Path | None) -> Database:
            made: Database
            if postgres:
                from cumulet.kernel.db.postgres import PostgresDatabase

                made = await PostgresDatabase.connect(postgres, f"{name}_{mark}", connections=4 if spread else 8)
            else:
                made = SqliteDatabase(data / f"{name}.db")
            stack.push_async_callback(made.close)
            await ensure_schema(made, metadata, migrations)
            return made

        parts = Parts(
            settings=Settings(settings or {}, environ={}),
            data=data,
            host="node-1",
            bus=bus,
            open_database=open_database,
            transport=transport,
            authenticator=Played(),
            secrets=SecretFile(data / "secrets.json"),
            seal=Seal("test"),
            privileged=None,
            options={"sole": not spread, **(options or {})},
        )
        made = Process(await importlib.import_module(f"cumulet.{package}.service").build(parts, here), parts)
        stack.push_async_callback(made.service.close)
        return made

    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(Buses.fresh({package})) if spread else ""
        processes = []
        for here in _groups(set(roles), apart=spread):
            processes.append(await process(here, await RabbitBus.connect(url) if url else MemoryBus(), stack))
            if (bootstrap := processes[-1].service.bootstrap) is not None:
                await bootstrap({})
        for task in (task for one in processes for task in one.tasks) if started else ():
            stack.push_async_callback(task.stop)
            await task.start()
        apps = [one.app for one in processes if one.app is not None] or [None]
        yield Lone(processes, Turns([LocalTransport(app, mount, package) for app in apps]), identity)


def _groups(roles: set[str], *, apart: bool) -> list[set[str]]:
    """Which roles share a process: all of them; or apart, the agents' have their own, and there are two of the rest."""
    if not apart:
        return [roles]
    agents = {role for role in roles if role.endswith("-agent")}
    return [roles - agents] * (2 if roles - agents else 0) + [{one} for one in sorted(agents)]

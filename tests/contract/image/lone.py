# SPDX-License-Identifier: Apache-2.0
"""One service alone, spoken to over ASGI: real database, bus and files; only identity is played.

A token here says whom it stands for: ``user@project:role,role``. The whole
path with a real identity service is tested with a whole cloud.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson
from sqlalchemy import MetaData

from cumulet.client.transport import AbsentTransport, LocalReply, LocalTransport
from cumulet.kernel import clock, ids
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


@dataclass
class Lone:
    """The service and a client of it."""

    service: Service
    parts: Parts
    transport: LocalTransport
    identity: PlayedIdentity

    @property
    def inner(self) -> Any:
        """The service's own object."""
        return next(role.app.service for role in self.service.roles if role.app is not None)

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
    databases: list[Database] = []
    identity = PlayedIdentity()
    spread = Buses.node is not None and any(role.endswith("-agent") for role in roles) and started
    postgres = postgres or (Databases.server or "" if spread else "")

    async def open_database(name: str, metadata: MetaData, migrations: Path | None) -> Database:
        made: Database
        if postgres:
            from cumulet.kernel.db.postgres import PostgresDatabase

            made = await PostgresDatabase.connect(postgres, f"{name}_{ids.new_hex()[:12]}")
        else:
            made = SqliteDatabase(data / f"{name}.db")
        databases.append(made)
        await ensure_schema(made, metadata, migrations)
        return made

    def transport(type_: str) -> Any:
        known = {"identity": identity, **(others or {})}
        return known.get(type_) or AbsentTransport(type_)

    secrets = SecretFile(data / "secrets.json")
    stack = AsyncExitStack()
    bus: Bus = MemoryBus()
    if spread:  # whose roles speak over a bus does so by a broker
        bus = await RabbitBus.connect(await stack.enter_async_context(Buses.fresh()))
    parts = Parts(
        settings=Settings(settings or {}, environ={}),
        data=data,
        host="node-1",
        bus=bus,
        open_database=open_database,
        transport=transport,
        authenticator=Played(),
        secrets=secrets,
        seal=Seal("test"),
        privileged=None,
        options=dict(options or {}),
    )
    service: Service = await importlib.import_module(f"cumulet.{package}.service").build(parts, set(roles))
    tasks = [task for role in service.roles for task in role.tasks] if started else []
    app = next((role.app for role in service.roles if role.app is not None), None)
    try:
        if service.bootstrap is not None:
            await service.bootstrap({})
        for task in tasks:
            await task.start()
        yield Lone(service, parts, LocalTransport(app, mount, package), identity)
    finally:
        for task in reversed(tasks):
            await task.stop()
        await service.close()
        await parts.bus.close()
        for database in databases:
            await database.close()
        await stack.aclose()

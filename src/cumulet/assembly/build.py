# SPDX-License-Identifier: Apache-2.0
"""Builds the asked roles into one process: databases, bus, transports, services, and the front door.

Nothing outside the assembly knows which roles run here; a service that is in
this process is called directly, any other by its URL.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import orjson
from sqlalchemy import MetaData

from cumulet.assembly.table import ALL_ROLES, SERVICES, Entry, catalogue
from cumulet.client.identity import TokenAuthenticator
from cumulet.client.session import ServiceSession
from cumulet.client.transport import AbsentTransport, LocalTransport, RemoteTransport
from cumulet.kernel import halts, trace
from cumulet.kernel.bus import Bus, MemoryBus
from cumulet.kernel.db import Database
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.http import Api
from cumulet.kernel.http.listener import HttpConfig
from cumulet.kernel.loops import Loop
from cumulet.kernel.policyfiles import PolicyConfig, PolicyFiles
from cumulet.kernel.registry import Parts, Runnable, Service, Transport
from cumulet.kernel.secrets import Seal, SecretFile
from cumulet.kernel.settings import Settings, SettingsError

_log = logging.getLogger(__name__)


class CloudConfig(msgspec.Struct, forbid_unknown_fields=True):
    """The section ``[cloud]``: what holds for all services of this process."""

    database: str = ""
    """A PostgreSQL DSN; empty: one SQLite file per service in the data directory."""
    region: str = "RegionOne"
    endpoints: dict[str, str] = {}
    """catalogue type → URL (with its mount) of a service that runs elsewhere."""


@dataclass
class Cloud:
    """The built process: its services, its front door, and its life."""

    data: Path
    parts: Parts
    services: dict[str, Service]
    bus: Bus
    front: Front
    tasks: list[Runnable]
    databases: list[Database]
    buffer: trace.Buffer
    started: list[Runnable] = field(default_factory=list)

    async def start(self) -> None:
        """Start everything in the order it was built."""
        for task in self.tasks:
            await task.start()
            self.started.append(task)

    async def stop(self) -> None:
        """Stop everything in reverse, then close databases; guests go on running."""
        while self.started:
            task = self.started.pop()
            try:
                await task.stop()
            except Exception:
                _log.exception("%r did not stop cleanly", task)
        for service in self.services.values():
            await service.close()
        await self.bus.close()
        for database in self.databases:
            await database.close()


class Front:
    """The front door: one port, one path segment per service."""

    def __init__(self) -> None:
        self._mounts: dict[str, Any] = {}
        self.ready = False

    def mount(self, segment: str, app: Any) -> None:
        self._mounts[segment.strip("/")] = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        segment, _, _ = scope["path"].lstrip("/").partition("/")
        app = self._mounts.get(segment)
        if app is None:
            await self._own(scope, send)
            return
        mount = "/" + segment
        path = scope["path"][len(mount) :] or "/"
        raw = scope.get("raw_path", b"").partition(b"?")[0][len(mount) :] or b"/"
        await app({**scope, "path": path, "raw_path": raw, "root_path": mount}, receive, send)

    async def _own(self, scope: Any, send: Any) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        status, body = 404, b'{"error": {"code": 404, "title": "Not Found", "message": "No such service."}}'
        if scope["path"] == "/":
            status, body = 200, orjson.dumps({"services": sorted("/" + name for name in self._mounts)})
        elif scope["path"] == "/healthz":
            status, body = 200, b'{"status": "alive"}'
        elif scope["path"] == "/readyz":
            status, body = (200, b'{"status": "ready"}') if self.ready else (503, b'{"status": "starting"}')
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


class OnPort:
    """One service on a port of its own: no mount in the path."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        await self._app({**scope, "root_path": ""}, receive, send)


async def build(
    settings: Settings,
    data: Path,
    *,
    host: str,
    roles: Iterable[str] = ALL_ROLES,
    privileged: Any = None,
    options: Mapping[str, Any] | None = None,
    packages: Iterable[str] | None = None,
) -> Cloud:
    """Build a cloud process with ``roles`` on the data directory ``data``.

    ``packages`` limits the services (tests of one service). Raises
    SettingsError, SchemaTooNew or Unavailable before anything is served.
    """
    config = settings.section("cloud", CloudConfig)
    wanted = set(roles)
    bus: Bus = halts.around(MemoryBus(), "rpc", "call", "cast")
    buffer = trace.Buffer()
    trace.use_buffer(buffer)
    secrets = SecretFile(data / "secrets.json")
    databases: list[Database] = []
    locals_: dict[str, tuple[Entry, Any]] = {}
    transports: dict[str, Transport] = {}

    async def open_database(name: str, metadata: MetaData, migrations: Path | None) -> Database:
        database: Database
        if config.database:
            from cumulet.kernel.db.postgres import PostgresDatabase

            database = await PostgresDatabase.connect(config.database, name)
        else:
            from cumulet.kernel.db.sqlite import SqliteDatabase

            database = SqliteDatabase(data / f"{name}.db")
        databases.append(database)
        await ensure_schema(database, metadata, migrations)
        return database

    def transport(type_: str) -> Transport:
        """Resolved at the first use, since services are built one after another."""
        if type_ not in transports:
            if type_ in locals_:
                entry, app = locals_[type_]
                transports[type_] = LocalTransport(app, entry.mount, entry.package)
            elif type_ in config.endpoints:
                transports[type_] = RemoteTransport(config.endpoints[type_], type_)
            else:
                return AbsentTransport(type_)
        return transports[type_]

    own = ServiceSession(transport, "compute", secrets.get("service:compute"))
    authenticator = TokenAuthenticator(own)
    parts = Parts(
        settings=settings,
        data=data,
        host=host,
        bus=bus,
        open_database=open_database,
        transport=transport,
        authenticator=authenticator,
        secrets=secrets,
        seal=Seal(secrets.get("seal")),
        privileged=privileged,
        options={"catalogue": catalogue(), "region": config.region, **(options or {})},
    )
    front = Front()
    services: dict[str, Service] = {}
    tasks: list[Runnable] = [authenticator]
    for entry in SERVICES:
        here = wanted & set(entry.roles)
        if not here or (packages is not None and entry.package not in packages):
            continue
        service: Service = await importlib.import_module(f"cumulet.{entry.package}.service").build(parts, here)
        services[entry.package] = service
        for role in service.roles:
            if role.app is not None:
                front.mount(entry.mount, role.app)
                for type_ in (entry.type, *entry.aliases):
                    locals_[type_] = (entry, role.app)
            tasks += role.tasks
    if "insight" in services or not packages:
        tasks.append(_events_loop(buffer, bus))
    played = [role for service in services.values() for role in service.roles]
    policies = {role.app.name: role.app.policy for role in played if isinstance(role.app, Api)}
    policy = settings.section("policy", PolicyConfig)
    for name in set(policy.files) - {entry.package for entry in SERVICES}:
        raise SettingsError(f"[policy] files: {name}: no such service")
    files = PolicyFiles(policy, data, policies)
    files.load()
    tasks.append(files.loop)
    settings.section("http", HttpConfig)  # checked here, used by the listeners
    settings.check_all_asked()
    return Cloud(data, parts, services, bus, front, tasks, databases, buffer)


def _events_loop(buffer: trace.Buffer, bus: Bus) -> Runnable:
    """The loop that casts this process's flow events to insight."""
    from cumulet.insight.rpc import EVENTS, Events

    async def send(events: list[trace.Event]) -> None:
        await bus.cast(EVENTS, Events(events))

    async def flush() -> None:
        await buffer.flush(send)

    loop = Loop("flow events", 1.0, flush)
    buffer.wake = loop.poke
    return loop

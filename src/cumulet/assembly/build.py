# SPDX-License-Identifier: Apache-2.0
"""Builds the asked roles into one process: databases, bus, transports, services, and the front door.

Nothing outside the assembly knows which roles run here; a service that is in
this process is called directly, any other by its URL.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import MetaData

from cumulet.assembly.config import METADATA, CloudConfig, check_other_sections, cloud_config, joining, trust, urls_of
from cumulet.assembly.forward import Forward
from cumulet.assembly.health import Health
from cumulet.assembly.heartbeat import heartbeat
from cumulet.assembly.standing import said, standing, was_removed
from cumulet.assembly.table import AGENTS, ALL_ROLES, FRONT, HOST_ROLES, NEED_BUS, SERVICES, Entry, catalogue
from cumulet.client.identity import TokenAuthenticator
from cumulet.client.session import ServiceSession
from cumulet.client.transport import AbsentTransport, LocalTransport, RemoteTransport
from cumulet.kernel import halts, ids, trace
from cumulet.kernel.bus import Bus, MemoryBus
from cumulet.kernel.db import Database
from cumulet.kernel.db.schema import SchemaTooNew, ensure_schema
from cumulet.kernel.errors import Fault, Unavailable
from cumulet.kernel.http import Api
from cumulet.kernel.http.listener import HttpConfig
from cumulet.kernel.loops import Loop
from cumulet.kernel.policyfiles import PolicyConfig, PolicyFiles
from cumulet.kernel.registry import HOST_SECRET, Parts, Runnable, Service, Transport, login_of
from cumulet.kernel.secrets import Seal, SecretFile
from cumulet.kernel.settings import Settings, SettingsError

_log = logging.getLogger(__name__)
BUS_WITHIN = 15.0
"""Seconds that a start waits for the message broker."""


@dataclass
class Cloud:
    """The built process: its services, its front door, and its life."""

    data: Path
    config: CloudConfig
    roles: frozenset[str]
    parts: Parts
    services: dict[str, Service]
    bus: Bus
    front: Front
    tasks: list[Runnable]
    databases: dict[str, Database]
    buffer: trace.Buffer
    transports: dict[str, Transport]
    started: list[Runnable] = field(default_factory=list)
    address: str = ""
    """Where this process listens, if it does."""
    dismissed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once this host was removed from the cloud."""

    def __post_init__(self) -> None:
        self.health = self.front.health = Health(self)
        self.heartbeat = heartbeat(self)

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
        for transport in self.transports.values():
            if isinstance(transport, RemoteTransport):
                await transport.close()
        for database in self.databases.values():
            await database.close()


class Front:
    """The front door: one port, one path segment per service."""

    def __init__(self) -> None:
        self._mounts: dict[str, Any] = {}
        self.health: Health | None = None

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
        elif scope["path"] in ("/healthz", "/readyz") and self.health is not None:
            status, told = await self.health.answer(scope["path"])
            body = orjson.dumps(told)
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
    hosts: Sequence[str] = (),
    roles: Iterable[str] = ALL_ROLES,
    privileged: Any = None,
    options: Mapping[str, Any] | None = None,
    packages: Iterable[str] | None = None,
) -> Cloud:
    """Build a cloud process with ``roles`` on the data directory ``data``.

    ``hosts``: the hosts that the agents here stand for, if it is not ``host`` alone.
    ``packages`` limits the services (tests of one service). Raises
    SettingsError or SchemaTooNew before anything is served.
    """
    config = cloud_config(settings)
    wanted = frozenset(roles)
    chosen = [
        (entry, wanted & set(entry.roles))
        for entry in SERVICES
        if wanted & set(entry.roles) and (packages is None or entry.package in packages)
    ]
    check_other_sections(settings, [entry.package for entry, _ in chosen])
    if not config.bus and packages is None:
        _check_complete(chosen)
    secrets = SecretFile(Path(config.secrets) if config.secrets else data / "secrets.json")
    databases: dict[str, Database] = {}
    locals_: dict[str, tuple[Entry, Any]] = {}
    transports: dict[str, Transport] = {}
    home = contextvars.copy_context()  # whose work a call is, its headers say
    trusted = trust(config)

    async def open_database(name: str, metadata: MetaData, migrations: Path | None) -> Database:
        databases[name] = await _open_database(config, data, name)
        try:
            await ensure_schema(databases[name], metadata, migrations)
        except SchemaTooNew as error:
            raise SchemaTooNew(f"{name}: {error}") from None
        return databases[name]

    def transport(type_: str) -> Transport:
        """Resolved at the first use, since services are built one after another."""
        if type_ not in transports:
            if type_ in locals_:
                entry, app = locals_[type_]
                transports[type_] = LocalTransport(app, entry.mount, entry.package, home)
            elif type_ in config.endpoints:
                transports[type_] = RemoteTransport(urls_of(config.endpoints[type_]), type_, trusted)
            else:
                return AbsentTransport(type_)
        return transports[type_]

    for entry, here in chosen:
        _load(entry, here)
    try:
        bus = halts.around(await _open_bus(config, secrets, host), "rpc", "call", "cast")
    except SettingsError:
        await _check_standing(host, secrets, transport, transports)
        raise
    buffer = trace.Buffer()
    trace.use_buffer(buffer)
    user = chosen[0][0].package if chosen else "compute"
    login = login_of(secrets, host, user) if chosen else (user, "")  # the front door vouches for nobody
    authenticator = TokenAuthenticator(ServiceSession(transport, *login))
    parts = Parts(
        settings=settings,
        data=data,
        host=host,
        bus=bus,
        open_database=open_database,
        transport=transport,
        authenticator=authenticator,
        secrets=secrets,
        # a host keeps no journal, and never learns the key of those who do
        seal=Seal(secrets.get("seal") if wanted - AGENTS else ids.new_secret()),
        privileged=privileged,
        options={
            "catalogue": catalogue(),
            "region": config.region,
            "ca": config.ca,
            "joining": joining(settings),
            **(options or {}),
        },
    )
    cloud = Cloud(data, config, wanted, parts, {}, bus, Front(), [], databases, buffer, transports)
    if wanted - AGENTS:
        cloud.tasks.append(authenticator)
    try:
        for entry, here in chosen:
            await _add(cloud, entry, here, locals_, list(hosts) or [host])
        if FRONT in wanted:
            _add_front(cloud)
        _lay_policy(cloud)
        settings.section("http", HttpConfig)  # checked here, used by the listeners
        settings.check_all_asked()
    except BaseException:
        await cloud.stop()
        raise
    if packages is None or "insight" in packages:
        cloud.tasks += [_events_loop(buffer, bus), cloud.heartbeat]
    if secrets.known(HOST_SECRET):
        cloud.tasks.append(standing(cloud))
    return cloud


async def _check_standing(
    host: str, secrets: SecretFile, transport: Callable[[str], Transport], opened: Mapping[str, Transport]
) -> None:
    """Raise SettingsError saying that this host was removed, when that is why the bus refuses it."""
    try:
        if secrets.known(HOST_SECRET) and await was_removed(host, secrets, transport):
            raise SettingsError(said(host))
    except Fault:
        return
    finally:
        for one in opened.values():
            if isinstance(one, RemoteTransport):
                await one.close()


def _lay_policy(cloud: Cloud) -> None:
    """Lay the operators' policy files over the defaults of every service here; raises SettingsError."""
    roles = [role for service in cloud.services.values() for role in service.roles]
    policies = {role.app.name: role.app.policy for role in roles if isinstance(role.app, Api)}
    config = cloud.parts.settings.section("policy", PolicyConfig)
    for name in set(config.files) - {entry.package for entry in SERVICES}:
        raise SettingsError(f"[policy] files: {name}: no such service")
    files = PolicyFiles(config, cloud.data, policies)
    files.load()
    cloud.tasks.append(files.loop)


async def _add(
    cloud: Cloud, entry: Entry, roles: frozenset[str], locals_: dict[str, tuple[Entry, Any]], hosts: list[str]
) -> None:
    """Build one service's roles into the process: its control roles once, its agents once for each host."""
    module = importlib.import_module(f"cumulet.{entry.package}.service")
    service: Service = await module.build(cloud.parts, set(roles - HOST_ROLES))
    agents = roles & HOST_ROLES
    for name in hosts if agents else ():
        on_host: Service = await module.build(replace(cloud.parts, host=name), set(agents))
        service.roles += on_host.roles
        service.close = _both(service.close, on_host.close)
    cloud.services[entry.package] = service
    for role in service.roles:
        if role.app is not None:
            cloud.front.mount(entry.mount, role.app)
            for type_ in (entry.type, *entry.aliases):
                locals_[type_] = (entry, role.app)
        cloud.tasks += role.tasks


def _both(first: Callable[[], Awaitable[None]], second: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        await second()
        await first()

    return close


def _load(entry: Entry, roles: frozenset[str]) -> None:
    """Import what these roles are made of before the bus is opened: a broker drops a peer that is silent for long."""
    importlib.import_module(f"cumulet.{entry.package}.service")
    for role, module in (("api", "api"), ("agent", "agent")):
        if any(one.endswith(f"-{role}") for one in roles):
            importlib.import_module(f"cumulet.{entry.package}.{module}")


def _add_front(cloud: Cloud) -> None:
    """Forward the paths of the services that run elsewhere."""
    elsewhere = [(entry.type, entry.mount) for entry in SERVICES] + [(METADATA, f"/{METADATA}")]
    for type_, mount in elsewhere:
        transport = cloud.parts.transport(type_)
        if isinstance(transport, RemoteTransport):
            cloud.front.mount(mount, Forward(transport, type_))


def _check_complete(chosen: list[tuple[Entry, frozenset[str]]]) -> None:
    """Without a broker all roles of a service must be in this process; raises SettingsError."""
    for entry, here in chosen:
        missing = sorted(set(entry.roles) - here)
        if entry.package in NEED_BUS and missing:
            raise SettingsError(
                f"[cloud] bus: must be set (amqp://…), since {', '.join(sorted(here))} has to reach "
                f"{', '.join(missing)} in other processes"
            )


async def _open_database(config: CloudConfig, data: Path, name: str) -> Database:
    if not config.database:
        import sqlite3

        from cumulet.kernel.db.sqlite import SqliteDatabase

        try:
            return SqliteDatabase(data / f"{name}.db")
        except sqlite3.Error as error:  # no database at all, or no room beside it
            raise SettingsError(f"[cloud] database: {data / name}.db can't be opened: {error}") from None
    from cumulet.kernel.db.postgres import PostgresDatabase

    try:
        return await PostgresDatabase.connect(config.database, name, connections=config.database_connections)
    except Unavailable as error:
        raise SettingsError(f"[cloud] database: {error.message}") from None


async def _open_bus(config: CloudConfig, secrets: SecretFile, host: str) -> Bus:
    if not config.bus:
        return MemoryBus()
    from cumulet.kernel.bus.names import has_password
    from cumulet.kernel.bus.rabbit import RabbitBus

    password = secrets.get("bus") if secrets.known("bus") else ""
    if not password and not has_password(config.bus):
        raise SettingsError(
            f"[cloud] bus: names no password (amqp://USER:PASSWORD@HOST/VHOST), and {secrets.path} has no secret `bus`"
        )
    try:
        return await RabbitBus.connect(config.bus, password=password, name=f"cumulet on {host}", timeout=BUS_WITHIN)
    except Fault as error:
        raise SettingsError(f"[cloud] bus: {error.message}") from None


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

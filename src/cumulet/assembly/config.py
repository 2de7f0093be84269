# SPDX-License-Identifier: Apache-2.0
"""The section ``[cloud]``, and what of a settings file concerns a process that runs only some roles.

Invariant: every section of the file is checked in every process, whoever runs
there: a file that one process accepts no other refuses.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import msgspec

from cumulet.assembly.table import AGENTS, HOSTS_ASK, HOSTS_SERVE, SERVICES
from cumulet.kernel.bus.names import Address
from cumulet.kernel.errors import Fault
from cumulet.kernel.settings import Settings, SettingsError

if TYPE_CHECKING:
    import ssl

METADATA = "metadata"
"""Where hosts reach the metadata API that guests ask; not in the catalogue."""


class CloudConfig(msgspec.Struct, forbid_unknown_fields=True):
    """What holds for all services of a cloud."""

    database: str = ""
    """``postgresql://user:password@host/database``; empty: one SQLite file per service in the data directory."""
    database_connections: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 8
    """Connections to the database, at most, for each service of a process."""
    bus: str = ""
    """``amqp://user:password@host/vhost``; empty: the roles of this process hear only each other."""
    bus_management: str = ""
    """``https://administrator@host:15671``: the broker's management API, for hosts that join to get users there."""
    host: str = ""
    """The name of this machine in the cloud; empty: its own."""
    ca: str = ""
    """A file (PEM) with the authorities that vouch for the certificates of ``https`` endpoints, ``amqps`` brokers and
    a ``verify-full`` database, unless a URL names its own; empty: the system's."""
    secrets: str = ""
    """The file of the cloud's generated secrets, the same on every machine; empty: in the data directory."""
    url: str = ""
    """The front door's URL as clients know it; empty: whatever address a client used."""
    proxies: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1", "::1"])
    """Addresses of front doors and load balancers, which are believed about where a client is."""
    region: str = "RegionOne"
    endpoints: dict[str, str | list[str]] = {}
    """catalogue type → URL (with its mount) of a service that runs elsewhere, or several that take turns."""
    drain_seconds: Annotated[float, msgspec.Meta(ge=0, le=600)] = 1.5
    """How long an ending process goes on taking requests, while it tells its clients to go elsewhere."""
    free_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 5.0
    """A disk with less room than that is told by `/readyz`, `cumulet roles` and `cumulet doctor`."""
    heartbeat_seconds: Annotated[float, msgspec.Meta(gt=0, le=300)] = 5.0
    """How often each process says that it lives."""


def cloud_config(settings: Settings) -> CloudConfig:
    """The checked section; raises SettingsError naming the key."""
    config = settings.section("cloud", CloudConfig)
    known = {type_ for entry in SERVICES for type_ in (entry.type, *entry.aliases)} | {METADATA}
    for type_, urls in config.endpoints.items():
        if type_ not in known:
            raise SettingsError(f"[cloud.endpoints] {type_}: no such service; known: {', '.join(sorted(known))}")
        for url in urls_of(urls):
            _check_url(f"[cloud.endpoints] {type_}", url, ("http", "https"))
        if not urls_of(urls):
            raise SettingsError(f"[cloud.endpoints] {type_}: at least one URL is needed")
    if config.database:
        _check_url("[cloud] database", config.database, ("postgresql", "postgres"), host=False)
        _check_named("[cloud] database", config.database)
    if config.bus:
        _check_url("[cloud] bus", config.bus, ("amqp", "amqps"))
    if config.bus_management:
        _check_url("[cloud] bus_management", config.bus_management, ("http", "https"))
    if config.url:
        _check_url("[cloud] url", config.url, ("http", "https"))
    if config.ca:
        trust(config)  # whether it can be read
        if _verifies(config.database):
            config.database = with_parameter(config.database, "sslrootcert", config.ca)
        if config.bus.startswith("amqps://"):
            config.bus = with_parameter(config.bus, "cafile", config.ca)
    return config


OF_HOSTS = ("compute", "network", "volume")
"""Sections of which a host that joins gets the controllers' values."""


def joining(settings: Settings) -> dict[str, Any]:
    """What a host that joins is told, and what it takes to make it a user of the broker; see `insight`."""
    config = cloud_config(settings)
    front = config.url.rstrip("/")
    endpoints = {type_: urls_of(urls) for type_, urls in config.endpoints.items()}
    mounts = {entry.type: entry.mount for entry in SERVICES} | {METADATA: f"/{METADATA}"}
    for type_, mount in mounts.items() if front else ():
        endpoints.setdefault(type_, [front + mount])
    sections = {name: values for name in OF_HOSTS if (values := settings.given(name))}
    sections.get("network", {}).pop("underlay_address", None)
    return {
        "bus": config.bus, "management": config.bus_management, "endpoints": endpoints, "url": front,
        "region": config.region, "heartbeat_seconds": config.heartbeat_seconds, "sections": sections,
        "calls": list(HOSTS_ASK), "serves": list(HOSTS_SERVE), "bus_ca": _bus_ca(config.bus),
        "ca": Path(config.ca).read_text() if config.ca else None,
    }  # fmt: skip


def _bus_ca(bus: str) -> str | None:
    """The certificate by which the broker is trusted, if it is not one of the system's."""
    try:
        file = Address.parse(bus).ca_file if bus else None
        return Path(file).read_text() if file else None
    except (Fault, OSError):
        return None  # the bus itself says so when it is opened


def trust(config: CloudConfig) -> ssl.SSLContext | None:
    """What vouches for other processes' certificates (None: the system's authorities); raises SettingsError."""
    if not config.ca:
        return None
    import ssl

    try:
        return ssl.create_default_context(cafile=config.ca)
    except (OSError, ValueError) as error:
        raise SettingsError(f"[cloud] ca: {config.ca} can't be read as certificates: {error}") from None


def _verifies(database: str) -> bool:
    return parse_qs(urlsplit(database).query).get("sslmode", [""])[0] in ("verify-ca", "verify-full")


def with_parameter(url: str, key: str, value: str) -> str:
    """The URL with one more parameter, unless it names its own."""
    query = url.partition("?")[2]
    if key in parse_qs(query):
        return url
    return f"{url}{'&' if query else '?'}{key}={quote(value, safe='')}"


def _check_named(key: str, url: str) -> None:
    """Refuse (SettingsError) a database over the network that anybody may use: no password, no certificate."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    hosts = [unquote(one) for one in (query.get("host") or [parts.netloc.rpartition("@")[2]])[0].split(",")]
    local = all(not one or one.startswith("/") for one in hosts)
    proofs = ("password", "passfile", "sslcert")
    if not (local or parts.password or any(one in query for one in proofs) or os.environ.get("PGPASSFILE")):
        raise SettingsError(
            f"{key}: names no password (postgresql://USER:PASSWORD@HOST/NAME, ?passfile=PATH, "
            "?sslcert=PATH&sslkey=PATH); without one only a local socket is taken "
            "(postgresql:///NAME?host=/run/postgresql)"
        )


def urls_of(urls: str | list[str]) -> list[str]:
    return [urls] if isinstance(urls, str) else urls


def _check_url(key: str, url: str, schemes: tuple[str, ...], *, host: bool = True) -> None:
    """Raise SettingsError for anything that can't be such a URL. The text never repeats it: it may hold a password."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and (bool(parts.hostname) or not host)
    except ValueError:
        good = False
    if not good:
        raise SettingsError(f"{key}: must be a URL that begins with {' or '.join(f'{one}://' for one in schemes)}")


def check_other_sections(settings: Settings, built: Iterable[str]) -> None:
    """Check the sections of the services that do not run here; raises SettingsError."""
    for package in {entry.package for entry in SERVICES} - set(built):
        model = _model_of(package)
        if model is not None:
            settings.section(package, model)


def _model_of(package: str) -> Any:
    """The Struct of a service's section: the one that its module ``config`` defines."""
    module = importlib.import_module(f"cumulet.{package}.config")
    names = ("Config", f"{package.title()}Config", f"{package.title()}Settings")
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)


def for_roles(settings: Settings, roles: Iterable[str]) -> Settings:
    """What a process with these roles may know: one that runs agents only has no database and never learns its DSN."""
    return settings.without("cloud", "database") if not set(roles) - AGENTS else settings

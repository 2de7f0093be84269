# SPDX-License-Identifier: Apache-2.0
"""`cumulet run ROLE…`: some roles of a cloud in this process, others in others, here or on other machines.

From SIGTERM on: the process says that it ends and goes on serving until its
clients have gone elsewhere; then it takes no more, finishes what it has in work
(answers, messages, saga steps) and gives its leases back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cumulet.assembly.build import Cloud, build
from cumulet.assembly.config import METADATA, cloud_config, for_roles, urls_of
from cumulet.assembly.firststart import start_services
from cumulet.assembly.gate import Gate
from cumulet.assembly.health import DRAINING, READY
from cumulet.assembly.place import Place, Taken
from cumulet.assembly.serve import Wish, listen, make_server, shown_host, start_libvirt
from cumulet.assembly.space import ensure_room
from cumulet.assembly.standing import said
from cumulet.assembly.start import as_root
from cumulet.assembly.table import AGENTS, ALL_ROLES, FRONT, HOST_ROLES, SERVICES, entry_of
from cumulet.kernel.files import chosen_once
from cumulet.kernel.registry import HOST_SECRET
from cumulet.kernel.secrets import SecretFile
from cumulet.kernel.settings import SettingsError
from cumulet.network.config import NetworkConfig

_log = logging.getLogger(__name__)
_PATIENCE = 30
"""Seconds that an ending process gives the answers in work."""
FRONT_PORT = 8080


def port_of(roles: Iterable[str]) -> int | None:
    """The port that these roles have by tradition; None when none of them serves HTTP."""
    wanted = set(roles)
    if FRONT in wanted:
        return FRONT_PORT
    return next(
        (entry.port for entry in SERVICES if wanted & set(entry.roles) - AGENTS and entry.roles[0] in wanted), None
    )


def run_roles(wish: Wish, roles: Iterable[str], *, port: int | None, log: Callable[[], Any]) -> int:
    """Prepare the data directory and run ``roles`` until told to stop; without ``port`` nothing listens.

    Raises Taken, OSError, SettingsError or SchemaTooNew before anything is served.
    """
    wanted = frozenset(roles)
    wish.settings = for_roles(wish.settings, wanted)
    config = cloud_config(wish.settings)
    ensure_room(wish.data)
    place = Place(wish.data)
    place.lock(shared=True)
    for role in sorted(wanted & HOST_ROLES):
        for name in hosts_of(wish):
            place.lock_name(f"{name}.{role}")
    if not config.database:
        for package in sorted({entry_of(role).package for role in wanted - AGENTS}):
            place.lock_name(f"{package}.db")  # an SQLite file belongs to one process
    secrets = SecretFile(Path(config.secrets) if config.secrets else wish.data / "secrets.json")
    _check_secrets(secrets, wanted)
    if secrets.known(HOST_SECRET) and (wish.name, wish.hosts) != (config.host, 1):
        raise SettingsError(f"[cloud] host: this machine joined the cloud as {config.host}, and is no other host")
    if wish.hosts > 1 and secrets.known(HOST_SECRET):
        raise SettingsError(f"{wish.data} joined the cloud as one host; --hosts needs the secrets of a controller")
    real = wish.hypervisor == "libvirt" and bool(wanted & HOST_ROLES)
    wish.options.update(
        sole=False,
        hypervisor=wish.hypervisor,
        network_driver="bridge" if real else "simulated",
        volume_driver="file" if real else "simulated",
        cloud_id=_cloud_id(wish.data, secrets) if wanted - {FRONT} else "",
    )
    if underlay := wish.settings.section("network", NetworkConfig).underlay_address:
        wish.options["host_ip"] = underlay

    def serve(wish: Wish) -> int:
        import uvloop

        return uvloop.run(_serve(wish, wanted, port))

    def told(wish: Wish) -> int:
        try:
            return serve(wish)
        except SettingsError as error:  # to the parent an exception is a crash, after which it starts us again
            _log.error("%s", error)
            return 1

    if real:
        if os.geteuid() != 0:
            raise PermissionError("real guests need root: run it with sudo, or with --hypervisor simulated")
        return as_root(wish, place, log, told)
    log()
    return serve(wish)


def hosts_of(wish: Wish) -> list[str]:
    """The hosts that this process is; raises SettingsError for several with real guests."""
    if wish.hosts == 1:
        return [wish.name]
    if wish.hypervisor != "simulated":
        raise SettingsError("a process is several hosts only with --hypervisor simulated")
    return [f"{wish.name}-{number}" for number in range(1, wish.hosts + 1)]


def _check_secrets(secrets: SecretFile, roles: frozenset[str]) -> None:
    """A process without a database makes no secrets: what it needs was made by those that have one."""
    if roles - AGENTS:
        return
    wanted = ["cloud_id"] if roles & HOST_ROLES else []
    if not secrets.known(HOST_SECRET):
        wanted += [f"service:{entry_of(role).package}" for role in sorted(roles & HOST_ROLES)]
        wanted += [METADATA] if "network-agent" in roles else []
    missing = [name for name in wanted if not secrets.known(name)]
    if missing:
        raise SettingsError(
            f"[cloud] secrets: {secrets.path} lacks {', '.join(missing)}; join the cloud (cumulet join URL TOKEN), or "
            f"copy the file from a controller"
        )


def _cloud_id(data: Path, secrets: SecretFile) -> str:
    """The cloud's id, which all its processes share and its data directories bear; raises Taken for another cloud's."""
    marker = data / "cloud-id"
    if not secrets.known("cloud_id") and marker.exists():
        secrets.put("cloud_id", marker.read_text().strip())
    cloud_id = secrets.get("cloud_id", 12)
    kept = chosen_once(marker, lambda: cloud_id)
    if kept != cloud_id:
        raise Taken(f"{data} belongs to another cloud ({kept})")
    return cloud_id


async def _serve(wish: Wish, roles: frozenset[str], port: int | None) -> int:
    listener = listen(wish.host, port) if port is not None else None
    try:
        return await _serve_on(listener, wish, roles)
    finally:
        if listener is not None:
            listener.close()


async def _serve_on(listener: socket.socket | None, wish: Wish, roles: frozenset[str]) -> int:
    stop = asyncio.Event()
    for told in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(told, stop.set)
    options = dict(wish.options)
    endpoints = cloud_config(wish.settings).endpoints
    if METADATA in endpoints:
        options["metadata_url"] = urls_of(endpoints[METADATA])[0]
    if "compute-agent" in roles and wish.hypervisor == "libvirt":
        options["libvirt"] = await start_libvirt(wish, options)
    cloud = await build(
        wish.settings,
        wish.data,
        host=wish.name,
        hosts=hosts_of(wish),
        roles=roles,
        privileged=wish.privileged,
        options=options,
    )
    if (metadata := cloud.parts.options.get("metadata_app")) is not None:
        cloud.front.mount(METADATA, metadata)
    if listener is not None:
        scheme = "https" if wish.certificate else "http"
        cloud.address = f"{scheme}://{shown_host(wish.host)}:{listener.getsockname()[1]}"
    entrance = Gate(cloud.front, cloud.health, cloud.config.url, cloud.config.proxies)
    server = make_server(entrance, wish, patience=_PATIENCE)
    serving = asyncio.create_task(server.serve(sockets=[listener])) if listener is not None else None
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(_start(wish, cloud))
    dismissed = asyncio.create_task(cloud.dismissed.wait())
    try:
        await asyncio.wait({starting, stopping, dismissed}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _log.info("ready: %s", ", ".join(sorted(roles)))
            await asyncio.wait({stopping, dismissed}, return_when=asyncio.FIRST_COMPLETED)
        _log.info("ending")
    finally:
        starting.cancel()
        dismissed.cancel()
        await asyncio.gather(starting, dismissed, return_exceptions=True)
        await _end(cloud, server, serving)
    if cloud.dismissed.is_set():
        _log.error("%s", said(wish.name))
        return 1
    return 0


async def _start(wish: Wish, cloud: Cloud) -> None:
    await start_services(cloud)
    await cloud.start()
    cloud.health.state = READY
    if cloud.config.url and "identity-api" in cloud.roles:
        from cumulet.cli.clouds import write_clouds

        ca = Path(cloud.config.ca) if cloud.config.ca else None
        url, password = f"{cloud.config.url.rstrip('/')}/identity", cloud.parts.secrets.get("admin_password")
        write_clouds(wish.data, url, password, cacert=ca)
    wish.on_ready({"roles": sorted(cloud.roles), "address": cloud.address, "pid": os.getpid(), "host": wish.name})


async def _end(cloud: Cloud, server: Any, serving: asyncio.Task[Any] | None) -> None:
    """Send clients elsewhere, finish what is in work, give back what is held."""
    ready = cloud.health.state == READY
    cloud.health.state = DRAINING
    cloud.heartbeat.poke()
    if serving is not None:
        if ready:
            await asyncio.sleep(cloud.config.drain_seconds)
        for service in cloud.services.values():
            service.drain()
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
    await cloud.stop()
    _log.info("ended")


def check_roles(roles: Iterable[str]) -> None:
    """Raise SettingsError for a role that there is not."""
    known = ALL_ROLES | {FRONT}
    for role in roles:
        if role not in known:
            raise SettingsError(f"there is no role {role!r}; known: {', '.join(sorted(known))}")

# SPDX-License-Identifier: Apache-2.0
"""Runs a built cloud until it is told to stop: listeners, signals, what it writes about itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cumulet.assembly.place import Place, process_start
from cumulet.kernel.http.listener import HttpConfig, Listener, guarded_protocol
from cumulet.kernel.settings import Settings

_log = logging.getLogger(__name__)


@dataclass
class Wish:
    """What `cumulet up` was asked for."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 8080
    traditional: bool = False
    """Also bind the services' traditional ports."""
    hypervisor: str = "simulated"
    libvirtd: str = "auto"
    """Whose libvirtd: the machine's (system), one of this cloud's (own), or system where it runs (auto)."""
    settings: Settings = field(default_factory=Settings)
    certificate: Path | None = None
    key: Path | None = None
    name: str = ""
    """The name of this host in the cloud."""
    hosts: int = 1
    """How many simulated hosts a process is: itself, or ``name-1`` to ``name-N``."""
    options: dict[str, Any] = field(default_factory=dict)
    privileged: Any = None
    on_ready: Callable[[dict[str, Any]], None] = lambda facts: None


def run(wish: Wish) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    import uvloop

    gc.disable()  # nothing that the start makes is garbage, and looking for it costs a tenth of the start
    return uvloop.run(_serve(wish))


async def _serve(wish: Wish) -> int:
    from cumulet.assembly.build import OnPort, build
    from cumulet.assembly.firststart import first_start
    from cumulet.assembly.health import DRAINING, READY
    from cumulet.assembly.table import SERVICES

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for told in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(told, stop.set)
    place = Place(wish.data)
    main = listen(wish.host, wish.port)
    metadata = listen("127.0.0.1", 0)
    options = dict(wish.options)
    options["metadata_url"] = f"http://127.0.0.1:{metadata.getsockname()[1]}"
    options["front_port"] = main.getsockname()[1]
    if wish.hypervisor == "libvirt":
        options["libvirt"] = await start_libvirt(wish, options)
    cloud = await build(wish.settings, wish.data, host=wish.name, privileged=wish.privileged, options=options)
    port = main.getsockname()[1]
    scheme = "https" if wish.certificate else "http"
    cloud.address = url = f"{scheme}://{shown_host(wish.host)}:{port}"
    password = cloud.parts.secrets.get("admin_password", 18)
    facts: dict[str, Any] = {
        "pid": os.getpid(), "started": process_start(os.getpid()), "url": url, "port": port,
        "hypervisor": wish.hypervisor, "host": wish.name, "cloud_id": options.get("cloud_id"),
        "services": [{"name": one.package, "mount": one.mount, "stands_for": one.upstream} for one in SERVICES],
    }  # fmt: skip
    servers = [make_server(cloud.front, wish), make_server(_metadata_app(cloud), wish, tls=False)]
    sockets = [main, metadata]
    if wish.traditional:
        for entry in SERVICES:
            service = cloud.services[entry.package]
            app = next(role.app for role in service.roles if role.app is not None)
            servers.append(make_server(OnPort(app), wish))
            sockets.append(listen(wish.host, entry.port))
    running = [asyncio.create_task(server.serve(sockets=[one])) for server, one in zip(servers, sockets, strict=True)]
    try:
        await first_start(cloud, password=password)
        await cloud.start()
        _write_clouds(wish, url, password)
        cloud.health.state = READY
        place.write_running(facts)
        wish.on_ready(facts)
        _log.info("the cloud is up at %s", url)
        gc.freeze()
        gc.enable()
        await stop.wait()
        _log.info("stopping")
    finally:
        cloud.health.state = DRAINING
        for service in cloud.services.values():
            service.drain()  # else answers without end are cut off, and only after seconds
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*running, return_exceptions=True)
        await cloud.stop()
    return 0


def _write_clouds(wish: Wish, url: str, password: str) -> None:
    from cumulet.cli.clouds import write_clouds

    write_clouds(wish.data, f"{url}/identity", password, cacert=_own_anchor(wish.certificate))


def _own_anchor(certificate: Path | None) -> Path | None:
    """The certificate, if clients can only trust it by being given it: it is signed by itself."""
    if certificate is None:
        return None
    from cryptography import x509

    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return certificate if found.issuer == found.subject else None


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; raises OSError with the address in its text."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(
            error.errno, f"can't listen on {host}:{port}: {error.strerror}; choose another with --port"
        ) from None
    bound.set_inheritable(True)
    return bound


def shown_host(host: str) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - what a client uses, not what we bind
    return f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown


def make_server(app: Any, wish: Wish, *, tls: bool = True, patience: int = 5) -> Any:
    """A server of ``app`` that ends when told; answers in work get ``patience`` seconds then."""
    import uvicorn

    class Server(uvicorn.Server):
        """Signals are ours: one server of several must not take them."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    secure: dict[str, Any] = (
        {"ssl_certfile": str(wish.certificate), "ssl_keyfile": str(wish.key)} if tls and wish.certificate else {}
    )
    limits = wish.settings.section("http", HttpConfig)
    config = uvicorn.Config(
        Listener(app, limits), log_config=None, access_log=False, lifespan="off", proxy_headers=False,
        server_header=False, http=guarded_protocol(limits), ws="websockets-sansio",
        timeout_graceful_shutdown=patience, **secure,
    )  # fmt: skip
    return Server(config)


def _metadata_app(cloud: Any) -> Any:
    from cumulet.assembly.build import OnPort

    return OnPort(cloud.parts.options["metadata_app"])


async def start_libvirt(wish: Wish, options: dict[str, Any]) -> dict[str, Any]:
    """The libvirtd of this host, and which accelerator its guests get."""
    from cumulet.compute.drivers.libvirtd import StartLibvirtd, start_libvirtd
    from cumulet.compute.drivers.probe import ProbeAccelerator, probe_accelerator

    uid, gid = options["guest_uid"], options["guest_gid"]
    call = wish.privileged.call
    probe = ProbeAccelerator(uid=uid, gid=gid)
    if options["libvirt_uri"] is not None:
        accelerator = await call(probe_accelerator, probe, timeout=30.0)
        return {"uri": options["libvirt_uri"], "accelerator": accelerator, "log_dir": None, "revive": None}
    wanted = StartLibvirtd(directory=options["libvirt_dir"], uid=uid, gid=gid)
    daemon, accelerator = await asyncio.gather(
        call(start_libvirtd, wanted, timeout=60.0),
        call(probe_accelerator, probe, timeout=30.0),
    )

    async def revive() -> object:
        return await call(start_libvirtd, wanted, timeout=60.0)

    return {"uri": daemon.uri, "accelerator": accelerator, "log_dir": daemon.log_dir, "revive": revive}

# SPDX-License-Identifier: Apache-2.0
"""A controller and compute hosts, each a machine of its own, with real guests: a spread cloud as an operator has it."""

from __future__ import annotations

import asyncio
import fcntl
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cumulet.assembly.machine import drop_users, ensure_users
from cumulet.assembly.table import entry_of
from tests.cloud import new_database
from tests.machine.machines import Machine, Visitor
from tests.machine.realcloud import BIN, IMAGE, run, until
from tests.rabbit import Node, Rabbit
from tests.spread.processes import AGENTS, GROUPS, write_settings

PREFIX = "cmh-"
HUB = "10.88.0.254"
FRONT, FIRST, BROKER = 8080, 8081, 5672
READY_WITHIN = 300.0


@dataclass
class Running:
    """One `cumulet run` on a machine."""

    machine: Machine
    roles: tuple[str, ...]
    log: Path
    outer: subprocess.Popen[bytes]

    def facts(self) -> dict[str, Any] | None:
        """What its serving process last said of itself."""
        told = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith('{"roles"')]
        return json.loads(told[-1]) if told else None

    def ready(self) -> None:
        def look() -> Any:
            assert self.outer.poll() is None, self.log.read_text(errors="replace")[-4000:]
            return self.facts()

        until(f"{self.roles[0]} on {self.machine.name} is ready", look, READY_WITHIN, 0.05)

    def worker(self) -> int:
        """The pid of the process that serves, as its machine counts."""
        facts = self.facts()
        assert facts is not None
        return int(facts["pid"])

    def end(self, number: signal.Signals) -> None:
        """Send a signal to the first of its processes, and wait until all have ended."""
        self.machine.run("kill", f"-{int(number)}", self._pids()[0])
        self.outer.wait(90)
        until(f"{self.roles[0]} on {self.machine.name} has ended", lambda: not self._pids(), 60, 0.05)

    def _pids(self) -> list[str]:
        """Its processes, as its machine counts: the first one first."""
        return self.machine.run("pgrep", "-f", f"cumulet.cli run {' '.join(self.roles)} ", check=False).split()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class Hosts:
    """The whole cloud, and a client of its front door."""

    folder: Path
    hub: Machine
    machines: dict[str, Machine]
    visitor: Visitor
    bus: str
    endpoints: dict[str, list[str]]
    running: dict[str, Running] = field(default_factory=dict)
    token: str = ""
    starts: int = 0

    # ---- processes

    def run(self, machine: Machine, key: str, roles: tuple[str, ...], settings: Path, *more: str) -> Running:
        """Start a process of the cloud on a machine; ``key`` names it."""
        if (before := self.running.get(key)) is not None:
            before.outer.wait(30)
        self.starts += 1
        log = self.folder / f"{self.starts}-{key}.log"
        argv = machine.inside(
            sys.executable, "-m", "cumulet.cli", "run", *roles, "--json", "--settings", settings, *more
        )  # fmt: skip
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("CUMULET_", "OS_"))}
        with log.open("wb") as out:
            outer = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environ, cwd="/")
        self.running[key] = Running(machine, roles, log, outer)
        return self.running[key]

    def start_control(self, key: str, roles: tuple[str, ...], port: int) -> Running:
        data = self.hub.folder / "data"
        return self.run(
            self.hub, key, roles, self.hub.folder / "cumulet.toml", "--data", str(data), "--name", "control",
            "--hypervisor", "simulated", "--host", HUB, "--port", str(port),
        )  # fmt: skip

    def restart_control(self, key: str) -> Running:
        """Start a process of the controller again that has ended."""
        port = FRONT if key == "front" else int(key.rpartition("-")[2])
        return self.start_control(key, self.running[key].roles, port)

    def start_host(self, name: str) -> Running:
        """The agents of a host."""
        machine = self.machines[name]
        data = machine.folder / "data"
        return self.run(
            machine, name, AGENTS, machine.folder / "cumulet.toml", "--data", str(data), "--name", name,
            "--hypervisor", "libvirt",
        )  # fmt: skip

    def prepare_host(self, name: str) -> None:
        """What an operator brings to a new host: the settings and the hosts' secrets."""
        machine = self.machines[name]
        data = machine.folder / "data"
        data.mkdir()
        write_settings(
            machine.folder / "cumulet.toml",
            {
                "cloud": {"bus": self.bus},
                "cloud.endpoints": self.endpoints,
                "network": {"underlay_address": machine.address},
            },
        )
        shutil.copyfile(self.hub.folder / "secrets.json", data / "secrets.json")

    def power_on(self, name: str) -> Running:
        """Switch a host on and start its agents, as its boot would."""
        self.machines[name].boot()
        self.machines[name].plug(self.hub)
        return self.start_host(name)

    # ---- the API

    def request(self, method: str, path: str, document: Any = None, body: bytes | None = None) -> Answer:
        """One request to the front door as the admin."""
        headers = {"x-auth-token": self.token, "openstack-api-version": "compute 2.90"}
        if document is not None:
            body = json.dumps(document).encode()
            headers["content-type"] = "application/json"
        elif body is not None:
            headers["content-type"] = "application/octet-stream"
        return self.visitor.call(_request, method, path, headers, body)

    def get(self, path: str) -> Any:
        reply = self.request("GET", path)
        assert reply.status == 200, (path, reply.status, reply.data)
        return reply.json

    def make(self, path: str, member: str, values: dict[str, Any]) -> dict[str, Any]:
        reply = self.request("POST", path, {member: values})
        assert reply.status in (200, 201, 202), (path, reply.status, reply.data)
        made: dict[str, Any] = reply.json[member]
        return made

    def settle(self, path: str, member: str, wanted: Iterable[str], within: float = 240.0) -> dict[str, Any]:
        """Read a resource until its status is one of ``wanted``."""
        shown: dict[str, Any] = {}

        def look() -> bool:
            shown.update(self.get(path)[member])
            assert shown["status"].lower() != "error", shown
            return shown["status"] in wanted

        until(f"{path} is {wanted}", look, within, 0.1)
        return shown

    def login(self) -> None:
        password = json.loads((self.hub.folder / "secrets.json").read_text())["admin_password"]
        domain = {"id": "default"}
        user = {"name": "admin", "domain": domain, "password": password}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": "admin", "domain": domain}},
        }
        reply = self.request("POST", "/identity/v3/auth/tokens", {"auth": auth})
        assert reply.status == 201, reply.data
        self.token = reply.headers["x-subject-token"]

    def openstack(self, *argv: str) -> Any:
        """What the unmodified client shows."""
        environ = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(self.hub.folder / "data" / "clouds.yaml")}
        words = self.hub.inside(BIN / "openstack", "--os-cloud", "cumulet-admin", *argv, "-f", "json")
        return json.loads(run(*words, env=environ))

    def check(self) -> list[dict[str, Any]]:
        """What the invariant checker finds wrong."""
        found: list[dict[str, Any]] = self.get("/cumulet/v1/check")["findings"]
        return found

    def said(self) -> str:
        """The last words of every process."""
        return "\n".join(
            f"---- {one.log.name}\n{one.log.read_text(errors='replace')[-3000:]}" for one in self.running.values()
        )


def _request(method: str, path: str, headers: dict[str, str], body: bytes | None) -> Answer:
    connection = http.client.HTTPConnection(HUB, FRONT, timeout=60)
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return Answer(reply.status, {key.lower(): value for key, value in reply.getheaders()}, reply.read())
    finally:
        connection.close()


# ---- bringing it up


@contextmanager
def hosts(names: Iterable[str], postgres: str, broker: Node) -> Iterator[Hosts]:
    """A cloud with one controller and these hosts; everything of it is gone afterwards."""
    assert IMAGE.exists(), f"there is no guest image at {IMAGE}: make guest-image"
    sweep()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/var/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o711)
        _hold(stack, folder)
        users = ensure_users()  # hosts that start at once would all make them
        stack.callback(drop_users, users.made)
        hub = Machine("hub", folder / "hub", HUB)
        stack.callback(hub.power_cut)
        hub.boot()
        hub.be_hub()
        visitor = Visitor(hub)
        stack.callback(visitor.close)
        machines = {}
        for number, name in enumerate(names, 1):
            machines[name] = machine = Machine(name, folder / name, f"10.88.0.{number}")
            stack.callback(machine.power_cut)
            machine.boot()
            machine.plug(hub)
        runner = stack.enter_context(asyncio.Runner())
        rabbit = runner.run(Rabbit.prepared(broker))
        _forward(stack, visitor, broker.amqp)
        database = new_database(postgres)
        dsn = runner.run(database.__aenter__())
        stack.callback(lambda: runner.run(database.__aexit__(None, None, None)))
        bus = f"amqp://{rabbit.user}:{rabbit.password}@{HUB}:{BROKER}/{rabbit.vhost}"
        cloud = Hosts(folder, hub, machines, visitor, bus, _endpoints())
        stack.callback(_stop, cloud)
        try:
            _start(cloud, dsn)
            yield cloud
        except BaseException:
            sys.stderr.write(cloud.said())
            raise


def _endpoints() -> dict[str, list[str]]:
    endpoints: dict[str, list[str]] = {}
    for port, roles in enumerate(GROUPS, FIRST):
        for entry in {entry_of(role) for role in roles if role == entry_of(role).roles[0]}:
            endpoints[entry.type] = [f"http://{HUB}:{port}{entry.mount}"]
        if "compute-api" in roles:
            endpoints["metadata"] = [f"http://{HUB}:{port}/metadata"]
            endpoints["compute"] = [f"http://{HUB}:{port}/compute"]
    return endpoints


def _start(cloud: Hosts, database: str) -> None:
    (cloud.hub.folder / "data").mkdir()
    write_settings(
        cloud.hub.folder / "cumulet.toml",
        {
            "cloud": {
                "database": database, "bus": cloud.bus, "secrets": str(cloud.hub.folder / "secrets.json"),
                "url": f"http://{HUB}:{FRONT}", "proxies": [HUB], "drain_seconds": 0.2,
            },
            "cloud.endpoints": cloud.endpoints,
            "identity": {"hash_memory_kib": 8},
        },
    )  # fmt: skip
    started = [cloud.start_control(f"control-{port}", roles, port) for port, roles in enumerate(GROUPS, FIRST)]
    started.append(cloud.start_control("front", ("front",), FRONT))
    for one in started:
        one.ready()
    for name in cloud.machines:
        cloud.prepare_host(name)
        cloud.start_host(name)
    for name in cloud.machines:
        cloud.running[name].ready()
    cloud.login()


def _stop(cloud: Hosts) -> None:
    for machine in (*cloud.machines.values(), cloud.hub):
        machine.power_cut(wait=False)
    for one in cloud.running.values():
        one.outer.kill()
        one.outer.wait(30)


def _forward(stack: ExitStack, visitor: Visitor, target: int) -> None:
    """The broker at the hub's address: it runs outside, where only the loopback reaches it."""
    listener = visitor.call(socket.create_server, (HUB, BROKER))
    stack.callback(listener.close)
    stack.callback(listener.shutdown, socket.SHUT_RDWR)  # wakes who accepts

    def carry(near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", target), 10) as far:
            ends = {near: far, far: near}
            while True:
                for source in select.select(list(ends), [], [])[0]:
                    try:
                        data = source.recv(65536)
                        ends[source].sendall(data)
                    except OSError:
                        return
                    if not data:
                        return

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=carry, args=(near,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


# ---- what killed tests left


def _hold(stack: ExitStack, folder: Path) -> None:
    """While we live nobody else sweeps our directory."""
    handle = os.open(folder / "held", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    stack.callback(os.close, handle)


def sweep() -> None:
    """Remove the directories of tests that were killed; the kernel has removed all else."""
    for left in Path("/var/tmp").glob(f"{PREFIX}*"):
        try:
            handle = os.open(left / "held", os.O_RDWR | os.O_CREAT)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        shutil.rmtree(left, ignore_errors=True)
        os.close(handle)

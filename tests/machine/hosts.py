# SPDX-License-Identifier: Apache-2.0
"""A controller and compute hosts, each a machine of its own, with real guests: a spread cloud as an operator has it."""

from __future__ import annotations

import asyncio
import fcntl
import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cumulet.assembly.machine import drop_users, ensure_users
from cumulet.assembly.table import entry_of
from cumulet.cli.chaos.rabbit import ADMIN, PASSWORD
from cumulet.kernel.secrets import SecretFile
from tests.cloud import new_database
from tests.machine.doors import door
from tests.machine.machines import Machine, Visitor
from tests.machine.realcloud import BIN, IMAGE, run, until
from tests.rabbit import Node, Rabbit
from tests.spread.processes import GROUPS, write_settings

PREFIX = "cmh-"
HUB = "10.88.0.254"
FRONT, FIRST, BROKER, MANAGEMENT = 8080, 8081, 5672, 15672
READY_WITHIN = 300.0


@dataclass
class Running:
    """One `cumulet run` or `cumulet join` on a machine."""

    machine: Machine
    words: tuple[str, ...]
    """What it was started with, first of all what tells it from the others on its machine."""
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

        until(f"{self.words[:2]} on {self.machine.name} is ready", look, READY_WITHIN, 0.05)

    def worker(self) -> int:
        """The pid of the process that serves, as its machine counts."""
        facts = self.facts()
        assert facts is not None
        return int(facts["pid"])

    def end(self, number: signal.Signals) -> None:
        """Send a signal to the first of its processes, and wait until all have ended."""
        self.machine.run("kill", f"-{int(number)}", self._pids()[0])
        self.outer.wait(90)
        until(f"{self.words[:2]} on {self.machine.name} has ended", lambda: not self._pids(), 60, 0.05)

    def _pids(self) -> list[str]:
        """Its processes, as its machine counts: the first one first."""
        return self.machine.run("pgrep", "-f", f"cumulet.cli {' '.join(self.words)} ", check=False).split()


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
    database: str
    endpoints: dict[str, list[str]]
    running: dict[str, Running] = field(default_factory=dict)
    joined: dict[str, float] = field(default_factory=dict)
    """Name of a host → seconds from `cumulet join URL TOKEN` until the cloud showed it."""
    token: str = ""
    starts: int = 0

    # ---- processes

    def run(self, machine: Machine, key: str, words: tuple[str, ...], *more: str) -> Running:
        """Start a process of the cloud on a machine; ``key`` names it."""
        if (before := self.running.get(key)) is not None:
            before.outer.wait(30)
        self.starts += 1
        log = self.folder / f"{self.starts}-{key}.log"
        argv = machine.inside(sys.executable, "-m", "cumulet.cli", *words, "--json", *more)
        with log.open("wb") as out:
            outer = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_environ(), cwd="/")
        self.running[key] = Running(machine, words, log, outer)
        return self.running[key]

    def start_control(self, key: str, roles: tuple[str, ...], port: int) -> Running:
        return self.run(
            self.hub, key, ("run", *roles), "--settings", str(self.hub.folder / "cumulet.toml"), "--data",
            str(self.hub.folder / "data"), "--name", "control", "--hypervisor", "simulated", "--host", HUB, "--port",
            str(port),
        )  # fmt: skip

    def restart_control(self, key: str) -> Running:
        """Start a process of the controller again that has ended."""
        port = FRONT if key == "front" else int(key.rpartition("-")[2])
        return self.start_control(key, self.running[key].words[1:], port)

    def start_host(self, name: str, *words: str) -> Running:
        """The agents of a host; ``words``: what makes it one."""
        machine = self.machines[name]
        return self.run(
            machine, name, ("join", "--data", str(machine.folder / "data"), "--hypervisor", "libvirt"), *words
        )  # fmt: skip

    def join(self, name: str) -> float:
        """Make a machine a host, with what an operator types there and nothing else; returns seconds until it shows."""
        words = self.hub.inside(BIN / "cumulet", "host", "token", "--data", self.hub.folder / "data")
        told = run(*words, env=_environ())
        program, command, url, token = shlex.split(told)
        assert (program, command) == ("cumulet", "join")
        began = time.monotonic()
        return self.seen(self.start_host(name, url, token), began)

    def rejoin(self, name: str) -> float:
        """Start the agents of a host again that have ended; returns seconds until both lists heard of it."""
        before, began = self.heard(name), time.monotonic()
        running = self.start_host(name)
        return self.seen(running, began, lambda: all(a != b for a, b in zip(before, self.heard(name), strict=True)))

    def seen(self, running: Running, began: float, also: Callable[[], bool] = lambda: True) -> float:
        """Seconds from ``began`` until the host is among the hypervisors and the network agents, and lives."""
        name = running.machine.name

        def look() -> bool:
            assert running.outer.poll() is None, running.log.read_text(errors="replace")[-4000:]
            return also() and self.lives(name)

        until(f"{name} is a host", look, READY_WITHIN, 0.05)
        return time.monotonic() - began

    def lives(self, name: str) -> bool:
        """Whether both lists show the host, and that it is there."""
        hypervisors = self.get("/compute/v2.1/os-hypervisors")["hypervisors"]
        up = [one["state"] == "up" for one in hypervisors if one["hypervisor_hostname"] == name]
        alive = [one["alive"] for one in self.get(f"/network/v2.0/agents?host={name}")["agents"]]
        return up == [True] and alive == [True]

    def heard(self, name: str) -> tuple[str, str]:
        """When the host's compute and network agents were last heard of."""
        (service,) = self.get(f"/compute/v2.1/os-services?host={name}&binary=nova-compute")["services"]
        (agent,) = self.get(f"/network/v2.0/agents?host={name}")["agents"]
        return service["updated_at"], agent["heartbeat_timestamp"]

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


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("CUMULET_", "OS_"))}


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
        door(stack, visitor, (HUB, BROKER), broker.amqp)
        door(stack, visitor, (HUB, MANAGEMENT), broker.management)
        database = new_database(postgres)
        dsn = runner.run(database.__aenter__())
        stack.callback(lambda: runner.run(database.__aexit__(None, None, None)))
        bus = f"amqp://{rabbit.user}:{rabbit.password}@{HUB}:{BROKER}/{rabbit.vhost}"
        cloud = Hosts(folder, hub, machines, visitor, bus, dsn, _endpoints())
        stack.callback(_stop, cloud)
        try:
            _start(cloud)
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


def _start(cloud: Hosts) -> None:
    (cloud.hub.folder / "data").mkdir()
    secrets = SecretFile(cloud.hub.folder / "secrets.json")
    secrets.put("bus_management", PASSWORD)
    secrets.put("cloud_id", "_iC81XI3wqcjOXa1")  # as it was drawn once: agents must carry the networks of any cloud
    write_settings(
        cloud.hub.folder / "cumulet.toml",
        {
            "cloud": {
                "database": cloud.database, "bus": cloud.bus, "secrets": str(cloud.hub.folder / "secrets.json"),
                "bus_management": f"http://{ADMIN}@{HUB}:{MANAGEMENT}", "url": f"http://{HUB}:{FRONT}",
                "proxies": [HUB], "drain_seconds": 0.2,
            },
            "cloud.endpoints": cloud.endpoints,
            "identity": {"hash_memory_kib": 8},
        },
    )  # fmt: skip
    started = [cloud.start_control(f"control-{port}", roles, port) for port, roles in enumerate(GROUPS, FIRST)]
    started.append(cloud.start_control("front", ("front",), FRONT))
    for one in started:
        one.ready()
    cloud.login()
    for name in cloud.machines:
        cloud.joined[name] = cloud.join(name)
    for name in cloud.machines:
        cloud.running[name].ready()


def _stop(cloud: Hosts) -> None:
    for machine in (*cloud.machines.values(), cloud.hub):
        machine.power_cut(wait=False)
    for one in cloud.running.values():
        one.outer.kill()
        one.outer.wait(30)


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

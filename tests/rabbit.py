# SPDX-License-Identifier: Apache-2.0
"""A real RabbitMQ of the tests' own: a node in a temporary directory, on free ports of the loopback.

One node serves all of a session's processes (pytest-xdist): whoever comes first starts it, and a watcher removes it
when the last of them has ended, even by a signal. A test holds the node shared; one that restarts it holds it alone.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from cumulet.kernel.bus.broker import Broker

ADMIN, PASSWORD = "admin", "a-test's-password"
_CHILDREN: dict[str, subprocess.Popen[bytes]] = {}
"""Home of a node → its process, in the process that started it."""


@dataclass(frozen=True)
class Node:
    """A broker that runs, or did a moment ago."""

    home: str
    amqp: int
    amqps: int
    management: int
    distribution: int
    names: int

    @property
    def ca_file(self) -> str:
        return f"{self.home}/tls.pem"

    def _program(self, name: str) -> str:
        return str(sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"))[-1] / name)

    def _run(self, argv: list[str]) -> subprocess.Popen[bytes]:
        user = pwd.getpwnam("rabbitmq") if os.geteuid() == 0 else None
        drop: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        environment = {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": self.home,
            "LANG": "C.UTF-8",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": f"cumulet{self.amqp}@localhost",
            "RABBITMQ_CONFIG_FILE": f"{self.home}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.home}/plugins",
            "RABBITMQ_MNESIA_BASE": f"{self.home}/data",
            "RABBITMQ_LOG_BASE": f"{self.home}/log",
            "RABBITMQ_PID_FILE": f"{self.home}/pid",
            "RABBITMQ_DIST_PORT": str(self.distribution),
            "ERL_EPMD_PORT": str(self.names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
        }
        with open(f"{self.home}/out", "ab") as out:
            return subprocess.Popen(
                argv, env=environment, cwd=self.home, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True, **drop,
            )  # fmt: skip

    def start(self) -> None:
        """Start the node and wait until it takes connections."""
        process = _CHILDREN[self.home] = self._run([self._program("rabbitmq-server")])
        end = time.monotonic() + 120
        for port in (self.amqp, self.amqps, self.management):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    said = Path(self.home, "out").read_text(errors="replace")[-2000:]
                    assert process.poll() is None, f"RabbitMQ does not start: {said}"
                    assert time.monotonic() < end, f"RabbitMQ is slow to start: {said}"
                    time.sleep(0.05)

    def kill(self) -> None:
        """Let the node die at once, as in a power cut."""
        pid = int(Path(self.home, "pid").read_text())
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if self.home in _CHILDREN:
            _CHILDREN.pop(self.home).wait(30)
        while _runs(pid):
            time.sleep(0.02)

    def control(self, *arguments: str) -> None:
        """What an operator does on the broker's machine."""
        assert self._run([self._program("rabbitmqctl"), *arguments]).wait(60) == 0

    def remove(self) -> None:
        """Stop everything and leave no file."""
        self.kill()
        self._run(["epmd", "-port", str(self.names), "-kill"]).wait(30)
        shutil.rmtree(self.home, ignore_errors=True)

    def broker(self, vhost: str) -> Broker:
        return Broker(f"http://{ADMIN}@127.0.0.1:{self.management}", vhost, password=PASSWORD)


def _runs(pid: int) -> bool:
    """Whether that process runs; a dead one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _make_node() -> Node:
    assert shutil.which("rabbitmq-server"), "RabbitMQ is not installed; run tools/setup.sh machine"
    home = tempfile.mkdtemp(prefix="cumulet-mq-", dir="/tmp")
    amqp, amqps, management, distribution, names = _free_ports(5)
    node = Node(home, amqp, amqps, management, distribution, names)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", f"{home}/tls.key", "-out", node.ca_file],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    settings = {
        "listeners.tcp.1": f"127.0.0.1:{amqp}",
        "listeners.ssl.1": f"127.0.0.1:{amqps}",
        "ssl_options.certfile": node.ca_file,
        "ssl_options.cacertfile": node.ca_file,
        "ssl_options.keyfile": f"{home}/tls.key",
        "management.tcp.ip": "127.0.0.1",
        "management.tcp.port": management,
        "default_user": ADMIN,
        "default_pass": PASSWORD,
    }
    Path(home, "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
    Path(home, "plugins").write_text("[rabbitmq_management].\n")
    if os.geteuid() == 0:
        user = pwd.getpwnam("rabbitmq")
        for path in (Path(home), *Path(home).iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
    try:
        node.start()
    except BaseException:
        os.killpg(_CHILDREN.pop(home).pid, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)
        raise
    return node


@contextmanager
def rabbit_node(shared: Path) -> Iterator[Node]:
    """The node of this session; ``shared`` is a directory that all its processes see."""
    with open(shared / "rabbit.users", "ab") as users, open(shared / "rabbit.node", "a+") as record:
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(record, fcntl.LOCK_EX)
        record.seek(0)
        known = record.read()
        node = Node(**json.loads(known)) if known else _make_node()
        if not known:
            record.write(json.dumps(asdict(node)))
            record.flush()
            argv = [sys.executable, "-m", __name__, str(shared)]
            _CHILDREN["watcher"] = subprocess.Popen(argv, cwd=Path(__file__).parents[1], start_new_session=True)
        fcntl.flock(record, fcntl.LOCK_UN)
        yield node


def _watch(shared: Path) -> None:
    """Wait until nobody uses the node any more, however they ended, and remove it."""
    node = Node(**json.loads((shared / "rabbit.node").read_text()))
    with open(shared / "rabbit.users", "ab") as users:
        fcntl.flock(users, fcntl.LOCK_EX)
        node.remove()


@contextmanager
def held(shared: Path, *, alone: bool) -> Iterator[None]:
    """Hold the node for one test, shared with others or alone."""
    with open(shared / "rabbit.tests", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


class Rabbit:
    """A virtual host of its own on the session's node, with a user for controllers."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.vhost = f"test-{uuid.uuid4().hex}"
        self.broker = node.broker(self.vhost)
        self.user, self.password = f"controller-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex

    @classmethod
    async def prepared(cls, node: Node) -> Rabbit:
        rabbit = cls(node)
        await rabbit.broker.ensure_vhost()
        await rabbit.broker.ensure_controller(rabbit.user, rabbit.password)
        return rabbit

    def url(self, user: str | None = None, *, port: int | None = None) -> str:
        """The URL of the bus, without a password."""
        return f"amqp://{quote(user or self.user)}@127.0.0.1:{port or self.node.amqp}/{self.vhost}"

    @property
    def management(self) -> tuple[str, str]:
        """URL of the management API with its administrator, and his password."""
        return f"http://{ADMIN}@127.0.0.1:{self.node.management}", PASSWORD

    def tls_url(self) -> str:
        return f"amqps://{self.user}@localhost:{self.node.amqps}/{self.vhost}?cafile={self.node.ca_file}"


class Proxy:
    """A TCP proxy before the broker that can be cut, or frozen with its sockets open."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._flowing.set()
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pump(reader, to_writer), self._pump(to_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def cut(self) -> None:
        """Reset all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    def freeze(self) -> None:
        """Let no byte through any more, in either direction, and say nothing."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()


@pytest.fixture(scope="session")
def rabbit_shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all processes of this session see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def rabbit_broker(rabbit_shared: Path) -> Iterator[Node]:
    """The RabbitMQ node that this session started."""
    with rabbit_node(rabbit_shared) as node:
        yield node


@pytest.fixture
async def rabbit(rabbit_broker: Node, rabbit_shared: Path) -> AsyncIterator[Rabbit]:
    """A fresh virtual host on a real RabbitMQ."""
    with held(rabbit_shared, alone=False):
        yield await Rabbit.prepared(rabbit_broker)


@pytest.fixture
async def rabbit_alone(rabbit_broker: Node, rabbit_shared: Path) -> AsyncIterator[Rabbit]:
    """The same, for a test that stops the node and starts it again: nobody else uses it meanwhile."""
    with held(rabbit_shared, alone=True):
        yield await Rabbit.prepared(rabbit_broker)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))

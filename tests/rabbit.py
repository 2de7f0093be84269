# SPDX-License-Identifier: Apache-2.0
"""A real RabbitMQ of the tests' own: a node in a temporary directory, on free ports of the loopback.

One node serves all of a session's processes (pytest-xdist): whoever comes first starts it, and a watcher removes it
when the last of them has ended, even by a signal. A test holds the node shared; one that restarts it holds it alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import pytest

from cumulet.cli.chaos.loopback import let_go
from cumulet.cli.chaos.rabbit import ADMIN, PASSWORD, make_node
from cumulet.cli.chaos.rabbit import Node as Node
from tests.scratch import short


@contextmanager
def rabbit_node(shared: Path) -> Iterator[Node]:
    """The node of this session; ``shared`` is a directory that all its processes see."""
    with open(shared / "rabbit.users", "ab") as users, open(shared / "rabbit.node", "a+") as record:
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(record, fcntl.LOCK_EX)
        record.seek(0)
        known = record.read()
        node = Node(**json.loads(known)) if known else make_node(short())
        if not known:
            record.write(json.dumps(asdict(node)))
            record.flush()
            argv = [sys.executable, "-m", __name__, str(shared)]
            let_go(subprocess.Popen(argv, cwd=Path(__file__).parents[1], start_new_session=True))
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

    @property
    def management_tls(self) -> tuple[str, str]:
        """The same over TLS."""
        return f"https://{ADMIN}@localhost:{self.node.management_tls}", PASSWORD

    def tls_url(self) -> str:
        return f"amqps://{self.user}@localhost:{self.node.amqps}/{self.vhost}?cafile={self.node.ca_file}"


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

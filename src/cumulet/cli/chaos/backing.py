# SPDX-License-Identifier: Apache-2.0
"""The database and the broker below a spread cloud under test: given, or started here and removed again."""

from __future__ import annotations

import asyncio
import shlex
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from cumulet.cli.chaos.postgres import Postgres
from cumulet.cli.chaos.rabbit import Node, make_node
from cumulet.kernel.pools import Pool, run_program

_RESTART_WITHIN = 180.0
_PLACE = "/tmp"  # noqa: S108 - short, for their sockets


@dataclass(frozen=True)
class Backing:
    """Where both are, and how each is restarted (``database``, ``broker``), as far as that is known."""

    database: str
    bus: str
    restarts: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)


@contextmanager
def backing(given: Mapping[str, Any]) -> Iterator[Backing]:
    """What the options name, or a PostgreSQL and a RabbitMQ of our own. Raises RuntimeError where they are missing."""
    if given["database"]:
        commands = {name: given[f"restart_{name}"] for name in ("database", "broker")}
        yield Backing(
            given["database"], given["bus"], {name: _command(one) for name, one in commands.items() if one}
        )  # fmt: skip
        return
    with ExitStack() as stack:
        stack.enter_context(told_to_end())
        postgres = Postgres.made(_PLACE)
        stack.callback(postgres.remove)
        node = make_node(_PLACE)
        stack.callback(node.remove)
        bus = asyncio.run(_virtual_host(node))
        yield Backing(postgres.dsn, bus, {"database": _again(postgres), "broker": _again(node)})


@contextmanager
def told_to_end() -> Iterator[None]:
    """SIGTERM becomes an interrupt, on which the loop finishes and takes what was started here with it."""
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted == signal.SIG_IGN:  # a script's background job; the loop would not hear of an interrupt either
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupted)


def _command(line: str) -> Callable[[], Awaitable[None]]:
    """A restart by a program of the operator's; ProgramFailed when it fails."""
    argv = shlex.split(line)

    async def restart() -> None:
        await run_program(argv, timeout=_RESTART_WITHIN)

    return restart


def _again(server: Postgres | Node) -> Callable[[], Awaitable[None]]:
    """A restart of our own: it dies at once, and comes back."""
    pool = Pool("restarts", 1)

    async def restart() -> None:
        await pool.run(server.kill, timeout=_RESTART_WITHIN)
        await pool.run(server.start, timeout=_RESTART_WITHIN)

    return restart


async def _virtual_host(node: Node) -> str:
    """A virtual host of our own with a controllers' user; returns the bus's URL."""
    name, password = f"chaos-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    broker = node.broker(name)
    await broker.ensure_vhost()
    await broker.ensure_controller("controller", password)
    return f"amqp://controller:{password}@127.0.0.1:{node.amqp}/{name}"

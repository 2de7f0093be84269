# SPDX-License-Identifier: Apache-2.0
"""The relay of `cumulet chaos`: carries everything, is cut in two ways, and loses nothing that it only held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import pytest

from cumulet.cli.chaos.relay import Relay, Target, broker_of, bus_through, database_of, dsn_through


class Echo(asyncio.Protocol):
    """Says everything again."""

    def __init__(self, there: set[asyncio.Transport]) -> None:
        self._there = there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._there.add(self._transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._there.discard(self._transport)


@asynccontextmanager
async def echoing(path: Path | None = None) -> AsyncIterator[Target]:
    """A server that says everything again."""
    loop = asyncio.get_running_loop()
    there: set[asyncio.Transport] = set()
    if path is not None:
        server = await loop.create_unix_server(lambda: Echo(there), path)
        target: Target = str(path)
    else:
        server = await loop.create_server(lambda: Echo(there), "127.0.0.1", 0)
        target = server.sockets[0].getsockname()[:2]
    try:
        yield target
    finally:
        server.close()
        for transport in there:
            transport.abort()


@asynccontextmanager
async def connected(relay: Relay) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _said(reader: asyncio.StreamReader, number: int) -> bytes:
    async with asyncio.timeout(60):
        return await reader.readexactly(number)


async def _end(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(60):
        try:
            return await reader.read(1)
        except ConnectionError:
            return b""


@pytest.mark.parametrize("unix", [False, True])
async def test_a_relay_carries_both_ways(unix: bool, tmp_path: Path) -> None:
    async with (
        echoing(tmp_path / "socket" if unix else None) as target,
        Relay(target) as relay,
        connected(relay) as (reader, writer),
    ):
        much = bytes(range(256)) * 20_000
        writer.write(much)
        assert await _said(reader, len(much)) == much


async def test_a_silent_relay_holds_everything_up_and_loses_nothing() -> None:
    async with echoing() as target, Relay(target) as relay, connected(relay) as (reader, writer):
        writer.write(b"a")
        assert await _said(reader, 1) == b"a"
        relay.silence()
        writer.write(b"bc")
        async with connected(relay) as (late_reader, late):
            late.write(b"d")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await reader.read(1)
            relay.mend()
            assert (await _said(reader, 2), await _said(late_reader, 1)) == (b"bc", b"d")


async def test_a_relay_that_refuses_ends_what_there_is_and_what_comes() -> None:
    async with echoing() as target, Relay(target) as relay:
        async with connected(relay) as (reader, _):
            relay.refuse()
            assert await _end(reader) == b""
        async with connected(relay) as (reader, _):
            assert await _end(reader) == b""
        relay.mend()
        async with connected(relay) as (reader, writer):
            writer.write(b"a")
            assert await _said(reader, 1) == b"a"


async def test_nobody_at_the_other_end_is_an_end() -> None:
    async with echoing() as target:
        pass
    async with Relay(target) as relay, connected(relay) as (reader, _):
        assert await _end(reader) == b""


@pytest.mark.parametrize(
    ("dsn", "target", "through"),
    [
        ("postgresql://cumulet@/postgres?host=/tmp/pg", "/tmp/pg/.s.PGSQL.5432",
         "postgresql://cumulet:unread@127.0.0.1:7/postgres"),
        ("postgresql://u:p%40@db:55/x?sslmode=require", ("db", 55),
         "postgresql://u:p%40@127.0.0.1:7/x?sslmode=require"),
        ("postgresql://u@db/x?port=66", ("db", 66), "postgresql://u:unread@127.0.0.1:7/x"),
    ],
)  # fmt: skip
def test_a_dsn_leads_through_a_relay(dsn: str, target: Target, through: str) -> None:
    assert database_of(dsn) == target
    assert dsn_through(dsn, 7) == through


def test_a_bus_leads_through_a_relay() -> None:
    assert broker_of("amqp://u:p%40@mq:55/v%2Fx") == ("mq", 55)
    assert bus_through("amqp://u:p%40@mq:55/v%2Fx", 7) == "amqp://u:p%40@127.0.0.1:7/v%2Fx"
    with pytest.raises(ValueError, match="without TLS"):
        broker_of("amqps://u@mq/v")
    with pytest.raises(ValueError, match="one server"):
        database_of("postgresql://u@a:1,b:2/x")

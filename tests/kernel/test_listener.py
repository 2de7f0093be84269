# SPDX-License-Identifier: Apache-2.0
"""A listener's limits, over real sockets on loopback: too many, too long, too slow."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn

from cumulet.kernel.http.listener import HttpConfig, Listener, guarded_protocol
from cumulet.kernel.settings import Settings, SettingsError
from tests.cloud import running_cloud

_BIG = 64 * 1024 * 1024


class App:
    """Answers at once, holds on until it is told, echoes bodies, or sends much."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.entered = asyncio.Semaphore(0)
        self.lost = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        if scope["path"] == "/hold":
            self.entered.release()
            await self.go_on.wait()
        if scope["path"] == "/echo":
            more = True
            while more:
                event = await receive()
                if event["type"] == "http.disconnect":
                    self.lost.set()
                    break
                body += event["body"]
                more = event["more_body"]
        if scope["path"] == "/much":
            body = bytes(_BIG)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        if scope["path"] == "/much":
            await receive()
            self.lost.set()


class Client:
    """A raw connection: it sends exactly the bytes it is given."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value for name, value in pairs}

    async def ended(self) -> bytes:
        """Everything until the server closes the connection."""
        return await self.reader.read()


class Server:
    def __init__(self, app: App, port: int) -> None:
        self.app, self.port = app, port

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()

    async def get(self, path: str) -> tuple[int, dict[str, str]]:
        async with self.client() as client:
            await client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return await client.head()


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[Server]:
    app, config = App(), Settings({"http": limits}, environ={}).section("http", HttpConfig)
    bound = socket.create_server(("127.0.0.1", 0))  # clients may knock before the server opens
    server = uvicorn.Server(
        uvicorn.Config(
            Listener(app, config),
            log_config=None,
            lifespan="off",
            http=guarded_protocol(config),
            access_log=False,
            timeout_graceful_shutdown=1,
        )
    )
    task = asyncio.create_task(server._serve([bound]))
    try:
        async with asyncio.timeout(60):
            yield Server(app, bound.getsockname()[1])
    finally:
        app.go_on.set()
        server.should_exit = True
        await task


async def test_one_request_too_many_is_told_to_come_again() -> None:
    async with serving(concurrent_requests=2, retry_after_seconds=3) as server:
        held = [asyncio.create_task(server.get("/hold")) for _ in range(2)]
        for _ in held:
            await server.app.entered.acquire()
        async with server.client() as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            status, headers = await client.head()
            assert (status, headers["retry-after"], headers["connection"]) == (503, "3", "close")
            assert headers["x-openstack-request-id"].startswith("req-")
            assert orjson.loads(await client.ended())["error"]["code"] == 503
        assert (await server.get("/healthz"))[0] == 200  # a busy process is alive
        server.app.go_on.set()
        assert [(await one)[0] for one in held] == [200, 200]
        assert (await server.get("/"))[0] == 200


async def test_one_connection_too_many_is_refused() -> None:
    async with serving(connections=1) as server, server.client() as first:
        await first.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await first.head())[0] == 200
        async with server.client() as second:
            status, headers = await second.head()
            assert (status, headers["retry-after"]) == (503, "1")
            await second.ended()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Many: a\r\n" * 500 + b"\r\n",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Endless: " + b"a" * 5000,
    ],
    ids=["header", "headers", "path", "endless"],
)
async def test_a_head_that_is_too_long_is_refused(head: bytes) -> None:
    async with serving(header_bytes=4096) as server, server.client() as client:
        await client.send(head)
        assert (await client.head())[0] == 431
        await client.ended()


async def test_a_long_body_is_no_long_head() -> None:
    async with serving(header_bytes=4096) as server, server.client() as client:
        await client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + b"a" * 9000)
        assert (await client.head())[0] == 200


@pytest.mark.parametrize(
    "sent", [b"", b"\r\n", b"GET / HTTP/1.1\r\nHost:"], ids=["nothing", "a newline", "half a head"]
)
async def test_a_client_that_sends_no_head_is_let_go(sent: bytes) -> None:
    async with serving(header_seconds=0.1) as server, server.client() as client:
        await client.send(sent)
        assert (await client.head())[0] == 408
        await client.ended()


async def test_a_second_request_on_a_connection_must_come_whole_too() -> None:
    async with serving(header_seconds=0.1) as server, server.client() as client:
        await client.send(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        await server.app.entered.acquire()
        server.app.go_on.set()
        assert (await client.head())[0] == 200
        await client.reader.readuntil(b"0\r\n\r\n")
        await client.send(b"GET / HT")
        assert (await client.head())[0] == 408
        await client.ended()


async def test_a_request_in_work_may_take_its_time() -> None:
    async with serving(header_seconds=0.05, stall_seconds=0.05) as server:
        held = asyncio.create_task(server.get("/hold"))
        await server.app.entered.acquire()
        async with server.client() as idle:  # the limits of another connection run out meanwhile
            assert (await idle.head())[0] == 408
        server.app.go_on.set()
        assert (await held)[0] == 200


async def test_a_body_that_does_not_arrive_ends_the_request() -> None:
    async with serving(stall_seconds=0.1) as server, server.client() as client:
        await client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert (await client.head())[0] == 408
        await client.ended()
        assert server.app.lost.is_set()


async def test_a_client_that_does_not_read_is_let_go() -> None:
    async with serving(stall_seconds=0.1) as server, server.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        await server.app.lost.wait()


async def test_a_limit_that_is_none_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\[http\].*concurrent_requests"):
        async with running_cloud(tmp_path, packages=(), settings={"http": {"concurrent_requests": 0}}):
            pass

# SPDX-License-Identifier: Apache-2.0
"""Calls between processes and the front door, over real sockets: who is asked next, what is never sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cumulet.assembly.build import Front
from cumulet.assembly.forward import Forward
from cumulet.assembly.gate import Gate
from cumulet.assembly.health import DRAINING, READY, STARTING, Health
from cumulet.assembly.serve import Wish, listen, make_server
from cumulet.cli.chaos.loopback import free_ports
from cumulet.client.transport import NOT_TAKEN, RemoteTransport
from cumulet.kernel.errors import Unavailable
from tests.spread.processes import until

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A server that answers everything with ``handler``; yields its URL."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Played:
    """A process that answers with its name, or goes away in the middle of a request."""

    def __init__(self, name: str, *, breaks: bool = False, status: int = 200, **headers: str) -> None:
        self.name, self.breaks, self.status, self.headers = name, breaks, status, headers
        self.seen: list[str] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path_qs}")
        await request.read()
        if self.breaks:
            assert request.transport is not None
            request.transport.abort()
        headers = {name.replace("_", "-"): value for name, value in self.headers.items()}
        return web.Response(text=self.name, status=self.status, headers=headers)


@asynccontextmanager
async def transport_to(*played: Played | None) -> AsyncIterator[RemoteTransport]:
    """A transport whose URLs are those processes, in the order in which they will be asked; None: nobody listens."""
    async with AsyncExitStack() as stack:
        urls = [
            await stack.enter_async_context(serving(one)) if one else f"http://127.0.0.1:{free_ports(1)[0]}"
            for one in played
        ]
        transport = RemoteTransport([urls[-1], *urls[:-1]], "image")  # the first turn is the second one's
        try:
            yield transport
        finally:
            await transport.close()


async def ask(transport: RemoteTransport, method: str = "GET", body: Any = b"") -> tuple[int, str]:
    reply = await transport.send(method, "/x?y=%2F", {"a": "b"}, body, timeout=5)
    return reply.status, (await reply.read()).decode()


async def test_processes_take_turns_and_the_dead_are_passed_over() -> None:
    one, two = Played("one"), Played("two")
    async with transport_to(None, one, two) as transport:
        told = [(await ask(transport))[1] for _ in range(6)]
        assert set(told) == {"one", "two"}
        assert one.seen[0] == "GET /x?y=%2F"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_what_may_be_done_twice_is_sent_again(method: str) -> None:
    broken, good = Played("broken", breaks=True), Played("good")
    async with transport_to(broken, good) as transport:
        assert (await ask(transport, method))[0] == 200
        assert len(good.seen) == 1


async def test_what_may_not_be_done_twice_is_not() -> None:
    broken, good = Played("broken", breaks=True), Played("good")
    async with transport_to(broken, good) as transport:
        with pytest.raises(Unavailable, match="The image service is not available"):
            await ask(transport, "POST", b"{}")
        assert (len(broken.seen), good.seen) == (1, [])
        assert await ask(transport, "POST", b"{}") == (200, "good")


async def test_a_post_that_was_not_sent_goes_to_the_next() -> None:
    good = Played("good")
    async with transport_to(None, good) as transport:
        assert await ask(transport, "POST", b"{}") == (200, "good")


async def test_a_process_that_starts_takes_nothing() -> None:
    starting, good = Played("starting", status=503), Played("good")
    starting.headers = {NOT_TAKEN: "starting"}
    async with transport_to(starting, good) as transport:
        assert await ask(transport, "POST", b"{}") == (200, "good")
    async with transport_to(starting) as transport:
        with pytest.raises(Unavailable, match="it is starting"):
            await ask(transport)


async def test_a_process_that_ends_is_asked_no_more() -> None:
    ending, good = Played("ending", Connection="close"), Played("good")
    async with transport_to(ending, good) as transport:
        told = [(await ask(transport))[1] for _ in range(5)]
        assert told == ["ending", "good", "good", "good", "good"]


async def test_a_stream_is_sent_once() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"

    broken, good = Played("broken", breaks=True), Played("good")
    async with transport_to(broken, good) as transport:
        with pytest.raises(Unavailable):
            await ask(transport, "PUT", pieces())
        assert good.seen == []
    async with transport_to(None, good) as transport:
        assert await ask(transport, "PUT", pieces()) == (200, "good")


# ---- the front door


@asynccontextmanager
async def front_to(handler: Handler, **health: str) -> AsyncIterator[str]:
    """A front door with one mount, ``/image``, that leads to ``handler``."""
    async with serving(handler) as url, _running(Front(), url) as front:
        yield front


@asynccontextmanager
async def _running(front: Front, *urls: str) -> AsyncIterator[str]:
    transport = RemoteTransport([f"{url}/image" for url in urls], "image")
    front.mount("image", Forward(transport, "image"))
    socket = listen("127.0.0.1", 0)
    server = make_server(front, Wish(data=None))  # type: ignore[arg-type]
    task = asyncio.create_task(server.serve(sockets=[socket]))
    await until(lambda: server.started, 60)
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        socket.close()
        await transport.close()


async def test_bodies_stream_both_ways_and_headers_say_where_the_client_is() -> None:
    halves: asyncio.Queue[bytes] = asyncio.Queue()
    seen: dict[str, str] = {}

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen.update({name.lower(): value for name, value in request.headers.items()})
        seen["path"] = request.raw_path
        answer = web.StreamResponse(headers={"X-Twice": "1", "Keep-Alive": "timeout=9"})
        await answer.prepare(request)
        async for piece in request.content.iter_any():
            await halves.put(piece)
            await answer.write(piece.upper())
        return answer

    more = asyncio.Event()

    async def upload() -> AsyncIterator[bytes]:
        yield b"first"
        await more.wait()
        yield b"second"

    async with front_to(handler) as front, aiohttp.ClientSession() as session:
        forged = {"X-Forwarded-Host": "evil", "X-Forwarded-For": "6.6.6.6", "X-Auth-Token": "t"}
        async with session.put(f"{front}/image/v2/a%2Fb?c=%20", data=upload(), headers=forged) as reply:
            assert await halves.get() == b"first", "the first half is there before the second is sent"
            assert await reply.content.readany() == b"FIRST"
            more.set()
            assert await reply.content.read() == b"SECOND"
            assert reply.headers["X-Twice"] == "1"
            assert "Keep-Alive" not in reply.headers
    assert seen["x-forwarded-host"] == front.removeprefix("http://")
    assert (seen["x-forwarded-proto"], seen["x-forwarded-for"]) == ("http", "127.0.0.1")
    assert (seen["path"], seen["x-auth-token"]) == ("/image/v2/a%2Fb?c=%20", "t")


async def test_nobody_answers() -> None:
    async with _running(Front(), f"http://127.0.0.1:{free_ports(1)[0]}") as front, aiohttp.ClientSession() as session:
        async with session.get(f"{front}/image/") as reply:
            assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
            assert (await reply.json())["error"]["message"] == "No image process answers."
        async with session.get(f"{front}/volume/") as reply:
            assert reply.status == 404


async def test_an_answer_without_end_ends_with_its_listener() -> None:
    ended = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x")
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async with front_to(handler) as front, aiohttp.ClientSession() as session:
        async with session.get(f"{front}/image/events") as reply:
            assert await reply.content.readexactly(3) == b"xxx"
            reply.close()
        async with asyncio.timeout(60):
            await ended.wait()


async def test_a_websocket_goes_through() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("binary",))
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data[::-1])
            elif message.data == "bye":
                await socket.close(code=4001)
        return socket

    async with (
        front_to(handler) as front,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{front}/image/console", protocols=("binary",)) as near,
    ):
        assert near.protocol == "binary"
        await near.send_bytes(b"abc")
        assert await near.receive_bytes() == b"cba"
        await near.send_str("bye")
        assert (await near.receive()).type is aiohttp.WSMsgType.CLOSE
        assert near.close_code == 4001


# ---- the gate of a process


class PlayedHealth(Health):
    def __init__(self, state: str) -> None:
        self.state = state

    async def look(self) -> dict[str, Any]:
        return {"status": "ready" if self.state == READY else "not ready", "state": self.state}


async def through_gate(state: str, path: str, *, peer: str = "127.0.0.1", **headers: str) -> tuple[int, Any, Any]:
    """Status and headers of the answer, and the scope that the application saw."""
    told: list[Any] = []
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        told.append(message)

    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": sent, "client": (peer, 9)}
    gate = Gate(app, PlayedHealth(state), "https://cloud.example/os", ["127.0.0.1"])
    await gate(scope, None, send)
    return told[0]["status"], dict(told[0]["headers"]), seen


async def test_who_comes_while_it_starts_or_ends() -> None:
    status, headers, seen = await through_gate(STARTING, "/v3")
    assert (status, seen) == (503, {})
    assert headers[NOT_TAKEN.encode()] == b"starting"
    assert (await through_gate(STARTING, "/readyz"))[0] == 503
    assert (await through_gate(STARTING, "/healthz"))[0] == 200
    status, headers, _ = await through_gate(DRAINING, "/v3")
    assert (status, headers[b"connection"]) == (200, b"close")
    status, headers, _ = await through_gate(READY, "/v3")
    assert (status, headers) == (200, {})
    assert (await through_gate(READY, "/readyz"))[0] == 200


async def test_where_the_client_is() -> None:
    """A proxy of ours is believed, anybody else not; links name the front door where no proxy says otherwise."""
    _, _, seen = await through_gate(READY, "/v3", x_forwarded_for="9.9.9.9, 10.0.0.7")
    assert seen["client"][0] == "10.0.0.7"
    _, _, seen = await through_gate(READY, "/v3", peer="10.0.0.8", x_forwarded_for="9.9.9.9")
    assert seen["client"][0] == "10.0.0.8"
    assert (b"x-forwarded-host", b"cloud.example") in seen["headers"]
    assert (b"x-forwarded-prefix", b"/os") in seen["headers"]
    _, _, seen = await through_gate(READY, "/v3", x_forwarded_host="front")
    assert seen["headers"] == [(b"x-forwarded-host", b"front")]

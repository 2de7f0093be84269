# SPDX-License-Identifier: Apache-2.0
"""How a service's REST API is reached: a direct call of its ASGI application, or a socket.

Both carry the same bytes through the same middleware. An in-process call is a
task of its own with fresh context, a deadline and a bounded depth; when its
caller goes away it still runs to its end, so no change stops half-way.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote

from cumulet.kernel.db import outside_transaction
from cumulet.kernel.errors import Unavailable

MAX_DEPTH = 6
_depth: ContextVar[int] = ContextVar("rest_depth", default=0)
Body = bytes | AsyncIterator[bytes]


class LocalReply:
    """The answer of an application in this process; pieces flow with back-pressure."""

    def __init__(self, status: int, headers: Mapping[str, str], pieces: asyncio.Queue[bytes | None]) -> None:
        self.status, self.headers, self._pieces = status, headers, pieces

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece


class LocalTransport:
    """Calls an ASGI application directly."""

    def __init__(self, app: Any, mount: str, name: str) -> None:
        self._app, self._mount, self._name = app, mount, name
        # every call starts from the context in which the cloud was built, not from its caller's
        self._home = contextvars.copy_context()
        self._running: set[asyncio.Task[None]] = set()

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: Body = b"", *, timeout: float = 60.0
    ) -> LocalReply:
        outside_transaction(f"REST {method} {path}")
        depth = _depth.get() + 1
        if depth > MAX_DEPTH:
            raise Unavailable(f"Calls between services are nested deeper than {MAX_DEPTH}.")
        started: asyncio.Future[tuple[int, dict[str, str]]] = asyncio.get_running_loop().create_future()
        started.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may be gone
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=16)
        fresh = self._home.copy()
        fresh.run(_depth.set, depth)
        work = self._serve(method, path, headers, body, started, pieces, timeout)
        task = asyncio.get_running_loop().create_task(work, context=fresh)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        status, answered = await asyncio.shield(started)
        return LocalReply(status, answered, pieces)

    async def _serve(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Body,
        started: asyncio.Future[tuple[int, dict[str, str]]],
        pieces: asyncio.Queue[bytes | None],
        timeout: float,
    ) -> None:
        target, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(target),
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": self._mount,
            "headers": [(b"host", b"localhost")]
            + [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 0),
            "server": ("localhost", 80),
        }
        source = _pieces_of(body)
        finished = asyncio.Event()

        async def receive() -> dict[str, Any]:
            async for piece in source:
                return {"type": "http.request", "body": piece, "more_body": True}
            if not finished.is_set():
                finished.set()
                return {"type": "http.request", "body": b"", "more_body": False}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answered = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in message["headers"]}
                if not started.done():
                    started.set_result((message["status"], answered))
            elif message["type"] == "http.response.body":
                if message.get("body"):
                    await pieces.put(message["body"])
                if not message.get("more_body"):
                    await pieces.put(None)

        try:
            async with asyncio.timeout(timeout):
                await self._app(scope, receive, send)
        except TimeoutError:
            if not started.done():
                started.set_exception(Unavailable(f"{self._name} did not answer in {timeout:g} s."))
        except Exception as error:
            if not started.done():
                started.set_exception(Unavailable(f"{self._name} failed: {type(error).__name__}"))
        finally:
            if not started.done():
                started.set_exception(Unavailable(f"{self._name} gave no answer."))
            if not pieces.full():
                pieces.put_nowait(None)


class AbsentTransport:
    """A service that runs nowhere that we know of."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: Body = b"", *, timeout: float = 60.0
    ) -> LocalReply:
        raise Unavailable(f"The {self._name} service is not available.")


class RemoteReply:
    """The answer of another process."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.status: int = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}

    async def read(self) -> bytes:
        data: bytes = await self._response.read()
        return data

    async def pieces(self) -> AsyncIterator[bytes]:
        async for piece in self._response.content.iter_chunked(256 * 1024):
            yield piece


class RemoteTransport:
    """Reaches a service by its URL (up to and with its mount)."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url.rstrip("/"), name
        self._session: Any = None

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: Body = b"", *, timeout: float = 60.0
    ) -> RemoteReply:
        import aiohttp
        from yarl import URL

        outside_transaction(f"REST {method} {path}")
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False)
        try:
            response = await self._session.request(
                method,
                URL(self._url + path, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=timeout),
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"The {self._name} service is not available: {error}") from None
        return RemoteReply(response)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def _pieces_of(body: Body) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        if body:
            yield body
        return
    async for piece in body:
        yield piece

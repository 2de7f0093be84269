# SPDX-License-Identifier: Apache-2.0
"""How a service's REST API is reached: a direct call of its ASGI application, or a socket.

Both carry the same bytes through the same middleware. An in-process call is a
task of its own with fresh context, a deadline and a bounded depth; when its
caller goes away it still runs to its end, so no change stops half-way.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from cumulet.kernel import clock
from cumulet.kernel.db import outside_transaction
from cumulet.kernel.errors import Unavailable

if TYPE_CHECKING:
    import ssl

MAX_DEPTH = 6
KEEP_ALIVE = 1.0
"""Seconds that an idle connection is kept; a server that ends goes on serving for longer than that."""
NOT_TAKEN = "x-cumulet-not-taken"
"""Header of a 503 from a process that did nothing with the request, so that another may be asked."""
_CONNECT = {"http": 2.0, "https": 5.0}
"""Seconds for a connection; a busy machine takes its time for a handshake."""
_LONGEST_ASIDE = 10.0
_ENDING, _STARTING = 3.0, 0.2
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
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

    def __init__(self, app: Any, mount: str, name: str, home: contextvars.Context | None = None) -> None:
        """``home``: the context from which every call starts, never its caller's; by default the one of now."""
        self._app, self._mount, self._name = app, mount, name
        self._home = home or contextvars.copy_context()
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

    def __init__(self, response: Any, name: str) -> None:
        self._response, self._name = response, name
        self.status: int = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as they came, repeated ones repeated."""
        return list(self._response.raw_headers)

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes; raises Unavailable when the other side goes away before its end."""
        import aiohttp

        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"The {self._name} service went away while it answered: {_said(error)}") from None
        finally:
            if not self._response.content.at_eof():
                self._response.close()  # the rest is wanted by nobody; the connection can't be used again


class _Instance:
    """One process that serves a service, and until when others are asked first."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.failures = 0
        self.aside_until = 0.0

    def put_aside(self, seconds: float) -> None:
        self.aside_until = max(self.aside_until, clock.monotonic() + seconds)

    def failed(self) -> None:
        self.failures += 1
        self.put_aside(min(0.5 * 2**self.failures, _LONGEST_ASIDE))


class RemoteTransport:
    """Reaches a service by its URLs (each up to and with its mount), one process each; they take turns.

    A process that can't be reached is passed over for a while and the request goes
    to the next. Once a request may have been received it is sent again only when
    its method says that twice is as good as once (RFC 9110, 9.2.2) and its body is at hand.
    A process that is about to end says so (``Connection: close``) and gets no more.
    ``trusted`` vouches for their certificates (None: the system's authorities).
    """

    def __init__(self, urls: str | Sequence[str], name: str, trusted: ssl.SSLContext | None = None) -> None:
        self.trusted = trusted
        self._instances = [_Instance(url) for url in ([urls] if isinstance(urls, str) else urls)]
        self._name = name
        self._turn = 0
        self._session: Any = None

    @property
    def urls(self) -> list[str]:
        return [one.url for one in self._instances]

    def _order(self) -> list[_Instance]:
        """All instances: first those that work, in turn; then those put aside, the longest ago first."""
        self._turn = (self._turn + 1) % len(self._instances)
        turned = self._instances[self._turn :] + self._instances[: self._turn]
        now = clock.monotonic()
        return sorted(turned, key=lambda one: one.aside_until if one.aside_until > now else 0.0)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: Body = b"", *, timeout: float = 60.0
    ) -> RemoteReply:
        import aiohttp
        from yarl import URL

        outside_transaction(f"REST {method} {path}")
        session = self._session or self._open()
        repeatable = method in _IDEMPOTENT and isinstance(body, bytes)
        once = body if isinstance(body, bytes) else _Once(body)
        reason = "no address is known"
        for instance in self._order():
            connect = _CONNECT.get(instance.url.partition(":")[0])
            limits = aiohttp.ClientTimeout(total=None, sock_connect=connect, sock_read=timeout)
            try:
                response = await session.request(
                    method,
                    URL(instance.url + path, encoded=True),
                    headers=headers,
                    data=once or None,
                    allow_redirects=False,
                    timeout=limits,
                )
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                reason = _said(error)  # nothing was sent
                instance.failed()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                reason = _said(error)
                instance.failed()
                if not repeatable or isinstance(error, TimeoutError):
                    break
            else:
                instance.failures = 0
                if response.status == 503 and NOT_TAKEN in response.headers:
                    reason = f"it is {response.headers[NOT_TAKEN]}"
                    instance.put_aside(_STARTING)
                    response.release()
                    if isinstance(once, _Once) and once.begun:
                        break
                    continue
                if response.headers.get("Connection", "").lower() == "close":
                    instance.put_aside(_ENDING)
                return RemoteReply(response, self._name)
            if isinstance(once, _Once) and once.begun:
                break
        raise Unavailable(f"The {self._name} service is not available: {reason}")

    def _open(self) -> Any:
        import aiohttp

        # a connection that was idle for longer may be closed by an ending server at the moment it is used again
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=10, ssl=self.trusted or True
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
            read_bufsize=256 * 1024,
        )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class _Once:
    """A body that can be sent once; remembers whether somebody began to."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.begun = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        async for piece in self._pieces:
            yield piece


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _pieces_of(body: Body) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        if body:
            yield body
        return
    async for piece in body:
        yield piece

# SPDX-License-Identifier: Apache-2.0
"""What a listener takes from strangers: so many requests at once, so long heads, so slow clients, and no more.

Limits sit here only, never between services in one process: a request that
holds a place while it waits for another request would end in a deadlock.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import msgspec
import orjson

from cumulet.kernel import ids

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
_PROBES: Final = ("/healthz", "/readyz")
_REFUSALS: Final = {
    408: ("Request Timeout", "The request did not arrive in time."),
    431: ("Request Header Fields Too Large", "The request line and headers are too long."),
    503: ("Service Unavailable", "Too many requests at once; try again later."),
}


class HttpConfig(msgspec.Struct, forbid_unknown_fields=True):
    """The section ``[http]``: limits of each listener of a process."""

    concurrent_requests: Count = 512
    """Requests in work at once; one more gets 503 with Retry-After. Long polls and streams count."""
    connections: Count = 4096
    """Open connections; one more is refused with 503."""
    header_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 65_536
    """The longest request line with headers, in bytes; a longer one gets 431."""
    header_seconds: Seconds = 20.0
    """How long a client may take to send them."""
    stall_seconds: Seconds = 60.0
    """How long a client may neither send the rest of its body nor take the rest of its answer."""
    retry_after_seconds: Count = 1
    """What Retry-After tells refused clients."""


class Listener:
    """An ASGI application behind limits on requests at once and on bodies that do not arrive."""

    def __init__(self, app: Any, limits: HttpConfig) -> None:
        self._app, self._limits = app, limits
        self.in_work = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        if self.in_work >= self._limits.concurrent_requests:
            await _refuse(send, 503, self._limits.retry_after_seconds)
            return
        self.in_work += 1
        try:
            body = _Body(receive, send, self._limits.stall_seconds)
            await self._app(scope, body.receive, body.send)
            if body.stalled and not body.answered:
                await _refuse(send, 408)
        finally:
            self.in_work -= 1


class _Body:
    """A request whose body must keep arriving; to the application a stalled client is one that went away."""

    def __init__(self, receive: Any, send: Any, patience: float) -> None:
        self._receive, self._send, self._patience = receive, send, patience
        self._whole = False
        self.stalled = False
        self.answered = False

    async def receive(self) -> Any:
        if self._whole:
            return await self._receive()
        if self.stalled:
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout(self._patience):
                event = await self._receive()
        except TimeoutError:
            self.stalled = True
            return {"type": "http.disconnect"}
        self._whole = event["type"] != "http.request" or not event.get("more_body", False)
        return event

    async def send(self, message: Any) -> None:
        if self.stalled and not self.answered:
            return  # what the application makes of half a body is not the answer
        self.answered = True
        await self._send(message)


async def _refuse(send: Any, status: int, retry_after: int | None = None) -> None:
    headers, body = _refusal(status, retry_after)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _refusal(status: int, retry_after: int | None = None) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of a refusal; the connection ends with it, so that nobody sends the rest."""
    title, message = _REFUSALS[status]
    body = orjson.dumps({"error": {"code": status, "title": title, "message": message}})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-openstack-request-id", ids.new_request_id().encode()),
        (b"connection", b"close"),
    ]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    return headers, body


def guarded_protocol(limits: HttpConfig) -> type[asyncio.Protocol]:
    """The web server's protocol with limits on connections, heads, and clients that do not read."""
    from httptools import HttpParserError
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

    class Guarded(HttpToolsProtocol):
        """Watches a connection while no application does: before a head is whole, and while writing is blocked."""

        _head: int | None = 0
        """Bytes of the head so far; None while there is no head to wait for."""
        _too_long = False
        _waiting: asyncio.TimerHandle | None = None
        _blocked: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._end(503, limits.retry_after_seconds)
            else:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._waiting, self._blocked):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            idle = self.cycle is None or self.cycle.response_complete
            if idle and self._waiting is None:
                self._await_head()
            super().data_received(data)
            if self._head is not None and not self.transport.is_closing():
                self._head += len(data)
                if self._head > limits.header_bytes:
                    self._end(431)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._head = 0

        def on_headers_complete(self) -> None:
            if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > limits.header_bytes:
                self._too_long = True
                raise HttpParserError("the head is too long")
            self._head = None
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            if self._too_long:
                self._end(431)
            else:
                super().send_400_response(msg)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._blocked = self.loop.call_later(limits.stall_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._blocked is not None:
                self._blocked.cancel()
                self._blocked = None

        def _await_head(self) -> None:
            self._waiting = self.loop.call_later(limits.header_seconds, self._late)

        def _late(self) -> None:
            self._waiting = None
            if self.cycle is None or self.cycle.response_complete:
                self._end(408)

        def _end(self, status: int, retry_after: int | None = None) -> None:
            headers, body = _refusal(status, retry_after)
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
            self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
            self.transport.close()

    return Guarded

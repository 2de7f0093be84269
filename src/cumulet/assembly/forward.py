# SPDX-License-Identifier: Apache-2.0
"""The front door of a cloud of many processes: hands each request to a process of its service, byte for byte.

Bodies stream both ways. The services see by ``X-Forwarded-Host`` and ``-Proto``
where their client is, so links and the catalogue name the front door. Which
process is asked, and what happens when it is gone, is `RemoteTransport`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from cumulet.assembly.config import METADATA
from cumulet.client.transport import RemoteReply, RemoteTransport
from cumulet.kernel.errors import Unavailable

_log = logging.getLogger(__name__)
_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
     b"transfer-encoding", b"upgrade")
)  # fmt: skip
"""Headers that belong to one connection (RFC 9110, 7.6.1)."""
_OURS = frozenset((b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-prefix", b"expect"))
_ANSWER_WITHIN = 300.0
"""Seconds without a byte after which an answer is given up."""


class Forward:
    """An ASGI application that is somewhere else."""

    def __init__(self, transport: RemoteTransport, name: str) -> None:
        self._transport, self._name = transport, name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await _websocket(self._transport, scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        first = await receive()
        if first["type"] == "http.disconnect":
            return
        body: bytes | AsyncIterator[bytes] = first.get("body", b"")
        if first.get("more_body"):
            body = _rest(first["body"], receive)
        headers = _headers(scope)
        if self._name != METADATA:  # there it is the guest's address, which its host signed
            headers["x-forwarded-for"] = (scope.get("client") or ("",))[0]
        try:
            reply = await self._transport.send(scope["method"], _target(scope), headers, body, timeout=_ANSWER_WITHIN)
        except Unavailable as error:
            _log.warning("%s %s: %s", scope["method"], scope["path"], error.message)
            await _refuse(send, self._name)
            return
        await self._answer(reply, scope, receive, send, streaming=not isinstance(body, bytes))

    async def _answer(self, reply: RemoteReply, scope: Any, receive: Any, send: Any, *, streaming: bool) -> None:
        headers = [(name.lower(), value) for name, value in reply.raw_headers if name.lower() not in _HOP]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        pieces = reply.pieces()
        # an answer without end (events) must not outlive its listener; a request that still streams is not ours to read
        gone = asyncio.create_task(_gone(receive)) if not streaming else None
        try:
            while True:
                following = asyncio.ensure_future(anext(pieces, None))
                waited = {following, gone} if gone is not None else {following}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
                    return
                piece = following.result()
                if piece is None:
                    break
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            if gone is not None:
                gone.cancel()
            await pieces.aclose()  # type: ignore[attr-defined]
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _target(scope: Any) -> str:
    """The path below the mount with its query, as the client wrote them."""
    path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def _headers(scope: Any) -> Any:
    """The client's headers, and where it is; what a client says about that itself does not count."""
    from multidict import CIMultiDict

    headers: CIMultiDict[str] = CIMultiDict()
    named = b"localhost"
    for name, value in scope["headers"]:
        if name == b"host":
            named = value
        if name not in _HOP and name not in _OURS:
            headers.add(name.decode("latin-1"), value.decode("latin-1"))
    headers["x-forwarded-host"] = named.decode("latin-1")
    headers["x-forwarded-proto"] = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    return headers


async def _rest(first: bytes, receive: Any) -> AsyncIterator[bytes]:
    """The request's body in pieces; raises when the client goes away, which is no end."""
    if first:
        yield first
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client went away")
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


async def _refuse(send: Any, name: str) -> None:
    body = f'{{"error": {{"code": 503, "title": "Service Unavailable", "message": "No {name} process answers."}}}}'
    headers = [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"retry-after", b"1"),
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


async def _websocket(transport: RemoteTransport, scope: Any, receive: Any, send: Any) -> None:
    """Carry a WebSocket's messages both ways until either side closes."""
    import aiohttp

    assert (await receive())["type"] == "websocket.connect"
    headers = {
        name: value for name, value in _headers(scope).items() if not name.lower().startswith("sec-websocket")
    }  # fmt: skip
    async with aiohttp.ClientSession() as session:
        far = None
        for url in transport.urls:
            try:
                wanted = tuple(scope.get("subprotocols", ()))
                far = await session.ws_connect(
                    url + _target(scope), headers=headers, protocols=wanted, ssl=transport.trusted or True
                )
                break
            except (aiohttp.ClientError, OSError) as error:
                _log.debug("websocket to %s: %s", url, error)
        if far is None:
            await send({"type": "websocket.close", "code": 1013})
            return
        await send({"type": "websocket.accept", "subprotocol": far.protocol})
        near = asyncio.create_task(_upwards(receive, far))
        code = 1000
        async for message in far:
            if message.type is aiohttp.WSMsgType.BINARY:
                await send({"type": "websocket.send", "bytes": message.data})
            elif message.type is aiohttp.WSMsgType.TEXT:
                await send({"type": "websocket.send", "text": message.data})
        code = far.close_code or 1000
        if not near.done():
            near.cancel()
            await send({"type": "websocket.close", "code": code if code != 1006 else 1011})
        await asyncio.gather(near, return_exceptions=True)


async def _upwards(receive: Any, far: Any) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("bytes") is not None:
            await far.send_bytes(message["bytes"])
        else:
            await far.send_str(message["text"])
    await far.close(code=message.get("code") or 1000)

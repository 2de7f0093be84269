# SPDX-License-Identifier: Apache-2.0
"""The metadata address of one network: plain HTTP from guests, handed on with the network's and guest's names.

(Importing this module imports aiohttp; the driver does so when it first needs it.)

Runs unprivileged, on a socket that the parent opened inside the network's
namespace. Invariant: whose request it is comes from the connection, never from
what the guest wrote; a guest can hold only a few connections, for a bounded
time, and move only a bounded number of bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from yarl import URL

from cumulet.network.drivers.model import MetadataPlan

log = logging.getLogger(__name__)

_CONNECTIONS = 128
"""Open connections per network."""
_PER_GUEST = 16
_LONGEST = 60.0
"""Seconds that a connection may live; clients open another."""
_ANSWER_WITHIN = 30.0
_REQUEST_BYTES = 64 * 1024
_ANSWER_BYTES = 8 * 1024 * 1024

ADDRESS, NETWORK, SIGNATURE = "X-Forwarded-For", "X-Neutron-Network-ID", "X-Cumulet-Signature"
HOST = "X-Cumulet-Host"
_PASSED_ON = ("Accept", "Content-Type", "User-Agent", "X-Metadata-Token", "X-Metadata-Token-TTL-Seconds")
"""The only headers of a guest that go further."""
_PASSED_BACK = ("Content-Type", "ETag", "Last-Modified")


def signature(secret: str, network_id: str, address: str) -> str:
    """HMAC-SHA256 (hex) over the network's id followed by the guest's address: proof that a driver asks."""
    return hmac.new(secret.encode(), f"{network_id}{address}".encode(), hashlib.sha256).hexdigest()


class _Bounded(web.Server):
    """An HTTP server that lets one guest hold few connections, and none for long."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(handler, access_log=None, keepalive_timeout=5.0, lingering_time=1.0)
        self._guests: Counter[str] = Counter()

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        guest = _peer(transport)
        self._guests[guest] += 1
        if self._guests[guest] > _PER_GUEST or self._guests.total() > _CONNECTIONS:
            asyncio.get_running_loop().call_soon(transport.abort)  # not before the handler has begun
        else:
            asyncio.get_running_loop().call_later(_LONGEST, transport.abort)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        if (transport := self._connections.get(handler)) is not None:
            guest = _peer(transport)
            self._guests[guest] -= 1
            if not self._guests[guest]:
                del self._guests[guest]
        super().connection_lost(handler, exc)


def _peer(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


class MetadataProxy:
    """Serves one listening socket until closed; ``plan`` may be exchanged at any time."""

    def __init__(self, network_id: str, listener: socket.socket, plan: MetadataPlan) -> None:
        listener.setblocking(False)
        self.plan = plan
        self._network_id = network_id
        self._listener = listener

    async def start(self) -> None:
        trusted = ssl.create_default_context(cafile=self.plan.ca) if self.plan.ca else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusted), timeout=aiohttp.ClientTimeout(total=_ANSWER_WITHIN),
            cookie_jar=aiohttp.DummyCookieJar(),
        )  # fmt: skip
        self._http = _Bounded(self._serve)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._http, sock=self._listener)

    async def close(self) -> None:
        self._server.close()
        await self._http.shutdown(1.0)
        await self._session.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        guest = _peer(request.transport) if request.transport else ""
        if request.method not in ("GET", "HEAD", "POST", "PUT"):
            return web.Response(status=405)
        if (request.content_length or 0) > _REQUEST_BYTES:
            return web.Response(status=413)
        body = bytearray()
        async for part in request.content.iter_chunked(16384):
            body += part
            if len(body) > _REQUEST_BYTES:
                return web.Response(status=413)
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers |= {
            ADDRESS: guest,
            NETWORK: self._network_id,
            HOST: self.plan.host,
            SIGNATURE: signature(self.plan.secret, self._network_id, guest),
            "Accept-Encoding": "identity",
        }
        url = self.plan.url.rstrip("/") + "/" + request.raw_path.lstrip("/")
        try:
            async with self._session.request(
                request.method, URL(url, encoded=True), headers=headers, data=bytes(body) or None, allow_redirects=False
            ) as answer:
                content = await answer.content.read(_ANSWER_BYTES + 1)
                while len(content) <= _ANSWER_BYTES and (part := await answer.content.read(_ANSWER_BYTES)):
                    content += part
                if len(content) > _ANSWER_BYTES:
                    return web.Response(status=502)
                back = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
                return web.Response(status=answer.status, body=content, headers=back)
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("metadata of network %s: %s", self._network_id, type(error).__name__)
            return web.Response(status=503)

# SPDX-License-Identifier: Apache-2.0
"""The entrance of a role process: who comes while it starts or ends is sent elsewhere, and nobody is lost.

A process that ends first goes on serving for a while and closes each connection
with its answer, so that clients with kept connections go to another process;
only then it takes no more. See `client.transport`, which is the other side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import orjson

from cumulet.assembly.health import DRAINING, STARTING, Health
from cumulet.client.transport import NOT_TAKEN


class Gate:
    """Wraps an ASGI application. ``url`` is the front door's, for links in answers to who came another way.

    ``proxies`` are the addresses that are believed about where a client is.
    """

    def __init__(self, app: Any, health: Health, url: str = "", proxies: Iterable[str] = ()) -> None:
        self._app, self._health, self._proxies = app, health, frozenset(proxies)
        self._address: list[tuple[bytes, bytes]] = []
        if url:
            parts = urlsplit(url)
            self._address = [
                (b"x-forwarded-host", parts.netloc.encode()),
                (b"x-forwarded-proto", parts.scheme.encode()),
                (b"x-forwarded-prefix", parts.path.rstrip("/").encode()),
            ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if scope["path"] in ("/healthz", "/readyz"):
                await _answer(send, *await self._health.answer(scope["path"]))
                return
            if self._health.state == STARTING:
                await _refuse(send)
                return
            if self._health.state == DRAINING:
                send = _closing(send)
        if (scope.get("client") or ("",))[0] in self._proxies:
            scope = _from_client(scope)
        if self._address and not any(name == b"x-forwarded-host" for name, _ in scope.get("headers", ())):
            scope = {**scope, "headers": [*scope["headers"], *self._address]}
        await self._app(scope, receive, send)


def _from_client(scope: Any) -> Any:
    """The request as if its client had come by itself: who spoke to the last proxy, as that says."""
    told = [value for name, value in scope.get("headers", ()) if name == b"x-forwarded-for"]
    address = told[-1].decode("latin-1").rpartition(",")[2].strip() if told else ""
    return {**scope, "client": (address, 0)} if address else scope


async def _refuse(send: Any) -> None:
    told = {"error": {"code": 503, "title": "Service Unavailable", "message": "This process is still starting."}}
    await _answer(send, 503, told, (NOT_TAKEN.encode(), b"starting"), (b"retry-after", b"1"))


async def _answer(send: Any, status: int, told: Any, *more: tuple[bytes, bytes]) -> None:
    body = orjson.dumps(told)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _closing(send: Any) -> Any:
    async def closing(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return closing

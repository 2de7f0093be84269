# SPDX-License-Identifier: Apache-2.0
"""A small web server on loopback that serves what a test gives it, and breaks as told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

LOOPBACK = {"web_networks": ["127.0.0.0/8"], "web_ports": [0]}
"""Settings with which the image service may read from it."""


@dataclass
class Site:
    """The server's content and habits."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    break_after: list[int] = field(default_factory=list)
    """Each download in turn stops after so many bytes."""
    etag: str = '"1"'
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range) of each GET."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        wanted = request.headers.get("Range")
        if request.method == "GET":
            self.asked.append((path, wanted))
        if path in self.redirects:
            return web.Response(status=302, headers={"Location": self.redirects[path]})
        if path not in self.files:
            return web.Response(status=404)
        data, status, headers = self.files[path], 200, {"ETag": self.etag}
        if wanted and request.headers.get("If-Range", self.etag) == self.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        headers["Content-Length"] = str(len(data))
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if self.break_after:
            await response.write(data[: self.break_after.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(data)
        await response.write_eof()
        return response


@asynccontextmanager
async def serving() -> AsyncIterator[dict[str, Any]]:
    """A server with what conversations download: ``$web`` in them is its URL."""
    async with site() as served:
        served.files["/ten"] = b"0123456789"
        served.redirects |= {"/moved": f"{served.url}/ten", "/round": f"{served.url}/round"}
        yield {"web": served.url}


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """A running server."""
    served = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", served.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listening = web.TCPSite(runner, "127.0.0.1", 0)
    await listening.start()
    server = listening._server
    assert server is not None
    port = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    served.url = f"http://127.0.0.1:{port}"
    try:
        yield served
    finally:
        await runner.cleanup()

# SPDX-License-Identifier: Apache-2.0
"""An ASGI application behind a real socket on loopback, as it is served in earnest."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve ``app`` on a free port; gives its URL."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))

    class Server(uvicorn.Server):
        def install_signal_handlers(self) -> None:
            """Signals are the test runner's."""

    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", http="httptools", ws="none", timeout_graceful_shutdown=1
    )
    server = Server(config)
    running = asyncio.create_task(server._serve(sockets=[bound]))
    try:
        async with asyncio.timeout(60):
            while not server.started:
                await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
        bound.close()

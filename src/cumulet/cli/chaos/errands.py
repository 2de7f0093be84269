# SPDX-License-Identifier: Apache-2.0
"""Operations of a storm that bring a flow to where a kill is aimed, however little its other users get done.

Invariant: nothing here is special to the cloud; what was accepted is promised
like everybody's, and what an errand leaves is the next one's, or is there at the
end. A server is attached to once only: flows pass points of a process under the
server's name, and are told apart twice at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from cumulet.cli.chaos.scenarios import Site
from cumulet.cli.chaos.users import Promises, id_of, make_volume

_AGAIN = 5.0
"""Seconds after which another flow is sent when none has come: the first met a process that was struck."""
_BOOTED_WITHIN = 120.0


class Errands:
    """Sends flows of one saga at a time, until it is told that it is enough."""

    def __init__(self, site: Site, promises: Promises) -> None:
        self._site, self._promises = site, promises
        self._whole: list[str] = []
        """Servers that have nothing attached."""
        self._used: list[str] = []
        self._enough = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._ways: dict[str, Callable[[], Awaitable[None]]] = {
            "compute.create_server": self._create,
            "compute.delete_server": self._delete,
            "compute.attach_volume": self._attach,
        }

    def begin(self, saga: str) -> None:
        """Send flows of this saga."""
        self._enough = asyncio.Event()
        task = asyncio.ensure_future(self._send(self._ways[saga], self._enough))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def enough(self) -> None:
        """Send no more; what was asked for goes on."""
        self._enough.set()

    async def ended(self) -> None:
        """Wait for the last answers."""
        await asyncio.gather(*self._under_way)

    async def _send(self, way: Callable[[], Awaitable[None]], enough: asyncio.Event) -> None:
        while not enough.is_set():
            try:
                await way()
            except (RuntimeError, KeyError, TypeError, LookupError) as error:
                self._promises.count(f"given up: {type(error).__name__}")
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN):
                    await enough.wait()

    async def _post(self) -> str | None:
        """A server that was accepted."""
        reply = await self._site.post_server({})
        server = id_of(reply, "server")
        accepted = self._promises.accepted("create server", f"/compute/v2.1/servers/{server}", reply.good)
        return str(server) if accepted else None

    async def _create(self) -> None:
        if (server := await self._post()) is not None:
            self._whole.append(server)

    async def _active(self) -> str | None:
        """A server that has nothing attached, taken from those that are there or new."""
        server = self._whole.pop(0) if self._whole else await self._post()
        if server is None:
            return None
        path = f"/compute/v2.1/servers/{server}"
        status = await self._site.user.until(path, "server", ["ACTIVE", "ERROR", "gone"], _BOOTED_WITHIN)
        if status != "ACTIVE":
            self._used.append(server)
        return server if status == "ACTIVE" else None

    async def _delete(self) -> None:
        server = self._used.pop(0) if self._used else await self._active()
        if server is not None:
            path = f"/compute/v2.1/servers/{server}"
            reply = await self._site.user.ask("DELETE", path)
            self._promises.accepted("delete server", path, reply.status == 204)

    async def _attach(self) -> None:
        server = await self._active()
        volume = await make_volume(self._site, self._promises) if server is not None else None
        if server is not None:
            self._used.append(server)
        if server is not None and volume is not None:
            reply = await self._site.attach({"server": server, "volume": volume})
            self._promises.count("attach", reply.good)

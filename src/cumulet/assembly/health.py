# SPDX-License-Identifier: Apache-2.0
"""Is this process well? What is wrong is said in words that name the thing, for `/readyz` and `cumulet roles`.

A process is ready when its databases, its bus and identity answer; another
service that does not answer is told and makes nobody unready, else one that is
down would take all others with it. A disk that is almost full is told, too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sqlalchemy import literal, select

from cumulet.assembly.space import almost_full
from cumulet.client.transport import RemoteTransport
from cumulet.kernel import clock
from cumulet.kernel.errors import Fault, Unavailable
from cumulet.kernel.loops import Loop
from cumulet.kernel.pools import Pool

if TYPE_CHECKING:
    from cumulet.assembly.build import Cloud

STARTING, READY, DRAINING = "starting", "ready", "draining"
_PATIENCE = 2.0
_FRESH = 1.0


class Health:
    """What is known of one process's health; asked often, looked at once a second at most."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.state = STARTING
        self.waiting_for = ""
        """What the start waits for."""
        self._looked_at = float("-inf")
        self._problems: list[str] = []
        self._warnings: list[str] = []
        self._looking = asyncio.Lock()
        self._disks = Pool("health", 1)

    def forget(self) -> None:
        """Look anew at the next question."""
        self._looked_at = float("-inf")

    async def look(self) -> dict[str, Any]:
        """``status`` (``ready`` or not), ``problems`` that make it unready, ``warnings`` that do not, and the roles."""
        async with self._looking:
            if clock.monotonic() - self._looked_at >= _FRESH:
                await self._look()
                self._looked_at = clock.monotonic()
        problems = list(self._problems)
        if self.state == STARTING:
            problems.insert(0, f"starting{': ' + self.waiting_for if self.waiting_for else ''}")
        elif self.state == DRAINING:
            problems.insert(0, "ending: no new requests are wanted")
        return {
            "status": "not ready" if problems else "ready",
            "state": self.state,
            "roles": sorted(self._cloud.roles),
            "problems": problems,
            "warnings": list(self._warnings),
        }

    async def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """What ``/healthz`` (it lives) and ``/readyz`` (it wants requests) answer: status and document."""
        told = await self.look()
        if path == "/healthz":
            return 200, {**told, "status": "alive"}
        return (200 if told["status"] == "ready" else 503), told

    async def _look(self) -> None:
        cloud = self._cloud
        needed = [self._database(name, database) for name, database in cloud.databases.items()]
        needed.append(self._bus())
        elsewhere = {name: one for name in cloud.config.endpoints if (one := self._remote(name)) is not None}
        others = [self._service(name, one) for name, one in elsewhere.items()]
        # all at once: a disk that hangs must not make whoever asks wait longer than a database that does
        told, answers, room = await asyncio.gather(asyncio.gather(*needed), asyncio.gather(*others), self._room())
        soft = dict(zip(elsewhere, answers, strict=True))
        self._problems = [one for one in (*told, soft.pop("identity", None)) if one]
        self._warnings = [one for one in soft.values() if one] + room
        for loop in cloud.tasks:
            if isinstance(loop, Loop) and loop.failures > 1:
                self._warnings.append(f"{loop.name} failed {loop.failures} times: {loop.last_error}")

    def _remote(self, name: str) -> RemoteTransport | None:
        transport = self._cloud.parts.transport(name)
        return transport if isinstance(transport, RemoteTransport) else None

    async def _database(self, name: str, database: Any) -> str | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await database.first(select(literal(1)))
        except Fault as fault:
            return f"database of {name}: {fault.message}"
        except TimeoutError:
            return f"database of {name}: no answer in {_PATIENCE:g} s"
        return None

    async def _bus(self) -> str | None:
        problem: str | None = getattr(self._cloud.bus, "problem", None)
        return f"bus: {problem}" if problem else None

    async def _room(self) -> list[str]:
        """The disks that are almost full; one that hangs is told as such."""
        try:
            return await self._disks.run(
                almost_full, self._cloud.data, self._cloud.config.free_percent, timeout=_PATIENCE
            )
        except TimeoutError:
            return [f"disk of {self._cloud.data}: no answer in {_PATIENCE:g} s"]

    async def _service(self, name: str, transport: RemoteTransport) -> str | None:
        """Whether any process of another service answers."""
        try:
            async with asyncio.timeout(_PATIENCE):
                reply = await transport.send("GET", "/", {"accept": "application/json"}, timeout=_PATIENCE)
                await reply.read()
        except Unavailable as error:
            return f"{name}: {error.message}"
        except TimeoutError:
            return f"{name}: no answer in {_PATIENCE:g} s"
        return f"{name}: answers {reply.status}" if reply.status >= 500 else None

# SPDX-License-Identifier: Apache-2.0
"""What a dead process costs: `python bench/failover.py [ROUNDS]`.

On a spread cloud of its own (two of each control role, one front door, two hosts,
PostgreSQL and RabbitMQ) each round kills one control process with SIGKILL while
clients of the front door read and write and servers are being built. Told: from
the first to the last failed request, in seconds after the kill; how long the
sagas that were in work then, in this process or its twin, stood still; and, for a killed host, how soon after
its agent was back its servers were ACTIVE or ERROR.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from cumulet.cli.chaos.backing import backing
from cumulet.cli.chaos.nursery import Nursery
from cumulet.cli.chaos.scenarios import Site, opened
from cumulet.cli.chaos.spread import Part, SpreadCloud
from cumulet.cli.chaos.user import User

READS = (
    "/compute/v2.1/servers", "/network/v2.0/networks", "/volume/v3/volumes", "/image/v2/images",
    "/placement/resource_providers", "/identity/v3/projects",
)  # fmt: skip
SAGAS = ("compute", "volume", "network", "image")
AWAY = 5.0
"""Seconds that a killed host is away."""


@dataclass
class Load:
    """A steady loop of requests by eight clients."""

    user: User
    sent: int = 0
    failed: list[tuple[float, str]] = field(default_factory=list)

    async def read(self, path: str) -> None:
        while True:
            await self._one("GET", path)

    async def write(self, number: int) -> None:
        while True:
            made = await self._one("POST", "/network/v2.0/networks", {"network": {"name": f"load-{number}"}})
            if made is not None:
                await self._one("DELETE", f"/network/v2.0/networks/{made['network']['id']}")

    async def _one(self, method: str, path: str, document: Any = None) -> Any:
        self.sent += 1
        reply = await self.user.ask(method, path, document)
        if reply.good:
            return reply.json
        self.failed.append((time.monotonic(), f"{method} {path} {reply.status}"))
        await asyncio.sleep(0.02)
        return None

    @asynccontextmanager
    async def steady(self) -> AsyncIterator[None]:
        clients = [asyncio.create_task(self.read(path)) for path in READS]
        clients += [asyncio.create_task(self.write(number)) for number in range(2)]
        try:
            await asyncio.sleep(0.5)
            yield
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def held_sagas(database: Any) -> dict[tuple[str, str], tuple[int, str, int]]:
    """The sagas that some process has in work: (service, id) → (generation, state, cursor)."""
    found = {}
    for service in SAGAS:
        rows = await database.fetch(
            f"SELECT id, generation, state, cursor FROM {service}.sagas WHERE owner IS NOT NULL AND state = 'ready'"
        )
        found |= {(service, row["id"]): (row["generation"], row["state"], row["cursor"]) for row in rows}
    return found


async def one_round(cloud: SpreadCloud, site: Site, database: Any, part: Part) -> tuple[int, int, float, int, float]:
    """Kill a control process; returns requests, failures, seconds until the last failure, sagas, their longest rest."""
    load = Load(site.admin)
    rests: list[float] = []
    async with load.steady():
        await asyncio.gather(*(site.post_server({}) for _ in range(6)))
        waiting = await held_sagas(database)
        held = len(waiting)
        killed = time.monotonic()
        await part.end()
        while waiting and time.monotonic() < killed + 30:
            now = {}
            for (service, saga_id), before in waiting.items():
                row = await database.fetchrow(
                    f"SELECT generation, state, cursor FROM {service}.sagas WHERE id = $1", saga_id
                )
                if row is not None and tuple(row) == before:
                    now[service, saga_id] = before
                else:
                    rests.append(time.monotonic() - killed)
            waiting = now
            await asyncio.sleep(0.02)
        await asyncio.sleep(max(0.0, killed + 5.0 - time.monotonic()))
    rests += [30.0] * len(waiting)
    await cloud.revive(part)
    await all_at_rest(site)
    last = max((at - killed for at, _ in load.failed), default=0.0)
    return load.sent, len(load.failed), last, held, max(rests, default=0.0)


async def at_rest(site: Site) -> list[dict[str, Any]]:
    """The servers, once each is ACTIVE or ERROR."""
    while True:
        servers = await site.user.servers()
        if all(one["status"] in ("ACTIVE", "ERROR") for one in servers):
            return servers
        await asyncio.sleep(0.05)


async def all_at_rest(site: Site) -> None:
    """Wait until every server is ACTIVE or ERROR, then delete them all."""
    for one in await at_rest(site):
        await site.user.ask("DELETE", f"/compute/v2.1/servers/{one['id']}")
    await site.user.when(lambda: none_left(site), 120)


async def none_left(site: Site) -> bool:
    return not await site.user.servers()


async def agent_round(cloud: SpreadCloud, site: Site, part: Part) -> tuple[float, dict[str, int]]:
    """Kill a host in the middle of builds, bring it back; returns how soon all was at rest, and how it ended."""
    await asyncio.gather(*(site.post_server({}) for _ in range(8)))
    await asyncio.sleep(0.3)
    await part.end()
    await asyncio.sleep(AWAY)
    await cloud.revive(part)
    back = time.monotonic()
    servers = await at_rest(site)
    took = time.monotonic() - back
    ends: dict[str, int] = {}
    for one in servers:
        ends[one["status"]] = ends.get(one["status"], 0) + 1
    await all_at_rest(site)
    return took, ends


async def measure(folder: Path, below: Any, rounds: int) -> None:
    async with Nursery() as nursery:
        cloud = SpreadCloud(folder / "spread", below.database, below.bus, launcher=nursery, halts=False)
        database = await asyncpg.connect(below.database)
        try:
            async with opened(cloud) as site:
                await all_at_rest(site)
                print(f"{'killed':<20}{'requests':>9}{'failed':>8}{'last after':>12}{'in work':>9}{'still for':>11}")
                for number in range(rounds):
                    part = cloud.control[number % len(cloud.control)]
                    sent, failed, last, held, rest = await one_round(cloud, site, database, part)
                    print(f"{part.label:<20}{sent:>9}{failed:>8}{last:>10.2f} s{held:>9}{rest:>9.2f} s", flush=True)
                for number in range(max(rounds // 2, 1)):
                    part = cloud.hosts[number % len(cloud.hosts)]
                    took, ends = await agent_round(cloud, site, part)
                    told = ", ".join(f"{count} {status}" for status, count in ends.items())
                    print(
                        f"{part.name} away for {AWAY:g} s: all at rest {took:.2f} s after it was back: {told}",
                        flush=True,
                    )
        finally:
            await database.close()


if __name__ == "__main__":
    options = {"database": None, "restart_database": None, "restart_broker": None}
    with tempfile.TemporaryDirectory(prefix="cumulet-bench-") as scratch, backing(options) as below:
        uvloop.run(measure(Path(scratch), below, int(sys.argv[1]) if sys.argv[1:] else 8))

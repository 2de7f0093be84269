# SPDX-License-Identifier: Apache-2.0
"""Many simulated hosts in a few processes: `python bench/hosts.py [PROCESSES [HOSTS EACH [SERVERS]]]`.

A spread cloud of its own (two of each control role); the agents of 4 processes
are 50 hosts each. Servers are created over all of them, 40 requests at a time,
and deleted again; then the checker looks. Told: how long each part took, where
the servers went, and how many transactions of the database idle seconds and a
server cost (looking at the servers while they come and go costs some, too).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from cumulet.cli.chaos import crowd
from cumulet.cli.chaos.backing import backing
from cumulet.cli.chaos.nursery import Nursery
from cumulet.cli.chaos.scenarios import opened
from cumulet.cli.chaos.spread import SpreadCloud


async def commits(database: Any) -> int:
    """Transactions since the server started."""
    await database.execute("SELECT pg_stat_clear_snapshot()")
    number: int = await database.fetchval("SELECT sum(xact_commit)::bigint FROM pg_stat_database")
    return number


class Watch:
    """Seconds and transactions between two looks."""

    def __init__(self, database: Any) -> None:
        self._database = database

    async def begin(self) -> None:
        self._at, self._commits = time.monotonic(), await commits(self._database)

    async def told(self, what: str, number: int = 0) -> None:
        seconds = time.monotonic() - self._at
        await asyncio.sleep(1.0)  # the database counts with a delay
        done = await commits(self._database) - self._commits
        each = f", {done / number:.0f} for each" if number else f", {done / seconds:.0f}/s"
        print(f"{what:<44}{seconds:>8.1f} s{done:>9} transactions{each}", flush=True)
        await self.begin()


async def measure(folder: Path, below: Any, processes: int, each: int, servers: int) -> bool:
    hosts = processes * each
    async with Nursery() as nursery:
        cloud = SpreadCloud(
            folder / "spread", below.database, below.bus, hosts=processes, each=each, launcher=nursery, halts=False
        )
        database = await asyncpg.connect(below.database)
        watch = Watch(database)
        try:
            await watch.begin()
            async with opened(cloud) as site:
                await watch.told(f"start, {processes} processes with {each} hosts each")
                await crowd.known(site, hosts, 300)
                await watch.told(f"{hosts} hosts known")
                await asyncio.sleep(20)
                await watch.told("20 idle seconds")
                where = await crowd.boot(site, servers, 900)
                await watch.told(f"{servers} servers ACTIVE", servers)
                print(
                    f"{'':<4}{len(where)} of {hosts} hosts have some, none more than {max(where.values())}", flush=True
                )
                await crowd.remove(site, 600)
                await watch.told(f"{servers} servers gone", servers)
                reply = await site.admin.need("GET", "/cumulet/v1/check")
                await watch.told(f"check: {'clean' if reply['clean'] else reply['findings'][:3]}")
                return bool(reply["clean"])
        finally:
            await database.close()


if __name__ == "__main__":
    given = [int(one) for one in sys.argv[1:]] + [4, 50, 220][len(sys.argv) - 1 :]
    options = {"database": None, "restart_database": None, "restart_broker": None}
    with tempfile.TemporaryDirectory(prefix="cumulet-bench-") as scratch, backing(options) as below:
        sys.exit(0 if uvloop.run(measure(Path(scratch), below, *given)) else 1)

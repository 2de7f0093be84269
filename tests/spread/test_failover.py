# SPDX-License-Identifier: Apache-2.0
"""One of two processes is killed or told to end: clients of the front door hardly see it, sagas go on."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.spread.processes import Process, Spread
from tests.spread.test_thread import image_of

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit, pytest.mark.asyncio(loop_scope="session")]

SLACK = 25.0
"""Seconds that a machine with more to do than this test may add; `python bench/failover.py` measures without."""
READS = (
    "/compute/v2.1/servers", "/network/v2.0/networks", "/volume/v3/volumes", "/image/v2/images",
    "/placement/resource_providers", "/identity/v3/projects",
)  # fmt: skip
CLIENTS = len(READS) + 2


@dataclass
class Load:
    """A steady loop of requests by several clients; remembers when which of them failed."""

    cloud: Spread
    sent: int = 0
    failed: list[tuple[float, str]] = field(default_factory=list)
    stopped: bool = False

    async def read(self, path: str) -> None:
        while not self.stopped:
            await self._one("GET", path, None)

    async def write(self, number: int) -> None:
        """Make and remove a network: neither may be lost, and neither done twice."""
        while not self.stopped:
            made = await self._one("POST", "/network/v2.0/networks", {"network": {"name": f"load-{number}"}})
            if made is not None:
                await self._one("DELETE", f"/network/v2.0/networks/{made['network']['id']}", None)

    async def _one(self, method: str, path: str, document: Any) -> Any:
        self.sent += 1
        try:
            reply = await self.cloud.request(method, path, document)
        except aiohttp.ClientError as error:
            self.failed.append((time.monotonic(), f"{method} {path}: {error!r}"))
            return None
        if reply.status >= 300:
            self.failed.append((time.monotonic(), f"{method} {path}: {reply.status} {reply.data[:200]!r}"))
            await asyncio.sleep(0.02)
            return None
        return reply.json if reply.data else None

    async def during(self, deed: Any) -> float:
        """Run all clients while ``deed`` is done; returns when it began."""
        clients = [asyncio.create_task(self.read(path)) for path in READS]
        clients += [asyncio.create_task(self.write(number)) for number in range(2)]
        assert len(clients) == CLIENTS
        try:
            await asyncio.sleep(0.3)
            began = time.monotonic()
            await deed()
        finally:
            self.stopped = True
            await asyncio.gather(*clients)
        return began


def one_of_two(cloud: Spread, role: str) -> Process:
    first, _ = [process for process in cloud.processes if role in process.roles]
    return first


@pytest.mark.parametrize("role", ["conductor", "compute-api"])
async def test_sigterm_loses_no_request(spread: Spread, role: str) -> None:
    process = one_of_two(spread, role)
    load = Load(spread)

    async def end() -> None:
        process.tell(signal.SIGTERM)
        assert await process.ended() == 0, process.said()[-3000:]
        await asyncio.sleep(0.5)

    await load.during(end)
    await spread.replace(process)
    assert load.sent > 30
    assert load.failed == []


async def held_sagas(database: str, service: str) -> dict[str, tuple[int, str | None, int]]:
    """The sagas that some engine has in work: id → (generation, state, cursor)."""
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            f"SELECT id, generation, state, cursor FROM {service}.sagas WHERE owner IS NOT NULL AND state = 'ready'"
        )
        return {row["id"]: (row["generation"], row["state"], row["cursor"]) for row in rows}
    finally:
        await connection.close()


async def saga_now(database: str, service: str, saga_id: str) -> tuple[int, str, int]:
    connection = await asyncpg.connect(database)
    try:
        row = await connection.fetchrow(f"SELECT generation, state, cursor FROM {service}.sagas WHERE id = $1", saga_id)
        return row["generation"], row["state"], row["cursor"]
    finally:
        await connection.close()


async def test_a_killed_conductor(spread: Spread) -> None:
    """Kill -9 in the middle of builds: requests in work at most fail, sagas go on, every server becomes ACTIVE.

    Whoever looks sees which process is dead.
    """
    image = await image_of(spread)
    flavors = (await spread.request("GET", "/compute/v2.1/flavors")).json["flavors"]
    flavor = next(one["id"] for one in flavors if one["name"] == "m1.nano")
    process = one_of_two(spread, "conductor")
    load = Load(spread)
    servers: list[str] = []
    late: list[float] = []

    async def create(number: int) -> None:
        wish = {"name": f"k{number}", "imageRef": image, "flavorRef": flavor, "networks": "none"}
        reply = await spread.request(
            "POST", "/compute/v2.1/servers", {"server": wish}, headers={"openstack-api-version": "compute 2.37"}
        )
        assert reply.status == 202, reply.data
        servers.append(reply.json["server"]["id"])

    async def kill() -> None:
        await asyncio.gather(*(create(number) for number in range(6)))
        process.tell(signal.SIGKILL)
        killed = time.monotonic()
        waiting = await held_sagas(spread.database, "compute")
        while waiting:
            for saga_id, before in list(waiting.items()):
                if await saga_now(spread.database, "compute", saga_id) != before:
                    del waiting[saga_id]
                    late.append(time.monotonic() - killed)
            assert time.monotonic() - killed < 5.0 + SLACK, waiting
            await asyncio.sleep(0.05)
        await asyncio.sleep(max(0.0, 3.0 - (time.monotonic() - killed)))

    began = await load.during(kill)
    for server in servers:
        await spread.settle(f"/compute/v2.1/servers/{server}", "server", ["ACTIVE"])
    assert not (await shown(spread, process.popen.pid, alive=False))["problems"]
    fresh = await spread.replace(process)
    told = await shown(spread, fresh.popen.pid, alive=True)
    assert (told["address"], set(told["roles"]), told["state"]) == (fresh.url, set(fresh.roles), "ready")
    errors = [at - began for at, _ in load.failed]
    assert len(errors) <= 2 * CLIENTS, load.failed  # what was in work, and one more each while it is noticed
    assert all(at < 2.0 + SLACK for at in errors), load.failed
    assert all(seconds < 5.0 + SLACK for seconds in late), late
    for server in servers:
        assert (await spread.request("DELETE", f"/compute/v2.1/servers/{server}")).status == 204
        await spread.gone(f"/compute/v2.1/servers/{server}")


async def shown(spread: Spread, pid: int, *, alive: bool) -> dict[str, Any]:
    """What `cumulet roles` reads about a process, once it shows as alive or dead."""
    deadline = time.monotonic() + 20
    while True:
        told = (await spread.request("GET", "/cumulet/v1/roles")).json["processes"]
        found: dict[str, Any] | None = next((one for one in told if one["pid"] == pid), None)
        if found is not None and found["alive"] == alive:
            return found
        assert time.monotonic() < deadline, told
        await asyncio.sleep(0.1)


async def test_a_revoked_token_is_refused_everywhere_within_a_second(spread: Spread) -> None:
    """Also by processes that have just seen it, and that ask another identity process than the one that revoked it."""
    control = [process for process in spread.processes if process.port and process.roles != ("front",)]
    paths = {"compute-api": "/compute/v2.1/servers", "network-api": "/network/v2.0/networks"}
    asked = [(process.url, path) for process in control for role, path in paths.items() if role in process.roles]
    assert len(asked) == 4
    for _ in range(2):
        token = await spread.login("demo", "demo")
        for base, path in asked:
            assert (await spread.request("GET", path, token=token, base=base)).status == 200
        headers = {"x-subject-token": token}
        gone = await spread.request("DELETE", "/identity/v3/auth/tokens", headers=headers)
        assert gone.status == 204
        await asyncio.sleep(1.0)
        answers = [(await spread.request("GET", path, token=token, base=base)).status for base, path in asked]
        assert answers == [401] * 4


async def test_readiness_in_words(spread: Spread) -> None:
    for process in spread.processes:
        if process.port is not None:
            told = await spread.request("GET", "/readyz", base=process.url)
            assert (told.status, told.json["problems"]) == (200, []), told.json
            assert set(told.json["roles"]) == set(process.roles)
            assert (await spread.request("GET", "/healthz", base=process.url)).status == 200

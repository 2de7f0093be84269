# SPDX-License-Identifier: Apache-2.0
"""One of two processes is killed or told to end: clients of the front door hardly see it, sagas go on."""

from __future__ import annotations

import asyncio
import inspect
import signal
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
import pytest

from cumulet.kernel import clock
from cumulet.kernel.saga.engine import SagaEngine
from tests.spread.processes import Process, Spread
from tests.spread.test_thread import image_of

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit, pytest.mark.asyncio(loop_scope="session")]

LEASE, LOOK = 3.5, 1.0
"""Seconds: of a saga's lease, and between two looks for those whose lease is over."""
ERRORS = 2.0
"""Seconds after a process has died from which on no request fails any more that is sent."""
SLACK = 25.0
"""Seconds that a machine with more to do than this test may add; `python bench/failover.py` measures without."""
NOTE = f"""
CREATE TABLE public.take_overs (saga text, dead text, lease_until float8, taken_at float8);
CREATE FUNCTION public.note_take_over() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.take_overs VALUES (OLD.id, OLD.owner, OLD.lease_until, NEW.lease_until - {LEASE});
    RETURN NEW;
END $$;
CREATE TRIGGER note_take_over AFTER UPDATE ON compute.sagas FOR EACH ROW
    WHEN (OLD.owner <> NEW.owner) EXECUTE FUNCTION public.note_take_over();
"""
READS = (
    "/compute/v2.1/servers", "/network/v2.0/networks", "/volume/v3/volumes", "/image/v2/images",
    "/placement/resource_providers", "/identity/v3/projects",
)  # fmt: skip
CLIENTS = len(READS) + 2


@dataclass
class Load:
    """A steady loop of requests by several clients; remembers when those that failed were sent."""

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
        sent_at = time.monotonic()
        try:
            reply = await self.cloud.request(method, path, document)
        except aiohttp.ClientError as error:
            self.failed.append((sent_at, f"{method} {path}: {error!r}"))
            return None
        if reply.status >= 300:
            self.failed.append((sent_at, f"{method} {path}: {reply.status} {reply.data[:200]!r}"))
            await asyncio.sleep(0.02)
            return None
        return reply.json if reply.data else None

    async def during(self, deed: Any) -> None:
        """Run all clients while ``deed`` is done."""
        clients = [asyncio.create_task(self.read(path)) for path in READS]
        clients += [asyncio.create_task(self.write(number)) for number in range(2)]
        assert len(clients) == CLIENTS
        try:
            await asyncio.sleep(0.3)
            await deed()
        finally:
            self.stopped = True
            await asyncio.gather(*clients)


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


@dataclass(frozen=True)
class TakeOver:
    """A saga that passed from one engine to another without having been given back; times are the clock's."""

    saga: str
    dead: str
    lease_until: float
    taken_at: float


class Journal:
    """The sagas of compute as their table tells, and each take-over, noted by the database as it happens."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def noted(cls, database: str) -> AsyncIterator[Journal]:
        connection = await asyncpg.connect(database)
        try:
            await connection.execute(NOTE)
            yield cls(connection)
            await connection.execute("DROP FUNCTION public.note_take_over CASCADE; DROP TABLE public.take_overs")
        finally:
            await connection.close()

    async def held(self) -> dict[str, str]:
        """What is in work now: saga → the engine that has it."""
        rows = await self._connection.fetch(
            "SELECT id, owner FROM compute.sagas WHERE owner IS NOT NULL AND state = 'ready'"
        )
        return {row["id"]: row["owner"] for row in rows}

    async def over(self, sagas: Iterable[str]) -> bool:
        """Whether these sagas have all ended."""
        query = "SELECT count(*) FROM compute.sagas WHERE id = ANY($1::text[]) AND state = 'ready'"
        return not await self._connection.fetchval(query, list(sagas))

    async def take_overs(self) -> list[TakeOver]:
        rows = await self._connection.fetch("SELECT saga, dead, lease_until, taken_at FROM public.take_overs")
        return [TakeOver(**row) for row in rows]


async def stopped_in_work(spread: Spread, journal: Journal, process: Process, begin: Any) -> dict[str, str]:
    """Begin work until both engines have some, and stop the process then; what is in work, and whose."""
    for _ in range(10):
        await begin()
        process.tell(signal.SIGSTOP)
        held = await journal.held()
        await asyncio.sleep(0.2)  # what the database was told before still becomes true
        held = {saga: owner for saga, owner in (await journal.held()).items() if held.get(saga) == owner}
        if len(set(held.values())) == 2:  # there are two engines, so each has something, the stopped one, too
            return held
        process.tell(signal.SIGCONT)
        deadline = time.monotonic() + 120
        while not await journal.over(held):
            assert time.monotonic() < deadline, held
            await asyncio.sleep(0.05)
    raise AssertionError("work never went to both processes")


@pytest.mark.timeout(1500)
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
    killed_at = 0.0

    async def create(number: int) -> None:
        wish = {"name": f"k{number}", "imageRef": image, "flavorRef": flavor, "networks": "none"}
        reply = await spread.request(
            "POST", "/compute/v2.1/servers", {"server": wish}, headers={"openstack-api-version": "compute 2.37"}
        )
        assert reply.status == 202, reply.data
        servers.append(reply.json["server"]["id"])

    async def begin() -> None:
        await asyncio.gather(*(create(number) for number in range(6)))

    async with Journal.noted(spread.database) as journal:

        async def kill() -> None:
            nonlocal killed_at
            held = await stopped_in_work(spread, journal, process, begin)
            stopped = clock.now()
            process.tell(signal.SIGKILL)
            killed_at = time.monotonic()
            while True:
                owners = (await journal.held()).values()  # read first: who has none left there has all passed on below
                taken = await journal.take_overs()
                if taken and taken[0].dead not in owners:
                    break
                assert time.monotonic() < killed_at + 60 + SLACK, (taken, owners)
                await asyncio.sleep(0.05)
            await asyncio.sleep(max(0.0, killed_at + 3.0 - time.monotonic()))
            assert len({one.dead for one in taken}) == 1, taken
            assert {one.saga for one in taken} >= {saga for saga, owner in held.items() if owner == taken[0].dead}
            for one in taken:
                assert one.taken_at >= one.lease_until, "never while the other may still work"
                assert one.lease_until - stopped <= LEASE, one
                assert one.taken_at - one.lease_until <= LOOK + SLACK, one

        await load.during(kill)
    for server in servers:
        await spread.settle(f"/compute/v2.1/servers/{server}", "server", ["ACTIVE"])
    assert not (await shown(spread, process.popen.pid, alive=False))["problems"]
    fresh = await spread.replace(process)
    told = await shown(spread, fresh.popen.pid, alive=True)
    assert (told["address"], set(told["roles"]), told["state"]) == (fresh.url, set(fresh.roles), "ready")
    assert len(load.failed) <= 2 * CLIENTS, load.failed  # what was in work, and one more each while it is noticed
    late = [one for one in load.failed if one[0] > killed_at + ERRORS]
    assert late == [], "what is sent later than that finds the other process"
    for server in servers:
        assert (await spread.request("DELETE", f"/compute/v2.1/servers/{server}")).status == 204
        await spread.gone(f"/compute/v2.1/servers/{server}")


async def test_the_limits_add_up() -> None:
    """Sagas of a dead process move on within five seconds: what is left of its lease, and the next look."""
    told = inspect.signature(SagaEngine).parameters["lease"].default
    assert told == LEASE
    assert LEASE + LOOK <= 5.0


async def shown(spread: Spread, pid: int, *, alive: bool) -> dict[str, Any]:
    """What `cumulet roles` reads about a process, once it shows as alive or dead."""
    deadline = time.monotonic() + 60
    while True:
        told = (await spread.request("GET", "/cumulet/v1/roles")).json["processes"]
        found: dict[str, Any] | None = next((one for one in told if one["pid"] == pid), None)
        if found is not None and found["alive"] == alive:
            return found
        assert time.monotonic() < deadline, told
        await asyncio.sleep(0.1)


async def test_a_revoked_token_is_refused_everywhere(spread: Spread) -> None:
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
        async with asyncio.timeout(60):  # usually a second: each process listens at the feed
            for base, path in asked:
                while (await spread.request("GET", path, token=token, base=base)).status != 401:
                    await asyncio.sleep(0.02)


async def test_readiness_in_words(spread: Spread) -> None:
    for process in spread.processes:
        if process.port is not None:
            told = await spread.request("GET", "/readyz", base=process.url)
            assert (told.status, told.json["problems"]) == (200, []), told.json
            assert set(told.json["roles"]) == set(process.roles)
            assert (await spread.request("GET", "/healthz", base=process.url)).status == 200

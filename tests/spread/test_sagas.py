# SPDX-License-Identifier: Apache-2.0
"""Engines in several processes on one database: who starts a saga need not run it, and who dies is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import MetaData, select

from cumulet.kernel.bus import MemoryBus
from cumulet.kernel.db import Transaction
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.saga import Ear, Run, Saga, SagaEngine, Step, Wait, saga_table
from cumulet.kernel.secrets import Seal


class Params(msgspec.Struct):
    pass


class Site:
    """One database, one bus, and engines that would each be a process; what they did, in order."""

    def __init__(self, folder: Path) -> None:
        metadata = MetaData()
        self.table, self.metadata = saga_table(metadata), metadata
        self.database = SqliteDatabase(folder / "x.db")
        self.bus = MemoryBus()
        self.done: list[str] = []
        self.entered, self.may_go, self.is_true = asyncio.Event(), asyncio.Event(), False
        self.started: list[Any] = []

    def engine(self, name: str) -> tuple[SagaEngine, Ear]:
        async def hold(run: Run) -> None:
            self.done.append(f"{name} holds")
            self.entered.set()
            await self.may_go.wait()

        async def look(run: Run) -> None:
            if not self.is_true:
                self.entered.set()
                await self.may_go.wait()
                raise Wait(600)
            self.done.append(f"{name} sees")

        sagas = [Saga("hold", Params, (Step("hold", hold),)), Saga("look", Params, (Step("look", look),))]
        engine = SagaEngine(self.database, self.table, sagas, world=None, seal=Seal("k"), component=name)
        return engine, Ear(engine, self.bus, "test", name)

    async def start(self, name: str) -> SagaEngine:
        engine, ear = self.engine(name)
        for one in (engine, ear):
            await one.start()
            self.started.append(one)
        return engine

    async def begin(self, engine: SagaEngine, saga: str) -> str:
        async def body(tx: Transaction) -> str:
            return await engine.start_saga(tx, saga, subject="s", params=Params())

        return await self.database.run(body)

    async def ended(self, saga_id: str) -> None:
        async with asyncio.timeout(60):
            while True:
                row = await self.database.first(select(self.table.c.state).where(self.table.c.id == saga_id))
                if row is not None and row["state"] == "done":
                    return
                await asyncio.sleep(0.01)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    await ensure_schema(made.database, made.metadata, None)
    yield made
    made.may_go.set()
    for one in reversed(made.started):
        await one.stop()
    await made.bus.close()
    await made.database.close()


async def test_an_api_without_an_engine_pokes_one(site: Site) -> None:
    """It does not wait for the engine's own look, once a second."""
    runs = await site.start("conductor")
    runs.loop.every = 3600.0
    await asyncio.sleep(0)
    api, _ = site.engine("api")
    site.is_true = True
    await site.ended(await site.begin(api, "look"))
    assert site.done == ["conductor sees"]


async def test_what_one_hears_another_that_runs_it_is_told(site: Site) -> None:
    """A saga that is about to wait for ten minutes looks again, because somebody else heard that it may."""
    one = await site.start("one")
    saga_id = await site.begin(one, "look")
    async with asyncio.timeout(60):
        await site.entered.wait()  # it has looked in vain, and does not know yet what comes
    two = await site.start("two")
    site.is_true = True
    two.poke(saga_id)
    await asyncio.sleep(0.1)
    site.may_go.set()
    await site.ended(saga_id)
    assert site.done == ["one sees"]


async def test_the_sagas_of_the_dead_go_on_within_five_seconds(site: Site) -> None:
    dead, ear = site.engine("dead")
    await dead.start()
    saga_id = await site.begin(dead, "hold")
    async with asyncio.timeout(60):
        await site.entered.wait()
    # as a killed process does: nothing more, and nothing is given back
    await dead.loop.stop()
    frozen = [task for task in asyncio.all_tasks() if task.get_name() == f"saga {saga_id}"]
    for task in [*frozen, *(one for one in asyncio.all_tasks() if "_keep" in repr(one.get_coro()))]:
        task.cancel()
    await asyncio.gather(*frozen, return_exceptions=True)
    site.may_go.set()
    living = await site.start("living")
    assert living._lease + living.loop.every <= 5.0
    await site.ended(saga_id)
    assert site.done == ["dead holds", "living holds"]
    assert ear is not None


async def test_what_a_newer_release_began_is_left_to_it(site: Site) -> None:
    """While an upgrade goes on, a process that is older neither runs it nor holds it up."""

    class Newer(msgspec.Struct):
        must: str

    async def work(run: Run) -> None:
        site.done.append(f"{run.saga} {run.params}")

    def engine(*sagas: Saga) -> SagaEngine:
        return SagaEngine(site.database, site.table, sagas, world=None, seal=Seal("k"), component="x")

    async def row(saga_id: str) -> dict[str, Any]:
        found = await site.database.first(select(site.table).where(site.table.c.id == saga_id))
        assert found is not None
        return found

    first, second = Saga("s", Params, (Step("work", work),)), Saga("s", Params, (Step("work", work),), version=2)
    changed = Saga("changed", Newer, (Step("work", work),))
    newer, older = engine(first, second, Saga("changed", Params, (Step("work", work),))), engine(first, changed)
    version, unreadable = await site.begin(newer, "s"), await site.begin(newer, "changed")
    await older.settle()
    assert site.done == []
    assert [(await row(one))["owner"] for one in (version, unreadable)] == [None, None]
    assert (await row(version))["generation"] == 0, "it was not even taken"
    assert (await row(unreadable))["wake_at"] > (await row(unreadable))["updated_at"] + 50, "and not at once again"
    newer.poke(unreadable)
    await newer.settle()
    assert site.done == ["changed Params()", "s Params()"] or site.done == ["s Params()", "changed Params()"]
    assert [(await row(one))["state"] for one in (version, unreadable)] == ["done", "done"]

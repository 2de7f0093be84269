# SPDX-License-Identifier: Apache-2.0
"""The engine's patience: what counts as a step's time, and what becomes of errors outside the steps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import MetaData, Table

from cumulet.kernel import clock
from cumulet.kernel.clock import FakeClock
from cumulet.kernel.db import Transaction
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.saga import Cancelled, Failed, RetryFrom, Run, Saga, SagaEngine, Step, Wait, saga_table
from cumulet.kernel.secrets import Seal


class Params(msgspec.Struct):
    name: str = ""


class Bench:
    """One database, one saga, a clock that the test moves."""

    def __init__(self, database: SqliteDatabase, table: Table, time: FakeClock) -> None:
        self.database, self.table, self.time = database, table, time

    def engine(self, saga: Saga) -> SagaEngine:
        return SagaEngine(self.database, self.table, [saga], world=None, seal=Seal("k"), component="t", sole=True)

    async def begin(self, saga: Saga) -> SagaEngine:
        engine = self.engine(saga)

        async def body(tx: Transaction) -> None:
            await engine.start_saga(tx, saga.name, subject="s", params=Params())

        await self.database.run(body)
        return engine

    async def row(self) -> Any:
        row = await self.database.first(self.table.select())
        assert row is not None
        return row

    async def cancel(self, engine: SagaEngine) -> None:
        saga_id = (await self.row())["id"]
        await self.database.run(lambda tx: engine.cancel(tx, saga_id))

    async def to_its_end(self, engine: SagaEngine, *, longest: float = 3600.0) -> str:
        """Run until the saga is over, or for ``longest`` seconds; returns its state."""
        end = self.time.now() + longest
        while True:
            await engine.settle()
            row = await self.row()
            if row["state"] != "ready" or self.time.now() > end:
                state: str = row["state"]
                return state
            await self.time.advance(max(row["wake_at"] - self.time.now(), 0.05))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    time = FakeClock()
    clock.use(time)
    metadata = MetaData()
    table = saga_table(metadata)
    database = SqliteDatabase(tmp_path / "x.db", inline=True)
    await ensure_schema(database, metadata, None)
    yield Bench(database, table, time)
    await database.close()
    clock.use(clock.SystemClock())


@pytest.mark.parametrize("sole", [True, False])
async def test_time_without_a_process_does_not_count(bench: Bench, sole: bool) -> None:
    looks = 0

    async def patient(run: Run) -> None:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise Wait(5)

    saga = Saga("test.late", Params, (Step("a", patient, within=60.0),))
    engine = await bench.begin(saga)
    await engine.settle()
    assert looks == 1
    await bench.time.advance(1000.0)
    engine = bench.engine(saga)
    if sole:
        await engine.journal.release_all()
    assert await bench.to_its_end(engine) == "done"


async def test_a_process_killed_in_a_step_leaves_it_the_rest_of_its_time(bench: Bench) -> None:
    begun: list[float] = []

    async def slow(run: Run) -> None:
        begun.append(run.since)
        if len(begun) == 1:
            await bench.time.advance(20.0)  # 20 s of work, its lease kept all the while
            raise KeyboardInterrupt  # as a kill would end it
        raise Wait(1)

    saga = Saga("test.killed", Params, (Step("a", slow, within=60.0),))
    engine = await bench.begin(saga)
    start = bench.time.now()
    with pytest.raises(KeyboardInterrupt):
        await engine.settle()
    await bench.time.advance(1000.0)
    engine = bench.engine(saga)
    await engine.journal.release_all()
    assert await bench.to_its_end(engine) == "failed"
    assert bench.time.now() - start == pytest.approx(1060.0, abs=10.0)


async def test_time_with_a_process_counts(bench: Bench) -> None:
    async def never(run: Run) -> None:
        raise Wait(7)

    engine = await bench.begin(Saga("test.never", Params, (Step("a", never, within=60.0),)))
    start = bench.time.now()
    assert await bench.to_its_end(engine) == "failed"
    assert 60.0 < bench.time.now() - start < 70.0


async def _refuse(run: Run) -> None:
    raise Failed("no")


@pytest.mark.parametrize(("broken", "end"), [(3, "failed"), (1000, "stuck")])
@pytest.mark.parametrize("where", ["hook", "commit"])
async def test_an_error_while_telling_of_the_failure(bench: Bench, broken: int, end: str, where: str) -> None:
    told: list[str] = []
    calls = 0

    async def on_failed(run: Run, failed: Failed) -> None:
        async def body(tx: Transaction) -> None:
            nonlocal calls
            calls += 1
            if calls <= broken:
                raise LookupError("volume gone")

        if where == "hook":
            await body(None)  # type: ignore[arg-type]
        else:
            run.commit(body)

    async def on_stuck(run: Run, why: str) -> None:
        told.append(why)

    saga = Saga("test.on_failed", Params, (Step("a", _refuse),), on_failed=on_failed, on_stuck=on_stuck)
    engine = await bench.begin(saga)
    assert await bench.to_its_end(engine) == end
    assert calls < 20
    assert engine.stuck == len(told) == (end == "stuck")


async def test_a_hook_that_can_not_say_stuck_stops_nothing(bench: Bench) -> None:
    async def broken(run: Run, _: Any) -> None:
        raise LookupError("broken")

    saga = Saga("test.on_stuck", Params, (Step("a", _refuse),), on_failed=broken, on_stuck=broken)
    assert await bench.to_its_end(await bench.begin(saga)) == "stuck"


async def test_a_commit_that_raises_is_an_error_of_its_step(bench: Bench) -> None:
    calls: list[str] = []

    async def do(run: Run) -> None:
        async def body(tx: Transaction) -> None:
            calls.append("body")
            raise LookupError("row gone")

        run.commit(body)

    async def undo(run: Run) -> None:
        calls.append("undo")

    engine = await bench.begin(Saga("test.commit", Params, (Step("a", do, undo, within=30.0),)))
    assert await bench.to_its_end(engine) == "failed"
    assert "row gone" in (await bench.row())["error"]["message"]
    assert calls.count("undo") == 1
    assert 3 < calls.count("body") < 20


async def test_a_step_that_raised_has_committed_nothing(bench: Bench) -> None:
    written: list[int] = []

    async def do(run: Run) -> None:
        tries = run.tries

        async def body(tx: Transaction) -> None:
            written.append(tries)

        run.commit(body)
        if tries < 2:
            raise ConnectionError("later")

    assert await bench.to_its_end(await bench.begin(Saga("test.half", Params, (Step("a", do),)))) == "done"
    assert written == [2]


async def test_a_cancel_that_comes_with_a_retry_is_not_lost(bench: Bench) -> None:
    seen: list[Failed] = []

    async def elsewhere(run: Run) -> None:
        if run.attempt == 1:
            await bench.cancel(engine)
            raise RetryFrom("a", "another host")

    async def on_failed(run: Run, failed: Failed) -> None:
        seen.append(failed)

    engine = await bench.begin(Saga("test.retry", Params, (Step("a", elsewhere),), on_failed=on_failed))
    assert await bench.to_its_end(engine) == "failed"
    assert [type(one) for one in seen] == [Cancelled]


async def test_a_cancelled_saga_is_one_in_the_next_process(bench: Bench) -> None:
    seen: list[Failed] = []
    undone = 0

    async def wait(run: Run) -> None:
        raise Wait(5)

    async def undo(run: Run) -> None:
        nonlocal undone
        undone += 1
        if undone == 1:
            raise Wait(5)

    async def on_failed(run: Run, failed: Failed) -> None:
        seen.append(failed)

    saga = Saga("test.cancelled", Params, (Step("a", wait, undo),), on_failed=on_failed)
    engine = await bench.begin(saga)
    await engine.settle()
    await bench.cancel(engine)
    await engine.settle()
    assert await bench.to_its_end(bench.engine(saga)) == "failed"
    assert [type(one) for one in seen] == [Cancelled]

# SPDX-License-Identifier: Apache-2.0
"""The engine and its harness: sound sagas pass, each kind of unsound one is caught."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import MetaData

from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.saga import RetryFrom, Run, Saga, SagaEngine, Step, Wait, saga_table
from cumulet.kernel.saga.engine import Hooks
from cumulet.kernel.saga.soundness import World, assert_sound
from cumulet.kernel.secrets import Seal


class Params(msgspec.Struct):
    name: str


class Things:
    """The outside world of the test: a set of things that exist."""

    def __init__(self) -> None:
        self.exist: list[str] = []
        self.looks = 0


async def _make(run: Run) -> str:
    thing = f"{run.params.name}-a"
    if thing not in run.world.exist:
        run.world.exist.append(thing)
    return thing


async def _unmake(run: Run) -> None:
    thing = f"{run.params.name}-a"
    if thing in run.world.exist:
        run.world.exist.remove(thing)


async def _make_slowly(run: Run) -> None:
    run.world.looks += 1
    if "b" not in run.world.exist:
        run.world.exist.append("b")
        raise Wait(5)


async def _drop_b(run: Run) -> None:
    run.world.exist[:] = [one for one in run.world.exist if one != "b"]


async def _nothing(run: Run) -> None:
    return None


SOUND = Saga("test.sound", Params, (Step("a", _make, _unmake), Step("b", _make_slowly, _drop_b), Step("end", _nothing)))


def _worlds(saga: Saga, folder: Path) -> Any:
    counter = iter(range(10_000))

    @asynccontextmanager
    async def make() -> AsyncIterator[World]:
        metadata = MetaData()
        table = saga_table(metadata)
        database = SqliteDatabase(folder / f"{next(counter)}.db", inline=True)
        await ensure_schema(database, metadata, None)
        things = Things()

        class TestWorld:
            def engine(self, hooks: Hooks) -> SagaEngine:
                return SagaEngine(
                    database, table, [saga], world=things, seal=Seal("k"), component="t", sole=True, hooks=hooks
                )

            async def begin(self, engine: SagaEngine) -> str:
                return await database.run(lambda tx: engine.start_saga(tx, saga.name, subject="s", params=Params("x")))

            async def cancel(self, engine: SagaEngine, saga_id: str) -> None:
                await database.run(lambda tx: engine.cancel(tx, saga_id))

            async def assert_finished(self) -> None:
                assert sorted(things.exist) == ["b", "x-a"], things.exist

            async def assert_clean(self) -> None:
                assert things.exist == []

        yield TestWorld()
        await database.close()

    return make


async def test_a_sound_saga_passes_every_scenario(tmp_path: Path) -> None:
    titles = await assert_sound(SOUND, _worlds(SOUND, tmp_path))
    assert len(titles) == 2 + 3 * 3 + 3 * 4 + 3 * 3 + 2


async def test_a_step_that_makes_twice_is_caught(tmp_path: Path) -> None:
    async def always_make(run: Run) -> None:
        run.world.exist.append("x-a")

    saga = Saga("test.twice", Params, (Step("a", always_make, _unmake), *SOUND.steps[1:]))
    with pytest.raises(AssertionError, match="each step twice"):
        await assert_sound(saga, _worlds(saga, tmp_path))


async def test_a_missing_undo_is_caught(tmp_path: Path) -> None:
    saga = Saga("test.leak", Params, (Step("a", _make), *SOUND.steps[1:]))
    with pytest.raises(AssertionError, match="failure worked a"):
        await assert_sound(saga, _worlds(saga, tmp_path))


async def test_an_undo_that_insists_on_work_is_caught(tmp_path: Path) -> None:
    async def strict(run: Run) -> None:
        run.world.exist.remove("x-a")

    saga = Saga("test.strict", Params, (Step("a", _make, strict), *SOUND.steps[1:]))
    with pytest.raises(AssertionError):
        await assert_sound(saga, _worlds(saga, tmp_path))


async def test_retry_from_unwinds_and_goes_on_as_a_new_attempt(tmp_path: Path) -> None:
    seen: list[tuple[int, list[str]]] = []

    async def second(run: Run) -> None:
        seen.append((run.attempt, list(run.world.exist)))
        run.notes.setdefault("tried", [])
        if run.attempt < 3:
            raise RetryFrom("a", "no luck", tried=f"host{run.attempt}")
        await _make_slowly(run)

    saga = Saga("test.retry", Params, (Step("a", _make, _unmake), Step("b", second, _drop_b), Step("end", _nothing)))
    await assert_sound(saga, _worlds(saga, tmp_path))
    assert [attempt for attempt, _ in seen[:3]] == [1, 2, 3]
    assert all(exist == ["x-a"] for _, exist in seen[:3])

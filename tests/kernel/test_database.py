# SPDX-License-Identifier: Apache-2.0
"""One suite over both databases: what a transaction promises holds on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, MetaData, String, Table, func, select, text

from cumulet.cli.chaos.relay import Relay, database_of, dsn_through
from cumulet.kernel.db import Database, Duplicate, Json, Time, Transaction, outside_transaction
from cumulet.kernel.db.postgres import PostgresDatabase
from cumulet.kernel.db.schema import SchemaTooNew, ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.errors import Invalid, Unavailable

METADATA = MetaData()
THINGS = Table(
    "things", METADATA,
    Column("id", String(36), primary_key=True),
    Column("count", Integer, nullable=False, server_default="0"),
    Column("document", Json),
    Column("flag", Boolean),
    Column("at", Time),
    Index("ix_things_count", "count"),
)  # fmt: skip
PARTS = Table(
    "parts", METADATA,
    Column("id", String(36), primary_key=True),
    Column("thing_id", ForeignKey("things.id"), nullable=False),
)  # fmt: skip


@pytest.fixture(params=["sqlite", "inline", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    opened: Any
    if request.param == "postgresql":
        opened = await PostgresDatabase.connect(request.getfixturevalue("postgres"), f"s{abs(hash(tmp_path)) % 10**9}")
    else:
        opened = SqliteDatabase(tmp_path / "x.db", inline=request.param == "inline")
    await ensure_schema(opened, METADATA, None)
    yield opened
    await opened.close()


async def _add(database: Database, id: str, **values: Any) -> None:
    async def body(tx: Transaction) -> None:
        await tx.insert(THINGS, {"id": id, **values})

    await database.run(body)


async def test_values_come_back_as_they_went_in(database: Database) -> None:
    document = {"list": [1, "two", None], "text": "ü — 'quoted' \"double\" :colon"}
    await _add(database, "a", count=3, document=document, flag=True, at=1_700_000_000.123456)
    row = await database.first(select(THINGS).where(THINGS.c.id == "a"))
    assert row == {"id": "a", "count": 3, "document": document, "flag": True, "at": 1_700_000_000.123456}
    await _add(database, "b")
    row = await database.first(select(THINGS).where(THINGS.c.id == "b"))
    assert row == {"id": "b", "count": 0, "document": None, "flag": None, "at": None}


@pytest.mark.parametrize(
    "values", [{"id": "a\0b"}, {"id": "x" * 37}, {"id": "c", "count": 2**31}, {"id": "d", "count": 2**65}], ids=repr
)
async def test_what_no_column_holds_is_the_requests_mistake(database: Database, values: dict[str, Any]) -> None:
    if database.dialect == "postgresql":
        with pytest.raises(Invalid):
            await _add(database, **values)
    elif values.get("count", 0) < 2**63:
        await _add(database, **values)  # the other database holds it
    await _add(database, "after")
    assert await database.all(select(THINGS.c.id).where(THINGS.c.id == "after")) == [{"id": "after"}]


async def test_nothing_is_found_by_what_no_column_holds(database: Database) -> None:
    wanted = select(THINGS.c.id).where(THINGS.c.id == "a\0b")
    if database.dialect == "postgresql":
        with pytest.raises(Invalid):
            await database.first(wanted)
    else:
        assert await database.first(wanted) is None


async def test_lists_of_any_length_in_one_statement(database: Database) -> None:
    for name in "abcde":
        await _add(database, name)
    for wanted in (["a"], ["a", "c", "e"], [], ["nobody"]):
        rows = await database.all(select(THINGS.c.id).where(THINGS.c.id.in_(wanted)).order_by(THINGS.c.id))
        assert [row["id"] for row in rows] == [one for one in wanted if one != "nobody"]


async def test_a_failing_body_leaves_nothing(database: Database) -> None:
    async def body(tx: Transaction) -> None:
        await tx.insert(THINGS, {"id": "a"})
        raise LookupError("no")

    with pytest.raises(LookupError):
        await database.run(body)
    assert await database.all(select(THINGS)) == []


async def test_a_duplicate_is_told_and_may_be_caught_inside(database: Database) -> None:
    await _add(database, "a")
    with pytest.raises(Duplicate):
        await _add(database, "a")

    async def body(tx: Transaction) -> int:
        try:
            await tx.insert(THINGS, {"id": "a"})
        except Duplicate:
            return await tx.run(THINGS.update().where(THINGS.c.id == "a").values(count=THINGS.c.count + 7))
        return 0

    assert await database.run(body) == 1
    row = await database.first(select(THINGS.c.count).where(THINGS.c.id == "a"))
    assert row == {"count": 7}


async def test_foreign_keys_hold(database: Database) -> None:
    async def body(tx: Transaction) -> None:
        await tx.insert(PARTS, {"id": "p", "thing_id": "nobody"})

    with pytest.raises(Duplicate):
        await database.run(body)


async def test_read_then_write_is_serializable(database: Database) -> None:
    """The lost update: everybody reads the count and writes it back plus one."""
    await _add(database, "a")

    async def body(tx: Transaction) -> None:
        row = await tx.first(select(THINGS.c.count).where(THINGS.c.id == "a"))
        assert row is not None
        await tx.run(THINGS.update().where(THINGS.c.id == "a").values(count=row["count"] + 1))

    await asyncio.gather(*(database.run(body) for _ in range(20)))
    assert await database.first(select(THINGS.c.count).where(THINGS.c.id == "a")) == {"count": 20}


async def test_write_skew_is_refused(database: Database) -> None:
    """Each transaction inserts only while fewer than three exist; together they must not make a fourth."""

    async def body(tx: Transaction, name: str) -> bool:
        row = await tx.first(select(func.count().label("n")).select_from(THINGS))
        assert row is not None
        if row["n"] >= 3:
            return False
        await tx.insert(THINGS, {"id": name})
        return True

    made = await asyncio.gather(*(database.run(lambda tx, n=f"t{i}": body(tx, n)) for i in range(10)))  # type: ignore[misc]
    assert sum(made) == 3
    assert len(await database.all(select(THINGS))) == 3


async def test_one_failing_transaction_takes_nobody_with_it(database: Database) -> None:
    async def body(tx: Transaction, number: int) -> None:
        await tx.insert(THINGS, {"id": f"t{number}"})
        if number % 3 == 0:
            raise LookupError

    done = await asyncio.gather(
        *(database.run(lambda tx, n=i: body(tx, n)) for i in range(12)),  # type: ignore[misc]
        return_exceptions=True,
    )
    assert sum(isinstance(one, LookupError) for one in done) == 4
    assert len(await database.all(select(THINGS))) == 8


async def test_after_commit_runs_only_after_a_commit(database: Database) -> None:
    told: list[str] = []

    async def body(tx: Transaction, name: str, fail: bool) -> None:
        await tx.insert(THINGS, {"id": name})
        tx.after_commit(lambda: told.append(name))
        if fail:
            raise LookupError

    await database.run(lambda tx: body(tx, "good", False))
    with pytest.raises(LookupError):
        await database.run(lambda tx: body(tx, "bad", True))
    assert told == ["good"]


async def test_no_call_leaves_the_process_inside_a_transaction(database: Database) -> None:
    async def body(tx: Transaction) -> None:
        outside_transaction("a REST call")

    with pytest.raises(RuntimeError, match="a REST call while a transaction is open"):
        await database.run(body)
    outside_transaction("a REST call")


async def test_a_newer_schema_is_refused(database: Database) -> None:
    async def body(tx: Transaction) -> None:
        from sqlalchemy import text

        await tx.run(text("UPDATE alembic_version SET version_num = '9999'"))

    await database.run(body)
    with pytest.raises(SchemaTooNew, match="9999"):
        await ensure_schema(database, METADATA, None)


async def test_sqlite_refuses_to_await_inside_a_transaction(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "x.db")
    await ensure_schema(database, METADATA, None)

    async def body(tx: Transaction) -> None:
        await tx.insert(THINGS, {"id": "a"})
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="awaited something other"):
        await database.run(body)
    assert await database.all(select(THINGS)) == []
    await database.close()


async def test_what_was_committed_is_there_after_the_end(tmp_path: Path) -> None:
    for earlier in range(3):
        database = SqliteDatabase(tmp_path / "x.db")
        await ensure_schema(database, METADATA, None)
        assert len(await database.all(select(THINGS))) == earlier
        await _add(database, f"t{earlier}")
        await database.close()


@pytest.mark.postgres
async def test_a_process_that_stands_still_holds_nothing_up(postgres: str, tmp_path: Path) -> None:
    """In the middle of a transaction: the server ends it, others go on, and nothing of it is there when it wakes up."""
    schema = f"s{abs(hash(tmp_path)) % 10**9}"
    sleeper = await PostgresDatabase.connect(postgres, schema, patience=1.0)
    other = await PostgresDatabase.connect(postgres, schema)
    await ensure_schema(other, METADATA, None)
    await _add(other, "a")
    raised = THINGS.update().where(THINGS.c.id == "a").values(count=THINGS.c.count + 1)
    begun, gone_on = asyncio.Event(), asyncio.Event()

    async def stand_still(tx: Transaction) -> None:
        await tx.run(raised)
        begun.set()
        await gone_on.wait()
        await tx.run(raised)

    asleep = asyncio.create_task(sleeper.run(stand_still))
    await begun.wait()
    await other.run(lambda tx: tx.run(raised))
    gone_on.set()
    with pytest.raises(Unavailable):
        await asleep
    assert await other.all(select(THINGS.c.count)) == [{"count": 1}]
    assert await sleeper.run(lambda tx: tx.run(raised)) == 1
    await sleeper.close()
    await other.close()


@pytest.mark.postgres
async def test_a_silent_server_is_away_and_comes_back(postgres: str, tmp_path: Path) -> None:
    """Behind a broken line nothing is refused and nothing answers: whoever waits is told so, and later all goes on."""
    async with Relay(database_of(postgres)) as relay:
        schema = f"s{abs(hash(tmp_path)) % 10**9}"
        dsn = dsn_through(postgres, relay.port)
        database = await PostgresDatabase.connect(dsn, schema, connections=2, patience=1.0)
        await ensure_schema(database, METADATA, None)
        await _add(database, "a")
        relay.silence()
        with pytest.raises(Unavailable, match="The database can't"):
            await database.all(select(THINGS))
        with pytest.raises(Unavailable, match="The database can't"):
            await _add(database, "b")
        told = await asyncio.gather(*(database.all(select(THINGS)) for _ in range(5)), return_exceptions=True)
        assert {type(one) for one in told} == {Unavailable}
        relay.mend()

        async def cut_in_the_middle(tx: Transaction) -> None:
            await tx.insert(THINGS, {"id": "d"})
            relay.silence()
            await tx.insert(THINGS, {"id": "e"})

        with pytest.raises(Unavailable, match="The database can't"):
            await database.run(cut_in_the_middle)
        relay.mend()
        assert [row["id"] for row in await database.all(select(THINGS))] == ["a"]
        await _add(database, "c")
        relay.refuse()
        with pytest.raises(Unavailable, match="The database can't"):
            await database.all(select(THINGS))
        relay.mend()
        assert len(await database.all(select(THINGS))) == 2
        await database.close()


class Failing:
    """SQLite's connection on a disk that takes no commit and no rollback for a while."""

    def __init__(self, real: Any) -> None:
        self.real, self.broken = real, False

    def execute(self, sql: str, *values: Any) -> Any:
        if self.broken and sql.split()[0] in ("COMMIT", "ROLLBACK"):
            raise sqlite3.OperationalError("disk I/O error")
        return self.real.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


async def test_sqlite_goes_on_after_a_rollback_that_failed(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "x.db")
    await database.execute_ddl(["create table t (a int)"])
    database._writer = disk = Failing(database._writer)  # type: ignore[assignment]

    async def body(tx: Transaction) -> None:
        await tx.run(text("insert into t values (1)"))

    async with asyncio.timeout(60):
        disk.broken = True
        with pytest.raises(Unavailable):
            await database.run(body)
        with pytest.raises(Unavailable):
            await database.run(body)
        disk.broken = False
        await database.run(body)
        assert len(await database.all(text("select a from t").columns(a=Integer))) == 1
        await database.close()
        with pytest.raises(Unavailable, match="closed"):
            await database.run(body)

# SPDX-License-Identifier: Apache-2.0
"""What comes too late changes nothing, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String, Table, select

from cumulet.kernel import clock
from cumulet.kernel.context import Context
from cumulet.kernel.db import Database, Transaction
from cumulet.kernel.db.database import opening
from cumulet.kernel.db.postgres import PostgresDatabase
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.errors import Conflict, Fault, Forbidden, Invalid
from cumulet.kernel.fences import HEADER, KEPT, LAST, Fences, fence_table, leave, making, undoing

METADATA = MetaData()
FENCES = fence_table(METADATA)
PORTS = Table("ports", METADATA, Column("id", String(36), primary_key=True))
SERVICE = Context("req-1", roles=["service"], user_name="compute", user_domain_id="default")
HOST = Context("req-2", roles=["service"], user_name="cumulet-host+h1", user_domain_id="default")
FOR_USER = Context("req-3", roles=["member"], service_roles=["service"])
USER = Context("req-4", roles=["member"])


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    opened: Any
    if request.param == "postgresql":
        opened = await PostgresDatabase.connect(request.getfixturevalue("postgres"), f"s{abs(hash(tmp_path)) % 10**9}")
    else:
        opened = SqliteDatabase(tmp_path / "x.db")
    await ensure_schema(opened, METADATA, None)
    yield opened
    await opened.close()


@pytest.fixture(autouse=True)
def _no_request_is_open() -> Iterator[None]:
    yield
    opening.set(None)


async def ask(database: Database, number: int, caller: Context = SERVICE, thing: str = "p") -> None:
    """One request about a port: made with an even number, taken away with an odd one."""

    async def make(tx: Transaction) -> None:
        if await tx.first(select(PORTS).where(PORTS.c.id == thing)) is None:
            await tx.insert(PORTS, {"id": thing})

    async def remove(tx: Transaction) -> None:
        await tx.run(PORTS.delete().where(PORTS.c.id == thing))

    try:
        await Fences(database, FENCES).enter({HEADER: str(number)}, caller, {"port_id": thing}, None)
        await database.run(remove if number % 2 else make)
    finally:
        leave()


async def there(database: Database, thing: str = "p") -> bool:
    return await database.first(select(PORTS).where(PORTS.c.id == thing)) is not None


async def refused(database: Database, number: int, caller: Context = SERVICE) -> bool:
    try:
        await ask(database, number, caller)
    except Conflict:
        return True
    return False


async def test_what_was_undone_is_not_made_afterwards(database: Database) -> None:
    await ask(database, undoing(1))  # also when there was nothing to undo yet
    assert await refused(database, making(1))
    assert not await there(database)
    await ask(database, making(2))
    assert await there(database)


async def test_what_was_made_anew_is_not_undone_by_who_undid_the_attempt_before(database: Database) -> None:
    await ask(database, making(1))
    await ask(database, undoing(1))
    await ask(database, making(2))
    assert await refused(database, undoing(1))
    assert await there(database)
    await ask(database, undoing(2))
    assert not await there(database)


async def test_an_end_is_for_good(database: Database) -> None:
    await ask(database, LAST)
    await ask(database, LAST)
    assert all([await refused(database, number) for number in (making(1), undoing(7), making(2**31))])
    assert not await there(database)


async def test_the_same_again_is_welcome(database: Database) -> None:
    for number in (making(3), making(3), undoing(3), undoing(3), making(5), making(5)):
        await ask(database, number)
    assert await there(database)


async def test_who_makes_a_thing_can_stop_nobody(database: Database) -> None:
    """A host says itself which attempt it works on."""
    await ask(database, making(2**31), HOST)
    await ask(database, undoing(1))
    await ask(database, making(2**31), HOST)
    await ask(database, making(2**31), HOST)
    await ask(database, undoing(2))
    assert not await there(database)


async def test_who_may_not_undo(database: Database) -> None:
    for caller in (HOST, FOR_USER):
        with pytest.raises(Forbidden):
            await ask(database, LAST, caller)
        await ask(database, making(1), caller)
    await ask(database, LAST, USER)  # a user's number says nothing
    await ask(database, making(1))
    assert await there(database)


@pytest.mark.parametrize("told", ["-1", "two", "1.5", str(LAST + 1), "", "٣x"])
async def test_what_is_no_number(database: Database, told: str) -> None:
    with pytest.raises(Invalid, match=HEADER):
        await Fences(database, FENCES).enter({HEADER: told}, SERVICE, {"id": "p"}, None)


@pytest.mark.parametrize(
    "sent", [{"port": {"id": "p", "name": "n"}}, {"id": "p", "name": "n"}], ids=["wrapped", "plain"]
)
async def test_the_body_names_what_is_made(database: Database, sent: Any) -> None:
    await ask(database, LAST)
    await Fences(database, FENCES).enter({HEADER: str(making())}, SERVICE, {}, sent)
    with pytest.raises(Conflict):
        await database.run(lambda tx: tx.insert(PORTS, {"id": "p"}))
    leave()
    await database.run(lambda tx: tx.insert(PORTS, {"id": "p"}))


@pytest.mark.postgres
async def test_a_change_that_is_under_way_is_seen_by_who_undoes_it(tmp_path: Path, postgres: str) -> None:
    """Whoever undoes waits for the transaction that makes: he comes before it or sees what it did."""
    database: Any = await PostgresDatabase.connect(postgres, f"s{abs(hash(tmp_path)) % 10**9}")
    await ensure_schema(database, METADATA, None)
    begun, go = asyncio.Event(), asyncio.Event()

    async def make() -> None:
        async def body(tx: Transaction) -> None:
            begun.set()
            await go.wait()
            await tx.insert(PORTS, {"id": "p"})

        await Fences(database, FENCES).enter({HEADER: str(making())}, SERVICE, {"id": "p"}, None)
        await database.run(body)

    making_it = asyncio.create_task(make())
    await begun.wait()
    undoing_it = asyncio.create_task(ask(database, LAST))
    done, _ = await asyncio.wait([undoing_it], timeout=0.3)
    assert not done
    go.set()
    outcome = (await asyncio.gather(making_it, return_exceptions=True))[0]
    await undoing_it
    assert outcome is None or isinstance(outcome, Fault)
    assert not await there(database)
    await database.close()


async def test_numbers_are_forgotten_after_a_week(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now - KEPT - 1)
    await ask(database, LAST)
    monkeypatch.setattr(clock, "now", lambda: now)
    await ask(database, LAST, thing="other")
    assert [row["thing"] for row in await database.all(select(FENCES))] == ["other"]

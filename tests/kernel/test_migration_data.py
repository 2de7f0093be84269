# SPDX-License-Identifier: Apache-2.0
"""Migrations that make a table anew lose no row of it, nor of what hangs on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import cumulet.identity
from cumulet.identity.models import LIMITS, REGISTERED_LIMITS, SERVICES
from cumulet.kernel.db import Database, Transaction
from cumulet.kernel.db.migrate import upgrade
from cumulet.kernel.db.postgres import PostgresDatabase
from cumulet.kernel.db.sqlite import SqliteDatabase

FOLDER = Path(str(cumulet.identity.__file__)).parent / "migrations"
SERVICE = {"id": "s", "type": "compute", "name": "nova", "enabled": True, "extra": {}}
REGISTERED = {
    "id": "r", "service_id": "s", "region_id": "", "resource_name": "cores", "default_limit": 3, "description": "all",
}  # fmt: skip
LIMIT = {
    "id": "l", "registered_limit_id": "r", "project_id": "p", "domain_id": "", "resource_limit": 7, "description": None,
}  # fmt: skip


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    made: Database
    if request.param == "sqlite":
        made = SqliteDatabase(tmp_path / "old.db")
    else:
        made = await PostgresDatabase.connect(request.getfixturevalue("postgres"), "limits_before")
    yield made
    await made.close()


async def test_limits_stay_when_the_service_is_no_longer_held(database: Database) -> None:
    before = [f"{number:04d}" for number in range(1, 7)]
    await upgrade(database, FOLDER, None, before)

    async def fill(tx: Transaction) -> None:
        await tx.insert(SERVICES, {name: SERVICE[name] for name in SERVICE if name in SERVICES.c})
        await tx.insert(REGISTERED_LIMITS, REGISTERED)
        await tx.insert(LIMITS, LIMIT)

    await database.run(fill)
    await upgrade(database, FOLDER, "0006", [*before, "0007"])
    assert await database.all(REGISTERED_LIMITS.select()) == [REGISTERED]
    assert await database.all(LIMITS.select()) == [LIMIT]

    async def gone(tx: Transaction) -> None:
        await tx.run(SERVICES.delete())

    await database.run(gone)
    assert await database.all(REGISTERED_LIMITS.select()) == [REGISTERED]

    async def end(tx: Transaction) -> None:
        await tx.run(REGISTERED_LIMITS.delete())

    await database.run(end)
    assert await database.all(LIMITS.select()) == []  # what hung on it still does

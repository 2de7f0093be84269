# SPDX-License-Identifier: Apache-2.0
"""Never oversubscribed: whatever is claimed at once, on either database, what is held fits and is counted right."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from cumulet.kernel.db import Database
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.errors import Conflict, NotFound
from cumulet.placement.logic import Placement, inventories, providers
from cumulet.placement.logic.allocations import Claim, delete, of_consumer, write
from cumulet.placement.models import ALLOCATIONS, INVENTORIES, METADATA

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "aaaaaaaa-0000-4000-8000-000000000002"


async def _world(database: Database, totals: dict[str, tuple[int, int, float]]) -> Placement:
    await ensure_schema(database, METADATA, None)
    placement = Placement(database)
    for number, (uuid, (total, reserved, ratio)) in enumerate(totals.items()):
        await providers.create_provider(placement, f"p{number}", uuid, None)
        sent = {"VCPU": {"total": total, "reserved": reserved, "allocation_ratio": ratio}}
        await inventories.set_inventories(placement, uuid, sent, 0, may_be_empty=True)
    return placement


async def _check(placement: Placement, totals: dict[str, tuple[int, int, float]]) -> None:
    """Nothing is over capacity, and the counters are the sums."""
    total = func.sum(ALLOCATIONS.c.used).label("sum")
    rows = await placement.database.all(
        select(ALLOCATIONS.c.provider_uuid, total).group_by(ALLOCATIONS.c.provider_uuid)
    )  # fmt: skip
    sums = {row["provider_uuid"]: row["sum"] for row in rows}
    for row in await placement.database.all(select(INVENTORIES)):
        assert row["used"] == sums.get(row["provider_uuid"], 0)
        all_, reserved, ratio = totals[row["provider_uuid"]]
        assert row["used"] <= (all_ - reserved) * ratio


async def _attempt(placement: Placement, claims: list[Claim]) -> bool:
    try:
        await write(placement, claims)
    except Conflict:
        return False
    return True


CONSUMERS = [f"cccccccc-0000-4000-8000-{number:012}" for number in range(6)]
wish = st.builds(
    lambda consumer, a, b: Claim(
        consumer, {uuid: {"VCPU": units} for uuid, units in ((A, a), (B, b)) if units}, "p", "u"
    ),
    st.sampled_from(CONSUMERS),
    st.integers(0, 6),
    st.integers(0, 6),
)
distinct = st.lists(wish, min_size=1, max_size=3, unique_by=lambda claim: claim.consumer)


@settings(max_examples=40, deadline=None)
@given(
    totals=st.tuples(st.integers(1, 12), st.integers(0, 1), st.sampled_from([1.0, 1.5, 4.0])),
    steps=st.lists(distinct, max_size=12),
    dropped=st.sets(st.sampled_from(CONSUMERS)),
)
def test_claims_never_exceed_capacity(
    totals: tuple[int, int, float], steps: list[list[Claim]], dropped: set[str]
) -> None:
    async def run() -> None:
        world = {A: totals, B: (4, 0, 1.0)}
        with tempfile.TemporaryDirectory() as folder:
            database = SqliteDatabase(Path(folder) / "p.db")
            try:
                placement = await _world(database, world)
                await asyncio.gather(*(_attempt(placement, claims) for claims in steps))
                await _check(placement, world)
                for consumer in dropped:
                    if (await of_consumer(placement, consumer))[0] is None:
                        with pytest.raises(NotFound):
                            await delete(placement, consumer)
                    else:
                        await delete(placement, consumer)
                await _check(placement, world)
            finally:
                await database.close()

    asyncio.run(run())


async def _race(database: Database) -> None:
    world = {A: (10, 0, 1.0)}
    placement = await _world(database, world)
    wishes = [Claim(f"cccccccc-0000-4000-8000-{n:012}", {A: {"VCPU": 1}}, "p", "u", guarded=True) for n in range(25)]
    won = await asyncio.gather(*(_attempt(placement, [claim]) for claim in wishes))
    assert sum(won) == 10
    await _check(placement, world)
    await placement.feed.changes(0, wait=0, limit=500)


async def test_of_twenty_five_claims_for_ten_units_ten_win(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "p.db")
    try:
        await _race(database)
    finally:
        await database.close()


@pytest.mark.postgres
async def test_of_twenty_five_claims_for_ten_units_ten_win_on_postgres(postgres: str) -> None:
    from cumulet.kernel.db.postgres import PostgresDatabase

    database = await PostgresDatabase.connect(postgres, "placement_race")
    try:
        await _race(database)
    finally:
        await database.close()

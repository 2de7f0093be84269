# SPDX-License-Identifier: Apache-2.0
"""What placement holds and for whom: for the invariant checker."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import func, select

from cumulet.kernel import owned
from cumulet.kernel.db import Database, Row
from cumulet.placement.logic import Placement
from cumulet.placement.models import ALLOCATIONS, CONSUMERS, INVENTORIES, PROVIDERS


def _database(placement: Placement) -> Database:
    return placement.database


async def _consumers(placement: Placement, after: str, limit: int) -> list[Row]:
    """Consumers with what they hold: provider → class → units."""
    c, a = CONSUMERS.c, ALLOCATIONS.c
    some = select(c.uuid.label("id"), c.project_id, c.consumer_type).where(c.uuid > after).order_by(c.uuid).limit(limit)
    found = await placement.database.all(some)
    if not found:
        return found
    held: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    theirs = select(ALLOCATIONS).where(a.consumer_uuid > after, a.consumer_uuid <= found[-1]["id"])
    for row in await placement.database.all(theirs):
        held[row["consumer_uuid"]][row["provider_uuid"]][row["resource_class"]] = row["used"]
    return [{**row, "allocations": held[row["id"]]} for row in found]


async def _used(placement: Placement) -> list[Row]:
    """Every inventory with the units that it says are taken, and the sum of what its consumers hold."""
    a, i = ALLOCATIONS.c, INVENTORIES.c
    total = select(a.provider_uuid, a.resource_class, func.sum(a.used).label("used"))
    sums = await placement.database.all(total.group_by(a.provider_uuid, a.resource_class))
    counted = {(row["provider_uuid"], row["resource_class"]): int(row["used"]) for row in sums}
    kept = await placement.database.all(select(i.provider_uuid, i.resource_class, i.used))
    rows = {(row["provider_uuid"], row["resource_class"]): row["used"] for row in kept}
    return [
        {"id": "/".join(key), "used": rows.get(key, 0), "counted": counted.get(key, 0)}
        for key in sorted({*rows, *counted})
    ]


ROUTES = owned.routes(
    "",
    [
        owned.rows(
            "provider", _database, select(PROVIDERS.c.uuid.label("id"), PROVIDERS.c.name), PROVIDERS.c.uuid
        ),
        owned.Kind("consumer", _consumers),
        owned.whole("inventory", _used),
    ],
)  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""What the volume service holds and for whom, and what its back ends really have: for the invariant checker."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from sqlalchemy import select

from cumulet.kernel import owned
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Fault
from cumulet.volume.limits import snapshot_costs, volume_costs
from cumulet.volume.logic import Volume
from cumulet.volume.models import ATTACHMENTS, QUOTA_USAGE, SAGAS, SERVICES, SNAPSHOTS, TYPES, VOLUMES, WORDS
from cumulet.volume.rpc import INVENTORY, Ask, Held, agent_of
from cumulet.volume.sagas import ALL
from cumulet.volume.sagas.world import AGENT_BINARY
from cumulet.volume.states import DELETED

ANSWERS_WITHIN = 10.0
"""Seconds that a back end may take to say what it has."""
_MARK = "cumulet_block_device"


def _database(volume: Volume) -> Database:
    return volume.database


def _some(table: Any, *names: str) -> Any:
    return select(*(table.c[name] for name in names))


async def _backends(volume: Volume) -> list[Row]:
    """Every back end with the volumes and snapshots that are really there."""
    known = await volume.database.all(select(SERVICES).where(SERVICES.c.binary == AGENT_BINARY))

    async def ask(row: Row) -> Row:
        told: dict[str, Any] = {"id": row["host"], "last_seen": row["seen_at"], "answers": True}
        try:
            held: Held = await volume.bus.call(INVENTORY, Ask(), host=agent_of(row["host"]), timeout=ANSWERS_WITHIN)
        except Fault as fault:
            return {**told, "answers": False, "reason": fault.message, "held": []}
        return {**told, "held": held.ids}

    return await asyncio.gather(*(ask(row) for row in known))


async def _marks(volume: Volume) -> list[Row]:
    """Volumes that were made for a block device of a server: volume id, block device id."""
    mine = (WORDS.c.kind == "user") & (WORDS.c.key == _MARK)
    living = (
        select(VOLUMES.c.id, WORDS.c.value.label("device_id"))
        .join(WORDS, WORDS.c.owner_id == VOLUMES.c.id)
        .where(mine, VOLUMES.c.status != DELETED)
    )
    return await volume.database.all(living.order_by(VOLUMES.c.id))


async def _count(reader: Database | Transaction) -> dict[tuple[str, str], int]:
    """What exists of what the volume service counts against a project."""
    types = {row["id"]: row["name"] for row in await reader.all(select(TYPES.c.id, TYPES.c.name))}
    found: Counter[tuple[str, str]] = Counter()
    for table, costs in ((VOLUMES, volume_costs), (SNAPSHOTS, snapshot_costs)):
        living = _some(table, "project_id", "size", "type_id").where(table.c.status != DELETED)
        for row in await reader.all(living):
            for resource, amount in costs(row["size"], types.get(row["type_id"], "")).items():
                found[row["project_id"], resource] += amount
    return found


ROUTES = owned.routes(
    "/v3",
    [
        owned.rows(
            "volume", _database,
            _some(VOLUMES, "id", "project_id", "status", "host", "fault", "updated_at").where(
                VOLUMES.c.status != DELETED
            ),
            VOLUMES.c.id,
        ),
        owned.rows(
            "snapshot", _database,
            _some(SNAPSHOTS, "id", "volume_id", "project_id", "status", "host", "fault").where(
                SNAPSHOTS.c.status != DELETED
            ),
            SNAPSHOTS.c.id,
        ),
        owned.rows(
            "attachment", _database,
            _some(ATTACHMENTS, "id", "volume_id", "project_id", "instance_uuid", "status", "host_name", "created_at"),
            ATTACHMENTS.c.id,
        ),
        owned.whole("mark", _marks),
        owned.whole("backend", _backends),
        owned.sagas(_database, SAGAS, ALL),
        owned.usage(_database, QUOTA_USAGE, _count),
    ],
)  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""What compute holds and for whom, and what its hosts really have: for the invariant checker."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from sqlalchemy import func, select

from cumulet.compute.limits import cost_of
from cumulet.compute.logic import Compute
from cumulet.compute.models import BLOCK_DEVICES, HOSTS, QUOTA_USAGE, SAGAS, SERVER_GROUPS, SERVERS
from cumulet.compute.rpc import HOLDING, Ask, Holding
from cumulet.compute.sagas.image import CREATE_IMAGE
from cumulet.compute.sagas.table import SAGAS as ALL
from cumulet.kernel import owned
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Fault

ANSWERS_WITHIN = 10.0
"""Seconds that a host may take to say what it has."""
_SERVER = (
    "id", "project_id", "name", "vm_state", "task_state", "power_state", "host", "attempt", "fault", "flavor", "slots",
    "image_id", "created_at", "updated_at",
)  # fmt: skip
_DEVICE = ("id", "server_id", "volume_id", "attachment_id", "destination_type", "created_by_us")


def _database(compute: Compute) -> Database:
    return compute.db


async def _hosts(compute: Compute) -> list[Row]:
    """Every host with what it says it has; one that does not answer is named as such."""
    known = await compute.db.all(select(HOSTS).where(HOSTS.c.binary == "nova-compute").order_by(HOSTS.c.host))

    async def ask(row: Row) -> Row:
        told: dict[str, Any] = {"id": row["host"], "last_seen": row["last_seen"], "answers": True, "guests": []}
        try:
            holding: Holding = await compute.bus.call(HOLDING, Ask(), host=row["host"], timeout=ANSWERS_WITHIN)
        except Fault as fault:
            return {**told, "answers": False, "reason": fault.message}
        guests = [
            {
                "server_id": one.server_id,
                "attempt": one.attempt,
                "power_state": one.power_state,
                "disks": one.disks,
                "macs": one.macs,
            }
            for one in holding.guests
        ]
        return {**told, "guests": guests, "files": holding.files, "copies": holding.copies}

    return await asyncio.gather(*(ask(row) for row in known))


async def _count(reader: Database | Transaction) -> dict[tuple[str, str], int]:
    """What exists of what compute counts against a project."""
    found: Counter[tuple[str, str]] = Counter()
    living = select(SERVERS.c.project_id, SERVERS.c.flavor).where(SERVERS.c.deleted_at.is_(None))
    for row in await reader.all(living):
        for resource, amount in cost_of(row["flavor"]).items():
            found[row["project_id"], resource] += amount
    groups = select(SERVER_GROUPS.c.project_id, func.count().label("number")).group_by(SERVER_GROUPS.c.project_id)
    for row in await reader.all(groups):
        found[row["project_id"], "server_groups"] = row["number"]
    return found


async def _unmade(compute: Compute) -> list[Row]:
    """Images of servers that were begun and given up: nothing of them may be there."""
    given_up = (SAGAS.c.name == CREATE_IMAGE.name) & (SAGAS.c.state == "failed")
    sagas = await compute.db.all(select(SAGAS.c.subject, SAGAS.c.params).where(given_up))
    return [{"id": one["params"]["image_id"], "server_id": one["subject"]} for one in sagas]


ROUTES = owned.routes(
    "",
    [
        owned.rows(
            "server", _database,
            select(*(SERVERS.c[name] for name in _SERVER)).where(SERVERS.c.deleted_at.is_(None)), SERVERS.c.id,
        ),
        owned.rows("device", _database, select(*(BLOCK_DEVICES.c[name] for name in _DEVICE)), BLOCK_DEVICES.c.id),
        owned.whole("host", _hosts),
        owned.whole("unmade", _unmade),
        owned.sagas(_database, SAGAS, ALL),
        owned.usage(_database, QUOTA_USAGE, _count),
    ],
)  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""Server groups: servers that should be together or apart. The members are the servers that name the group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select

from cumulet.compute.logic import Compute
from cumulet.compute.models import SERVER_GROUPS, SERVERS
from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import NotFound, OverQuota


def missing(group_id: str) -> NotFound:
    return NotFound(f"Instance group {group_id} could not be found.", kind="InstanceGroupNotFound")


async def create(compute: Compute, context: Context, name: str, policy: str, rules: Mapping[str, Any]) -> Row:
    """Make a group; raises OverQuota."""
    row: dict[str, Any] = {
        "id": ids.new_uuid(), "project_id": context.project_id or "", "user_id": context.user_id or "", "name": name,
        "policy": policy, "rules": dict(rules), "created_at": clock.now(),
    }  # fmt: skip

    async def body(tx: Transaction) -> None:
        try:
            await compute.quota.take(tx, row["project_id"], {"server_groups": 1})
        except OverQuota:
            raise OverQuota("Quota exceeded, too many server groups.", kind="ServerGroupLimitExceeded") from None
        await tx.insert(SERVER_GROUPS, row)

    await compute.db.run(body)
    return row


async def load(compute: Compute, context: Context, group_id: str) -> Row:
    """A group of the caller's project (admin: of any); raises NotFound."""
    row = await compute.db.first(select(SERVER_GROUPS).where(SERVER_GROUPS.c.id == group_id))
    if row is None or not (context.is_admin or row["project_id"] == context.project_id):
        raise missing(group_id)
    return row


async def find(compute: Compute, project_id: str | None, limit: int, offset: int) -> list[Row]:
    """A project's groups (None: all), oldest first."""
    statement = select(SERVER_GROUPS).order_by(SERVER_GROUPS.c.created_at, SERVER_GROUPS.c.id)
    if project_id is not None:
        statement = statement.where(SERVER_GROUPS.c.project_id == project_id)
    return await compute.db.all(statement.limit(limit).offset(offset))


async def members_of(compute: Compute, group_ids: list[str]) -> dict[str, list[str]]:
    """group → ids of its servers."""
    s = SERVERS.c
    statement = select(s.id, s.server_group_id).where(s.server_group_id.in_(group_ids), s.deleted_at.is_(None))
    found: dict[str, list[str]] = {group_id: [] for group_id in group_ids}
    for row in await compute.db.all(statement.order_by(s.number)):
        found[row["server_group_id"]].append(row["id"])
    return found


async def count_members(tx: Transaction, group_id: str) -> int:
    statement = select(func.count().label("n")).where(
        SERVERS.c.server_group_id == group_id, SERVERS.c.deleted_at.is_(None)
    )
    row = await tx.first(statement)
    return int(row["n"]) if row else 0


async def delete(compute: Compute, row: Row) -> None:
    async def body(tx: Transaction) -> None:
        if not await tx.run(SERVER_GROUPS.delete().where(SERVER_GROUPS.c.id == row["id"])):
            raise missing(row["id"])
        await tx.run(SERVERS.update().where(SERVERS.c.server_group_id == row["id"]).values(server_group_id=None))
        await compute.quota.give(tx, row["project_id"], {"server_groups": 1})

    await compute.db.run(body)

# SPDX-License-Identifier: Apache-2.0
"""Quota: one usage row per project and resource, compared and updated in the inserting transaction.

There are no reservations, so nothing can drift or leak; `cumulet check`
compares the rows with a count of what exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Column, Integer, MetaData, String, Table, select

from cumulet.kernel.db import Database, Transaction
from cumulet.kernel.errors import OverQuota

UNLIMITED = -1


def quota_tables(metadata: MetaData) -> tuple[Table, Table]:
    """The usage and limit tables of one service."""
    usage = Table(
        "quota_usage",
        metadata,
        Column("project_id", String(64), primary_key=True),
        Column("resource", String(64), primary_key=True),
        Column("used", Integer, nullable=False),
    )
    limits = Table(
        "quota_limits",
        metadata,
        Column("project_id", String(64), primary_key=True),
        Column("resource", String(64), primary_key=True),
        Column("hard_limit", Integer, nullable=False),
    )
    return usage, limits


@dataclass(frozen=True)
class Exceeded:
    """One resource that does not fit: what, how many asked, how many used, how many allowed."""

    resource: str
    asked: int
    used: int
    limit: int


class Quota:
    """A service's quotas: published defaults, a project's own limits over them."""

    def __init__(self, usage: Table, limits: Table, defaults: Mapping[str, int]) -> None:
        self.usage, self.limits, self.defaults = usage, limits, dict(defaults)

    async def limits_of(self, reader: Transaction | Database, project_id: str) -> dict[str, int]:
        """The hard limits of a project (-1: unlimited)."""
        rows = await reader.all(select(self.limits).where(self.limits.c.project_id == project_id))
        return {**self.defaults, **{row["resource"]: row["hard_limit"] for row in rows}}

    async def used_of(self, reader: Transaction | Database, project_id: str) -> dict[str, int]:
        rows = await reader.all(select(self.usage).where(self.usage.c.project_id == project_id))
        return {**dict.fromkeys(self.defaults, 0), **{row["resource"]: row["used"] for row in rows}}

    async def take(self, tx: Transaction, project_id: str, asked: Mapping[str, int]) -> None:
        """Add to the usage, or raise OverQuota whose ``details['exceeded']`` lists what does not fit."""
        limits, used = await self.limits_of(tx, project_id), await self.used_of(tx, project_id)
        exceeded = [
            Exceeded(resource, amount, used.get(resource, 0), limits[resource])
            for resource, amount in asked.items()
            if amount > 0 and limits.get(resource, UNLIMITED) != UNLIMITED
            and used.get(resource, 0) + amount > limits[resource]
        ]  # fmt: skip
        if exceeded:
            names = ", ".join(one.resource for one in exceeded)
            raise OverQuota(f"Quota exceeded for {names}.", exceeded=exceeded)
        await self._add(tx, project_id, asked)

    async def give(self, tx: Transaction, project_id: str, freed: Mapping[str, int]) -> None:
        """Take from the usage, in the transaction that deletes."""
        await self._add(tx, project_id, {resource: -amount for resource, amount in freed.items()})

    async def _add(self, tx: Transaction, project_id: str, change: Mapping[str, int]) -> None:
        for resource, amount in change.items():
            row = (self.usage.c.project_id == project_id) & (self.usage.c.resource == resource)
            if not await tx.run(self.usage.update().where(row).values(used=self.usage.c.used + amount)):
                await tx.insert(self.usage, {"project_id": project_id, "resource": resource, "used": amount})

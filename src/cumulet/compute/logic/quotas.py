# SPDX-License-Identifier: Apache-2.0
"""A project's limits: what it may have, what it has, and what an admin sets."""

from __future__ import annotations

from collections.abc import Mapping

from cumulet.compute.logic import Compute
from cumulet.kernel.db import Transaction
from cumulet.kernel.errors import Invalid
from cumulet.kernel.quota import UNLIMITED


async def limits(compute: Compute, project_id: str) -> dict[str, int]:
    return await compute.quota.limits_of(compute.db, project_id)


async def detail(compute: Compute, project_id: str) -> dict[str, dict[str, int]]:
    """resource → {limit, in_use, reserved}; nothing is ever reserved."""
    allowed = await compute.quota.limits_of(compute.db, project_id)
    used = await compute.quota.used_of(compute.db, project_id)
    return {
        name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0}
        for name, limit in allowed.items()
    }  # fmt: skip


async def update(compute: Compute, project_id: str, wanted: Mapping[str, int], *, force: bool) -> dict[str, int]:
    """Set limits; one below what is used already is refused unless forced."""

    async def body(tx: Transaction) -> None:
        used = await compute.quota.used_of(tx, project_id)
        table = compute.quota.limits
        for resource, limit in wanted.items():
            in_use = used.get(resource, 0)
            if not force and limit != UNLIMITED and limit < in_use:
                raise Invalid(
                    f"Quota limit {limit} for {resource} must be greater than or equal to already used and "
                    f"reserved {in_use}."
                )
            row = (table.c.project_id == project_id) & (table.c.resource == resource)
            if not await tx.run(table.update().where(row).values(hard_limit=limit)):
                await tx.insert(table, {"project_id": project_id, "resource": resource, "hard_limit": limit})

    await compute.db.run(body)
    return await limits(compute, project_id)


async def delete(compute: Compute, project_id: str) -> None:
    """Back to the defaults."""

    async def body(tx: Transaction) -> None:
        await tx.run(compute.quota.limits.delete().where(compute.quota.limits.c.project_id == project_id))

    await compute.db.run(body)

# SPDX-License-Identifier: Apache-2.0
"""The reshaper: moves inventories between providers together with what is claimed of them, in one transaction.

Invariant: at no visible moment is a claim without its inventory, so inventories
are first widened, then the claims rewritten, then the inventories made exact.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, Invalid
from cumulet.placement import errors
from cumulet.placement.logic import Placement
from cumulet.placement.logic.allocations import Claim, write_in
from cumulet.placement.logic.inventories import list_inventories, replace_inventories
from cumulet.placement.models import PROVIDERS


async def reshape(placement: Placement, inventories: Mapping[str, Row], claims: list[Claim]) -> None:
    """Make the inventories of the named providers, and the allocations of the named consumers, exactly these."""

    async def body(tx: Transaction) -> None:
        generations: dict[str, int] = {}
        for uuid, sent in inventories.items():
            row = await tx.first(select(PROVIDERS.c.generation).where(PROVIDERS.c.uuid == uuid))
            if row is None:
                raise Invalid(
                    f"Resource provider {uuid} in inventories not found: No resource provider with uuid {uuid} found",
                    kind=errors.PROVIDER_NOT_FOUND,
                )
            if row["generation"] != sent["resource_provider_generation"]:
                raise Conflict(
                    f"resource provider generation conflict for provider {uuid}: "
                    f"actual: {row['generation']}, given: {sent['resource_provider_generation']}",
                    kind=errors.CONCURRENT_UPDATE,
                )
            generations[uuid] = row["generation"]
        for uuid, sent in inventories.items():
            if not sent["inventories"]:
                continue
            have = await list_inventories(tx, uuid)
            wide = {**have, **sent["inventories"]}
            provider, _ = await replace_inventories(tx, placement, uuid, wide, generations[uuid], may_be_empty=True)
            generations[uuid] = provider["generation"]
        await write_in(tx, placement, claims)
        for uuid, sent in inventories.items():
            row = await tx.first(select(PROVIDERS.c.generation).where(PROVIDERS.c.uuid == uuid))
            assert row is not None
            exact = sent["inventories"]
            await replace_inventories(tx, placement, uuid, exact, row["generation"], may_be_empty=True)

    await placement.database.run(body)

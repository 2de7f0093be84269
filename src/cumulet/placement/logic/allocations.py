# SPDX-License-Identifier: Apache-2.0
"""Allocations: what consumers hold. The one place where `inventories.used` changes.

Invariant: all claims of one request are written in one serializable
transaction that reads what it compares, so of two claims for the last unit one
is refused, on one process as on many. A claim replaces all that its consumer held.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import distinct, func, select

from cumulet.kernel import clock
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, Invalid, NotFound
from cumulet.placement import errors
from cumulet.placement.logic import Placement, Reader
from cumulet.placement.logic.inventories import list_inventories
from cumulet.placement.logic.names import missing_classes
from cumulet.placement.logic.providers import find_provider, touch
from cumulet.placement.models import ALLOCATIONS, CONSUMERS, INVENTORIES, PROVIDERS

Held = dict[tuple[str, str], int]
"""(provider, class) → units."""


@dataclass(frozen=True)
class Claim:
    """What one consumer shall hold from now on."""

    consumer: str
    allocations: Mapping[str, Mapping[str, int]]
    """provider → class → units; empty: nothing."""
    project_id: str
    user_id: str
    guarded: bool = False
    """From version 1.28: the consumer must be at ``generation`` (None: must not exist)."""
    generation: int | None = None
    consumer_type: str | None = None
    """None leaves the type as it is (before version 1.38)."""


async def write(placement: Placement, claims: list[Claim]) -> None:
    """Write all claims or none. Raises Conflict when one does not fit or lost a race, Invalid for unknown names."""

    async def body(tx: Transaction) -> None:
        await write_in(tx, placement, claims)

    await placement.database.run(body)


async def write_in(tx: Transaction, placement: Placement, claims: list[Claim]) -> None:
    """`write` inside a transaction."""
    consumers = {claim.consumer: await _consumer(tx, claim) for claim in claims}
    before: Held = defaultdict(int)
    after: Held = defaultdict(int)
    for claim in claims:
        for key, used in (await _held(tx, claim.consumer)).items():
            before[key] += used
        for provider, resources in claim.allocations.items():
            for name, units in resources.items():
                after[provider, name] += units
    await _check(tx, claims, before, after)
    now = clock.now()
    for claim in claims:
        await tx.run(ALLOCATIONS.delete().where(ALLOCATIONS.c.consumer_uuid == claim.consumer))
        await _write_consumer(tx, claim, consumers[claim.consumer], now)
        for provider, resources in claim.allocations.items():
            for name, units in resources.items():
                row = {"consumer_uuid": claim.consumer, "provider_uuid": provider, "resource_class": name}
                await tx.insert(ALLOCATIONS, {**row, "used": units, "created_at": now})
    await _account(tx, before, after)
    visited = {provider for claim in claims for provider in claim.allocations}
    for claim in claims:
        if not claim.allocations:
            visited |= {provider for provider, _ in before}
    await touch(tx, placement, visited, generation=True)
    await touch(tx, placement, {provider for provider, _ in before} - visited)


async def _consumer(tx: Transaction, claim: Claim) -> Row | None:
    row = await tx.first(select(CONSUMERS).where(CONSUMERS.c.uuid == claim.consumer))
    if claim.guarded and claim.generation != (row["generation"] if row else None):
        expected = row["generation"] if row else "null"
        raise Conflict(
            f"consumer generation conflict - expected {expected} but got {claim.generation}",
            kind=errors.CONCURRENT_UPDATE,
        )
    return row


async def _held(reader: Reader, consumer: str) -> Held:
    rows = await reader.all(select(ALLOCATIONS).where(ALLOCATIONS.c.consumer_uuid == consumer))
    return {(row["provider_uuid"], row["resource_class"]): row["used"] for row in rows}


async def _check(tx: Transaction, claims: list[Claim], before: Held, after: Held) -> None:
    """Refuse what is unknown, of the wrong size, or too much."""
    inventories: dict[str, dict[str, Row]] = {}
    for provider in {provider for provider, _ in after}:
        if not await tx.first(select(PROVIDERS.c.uuid).where(PROVIDERS.c.uuid == provider)):
            raise Invalid(f"Allocation for resource provider '{provider}' that does not exist.")
        inventories[provider] = await list_inventories(tx, provider)
    if missing := await missing_classes(tx, {name for _, name in after}):
        consumer = claims[0].consumer
        raise Invalid(
            f"Unable to allocate inventory for consumer {consumer}: No such resource class {missing[0]}."
        )  # fmt: skip
    for claim in claims:
        for provider, resources in claim.allocations.items():
            for name, units in resources.items():
                inventory = inventories[provider].get(name)
                if inventory is None:
                    raise _refused(f"Inventory for '{name}' on resource provider '{provider}' invalid.")
                low, high, step = inventory["min_unit"], inventory["max_unit"], inventory["step_size"]
                if units < low or units > high or units % step:
                    raise _refused(_unable(name, provider, "violate inventory constraints"))
                used = inventory["used"]
                wanted = used - before[provider, name] + after[provider, name]
                capacity = (inventory["total"] - inventory["reserved"]) * inventory["allocation_ratio"]
                # an overcommitted provider may be relieved, though not yet enough
                if wanted > capacity and wanted > used:
                    raise _refused(_unable(name, provider, "exceed the capacity"))


def _unable(name: str, provider: str, would: str) -> str:
    return (
        f"Unable to create allocation for '{name}' on resource provider '{provider}'. "
        f"The requested amount would {would}."
    )


def _refused(reason: str) -> Conflict:
    return Conflict(f"Unable to allocate inventory: {reason}")


async def _write_consumer(tx: Transaction, claim: Claim, row: Row | None, now: float) -> None:
    own = CONSUMERS.c.uuid == claim.consumer
    if not claim.allocations:
        if row is not None:
            await tx.run(CONSUMERS.delete().where(own))
        return
    values: Row = {"project_id": claim.project_id, "user_id": claim.user_id}
    if claim.consumer_type is not None:
        values["consumer_type"] = claim.consumer_type
    if row is None:
        await tx.insert(CONSUMERS, {"uuid": claim.consumer, "generation": 1, "created_at": now, **values})
    else:
        await tx.run(CONSUMERS.update().where(own).values(generation=row["generation"] + 1, **values))


async def _account(tx: Transaction, before: Held, after: Held) -> None:
    for provider, name in {*before, *after}:
        change = after[provider, name] - before[provider, name]
        if change:
            row = (INVENTORIES.c.provider_uuid == provider) & (INVENTORIES.c.resource_class == name)
            await tx.run(INVENTORIES.update().where(row).values(used=INVENTORIES.c.used + change))


async def delete(placement: Placement, consumer: str) -> None:
    """Drop all that a consumer holds, whatever its generation; raises NotFound when it holds nothing."""

    async def body(tx: Transaction) -> None:
        held: Held = defaultdict(int, await _held(tx, consumer))
        if not held:
            raise NotFound(f"No allocations for consumer '{consumer}'")
        await tx.run(ALLOCATIONS.delete().where(ALLOCATIONS.c.consumer_uuid == consumer))
        await tx.run(CONSUMERS.delete().where(CONSUMERS.c.uuid == consumer))
        await _account(tx, held, defaultdict(int))
        await touch(tx, placement, {provider for provider, _ in held})

    await placement.database.run(body)


async def of_consumer(placement: Placement, consumer: str) -> tuple[Row | None, dict[str, Row]]:
    """(consumer, provider → {generation, resources}); (None, {}) when it holds nothing."""
    rows = await placement.database.all(
        select(ALLOCATIONS.c.provider_uuid, ALLOCATIONS.c.resource_class, ALLOCATIONS.c.used, PROVIDERS.c.generation)
        .join(PROVIDERS, PROVIDERS.c.uuid == ALLOCATIONS.c.provider_uuid)
        .where(ALLOCATIONS.c.consumer_uuid == consumer),
        point=True,
    )
    if not rows:
        return None, {}
    held: dict[str, Row] = {}
    for row in rows:
        one = held.setdefault(row["provider_uuid"], {"generation": row["generation"], "resources": {}})
        one["resources"][row["resource_class"]] = row["used"]
    return await placement.database.first(select(CONSUMERS).where(CONSUMERS.c.uuid == consumer)), held


async def of_provider(placement: Placement, uuid: str) -> tuple[Row, dict[str, Row]]:
    """(provider, consumer → {consumer_generation, resources}); raises NotFound."""
    provider = await find_provider(placement.database, uuid)
    rows = await placement.database.all(
        select(ALLOCATIONS.c.consumer_uuid, ALLOCATIONS.c.resource_class, ALLOCATIONS.c.used, CONSUMERS.c.generation)
        .join(CONSUMERS, CONSUMERS.c.uuid == ALLOCATIONS.c.consumer_uuid)
        .where(ALLOCATIONS.c.provider_uuid == uuid)
    )
    held: dict[str, Row] = {}
    for row in rows:
        one = held.setdefault(row["consumer_uuid"], {"consumer_generation": row["generation"], "resources": {}})
        one["resources"][row["resource_class"]] = row["used"]
    return provider, held


# ---- usages


async def usages_of_provider(placement: Placement, uuid: str) -> tuple[Row, dict[str, int]]:
    """(provider, class → units used); raises NotFound."""
    provider = await find_provider(placement.database, uuid)
    inventories = await list_inventories(placement.database, uuid)
    return provider, {name: row["used"] for name, row in inventories.items()}


async def usages_of_project(placement: Placement, project_id: str, user_id: str | None) -> list[dict[str, Any]]:
    """One row per consumer type and class: consumer_type (None: unknown), resource_class, used."""
    statement = select(
        CONSUMERS.c.consumer_type, ALLOCATIONS.c.resource_class, func.sum(ALLOCATIONS.c.used).label("used")
    ).group_by(CONSUMERS.c.consumer_type, ALLOCATIONS.c.resource_class)
    return await placement.database.all(_of_project(statement, project_id, user_id))


async def consumers_of_project(placement: Placement, project_id: str, user_id: str | None) -> dict[str | None, int]:
    """How many consumers of each type hold something."""
    number = func.count(distinct(ALLOCATIONS.c.consumer_uuid)).label("number")
    statement = select(CONSUMERS.c.consumer_type, number).group_by(CONSUMERS.c.consumer_type)
    rows = await placement.database.all(_of_project(statement, project_id, user_id))
    return {row["consumer_type"]: row["number"] for row in rows}


def _of_project(statement: Any, project_id: str, user_id: str | None) -> Any:
    statement = statement.join(CONSUMERS, CONSUMERS.c.uuid == ALLOCATIONS.c.consumer_uuid)
    statement = statement.where(CONSUMERS.c.project_id == project_id)
    return statement if user_id is None else statement.where(CONSUMERS.c.user_id == user_id)

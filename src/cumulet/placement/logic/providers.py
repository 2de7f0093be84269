# SPDX-License-Identifier: Apache-2.0
"""Resource providers: trees with a generation that grows with every change of what they offer.

Invariant: ``root_uuid`` of every provider is the root of its parent chain, and
a tree has no loop.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Table, select

from cumulet.kernel import clock, ids
from cumulet.kernel.db import Duplicate, Row, Transaction
from cumulet.kernel.errors import Conflict, Invalid, NotFound
from cumulet.placement import errors
from cumulet.placement.logic import Placement, Reader
from cumulet.placement.logic.names import missing_classes, missing_traits
from cumulet.placement.models import (
    ALLOCATIONS,
    INVENTORIES,
    PROVIDER_AGGREGATES,
    PROVIDER_TRAITS,
    PROVIDERS,
    TOMBSTONES,
)


@dataclass
class Criteria:
    """What a listed provider must satisfy by itself."""

    name: str | None = None
    uuid: str | None = None
    in_tree: str | None = None
    resources: dict[str, int] = field(default_factory=dict)
    required: list[set[str]] = field(default_factory=list)
    """Of each set it must have one trait."""
    forbidden: set[str] = field(default_factory=set)
    member_of: list[set[str]] = field(default_factory=list)
    """Of each set it must be in one aggregate."""
    forbidden_aggregates: set[str] = field(default_factory=set)


def fits(resource_class: str, amount: int) -> ColumnElement[bool]:
    """The condition that an inventory row can give ``amount`` of its class to one more consumer."""
    inventory = INVENTORIES.c
    return (
        (inventory.resource_class == resource_class)
        & (inventory.used + amount <= (inventory.total - inventory.reserved) * inventory.allocation_ratio)
        & (inventory.min_unit <= amount)
        & (inventory.max_unit >= amount)
        & (amount % inventory.step_size == 0)
    )


def having_any(table: Table, column: str, values: Collection[str]) -> ColumnElement[bool]:
    """The condition that a provider is associated (traits, aggregates) with one of ``values``."""
    return PROVIDERS.c.uuid.in_(select(table.c.provider_uuid).where(table.c[column].in_(sorted(values))))


async def find_provider(reader: Reader, uuid: str) -> Row:
    """The provider's row; raises NotFound."""
    row = await reader.first(select(PROVIDERS).where(PROVIDERS.c.uuid == uuid))
    if row is None:
        raise NotFound(f"No resource provider with uuid {uuid} found")
    return row


async def list_providers(placement: Placement, criteria: Criteria) -> list[Row]:
    """The providers that satisfy all criteria; raises Invalid for names that do not exist."""
    database = placement.database
    if missing := await missing_classes(database, criteria.resources):
        raise Invalid(f"Invalid resource class in resources parameter: No such resource class {missing[0]}.")
    if missing := await missing_traits(database, set().union(criteria.forbidden, *criteria.required)):
        raise Invalid(f'Invalid trait(s) in "required" parameter: No such trait(s): {", ".join(missing)}.')
    statement = select(PROVIDERS).order_by(PROVIDERS.c.created_at, PROVIDERS.c.name)
    if criteria.name:
        statement = statement.where(PROVIDERS.c.name == criteria.name)
    if criteria.uuid:
        statement = statement.where(PROVIDERS.c.uuid == criteria.uuid)
    if criteria.in_tree:
        one = select(PROVIDERS.c.root_uuid).where(PROVIDERS.c.uuid == criteria.in_tree).scalar_subquery()
        statement = statement.where(PROVIDERS.c.root_uuid == one)
    for any_of in criteria.required:
        statement = statement.where(having_any(PROVIDER_TRAITS, "trait", any_of))
    if criteria.forbidden:
        statement = statement.where(~having_any(PROVIDER_TRAITS, "trait", criteria.forbidden))
    for any_of in criteria.member_of:
        statement = statement.where(having_any(PROVIDER_AGGREGATES, "aggregate_uuid", any_of))
    if criteria.forbidden_aggregates:
        statement = statement.where(~having_any(PROVIDER_AGGREGATES, "aggregate_uuid", criteria.forbidden_aggregates))
    for name, amount in criteria.resources.items():
        offering = select(INVENTORIES.c.provider_uuid).where(fits(name, amount))
        statement = statement.where(PROVIDERS.c.uuid.in_(offering))
    return await database.all(statement)


async def create_provider(placement: Placement, name: str, uuid: str | None, parent: str | None) -> Row:
    """Make a provider; raises Conflict (duplicate_name) and Invalid for an impossible parent."""
    uuid = uuid or ids.new_uuid()

    def impossible(reason: str) -> Invalid:
        return Invalid(
            f'Unable to create resource provider "{name}", {uuid}: Object action create failed because: {reason}'
        )

    if not name:
        raise impossible("name is required")
    if parent == uuid:
        raise impossible(
            "parent provider UUID cannot be same as UUID. "
            "Please set parent provider UUID to None if there is no parent."
        )

    async def body(tx: Transaction) -> Row:
        root = uuid
        if parent is not None:
            above = await tx.first(select(PROVIDERS.c.root_uuid).where(PROVIDERS.c.uuid == parent))
            if above is None:
                raise impossible("parent provider UUID does not exist.")
            root = above["root_uuid"]
        row: Row = {
            "uuid": uuid,
            "name": name,
            "generation": 0,
            "parent_uuid": parent,
            "root_uuid": root,
            "changed": None,
            "created_at": clock.now(),
            "updated_at": clock.now(),
        }
        try:
            await tx.insert(PROVIDERS, row)
        except Duplicate:
            same = PROVIDERS.c.uuid == uuid
            told = f"uuid: {uuid}" if await tx.first(select(PROVIDERS.c.uuid).where(same)) else f"name: {name}"
            raise Conflict(
                f"Conflicting resource provider {told} already exists.", kind=errors.DUPLICATE_NAME
            ) from None
        await tx.run(TOMBSTONES.delete().where(TOMBSTONES.c.uuid == uuid))
        tx.after_commit(placement.feed.poke)
        return row

    return await placement.database.run(body)


async def update_provider(placement: Placement, uuid: str, changes: Row, *, reparent: bool) -> Row:
    """Change ``name`` and ``parent_provider_uuid``; only with ``reparent`` may a parent be exchanged or dropped."""

    def impossible(action: str, reason: str) -> Invalid:
        return Invalid(
            f"Unable to save resource provider {uuid}: Object action {action} failed because: {reason}",
        )

    async def body(tx: Transaction) -> Row:
        row = await find_provider(tx, uuid)
        name = changes.get("name", row["name"])
        parent = changes.get("parent_provider_uuid", row["parent_uuid"])
        taken = PROVIDERS.c.name == name, PROVIDERS.c.uuid != uuid
        if await tx.first(select(PROVIDERS.c.uuid).where(*taken)):
            raise Conflict(f"Conflicting resource provider {name} already exists.", kind=errors.DUPLICATE_NAME)
        root = row["root_uuid"]
        moved = [uuid]
        if parent != row["parent_uuid"]:
            moved = await _subtree(tx, row)
            if parent is None:
                if not reparent:
                    raise impossible("update", "un-parenting a provider is not currently allowed.")
                root = uuid
            else:
                above = await tx.first(select(PROVIDERS.c.root_uuid).where(PROVIDERS.c.uuid == parent))
                if above is None:
                    raise impossible("create", "parent provider UUID does not exist.")
                if row["parent_uuid"] is not None and not reparent:
                    raise impossible("update", "re-parenting a provider is not currently allowed.")
                if parent in moved:
                    raise impossible("update", "creating loop in the provider tree is not allowed.")
                root = above["root_uuid"]
            await tx.run(PROVIDERS.update().where(PROVIDERS.c.uuid.in_(moved)).values(root_uuid=root))
        now = clock.now()
        own = PROVIDERS.update().where(PROVIDERS.c.uuid == uuid)
        await tx.run(own.values(name=name, parent_uuid=parent, updated_at=now))
        await touch(tx, placement, moved)
        return {**row, "name": name, "parent_uuid": parent, "root_uuid": root, "updated_at": now}

    return await placement.database.run(body)


async def _subtree(tx: Transaction, row: Row) -> list[str]:
    """The provider and everything below it."""
    tree = select(PROVIDERS.c.uuid, PROVIDERS.c.parent_uuid).where(PROVIDERS.c.root_uuid == row["root_uuid"])
    children: dict[str, list[str]] = {}
    for one in await tx.all(tree):
        children.setdefault(one["parent_uuid"], []).append(one["uuid"])
    found = [row["uuid"]]
    for one in found:
        found += children.get(one, [])
    return found


async def delete_provider(placement: Placement, uuid: str) -> None:
    """Remove a provider without children and allocations, with all that it offers."""

    async def body(tx: Transaction) -> None:
        if not await tx.first(select(PROVIDERS.c.uuid).where(PROVIDERS.c.uuid == uuid)):
            raise NotFound(f"No resource provider with uuid {uuid} found for delete")
        if await tx.first(select(PROVIDERS.c.uuid).where(PROVIDERS.c.parent_uuid == uuid).limit(1)):
            raise Conflict(
                f"Unable to delete parent resource provider {uuid}: It has child resource providers.",
                kind=errors.PROVIDER_IS_PARENT,
            )
        if await tx.first(select(ALLOCATIONS.c.used).where(ALLOCATIONS.c.provider_uuid == uuid).limit(1)):
            raise Conflict(
                f"Unable to delete resource provider {uuid}: Resource provider has allocations.",
                kind=errors.PROVIDER_IN_USE,
            )
        for table in (INVENTORIES, PROVIDER_TRAITS, PROVIDER_AGGREGATES):
            await tx.run(table.delete().where(table.c.provider_uuid == uuid))
        await tx.run(PROVIDERS.delete().where(PROVIDERS.c.uuid == uuid))
        await tx.insert(TOMBSTONES, {"uuid": uuid, "changed": None, "deleted_at": clock.now()})
        tx.after_commit(placement.feed.poke)

    await placement.database.run(body)


async def touch(tx: Transaction, placement: Placement, uuids: Collection[str], *, generation: bool = False) -> None:
    """Mark the providers as changed; with ``generation`` they get the next one."""
    if not uuids:
        return
    values: Row = {"changed": None}
    if generation:
        values |= {"generation": PROVIDERS.c.generation + 1, "updated_at": clock.now()}
    await tx.run(PROVIDERS.update().where(PROVIDERS.c.uuid.in_(sorted(uuids))).values(**values))
    tx.after_commit(placement.feed.poke)


# ---- traits and aggregates of one provider

_MOVED_ON = "Resource provider's generation already changed. Please update the generation and try again."


async def associated(reader: Reader, table: Table, column: str, uuid: str) -> list[str]:
    """The names (traits, aggregates) that a provider is associated with, sorted."""
    rows = await reader.all(select(table.c[column]).where(table.c.provider_uuid == uuid).order_by(table.c[column]))
    return [row[column] for row in rows]


async def set_traits(placement: Placement, uuid: str, traits: list[str], generation: int | None) -> Row:
    """Replace the traits (``generation`` None: whatever it is); returns the provider as it is then."""

    async def body(tx: Transaction) -> Row:
        row = await find_provider(tx, uuid)
        if generation is not None and row["generation"] != generation:
            raise Conflict(_MOVED_ON, kind=errors.CONCURRENT_UPDATE)
        if missing := await missing_traits(tx, traits):
            raise Invalid(f"No such trait {', '.join(missing)}")
        if await _associate(tx, PROVIDER_TRAITS, "trait", uuid, set(traits)):
            await touch(tx, placement, [uuid], generation=True)
            return {**row, "generation": row["generation"] + 1}
        return row

    return await placement.database.run(body)


async def set_aggregates(placement: Placement, uuid: str, aggregates: list[str], generation: int | None) -> Row:
    """Replace the aggregates; before version 1.19 (``generation`` None) the generation is neither checked nor grown."""

    async def body(tx: Transaction) -> Row:
        row = await find_provider(tx, uuid)
        if generation is not None and row["generation"] != generation:
            raise Conflict(_MOVED_ON, kind=errors.CONCURRENT_UPDATE)
        await _associate(tx, PROVIDER_AGGREGATES, "aggregate_uuid", uuid, set(aggregates))
        await touch(tx, placement, [uuid], generation=generation is not None)
        return {**row, "generation": row["generation"] + (generation is not None)}

    return await placement.database.run(body)


async def _associate(tx: Transaction, table: Table, column: str, uuid: str, wanted: set[str]) -> bool:
    """Make the associations exactly ``wanted``; returns whether anything changed."""
    have = set(await associated(tx, table, column, uuid))
    if gone := have - wanted:
        await tx.run(table.delete().where(table.c.provider_uuid == uuid, table.c[column].in_(sorted(gone))))
    for name in sorted(wanted - have):
        await tx.insert(table, {"provider_uuid": uuid, column: name})
    return have != wanted

# SPDX-License-Identifier: Apache-2.0
"""Inventories: how much of each class a provider offers.

Capacity is (total - reserved) * allocation_ratio. An inventory in use can't be
removed; it may shrink below what is used, which only stops new claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from cumulet.kernel import clock
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, Invalid, NotFound
from cumulet.placement import errors
from cumulet.placement.logic import Placement, Reader
from cumulet.placement.logic.names import missing_classes
from cumulet.placement.logic.providers import find_provider, touch
from cumulet.placement.models import INVENTORIES
from cumulet.placement.schemas import MAX_INT

FIELDS = ("total", "reserved", "min_unit", "max_unit", "step_size", "allocation_ratio")
_DEFAULTS: dict[str, Any] = {
    "reserved": 0, "min_unit": 1, "max_unit": MAX_INT, "step_size": 1, "allocation_ratio": 1.0,
}  # fmt: skip


def capacity(inventory: Mapping[str, Any]) -> int:
    """How many units consumers may hold in all."""
    return int((inventory["total"] - inventory["reserved"]) * inventory["allocation_ratio"])


def _filled(sent: Mapping[str, Any]) -> Row:
    return {**_DEFAULTS, **{name: sent[name] for name in FIELDS if name in sent}}


def _check_capacity(uuid: str, name: str, inventory: Row, *, may_be_empty: bool, doing: str) -> None:
    """From version 1.26 (``may_be_empty``) all may be reserved; before, one unit must be left."""
    left = capacity(inventory)
    if left < 0 or (left == 0 and not may_be_empty):
        relation = "greater than" if may_be_empty else "greater than or equal to"
        raise Invalid(
            f"Unable to {doing} inventory for resource provider {uuid}: Invalid inventory for '{name}' on "
            f"resource provider '{uuid}'. The reserved value is {relation} total."
        )


async def list_inventories(reader: Reader, uuid: str) -> dict[str, Row]:
    """The inventories of a provider by class."""
    statement = select(INVENTORIES).where(INVENTORIES.c.provider_uuid == uuid).order_by(INVENTORIES.c.resource_class)
    return {row["resource_class"]: row for row in await reader.all(statement)}


async def create_inventory(placement: Placement, uuid: str, sent: Row, *, may_be_empty: bool) -> tuple[Row, Row]:
    """Add one inventory; returns (provider, inventory)."""
    name, inventory = sent["resource_class"], _filled(sent)

    async def body(tx: Transaction) -> tuple[Row, Row]:
        provider = await find_provider(tx, uuid)
        _check_capacity(uuid, name, inventory, may_be_empty=may_be_empty, doing="create")
        if await missing_classes(tx, [name]):
            raise Invalid(
                f"Unable to create inventory for resource provider {uuid}: No such resource class {name}."
            )  # fmt: skip
        if name in await list_inventories(tx, uuid):
            raise Conflict(f"Update conflict: {name} is there already.", kind=errors.CONCURRENT_UPDATE)
        await _write(tx, placement, provider, {name: inventory}, gone=[])
        return {**provider, "generation": provider["generation"] + 1}, inventory

    return await placement.database.run(body)


async def update_inventory(
    placement: Placement, uuid: str, name: str, sent: Row, *, may_be_empty: bool
) -> tuple[Row, Row]:
    """Replace one inventory that is there; returns (provider, inventory)."""
    inventory = _filled(sent)

    async def body(tx: Transaction) -> tuple[Row, Row]:
        provider = await find_provider(tx, uuid)
        if sent["resource_provider_generation"] != provider["generation"]:
            raise errors.generation_conflict()
        _check_capacity(uuid, name, inventory, may_be_empty=may_be_empty, doing="update")
        if name not in await list_inventories(tx, uuid):
            raise Invalid(
                f"No inventory record with resource class for resource provider {uuid}: "
                f"No inventory of class {name} found."
            )
        await _write(tx, placement, provider, {name: inventory}, gone=[])
        return {**provider, "generation": provider["generation"] + 1}, inventory

    return await placement.database.run(body)


async def replace_inventories(
    tx: Transaction, placement: Placement, uuid: str, sent: Mapping[str, Row], generation: int, *, may_be_empty: bool
) -> tuple[Row, dict[str, Row]]:
    """Inside a transaction: make the inventories exactly ``sent``; returns (provider, inventories)."""
    provider = await find_provider(tx, uuid)
    if generation != provider["generation"]:
        raise errors.generation_conflict()
    inventories = {name: _filled(values) for name, values in sent.items()}
    for name, inventory in inventories.items():
        _check_capacity(uuid, name, inventory, may_be_empty=may_be_empty, doing="update")
    if missing := await missing_classes(tx, inventories):
        raise Invalid(
            f"Unknown resource class in inventory for resource provider {uuid}: No such resource class {missing[0]}."
        )
    have = await list_inventories(tx, uuid)
    gone = [name for name in have if name not in inventories]
    if busy := [name for name in gone if have[name]["used"]]:
        raise Conflict(f"update conflict: {_in_use(busy, uuid)}", kind=errors.INVENTORY_IN_USE)
    await _write(tx, placement, provider, inventories, gone)
    return {**provider, "generation": provider["generation"] + 1}, inventories


async def set_inventories(
    placement: Placement, uuid: str, sent: Mapping[str, Row], generation: int, *, may_be_empty: bool
) -> tuple[Row, dict[str, Row]]:
    """Make the inventories of one provider exactly ``sent``; returns (provider, inventories)."""

    async def body(tx: Transaction) -> tuple[Row, dict[str, Row]]:
        return await replace_inventories(tx, placement, uuid, sent, generation, may_be_empty=may_be_empty)

    return await placement.database.run(body)


async def delete_inventories(placement: Placement, uuid: str) -> None:
    """Remove all inventories, whatever the generation."""

    async def body(tx: Transaction) -> None:
        provider = await find_provider(tx, uuid)
        have = await list_inventories(tx, uuid)
        if busy := [name for name, row in have.items() if row["used"]]:
            raise Conflict(_in_use(busy, uuid), kind=errors.INVENTORY_IN_USE)
        await _write(tx, placement, provider, {}, list(have))

    await placement.database.run(body)


async def delete_inventory(placement: Placement, uuid: str, name: str) -> None:
    async def body(tx: Transaction) -> None:
        provider = await find_provider(tx, uuid)
        have = (await list_inventories(tx, uuid)).get(name)
        if have is None:
            raise NotFound(f"No inventory of class {name} found for delete: No inventory of class {name} found.")
        if have["used"]:
            raise Conflict(
                f"Unable to delete inventory of class {name}: {_in_use([name], uuid)}", kind=errors.CONCURRENT_UPDATE
            )
        await _write(tx, placement, provider, {}, [name])

    await placement.database.run(body)


def _in_use(names: list[str], uuid: str) -> str:
    return f"Inventory for '{', '.join(names)}' on resource provider '{uuid}' in use."


async def _write(
    tx: Transaction, placement: Placement, provider: Row, inventories: Mapping[str, Row], gone: list[str]
) -> None:
    uuid = provider["uuid"]
    if gone:
        await tx.run(
            INVENTORIES.delete().where(INVENTORIES.c.provider_uuid == uuid, INVENTORIES.c.resource_class.in_(gone))
        )
    for name, inventory in inventories.items():
        values = {**inventory, "updated_at": clock.now()}
        own = INVENTORIES.update().where(INVENTORIES.c.provider_uuid == uuid, INVENTORIES.c.resource_class == name)
        if not await tx.run(own.values(**values)):
            await tx.insert(INVENTORIES, {"provider_uuid": uuid, "resource_class": name, "used": 0, **values})
    await touch(tx, placement, [uuid], generation=True)

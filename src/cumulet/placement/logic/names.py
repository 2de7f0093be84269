# SPDX-License-Identifier: Apache-2.0
"""Traits and resource classes: the standard ones of the code and the custom ones of this cloud."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Table, select

from cumulet.kernel import clock
from cumulet.kernel.db import Duplicate, Transaction
from cumulet.kernel.errors import Conflict, Invalid, NotFound
from cumulet.placement.logic import Placement, Reader
from cumulet.placement.models import CUSTOM_CLASSES, CUSTOM_TRAITS, INVENTORIES, PROVIDER_TRAITS
from cumulet.placement.names import CUSTOM, RESOURCE_CLASSES, standard_traits


async def _custom(reader: Reader, table: Table, names: Iterable[str]) -> set[str]:
    wanted = [name for name in names if name.startswith(CUSTOM)]
    if not wanted:
        return set()
    return {row["name"] for row in await reader.all(select(table.c.name).where(table.c.name.in_(wanted)))}


async def missing_traits(reader: Reader, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are no traits here, sorted."""
    wanted = set(names)
    return sorted(wanted - standard_traits() - await _custom(reader, CUSTOM_TRAITS, wanted))


async def missing_classes(reader: Reader, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are no resource classes here, sorted."""
    wanted = set(names)
    return sorted(wanted - set(RESOURCE_CLASSES) - await _custom(reader, CUSTOM_CLASSES, wanted))


# ---- traits


async def list_traits(
    placement: Placement, *, among: list[str] | None, prefix: str | None, associated: bool | None
) -> list[str]:
    """All traits, those of a list or with a prefix, those that some (or that no) provider has."""
    rows = await placement.database.all(select(CUSTOM_TRAITS.c.name))
    names = standard_traits() | {row["name"] for row in rows}
    if among is not None:
        names &= set(among)
    if prefix is not None:
        names = frozenset(name for name in names if name.startswith(prefix))
    if associated is not None:
        used = {row["trait"] for row in await placement.database.all(select(PROVIDER_TRAITS.c.trait).distinct())}
        names = names & used if associated else names - used
    return sorted(names)


async def find_trait(placement: Placement, name: str) -> None:
    if await missing_traits(placement.database, [name]):
        raise NotFound(f"No such trait(s): {name}.")


async def ensure_trait(placement: Placement, name: str) -> bool:
    """Make the custom trait; returns whether it is new."""
    return await _ensure(placement, CUSTOM_TRAITS, name)


async def delete_trait(placement: Placement, name: str) -> None:
    if name in standard_traits():
        raise Invalid(f"Cannot delete standard trait {name}.")

    async def body(tx: Transaction) -> None:
        if await tx.first(select(PROVIDER_TRAITS.c.trait).where(PROVIDER_TRAITS.c.trait == name).limit(1)):
            raise Conflict(f"The trait {name} is in use by a resource provider.")
        if not await tx.run(CUSTOM_TRAITS.delete().where(CUSTOM_TRAITS.c.name == name)):
            raise NotFound(f"No such trait(s): {name}.")

    await placement.database.run(body)


# ---- resource classes


async def list_classes(placement: Placement) -> list[str]:
    rows = await placement.database.all(select(CUSTOM_CLASSES.c.name).order_by(CUSTOM_CLASSES.c.created_at))
    return [*RESOURCE_CLASSES, *(row["name"] for row in rows)]


async def find_class(placement: Placement, name: str) -> None:
    if await missing_classes(placement.database, [name]):
        raise NotFound(f"No such resource class {name}.")


async def create_class(placement: Placement, name: str) -> None:
    if not await ensure_class(placement, name):
        raise Conflict(f"Conflicting resource class already exists: {name}")


async def ensure_class(placement: Placement, name: str) -> bool:
    """Make the custom class; returns whether it is new."""
    return await _ensure(placement, CUSTOM_CLASSES, name)


async def rename_class(placement: Placement, name: str, new: str) -> None:
    """Version 1.2 to 1.6 only: another name for an unused custom class."""
    await find_class(placement, name)
    if name in RESOURCE_CLASSES:
        raise Invalid(f"Cannot update standard resource class {name}")

    async def body(tx: Transaction) -> None:
        try:
            await tx.run(CUSTOM_CLASSES.update().where(CUSTOM_CLASSES.c.name == name).values(name=new))
        except Duplicate:
            raise Conflict(f"Resource class already exists: {new}") from None
        inventory = INVENTORIES.c.resource_class == name
        if await tx.first(select(INVENTORIES.c.resource_class).where(inventory).limit(1)):
            raise Conflict(f"Resource class {name} is in use in inventory.")

    await placement.database.run(body)


async def delete_class(placement: Placement, name: str) -> None:
    await find_class(placement, name)
    if name in RESOURCE_CLASSES:
        raise Invalid(f"Error in delete resource class: Cannot delete standard resource class {name}.")

    async def body(tx: Transaction) -> None:
        inventory = INVENTORIES.c.resource_class == name
        if await tx.first(select(INVENTORIES.c.resource_class).where(inventory).limit(1)):
            raise Conflict(
                f"Error in delete resource class: Cannot delete resource class {name}. Class is in use in inventory."
            )
        if not await tx.run(CUSTOM_CLASSES.delete().where(CUSTOM_CLASSES.c.name == name)):
            raise NotFound(f"No such resource class {name}.")

    await placement.database.run(body)


async def _ensure(placement: Placement, table: Table, name: str) -> bool:
    async def body(tx: Transaction) -> bool:
        if await tx.first(select(table.c.name).where(table.c.name == name)):
            return False
        try:
            await tx.insert(table, {"name": name, "created_at": clock.now()})
        except Duplicate:
            return False
        return True

    return await placement.database.run(body)

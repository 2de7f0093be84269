# SPDX-License-Identifier: Apache-2.0
"""Volume types: named kinds of volumes; extra specs say what is special about them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Conflict, Invalid, NotFound
from cumulet.volume.logic import Volume
from cumulet.volume.models import SNAPSHOTS, TYPES, VOLUMES
from cumulet.volume.states import DELETED

DEFAULT = "__DEFAULT__"
VISIBLE_SPECS = ("RESKEY:availability_zones", "multiattach", "replication_enabled")
"""Extra specs that every user may see."""


async def ensure_default(database: Database) -> None:
    """The one type that always exists."""

    async def body(tx: Transaction) -> None:
        if await tx.first(select(TYPES).where(TYPES.c.name == DEFAULT)) is None:
            row = {"description": "Default Volume Type", "is_public": True, "extra_specs": {}}
            await tx.insert(TYPES, {"id": ids.new_uuid(), "name": DEFAULT, **row, "created_at": clock.now()})

    await database.run(body)


async def list_types(volume: Volume, caller: Context) -> list[Row]:
    """The types that the caller may use, by age."""
    statement = select(TYPES).order_by(TYPES.c.created_at.desc(), TYPES.c.id)
    if not caller.is_admin:
        statement = statement.where(TYPES.c.is_public.is_(True))
    return await volume.database.all(statement, point=True)


async def find(volume: Volume, caller: Context, name_or_id: str) -> Row:
    """A type by id or name; raises NotFound."""
    row = await volume.database.first(select(TYPES).where(TYPES.c.id == name_or_id))
    row = row or await volume.database.first(select(TYPES).where(TYPES.c.name == name_or_id))
    if row is None or not (row["is_public"] or caller.is_admin):
        if ids.is_uuid(name_or_id):
            raise NotFound(f"Volume type {name_or_id} could not be found.", kind="VolumeTypeNotFound")
        raise NotFound(f"Volume type with name {name_or_id} could not be found.", kind="VolumeTypeNotFoundByName")
    return row


async def create(volume: Volume, name: str, description: str | None, is_public: bool, specs: dict[str, str]) -> Row:
    """Raises Conflict for a used name."""
    row: Row = {
        "id": ids.new_uuid(), "name": name, "description": description, "is_public": is_public,
        "extra_specs": specs, "created_at": clock.now(), "updated_at": None,
    }  # fmt: skip

    async def body(tx: Transaction) -> None:
        try:
            await tx.insert(TYPES, row)
        except Duplicate:
            raise Conflict(f"Volume Type {name} already exists.") from None

    await volume.database.run(body)
    return row


async def update(volume: Volume, row: Row, **values: Any) -> Row:
    """Raises Conflict for a used name. A renamed type keeps its counted usage under its new name only."""

    async def body(tx: Transaction) -> None:
        try:
            await tx.run(TYPES.update().where(TYPES.c.id == row["id"]).values(**values, updated_at=clock.now()))
        except Duplicate:
            raise Conflict(f"Volume Type {values.get('name')} already exists.") from None

    if "name" in values and values["name"] != row["name"] and await _used(volume, row["id"]):
        raise Invalid(f"Volume Type {row['id']} can't be renamed with volumes present with the type.")
    await volume.database.run(body)
    return {**row, **values}


async def remove(volume: Volume, row: Row) -> None:
    """Raises Invalid for a type in use and for the default."""
    if row["name"] == volume.default_type:
        raise Invalid(f"The volume type {row['id']} is a default volume type and cannot be deleted.")
    if await _used(volume, row["id"]):
        raise Invalid(f"Volume Type {row['id']} deletion is not allowed with volumes present with the type.")

    async def body(tx: Transaction) -> None:
        # tombstones point to it as well
        for table in (SNAPSHOTS, VOLUMES):
            await tx.run(table.delete().where(table.c.type_id == row["id"], table.c.status == DELETED))
        await tx.run(TYPES.delete().where(TYPES.c.id == row["id"]))

    await volume.database.run(body)


async def _used(volume: Volume, type_id: str) -> bool:
    live = select(VOLUMES.c.id).where(VOLUMES.c.type_id == type_id, VOLUMES.c.status != DELETED).limit(1)
    return await volume.database.first(live) is not None

# SPDX-License-Identifier: Apache-2.0
"""Volume types: named kinds of volumes; extra specs say what is special about them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import exists, select

from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Conflict, Invalid, NotFound
from cumulet.volume.logic import Volume
from cumulet.volume.models import SNAPSHOTS, TYPE_ACCESS, TYPES, VOLUMES
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
        statement = statement.where(_usable(caller))
    return await volume.database.all(statement, point=True)


def _usable(caller: Context) -> Any:
    granted = exists().where(TYPE_ACCESS.c.type_id == TYPES.c.id, TYPE_ACCESS.c.project_id == caller.project_id)
    return TYPES.c.is_public.is_(True) | granted


async def find(volume: Volume, caller: Context, name_or_id: str) -> Row:
    """A type by id or name; raises NotFound."""
    usable = TYPES.c.id.is_not(None) if caller.is_admin else _usable(caller)
    row = await volume.database.first(select(TYPES).where(TYPES.c.id == name_or_id, usable))
    row = row or await volume.database.first(select(TYPES).where(TYPES.c.name == name_or_id, usable))
    if row is None:
        if ids.is_uuid(name_or_id):
            raise NotFound(f"Volume type {name_or_id} could not be found.", kind="VolumeTypeNotFound")
        raise NotFound(f"Volume type with name {name_or_id} could not be found.", kind="VolumeTypeNotFoundByName")
    return row


def is_multiattach(row: Row) -> bool:
    """Whether several servers may use a volume of this type at once."""
    return str(row["extra_specs"].get("multiattach", "")).lower() == "<is> true"


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


async def projects_of(volume: Volume, row: Row) -> list[str]:
    """The projects that may use a type that is not public; raises NotFound for a public one."""
    if row["is_public"]:
        raise NotFound("Access list not available for public volume types.")
    mine = select(TYPE_ACCESS.c.project_id).where(TYPE_ACCESS.c.type_id == row["id"])
    return [one["project_id"] for one in await volume.database.all(mine, point=True)]


async def grant(volume: Volume, row: Row, project_id: str) -> None:
    """Let a project use a type; raises Conflict when it may already."""

    async def body(tx: Transaction) -> None:
        try:
            await tx.insert(TYPE_ACCESS, {"type_id": row["id"], "project_id": project_id})
        except Duplicate:
            raise Conflict(f"Volume type access for {row['id']} / {project_id} combination already exists.") from None

    if row["is_public"]:
        raise Conflict("Invalid volume type: Type access modification is not applicable to public volume type.")
    await volume.database.run(body)


async def revoke(volume: Volume, row: Row, project_id: str) -> None:
    """Take it back; raises NotFound when the project had no access."""
    key = (TYPE_ACCESS.c.type_id == row["id"]) & (TYPE_ACCESS.c.project_id == project_id)
    if not await volume.database.run(lambda tx: tx.run(TYPE_ACCESS.delete().where(key))):
        raise NotFound(f"Volume type access not found for {row['id']} / {project_id} combination.")


async def _used(volume: Volume, type_id: str) -> bool:
    live = select(VOLUMES.c.id).where(VOLUMES.c.type_id == type_id, VOLUMES.c.status != DELETED).limit(1)
    return await volume.database.first(live) is not None

# SPDX-License-Identifier: Apache-2.0
"""Flavors: the sizes a server may have, and who may use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Boolean, Column, ColumnElement, Select, String, Text, and_, case, exists, func, or_, select

from cumulet.compute.errors import marker_missing
from cumulet.compute.logic import Compute
from cumulet.compute.models import FLAVOR_ACCESS, FLAVORS
from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Duplicate, Row, Transaction
from cumulet.kernel.errors import Conflict, NotFound

SORT: Final = {
    "created_at": "created_at", "description": "description", "disabled": "disabled", "ephemeral_gb": "ephemeral",
    "flavorid": "id", "id": "id", "is_public": "is_public", "memory_mb": "ram", "name": "name", "root_gb": "disk",
    "rxtx_factor": "rxtx_factor", "swap": "swap", "updated_at": "updated_at", "vcpu_weight": "id", "vcpus": "vcpus",
}  # fmt: skip
"""Published sort key → column."""


def _row(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "description": None, "ephemeral": 0, "swap": 0, "rxtx_factor": 1.0, "is_public": True, "disabled": False,
        "extra_specs": {}, "created_at": clock.now(), "updated_at": None,
    }  # fmt: skip
    return {**plain, **values}


def _missing(flavor_id: str) -> NotFound:
    return NotFound(f"Flavor {flavor_id} could not be found.", kind="FlavorNotFound")


def _usable(statement: Select[Any], context: Context) -> Select[Any]:
    """Only flavors that the caller's project may use."""
    granted = exists().where(
        FLAVOR_ACCESS.c.flavor_id == FLAVORS.c.id, FLAVOR_ACCESS.c.project_id == (context.project_id or "")
    )
    return statement.where(or_(FLAVORS.c.is_public.is_(True), granted))


async def load(compute: Compute, context: Context, flavor_id: str) -> Row:
    """A flavor that the caller may see; raises NotFound."""
    statement = select(FLAVORS).where(FLAVORS.c.id == flavor_id)
    row = await compute.db.first(statement if context.is_admin else _usable(statement, context))
    if row is None:
        raise _missing(flavor_id)
    return row


async def find(
    compute: Compute,
    context: Context,
    *,
    public: bool | None,
    min_ram: int | None = None,
    min_disk: int | None = None,
    name: str | None = None,
    sort_key: str = "flavorid",
    sort_dir: str = "asc",
    limit: int,
    marker: str | None = None,
) -> list[Row]:
    """A page of flavors; ``public`` None means all. Raises Invalid for a marker that is not there."""
    f = FLAVORS.c
    statement = select(FLAVORS)
    if not context.is_admin:
        statement = _usable(statement, context)
    if public is True:
        granted = exists().where(FLAVOR_ACCESS.c.flavor_id == f.id, FLAVOR_ACCESS.c.project_id == context.project_id)
        statement = statement.where(or_(f.is_public.is_(True), granted))
    elif public is False:
        statement = statement.where(f.is_public.is_(False))
    if min_ram is not None:
        statement = statement.where(f.ram >= min_ram)
    if min_disk is not None:
        statement = statement.where(f.disk >= min_disk)
    if name is not None:
        statement = statement.where(f.name == name)
    column = _ordered(FLAVORS.c[SORT[sort_key]])
    rising = sort_dir == "asc"
    if marker is not None:
        last = await compute.db.first(select(column.label("value")).where(f.id == marker))
        if last is None:
            raise marker_missing(marker)
        value = last["value"]
        beyond = column > value if rising else column < value
        later = f.id > marker if rising else f.id < marker
        statement = statement.where(or_(beyond, and_(column == value, later)))
    order = (column.asc(), f.id.asc()) if rising else (column.desc(), f.id.desc())
    return await compute.db.all(statement.order_by(*order).limit(limit))


def _ordered(column: Column[Any]) -> ColumnElement[Any]:
    """A column as something that is never null and can be compared."""
    if isinstance(column.type, Boolean):
        return case((column, 1), else_=0)
    if isinstance(column.type, Text | String):
        return func.coalesce(column, "")
    return func.coalesce(column, 0)


async def create(compute: Compute, values: Mapping[str, Any]) -> Row:
    """Make a flavor; raises Conflict for a name or id that exists."""
    row = _row({**values, "id": values.get("id") or ids.new_uuid()})

    async def body(tx: Transaction) -> None:
        if await tx.first(select(FLAVORS.c.id).where(FLAVORS.c.name == row["name"])):
            raise Conflict(f"Flavor with name {row['name']} already exists.", kind="FlavorExists")
        try:
            await tx.insert(FLAVORS, row)
        except Duplicate:
            raise Conflict(f"Flavor with ID {row['id']} already exists.", kind="FlavorIdExists") from None

    await compute.db.run(body)
    return row


async def update(compute: Compute, flavor_id: str, **changes: Any) -> Row:
    """Change a flavor's description; raises NotFound."""

    async def body(tx: Transaction) -> Row:
        statement = FLAVORS.update().where(FLAVORS.c.id == flavor_id)
        if not await tx.run(statement.values(**changes, updated_at=clock.now())):
            raise _missing(flavor_id)
        row = await tx.first(select(FLAVORS).where(FLAVORS.c.id == flavor_id))
        assert row is not None
        return row

    return await compute.db.run(body)


async def delete(compute: Compute, flavor_id: str) -> None:
    """Remove a flavor; servers keep their own copy. Raises NotFound."""

    async def body(tx: Transaction) -> None:
        await tx.run(FLAVOR_ACCESS.delete().where(FLAVOR_ACCESS.c.flavor_id == flavor_id))
        if not await tx.run(FLAVORS.delete().where(FLAVORS.c.id == flavor_id)):
            raise _missing(flavor_id)

    await compute.db.run(body)


async def change_specs(compute: Compute, flavor_id: str, *, put: Mapping[str, Any], drop: str | None = None) -> None:
    """Merge extra specs into a flavor's, or drop one; raises NotFound."""

    async def body(tx: Transaction) -> None:
        row = await tx.first(select(FLAVORS).where(FLAVORS.c.id == flavor_id))
        if row is None:
            raise _missing(flavor_id)
        specs = {**row["extra_specs"], **{key: str(value) for key, value in put.items()}}
        if drop is not None and specs.pop(drop, None) is None:
            raise spec_missing(flavor_id, drop)
        statement = FLAVORS.update().where(FLAVORS.c.id == flavor_id)
        await tx.run(statement.values(extra_specs=specs, updated_at=clock.now()))

    await compute.db.run(body)


def spec_missing(flavor_id: str, key: str) -> NotFound:
    return NotFound(f"Flavor {flavor_id} has no extra specs with key {key}.", kind="FlavorExtraSpecsNotFound")


async def projects_of(compute: Compute, flavor_id: str) -> list[str]:
    """The projects that may use a private flavor."""
    a = FLAVOR_ACCESS.c
    rows = await compute.db.all(select(a.project_id).where(a.flavor_id == flavor_id).order_by(a.project_id))
    return [row["project_id"] for row in rows]


async def grant(compute: Compute, flavor_id: str, project_id: str) -> None:
    """Let a project use a flavor; raises Conflict when it may already."""

    async def body(tx: Transaction) -> None:
        try:
            await tx.insert(FLAVOR_ACCESS, {"flavor_id": flavor_id, "project_id": project_id})
        except Duplicate:
            raise Conflict(
                f"Flavor access already exists for flavor {flavor_id} and project {project_id} combination.",
                kind="FlavorAccessExists",
            ) from None

    await compute.db.run(body)


async def revoke(compute: Compute, flavor_id: str, project_id: str) -> None:
    """Take the use of a flavor from a project; raises NotFound when it had none."""
    a = FLAVOR_ACCESS

    async def body(tx: Transaction) -> None:
        gone = a.delete().where(a.c.flavor_id == flavor_id, a.c.project_id == project_id)
        if not await tx.run(gone):
            raise NotFound(
                f"Flavor access not found for {flavor_id} / {project_id} combination.", kind="FlavorAccessNotFound"
            )

    await compute.db.run(body)

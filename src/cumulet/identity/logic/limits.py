# SPDX-License-Identifier: Apache-2.0
"""Limits that every service asks for: what is registered for all, and what one project or domain has instead.

Invariant: a limit exists only beside the registered one that it overrides; and
under the hierarchical model no project is promised more than its domain.
"""

from __future__ import annotations

import math
from typing import Any, Final

from sqlalchemy import Select, select

from cumulet.identity.errors import expecting, taken
from cumulet.identity.logic.listing import Page, fetch
from cumulet.identity.models import LIMITS, PROJECTS, REGIONS, REGISTERED_LIMITS, SERVICES
from cumulet.kernel import ids
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Forbidden, NotFound

Reader = Database | Transaction
FLAT: Final = "flat"
STRICT: Final = "strict_two_level"
MODELS = {
    FLAT: "Limit enforcement and validation does not take project hierarchy into consideration.",
    STRICT: "This model requires project hierarchy never exceeds a depth of two",
}
"""The enforcement models by name, with their published descriptions."""
DEPTH = {FLAT: None, STRICT: 2}
"""How deep a tree may be, the domain counted."""

_NAMED = ("service_id", "region_id", "resource_name")
SHOWN = (
    select(LIMITS, *(REGISTERED_LIMITS.c[name] for name in _NAMED))
    .join(REGISTERED_LIMITS, LIMITS.c.registered_limit_id == REGISTERED_LIMITS.c.id)
    .subquery("shown_limits")
)
"""A limit with what its registered limit is about."""


# ---- registered limits


async def list_registered(database: Database, page: Page) -> tuple[list[Row], bool]:
    return await fetch(database, select(REGISTERED_LIMITS), REGISTERED_LIMITS, page)


async def show_registered(reader: Reader, limit_id: str) -> Row:
    row = await reader.first(select(REGISTERED_LIMITS).where(REGISTERED_LIMITS.c.id == limit_id))
    if row is None:
        raise NotFound(f"Could not find registered limit for {limit_id}.")
    return row


async def register(database: Database, sent: list[dict[str, Any]]) -> list[Row]:
    """Register all limits of the list, or none."""
    rows = [{"description": None, **one, "id": ids.new_hex(), "region_id": one.get("region_id") or ""} for one in sent]

    async def body(tx: Transaction) -> None:
        for row in rows:
            await _check_places(tx, row, "registered_limit")
            await tx.insert(REGISTERED_LIMITS, row)

    try:
        await database.run(body)
    except Duplicate:
        raise taken("registered_limit", "Duplicate entry") from None
    return rows


async def update_registered(database: Database, limit_id: str, sent: dict[str, Any]) -> Row:
    """Change a registered limit that nobody overrides."""

    async def body(tx: Transaction) -> Row:
        await _check_places(tx, sent, "registered_limit")
        row = await show_registered(tx, limit_id)
        await _refuse_overridden(tx, limit_id)
        new = {**row, **sent}
        new["region_id"] = new["region_id"] or ""
        await tx.run(REGISTERED_LIMITS.update().where(REGISTERED_LIMITS.c.id == limit_id).values(new))
        return new

    try:
        return await database.run(body)
    except Duplicate:
        raise taken("registered_limit", "Duplicate entry") from None


async def drop_registered(database: Database, limit_id: str) -> None:
    async def body(tx: Transaction) -> None:
        await show_registered(tx, limit_id)
        await _refuse_overridden(tx, limit_id)
        await tx.run(REGISTERED_LIMITS.delete().where(REGISTERED_LIMITS.c.id == limit_id))

    await database.run(body)


async def _refuse_overridden(tx: Transaction, limit_id: str) -> None:
    if await tx.first(select(LIMITS.c.id).where(LIMITS.c.registered_limit_id == limit_id)) is not None:
        raise Forbidden(
            f"Unable to update or delete registered limit {limit_id}"
            " because there are project limits associated with it."
        )


async def _check_places(tx: Transaction, values: dict[str, Any], target: str) -> None:
    """What is named must be there; raises Invalid in the published wording."""
    for name, table in (("service_id", SERVICES), ("region_id", REGIONS)):
        if values.get(name) and await tx.first(select(table.c.id).where(table.c.id == values[name])) is None:
            raise expecting(name, target)


# ---- limits of projects and domains


async def list_limits(
    database: Database, page: Page, *, domain_id: str | None = None, project_id: str | None = None
) -> tuple[list[Row], bool]:
    """The limits, or those of one project, or of one domain with its projects."""
    statement: Select[Any] = select(SHOWN)
    if domain_id is not None:
        inside = select(PROJECTS.c.id).where(PROJECTS.c.domain_id == domain_id)
        statement = statement.where((SHOWN.c.domain_id == domain_id) | SHOWN.c.project_id.in_(inside))
    if project_id is not None:
        statement = statement.where(SHOWN.c.project_id == project_id)
    return await fetch(database, statement, SHOWN, page)


async def show_limit(reader: Reader, limit_id: str) -> Row:
    row = await reader.first(select(SHOWN).where(SHOWN.c.id == limit_id))
    if row is None:
        raise NotFound(f"Could not find limit for {limit_id}.")
    return row


async def create_limits(database: Database, model: str, sent: list[dict[str, Any]]) -> list[Row]:
    """Create all limits of the list, or none; each needs its registered limit."""

    async def body(tx: Transaction) -> list[Row]:
        rows = [await _limit(tx, one) for one in sent]
        # domains first, so that projects of the same request are measured by them
        for row in sorted(rows, key=lambda row: row["domain_id"] == ""):
            stored = {name: value for name, value in row.items() if name not in _NAMED}
            await tx.insert(LIMITS, stored)
        for row in rows:
            await _check_tree(tx, model, row)
        return rows

    try:
        return await database.run(body)
    except Duplicate:
        raise taken("limit", "Duplicate entry") from None


async def _limit(tx: Transaction, sent: dict[str, Any]) -> Row:
    """The row of one wished limit; one for a project that is a domain is the domain's."""
    await _check_places(tx, sent, "limit")
    project_id, domain_id = sent.get("project_id") or "", sent.get("domain_id") or ""
    if project_id:
        project = await tx.first(select(PROJECTS).where(PROJECTS.c.id == project_id))
        if project is None:
            raise expecting("project_id", "limit")
        if project["is_domain"]:
            project_id, domain_id = "", project_id
    if domain_id:
        domain = await tx.first(select(PROJECTS).where(PROJECTS.c.id == domain_id))
        if domain is None or not domain["is_domain"]:
            raise expecting("domain_id", "limit")
    about = {name: sent.get(name) or "" for name in _NAMED}
    statement = select(REGISTERED_LIMITS.c.id)
    for name, value in about.items():
        statement = statement.where(REGISTERED_LIMITS.c[name] == value)
    registered = await tx.first(statement)
    if registered is None:
        raise Forbidden("Unable to create a limit that has no corresponding registered limit.")
    return {
        "id": ids.new_hex(),
        "registered_limit_id": registered["id"],
        "project_id": project_id,
        "domain_id": domain_id,
        "resource_limit": sent["resource_limit"],
        "description": sent.get("description"),
        **about,
    }


async def update_limit(database: Database, model: str, limit_id: str, sent: dict[str, Any]) -> Row:
    async def body(tx: Transaction) -> Row:
        new = {**await show_limit(tx, limit_id), **sent}
        await tx.run(LIMITS.update().where(LIMITS.c.id == limit_id).values(sent))
        await _check_tree(tx, model, new)
        return new

    return await database.run(body)


async def drop_limit(database: Database, limit_id: str) -> None:
    async def body(tx: Transaction) -> None:
        await show_limit(tx, limit_id)
        await tx.run(LIMITS.delete().where(LIMITS.c.id == limit_id))

    await database.run(body)


async def forget_limits(tx: Transaction, project_id: str) -> None:
    """Delete the limits of a project or domain that goes away."""
    await tx.run(LIMITS.delete().where((LIMITS.c.project_id == project_id) | (LIMITS.c.domain_id == project_id)))


def _size(limit: int) -> float:
    return math.inf if limit == -1 else limit


async def _check_tree(tx: Transaction, model: str, row: Row) -> None:
    """Raise Forbidden where a project would have more than its domain."""
    if model != STRICT:
        return
    same = LIMITS.c.registered_limit_id == row["registered_limit_id"]
    mine = _size(row["resource_limit"])
    if row["project_id"]:
        project = await tx.first(select(PROJECTS.c.parent_id).where(PROJECTS.c.id == row["project_id"]))
        parent = project["parent_id"] if project is not None else ""
        above = await tx.first(select(LIMITS.c.resource_limit).where(same, LIMITS.c.domain_id == parent))
        if above is None:
            registered = await show_registered(tx, row["registered_limit_id"])
            above = {"resource_limit": registered["default_limit"]}
        fits = mine <= _size(above["resource_limit"])
    else:
        inside = select(PROJECTS.c.id).where(PROJECTS.c.domain_id == row["domain_id"])
        below = await tx.all(select(LIMITS.c.resource_limit).where(same, LIMITS.c.project_id.in_(inside)))
        fits = all(_size(one["resource_limit"]) <= mine for one in below)
    if not fits:
        level = "project_id" if row["project_id"] else "domain_id"
        raise Forbidden(
            f"Invalid resource limit: The resource limit ({level}: {row[level]}, resource_name: {row['resource_name']},"
            f" resource_limit: {row['resource_limit']}, service_id: {row['service_id']},"
            f" region_id: {row['region_id'] or None}) doesn't satisfy current hierarchy model.."
        )

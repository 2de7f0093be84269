# SPDX-License-Identifier: Apache-2.0
"""Projects and domains: one tree per domain; a domain is its root.

Invariants: a project and its parent share a domain; no enabled project stands
below a disabled one; disabling or deleting voids the tokens that stand on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, exists, or_, select

from cumulet.identity.config import IdentitySettings
from cumulet.identity.errors import missing, taken
from cumulet.identity.logic import sealed_credentials
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.limits import DEPTH, forget_limits
from cumulet.identity.logic.listing import Page, fetch, one, split
from cumulet.identity.logic.roles import merge_options, refuse_immutable
from cumulet.identity.logic.users import require_domain
from cumulet.identity.models import ASSIGNMENTS, GROUPS, PROJECTS, ROLES, TAGS, USERS
from cumulet.kernel import ids
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Forbidden, Invalid, NotFound

Reader = Database | Transaction
PROJECT = ("name", "domain_id", "parent_id", "is_domain", "description", "enabled", "options", "tags")
_DEFAULT = {"is_domain": False, "enabled": True, "options": None, "tags": ()}


async def with_tags(reader: Reader, rows: list[Row]) -> list[Row]:
    """The rows with their ``tags``, sorted."""
    by_id: dict[str, list[str]] = {row["id"]: [] for row in rows}
    named = select(TAGS).order_by(TAGS.c.name)
    ordered = list(by_id)
    for start in range(0, len(ordered), 500):
        for tag in await reader.all(named.where(TAGS.c.project_id.in_(ordered[start : start + 500]))):
            by_id[tag["project_id"]].append(tag["name"])
    return [{**row, "tags": by_id[row["id"]]} for row in rows]


async def list_projects(
    database: Database,
    page: Page,
    *,
    is_domain: bool,
    tags: Mapping[str, list[str]] | None = None,
    only: list[str] | None = None,
) -> tuple[list[Row], bool]:
    """The projects (or domains) of a page.

    ``tags`` are the published filters ``tags``, ``tags-any``, ``not-tags`` and
    ``not-tags-any`` with their names; ``only`` limits to these ids.
    """
    statement = select(PROJECTS).where(PROJECTS.c.is_domain.is_(is_domain))
    if only is not None:
        statement = statement.where(PROJECTS.c.id.in_(only))
    rows, more = await fetch(database, _tagged(statement, tags or {}), PROJECTS, page)
    return await with_tags(database, rows), more


def _tagged(statement: Select[Any], tags: Mapping[str, list[str]]) -> Select[Any]:
    def has(name: str) -> Any:
        return exists().where(TAGS.c.project_id == PROJECTS.c.id, TAGS.c.name == name)

    for name in tags.get("tags", ()):
        statement = statement.where(has(name))
    if "tags-any" in tags:
        statement = statement.where(or_(*(has(name) for name in tags["tags-any"])))
    if "not-tags" in tags:
        statement = statement.where(or_(*(~has(name) for name in tags["not-tags"])))
    for name in tags.get("not-tags-any", ()):
        statement = statement.where(~has(name))
    return statement


async def show_project(reader: Reader, project_id: str) -> Row:
    row = await one(reader, PROJECTS, project_id, "project")
    return (await with_tags(reader, [row]))[0]


async def show_domain(reader: Reader, domain_id: str) -> Row:
    return (await with_tags(reader, [await require_domain(reader, domain_id)]))[0]


async def parents_of(reader: Reader, project: Row) -> list[Row]:
    """The projects over a project, nearest first, its domain last."""
    parents: list[Row] = []
    while project["parent_id"]:
        project = await one(reader, PROJECTS, project["parent_id"], "project")
        parents.append(project)
    return parents


async def below(reader: Reader, project_id: str) -> list[Row]:
    """All projects under a project, parents before their children."""
    found: list[Row] = []
    layer = [project_id]
    while layer:
        rows = await reader.all(select(PROJECTS).where(PROJECTS.c.parent_id.in_(layer)).order_by(PROJECTS.c.id))
        found += rows
        layer = [row["id"] for row in rows]
    return found


async def create_project(database: Database, settings: IdentitySettings, sent: dict[str, Any]) -> Row:
    """Create a project or, with ``is_domain``, a domain.

    ``sent`` names its domain or its parent. Raises Invalid for a place where it can't be.
    """
    values, extra = split(sent, PROJECT)
    values = {**_DEFAULT, **values}
    domain_id = values.get("domain_id") or ""
    row = {
        "id": extra.pop("explicit_domain_id", None) or ids.new_hex(),
        "domain_id": domain_id,
        "parent_id": values.get("parent_id") or domain_id,
        "is_domain": values["is_domain"],
        "name": values["name"].strip(),
        "description": values.get("description") or "",
        "enabled": values["enabled"],
        "options": merge_options({}, values["options"]),
        "extra": extra,
        "voided": 0,
    }

    async def body(tx: Transaction) -> Row:
        if row["is_domain"]:
            if row["parent_id"]:
                raise Invalid("only root projects are allowed to act as domains.")
        else:
            await _check_place(tx, settings, row)
        await tx.insert(PROJECTS, row)
        await _tag(tx, row["id"], list(values["tags"]))
        return (await with_tags(tx, [row]))[0]

    try:
        return await database.run(body)
    except Duplicate:
        raise _taken(row) from None
    except NotFound as fault:
        raise Invalid(fault.message) from None  # a domain or parent that is not there is the request's mistake


async def _check_place(tx: Transaction, settings: IdentitySettings, row: Row) -> None:
    """The parent is there, enabled with all above it, in the same domain, and not too deep."""
    domain = await require_domain(tx, row["domain_id"])
    parent = await one(tx, PROJECTS, row["parent_id"], "project")
    if (parent["id"] if parent["is_domain"] else parent["domain_id"]) != domain["id"]:
        raise Invalid(f"Cannot create project: its parent {parent['id']} does not belong to its domain {domain['id']}.")
    branch = [parent, *await parents_of(tx, parent)]
    for one_above in branch:
        if not one_above["enabled"]:
            raise Invalid(f"cannot create a project in a branch containing a disabled project: {one_above['id']}")
    deepest = DEPTH[settings.enforcement_model]
    if len(branch) > settings.project_tree_depth or (deepest is not None and len(branch) >= deepest):
        raise Forbidden(f"Max hierarchy depth reached for {parent['id']} branch.")


async def update_project(
    database: Database, feed: Feed, project_id: str, sent: dict[str, Any], *, domain: bool = False
) -> Row:
    """Change a project (or a domain); disabling voids the tokens that stand on it."""
    values, extra = split(sent, PROJECT)
    tags = values.pop("tags", None)

    async def body(tx: Transaction) -> Row:
        row = await (require_domain(tx, project_id) if domain else one(tx, PROJECTS, project_id, "project"))
        noun = "domain" if row["is_domain"] else "project"
        refuse_immutable(row, noun, "update", values)
        for column, refusal in _FIXED:
            if column in values and (values[column] or "") != (row[column] or ""):
                raise refusal
        new = {**row, **values, "domain_id": row["domain_id"], "parent_id": row["parent_id"]}
        new["extra"] = {**row["extra"], **extra}
        new["name"] = new["name"].strip()
        new["description"] = new["description"] or ""
        new["options"] = merge_options(row["options"], values.get("options"))
        enabled = new["enabled"] and not row["enabled"]
        if enabled and not all(parent["enabled"] for parent in await parents_of(tx, row)):
            raise Forbidden(f"Cannot enable project {project_id} since it has disabled parents")
        disabled = row["enabled"] and not new["enabled"]
        if disabled and not row["is_domain"] and any(child["enabled"] for child in await below(tx, project_id)):
            raise Forbidden(f"Cannot disable project {project_id} since its subtree contains enabled projects.")
        sequence = await feed.changed(tx, void=disabled, **_named(new))
        if disabled:
            new["voided"] = sequence
        try:
            await tx.run(PROJECTS.update().where(PROJECTS.c.id == project_id).values(new))
        except Duplicate:
            raise _taken(new) from None
        if tags is not None:
            await _tag(tx, project_id, tags)
        return (await with_tags(tx, [new]))[0]

    return await database.run(body)


_FIXED = (
    ("domain_id", Invalid("Cannot change Domain ID")),
    ("parent_id", Forbidden("Update of `parent_id` is not allowed.")),
    ("is_domain", Invalid("Update of `is_domain` is not allowed.")),
)


async def delete_project(database: Database, feed: Feed, project_id: str) -> None:
    """Delete a project without children, or a disabled domain with all that it holds."""

    async def body(tx: Transaction) -> None:
        row = await one(tx, PROJECTS, project_id, "project")
        if row["is_domain"]:
            await _delete_domain(tx, feed, row)
            return
        refuse_immutable(row, "project", "delete", {})
        if await below(tx, project_id):
            raise Forbidden(
                f"Cannot delete the project {project_id} since it is not a leaf in the hierarchy."
                " Use the cascade option if you want to delete a whole subtree."
            )
        await _forget(tx, "project", project_id)
        await feed.changed(tx, void=True, project_id=project_id)

    await database.run(body)


async def delete_domain(database: Database, feed: Feed, domain_id: str) -> None:
    """Delete a disabled domain with its users, groups, roles and projects."""

    async def body(tx: Transaction) -> None:
        await _delete_domain(tx, feed, await require_domain(tx, domain_id))

    await database.run(body)


async def _delete_domain(tx: Transaction, feed: Feed, row: Row) -> None:
    refuse_immutable(row, "domain", "delete", {})
    if row["enabled"]:
        raise Forbidden("Cannot delete a domain that is enabled, please disable it first.")
    domain_id = row["id"]
    for table, actor in ((USERS, "user"), (GROUPS, "group")):
        inside = select(table.c.id).where(table.c.domain_id == domain_id)
        of_them = (ASSIGNMENTS.c.actor_type == actor) & ASSIGNMENTS.c.actor_id.in_(inside)
        await tx.run(ASSIGNMENTS.delete().where(of_them))
        if actor == "user":
            await sealed_credentials.forget(tx, users=inside)
        await tx.run(table.delete().where(table.c.domain_id == domain_id))
    await tx.run(ROLES.delete().where(ROLES.c.domain_id == domain_id))
    for project in await tx.all(select(PROJECTS.c.id).where(PROJECTS.c.domain_id == domain_id)):
        await _forget(tx, "project", project["id"])
        await feed.changed(tx, void=True, project_id=project["id"])
    await _forget(tx, "domain", domain_id)
    await feed.changed(tx, void=True, domain_id=domain_id)


async def _forget(tx: Transaction, target_type: str, project_id: str) -> None:
    """Delete the row and what is assigned on it."""
    table = ASSIGNMENTS.c
    await tx.run(ASSIGNMENTS.delete().where(table.target_type == target_type, table.target_id == project_id))
    await forget_limits(tx, project_id)
    await sealed_credentials.forget(tx, project_id=project_id)
    await tx.run(PROJECTS.delete().where(PROJECTS.c.id == project_id))


def _named(row: Row) -> dict[str, Any]:
    return {"domain_id": row["id"]} if row["is_domain"] else {"project_id": row["id"]}


def _taken(row: Row) -> Exception:
    if row["is_domain"]:
        why = f"it is not permitted to have two projects acting as domains with the same name: {row['name']}"
        return taken("project", why)
    return taken(
        "project",
        "it is not permitted to have two projects with either the same name or same id in the same domain:"
        f" name is {row['name']}, project id {row['id']}",
    )


# ---- tags


async def _tag(tx: Transaction, project_id: str, names: list[str]) -> None:
    await tx.run(TAGS.delete().where(TAGS.c.project_id == project_id))
    for name in names:
        await tx.insert(TAGS, {"project_id": project_id, "name": name})


async def replace_tags(database: Database, project_id: str, names: list[str]) -> list[str]:
    """Give a project these tags and no others; returns them sorted."""

    async def body(tx: Transaction) -> list[str]:
        await one(tx, PROJECTS, project_id, "project")
        await _tag(tx, project_id, names)
        return sorted(names)

    return await database.run(body)


async def add_tag(database: Database, project_id: str, name: str, limit: int) -> None:
    async def body(tx: Transaction) -> None:
        tags: list[str] = (await show_project(tx, project_id))["tags"]
        if name not in tags:
            if len(tags) >= limit:
                raise Invalid(f"A project has at most {limit} tags.")
            await tx.insert(TAGS, {"project_id": project_id, "name": name})

    await database.run(body)


async def drop_tag(database: Database, project_id: str, name: str) -> None:
    async def body(tx: Transaction) -> None:
        await one(tx, PROJECTS, project_id, "project")
        if not await tx.run(TAGS.delete().where(TAGS.c.project_id == project_id, TAGS.c.name == name)):
            raise missing("project tag", name)

    await database.run(body)

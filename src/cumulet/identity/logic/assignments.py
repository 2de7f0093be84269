# SPDX-License-Identifier: Apache-2.0
"""Who has which role where: single grants, and the list of all of them, raw or effective.

Effective means what a token would say: groups become their members, inherited
assignments become those on the projects below, roles become all they imply.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select

from cumulet.identity.errors import missing
from cumulet.identity.logic import roles
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.listing import one
from cumulet.identity.logic.projects import below
from cumulet.identity.logic.roles import RoleGraph, show_role
from cumulet.identity.logic.users import require_domain, show_group, show_user
from cumulet.identity.models import ASSIGNMENTS, GROUPS, MEMBERSHIPS, PROJECTS, ROLES, USERS
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Forbidden, Invalid, NotFound

Reader = Database | Transaction


@dataclass(frozen=True)
class Grant:
    """One role of one actor on one target, and where it came from when that was not by itself."""

    actor_type: str
    actor_id: str
    target_type: str
    target_id: str
    role_id: str
    inherited: bool = False
    group_id: str | None = None
    """The group through which a user has it."""
    from_type: str | None = None
    from_id: str | None = None
    """The domain or project from which it was inherited."""
    prior_id: str | None = None
    """The role that implied it."""


@dataclass(frozen=True)
class Wanted:
    """Which grants a list should hold; None does not matter."""

    user_id: str | None = None
    group_id: str | None = None
    role_id: str | None = None
    target_type: str | None = None
    target_id: str | None = None
    inherited: bool | None = None
    subtree: bool = False


# ---- single grants


def _is(grant: Grant) -> Any:
    table = ASSIGNMENTS.c
    return (
        (table.actor_type == grant.actor_type)
        & (table.actor_id == grant.actor_id)
        & (table.target_type == grant.target_type)
        & (table.target_id == grant.target_id)
        & (table.role_id == grant.role_id)
        & (table.inherited.is_(grant.inherited))
    )


def _no_such(grant: Grant) -> NotFound:
    return missing(
        "role assignment with role",
        f"{grant.role_id}, user or group: {grant.actor_id}, project, domain, or system: {grant.target_id}",
    )


async def check_grant(reader: Reader, grant: Grant) -> None:
    """Raise NotFound unless exactly this was granted."""
    await show_role(reader, grant.role_id)
    if await reader.first(select(ASSIGNMENTS.c.role_id).where(_is(grant))) is None:
        raise _no_such(grant)


async def ensure_grant(database: Database, feed: Feed, grant: Grant) -> None:
    """Give the role; having it already is fine. Raises NotFound for anything that is not there."""

    async def body(tx: Transaction) -> None:
        role = await show_role(tx, grant.role_id)
        await (show_user if grant.actor_type == "user" else show_group)(tx, grant.actor_id)
        if grant.target_type == "project":
            project = await one(tx, PROJECTS, grant.target_id, "project")
            if role["domain_id"] and role["domain_id"] != project["domain_id"]:
                raise Forbidden(
                    f"Project {grant.target_id} must be in the same domain as the role {grant.role_id} being assigned."
                )
        elif grant.target_type == "domain":
            await require_domain(tx, grant.target_id)
        elif role["domain_id"]:
            raise Invalid(
                f"Role {grant.role_id} is a domain-specific role. Unable to use a domain-specific role in a system"
                " assignment."
            )
        if await tx.first(select(ASSIGNMENTS.c.role_id).where(_is(grant))) is None:
            await tx.insert(ASSIGNMENTS, _row(grant))
            await feed.changed(tx, **_named(grant))

    await database.run(body)


async def drop_grant(database: Database, feed: Feed, grant: Grant) -> None:
    """Take the role; raises NotFound when it was not granted."""

    async def body(tx: Transaction) -> None:
        if not await tx.run(ASSIGNMENTS.delete().where(_is(grant))):
            raise _no_such(grant)
        await feed.changed(tx, **_named(grant))

    await database.run(body)


async def granted_roles(reader: Reader, grant: Grant) -> list[Row]:
    """The roles granted to the actor on the target (``grant.role_id`` does not matter)."""
    table = ASSIGNMENTS.c
    granted = select(table.role_id).where(
        table.actor_type == grant.actor_type,
        table.actor_id == grant.actor_id,
        table.target_type == grant.target_type,
        table.target_id == grant.target_id,
        table.inherited.is_(grant.inherited),
    )
    return await reader.all(select(ROLES).where(ROLES.c.id.in_(granted)).order_by(ROLES.c.id))


def _row(grant: Grant) -> dict[str, Any]:
    names = ("actor_type", "actor_id", "target_type", "target_id", "role_id", "inherited")
    return {name: getattr(grant, name) for name in names}


def _named(grant: Grant) -> dict[str, Any]:
    """What the feed says about a change of this grant."""
    named: dict[str, Any] = {"role_id": grant.role_id}
    if grant.actor_type == "user":
        named["user_id"] = grant.actor_id
    if grant.target_type != "system":
        named[f"{grant.target_type}_id"] = grant.target_id
    return named


# ---- lists


async def list_grants(reader: Reader, wanted: Wanted, *, effective: bool, graph: RoleGraph) -> list[Grant]:
    """The grants that are wanted; ``effective`` expands groups, inheritance and implied roles."""
    targets = await _targets(reader, wanted)
    if not effective:
        raw = await _raw(reader, wanted)
        return [grant for grant in raw if _matches(grant, wanted, targets)]
    # the filters are about the expanded list: only the actor can limit what is read
    found = await _raw(reader, Wanted(user_id=wanted.user_id), with_groups=True)
    if wanted.target_type != "system":  # as published: these are effective only for who asks for them
        found = [grant for grant in found if grant.target_type != "system"]
    found = await _expand_groups(reader, found, wanted.user_id)
    found = await _expand_inherited(reader, found)
    found = [grant for grant in _expand_roles(found, graph) if not graph.belongs_to_domain(grant.role_id)]
    return [grant for grant in found if _matches(grant, wanted, targets)]


async def _targets(reader: Reader, wanted: Wanted) -> set[str] | None:
    if wanted.target_id is None:
        return None
    ids = {wanted.target_id}
    if wanted.subtree:
        ids |= {row["id"] for row in await below(reader, wanted.target_id)}
    return ids


def _matches(grant: Grant, wanted: Wanted, targets: set[str] | None) -> bool:
    return (
        wanted.user_id in (None, grant.actor_id if grant.actor_type == "user" else "")
        and wanted.group_id in (None, grant.actor_id if grant.actor_type == "group" else "")
        and wanted.role_id in (None, grant.role_id)
        and wanted.target_type in (None, grant.target_type)
        and (targets is None or grant.target_id in targets)
        and wanted.inherited in (None, grant.inherited or grant.from_id is not None)
    )


async def _raw(reader: Reader, wanted: Wanted, *, with_groups: bool = False) -> list[Grant]:
    table = ASSIGNMENTS.c
    statement = select(ASSIGNMENTS).order_by(*ASSIGNMENTS.primary_key.columns)
    if with_groups and wanted.user_id is not None:
        statement = statement.where(roles.of_user(wanted.user_id))
    elif wanted.user_id is not None:
        statement = statement.where(table.actor_type == "user", table.actor_id == wanted.user_id)
    elif wanted.group_id is not None:
        statement = statement.where(table.actor_type == "group", table.actor_id == wanted.group_id)
    return [Grant(**row) for row in await reader.all(statement)]


async def _expand_groups(reader: Reader, grants: list[Grant], user_id: str | None) -> list[Grant]:
    members: dict[str, list[str]] = {}
    statement = select(MEMBERSHIPS).order_by(MEMBERSHIPS.c.user_id)
    if user_id is not None:
        statement = statement.where(MEMBERSHIPS.c.user_id == user_id)
    for row in await reader.all(statement):
        members.setdefault(row["group_id"], []).append(row["user_id"])
    expanded: list[Grant] = []
    for grant in grants:
        if grant.actor_type == "user":
            expanded.append(grant)
        else:
            expanded += [
                replace(grant, actor_type="user", actor_id=member, group_id=grant.actor_id)
                for member in members.get(grant.actor_id, ())
            ]
    return expanded


async def _expand_inherited(reader: Reader, grants: list[Grant]) -> list[Grant]:
    expanded: list[Grant] = []
    under: dict[str, list[str]] = {}
    for grant in grants:
        if not grant.inherited:
            expanded.append(grant)
            continue
        if grant.target_id not in under:
            under[grant.target_id] = [row["id"] for row in await below(reader, grant.target_id)]
        origin = replace(
            grant, target_type="project", from_type=grant.target_type, from_id=grant.target_id, inherited=False
        )
        expanded += [replace(origin, target_id=project) for project in under[grant.target_id]]
    return expanded


def _expand_roles(grants: Iterable[Grant], graph: RoleGraph) -> Iterable[Grant]:
    """Each grant and those of the roles that its role implies; one from two sides is told twice, as published."""
    for grant in grants:
        seen = {grant.role_id}
        waiting = [grant]
        while waiting:
            now = waiting.pop(0)
            yield now
            for implied in graph.implied.get(now.role_id, ()):
                if implied not in seen:
                    seen.add(implied)
                    waiting.append(replace(now, role_id=implied, prior_id=now.role_id))


# ---- the names of ids


@dataclass(frozen=True)
class Names:
    """Rows by id, of everything that a list of grants names."""

    users: dict[str, Row]
    groups: dict[str, Row]
    projects: dict[str, Row]
    roles: dict[str, Row]


async def names_of(reader: Reader, grants: list[Grant], graph: RoleGraph) -> Names:
    users = await _rows(reader, USERS, {grant.actor_id for grant in grants if grant.actor_type == "user"})
    groups = await _rows(reader, GROUPS, {grant.actor_id for grant in grants if grant.actor_type == "group"})
    projects = await _rows(reader, PROJECTS, {grant.target_id for grant in grants if grant.target_type != "system"})
    domains = {row["domain_id"] for row in (*users.values(), *groups.values(), *projects.values())}
    domains |= {row["domain_id"] for row in graph.by_id.values()}
    projects |= await _rows(reader, PROJECTS, {domain for domain in domains if domain and domain not in projects})
    return Names(users, groups, projects, graph.by_id)


async def _rows(reader: Reader, table: Any, wanted: set[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    ordered = sorted(wanted)
    for start in range(0, len(ordered), 500):
        rows = await reader.all(select(table).where(table.c.id.in_(ordered[start : start + 500])))
        found |= {row["id"]: row for row in rows}
    return found


# ---- what a user may reach


async def reachable(database: Database, user_id: str) -> tuple[list[str], list[str], bool]:
    """The ids of the projects and of the domains, and whether the system, on which a user has a role."""
    projects: dict[str, None] = {}
    domains: dict[str, None] = {}
    system = False
    for row in await roles.targets_of(database, user_id):
        if row["inherited"]:
            projects |= dict.fromkeys(project["id"] for project in await below(database, row["target_id"]))
        elif row["target_type"] == "project":
            projects[row["target_id"]] = None
        elif row["target_type"] == "domain":
            domains[row["target_id"]] = None
        else:
            system = True
    return list(projects), list(domains), system

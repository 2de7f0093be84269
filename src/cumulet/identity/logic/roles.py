# SPDX-License-Identifier: Apache-2.0
"""Roles, what they imply, and which of them a user has somewhere.

Invariant: one function (`held`) decides which roles a user has on a target;
tokens, role lists and application credentials all ask it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import and_, bindparam, or_, select

from cumulet.identity.errors import missing, taken
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.listing import Page, fetch, one, split
from cumulet.identity.models import ASSIGNMENTS, IMPLIED_ROLES, MEMBERSHIPS, ROLES
from cumulet.kernel import ids
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Forbidden, Invalid

Reader = Database | Transaction
COLUMNS = ("name", "description", "options", "domain_id")


@dataclass(frozen=True)
class RoleGraph:
    """All roles and their implications, as they were at one number of the feed."""

    by_id: dict[str, Row] = field(default_factory=dict)
    implied: dict[str, list[str]] = field(default_factory=dict)

    def expand(self, role_ids: Iterable[str]) -> list[str]:
        """The roles and everything that they imply, each once, in order of discovery."""
        found: dict[str, None] = {}
        waiting = list(role_ids)
        while waiting:
            role = waiting.pop(0)
            if role not in found:
                found[role] = None
                waiting += self.implied.get(role, ())
        return list(found)

    def belongs_to_domain(self, role_id: str) -> bool:
        role = self.by_id.get(role_id)
        return role is not None and bool(role["domain_id"])

    def expand_global(self, role_ids: Iterable[str]) -> list[Row]:
        """The expanded roles without those that belong to a domain (these only stand for what they imply)."""
        known = (self.by_id.get(role) for role in self.expand(role_ids))
        return [role for role in known if role is not None and not role["domain_id"]]


async def load_graph(reader: Reader) -> RoleGraph:
    rows = await reader.all(select(ROLES))
    implied: dict[str, list[str]] = {}
    for row in await reader.all(select(IMPLIED_ROLES)):
        implied.setdefault(row["prior_id"], []).append(row["implied_id"])
    return RoleGraph({row["id"]: row for row in rows}, implied)


def of_user(user_id: Any) -> Any:
    """The assignments of a user and of its groups."""
    groups = select(MEMBERSHIPS.c.group_id).where(MEMBERSHIPS.c.user_id == user_id)
    table = ASSIGNMENTS.c
    return or_(
        and_(table.actor_type == "user", table.actor_id == user_id),
        and_(table.actor_type == "group", table.actor_id.in_(groups)),
    )


# one statement for every place: what is inherited from elsewhere is sifted afterwards
_HELD = (
    select(ASSIGNMENTS.c.role_id, ASSIGNMENTS.c.target_id, ASSIGNMENTS.c.inherited)
    .where(
        of_user(bindparam("actor")),
        or_(
            and_(ASSIGNMENTS.c.target_type == bindparam("place"), ASSIGNMENTS.c.target_id == bindparam("place_id")),
            ASSIGNMENTS.c.inherited.is_(True),
        ),
    )
    .distinct()
)


async def held(database: Database, user_id: str, target_type: str, target_id: str, above: list[str]) -> list[str]:
    """The ids of the roles assigned to a user on a target, by itself, its groups or from ``above``.

    ``above`` are the projects over a project and its domain. Implied roles are not added.
    """
    params = {"actor": user_id, "place": target_type, "place_id": target_id}
    rows = await database.all(_HELD, params, point=True)
    return [row["role_id"] for row in rows if (row["target_id"] in above if row["inherited"] else True)]


async def targets_of(reader: Reader, user_id: str) -> list[Row]:
    """Where a user has any role: rows of target_type, target_id, inherited."""
    table = ASSIGNMENTS.c
    return await reader.all(
        select(table.target_type, table.target_id, table.inherited).where(of_user(user_id)).distinct()
    )


# ---- the roles themselves


async def list_roles(database: Database, domain_id: str, page: Page) -> tuple[list[Row], bool]:
    """The roles of a domain (empty: the global ones)."""
    return await fetch(database, select(ROLES).where(ROLES.c.domain_id == domain_id), ROLES, page)


async def show_role(reader: Reader, role_id: str) -> Row:
    return await one(reader, ROLES, role_id, "role")


async def create_role(database: Database, feed: Feed, sent: dict[str, Any]) -> Row:
    values, extra = split(sent, COLUMNS)
    row = {
        "id": ids.new_hex(),
        "name": values["name"],
        "domain_id": values.get("domain_id") or "",
        "description": values.get("description"),
        "options": _options({}, values.get("options")),
        "extra": extra,
    }

    async def body(tx: Transaction) -> None:
        await tx.insert(ROLES, row)
        await feed.changed(tx, role_id=row["id"])

    try:
        await database.run(body)
    except Duplicate:
        where = f" at domain ID {row['domain_id']}" if row["domain_id"] else ""
        raise taken("role", f"Duplicate entry found with name {row['name']}{where}") from None
    return row


async def update_role(database: Database, feed: Feed, role_id: str, sent: dict[str, Any]) -> Row:
    values, extra = split(sent, COLUMNS)

    async def body(tx: Transaction) -> Row:
        row = await show_role(tx, role_id)
        refuse_immutable(row, "role", "update", values)
        if "domain_id" in values and (values["domain_id"] or "") != row["domain_id"]:
            raise Invalid("Update of `domain_id` is not allowed.")
        new = {**row, **values, "domain_id": row["domain_id"], "extra": {**row["extra"], **extra}}
        new["options"] = _options(row["options"], values.get("options"))
        await tx.run(ROLES.update().where(ROLES.c.id == role_id).values(new))
        await feed.changed(tx, role_id=role_id)
        return new

    try:
        return await database.run(body)
    except Duplicate:
        raise taken("role", f"Duplicate entry found with name {values.get('name')}") from None


async def delete_role(database: Database, feed: Feed, role_id: str) -> None:
    """Delete a role with all its assignments and implications."""

    async def body(tx: Transaction) -> None:
        refuse_immutable(await show_role(tx, role_id), "role", "delete", {})
        await tx.run(ROLES.delete().where(ROLES.c.id == role_id))
        await feed.changed(tx, role_id=role_id)

    await database.run(body)


async def imply(database: Database, feed: Feed, prior_id: str, implied_id: str) -> tuple[Row, Row]:
    """Make one role imply another; returns both.

    The role admin can't be implied by any, nor a domain's role by one that holds everywhere.
    """

    async def body(tx: Transaction) -> tuple[Row, Row]:
        prior, implied = await show_role(tx, prior_id), await show_role(tx, implied_id)
        is_admin = implied["name"] == "admin" and not implied["domain_id"]
        if is_admin or (implied["domain_id"] and not prior["domain_id"]):
            raise Forbidden(f"{implied_id} cannot be an implied roles.")
        await tx.insert(IMPLIED_ROLES, {"prior_id": prior_id, "implied_id": implied_id})
        await feed.changed(tx, role_id=prior_id)
        return prior, implied

    try:
        return await database.run(body)
    except Duplicate:
        raise taken("implied_role", "Duplicate entry") from None


async def show_implication(reader: Reader, prior_id: str, implied_id: str) -> tuple[Row, Row]:
    prior, implied = await show_role(reader, prior_id), await show_role(reader, implied_id)
    table = IMPLIED_ROLES.c
    if not await reader.first(select(table.prior_id).where(table.prior_id == prior_id, table.implied_id == implied_id)):
        raise _not_implied(prior_id, implied_id)
    return prior, implied


async def drop_implication(database: Database, feed: Feed, prior_id: str, implied_id: str) -> None:
    async def body(tx: Transaction) -> None:
        table = IMPLIED_ROLES
        condition = (table.c.prior_id == prior_id) & (table.c.implied_id == implied_id)
        if not await tx.run(table.delete().where(condition)):
            raise _not_implied(prior_id, implied_id)
        await feed.changed(tx, role_id=prior_id)

    await database.run(body)


def _not_implied(prior_id: str, implied_id: str) -> Exception:
    fault = missing("role", prior_id)
    fault.message = f"{prior_id} does not imply {implied_id}."
    return fault


def refuse_immutable(row: Row, noun: str, act: str, values: dict[str, Any]) -> None:
    """Raise Forbidden for a row whose option ``immutable`` is set, unless the change only takes it away."""
    if not row["options"].get("immutable"):
        return
    options = values.get("options") or {}
    if act == "update" and "immutable" in options and not options["immutable"]:
        return
    raise Forbidden(
        f'Unable to {act} immutable {noun} resource: `{row["id"]}. Set resource option "immutable" to false first.'
    )


def _options(known: dict[str, Any], sent: dict[str, Any] | None) -> dict[str, Any]:
    """The options after a change: null takes one away."""
    return {name: value for name, value in {**known, **(sent or {})}.items() if value is not None}


merge_options = _options

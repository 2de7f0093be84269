# SPDX-License-Identifier: Apache-2.0
"""Users and groups. A user that changes its password, is disabled or goes away leaves no valid token behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table, select

from cumulet.identity.errors import missing, taken
from cumulet.identity.logic import compliance, federated_users, sealed_credentials
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.listing import Page, fetch, split
from cumulet.identity.logic.passwords import Passwords
from cumulet.identity.logic.roles import merge_options
from cumulet.identity.models import ASSIGNMENTS, DIRECTORY_IDS, GROUPS, MEMBERSHIPS, PROJECTS, USERS
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Invalid, NotFound

Reader = Database | Transaction
USER = ("name", "domain_id", "enabled", "default_project_id", "password", "options", "federated")
GROUP = ("name", "domain_id", "description")
_NO_PASSWORD: dict[str, Any] = {"password_changed_at": None, "password_expires_at": None, "password_own": None}


async def list_users(
    database: Database, page: Page, *, group_id: str | None = None, known: Mapping[str, str] | None = None
) -> tuple[list[Row], bool]:
    """The users, or those of one group (which must exist), or those that identity providers know (`known_by`)."""
    statement = federated_users.known_by(select(USERS).where(_there(USERS)), known or {})
    if group_id is not None:
        await show_group(database, group_id)
        members = select(MEMBERSHIPS.c.user_id).where(MEMBERSHIPS.c.group_id == group_id)
        statement = statement.where(USERS.c.id.in_(members))
    return await fetch(database, statement, USERS, page)


def _there(table: Table) -> Any:
    """Whoever went away from a directory keeps a row, for what stands on it, and is shown no more."""
    return table.c.id.not_in(select(DIRECTORY_IDS.c.id).where(DIRECTORY_IDS.c.gone.is_(True)))


async def _one(reader: Reader, table: Table, id: str, noun: str) -> Row:
    row = await reader.first(select(table).where(table.c.id == id, _there(table)))
    if row is None:
        raise missing(noun, id)
    return row


async def show_user(reader: Reader, user_id: str) -> Row:
    return await _one(reader, USERS, user_id, "user")


async def create_user(database: Database, passwords: Passwords, sent: dict[str, Any]) -> Row:
    """Create a user; ``sent["domain_id"]`` must be set. The password is hashed before anything is written."""
    values, extra = split(sent, USER)
    password = values.get("password")
    compliance.require_strength(passwords.settings, password)
    options = merge_options({}, values.get("options"))
    row = {
        "id": ids.new_hex(),
        "domain_id": values["domain_id"],
        "name": values["name"].strip(),
        "enabled": values.get("enabled", True),
        "default_project_id": values.get("default_project_id"),
        "password_hash": await passwords.hash(password) if password is not None else None,
        "options": options,
        **(compliance.fresh(passwords.settings, options, own=False) if password is not None else _NO_PASSWORD),
        "extra": extra,
        "voided": 0,
        "created_at": clock.now(),
    }

    async def body(tx: Transaction) -> None:
        await require_domain(tx, row["domain_id"])
        await _check_default_project(tx, row["default_project_id"])
        try:
            await tx.insert(USERS, row)
        except Duplicate:
            raise _taken("user", row["name"], row["domain_id"]) from None
        await federated_users.rename(tx, row["id"], values.get("federated") or [])

    await database.run(body)
    return row


async def update_user(database: Database, feed: Feed, passwords: Passwords, user_id: str, sent: dict[str, Any]) -> Row:
    """Change a user; a new password or a disabling voids its tokens."""
    values, extra = split(sent, USER)
    names = values.pop("federated", None) or []
    hashed: str | None = None
    if "password" in values:
        password = values.pop("password")
        compliance.require_strength(passwords.settings, password)
        hashed = await passwords.hash(password) if password is not None else None
        values["password_hash"] = hashed
    if values.get("enabled"):
        values |= {"failures": 0, "failed_at": None, "last_active_at": clock.now()}

    async def body(tx: Transaction) -> Row:
        row = await show_user(tx, user_id)
        if values.get("domain_id", row["domain_id"]) != row["domain_id"]:
            raise Invalid("Cannot change Domain ID")
        await _check_default_project(tx, values.get("default_project_id"))
        new = {**row, **values, "extra": {**row["extra"], **extra}}
        new["options"] = merge_options(row["options"], values.get("options"))
        if new["password_hash"] != row["password_hash"]:
            fresh = compliance.fresh(passwords.settings, new["options"], own=False)
            new |= fresh if hashed is not None else _NO_PASSWORD
            await compliance.remember(tx, passwords.settings, row)
        void = new["password_hash"] != row["password_hash"] or (row["enabled"] and not new["enabled"])
        sequence = await feed.changed(tx, void=void, user_id=user_id)
        if void:
            new["voided"] = sequence
        try:
            await tx.run(USERS.update().where(USERS.c.id == user_id).values(new))
        except Duplicate:
            raise _taken("user", values["name"]) from None
        await federated_users.rename(tx, user_id, names)
        return new

    return await database.run(body)


async def revoke_tokens(database: Database, feed: Feed, user_id: str) -> None:
    """Make all tokens of a user void."""

    async def body(tx: Transaction) -> None:
        await show_user(tx, user_id)
        sequence = await feed.changed(tx, void=True, user_id=user_id)
        await tx.run(USERS.update().where(USERS.c.id == user_id).values(voided=sequence))

    await database.run(body)


async def delete_user(database: Database, feed: Feed, user_id: str) -> None:
    """Delete a user with its memberships, roles, trusts and credentials of all kinds."""

    async def body(tx: Transaction) -> None:
        await show_user(tx, user_id)
        await sealed_credentials.forget(tx, users=[user_id])
        await _forget_actor(tx, "user", user_id)
        await tx.run(USERS.delete().where(USERS.c.id == user_id))
        await feed.changed(tx, void=True, user_id=user_id)

    await database.run(body)


async def _check_default_project(tx: Transaction, project_id: str | None) -> None:
    if project_id is not None:
        wanted = (PROJECTS.c.id == project_id) & PROJECTS.c.is_domain.is_(True)
        if await tx.first(select(PROJECTS.c.id).where(wanted)) is not None:
            raise Invalid(f"User's default project ID cannot be a domain ID: {project_id}")


async def require_domain(reader: Reader, domain_id: str) -> Row:
    """The domain; raises NotFound."""
    row = await reader.first(select(PROJECTS).where(PROJECTS.c.id == domain_id, PROJECTS.c.is_domain.is_(True)))
    if row is None:
        raise missing("domain", domain_id)
    return row


async def _forget_actor(tx: Transaction, actor_type: str, actor_id: str) -> None:
    table = ASSIGNMENTS.c
    await tx.run(ASSIGNMENTS.delete().where(table.actor_type == actor_type, table.actor_id == actor_id))


def _taken(noun: str, name: str, domain_id: str | None = None) -> Exception:
    where = f" at domain ID {domain_id}" if domain_id is not None else ""
    return taken(noun, f"Duplicate entry found with name {name}{where}")


# ---- groups


async def list_groups(database: Database, page: Page, *, user_id: str | None = None) -> tuple[list[Row], bool]:
    """The groups, or those of one user (which must exist)."""
    statement = select(GROUPS).where(_there(GROUPS))
    if user_id is not None:
        await show_user(database, user_id)
        joined = select(MEMBERSHIPS.c.group_id).where(MEMBERSHIPS.c.user_id == user_id)
        statement = statement.where(GROUPS.c.id.in_(joined))
    return await fetch(database, statement, GROUPS, page)


async def show_group(reader: Reader, group_id: str) -> Row:
    return await _one(reader, GROUPS, group_id, "group")


async def create_group(database: Database, sent: dict[str, Any]) -> Row:
    values, extra = split(sent, GROUP)
    row = {
        "id": ids.new_hex(),
        "domain_id": values["domain_id"],
        "name": values["name"].strip(),
        "description": values.get("description") or "",
        "extra": extra,
    }

    async def body(tx: Transaction) -> None:
        await require_domain(tx, row["domain_id"])
        await tx.insert(GROUPS, row)

    try:
        await database.run(body)
    except Duplicate:
        raise _taken("group", row["name"], row["domain_id"]) from None
    return row


async def update_group(database: Database, group_id: str, sent: dict[str, Any]) -> Row:
    values, extra = split(sent, GROUP)

    async def body(tx: Transaction) -> Row:
        row = await show_group(tx, group_id)
        if values.get("domain_id", row["domain_id"]) != row["domain_id"]:
            raise Invalid("Cannot change Domain ID")
        new = {**row, **values, "extra": {**row["extra"], **extra}}
        new["description"] = new["description"] or ""
        await tx.run(GROUPS.update().where(GROUPS.c.id == group_id).values(new))
        return new

    try:
        return await database.run(body)
    except Duplicate:
        raise _taken("group", values["name"]) from None


async def delete_group(database: Database, feed: Feed, group_id: str) -> None:
    """Delete a group; its members lose the roles that they had by it."""

    async def body(tx: Transaction) -> None:
        await show_group(tx, group_id)
        await _forget_actor(tx, "group", group_id)
        await tx.run(GROUPS.delete().where(GROUPS.c.id == group_id))
        await feed.changed(tx)

    await database.run(body)


async def join(database: Database, feed: Feed, group_id: str, user_id: str) -> None:
    """Put a user into a group; being in it already is fine."""

    async def body(tx: Transaction) -> None:
        await show_user(tx, user_id)
        await show_group(tx, group_id)
        if not await _is_member(tx, group_id, user_id):
            await tx.insert(MEMBERSHIPS, {"group_id": group_id, "user_id": user_id})
            await feed.changed(tx, user_id=user_id)

    await database.run(body)


async def check_member(database: Database, group_id: str, user_id: str) -> None:
    """Raise NotFound unless the user is in the group."""
    await show_user(database, user_id)
    await show_group(database, group_id)
    if not await _is_member(database, group_id, user_id):
        raise NotFound(f"User '{user_id}' not found in group '{group_id}'")


async def leave(database: Database, feed: Feed, group_id: str, user_id: str) -> None:
    """Take a user out of a group; raises NotFound when it is not in it."""

    async def body(tx: Transaction) -> None:
        await show_user(tx, user_id)
        await show_group(tx, group_id)
        member = (MEMBERSHIPS.c.group_id == group_id) & (MEMBERSHIPS.c.user_id == user_id)
        if not await tx.run(MEMBERSHIPS.delete().where(member)):
            raise NotFound(f"User '{user_id}' not found in group '{group_id}'")
        await feed.changed(tx, user_id=user_id)

    await database.run(body)


async def _is_member(reader: Reader, group_id: str, user_id: str) -> bool:
    table = MEMBERSHIPS.c
    statement = select(table.user_id).where(table.group_id == group_id, table.user_id == user_id)
    return await reader.first(statement) is not None

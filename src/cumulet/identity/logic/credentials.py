# SPDX-License-Identifier: Apache-2.0
"""Application credentials: a user's own secrets for programs, with at most the roles of the token that made them.

Invariant: the secret is shown once, when it is made; what is kept is its hash.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.identity.errors import missing, taken
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.listing import Page, fetch, one
from cumulet.identity.logic.moments import expiry
from cumulet.identity.logic.passwords import Passwords
from cumulet.identity.logic.roles import RoleGraph
from cumulet.identity.models import ACCESS_RULES, APPLICATION_CREDENTIALS
from cumulet.kernel import ids
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Forbidden, Invalid, NotFound

Reader = Database | Transaction
_NOUN = "Application Credential"


async def list_credentials(database: Database, user_id: str, page: Page) -> tuple[list[Row], bool]:
    table = APPLICATION_CREDENTIALS
    rows, more = await fetch(database, select(table).where(table.c.user_id == user_id), table, page)
    return [await _with_rules(database, row) for row in rows], more


async def show_credential(reader: Reader, credential_id: str) -> Row:
    row = await one(reader, APPLICATION_CREDENTIALS, credential_id, _NOUN)
    return await _with_rules(reader, row)


async def _with_rules(reader: Reader, row: Row) -> Row:
    wanted = row["access_rule_ids"]
    if wanted is None:
        return {**row, "access_rules": None}
    rows = await reader.all(select(ACCESS_RULES).where(ACCESS_RULES.c.id.in_(wanted)).order_by(ACCESS_RULES.c.id))
    return {**row, "access_rules": rows}


def wanted_roles(sent: list[dict[str, str]] | None, own: list[str], graph: RoleGraph) -> list[str]:
    """The ids of the roles of a new credential; ``own`` are those of the token that asks (and the default).

    Raises Invalid for a role that the token does not have.
    """
    if not sent:
        return own
    wanted: list[str] = []
    for role in sent:
        if role.get("id"):
            wanted.append(role["id"])
            continue
        named = [row["id"] for row in graph.by_id.values() if row["name"] == role["name"] and not row["domain_id"]]
        if not named:
            raise NotFound(f"Role {role['name']} is not defined")
        wanted += named
    wanted = graph.expand(wanted)
    if not set(wanted) <= set(own):
        raise Invalid("Invalid application credential: Cannot create an application credential with unassigned role")
    return wanted


async def create_credential(
    database: Database, passwords: Passwords, user_id: str, project_id: str, role_ids: list[str], sent: dict[str, Any]
) -> tuple[Row, str]:
    """Create a credential; returns its row and, this once, its secret."""
    secret = sent.get("secret")
    generated = secret is None
    if secret is None:
        secret = ids.new_secret(64)
    hashed = await passwords.hash(secret, generated=generated)
    row = {
        "id": ids.new_hex(),
        "user_id": user_id,
        "project_id": project_id,
        "name": sent["name"],
        "secret_hash": hashed,
        "description": sent.get("description"),
        "expires_at": expiry(sent.get("expires_at")),
        "unrestricted": sent.get("unrestricted"),
        "role_ids": role_ids,
    }

    async def body(tx: Transaction) -> Row:
        rules = sent.get("access_rules")
        # the usual client sends an empty list where its user said nothing
        rule_ids = None if not rules else [await _rule(tx, user_id, rule) for rule in rules]
        made = {**row, "access_rule_ids": rule_ids}
        await tx.insert(APPLICATION_CREDENTIALS, made)
        return await _with_rules(tx, made)

    try:
        return await database.run(body), secret
    except Duplicate:
        raise taken("application_credential", f"Duplicate entry found with name {row['name']}") from None


async def _rule(tx: Transaction, user_id: str, sent: dict[str, str]) -> str:
    """The id of the user's access rule: one it has already, or a new one."""
    table = ACCESS_RULES.c
    if "path" not in sent and "id" in sent:
        wanted = table.id == sent["id"]
    else:
        wanted = (table.service == sent["service"]) & (table.path == sent["path"]) & (table.method == sent["method"])
    row = await tx.first(select(table.id).where(table.user_id == user_id, wanted))
    if row is not None:
        known: str = row["id"]
        return known
    if "path" not in sent:
        raise missing("Access Rule", sent["id"])
    rule = {"id": ids.new_hex(), "user_id": user_id}
    rule |= {name: sent[name] for name in ("service", "path", "method")}
    await tx.insert(ACCESS_RULES, rule)
    return rule["id"]


async def delete_credential(database: Database, feed: Feed, credential_id: str) -> None:
    async def body(tx: Transaction) -> None:
        row = await one(tx, APPLICATION_CREDENTIALS, credential_id, _NOUN)
        await tx.run(APPLICATION_CREDENTIALS.delete().where(APPLICATION_CREDENTIALS.c.id == credential_id))
        await feed.changed(tx, user_id=row["user_id"], project_id=row["project_id"])

    await database.run(body)


async def list_rules(database: Database, user_id: str, page: Page) -> tuple[list[Row], bool]:
    table = ACCESS_RULES
    return await fetch(database, select(table).where(table.c.user_id == user_id), table, page)


async def show_rule(reader: Reader, user_id: str, rule_id: str) -> Row:
    table = ACCESS_RULES
    row = await reader.first(select(table).where(table.c.id == rule_id, table.c.user_id == user_id))
    if row is None:
        raise missing("Access Rule", rule_id)
    return row


async def delete_rule(database: Database, user_id: str, rule_id: str) -> None:
    """Delete an access rule that no credential uses."""

    async def body(tx: Transaction) -> None:
        await show_rule(tx, user_id, rule_id)
        table = APPLICATION_CREDENTIALS.c
        for row in await tx.all(select(table.access_rule_ids).where(table.user_id == user_id)):
            if rule_id in (row["access_rule_ids"] or ()):
                raise Forbidden("May not delete access rule in use")
        await tx.run(ACCESS_RULES.delete().where(ACCESS_RULES.c.id == rule_id))

    await database.run(body)

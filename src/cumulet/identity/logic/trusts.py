# SPDX-License-Identifier: Apache-2.0
"""Trusts: a user lets another one act with some of its roles on a project, perhaps under its name.

Invariants: nobody passes on more than he has. The roles of a trust are looked
up at the first trustor of its chain whenever a token is, and a chain is worth
no more than its weakest link: shorter, with fewer roles, on the same project.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.identity.config import IdentitySettings
from cumulet.identity.errors import missing
from cumulet.identity.logic import roles
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.listing import Page, fetch, one, split
from cumulet.identity.logic.moments import expiry
from cumulet.identity.logic.projects import parents_of
from cumulet.identity.logic.roles import RoleGraph
from cumulet.identity.models import PROJECTS, TRUSTS, USERS
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Forbidden, Invalid

Reader = Database | Transaction
_SENT = (
    "trustor_user_id", "trustee_user_id", "project_id", "impersonation", "roles", "expires_at", "remaining_uses",
    "allow_redelegation", "redelegation_count", "redelegated_trust_id", "deleted_at",
)  # fmt: skip
_CHAIN = 64


async def list_trusts(database: Database, page: Page) -> tuple[list[Row], bool]:
    return await fetch(database, select(TRUSTS), TRUSTS, page)


async def chain(reader: Reader, trust_id: str) -> list[Row]:
    """The trust and those that it was passed on from, the first one last. Raises NotFound."""
    found = [await one(reader, TRUSTS, trust_id, "trust")]
    while (parent := found[-1]["redelegated_trust_id"]) is not None and len(found) < _CHAIN:
        found.append(await one(reader, TRUSTS, parent, "trust"))
    return found


async def show_trust(reader: Reader, trust_id: str) -> Row:
    """A trust that may still be used; raises NotFound, also for one that has ended or is used up."""
    links = await chain(reader, trust_id)
    trust = links[0]
    if trust["remaining_uses"] is not None and trust["remaining_uses"] <= 0:
        raise missing("trust", trust_id)
    if any(link["expires_at"] is not None and link["expires_at"] <= clock.now() for link in links):
        raise missing("trust", trust_id)
    for link in links[1:]:
        agent = await reader.first(select(USERS.c.enabled).where(USERS.c.id == link["trustee_user_id"]))
        if agent is None or not agent["enabled"]:
            raise Forbidden("One of the trust agents is disabled or deleted")
    return trust


async def consume(database: Database, trust: Row) -> None:
    """Use a trust once; raises Forbidden when it was used as often as it may."""
    if trust["remaining_uses"] is None:
        return
    table = TRUSTS.c

    async def body(tx: Transaction) -> None:
        left = (table.id == trust["id"]) & (table.remaining_uses > 0)
        if not await tx.run(TRUSTS.update().where(left).values(remaining_uses=table.remaining_uses - 1)):
            raise Forbidden(f"No remaining uses for trust: {trust['id']}.")

    await database.run(body)


async def create_trust(
    database: Database, settings: IdentitySettings, graph: RoleGraph, sent: dict[str, Any], parent_id: str | None
) -> Row:
    """Make a trust; ``parent_id`` is the one that the asking token came from, and that is passed on."""
    values, extra = split(sent, _SENT)
    named = values.get("roles") or []
    if values.get("project_id") and not named:
        raise Forbidden(
            "You are not authorized to perform the requested action: At least one role should be specified."
        )
    row: Row = {
        "id": ids.new_hex(),
        **{name: values[name] for name in ("trustor_user_id", "trustee_user_id", "impersonation")},
        "project_id": values.get("project_id") or None,
        "role_ids": [role_named(graph, role) for role in named],
        "expires_at": expiry(values.get("expires_at")),
        "remaining_uses": values.get("remaining_uses"),
        "redelegated_trust_id": parent_id,
        "redelegation_count": _depth(settings, values, first=parent_id is None),
        "extra": extra,
    }

    await one(database, USERS, row["trustee_user_id"], "user")
    first = row["trustor_user_id"]
    if parent_id is not None:
        await show_trust(database, parent_id)
        links = await chain(database, parent_id)
        first = links[-1]["trustor_user_id"]
        _pass_on(settings, links, row)
    await _require_roles(database, graph, first, row)

    async def body(tx: Transaction) -> None:
        if parent_id is not None:
            await one(tx, TRUSTS, parent_id, "trust")
        await tx.insert(TRUSTS, row)

    await database.run(body)
    return row


def role_named(graph: RoleGraph, named: dict[str, str]) -> str:
    """The id of a role by ``id`` or ``name``; raises NotFound, or Invalid where several have the name."""
    if named.get("id"):
        return named["id"]
    found = [row["id"] for row in graph.by_id.values() if row["name"] == named["name"]]
    if not found:
        raise missing("role", named["name"])
    if len(found) > 1:
        raise Invalid(f"The name {named['name']} stands for several roles; use an id.")
    role_id: str = found[0]
    return role_id


def _depth(settings: IdentitySettings, sent: dict[str, Any], *, first: bool) -> int | None:
    """How often the new trust may be passed on; None: as often as its parent, less one."""
    asked, most = sent.get("redelegation_count"), settings.max_redelegation_count
    if not sent.get("allow_redelegation") or asked == 0:
        return 0
    if asked is not None and asked > most:
        raise Forbidden(f"Requested redelegation depth of {asked} is greater than allowed {most}")
    if sent.get("remaining_uses") is not None:
        raise Invalid("remaining_uses must not be set if redelegation is allowed")
    return (most if asked is None else asked) if first else asked


def _pass_on(settings: IdentitySettings, links: list[Row], made: Row) -> None:
    """Check a trust against all those before it, and take from the parent what was not said."""
    parent = links[0]
    left = parent["redelegation_count"] - 1
    if made["redelegation_count"] is None:
        made["redelegation_count"] = left
    elif made["redelegation_count"] and made["redelegation_count"] != left:
        raise Forbidden(
            'Modifying "redelegation_count" upon redelegation is forbidden. Omitting this parameter is advised.'
        )
    for link in links:
        depth, most = link["redelegation_count"], settings.max_redelegation_count
        if not 0 < depth <= most:
            raise Forbidden(f"Remaining redelegation depth of {depth} out of allowed range of [0..{most}]")
        if made["remaining_uses"] is not None:
            raise Forbidden(
                f'Field "remaining_uses" is set to {made["remaining_uses"]} while it must not be set in order to'
                " redelegate a trust"
            )
        if made["expires_at"] is None:
            made["expires_at"] = link["expires_at"]
        elif link["expires_at"] is not None and link["expires_at"] < made["expires_at"]:
            raise Forbidden("Requested expiration time is more than redelegated trust can provide")
        if not set(made["role_ids"]) <= set(link["role_ids"]) or made["project_id"] != link["project_id"]:
            raise Forbidden("Some of requested roles are not in redelegated trust")
        if made["impersonation"] and not link["impersonation"]:
            raise Forbidden(
                "Impersonation is not allowed because redelegated trust does not specify impersonation."
                f" Redelegated trust id: {link['id']}"
            )


async def _require_roles(database: Database, graph: RoleGraph, trustor_id: str, made: Row) -> None:
    """Raise NotFound for a role that the (first) trustor does not have on the project."""
    held: set[str] = set()
    if made["project_id"] is not None:
        held = set(graph.expand(await held_on(database, trustor_id, made["project_id"])))
    for role_id in made["role_ids"]:
        if role_id not in held:
            raise missing("role", role_id)


async def held_on(database: Database, user_id: str, project_id: str) -> list[str]:
    """The roles assigned to a user on a project, by itself, its groups or from above. Raises NotFound."""
    project = await one(database, PROJECTS, project_id, "project")
    above = [row["id"] for row in await parents_of(database, project)]
    return await roles.held(database, user_id, "project", project_id, above)


async def delete_trust(database: Database, feed: Feed, trust_id: str) -> None:
    """Take a trust back with all that were made from it; their tokens are void at once."""

    async def body(tx: Transaction) -> None:
        trust = await one(tx, TRUSTS, trust_id, "trust")
        await tx.run(TRUSTS.delete().where(TRUSTS.c.id == trust_id))
        await feed.changed(tx, user_id=trust["trustee_user_id"], project_id=trust["project_id"])

    await database.run(body)


def roles_of(trust: Row, graph: RoleGraph) -> list[Row]:
    """The roles that the trust names, as far as they are still there."""
    return [graph.by_id[role_id] for role_id in trust["role_ids"] if role_id in graph.by_id]


def role_of(trust: Row, graph: RoleGraph, role_id: str) -> Row:
    if role_id not in trust["role_ids"] or role_id not in graph.by_id:
        raise missing("role", role_id)
    return graph.by_id[role_id]

# SPDX-License-Identifier: Apache-2.0
"""Trusts (OS-TRUST)."""

from __future__ import annotations

from typing import Any

from cumulet.identity.api import views
from cumulet.identity.api.answers import collection, identity_of, member, page_of, sent, target, url
from cumulet.identity.api.delegation import refuse_secondary
from cumulet.identity.errors import forbidden_action
from cumulet.identity.logic import trusts
from cumulet.identity.schemas import TRUST_CREATE, listing
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.http import Request, Route
from cumulet.kernel.policy import Target

_COLLECTION = "OS-TRUST/trusts"
_REFUSAL = forbidden_action("Delegated tokens cannot manage trusts").message


def _view(row: Row) -> dict[str, Any]:
    names = (
        "id", "trustor_user_id", "trustee_user_id", "project_id", "impersonation", "remaining_uses",
        "redelegated_trust_id", "redelegation_count",
    )  # fmt: skip
    shown = {**row["extra"], **{name: row[name] for name in names}, "deleted_at": None}
    shown["expires_at"] = None if row["expires_at"] is None else clock.iso_micro_z(row["expires_at"])
    return shown


async def _whole(request: Request, row: Row) -> dict[str, Any]:
    graph = await identity_of(request).tokens.graph()
    shown = _view(row)
    shown["roles"] = [member(request, "roles", views.role(role)) for role in trusts.roles_of(row, graph)]
    shown["roles_links"] = _roles_links(request, row)
    return {"trust": member(request, _COLLECTION, shown)}


def _roles_links(request: Request, row: Row) -> dict[str, str | None]:
    return {"self": url(request, f"{_COLLECTION}/{row['id']}/roles"), "next": None, "previous": None}


async def sent_target(request: Request) -> Target:
    return target(trust=sent(request, "trust"))


async def trust_target(request: Request) -> Target:
    """The trust of the path; one that is not there is told to everybody, as published."""
    row = await trusts.show_trust(identity_of(request).database, request.params["trust_id"])
    request.found = row
    return target(trust=_view(row))


async def list_trusts(request: Request) -> dict[str, Any]:
    rule, named = "identity:list_trusts", {}
    for name in ("trustee_user_id", "trustor_user_id"):
        if request.query.get(name):
            rule, named = f"identity:list_trusts_for_{name.removesuffix('_user_id')}", {name: request.query[name]}
    request.enforce(rule, target(trust=named))
    await refuse_secondary(request, _REFUSAL)
    page = page_of(request, ("trustor_user_id", "trustee_user_id"))
    found = await trusts.list_trusts(identity_of(request).database, page)
    answer = collection(request, _COLLECTION, found, _view)
    return {"trusts": answer.pop(_COLLECTION), **answer}


async def create_trust(request: Request) -> dict[str, Any]:
    seen = await refuse_secondary(request, _REFUSAL)
    identity, body = identity_of(request), request.body
    if body["trustor_user_id"] != request.context.user_id:
        raise forbidden_action("The authenticated user should match the trustor")
    await identity.directories.meet("user", body["trustee_user_id"])
    graph = await identity.tokens.graph()
    row = await trusts.create_trust(identity.database, identity.settings, graph, body, seen.claims.trust_id)
    return await _whole(request, row)


async def show_trust(request: Request) -> dict[str, Any]:
    await refuse_secondary(request, _REFUSAL)
    return await _whole(request, request.found)


async def delete_trust(request: Request) -> None:
    await refuse_secondary(request, _REFUSAL)
    identity = identity_of(request)
    await trusts.delete_trust(identity.database, identity.feed, request.params["trust_id"])


async def list_roles(request: Request) -> dict[str, Any]:
    await refuse_secondary(request, _REFUSAL)
    found = trusts.roles_of(request.found, await identity_of(request).tokens.graph())
    roles = [member(request, "roles", views.role(role)) for role in found]
    return {"roles": roles, "links": _roles_links(request, request.found)}


async def show_role(request: Request) -> dict[str, Any]:
    await refuse_secondary(request, _REFUSAL)
    graph = await identity_of(request).tokens.graph()
    row = trusts.role_of(request.found, graph, request.params["role_id"])
    return {"role": member(request, "roles", views.role(row))}


_ONE = f"/{_COLLECTION}/{{trust_id}}"
_LIST = listing("trustor_user_id", "trustee_user_id")
ROUTES = [
    Route(f"GET /{_COLLECTION}", list_trusts, policy="identity:list_trusts", late=True, query=_LIST),
    Route(
        f"POST /{_COLLECTION}", create_trust, policy="identity:create_trust", target=sent_target, body=TRUST_CREATE,
        ok=201,
    ),
    Route(f"GET {_ONE}", show_trust, policy="identity:get_trust", target=trust_target),
    Route(f"DELETE {_ONE}", delete_trust, policy="identity:delete_trust", target=trust_target, ok=204),
    Route(f"GET {_ONE}/roles", list_roles, policy="identity:list_roles_for_trust", target=trust_target),
    Route(f"GET {_ONE}/roles/{{role_id}}", show_role, policy="identity:get_role_for_trust", target=trust_target),
]  # fmt: skip

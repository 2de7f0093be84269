# SPDX-License-Identifier: Apache-2.0
"""Application credentials of a user, and their access rules."""

from __future__ import annotations

from typing import Any

from cumulet.identity.api import views
from cumulet.identity.api.answers import collection, identity_of, member, page_of, target
from cumulet.identity.api.delegation import asking
from cumulet.identity.api.users import user_target
from cumulet.identity.errors import forbidden_action
from cumulet.identity.logic import credentials
from cumulet.identity.logic.tokens import Seen
from cumulet.identity.schemas import CREDENTIAL_CREATE, listing
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Forbidden, NotFound
from cumulet.kernel.http import Request, Route
from cumulet.kernel.policy import Target

_COLLECTION = "application_credentials"


async def owner_target(request: Request) -> Target:
    """The user of the path is the owner."""
    return {"user_id": request.params["user_id"], **target()}


async def credential_target(request: Request) -> Target:
    """The owner is the credential's own user, whatever user the path names."""
    try:
        row = await credentials.show_credential(
            identity_of(request).database, request.params["application_credential_id"]
        )
    except NotFound:
        return await owner_target(request)
    request.found = row
    return {"user_id": row["user_id"], **target()}


async def _refuse_delegated(request: Request) -> Seen:
    """A token of a trust, of OAuth1 or of an EC2 key has nothing to do with application credentials."""
    seen = await asking(request)
    if seen.delegated and seen.claims.credential_id is None:
        raise Forbidden("Cannot manage application credentials with a token issued via delegation.")
    return seen


async def _refuse_restricted(request: Request) -> None:
    """A token of a restricted application credential must not manage others."""
    seen = await _refuse_delegated(request)
    if seen.document.get("application_credential", {}).get("restricted"):
        raise forbidden_action(
            "Using method 'application_credential' is not allowed for managing additional application credentials."
        )


async def list_credentials(request: Request) -> dict[str, Any]:
    await _refuse_delegated(request)
    identity = identity_of(request)
    page = page_of(request, ("name",))
    found = await credentials.list_credentials(identity.database, request.params["user_id"], page)
    roles = (await identity.tokens.graph()).by_id
    return collection(request, _COLLECTION, found, lambda row: views.credential(row, roles))


async def _answer(request: Request, row: Row, **more: Any) -> dict[str, Any]:
    roles = (await identity_of(request).tokens.graph()).by_id
    return {"application_credential": member(request, _COLLECTION, {**views.credential(row, roles), **more})}


async def show_credential(request: Request) -> dict[str, Any]:
    await _refuse_delegated(request)
    row = request.found
    if row is None:
        database, wanted = identity_of(request).database, request.params["application_credential_id"]
        row = await credentials.show_credential(database, wanted)
    return await _answer(request, row)


async def create_credential(request: Request) -> dict[str, Any]:
    await _refuse_restricted(request)
    identity, caller = identity_of(request), request.context
    if caller.project_id is None:
        raise forbidden_action("identity:create_application_credential")
    assert caller.token is not None
    graph = await identity.tokens.graph()
    token = (await identity.tokens.read(caller.token, allow_expired=True)).document
    own = [role["id"] for role in token.get("roles", ())]
    wanted = credentials.wanted_roles(request.body.get("roles"), own, graph)
    row, secret = await credentials.create_credential(
        identity.database, identity.passwords, request.params["user_id"], caller.project_id, wanted, request.body
    )
    return await _answer(request, row, secret=secret)


async def delete_credential(request: Request) -> None:
    await _refuse_restricted(request)
    identity = identity_of(request)
    await credentials.delete_credential(identity.database, identity.feed, request.params["application_credential_id"])


async def list_rules(request: Request) -> dict[str, Any]:
    await _refuse_delegated(request)
    page = page_of(request, ("service", "path", "method"))
    found = await credentials.list_rules(identity_of(request).database, request.params["user_id"], page)
    return collection(request, "access_rules", found, views.access_rule)


async def show_rule(request: Request) -> dict[str, Any]:
    await _refuse_delegated(request)
    params = request.params
    row = await credentials.show_rule(identity_of(request).database, params["user_id"], params["access_rule_id"])
    return {"access_rule": member(request, "access_rules", views.access_rule(row))}


async def delete_rule(request: Request) -> None:
    await _refuse_delegated(request)
    params = request.params
    await credentials.delete_rule(identity_of(request).database, params["user_id"], params["access_rule_id"])


_MANY = "/users/{user_id}/application_credentials"
_ONE = f"{_MANY}/{{application_credential_id}}"
_RULES = "/users/{user_id}/access_rules"
ROUTES = [
    Route(
        f"GET {_MANY}", list_credentials, policy="identity:list_application_credentials", target=owner_target,
        query=listing("name"),
    ),
    Route(
        f"POST {_MANY}", create_credential, policy="identity:create_application_credential", target=owner_target,
        body=CREDENTIAL_CREATE, ok=201,
    ),
    Route(f"GET {_ONE}", show_credential, policy="identity:get_application_credential", target=credential_target),
    Route(
        f"DELETE {_ONE}", delete_credential, policy="identity:delete_application_credential",
        target=credential_target, ok=204,
    ),
    Route(
        f"GET {_RULES}", list_rules, policy="identity:list_access_rules", target=user_target,
        query=listing("service", "path", "method"),
    ),
    Route(f"GET {_RULES}/{{access_rule_id}}", show_rule, policy="identity:get_access_rule", target=user_target),
    Route(
        f"DELETE {_RULES}/{{access_rule_id}}", delete_rule, policy="identity:delete_access_rule",
        target=user_target, ok=204,
    ),
]  # fmt: skip

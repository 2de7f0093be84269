# SPDX-License-Identifier: Apache-2.0
"""Users, their own password, and what they belong to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cumulet.identity.api import views
from cumulet.identity.api.answers import (
    collection,
    domain_of,
    identity_of,
    in_domain,
    member,
    own_domain,
    page_of,
    require_same_id,
    sent,
    target,
)
from cumulet.identity.logic import assignments, federated_users, moments, own_password, projects, users
from cumulet.identity.logic.listing import ORDERS, Filter, Page
from cumulet.identity.schemas import PASSWORD_CHANGE, USER_CREATE, USER_UPDATE, listing
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid, NotFound
from cumulet.kernel.http import Request, Route
from cumulet.kernel.policy import Target

_FILTERS = ("domain_id", "enabled", "name")


async def user_target(request: Request) -> Target:
    """The user of the path; one that is not there is told to those only who might have seen it."""
    try:
        row = await users.show_user(identity_of(request).database, request.params["user_id"])
    except NotFound:
        return {"user_id": request.params["user_id"], **target()}
    request.found = row
    return {"user_id": row["id"], **target(user=views.user(row))}


async def scope_target(request: Request) -> Target:
    return target(domain_id=request.context.domain_id)


async def sent_target(request: Request) -> Target:
    return target(user=sent(request, "user"))


async def list_users(request: Request) -> dict[str, Any]:
    page = expiring(request, own_domain(request, page_of(request, _FILTERS)))
    known = {name: request.query[name] for name in federated_users.FILTERS if name in request.query}
    identity = identity_of(request)
    found = None if known else await identity.directories.users(domain_of(page), page)
    if found is None:
        found = await users.list_users(identity.database, page, known=known)
    return collection(request, "users", found, views.user)


def expiring(request: Request, page: Page) -> Page:
    """The page, limited to the users whose password ends before or after the asked times (``lt:2026-01-02T…``)."""
    filters = []
    for asked in request.query.get("password_expires_at", ()):
        operator, colon, moment = asked.partition(":")
        if not colon or operator not in ORDERS:
            raise Invalid(
                f"The given operator {operator} is not valid. It must be one of the following: 'eq', 'neq', 'lt',"
                " 'lte', 'gt', or 'gte'."
            )
        filters.append(Filter("password_expires_at", moments.parse(moment), operator))
    return replace(page, filters=(*page.filters, *filters))


async def _answer(request: Request, row: Row) -> dict[str, Any]:
    shown = views.user(row)
    if names := await federated_users.names_of(identity_of(request).database, row["id"]):
        shown["federated"] = names
    return {"user": member(request, "users", shown)}


async def show_user(request: Request) -> dict[str, Any]:
    return await _answer(request, await users.show_user(identity_of(request).database, request.params["user_id"]))


async def create_user(request: Request) -> dict[str, Any]:
    identity = identity_of(request)
    row = await users.create_user(identity.database, identity.passwords, in_domain(request))
    return await _answer(request, row)


async def update_user(request: Request) -> dict[str, Any]:
    identity, user_id = identity_of(request), request.params["user_id"]
    require_same_id(request, user_id)
    row = await users.update_user(identity.database, identity.feed, identity.passwords, user_id, request.body)
    return await _answer(request, row)


async def delete_user(request: Request) -> None:
    identity = identity_of(request)
    await users.delete_user(identity.database, identity.feed, request.params["user_id"])


async def change_password(request: Request) -> None:
    identity, user_id = identity_of(request), request.params["user_id"]
    await own_password.change_password(
        identity.database, identity.feed, identity.passwords, identity.methods, user_id, request.body, request.remote
    )


async def revoke_tokens(request: Request) -> None:
    identity = identity_of(request)
    await users.revoke_tokens(identity.database, identity.feed, request.params["user_id"])


async def list_groups(request: Request) -> dict[str, Any]:
    page = own_domain(request, page_of(request, ("name",)))
    identity, user_id = identity_of(request), request.params["user_id"]
    found = await identity.directories.groups_of(user_id, page)
    if found is None:
        found = await users.list_groups(identity.database, page, user_id=user_id)
    return collection(request, "groups", found, views.group_of_user)


async def list_projects(request: Request) -> dict[str, Any]:
    database, user_id = identity_of(request).database, request.params["user_id"]
    await users.show_user(database, user_id)
    ids, _, _ = await assignments.reachable(database, user_id)
    page = page_of(request, _FILTERS)
    found = await projects.list_projects(database, page, is_domain=False, only=ids)
    return collection(request, "projects", found, views.project)


_LIST = listing("domain_id", "name", flags=("enabled",))
ROUTES = [
    Route(
        "GET /users", list_users, policy="identity:list_users", target=scope_target,
        query=listing("domain_id", "name", *federated_users.FILTERS, flags=("enabled",), many=("password_expires_at",)),
    ),
    Route("POST /users", create_user, policy="identity:create_user", target=sent_target, body=USER_CREATE, ok=201),
    Route("GET /users/{user_id}", show_user, policy="identity:get_user", target=user_target),
    Route(
        "PATCH /users/{user_id}", update_user, policy="identity:update_user", target=user_target, body=USER_UPDATE
    ),
    Route("DELETE /users/{user_id}", delete_user, policy="identity:delete_user", target=user_target, ok=204),
    Route(
        "DELETE /users/{user_id}/tokens", revoke_tokens, policy="identity:revoke_tokens_for_user", target=user_target,
        ok=204,
    ),
    Route("POST /users/{user_id}/password", change_password, public=True, body=PASSWORD_CHANGE, ok=204),
    Route(
        "GET /users/{user_id}/groups", list_groups, policy="identity:list_groups_for_user", target=user_target,
        query=listing("name"),
    ),
    Route(
        "GET /users/{user_id}/projects", list_projects, policy="identity:list_user_projects", target=user_target,
        query=_LIST,
    ),
]  # fmt: skip

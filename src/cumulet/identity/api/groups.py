# SPDX-License-Identifier: Apache-2.0
"""Groups of users and who is in them."""

from __future__ import annotations

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
from cumulet.identity.api.users import expiring
from cumulet.identity.logic import users
from cumulet.identity.schemas import GROUP_CREATE, GROUP_UPDATE, listing
from cumulet.kernel.db import Row
from cumulet.kernel.errors import NotFound
from cumulet.kernel.http import Request, Route
from cumulet.kernel.policy import Target


async def group_target(request: Request) -> Target:
    """The group of the path, and the user where the path names one too."""
    database = identity_of(request).database
    group = user = None
    try:
        group = await users.show_group(database, request.params["group_id"])
        if "user_id" in request.params:
            user = await users.show_user(database, request.params["user_id"])
    except NotFound:
        pass  # whether it is there is told after the policy
    return target(group=group, user=user)


async def deleted_group_target(request: Request) -> Target:
    """The group of the path. Raises NotFound, as published, before the policy is asked."""
    return target(group=await users.show_group(identity_of(request).database, request.params["group_id"]))


async def scope_target(request: Request) -> Target:
    domain_id = request.context.domain_id
    return target(group={"domain_id": domain_id} if domain_id else None)


async def sent_target(request: Request) -> Target:
    return target(group=sent(request, "group"))


async def list_groups(request: Request) -> dict[str, Any]:
    page = own_domain(request, page_of(request, ("domain_id", "name")))
    identity = identity_of(request)
    found = await identity.directories.groups(domain_of(page), page)
    if found is None:
        found = await users.list_groups(identity.database, page)
    return collection(request, "groups", found, views.group)


def _answer(request: Request, row: Row) -> dict[str, Any]:
    return {"group": member(request, "groups", views.group(row))}


async def show_group(request: Request) -> dict[str, Any]:
    return _answer(request, await users.show_group(identity_of(request).database, request.params["group_id"]))


async def create_group(request: Request) -> dict[str, Any]:
    return _answer(request, await users.create_group(identity_of(request).database, in_domain(request)))


async def update_group(request: Request) -> dict[str, Any]:
    group_id = request.params["group_id"]
    require_same_id(request, group_id)
    return _answer(request, await users.update_group(identity_of(request).database, group_id, request.body))


async def delete_group(request: Request) -> None:
    identity = identity_of(request)
    await users.delete_group(identity.database, identity.feed, request.params["group_id"])


async def list_members(request: Request) -> dict[str, Any]:
    page = expiring(request, own_domain(request, page_of(request, ("domain_id", "enabled", "name"))))
    identity, group_id = identity_of(request), request.params["group_id"]
    found = await identity.directories.members_of(group_id, page)
    if found is None:
        found = await users.list_users(identity.database, page, group_id=group_id)
    return collection(request, "users", found, views.user)


async def add_member(request: Request) -> None:
    identity = identity_of(request)
    await users.join(identity.database, identity.feed, request.params["group_id"], request.params["user_id"])


async def check_member(request: Request) -> None:
    database = identity_of(request).database
    await users.check_member(database, request.params["group_id"], request.params["user_id"])


async def drop_member(request: Request) -> None:
    identity = identity_of(request)
    await users.leave(identity.database, identity.feed, request.params["group_id"], request.params["user_id"])


_ONE, _MEMBER = "/groups/{group_id}", "/groups/{group_id}/users/{user_id}"
ROUTES = [
    Route(
        "GET /groups", list_groups, policy="identity:list_groups", target=scope_target,
        query=listing("domain_id", "name"),
    ),
    Route("POST /groups", create_group, policy="identity:create_group", target=sent_target, body=GROUP_CREATE, ok=201),
    Route(f"GET {_ONE}", show_group, policy="identity:get_group", target=group_target),
    Route(f"PATCH {_ONE}", update_group, policy="identity:update_group", target=group_target, body=GROUP_UPDATE),
    Route(f"DELETE {_ONE}", delete_group, policy="identity:delete_group", target=deleted_group_target, ok=204),
    Route(
        f"GET {_ONE}/users", list_members, policy="identity:list_users_in_group", target=group_target,
        query=listing("domain_id", "name", flags=("enabled",), many=("password_expires_at",)),
    ),
    Route(f"GET {_MEMBER}", check_member, policy="identity:check_user_in_group", target=group_target, ok=204),
    Route(f"PUT {_MEMBER}", add_member, policy="identity:add_user_to_group", target=group_target, ok=204),
    Route(f"DELETE {_MEMBER}", drop_member, policy="identity:remove_user_from_group", target=group_target, ok=204),
]  # fmt: skip

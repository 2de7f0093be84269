# SPDX-License-Identifier: Apache-2.0
"""What routes about users and groups do first where those are in a directory.

One table says which routes would write; every route that names a user or a
group is given a row that says what the directory says now, before its policy is
asked, so no handler knows that there are directories.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from cumulet.identity.api.answers import identity_of, in_domain
from cumulet.kernel.errors import NotFound
from cumulet.kernel.http import Request, Route
from cumulet.kernel.http.route import Handler, Loader
from cumulet.kernel.policy import Target

_CREATES: Final = ("POST /v3/users", "POST /v3/groups")
_WRITES: Final = (
    "PATCH /v3/users/{user_id}", "DELETE /v3/users/{user_id}", "PATCH /v3/groups/{group_id}",
    "DELETE /v3/groups/{group_id}", "PUT /v3/groups/{group_id}/users/{user_id}",
    "DELETE /v3/groups/{group_id}/users/{user_id}",
)  # fmt: skip
_ITSELF: Final = ("POST /v3/users/{user_id}/password",)
"""Whoever asks must prove first who he is."""
_NAMED: Final = (("group", "group_id"), ("user", "user_id"))
"""Groups first: a user's row is then in those that roles may depend on."""


def through_directories(routes: list[Route]) -> list[Route]:
    """The same routes, for users and groups of directories too."""
    return [_through(route) for route in routes]


def _through(route: Route) -> Route:
    if route.at in _CREATES:
        return replace(route, handler=_refusing_new(route.handler))
    kinds = [(kind, name) for kind, name in _NAMED if f"{{{name}}}" in route.at]
    if route.at in _ITSELF or "OS-EP-FILTER" in route.at or not kinds:
        return route
    handler = route.handler
    if route.at in _WRITES:
        handler = _refusing(handler)
    elif route.method == "PUT" and "/groups/{group_id}/roles" in route.at:
        handler = _expanding(handler)
    return replace(route, target=_meeting(kinds, route.target), handler=handler)


def _meeting(kinds: list[tuple[str, str]], inner: Loader | None) -> Loader:
    async def target(request: Request) -> Target | None:
        directories = identity_of(request).directories
        for kind, name in kinds:
            try:
                await directories.meet(kind, request.params[name])
            except NotFound:
                break  # its row says so: the route itself decides who is told
        return await inner(request) if inner is not None else None

    return target


def _refusing(inner: Handler) -> Handler:
    async def handler(request: Request) -> Any:
        directories = identity_of(request).directories
        for _, name in _NAMED:
            if name in request.params:
                await directories.refuse_change(request.params[name])
        return await inner(request)

    return handler


def _expanding(inner: Handler) -> Handler:
    """Whoever may give a role to a group gives it to all who are in it; nobody else makes us ask for them."""

    async def handler(request: Request) -> Any:
        await identity_of(request).directories.expand(request.params["group_id"])
        return await inner(request)

    return handler


def _refusing_new(inner: Handler) -> Handler:
    async def handler(request: Request) -> Any:
        await identity_of(request).directories.refuse_new(in_domain(request)["domain_id"])
        return await inner(request)

    return handler

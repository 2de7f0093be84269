# SPDX-License-Identifier: Apache-2.0
"""Grants: one handler for each act, and a table of the paths that name actor and target."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from cumulet.identity.api import views
from cumulet.identity.api.answers import collection, flag, here, identity_of, target, url
from cumulet.identity.logic import assignments, projects, roles, users
from cumulet.identity.logic.assignments import Grant, Names, Wanted
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid, NotFound
from cumulet.kernel.http import Query, Request, Route
from cumulet.kernel.http.fields import Param
from cumulet.kernel.policy import Target

# ---- single grants


def _grant(request: Request, actor: str, place: str, inherited: bool) -> Grant:
    params = request.params
    target_id = params.get(f"{place}_id", "system")
    return Grant(actor, params[f"{actor}_id"], place, target_id, params.get("role_id", ""), inherited)


async def _things(request: Request, actor: str, place: str, forgiving: bool) -> Target:
    """The role, actor and target of the path, for the rules.

    Raises NotFound for what is not there; a ``forgiving`` one lets a grant of an actor that is gone be taken.
    """
    database, params = identity_of(request).database, request.params
    things: dict[str, Any] = {}
    if "role_id" in params:
        things["role"] = views.role(await roles.show_role(database, params["role_id"]))
    try:
        load = users.show_user if actor == "user" else users.show_group
        things[actor] = await load(database, params[f"{actor}_id"])
    except NotFound:
        if not forgiving:
            raise
    if place == "project":
        things["project"] = views.project(await projects.show_project(database, params["project_id"]))
    elif place == "domain":
        things["domain"] = await projects.show_domain(database, params["domain_id"])
    return target(**things)


async def _check(request: Request, actor: str, place: str, inherited: bool) -> None:
    await assignments.check_grant(identity_of(request).database, _grant(request, actor, place, inherited))


async def _give(request: Request, actor: str, place: str, inherited: bool) -> None:
    identity = identity_of(request)
    await assignments.ensure_grant(identity.database, identity.feed, _grant(request, actor, place, inherited))


async def _take(request: Request, actor: str, place: str, inherited: bool) -> None:
    identity = identity_of(request)
    await assignments.drop_grant(identity.database, identity.feed, _grant(request, actor, place, inherited))


async def _list(request: Request, actor: str, place: str, inherited: bool) -> dict[str, Any]:
    database = identity_of(request).database
    rows = await assignments.granted_roles(database, _grant(request, actor, place, inherited))
    return collection(request, "roles", (rows, False), views.role)


_ACTS: tuple[tuple[str, str, Callable[..., Awaitable[Any]]], ...] = (
    ("GET", "check", _check),
    ("PUT", "create", _give),
    ("DELETE", "revoke", _take),
)


def _routes(actor: str, place: str, inherited: bool) -> list[Route]:
    """The rows of one kind of actor on one kind of target."""
    start = f"/{place}" if place == "system" else f"/{place}s/{{{place}_id}}"
    start, end = (f"/OS-INHERIT{start}", "/inherited_to_projects") if inherited else (start, "")
    many = f"{start}/{actor}s/{{{actor}_id}}/roles"
    how: dict[str, Any] = {"actor": actor, "place": place, "inherited": inherited}

    def rule(act: str) -> str:
        noun = "grants" if act == "list" else "grant"
        return f"identity:{act}_system_{noun}_for_{actor}" if place == "system" else f"identity:{act}_{noun}"

    rows = []
    if not (inherited and place == "project"):
        loader = partial(_things, actor=actor, place=place, forgiving=False)
        rows.append(Route(f"GET {many}{end}", partial(_list, **how), policy=rule("list"), target=loader))
    for method, act, handler in _ACTS:
        loader = partial(_things, actor=actor, place=place, forgiving=act == "revoke")
        path = f"{method} {many}/{{role_id}}{end}"
        rows.append(Route(path, partial(handler, **how), policy=rule(act), target=loader, ok=204))
    return rows


# ---- the list of all

_FILTERS = ("user.id", "group.id", "role.id", "scope.project.id", "scope.domain.id")
_NOT_BOTH = (
    ("scope.domain.id", "scope.project.id", "Specify a domain or project, not both"),
    ("scope.domain.id", "scope.system", "Specify system or domain, not both"),
    ("scope.project.id", "scope.system", "Specify system or project, not both"),
    ("user.id", "group.id", "Specify a user or group, not both"),
)
_QUERY = Query(
    *(Param(name, {"type": "string"}) for name in (*_FILTERS, "scope.system", "scope.OS-INHERIT:inherited_to"))
)


async def _scope(request: Request) -> Target:
    return target(domain_id=request.context.domain_id)


async def list_assignments(request: Request) -> dict[str, Any]:
    query, identity = request.query, identity_of(request)
    for one, other, refusal in _NOT_BOTH:
        if query.get(one) and query.get(other):
            raise Invalid(refusal)
    subtree = flag(request, "include_subtree")
    await _enforce(request, query.get("scope.project.id"), subtree)
    wanted = _wanted(query, subtree)
    effective = flag(request, "effective")
    if effective:
        if wanted.group_id:
            raise Invalid("Combining effective and group filter will always result in an empty list.")
        if wanted.inherited and wanted.target_type == "domain":
            raise Invalid("Combining effective, domain and inherited filters will always result in an empty list.")
    graph = await identity.tokens.graph()
    grants = await assignments.list_grants(identity.database, wanted, effective=effective, graph=graph)
    names = await assignments.names_of(identity.database, grants, graph)
    if (own := request.context.domain_id) is not None:
        grants = [grant for grant in grants if _is_within(grant, own, names)]
    shown = [_shown(request, grant, names if flag(request, "include_names") else None) for grant in grants]
    return {"role_assignments": shown, "links": {"next": None, "self": here(request), "previous": None}}


async def _enforce(request: Request, project_id: str | None, subtree: bool) -> None:
    """The list below a project has a rule of its own, about that project's domain."""
    if not subtree:
        request.enforce("identity:list_role_assignments", await _scope(request))
        return
    if not project_id:
        raise Invalid("scope.project.id must be specified if include_subtree is also specified")
    row = await projects.show_project(identity_of(request).database, project_id)
    request.enforce(
        "identity:list_role_assignments_for_tree", target(project=views.project(row), domain_id=row["domain_id"])
    )


def _wanted(query: dict[str, Any], subtree: bool) -> Wanted:
    place, place_id = None, None
    if query.get("scope.project.id"):
        place, place_id = "project", query["scope.project.id"]
    elif query.get("scope.domain.id"):
        place, place_id = "domain", query["scope.domain.id"]
    elif query.get("scope.system"):
        place = "system"
    inherited = query.get("scope.OS-INHERIT:inherited_to")
    return Wanted(
        user_id=query.get("user.id"),
        group_id=query.get("group.id"),
        role_id=query.get("role.id"),
        target_type=place,
        target_id=place_id,
        inherited=None if inherited is None else inherited == "projects",
        subtree=subtree,
    )


def _is_within(grant: Grant, domain_id: str, names: Names) -> bool:
    if grant.target_type == "project":
        row = names.projects.get(grant.target_id)
        return row is not None and row["domain_id"] == domain_id
    return grant.target_type == "domain" and grant.target_id == domain_id


def _shown(request: Request, grant: Grant, names: Names | None) -> dict[str, Any]:
    """One grant as published, its links naming the assignment that it comes from."""
    inherited = grant.inherited or grant.from_id is not None
    scope: dict[str, Any] = {"system": {"all": True}}
    place = "/system"
    if grant.target_type != "system":
        scope = {grant.target_type: _place(grant, names)}
        place = f"/{grant.from_type or grant.target_type}s/{grant.from_id or grant.target_id}"
    if inherited:
        scope["OS-INHERIT:inherited_to"] = "projects"
    actor = f"/groups/{grant.group_id}" if grant.group_id else f"/{grant.actor_type}s/{grant.actor_id}"
    path = f"{place}{actor}/roles/{grant.prior_id or grant.role_id}"
    if inherited:
        path = f"/OS-INHERIT{path}/inherited_to_projects"
    links = {"assignment": url(request, path.lstrip("/"))}
    if grant.group_id:
        links["membership"] = url(request, f"groups/{grant.group_id}/users/{grant.actor_id}")
    if grant.prior_id:
        links["prior_role"] = url(request, f"prior_role/{grant.role_id}/implies/{grant.prior_id}")
    return {"links": links, "scope": scope, grant.actor_type: _actor(grant, names), "role": _role(grant, names)}


def _place(grant: Grant, names: Names | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": grant.target_id}
    if names is not None and (row := names.projects.get(grant.target_id)) is not None:
        shown["name"] = row["name"]
        if grant.target_type == "project":
            shown["domain"] = _domain(row, names)
    return shown


def _actor(grant: Grant, names: Names | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": grant.actor_id}
    if names is not None:
        rows = names.users if grant.actor_type == "user" else names.groups
        if (row := rows.get(grant.actor_id)) is not None:
            shown |= {"name": row["name"], "domain": _domain(row, names)}
    return shown


def _role(grant: Grant, names: Names | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": grant.role_id}
    if names is not None and (row := names.roles.get(grant.role_id)) is not None:
        shown["name"] = row["name"]
        if row["domain_id"]:
            shown["domain"] = _domain(row, names)
    return shown


def _domain(row: Row, names: Names) -> dict[str, Any]:
    domain = names.projects.get(row["domain_id"])
    return {"id": row["domain_id"], "name": domain["name"] if domain else None}


ROUTES = [
    *(
        row
        for actor in ("user", "group")
        for place, inherited in (
            ("project", False), ("domain", False), ("system", False), ("project", True), ("domain", True)
        )
        for row in _routes(actor, place, inherited)
    ),
    Route("GET /role_assignments", list_assignments, policy="identity:list_role_assignments", late=True, query=_QUERY),
]  # fmt: skip

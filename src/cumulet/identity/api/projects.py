# SPDX-License-Identifier: Apache-2.0
"""Projects with their tree and tags, and domains."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote

from cumulet.identity.api import views
from cumulet.identity.api.answers import (
    collection,
    flag,
    here,
    identity_of,
    in_domain,
    member,
    own_domain,
    page_of,
    require_same_id,
    sent,
    target,
)
from cumulet.identity.logic import assignments, projects
from cumulet.identity.schemas import (
    DOMAIN_CREATE,
    DOMAIN_UPDATE,
    PROJECT_CREATE,
    PROJECT_UPDATE,
    TAG_LIMIT,
    TAGS_REPLACE,
    listing,
)
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid, NotFound
from cumulet.kernel.http import Answer, Request, Route
from cumulet.kernel.policy import Target

_TAG_FILTERS = ("tags", "tags-any", "not-tags", "not-tags-any")


async def project_target(request: Request) -> Target:
    """The project of the path; whether it is there is told after the policy."""
    try:
        row = await projects.show_project(identity_of(request).database, request.params["project_id"])
    except NotFound:
        return target()
    request.found = row
    return target(project=views.project(row))


async def scope_target(request: Request) -> Target:
    return target(domain_id=request.context.domain_id)


async def sent_target(request: Request) -> Target:
    return target(project=sent(request, "project"))


async def _found(request: Request) -> Row:
    if request.found is None:
        return await projects.show_project(identity_of(request).database, request.params["project_id"])
    row: Row = request.found
    return row


async def list_projects(request: Request) -> dict[str, Any]:
    page = own_domain(request, page_of(request, ("domain_id", "enabled", "name", "parent_id")))
    tags = {
        name: value.split(",")
        for name, value in parse_qsl(request.query_text, keep_blank_values=True)
        if name in _TAG_FILTERS
    }
    is_domain = request.query.get("is_domain", False)
    found = await projects.list_projects(identity_of(request).database, page, is_domain=is_domain, tags=tags)
    return collection(request, "projects", found, views.project)


def _answer(request: Request, row: Row, **more: Any) -> dict[str, Any]:
    return {"project": member(request, "projects", {**views.project(row), **more})}


async def show_project(request: Request) -> dict[str, Any]:
    row = await _found(request)
    return _answer(request, row, **await _family(request, row))


async def _family(request: Request, row: Row) -> dict[str, Any]:
    """The wished relatives: lists hold those only on which the caller has a role."""
    family: dict[str, Any] = {}
    database = identity_of(request).database
    for name, load in (("parents", _parents), ("subtree", _children)):
        as_list, as_ids = f"{name}_as_list", f"{name}_as_ids"
        if flag(request, as_list) and flag(request, as_ids):
            raise Invalid(f"Cannot use {as_list} and {as_ids} query params at the same time.")
        if flag(request, as_list):
            rows = await load(request, row)
            assert request.context.user_id is not None
            own = set((await assignments.reachable(database, request.context.user_id))[0])
            rows = await projects.with_tags(database, [one for one in rows if one["id"] in own])
            family[name] = [_answer(request, one) for one in rows]
        elif flag(request, as_ids):
            family[name] = _chain(await load(request, row)) if name == "parents" else await _tree(request, row)
    return family


async def _parents(request: Request, row: Row) -> list[Row]:
    return await projects.parents_of(identity_of(request).database, row)


async def _children(request: Request, row: Row) -> list[Row]:
    return await projects.below(identity_of(request).database, row["id"])


def _chain(parents: list[Row]) -> dict[str, Any] | None:
    chain: dict[str, Any] | None = None
    for row in reversed(parents):
        chain = {row["id"]: chain}
    return chain


async def _tree(request: Request, row: Row) -> dict[str, Any] | None:
    """The ids below a project as nested objects; null below a leaf."""
    below: dict[str, list[str]] = {}
    for child in await _children(request, row):
        below.setdefault(child["parent_id"], []).append(child["id"])

    def nested(id: str) -> dict[str, Any] | None:
        return {child: nested(child) for child in below[id]} if id in below else None

    return nested(row["id"])


async def create_project(request: Request) -> dict[str, Any]:
    identity = identity_of(request)
    body = request.body if request.body.get("is_domain") else in_domain(request)
    return _answer(request, await projects.create_project(identity.database, identity.settings, body))


async def update_project(request: Request) -> dict[str, Any]:
    identity, project_id = identity_of(request), request.params["project_id"]
    require_same_id(request, project_id)
    return _answer(request, await projects.update_project(identity.database, identity.feed, project_id, request.body))


async def delete_project(request: Request) -> None:
    identity = identity_of(request)
    await projects.delete_project(identity.database, identity.feed, request.params["project_id"])


# ---- tags


def _tags(request: Request, tags: list[str]) -> dict[str, Any]:
    return {"links": {"self": here(request)}, "tags": tags}


async def list_tags(request: Request) -> dict[str, Any]:
    return _tags(request, (await _found(request))["tags"])


async def replace_tags(request: Request) -> dict[str, Any]:
    database = identity_of(request).database
    return _tags(request, await projects.replace_tags(database, request.params["project_id"], request.body["tags"]))


async def drop_tags(request: Request) -> None:
    await projects.replace_tags(identity_of(request).database, request.params["project_id"], [])


async def show_tag(request: Request) -> None:
    if request.params["tag"] not in (await _found(request))["tags"]:
        raise NotFound(f"Could not find project tag: {request.params['tag']}.")


async def add_tag(request: Request) -> Answer:
    tag = request.params["tag"]
    if not 1 <= len(tag) <= 255 or "," in tag or "/" in tag:
        raise Invalid(f"{tag!r} is not a valid tag: it must have 1 to 255 characters and no '/' or ','.")
    await projects.add_tag(identity_of(request).database, request.params["project_id"], tag, TAG_LIMIT)
    return Answer(headers={"Location": request.base + quote(request.path)})


async def drop_tag(request: Request) -> None:
    await projects.drop_tag(identity_of(request).database, request.params["project_id"], request.params["tag"])


# ---- domains


async def domain_target(request: Request) -> Target:
    try:
        row = await projects.show_domain(identity_of(request).database, request.params["domain_id"])
    except NotFound:
        return target()
    return target(domain=row)


async def changed_domain_target(request: Request) -> Target:
    """The domain of the path. Raises NotFound, as published, before the policy is asked."""
    return target(domain=await projects.show_domain(identity_of(request).database, request.params["domain_id"]))


async def own_domain_target(request: Request) -> Target:
    domain_id = request.context.domain_id
    return target(domain={"id": domain_id} if domain_id else None)


async def list_domains(request: Request) -> dict[str, Any]:
    page = own_domain(request, page_of(request, ("enabled", "name")), "id")
    found = await projects.list_projects(identity_of(request).database, page, is_domain=True)
    return collection(request, "domains", found, views.domain)


def _domain(request: Request, row: Row) -> dict[str, Any]:
    return {"domain": member(request, "domains", views.domain(row))}


async def show_domain(request: Request) -> dict[str, Any]:
    return _domain(request, await projects.show_domain(identity_of(request).database, request.params["domain_id"]))


async def create_domain(request: Request) -> dict[str, Any]:
    identity = identity_of(request)
    body = {**request.body, "is_domain": True}
    body = {name: value for name, value in body.items() if name not in ("domain_id", "parent_id")}
    return _domain(request, await projects.create_project(identity.database, identity.settings, body))


async def update_domain(request: Request) -> dict[str, Any]:
    identity, domain_id = identity_of(request), request.params["domain_id"]
    require_same_id(request, domain_id)
    row = await projects.update_project(identity.database, identity.feed, domain_id, request.body, domain=True)
    return _domain(request, row)


async def delete_domain(request: Request) -> None:
    identity = identity_of(request)
    await projects.delete_domain(identity.database, identity.feed, request.params["domain_id"])


_ONE, _TAGS, _TAG = "/projects/{project_id}", "/projects/{project_id}/tags", "/projects/{project_id}/tags/{tag}"
_DOMAIN = "/domains/{domain_id}"
ROUTES = [
    Route(
        "GET /projects", list_projects, policy="identity:list_projects", target=scope_target,
        query=listing("domain_id", "name", "parent_id", flags=("enabled", "is_domain")),
    ),
    Route(
        "POST /projects", create_project, policy="identity:create_project", target=sent_target,
        body=PROJECT_CREATE, ok=201,
    ),
    Route(f"GET {_ONE}", show_project, policy="identity:get_project", target=project_target),
    Route(
        f"PATCH {_ONE}", update_project, policy="identity:update_project", target=project_target, body=PROJECT_UPDATE
    ),
    Route(f"DELETE {_ONE}", delete_project, policy="identity:delete_project", target=project_target, ok=204),
    Route(f"GET {_TAGS}", list_tags, policy="identity:list_project_tags", target=project_target),
    Route(
        f"PUT {_TAGS}", replace_tags, policy="identity:update_project_tags", target=project_target, body=TAGS_REPLACE
    ),
    Route(f"DELETE {_TAGS}", drop_tags, policy="identity:delete_project_tags", target=project_target, ok=204),
    Route(f"GET {_TAG}", show_tag, policy="identity:get_project_tag", target=project_target, ok=204),
    Route(f"PUT {_TAG}", add_tag, policy="identity:create_project_tag", target=project_target, ok=201),
    Route(f"DELETE {_TAG}", drop_tag, policy="identity:delete_project_tag", target=project_target, ok=204),
    Route(
        "GET /domains", list_domains, policy="identity:list_domains", target=own_domain_target,
        query=listing("name", flags=("enabled",)),
    ),
    Route("POST /domains", create_domain, policy="identity:create_domain", body=DOMAIN_CREATE, ok=201),
    Route(f"GET {_DOMAIN}", show_domain, policy="identity:get_domain", target=domain_target),
    Route(
        f"PATCH {_DOMAIN}", update_domain, policy="identity:update_domain", target=changed_domain_target,
        body=DOMAIN_UPDATE,
    ),
    Route(f"DELETE {_DOMAIN}", delete_domain, policy="identity:delete_domain", target=changed_domain_target, ok=204),
]  # fmt: skip

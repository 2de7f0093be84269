# SPDX-License-Identifier: Apache-2.0
"""OS-EP-FILTER: groups of endpoints, and what each project is associated with."""

from __future__ import annotations

from typing import Any

from cumulet.identity.api import views
from cumulet.identity.api.answers import collection, identity_of, member, page_of, require_same_id, url
from cumulet.identity.api.catalogue import endpoint_view
from cumulet.identity.errors import expecting
from cumulet.identity.logic import endpoint_filters
from cumulet.identity.schemas import ENDPOINT_GROUP_CREATE, ENDPOINT_GROUP_UPDATE, listing
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Request, Route

_GROUPS = "OS-EP-FILTER/endpoint_groups"


def _check_filters(request: Request) -> None:
    if set(request.body.get("filters") or ()) - set(endpoint_filters.FILTERS):
        raise expecting(" or ".join(endpoint_filters.FILTERS), "endpoint_group")


def _group(request: Request, row: Row) -> dict[str, Any]:
    return {"endpoint_group": member(request, _GROUPS, row)}


async def list_groups(request: Request) -> dict[str, Any]:
    found = await endpoint_filters.list_groups(identity_of(request).database, page_of(request, ("name",)))
    return collection(request, "endpoint_groups", found, dict, of=_GROUPS)


async def show_group(request: Request) -> dict[str, Any]:
    database, group_id = identity_of(request).database, request.params["endpoint_group_id"]
    return _group(request, await endpoint_filters.show_group(database, group_id))


async def create_group(request: Request) -> dict[str, Any]:
    if not request.body["filters"]:
        raise Invalid("filters field is required and cannot be empty")
    _check_filters(request)
    return _group(request, await endpoint_filters.create_group(identity_of(request).database, request.body))


async def update_group(request: Request) -> dict[str, Any]:
    identity, group_id = identity_of(request), request.params["endpoint_group_id"]
    _check_filters(request)
    require_same_id(request, group_id)
    row = await endpoint_filters.update_group(identity.database, identity.feed, group_id, request.body)
    return _group(request, row)


async def drop_group(request: Request) -> None:
    identity = identity_of(request)
    await endpoint_filters.drop_group(identity.database, identity.feed, request.params["endpoint_group_id"])


# ---- what belongs to what


def _endpoints(request: Request, rows: list[Row]) -> dict[str, Any]:
    return collection(request, "endpoints", (rows, False), lambda row: endpoint_view(request, row))


async def list_endpoints_of_group(request: Request) -> dict[str, Any]:
    database, group_id = identity_of(request).database, request.params["endpoint_group_id"]
    return _endpoints(request, await endpoint_filters.endpoints_of_group(database, group_id))


async def list_projects_of_group(request: Request) -> dict[str, Any]:
    database, group_id = identity_of(request).database, request.params["endpoint_group_id"]
    rows = await endpoint_filters.projects_of_group(database, group_id)
    return collection(request, "projects", (rows, False), views.project)


async def list_groups_of_project(request: Request) -> dict[str, Any]:
    database, project_id = identity_of(request).database, request.params["project_id"]
    rows = await endpoint_filters.groups_of_project(database, project_id)
    return collection(request, "endpoint_groups", (rows, False), dict, of=_GROUPS)


async def list_endpoints_of_project(request: Request) -> dict[str, Any]:
    database, project_id = identity_of(request).database, request.params["project_id"]
    return _endpoints(request, await endpoint_filters.endpoints_of_project(database, project_id))


async def list_projects_of_endpoint(request: Request) -> dict[str, Any]:
    database, endpoint_id = identity_of(request).database, request.params["endpoint_id"]
    rows = await endpoint_filters.projects_of_endpoint(database, endpoint_id)
    return collection(request, "projects", (rows, False), views.project)


async def check_endpoint(request: Request) -> None:
    params = request.params
    await endpoint_filters.check_endpoint(identity_of(request).database, params["project_id"], params["endpoint_id"])


async def add_endpoint(request: Request) -> None:
    identity, params = identity_of(request), request.params
    await endpoint_filters.add_endpoint(identity.database, identity.feed, params["project_id"], params["endpoint_id"])


async def drop_endpoint(request: Request) -> None:
    identity, params = identity_of(request), request.params
    await endpoint_filters.drop_endpoint(identity.database, identity.feed, params["project_id"], params["endpoint_id"])


async def show_group_of_project(request: Request) -> dict[str, Any]:
    group_id, project_id = request.params["endpoint_group_id"], request.params["project_id"]
    await endpoint_filters.check_group(identity_of(request).database, group_id, project_id)
    links = {"self": url(request, f"{_GROUPS}/{group_id}/projects/{project_id}")}
    shown = {"endpoint_group_id": group_id, "project_id": project_id, "links": links}
    return {"project_endpoint_group": shown}


async def add_group_to_project(request: Request) -> None:
    identity, params = identity_of(request), request.params
    group_id, project_id = params["endpoint_group_id"], params["project_id"]
    await endpoint_filters.add_group(identity.database, identity.feed, group_id, project_id)


async def drop_group_of_project(request: Request) -> None:
    identity, params = identity_of(request), request.params
    group_id, project_id = params["endpoint_group_id"], params["project_id"]
    await endpoint_filters.drop_group_of(identity.database, identity.feed, group_id, project_id)


_ALL = "/OS-EP-FILTER/endpoint_groups"
_ONE = f"{_ALL}/{{endpoint_group_id}}"
_OF_PROJECT = f"{_ONE}/projects/{{project_id}}"
_PROJECT = "/OS-EP-FILTER/projects/{project_id}"
_SINGLE = f"{_PROJECT}/endpoints/{{endpoint_id}}"
ROUTES = [
    Route(f"GET {_ALL}", list_groups, policy="identity:list_endpoint_groups", query=listing("name")),
    Route(f"POST {_ALL}", create_group, policy="identity:create_endpoint_group", body=ENDPOINT_GROUP_CREATE, ok=201),
    Route(f"GET {_ONE}", show_group, policy="identity:get_endpoint_group"),
    Route(f"PATCH {_ONE}", update_group, policy="identity:update_endpoint_group", body=ENDPOINT_GROUP_UPDATE),
    Route(f"DELETE {_ONE}", drop_group, policy="identity:delete_endpoint_group", ok=204),
    Route(
        f"GET {_ONE}/endpoints", list_endpoints_of_group,
        policy="identity:list_endpoints_associated_with_endpoint_group",
    ),
    Route(
        f"GET {_ONE}/projects", list_projects_of_group,
        policy="identity:list_projects_associated_with_endpoint_group",
    ),
    Route(f"GET {_OF_PROJECT}", show_group_of_project, policy="identity:get_endpoint_group_in_project"),
    Route(f"PUT {_OF_PROJECT}", add_group_to_project, policy="identity:add_endpoint_group_to_project", ok=204),
    Route(
        f"DELETE {_OF_PROJECT}", drop_group_of_project, policy="identity:remove_endpoint_group_from_project", ok=204
    ),
    Route(
        f"GET {_PROJECT}/endpoint_groups", list_groups_of_project, policy="identity:list_endpoint_groups_for_project"
    ),
    Route(f"GET {_PROJECT}/endpoints", list_endpoints_of_project, policy="identity:list_endpoints_for_project"),
    Route(f"GET {_SINGLE}", check_endpoint, policy="identity:check_endpoint_in_project", ok=204),
    Route(f"PUT {_SINGLE}", add_endpoint, policy="identity:add_endpoint_to_project", ok=204),
    Route(f"DELETE {_SINGLE}", drop_endpoint, policy="identity:remove_endpoint_from_project", ok=204),
    Route(
        "GET /OS-EP-FILTER/endpoints/{endpoint_id}/projects", list_projects_of_endpoint,
        policy="identity:list_projects_for_endpoint",
    ),
]  # fmt: skip

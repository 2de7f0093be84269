# SPDX-License-Identifier: Apache-2.0
"""Registered limits, the limits of projects and domains, and the model that holds between them."""

from __future__ import annotations

from typing import Any

from cumulet.identity.api.answers import collection, identity_of, member, page_of, require_same_id, target
from cumulet.identity.logic import limits, projects
from cumulet.identity.schemas import (
    LIMIT_UPDATE,
    LIMITS_CREATE,
    REGISTERED_LIMIT_UPDATE,
    REGISTERED_LIMITS_CREATE,
    listing,
)
from cumulet.kernel.db import Row
from cumulet.kernel.errors import NotFound
from cumulet.kernel.http import Request, Route
from cumulet.kernel.policy import Target

_ABOUT = ("service_id", "region_id", "resource_name")


def _registered_view(row: Row) -> dict[str, Any]:
    return {**row, "region_id": row["region_id"] or None}


def _limit_view(row: Row) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name != "registered_limit_id"}
    return shown | {name: row[name] or None for name in ("region_id", "project_id", "domain_id")}


def _made(request: Request, name: str, shown: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: [member(request, name, one) for one in shown]}


# ---- registered limits


async def list_registered(request: Request) -> dict[str, Any]:
    found = await limits.list_registered(identity_of(request).database, page_of(request, _ABOUT))
    return collection(request, "registered_limits", found, _registered_view)


def _registered(request: Request, row: Row) -> dict[str, Any]:
    return {"registered_limit": member(request, "registered_limits", _registered_view(row))}


async def show_registered(request: Request) -> dict[str, Any]:
    row = await limits.show_registered(identity_of(request).database, request.params["registered_limit_id"])
    return _registered(request, row)


async def register(request: Request) -> dict[str, Any]:
    rows = await limits.register(identity_of(request).database, request.body["registered_limits"])
    return _made(request, "registered_limits", [_registered_view(row) for row in rows])


async def update_registered(request: Request) -> dict[str, Any]:
    database, limit_id = identity_of(request).database, request.params["registered_limit_id"]
    return _registered(request, await limits.update_registered(database, limit_id, request.body))


async def drop_registered(request: Request) -> None:
    await limits.drop_registered(identity_of(request).database, request.params["registered_limit_id"])


# ---- limits


async def limit_target(request: Request) -> Target:
    """The limit of the path with its project or domain; whether it is there is told after the policy."""
    database = identity_of(request).database
    try:
        shown = _limit_view(await limits.show_limit(database, request.params["limit_id"]))
        if shown["project_id"]:
            project = await projects.show_project(database, shown["project_id"])
            shown["project"] = {"id": project["id"], "domain_id": project["domain_id"]}
        else:
            shown["domain"] = {"id": shown["domain_id"]}
    except NotFound:
        return target()
    return target(limit=shown)


async def list_limits(request: Request) -> dict[str, Any]:
    """Everybody's limits for operators and services, else those of the own domain or project."""
    identity, caller = identity_of(request), request.context
    page = page_of(request, (*_ABOUT, "project_id", "domain_id"))
    if caller.system or {"admin", "service"} & set(caller.roles):
        found = await limits.list_limits(identity.database, page)
    elif caller.domain_id or caller.project_id:
        domain_id, project_id = caller.domain_id, caller.project_id
        found = await limits.list_limits(identity.database, page, domain_id=domain_id, project_id=project_id)
    else:
        found = [], False
    return collection(request, "limits", found, _limit_view)


def _limit(request: Request, row: Row) -> dict[str, Any]:
    return {"limit": member(request, "limits", _limit_view(row))}


async def show_limit(request: Request) -> dict[str, Any]:
    return _limit(request, await limits.show_limit(identity_of(request).database, request.params["limit_id"]))


async def create_limits(request: Request) -> dict[str, Any]:
    identity = identity_of(request)
    model = identity.settings.enforcement_model
    rows = await limits.create_limits(identity.database, model, request.body["limits"])
    return _made(request, "limits", [_limit_view(row) for row in rows])


async def update_limit(request: Request) -> dict[str, Any]:
    identity, limit_id = identity_of(request), request.params["limit_id"]
    require_same_id(request, limit_id)
    model = identity.settings.enforcement_model
    return _limit(request, await limits.update_limit(identity.database, model, limit_id, request.body))


async def drop_limit(request: Request) -> None:
    await limits.drop_limit(identity_of(request).database, request.params["limit_id"])


async def show_model(request: Request) -> dict[str, Any]:
    name = identity_of(request).settings.enforcement_model
    return {"model": {"name": name, "description": limits.MODELS[name]}}


_REGISTERED, _LIMIT = "/registered_limits/{registered_limit_id}", "/limits/{limit_id}"
ROUTES = [
    Route(
        "GET /registered_limits", list_registered, policy="identity:list_registered_limits", query=listing(*_ABOUT)
    ),
    Route(
        "POST /registered_limits", register, policy="identity:create_registered_limits",
        body=REGISTERED_LIMITS_CREATE, ok=201,
    ),
    Route(f"GET {_REGISTERED}", show_registered, policy="identity:get_registered_limit"),
    Route(
        f"PATCH {_REGISTERED}", update_registered, policy="identity:update_registered_limit",
        body=REGISTERED_LIMIT_UPDATE,
    ),
    Route(f"DELETE {_REGISTERED}", drop_registered, policy="identity:delete_registered_limit", ok=204),
    Route("GET /limits/model", show_model, policy="identity:get_limit_model"),
    Route(
        "GET /limits", list_limits, policy="identity:list_limits", query=listing(*_ABOUT, "project_id", "domain_id")
    ),
    Route("POST /limits", create_limits, policy="identity:create_limits", body=LIMITS_CREATE, ok=201),
    Route(f"GET {_LIMIT}", show_limit, policy="identity:get_limit", target=limit_target),
    Route(f"PATCH {_LIMIT}", update_limit, policy="identity:update_limit", body=LIMIT_UPDATE),
    Route(f"DELETE {_LIMIT}", drop_limit, policy="identity:delete_limit", ok=204),
]  # fmt: skip

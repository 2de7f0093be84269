# SPDX-License-Identifier: Apache-2.0
"""Server groups. Source: Compute API reference, "Server groups"."""

from __future__ import annotations

from typing import Any, Final

from cumulet.compute.api.targets import group
from cumulet.compute.logic import groups
from cumulet.compute.schemas import NAME, PAGE_LIMIT, POSITIVE, STRICT, STRICT_ALL, WORD
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Body, Field, Out, Param, Query, Request, Route, View
from cumulet.kernel.http.fields import Schema, record

GROUP: Final = View(
    Out("id"), Out("name"), Out("policies", lambda row: [row["policy"]], until="2.63"),
    Out("metadata", lambda row: {}, until="2.63"), Out("policy", since="2.64"), Out("rules", since="2.64"),
    Out("members"), Out("project_id", since="2.13"), Out("user_id", since="2.13"),
)  # fmt: skip


async def _shown(request: Request, rows: list[Row]) -> list[dict[str, Any]]:
    members = await groups.members_of(request.service, [row["id"] for row in rows])
    return [request.render(GROUP, {**row, "members": members[row["id"]]}) for row in rows]


async def index(request: Request) -> dict[str, Any]:
    everybody = "all_projects" in request.query and request.context.is_admin
    if everybody:
        request.enforce("os_compute_api:os-server-groups:index:all_projects")
    most = request.service.settings.max_limit
    limit = min(int(request.query.get("limit") or most), most)
    project = None if everybody else request.context.project_id or ""
    rows = await groups.find(request.service, project, limit, int(request.query.get("offset", 0)))
    return {"server_groups": await _shown(request, rows)}


async def create(request: Request) -> dict[str, Any]:
    body = request.body
    policy = body["policies"][0] if "policies" in body else body["policy"]
    rules = {name: int(value) for name, value in body.get("rules", {}).items()}
    if rules and policy != "anti-affinity":
        raise Invalid("Only anti-affinity policy supports rules.")
    row = await groups.create(request.service, request.context, body["name"], policy, rules)
    return {"server_group": (await _shown(request, [row]))[0]}


async def show(request: Request) -> dict[str, Any]:
    return {"server_group": (await _shown(request, [request.found]))[0]}


async def delete(request: Request) -> None:
    await groups.delete(request.service, request.found)


def _one(policies: list[str]) -> Schema:
    return {"type": "array", "items": {"enum": policies}, "minItems": 1, "maxItems": 1}


_HARD, _ALL = ["anti-affinity", "affinity"], ["anti-affinity", "affinity", "soft-anti-affinity", "soft-affinity"]
CREATE: Final = Body(
    "server_group",
    Field("name", NAME),
    Field("policies", _one(_HARD), until="2.14"),
    Field("policies", _one(_ALL), since="2.15", until="2.63"),
    Field("policy", {"enum": _ALL}, since="2.64"),
    Field("rules", record({"max_server_per_host": POSITIVE}), since="2.64", optional=True),
)
LIST: Final = Query(
    Param("all_projects", WORD), Param("limit", PAGE_LIMIT), Param("offset", PAGE_LIMIT), strict_since=STRICT
)
PLAIN: Final = Query(strict_since=STRICT_ALL)
_RULES, _AT = "os_compute_api:os-server-groups:", "/os-server-groups"
ROUTES: Final = [
    Route(f"GET {_AT}", index, policy=_RULES + "index", query=LIST),
    Route(f"POST {_AT}", create, body=CREATE, policy=_RULES + "create"),
    Route(f"GET {_AT}/{{group_id}}", show, policy=_RULES + "show", target=group, query=PLAIN),
    Route(f"DELETE {_AT}/{{group_id}}", delete, policy=_RULES + "delete", target=group, ok=204),
]

# SPDX-License-Identifier: Apache-2.0
"""Quotas of a project: limits, defaults, and what is used of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.kernel.http import Body, Request, Route
from cumulet.network.errors import http_bad, refuse
from cumulet.network.logic import Work
from cumulet.network.schemas.values import boolean, integer

_MAX = 2**31 - 1
_BODY = Body(None, raw={"type": "object", "properties": {"quota": {"type": "object"}}, "required": ["quota"]})


def _enforce(request: Request, rule: str, *, own: bool = False) -> str:
    """The project of the path, if the caller may see (or change) its quota."""
    project = request.params["project_id"]
    if not (own and project == request.context.project_id):
        target = {"project_id": project, "tenant_id": project}
        if not request.policy.allows(rule, request.context, target):
            raise refuse(rule)
    return project


async def list_quotas(request: Request) -> dict[str, Any]:
    """Only projects that have limits of their own."""
    if not request.policy.allows("get_quota", request.context):
        raise refuse("get_quota")
    quota = request.service.quota
    scope = [] if request.context.is_admin else [quota.limits.c.project_id == request.context.project_id]
    rows = await request.service.database.all(select(quota.limits.c.project_id).where(*scope).distinct())
    found = []
    for row in rows:
        limits = await quota.limits_of(request.service.database, row["project_id"])
        found.append({**limits, "project_id": row["project_id"], "tenant_id": row["project_id"]})
    return {"quotas": found}


async def show_quota(request: Request) -> dict[str, Any]:
    project = _enforce(request, "get_quota", own=True)
    return {"quota": await request.service.quota.limits_of(request.service.database, project)}


async def show_default(request: Request) -> dict[str, Any]:
    _enforce(request, "get_quota", own=True)
    return {"quota": dict(request.service.quota.defaults)}


async def show_details(request: Request) -> dict[str, Any]:
    project = _enforce(request, "get_quota", own=True)
    quota, database = request.service.quota, request.service.database
    limits, used = await quota.limits_of(database, project), await quota.used_of(database, project)
    details = {name: {"limit": limits[name], "used": used.get(name, 0), "reserved": 0} for name in quota.defaults}
    return {"quota": details}


async def update_quota(request: Request) -> dict[str, Any]:
    """Set limits; one below what is used is refused unless forced."""
    project = _enforce(request, "update_quota")
    quota = request.service.quota
    wanted = dict(request.body["quota"])
    force = boolean(wanted.pop("force", False))
    for name in ("check_limit", "tenant_id", "project_id"):
        wanted.pop(name, None)
    limits = _limits(wanted, quota.defaults)

    async def body(work: Work) -> dict[str, int]:
        used = await quota.used_of(work.tx, project)
        for name, limit in limits.items():
            if not force and limit != -1 and used.get(name, 0) > limit:
                raise http_bad(
                    f"Quota limit {limit} for {name} must be greater than or equal to already used {used[name]}"
                )
            row = (quota.limits.c.project_id == project) & (quota.limits.c.resource == name)
            if not await work.tx.run(quota.limits.update().where(row).values(hard_limit=limit)):
                await work.tx.insert(quota.limits, {"project_id": project, "resource": name, "hard_limit": limit})
        found: dict[str, int] = await quota.limits_of(work.tx, project)
        return found

    return {"quota": await request.service.change(request.context, body)}


def _limits(wanted: dict[str, Any], known: dict[str, int]) -> dict[str, int]:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise http_bad(f"Unrecognized attribute(s) '{', '.join(unknown)}'")
    limits = {}
    for name, value in wanted.items():
        try:
            limits[name] = integer(-1, _MAX)(value)
        except ValueError as error:
            raise http_bad(f"Invalid input for {name}. Reason: {error}.") from None
    return limits


async def delete_quota(request: Request) -> None:
    project = _enforce(request, "delete_quota")
    quota = request.service.quota

    async def body(work: Work) -> None:
        await work.tx.run(quota.limits.delete().where(quota.limits.c.project_id == project))

    await request.service.change(request.context, body)


ROUTES = [
    Route("GET /v2.0/quotas", list_quotas, policy="get_quota", late=True),
    Route("GET /v2.0/quotas/{project_id}", show_quota, policy="get_quota", late=True),
    Route("GET /v2.0/quotas/{project_id}/default", show_default, policy="get_quota", late=True),
    Route("GET /v2.0/quotas/{project_id}/details.json", show_details, policy="get_quota", late=True),
    Route("GET /v2.0/quotas/{project_id}/details", show_details, policy="get_quota", late=True),
    Route("PUT /v2.0/quotas/{project_id}", update_quota, policy="update_quota", late=True, body=_BODY),
    Route("DELETE /v2.0/quotas/{project_id}", delete_quota, policy="delete_quota", late=True, ok=204),
]

# SPDX-License-Identifier: Apache-2.0
"""Limits of a project. Source: Compute API reference, "Limits", "Quota sets"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cumulet.compute.api.targets import project
from cumulet.compute.limits import DEFAULTS, INJECTED, NETWORK
from cumulet.compute.logic import quotas
from cumulet.compute.schemas import BOOLEAN, LIMIT, STRICT, WORD, number
from cumulet.kernel.http import Body, Field, Out, Param, Query, Request, Route, View
from cumulet.kernel.http.fields import truth


def _until(resource: str) -> str | None:
    return "2.35" if resource in NETWORK else "2.56" if resource in INJECTED else None


QUOTA: Final = View(Out("id"), *(Out(resource, until=_until(resource)) for resource in DEFAULTS))


async def show(request: Request) -> dict[str, Any]:
    return await _set(request, await quotas.limits(request.service, request.params["project_id"]))


async def _set(request: Request, values: Mapping[str, Any], *, named: bool = True) -> dict[str, Any]:
    told = {"id": request.params["project_id"], **values} if named else dict(values)
    return {"quota_set": request.render(QUOTA, told)}


async def detail(request: Request) -> dict[str, Any]:
    return await _set(request, await quotas.detail(request.service, request.params["project_id"]))


async def defaults(request: Request) -> dict[str, Any]:
    return await _set(request, request.service.quota.defaults)


async def update(request: Request) -> dict[str, Any]:
    wanted = {name: value for name, value in request.body.items() if name != "force"}
    force = truth(request.body.get("force", False))
    limits = await quotas.update(request.service, request.params["project_id"], wanted, force=force)
    return await _set(request, limits, named=False)


async def delete(request: Request) -> None:
    await quotas.delete(request.service, request.params["project_id"])


# ---- limits of the caller

_LIMITS: Final = (
    # published name, resource, until
    ("maxTotalRAMSize", "ram", None), ("maxTotalInstances", "instances", None), ("maxTotalCores", "cores", None),
    ("maxTotalKeypairs", "key_pairs", None), ("maxServerMeta", "metadata_items", None),
    ("maxImageMeta", "metadata_items", "2.38"), ("maxServerGroups", "server_groups", None),
    ("maxServerGroupMembers", "server_group_members", None), ("maxPersonality", "injected_files", "2.56"),
    ("maxPersonalitySize", "injected_file_content_bytes", "2.56"), ("maxTotalFloatingIps", "floating_ips", "2.35"),
    ("maxSecurityGroups", "security_groups", "2.35"), ("maxSecurityGroupRules", "security_group_rules", "2.35"),
)  # fmt: skip
_USED: Final = (
    ("totalRAMUsed", "ram", None), ("totalCoresUsed", "cores", None), ("totalInstancesUsed", "instances", None),
    ("totalServerGroupsUsed", "server_groups", None), ("totalFloatingIpsUsed", "floating_ips", "2.35"),
    ("totalSecurityGroupsUsed", "security_groups", "2.35"),
)  # fmt: skip
ABSOLUTE: Final = View(*(Out(name, name, until=until) for name, _, until in (*_LIMITS, *_USED)))


async def limits(request: Request) -> dict[str, Any]:
    project_id = request.context.project_id or ""
    if "tenant_id" in request.query:
        project_id = request.query["tenant_id"]
        request.enforce("os_compute_api:limits:other_project")
    have = await quotas.detail(request.service, project_id)
    told = {name: have[resource]["limit"] for name, resource, _ in _LIMITS}
    told |= {name: have[resource]["in_use"] for name, resource, _ in _USED}
    return {"limits": {"rate": [], "absolute": request.render(ABSOLUTE, told)}}


UPDATE: Final = Body(
    "quota_set",
    *(Field(resource, LIMIT, until=_until(resource), convert=number) for resource in DEFAULTS),
    Field("force", BOOLEAN),
    verb="put",
)
BY_USER: Final = Query(Param("user_id", WORD), strict_since=STRICT)
LIMITS: Final = Query(Param("tenant_id", WORD), strict_since=STRICT)
_RULES, _AT = "os_compute_api:os-quota-sets:", "/os-quota-sets/{project_id}"
ROUTES: Final = [
    Route("GET /limits", limits, policy="os_compute_api:limits", query=LIMITS),
    Route(f"GET {_AT}", show, policy=_RULES + "show", target=project, query=BY_USER),
    Route(f"GET {_AT}/detail", detail, policy=_RULES + "detail", target=project, query=BY_USER),
    Route(f"GET {_AT}/defaults", defaults, policy=_RULES + "defaults", target=project),
    Route(f"PUT {_AT}", update, body=UPDATE, policy=_RULES + "update", target=project, query=BY_USER),
    Route(f"DELETE {_AT}", delete, policy=_RULES + "delete", target=project, query=BY_USER, ok=202),
]

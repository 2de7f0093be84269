# SPDX-License-Identifier: Apache-2.0
"""Auto-allocated topology: a project asks for "a network" and gets one."""

from __future__ import annotations

from typing import Any

from cumulet.kernel.http import Request, Route
from cumulet.network.errors import refuse
from cumulet.network.logic import topology

_PATH = "/v2.0/auto-allocated-topology/{project_id}"


def _project(request: Request, rule: str) -> str:
    project = request.params["project_id"]
    if project in ("None", "null") and request.context.project_id:
        project = request.context.project_id
    if not request.policy.allows(rule, request.context, {"project_id": project, "tenant_id": project}):
        raise refuse(rule)
    return project


async def show(request: Request) -> dict[str, Any]:
    """The project's network; with ``fields=dry-run`` only whether one could be made."""
    project = _project(request, "get_auto_allocated_topology")
    if "fields=dry-run" in request.query_text:
        await topology.check(request.service)
        found = "dry-run=pass"
    else:
        found = await topology.ensure(request.service, request.context, project)
    return {"auto_allocated_topology": {"id": found, "tenant_id": project, "project_id": project}}


async def delete(request: Request) -> None:
    project = _project(request, "delete_auto_allocated_topology")
    await topology.drop(request.service, request.context, project)


ROUTES = [
    Route(f"GET {_PATH}", show, policy="get_auto_allocated_topology", late=True),
    Route(f"DELETE {_PATH}", delete, policy="delete_auto_allocated_topology", late=True, ok=204),
]

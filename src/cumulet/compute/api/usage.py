# SPDX-License-Identifier: Apache-2.0
"""How long which resources were used. Source: Compute API reference, "Usage reports"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cumulet.compute.api.links import next_links, page_size
from cumulet.compute.api.targets import project
from cumulet.compute.logic import usage
from cumulet.compute.schemas import PAGE_LIMIT, STRICT, WORD
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Param, Query, Request, Route


def _moment(text: str | None) -> float:
    if not text:
        return clock.now()
    try:
        return clock.parse_iso(text)
    except ValueError:
        raise Invalid("Datetime is in invalid format") from None


async def _rows(request: Request, project_id: str | None) -> tuple[list[Row], float, float]:
    query = request.query
    start, end = _moment(query.get("start")), _moment(query.get("end"))
    if not start < end:
        raise Invalid("Invalid start time. The start time cannot occur after the end time.")
    end = min(end, clock.now())
    paging = request.since("2.40")
    rows = await usage.active_between(
        request.service, start, end, project_id, page_size(request), query.get("marker") if paging else None
    )
    return rows, start, end


def _one(row: Row, start: float, end: float) -> dict[str, Any]:
    """The usage of one server."""
    flavor, ended = row["flavor"], row["terminated_at"]
    until = min(end, ended) if ended is not None else end
    hours = max(0.0, until - max(row["launched_at"], start)) / 3600
    return {
        "hours": hours, "flavor": flavor["name"], "instance_id": row["id"], "name": row["name"],
        "tenant_id": row["project_id"], "memory_mb": flavor["ram"], "local_gb": flavor["disk"] + flavor["ephemeral"],
        "vcpus": flavor["vcpus"], "started_at": clock.iso_micro(row["launched_at"]),
        "ended_at": None if ended is None else clock.iso_micro(ended),
        "state": "terminated" if ended is not None else row["vm_state"],
        "uptime": int((ended if ended is not None else clock.now()) - row["launched_at"]),
    }  # fmt: skip


def _sum(tenant: str, servers: list[Mapping[str, Any]], start: float, end: float, *, detailed: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "tenant_id": tenant, "start": clock.iso_micro(start), "stop": clock.iso_micro(end),
        "total_hours": float(sum(one["hours"] for one in servers)),
        "total_local_gb_usage": float(sum(one["local_gb"] * one["hours"] for one in servers)),
        "total_vcpus_usage": float(sum(one["vcpus"] * one["hours"] for one in servers)),
        "total_memory_mb_usage": float(sum(one["memory_mb"] * one["hours"] for one in servers)),
    }  # fmt: skip
    if detailed:
        told["server_usages"] = servers
    return told


async def index(request: Request) -> dict[str, Any]:
    rows, start, end = await _rows(request, None)
    detailed = request.query.get("detailed") == "1"
    by_project: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_project.setdefault(row["project_id"], []).append(_one(row, start, end))
    told = [_sum(tenant, servers, start, end, detailed=detailed) for tenant, servers in by_project.items()]
    return _paged(request, "tenant_usages", told, rows, "os-simple-tenant-usage")


async def show(request: Request) -> dict[str, Any]:
    tenant = request.params["project_id"]
    rows, start, end = await _rows(request, tenant)
    servers: list[Mapping[str, Any]] = [_one(row, start, end) for row in rows]
    told = _sum(tenant, servers, start, end, detailed=True) if servers else {}
    return _paged(request, "tenant_usage", told, rows, f"os-simple-tenant-usage/{tenant}")


def _paged(request: Request, name: str, told: Any, rows: list[Row], path: str) -> dict[str, Any]:
    answer: dict[str, Any] = {name: told}
    if request.since("2.40") and (links := next_links(request, rows, path, lambda row: str(row["id"]))):
        answer[f"{name}_links"] = links
    return answer


_PERIOD = (Param("start", WORD), Param("end", WORD), Param("detailed", WORD))
_PAGE = (Param("limit", PAGE_LIMIT, since="2.40"), Param("marker", WORD, since="2.40"))
PERIOD: Final = Query(*_PERIOD, *_PAGE, strict_since=STRICT)
_RULES = "os_compute_api:os-simple-tenant-usage:"
ROUTES: Final = [
    Route("GET /os-simple-tenant-usage", index, policy=_RULES + "list", query=PERIOD),
    Route(
        "GET /os-simple-tenant-usage/{project_id}", show, policy=_RULES + "show", target=project, query=PERIOD,
    ),
]  # fmt: skip

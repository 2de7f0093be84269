# SPDX-License-Identifier: Apache-2.0
"""Services, hypervisors and availability zones, for operators. Source: Compute API reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from cumulet.compute.api.links import page_size, paged
from cumulet.compute.logic import Compute, hosts
from cumulet.compute.models import HOSTS
from cumulet.compute.schemas import BOOLEAN, FQDN, PAGE_LIMIT, STRICT, STRICT_ALL, WORD
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid, NotFound, NotSupported
from cumulet.kernel.http import Body, Field, Out, Param, Query, Request, Route, View
from cumulet.kernel.http.fields import text, truth

# ---- services

SERVICE: Final = View(
    Out("id", "number", until="2.52"), Out("id", since="2.53"), Out("binary"), Out("host"), Out("zone"), Out("status"),
    Out("state"), Out("updated_at", "seen"), Out("disabled_reason"), Out("forced_down", since="2.11"),
)  # fmt: skip
OLD_CHANGE: Final = View(Out("host"), Out("binary"), Out("status"), Out("disabled_reason"), Out("forced_down"))


def _service(compute: Compute, row: Row) -> dict[str, Any]:
    return {**row, "state": "up" if hosts.is_up(compute, row) else "down", "seen": clock.iso_micro(row["last_seen"])}


async def list_services(request: Request) -> dict[str, Any]:
    compute: Compute = request.service
    rows = await hosts.services(compute, host=request.query.get("host"), binary=request.query.get("binary"))
    return {"services": [request.render(SERVICE, _service(compute, row)) for row in rows]}


async def change_service(request: Request) -> dict[str, Any]:
    service_id, body = request.params["service_id"], request.body
    if not ids.is_uuid(service_id):
        raise Invalid(f"Invalid uuid {service_id}")
    changes: dict[str, Any] = {}
    if "status" in body:
        if body["status"] == "enabled" and body.get("disabled_reason"):
            raise Invalid("Specifying 'disabled_reason' with status 'enabled' is invalid.")
        changes |= {"status": body["status"], "disabled_reason": body.get("disabled_reason")}
    if "forced_down" in body:
        changes["forced_down"] = truth(body["forced_down"])
    if not changes:
        raise Invalid("No updates were requested. Fields 'status' or 'forced_down' should be specified.")
    missing = NotFound(f"Service {service_id} could not be found.", kind="ServiceNotFound")
    row = await hosts.change_service(request.service, HOSTS.c.id == service_id, missing, **changes)
    return {"service": request.render(SERVICE, _service(request.service, row))}


async def change_service_by_host(request: Request) -> dict[str, Any]:
    """Until 2.52: ``PUT /os-services/enable`` and its like, with host and binary in the body."""
    action, body = request.params["service_id"], request.body
    shown: dict[str, Any] = {"host": body["host"], "binary": body["binary"]}
    changes: dict[str, Any]
    if action == "enable":
        changes = {"status": "enabled", "disabled_reason": None}
        shown["status"] = "enabled"
    elif action in ("disable", "disable-log-reason"):
        if action == "disable-log-reason" and "disabled_reason" not in body:
            raise Invalid("Missing disabled reason field")
        reason = body.get("disabled_reason") if action == "disable-log-reason" else None
        changes = {"status": "disabled", "disabled_reason": reason}
        shown |= {"status": "disabled", **({"disabled_reason": reason} if reason else {})}
    elif action == "force-down" and request.since("2.11"):
        if "forced_down" not in body:
            raise Invalid("Missing forced_down field")
        changes = {"forced_down": truth(body["forced_down"])}
        shown |= changes
    else:
        raise NotFound("Unknown action")
    where = (HOSTS.c.host == body["host"]) & (HOSTS.c.binary == body["binary"])
    missing = NotFound(f"Could not find binary {body['binary']} on host {body['host']}.", kind="HostBinaryNotFound")
    await hosts.change_service(request.service, where, missing, **changes)
    return {"service": request.render(OLD_CHANGE, shown)}


async def delete_service(request: Request) -> None:
    given = request.params["service_id"]
    if request.since("2.53"):
        if not ids.is_uuid(given):
            raise Invalid(f"Invalid uuid {given}")
        await hosts.delete_service(request.service, HOSTS.c.id == given, given)
    else:
        if not given.isdigit():
            raise Invalid(f"Invalid input received: id must be an integer, not {given[:40]!r}")
        await hosts.delete_service(request.service, HOSTS.c.number == int(given), given)


# ---- hypervisors

_BRIEF = (
    Out("id", "number", until="2.52"), Out("id", "node", since="2.53"), Out("hypervisor_hostname"), Out("state"),
    Out("status"), Out("servers"),
)  # fmt: skip
_FIGURES: Final = {
    "vcpus": "vcpus", "memory_mb": "memory_mib", "local_gb": "disk_gib", "vcpus_used": "vcpus_used",
    "memory_mb_used": "memory_mib_used", "local_gb_used": "disk_gib_used", "free_ram_mb": "memory_mib_free",
    "free_disk_gb": "disk_gib_free", "current_workload": "workload", "running_vms": "running",
    "disk_available_least": "disk_gib_free",
}  # fmt: skip
"""Published figure → what a host reports."""
BRIEF: Final = View(*_BRIEF)
HYPERVISOR: Final = View(
    *_BRIEF, Out("hypervisor_type"), Out("hypervisor_version"), Out("host_ip"), Out("service"),
    *(Out(name, source, until="2.87") for name, source in _FIGURES.items()),
    Out("cpu_info", "cpu_text", until="2.27"), Out("cpu_info", since="2.28", until="2.87"),
    Out("uptime", since="2.88"),
)  # fmt: skip
UPTIME: Final = View(*_BRIEF, Out("uptime"))


def _hypervisor(request: Request, row: Row, servers: Mapping[str, list[Row]] | None) -> dict[str, Any]:
    """The inner document of a host; ``servers`` by host, when they were asked for."""
    compute: Compute = request.service
    have = row["resources"]
    told = {
        **have,
        "number": row["number"],
        "node": row["node"],
        "hypervisor_hostname": hosts.hostname_of(row),
        "state": "up" if hosts.is_up(compute, row) else "down",
        "status": row["status"],
        "memory_mib_free": have.get("memory_mib", 0) - have.get("memory_mib_used", 0),
        "workload": 0,
        "cpu_text": have.get("cpu_info") or "",
        "cpu_info": _parsed(have.get("cpu_info")),
        "uptime": have.get("uptime") if hosts.is_up(compute, row) else None,
        "service": {
            "id": row["id"] if request.since("2.53") else row["number"], "host": row["host"],
            "disabled_reason": row["disabled_reason"],
        },
    }  # fmt: skip
    told.pop("servers", None)
    if servers is not None:
        listed = [{"name": f"instance-{one['number']:08x}", "uuid": one["id"]} for one in servers.get(row["host"], [])]
        if listed or request.since("2.75"):
            told["servers"] = listed
    return told


def _parsed(cpu_info: Any) -> Any:
    try:
        return orjson.loads(cpu_info) if cpu_info else {}
    except orjson.JSONDecodeError:
        return {"model": str(cpu_info)}


async def list_hypervisors(request: Request) -> dict[str, Any]:
    return await _hypervisors(request, BRIEF, "os-hypervisors")


async def detail_hypervisors(request: Request) -> dict[str, Any]:
    return await _hypervisors(request, HYPERVISOR, "os-hypervisors/detail")


async def _hypervisors(request: Request, table: View, path: str) -> dict[str, Any]:
    query = request.query
    pattern = query.get("hypervisor_hostname_pattern") if request.since("2.53") else None
    paging = request.since("2.33")
    if pattern is not None and ("limit" in query or "marker" in query):
        raise Invalid(
            "Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not supported."
        )  # fmt: skip
    by_number = not request.since("2.53")
    rows = await hosts.hypervisors(
        request.service, pattern=pattern, limit=page_size(request) if paging and pattern is None else None,
        marker=query.get("marker") if paging else None, by_number=by_number,
    )  # fmt: skip
    servers = None
    if truth(query.get("with_servers", False)):
        servers = await hosts.servers_on(request.service, [row["host"] for row in rows])
    shown = [request.render(table, _hypervisor(request, row, servers)) for row in rows]
    if not paging or pattern is not None:
        return {"hypervisors": shown}
    return paged(
        request, "hypervisors", shown, rows, path, lambda row: str(row["number"] if by_number else row["node"])
    )  # fmt: skip


async def show_hypervisor(request: Request) -> dict[str, Any]:
    row = await hosts.hypervisor(request.service, request.params["hypervisor_id"], by_number=not request.since("2.53"))
    servers = None
    if truth(request.query.get("with_servers", False)):
        servers = await hosts.servers_on(request.service, [row["host"]])
    return {"hypervisor": request.render(HYPERVISOR, _hypervisor(request, row, servers))}


async def show_uptime(request: Request) -> dict[str, Any]:
    row = await hosts.hypervisor(request.service, request.params["hypervisor_id"], by_number=not request.since("2.53"))
    told = _hypervisor(request, row, None)
    if told["uptime"] is None:
        raise NotSupported("The requested functionality is not supported.")
    return {"hypervisor": request.render(UPTIME, told)}


async def search_hypervisors(request: Request) -> dict[str, Any]:
    rows = await hosts.hypervisors(request.service, pattern=request.params["hypervisor_id"])
    return {"hypervisors": [request.render(BRIEF, _hypervisor(request, row, None)) for row in rows]}


async def servers_of_hypervisors(request: Request) -> dict[str, Any]:
    rows = await hosts.hypervisors(request.service, pattern=request.params["hypervisor_id"])
    servers = await hosts.servers_on(request.service, [row["host"] for row in rows])
    shown = []
    for row in rows:
        told = _hypervisor(request, row, servers)
        if not told.get("servers"):
            told.pop("servers", None)
        shown.append(request.render(BRIEF, told))
    return {"hypervisors": shown}


async def statistics(request: Request) -> dict[str, Any]:
    rows = [row for row in await hosts.hypervisors(request.service) if row["status"] == "enabled"]
    told = dict.fromkeys(_FIGURES, 0) | {"count": len(rows)}
    for row in rows:
        document = _hypervisor(request, row, None)
        for name, source in _FIGURES.items():
            told[name] += int(document.get(source) or 0)
    return {"hypervisor_statistics": told}


# ---- zones


async def list_zones(request: Request) -> dict[str, Any]:
    on, off = await hosts.zones(request.service)
    shown = [_zone(name, True, None) for name in on] + [_zone(name, False, None) for name in off]
    return {"availabilityZoneInfo": shown}


async def detail_zones(request: Request) -> dict[str, Any]:
    compute: Compute = request.service
    on, off = await hosts.zones(compute, internal=True)
    members: dict[str, dict[str, dict[str, Any]]] = {zone: {} for zone in on}
    for row in await hosts.services(compute):
        if row["status"] == "enabled":
            members[row["zone"]].setdefault(row["host"], {})[row["binary"]] = {
                "available": hosts.is_up(compute, row), "active": True, "updated_at": clock.iso_micro(row["last_seen"]),
            }  # fmt: skip
    shown = [_zone(name, True, members[name]) for name in on]
    return {"availabilityZoneInfo": shown + [_zone(name, False, None) for name in off]}


def _zone(name: str, available: bool, members: Any) -> dict[str, Any]:
    return {"zoneName": name, "zoneState": {"available": available}, "hosts": members}


_REASON = text(1, 255)
BY_HOST: Final = Body(
    None,
    Field("host", FQDN),
    Field("binary", text(1, 255)),
    Field("disabled_reason", _REASON, optional=True),
    Field("forced_down", BOOLEAN, since="2.11", optional=True),
)
CHANGE: Final = Body(
    None,
    Field("status", {"enum": ["enabled", "disabled"]}),
    Field("disabled_reason", _REASON),
    Field("forced_down", BOOLEAN),
    verb="put",
)
SERVICES: Final = Query(Param("host", WORD), Param("binary", WORD), strict_since=STRICT)
_PAGE = (Param("limit", PAGE_LIMIT, since="2.33"), Param("marker", WORD, since="2.33"))
_WITH = Param("with_servers", BOOLEAN, since="2.53")
HYPERVISORS: Final = Query(
    *_PAGE, Param("hypervisor_hostname_pattern", text(1, 255), since="2.53"), _WITH, strict_since="2.53"
)
ONE: Final = Query(_WITH, strict_since="2.53")
PLAIN: Final = Query(strict_since=STRICT_ALL)

_SERVICES, _HYPERVISORS = "os_compute_api:os-services:", "os_compute_api:os-hypervisors:"
_AT = "/os-hypervisors"
ROUTES: Final = [
    Route("GET /os-services", list_services, policy=_SERVICES + "list", query=SERVICES),
    Route(
        "PUT /os-services/{service_id}", change_service_by_host, until="2.52", body=BY_HOST, policy=_SERVICES + "update"
    ),
    Route("PUT /os-services/{service_id}", change_service, since="2.53", body=CHANGE, policy=_SERVICES + "update"),
    Route("DELETE /os-services/{service_id}", delete_service, policy=_SERVICES + "delete", ok=204),
    Route(f"GET {_AT}", list_hypervisors, policy=_HYPERVISORS + "list", query=HYPERVISORS),
    Route(f"GET {_AT}/detail", detail_hypervisors, policy=_HYPERVISORS + "list-detail", query=HYPERVISORS),
    Route(f"GET {_AT}/statistics", statistics, until="2.87", policy=_HYPERVISORS + "statistics"),
    Route(f"GET {_AT}/{{hypervisor_id}}", show_hypervisor, policy=_HYPERVISORS + "show", query=ONE),
    Route(f"GET {_AT}/{{hypervisor_id}}/uptime", show_uptime, until="2.87", policy=_HYPERVISORS + "uptime"),
    Route(f"GET {_AT}/{{hypervisor_id}}/search", search_hypervisors, until="2.52", policy=_HYPERVISORS + "search"),
    Route(
        f"GET {_AT}/{{hypervisor_id}}/servers", servers_of_hypervisors, until="2.52", policy=_HYPERVISORS + "servers"
    ),
    Route("GET /os-availability-zone", list_zones, policy="os_compute_api:os-availability-zone:list", query=PLAIN),
    Route(
        "GET /os-availability-zone/detail", detail_zones, policy="os_compute_api:os-availability-zone:detail",
        query=PLAIN,
    ),
]  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""Servers: create, list, show, change, delete. Source: Compute API reference, "Servers"."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, Final

from cumulet.compute.api import server_view as view
from cumulet.compute.api.links import links_of, page_size, paged
from cumulet.compute.api.targets import server as found_server
from cumulet.compute.logic import Compute, create, hosts, listing, operations, servers
from cumulet.compute.schemas import (
    BASE64,
    BOOLEAN,
    DATE,
    DESCRIPTION,
    DEVICE_TAGGED,
    DEVICE_TYPED,
    DEVICE_V1,
    DEVICE_V2,
    DISK_CONFIG,
    FQDN,
    HOSTNAME,
    IP,
    IPV4,
    IPV6,
    METADATA,
    NAME,
    PAGING,
    POSITIVE,
    REGEX,
    STRICT,
    STRICT_ALL,
    TAG,
    TAGS,
    UUID,
    WORD,
    number,
)
from cumulet.compute.states import states_of
from cumulet.kernel import clock, trace
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Forbidden, Invalid
from cumulet.kernel.http import Answer, Body, Field, Param, Query, Request, Route
from cumulet.kernel.http.fields import Schema, array, nullable, record, text, truth

# ---- the body of create: the versions in which its harder members change


def _networks(uuid: Schema, *, tag: bool, words: bool) -> Schema:
    item = {"fixed_ip": IP, "port": nullable(UUID), "uuid": uuid, **({"tag": TAG} if tag else {})}
    listed = array(record(item))
    return {"oneOf": [listed, {"enum": ["none", "auto"]}]} if words else listed


def _address(text: str) -> str:
    """An address in its shortest form."""
    return str(ipaddress.ip_address(text))


_HINTS: Final[Schema] = {
    "type": "object",
    "properties": {
        "group": {"oneOf": [array(UUID), UUID]},
        "different_host": {"oneOf": [UUID, array(UUID)]},
        "same_host": {"type": ["string", "array"], "items": UUID},
        "query": {"type": ["string", "object"]},
        "build_near_host_ip": IP,
        "cidr": text(0, 64, pattern="^/[0-9a-f.:]+$"),
    },
    "additionalProperties": True,
}
_FILES: Final = array(record({"path": WORD, "contents": {"type": "string", "format": "base64"}}))
_CERTS: Final[Schema] = {
    "type": ["array", "null"], "minItems": 1, "maxItems": 50, "uniqueItems": True, "items": text(1, 255),
}  # fmt: skip

CREATE: Final = Body(
    "server",
    Field("name", NAME),
    Field("flavorRef", {"type": ["string", "integer"], "minLength": 1}),
    Field("imageRef", {"oneOf": [UUID, {"type": "string", "maxLength": 0}]}, optional=True),
    Field("adminPass", text(0, 255), optional=True),
    Field("metadata", METADATA, optional=True),
    Field("networks", _networks(WORD, tag=False, words=False), until="2.31", default="any"),
    Field("networks", _networks(WORD, tag=True, words=False), since="2.32", until="2.36", default="any"),
    Field("networks", _networks(UUID, tag=False, words=True), since="2.37", until="2.41"),
    Field("networks", _networks(UUID, tag=True, words=True), since="2.42"),
    Field("OS-DCF:diskConfig", DISK_CONFIG, optional=True, inner="disk_config"),
    Field("accessIPv4", IPV4, optional=True, inner="access_ip_v4", convert=_address),
    Field("accessIPv6", IPV6, optional=True, inner="access_ip_v6", convert=_address),
    Field("personality", _FILES, until="2.56", optional=True),
    Field("availability_zone", NAME, optional=True),
    Field("block_device_mapping", array(record(DEVICE_V1)), optional=True),
    Field("block_device_mapping_v2", array(record(DEVICE_V2)), until="2.31", optional=True),
    Field("block_device_mapping_v2", array(record(DEVICE_TAGGED)), since="2.32", until="2.32", optional=True),
    Field("block_device_mapping_v2", array(record(DEVICE_V2)), since="2.33", until="2.41", optional=True),
    Field("block_device_mapping_v2", array(record(DEVICE_TAGGED)), since="2.42", until="2.66", optional=True),
    Field("block_device_mapping_v2", array(record(DEVICE_TYPED)), since="2.67", optional=True),
    Field("config_drive", BOOLEAN, optional=True),
    Field("key_name", NAME, optional=True),
    Field("min_count", POSITIVE, optional=True, convert=number),
    Field("max_count", POSITIVE, optional=True, convert=number),
    Field("return_reservation_id", BOOLEAN, optional=True),
    Field("security_groups", array(record({"name": NAME})), optional=True),
    Field("user_data", BASE64, optional=True),
    Field("description", DESCRIPTION, since="2.19", optional=True),
    Field("tags", TAGS, since="2.52", optional=True),
    Field("trusted_image_certificates", _CERTS, since="2.63", optional=True),
    Field("host", FQDN, since="2.74", optional=True),
    Field("hypervisor_hostname", FQDN, since="2.74", optional=True),
    Field("hostname", HOSTNAME, since="2.90", until="2.93", optional=True),
    Field("hostname", FQDN, since="2.94", optional=True),
    beside=(
        Field("OS-SCH-HNT:scheduler_hints", _HINTS, inner="scheduler_hints", optional=True),
        Field("os:scheduler_hints", _HINTS, inner="scheduler_hints", optional=True),
    ),
)

UPDATE: Final = Body(
    "server",
    Field("name", NAME),
    Field("OS-DCF:diskConfig", DISK_CONFIG, inner="disk_config"),
    Field("accessIPv4", IPV4, inner="access_ip_v4", convert=_address),
    Field("accessIPv6", IPV6, inner="access_ip_v6", convert=_address),
    Field("description", DESCRIPTION, since="2.19"),
    Field("hostname", HOSTNAME, since="2.90", until="2.93"),
    Field("hostname", FQDN, since="2.94"),
    Field("pinned_availability_zone", nullable(text(1, 255)), since="2.104"),
    verb="put",
)

# ---- the query of lists

_OLD_SORT: Final = (
    "architecture", "cell_name", "cleaned", "default_ephemeral_device", "default_swap_device", "deleted",
    "deleted_at", "disable_terminate", "ephemeral_gb", "ephemeral_key_uuid", "id", "key_data", "launched_on",
    "memory_mb", "os_type", "reservation_id", "root_gb", "shutdown_terminate", "user_data", "vcpus", "vm_mode",
)  # fmt: skip
"""Sort keys that were accepted once and do nothing; refused from 2.75 on."""
_SORT: Final = tuple(sorted(set(listing.SORT) - {"locked"}))
_JOINED: Final = (
    "block_device_mapping", "services", "metadata", "system_metadata", "info_cache", "security_groups", "pci_devices",
)  # fmt: skip
_EXACT: Final = {
    "user_id": "user_id", "project_id": "project_id", "tenant_id": "project_id", "image": "image_id",
    "image_ref": "image_id", "host": "host", "uuid": "id", "launch_index": "launch_index",
}  # fmt: skip
_LIKE: Final = {
    "name": "name", "display_name": "name", "hostname": "hostname", "key_name": "key_name", "node": "node",
    "availability_zone": "availability_zone", "description": "description", "display_description": "description",
    "reservation_id": "reservation_id", "root_device_name": "root_device_name", "access_ip_v4": "access_ip_v4",
    "access_ip_v6": "access_ip_v6",
}  # fmt: skip
_ALWAYS: Final = {
    "reservation_id", "name", "status", "image", "flavor", "ip", "changes-since", "all_tenants", "sort_key",
    "sort_dir", "limit", "marker",
}  # fmt: skip
_MEMBERS: Final = (
    # since, what a caller without `allow_all_filters` may also filter by
    ("2.5", {"ip6"}),
    ("2.26", {"tags", "tags-any", "not-tags", "not-tags-any"}),
    ("2.66", {"changes-before"}),
    ("2.73", {"locked"}),
    ("2.83", {"availability_zone", "config_drive", "key_name", "created_at", "launched_at", "terminated_at",
              "power_state", "task_state", "vm_state", "progress", "user_id"}),
    ("2.90", {"hostname"}),
)  # fmt: skip


def _params() -> tuple[Param, ...]:
    exact = [*_EXACT, "vm_state", "task_state", "all_tenants", "soft_deleted", "deleted", *_JOINED]
    like = [
        *_LIKE, "kernel_id", "ramdisk_id", "power_state", "flavor", "launched_at", "terminated_at", "locked_by",
        "config_drive", "auto_disk_config", "progress", "ip", "ip6", "created_at",
    ]  # fmt: skip
    return (
        *PAGING,
        *(Param(name, WORD) for name in exact),
        *(Param(name, REGEX) for name in like),
        *(Param(name, REGEX, since="2.26") for name in ("tags", "tags-any", "not-tags", "not-tags-any")),
        Param("status", WORD, many=True),
        Param("changes-since", DATE, convert=clock.parse_iso),
        Param("changes-before", DATE, since="2.66", convert=clock.parse_iso),
        Param("locked", WORD, since="2.73"),
        Param("sort_key", {"enum": [*_SORT, "locked", *_OLD_SORT]}, until="2.74", many=True),
        Param("sort_key", {"enum": [*_SORT, "locked"]}, since="2.75", many=True),
        Param("sort_dir", WORD, many=True),
    )


LIST: Final = Query(*_params(), strict_since=STRICT)
SHOW: Final = Query(strict_since=STRICT_ALL)


def _wanted(request: Request, *, all_rule: str) -> listing.Wanted | None:
    """What the query asks for; None when nothing can match."""
    query, context = dict(request.query), request.context
    for name in [*_JOINED, *(name for name, _ in query.pop("*") if name.startswith("_"))]:
        if name in query or name.startswith("_"):
            raise Invalid(f"Invalid filter field: {name}.")
    if not request.allows("os_compute_api:servers:allow_all_filters"):
        allowed = _ALWAYS.union(*(names for since, names in _MEMBERS if request.since(since)))
        query = {name: value for name, value in query.items() if name in allowed}
    wanted = listing.Wanted(limit=page_size(request), marker=query.get("marker"))
    if not _by_state(request, query, wanted):
        return None
    _by_time(query, wanted)
    everybody = "all_tenants" in query and _truth(query["all_tenants"], "all_tenants", empty=True)
    if everybody:
        request.enforce(all_rule)
    else:
        query.pop("tenant_id", None)
        query.pop("project_id", None)
        wanted.project_id = context.project_id or ""
    _by_value(query, wanted)
    wanted.sort = _order(request, query)
    return wanted


def _by_state(request: Request, query: dict[str, Any], wanted: listing.Wanted) -> bool:
    if "status" in query:
        states, tasks = states_of(query["status"])
        if not states:
            if request.since("2.38"):
                raise Invalid("Invalid status value")
            return False
        wanted.vm_states, wanted.task_states = states, tasks
        if states == {"deleted"}:
            if not request.context.is_admin:
                raise Forbidden("Only administrators may list deleted instances")
            wanted.deleted = True
    if "vm_state" in query:
        wanted.vm_states = {query["vm_state"]}
    if "task_state" in query:
        wanted.task_states = {query["task_state"]}
    if "deleted" in query:
        wanted.deleted = query["deleted"].lower() in ("true", "1", "yes", "on", "t", "y")
    elif wanted.deleted is False and ("changes-since" in query or "changes-before" in query):
        wanted.deleted = None
    return True


def _by_time(query: dict[str, Any], wanted: listing.Wanted) -> None:
    wanted.changes_since, wanted.changes_before = query.get("changes-since"), query.get("changes-before")
    if None not in (wanted.changes_since, wanted.changes_before) and wanted.changes_before < wanted.changes_since:  # type: ignore[operator]
        raise Invalid("The value of changes-since must be less than or equal to changes-before.")


def _by_value(query: dict[str, Any], wanted: listing.Wanted) -> None:
    exact: dict[str, Any] = {column: query[name] for name, column in _EXACT.items() if query.get(name)}
    for name in ("locked", "locked_by"):
        if name in query:
            exact["locked"] = _truth(query[name], name) if name == "locked" else bool(query[name])
    if "config_drive" in query:
        exact["config_drive"] = _truth(query["config_drive"], "config_drive", empty=False)
    if "power_state" in query and query["power_state"].isdigit():
        exact["power_state"] = int(query["power_state"])
    wanted.exact = exact
    wanted.like = {column: query[name] for name, column in _LIKE.items() if name in query}
    wanted.flavor = query.get("flavor")
    wanted.addresses = [query[name] for name in ("ip", "ip6") if query.get(name)]
    for name, field in (("tags", "tags"), ("tags-any", "tags_any"), ("not-tags", "not_tags"),
                        ("not-tags-any", "not_tags_any")):  # fmt: skip
        if name in query:
            setattr(wanted, field, query[name].split(","))


def _order(request: Request, query: dict[str, Any]) -> list[tuple[str, str]]:
    """The keys that mean something, with their directions; a caller who is no admin can't sort by host."""
    ways = [way.lower() for way in query.get("sort_dir", [])]
    if any(way not in ("asc", "desc") for way in ways):
        raise Invalid("Unknown sort direction, must be 'desc' or 'asc'.")
    found = []
    for place, key in enumerate(query.get("sort_key", [])):
        if key in ("host", "node") and not request.context.is_admin:
            raise Forbidden(f"Only administrators can sort servers by {key}")
        if key in listing.SORT and (key != "locked" or request.since("2.73")):
            found.append((key, ways[place] if place < len(ways) else ways[0] if ways else "desc"))
    return found


def _truth(value: str, name: str, *, empty: bool = False) -> bool:
    if value == "":
        return empty
    if value.lower() not in ("true", "t", "yes", "y", "on", "1", "false", "f", "no", "n", "off", "0"):
        raise Invalid(f"Unrecognized value '{value[:40]}' for {name}, acceptable values are: '0', '1', 'true', 'false'")
    return truth(value) or value.lower() == "t"


# ---- handlers


async def index(request: Request) -> dict[str, Any]:
    wanted = _wanted(request, all_rule="os_compute_api:servers:index:get_all_tenants")
    rows = await listing.find(request.service, wanted, brief=True) if wanted is not None else []
    shown = [
        {"id": row["id"], "name": row["name"], "links": links_of(request, "servers", row["id"])} for row in rows
    ]  # fmt: skip
    return paged(request, "servers", shown, rows, "servers")


async def detail(request: Request) -> dict[str, Any]:
    wanted = _wanted(request, all_rule="os_compute_api:servers:detail:get_all_tenants")
    compute: Compute = request.service
    rows = await listing.find(compute, wanted) if wanted is not None else []
    seen: dict[str, bool] = {}

    def allows(rule: str) -> bool:
        if rule not in seen:
            seen[rule] = request.allows(rule)
        return seen[rule]

    by_host: dict[str, Row] = {}
    if rows and (allows(view.EXTENDED) or allows(view.HOST_STATUS)):
        by_host = {row["host"]: row for row in await hosts.services(compute, binary=hosts.COMPUTE)}
    shown = []
    for row in rows:
        host = by_host.get(row["host"])
        document = view.document(
            request, row, volumes=listing.volumes_of(row), extra_specs=allows(view.EXTRA_SPECS),
            node_name=hosts.hostname_of(host) if host else None, host_status=hosts.status_of(compute, host),
        )  # fmt: skip
        shown.append(view.DETAIL.render(document, request.version, allows))
    return paged(request, "servers", shown, rows, "servers/detail")


async def show(request: Request) -> dict[str, Any]:
    return {"server": await whole(request, request.found, view.SHOW)}


async def whole(request: Request, row: Row, table: Any) -> dict[str, Any]:
    """One server as this caller may see it."""
    compute: Compute = request.service
    host = await servers.host_of(compute, row)
    volumes = [
        {"id": one["volume_id"], "delete_on_termination": one["delete_on_termination"]}
        for one in await servers.devices_of(compute, row["id"])
        if one["volume_id"]
    ]
    document = view.document(
        request, row, volumes=volumes, node_name=hosts.hostname_of(host) if host else None,
        host_status=hosts.status_of(compute, host),
        server_groups=[row["server_group_id"]] if row["server_group_id"] else [],
    )  # fmt: skip
    return request.render(table, document, {"project_id": row["project_id"], "user_id": row["user_id"]})


async def post(request: Request) -> Answer:
    first = trace.current()
    waiting = first.waiting if first is not None else []
    started = min((event.started_at for event in waiting), default=clock.now())
    trace.record("api.request", started=started, detail={"audit_id": request.context.audit_id})
    body = request.body
    if not request.since("2.19"):
        body["description"] = body["name"]
    asker = create.Asker(request.context, _allows(request))
    accepted = await create.create_servers(request.service, asker, body, multiattach=request.since("2.60"))
    if truth(body.get("return_reservation_id") or False):
        return Answer({"reservation_id": accepted.reservation_id})
    row = accepted.server
    links = links_of(request, "servers", row["id"])
    groups = [{"name": one["name"]} for one in accepted.security_groups] or [{"name": "default"}]
    told = {
        "id": row["id"], "links": links, "OS-DCF:diskConfig": row["disk_config"],
        "security_groups": body.get("security_groups", groups), "adminPass": accepted.password,
    }  # fmt: skip
    return Answer({"server": told}, headers={"Location": links[0]["href"]})


def _allows(request: Request) -> Callable[[str], bool]:
    target = {
        "project_id": request.context.project_id, "user_id": request.context.user_id,
        "availability_zone": request.body.get("availability_zone"),
    }  # fmt: skip
    return lambda rule: request.allows(rule, target)


async def put(request: Request) -> dict[str, Any]:
    row = await servers.update(request.service, request.context, request.found["id"], request.body)
    now = await servers.load(request.service, request.context, row["id"])
    return {"server": await whole(request, now, view.SHOW if request.since("2.75") else view.CHANGED)}


async def delete(request: Request) -> None:
    await operations.delete(request.service, request.context, request.found["id"])


ROUTES: Final = [
    Route("GET /servers", index, policy="os_compute_api:servers:index", query=LIST),
    Route("GET /servers/detail", detail, policy="os_compute_api:servers:detail", query=LIST),
    Route("POST /servers", post, body=CREATE, policy="os_compute_api:servers:create", ok=202),
    Route("GET /servers/{server_id}", show, policy="os_compute_api:servers:show", target=found_server, query=SHOW),
    Route("PUT /servers/{server_id}", put, body=UPDATE, policy="os_compute_api:servers:update", target=found_server),
    Route("DELETE /servers/{server_id}", delete, policy="os_compute_api:servers:delete", target=found_server, ok=204),
]

# SPDX-License-Identifier: Apache-2.0
"""Flavors, their extra specs and who may use the private ones. Source: Compute API reference, "Flavors"."""

from __future__ import annotations

import re
from typing import Any, Final

from cumulet.compute.api.links import links_of, page_size, paged
from cumulet.compute.logic import flavors
from cumulet.compute.schemas import (
    BOOLEAN,
    COUNT,
    NAME,
    PAGING,
    PRINTABLE,
    SIZE,
    STRICT,
    STRICT_ALL,
    WORD,
    number,
)
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Conflict, Invalid, NotFound
from cumulet.kernel.http import Body, Field, Out, Param, Query, Request, Route, View
from cumulet.kernel.http.fields import Schema, nullable, text, truth

_SPECS = "os_compute_api:os-flavor-extra-specs:"
BRIEF: Final = View(Out("id"), Out("name"), Out("links"), Out("description", since="2.55"))
FLAVOR: Final = View(
    Out("id"), Out("name"), Out("links"), Out("ram"), Out("disk"), Out("vcpus"),
    Out("swap", lambda row: row["swap"] or "", until="2.74"), Out("swap", since="2.75"),
    Out("OS-FLV-EXT-DATA:ephemeral", "ephemeral"), Out("OS-FLV-DISABLED:disabled", "disabled", until="2.101"),
    Out("os-flavor-access:is_public", "is_public"), Out("rxtx_factor", until="2.101"),
    Out("description", since="2.55"), Out("extra_specs", since="2.61", policy=_SPECS + "index"),
)  # fmt: skip


def _shown(request: Request, row: Row) -> dict[str, Any]:
    return {**row, "links": links_of(request, "flavors", row["id"])}


async def _find(request: Request) -> list[Row]:
    query = request.query
    public: bool | None = True
    if request.context.is_admin and "is_public" in query:
        public = _public(query["is_public"])
    return await flavors.find(
        request.service,
        request.context,
        public=public,
        min_ram=_count(query, "minRam"),
        min_disk=_count(query, "minDisk"),
        name=query.get("name"),
        sort_key=query.get("sort_key", "flavorid"),
        sort_dir=query.get("sort_dir", "asc"),
        limit=page_size(request),
        marker=query.get("marker"),
    )


def _public(value: str) -> bool | None:
    if value.lower() == "none":
        return None
    if value.lower() not in ("true", "t", "1", "yes", "y", "on", "false", "f", "0", "no", "n", "off"):
        raise Invalid(f"Invalid is_public filter [{value[:40]}]")
    return truth(value) or value.lower() == "t"


def _count(query: dict[str, Any], name: str) -> int | None:
    if name not in query:
        return None
    if not re.fullmatch(r"-?[0-9]{1,9}", query[name]):
        raise Invalid(f"Invalid {name} filter [{query[name][:40]}]")
    return int(query[name])


async def index(request: Request) -> dict[str, Any]:
    rows = await _find(request)
    return paged(request, "flavors", [request.render(BRIEF, _shown(request, row)) for row in rows], rows, "flavors")


async def detail(request: Request) -> dict[str, Any]:
    rows = await _find(request)
    shown = [request.render(FLAVOR, _shown(request, row)) for row in rows]
    return paged(request, "flavors", shown, rows, "flavors/detail")


async def show(request: Request) -> dict[str, Any]:
    row = await flavors.load(request.service, request.context, request.params["flavor_id"])
    return {"flavor": request.render(FLAVOR, _shown(request, row))}


async def create(request: Request) -> dict[str, Any]:
    values = dict(request.body)
    if values.get("id") is not None:
        values["id"] = str(values["id"])
    row = await flavors.create(request.service, values)
    return {"flavor": request.render(FLAVOR, _shown(request, row))}


async def update(request: Request) -> dict[str, Any]:
    row = await flavors.update(
        request.service, request.params["flavor_id"], description=request.body["description"]
    )  # fmt: skip
    return {"flavor": request.render(FLAVOR, _shown(request, row))}


async def delete(request: Request) -> None:
    await flavors.delete(request.service, request.params["flavor_id"])


# ---- extra specs


async def list_specs(request: Request) -> dict[str, Any]:
    row = await flavors.load(request.service, request.context, request.params["flavor_id"])
    return {"extra_specs": row["extra_specs"]}


async def show_spec(request: Request) -> dict[str, Any]:
    flavor_id, key = request.params["flavor_id"], request.params["key"]
    row = await flavors.load(request.service, request.context, flavor_id)
    if key not in row["extra_specs"]:
        raise flavors.spec_missing(flavor_id, key)
    return {key: row["extra_specs"][key]}


async def create_specs(request: Request) -> dict[str, Any]:
    _check_specs(request, request.body)
    await flavors.change_specs(request.service, request.params["flavor_id"], put=request.body)
    return {"extra_specs": request.body}


async def update_spec(request: Request) -> dict[str, Any]:
    _check_specs(request, request.body)
    if request.params["key"] not in request.body:
        raise Invalid("Request body and URI mismatch")
    await flavors.change_specs(request.service, request.params["flavor_id"], put=request.body)
    return request.body


async def delete_spec(request: Request) -> None:
    flavor_id, key = request.params["flavor_id"], request.params["key"]
    await flavors.change_specs(request.service, flavor_id, put={}, drop=key)


_KNOWN: Final[dict[str, str]] = {
    "hw:boot_menu": r"(?i)true|false|1|0|yes|no", "hw:cpu_cores": r"[1-9]\d*", "hw:cpu_max_cores": r"[1-9]\d*",
    "hw:cpu_max_sockets": r"[1-9]\d*", "hw:cpu_max_threads": r"[1-9]\d*",
    "hw:cpu_policy": r"dedicated|shared|mixed", "hw:cpu_sockets": r"[1-9]\d*",
    "hw:cpu_thread_policy": r"prefer|isolate|require", "hw:cpu_threads": r"[1-9]\d*",
    "hw:mem_page_size": r"(large|small|any|\d+([kKMGT]i?)?(b|bit|B)?)", "hw:numa_nodes": r"[1-9]\d*",
    "hw:watchdog_action": r"none|pause|poweroff|reset|disabled", "hw:serial_port_count": r"[0-9]\d*",
    "hw_rng:allowed": r"(?i)true|false|1|0|yes|no", "hw_rng:rate_bytes": r"\d+", "hw_rng:rate_period": r"\d+",
    "quota:cpu_shares": r"\d+", "quota:cpu_period": r"\d+", "quota:cpu_quota": r"-?\d+",
    "quota:disk_read_bytes_sec": r"\d+", "quota:disk_read_iops_sec": r"\d+", "quota:disk_total_bytes_sec": r"\d+",
    "quota:disk_total_iops_sec": r"\d+", "quota:disk_write_bytes_sec": r"\d+", "quota:disk_write_iops_sec": r"\d+",
}  # fmt: skip
"""Extra specs whose values are checked from 2.86 on."""


def _check_specs(request: Request, specs: dict[str, Any]) -> None:
    for name, value in specs.items():
        if len(str(value)) > 255:
            raise Invalid("Invalid input received: extra_specs value has more than 255 characters.")
        if not request.since("2.86"):
            continue
        pattern = _KNOWN.get(name)
        if pattern is not None and not re.fullmatch(pattern, str(value)):
            raise Invalid(f"Validation failed; Invalid input for {name}: {value!r} does not match {pattern}.")
        if pattern is None and name.split(":")[0] in ("hw", "hw_rng") and re.fullmatch(r"hw(_rng)?:\w+", name):
            raise Invalid(f"Validation failed; extra spec '{name}' does not appear to be a known extra spec.")
        if name.startswith(("trait", "resources")) and ":" in name:
            _check_placement(name, str(value))


def _check_placement(name: str, value: str) -> None:
    head, _, _ = name.partition(":")
    if head.startswith("trait") and value not in ("required", "forbidden"):
        raise Invalid(f"Validation failed; Invalid input for {name}: only 'required' and 'forbidden' are allowed.")
    if head.startswith("resources") and not value.isdigit():
        raise Invalid(f"Validation failed; Invalid input for {name}: {value!r} is not an amount.")


# ---- access


async def list_access(request: Request) -> dict[str, Any]:
    row = await flavors.load(request.service, request.context, request.params["flavor_id"])
    if row["is_public"]:
        raise NotFound("Access list not available for public flavors.")
    return await _access(request)


async def _access(request: Request) -> dict[str, Any]:
    flavor_id = request.params["flavor_id"]
    projects = await flavors.projects_of(request.service, flavor_id)
    return {"flavor_access": [{"flavor_id": flavor_id, "tenant_id": one} for one in projects]}


async def grant(request: Request) -> dict[str, Any]:
    row = await flavors.load(request.service, request.context, request.params["flavor_id"])
    if row["is_public"] and request.since("2.7"):
        raise Conflict("Can not add access to a public flavor.")
    await flavors.grant(request.service, row["id"], request.body["tenant"])
    return await _access(request)


async def revoke(request: Request) -> dict[str, Any]:
    row = await flavors.load(request.service, request.context, request.params["flavor_id"])
    await flavors.revoke(request.service, row["id"], request.body["tenant"])
    return await _access(request)


_ID: Final[Schema] = {
    "type": ["string", "number", "null"], "minLength": 1, "maxLength": 255,
    "pattern": r"^[a-zA-Z0-9._-]([a-zA-Z0-9. _-]*[a-zA-Z0-9._-])?$",
}  # fmt: skip
_FACTOR: Final[Schema] = {
    "type": ["number", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?$", "exclusiveMinimum": 0, "maximum": 3.40282e38,
}  # fmt: skip
_ABOUT: Final = nullable(text(0, 65535, pattern=PRINTABLE))
CREATE: Final = Body(
    "flavor",
    Field("name", NAME),
    Field("id", _ID, optional=True),
    Field("ram", SIZE, convert=number),
    Field("vcpus", SIZE, convert=number),
    Field("disk", COUNT, convert=number),
    Field("OS-FLV-EXT-DATA:ephemeral", COUNT, optional=True, convert=number, inner="ephemeral"),
    Field("swap", COUNT, optional=True, convert=number),
    Field("rxtx_factor", _FACTOR, until="2.101", optional=True, convert=float),
    Field("os-flavor-access:is_public", BOOLEAN, optional=True, convert=truth, inner="is_public"),
    Field("description", _ABOUT, since="2.55", optional=True),
)
UPDATE: Final = Body("flavor", Field("description", _ABOUT))
_SPEC: Final[Schema] = {
    "type": "object",
    "patternProperties": {r"^[a-zA-Z0-9\-_:. ]{1,255}$": {"type": ["string", "number"], "maxLength": 255}},
    "additionalProperties": False,
}
SPECS: Final = Body("extra_specs", raw=_SPEC)
SPEC: Final = Body(None, raw={**_SPEC, "minProperties": 1, "maxProperties": 1})
_PROJECT: Final = text(1, 255, pattern="^[a-zA-Z0-9-]*$")
_SORT: Final = sorted(flavors.SORT)
_FILTERS: Final = (Param("is_public", WORD), Param("minRam", WORD), Param("minDisk", WORD))
LIST: Final = Query(
    *PAGING, *_FILTERS, Param("sort_key", {"enum": _SORT}, until="2.101"),
    Param("sort_key", {"enum": [key for key in _SORT if key != "rxtx_factor"]}, since="2.102"),
    Param("sort_dir", {"enum": ["asc", "desc"]}), Param("name", WORD, since="2.102"), strict_since=STRICT,
)  # fmt: skip
PLAIN: Final = Query(strict_since=STRICT_ALL)

_READ, _MANAGE = "cumulet:flavors:read", "os_compute_api:os-flavor-manage:"
_ACCESS = "os_compute_api:os-flavor-access"
_AT = "/flavors/{flavor_id}"
ROUTES: Final = [
    Route("GET /flavors", index, policy=_READ, query=LIST),
    Route("GET /flavors/detail", detail, policy=_READ, query=LIST),
    Route("POST /flavors", create, body=CREATE, policy=_MANAGE + "create"),
    Route(f"GET {_AT}", show, policy=_READ, query=PLAIN),
    Route(f"PUT {_AT}", update, since="2.55", body=UPDATE, policy=_MANAGE + "update"),
    Route(f"DELETE {_AT}", delete, policy=_MANAGE + "delete", ok=202),
    Route(f"GET {_AT}/os-extra_specs", list_specs, policy=_SPECS + "index", query=PLAIN),
    Route(f"POST {_AT}/os-extra_specs", create_specs, body=SPECS, policy=_SPECS + "create"),
    Route(f"GET {_AT}/os-extra_specs/{{key}}", show_spec, policy=_SPECS + "show", query=PLAIN),
    Route(f"PUT {_AT}/os-extra_specs/{{key}}", update_spec, body=SPEC, policy=_SPECS + "update"),
    Route(f"DELETE {_AT}/os-extra_specs/{{key}}", delete_spec, policy=_SPECS + "delete"),
    Route(f"GET {_AT}/os-flavor-access", list_access, policy=_ACCESS, query=PLAIN),
    Route(
        f"POST {_AT}/action#addTenantAccess", grant, body=Body("addTenantAccess", Field("tenant", _PROJECT)),
        policy=_ACCESS + ":add_tenant_access",
    ),
    Route(
        f"POST {_AT}/action#removeTenantAccess", revoke, body=Body("removeTenantAccess", Field("tenant", _PROJECT)),
        policy=_ACCESS + ":remove_tenant_access",
    ),
]  # fmt: skip

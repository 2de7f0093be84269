# SPDX-License-Identifier: Apache-2.0
"""Volume types and their extra specs over HTTP."""

from __future__ import annotations

from typing import Any

from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid, NotFound
from cumulet.kernel.http import Request, View
from cumulet.volume.logic import Volume
from cumulet.volume.logic import types as logic
from cumulet.volume.schemas import CHANGED_TYPE, NEW_TYPE, TYPE

_SENSITIVE = "volume_extension:types_extra_specs:read_sensitive"


async def target(request: Request) -> None:
    """Load the type of the path, by id (``default``: the default type)."""
    volume: Volume = request.service
    asked = request.params["type_id"]
    request.found = await logic.find(volume, request.context, volume.default_type if asked == "default" else asked)


def _view(request: Request, row: Row, view: View = TYPE) -> dict[str, Any]:
    return request.render(view, {**row, "extra_specs": _specs(request, row)})


def _specs(request: Request, row: Row) -> dict[str, str]:
    """What the caller may see of a type's extra specs."""
    specs: dict[str, str] = row["extra_specs"]
    if request.allows(_SENSITIVE):
        return specs
    return {name: value for name, value in specs.items() if name in logic.VISIBLE_SPECS}


async def index(request: Request) -> dict[str, Any]:
    rows = await logic.list_types(request.service, request.context)
    return {"volume_types": [_view(request, row) for row in rows]}


async def show(request: Request) -> dict[str, Any]:
    return {"volume_type": _view(request, request.found)}


async def create(request: Request) -> dict[str, Any]:
    body = request.body
    if not body["name"].strip():
        raise Invalid("Volume type name can not be empty.")
    row = await logic.create(
        request.service,
        body["name"].strip(),
        body.get("description"),
        body.get("is_public", True),
        body.get("extra_specs") or {},
    )
    return {"volume_type": _view(request, row, NEW_TYPE)}


async def update(request: Request) -> dict[str, Any]:
    body = {name: value for name, value in request.body.items() if name != "name" or value is not None}
    if "name" in body and not body["name"].strip():
        raise Invalid("Volume type name can not be empty.")
    row = await logic.update(request.service, request.found, **body)
    return {"volume_type": _view(request, row, CHANGED_TYPE)}


async def delete(request: Request) -> None:
    await logic.remove(request.service, request.found)


async def access(request: Request) -> dict[str, Any]:
    projects = await logic.projects_of(request.service, request.found)
    return {"volume_type_access": [{"volume_type_id": request.found["id"], "project_id": one} for one in projects]}


async def grant(request: Request) -> None:
    await logic.grant(request.service, request.found, request.body["project"])


async def revoke(request: Request) -> None:
    await logic.revoke(request.service, request.found, request.body["project"])


async def specs(request: Request) -> dict[str, Any]:
    return {"extra_specs": _specs(request, request.found)}


async def spec(request: Request) -> dict[str, Any]:
    key, found = request.params["key"], _specs(request, request.found)
    if key not in found:
        raise NotFound(f"Volume Type {request.found['id']} has no extra specs with key {key}.")
    return {key: found[key]}


async def set_specs(request: Request) -> dict[str, Any]:
    merged = {**request.found["extra_specs"], **request.body["extra_specs"]}
    await logic.update(request.service, request.found, extra_specs=merged)
    return {"extra_specs": request.body["extra_specs"]}


async def set_spec(request: Request) -> dict[str, Any]:
    key = request.params["key"]
    if set(request.body) != {key} or not isinstance(request.body[key], str):
        raise Invalid("Request body and URI mismatch")
    merged = {**request.found["extra_specs"], key: request.body[key]}
    await logic.update(request.service, request.found, extra_specs=merged)
    return {key: request.body[key]}


async def delete_spec(request: Request) -> None:
    key = request.params["key"]
    left = dict(request.found["extra_specs"])
    if key not in left:
        raise NotFound(f"Volume Type {request.found['id']} has no extra specs with key {key}.")
    del left[key]
    await logic.update(request.service, request.found, extra_specs=left)

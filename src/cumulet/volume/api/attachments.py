# SPDX-License-Identifier: Apache-2.0
"""Attachments over HTTP (from 3.27)."""

from __future__ import annotations

from typing import Any

from cumulet.kernel.errors import Forbidden
from cumulet.kernel.http import Request, View
from cumulet.volume.api.paging import page_of
from cumulet.volume.logic import Volume
from cumulet.volume.logic import attachments as logic
from cumulet.volume.logic import lists as lists_logic
from cumulet.volume.logic import volumes as volumes_logic
from cumulet.volume.models import ATTACHMENTS
from cumulet.volume.schemas import ATTACHMENT, ATTACHMENT_FILTERS, ATTACHMENT_SUMMARY


async def target(request: Request) -> dict[str, Any]:
    """Load the attachment of the path; it must be one that the caller may see."""
    request.found = await logic.load(request.service, request.context, request.params["attachment_id"])
    return {"project_id": request.found["project_id"]}


async def create(request: Request) -> dict[str, Any]:
    volume: Volume = request.service
    body = request.body
    if body.get("id") and not request.context.is_service:
        raise Forbidden("Only a service may choose the id of an attachment.")
    logic.ensure_own(request.context, body.get("connector"))
    row = await volumes_logic.load(volume, request.context, body["volume_uuid"])
    request.enforce("volume:attachment_create", {"project_id": row["project_id"]})
    if row["multiattach"] and row["bootable"] and row["status"] == "in-use":
        request.enforce("volume:multiattach_bootable_volume", {"project_id": row["project_id"]})
    made = await logic.reserve(
        volume, row, instance=body.get("instance_uuid"), mode=body.get("mode"), attachment_id=body.get("id")
    )
    if body.get("connector"):
        made = await logic.connect(volume, made, body["connector"])
    return {"attachment": request.render(ATTACHMENT, made)}


async def show(request: Request) -> dict[str, Any]:
    return {"attachment": request.render(ATTACHMENT, request.found)}


async def index(request: Request) -> dict[str, Any]:
    return await _list(request, ATTACHMENT_SUMMARY)


async def detail(request: Request) -> dict[str, Any]:
    return await _list(request, ATTACHMENT)


async def _list(request: Request, view: View) -> dict[str, Any]:
    page = page_of(request, ATTACHMENT_FILTERS)
    rows, _ = await lists_logic.list_rows(request.service, request.context, ATTACHMENTS, page)
    return {"attachments": [request.render(view, row) for row in rows]}


async def update(request: Request) -> dict[str, Any]:
    logic.ensure_own(request.context, request.body["connector"])
    row = await logic.connect(request.service, request.found, request.body["connector"])
    return {"attachment": request.render(ATTACHMENT, row)}


async def complete(request: Request) -> None:
    await logic.complete(request.service, request.found)


async def delete(request: Request) -> dict[str, Any]:
    left = await logic.remove(request.service, request.context, request.found)
    return {"attachments": [request.render(ATTACHMENT_SUMMARY, row) for row in left]}

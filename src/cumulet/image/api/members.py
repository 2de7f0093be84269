# SPDX-License-Identifier: Apache-2.0
"""Members of shared images over HTTP."""

from __future__ import annotations

from typing import Any

from cumulet.image.logic import images as image_logic
from cumulet.image.logic import members as logic
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Forbidden, Invalid, NotFound
from cumulet.kernel.http import Request

STATUSES = ("pending", "accepted", "rejected")


def view(member: Row) -> dict[str, Any]:
    return {
        "member_id": member["member_id"],
        "image_id": member["image_id"],
        "status": member["status"],
        "created_at": clock.iso_z(member["created_at"]),
        "updated_at": clock.iso_z(member["updated_at"]),
        "schema": "/v2/schemas/member",
    }


async def create(request: Request) -> dict[str, Any]:
    if "member" not in request.body:
        raise Invalid("Member to be added not specified")
    member = request.body["member"]
    if not isinstance(member, str) or not member:
        raise Invalid("Member can't be empty")
    if len(member) > 255:
        raise Invalid("Member is longer than 255 characters")
    logic.check_shared(request.found, "Not allowed to create members for image {}.")
    return view(await logic.add(request.service, request.found, member))


async def index(request: Request) -> dict[str, Any]:
    words = "Not allowed to list members for image {}: Only shared images have members."
    logic.check_shared(request.found, words)
    rows = await logic.list_members(request.service, request.context, request.found)
    return {"members": [view(row) for row in rows], "schema": "/v2/schemas/members"}


async def show(request: Request) -> dict[str, Any]:
    return view(await _member(request))


async def update(request: Request) -> dict[str, Any]:
    """Only the member itself (or admin) says what it makes of the offer."""
    if "status" not in request.body:
        raise Invalid("Status not specified")
    status = request.body["status"]
    logic.check_shared(request.found, "Not allowed to update members for image {}.")
    member = await _member(request)
    request.enforce("modify_member", image_logic.target_of(request.found))
    if status not in STATUSES:
        raise Invalid('Incorrect request: Status must be "pending", "accepted" or "rejected".')
    return view(await logic.answer(request.service, member, status))


async def delete(request: Request) -> None:
    logic.check_shared(request.found, "Not allowed to delete members for image {}.")
    await logic.remove(request.service, request.found, request.params["member_id"])


async def _member(request: Request) -> Row:
    try:
        logic.check_shared(request.found)
    except Forbidden as error:
        raise NotFound(error.message) from None
    return await logic.member_of(request.service, request.context, request.found, request.params["member_id"])

# SPDX-License-Identifier: Apache-2.0
"""The cache over HTTP.

Source: the Image API reference, "Cache management".
"""

from __future__ import annotations

from typing import Any

from cumulet.image.logic import Image
from cumulet.image.logic import cache as logic
from cumulet.image.logic import images as image_logic
from cumulet.kernel.errors import Conflict, Invalid, NotFound
from cumulet.kernel.http import Request


async def index(request: Request) -> dict[str, Any]:
    entries = await logic.entries(request.service)
    cached = [
        {
            "image_id": entry["image_id"],
            "hits": entry["hits"],
            "last_accessed": entry["accessed_at"],
            "last_modified": entry["created_at"],
            "size": entry["size"],
        }
        for entry in entries
        if entry["key"] is not None
    ]
    return {"cached_images": cached, "queued_images": [one["image_id"] for one in entries if one["key"] is None]}


async def target(request: Request) -> dict[str, Any]:
    """The image of the path, if it is there; what is only left in the cache may be deleted too."""
    image: Image = request.service
    image_id = request.params["image_id"]
    try:
        request.found = await image_logic.load(image, request.context, image_id)
    except NotFound:
        known = {entry["image_id"] for entry in await logic.entries(image)}
        if request.method != "DELETE" or image_id not in known:
            raise NotFound(f"Image {image_id} not found.") from None
        return {"project_id": None, "owner": None, "visibility": "private", "member_id": None}
    return image_logic.target_of(request.found)


async def queue(request: Request) -> None:
    if request.found["status"] != "active":
        raise Invalid("Only images with status active can be targeted for queueing")
    await logic.queue(request.service, request.found["id"])


async def delete(request: Request) -> None:
    await logic.drop(request.service, [request.params["image_id"]])


async def clear(request: Request) -> None:
    chosen = request.headers.get("x-image-cache-clear-target", "").lower()
    if chosen not in ("", "cache", "queue"):
        raise Invalid("If provided 'x-image-cache-clear-target' must be 'cache', 'queue' or empty string.")
    await logic.drop(request.service, queued=chosen != "cache", cached=chosen != "queue")


async def clean(request: Request) -> None:
    await logic.clean(request.service)


async def prune(request: Request) -> dict[str, Any]:
    files, freed = await logic.prune(request.service)
    return {"total_files_pruned": files, "total_bytes_pruned": freed}


async def nodes(request: Request) -> None:
    """Caches are per machine here; no list of nodes is kept."""
    raise Conflict("Centralized caching is not enabled")

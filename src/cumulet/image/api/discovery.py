# SPDX-License-Identifier: Apache-2.0
"""What the image service offers: versions, schemas, import methods, stores, usage."""

from __future__ import annotations

from typing import Any

from cumulet.image.logic import Image
from cumulet.image.logic import images as logic
from cumulet.image.schemas import PUBLISHED
from cumulet.kernel.errors import NotFound
from cumulet.kernel.http import Request

NEWEST = 18


async def versions(request: Request) -> dict[str, Any]:
    """All versions, the newest first; each links to the same path."""
    links = [{"rel": "self", "href": f"{request.base}/v2/"}]
    return {
        "versions": [
            {"id": f"v2.{minor}", "status": "CURRENT" if minor == NEWEST else "SUPPORTED", "links": links}
            for minor in range(NEWEST, -1, -1)
        ]
    }


async def schema(request: Request) -> dict[str, Any]:
    name = request.params["name"]
    if name not in PUBLISHED:
        raise NotFound
    return PUBLISHED[name]


async def import_methods(request: Request) -> dict[str, Any]:
    image: Image = request.service
    offered = {"description": "Import methods available.", "type": "array", "value": image.config.import_methods}
    return {"import-methods": offered}


async def stores(request: Request) -> dict[str, Any]:
    image: Image = request.service
    shown = []
    for place in image.stores.values():
        store = {"id": place.id}
        if place.description:
            store["description"] = place.description
        if place is image.default:
            store["default"] = "true"
        if place.read_only:
            store["read-only"] = "true"
        shown.append(store)
    return {"stores": shown}


_KINDS = {"file": "file", "object": "s3", "swift": "swift", "rbd": "rbd", "web": "http"}
"""Our kinds of stores → what clients call them."""


async def stores_detail(request: Request) -> dict[str, Any]:
    image: Image = request.service
    shown = (await stores(request))["stores"]
    for store in shown:
        place = image.stores[store["id"]]
        store |= {"type": _KINDS[place.kind], "properties": place.properties, "weight": place.weight}
    return {"stores": shown}


async def usage(request: Request) -> dict[str, Any]:
    """What the caller's project uses of each limit."""
    image: Image = request.service
    project = request.context.project_id
    limits = await image.limits.of(project)
    used = await logic.usage(image.database, project or "")
    return {"usage": {name: {"usage": used[name], "limit": limit} for name, limit in limits.items()}}

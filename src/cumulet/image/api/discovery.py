# SPDX-License-Identifier: Apache-2.0
"""What the image service offers: versions, schemas, import methods, stores, usage."""

from __future__ import annotations

from typing import Any

from cumulet.image.logic import STORE_ID, Image
from cumulet.image.logic import images as logic
from cumulet.image.schemas import PUBLISHED
from cumulet.kernel.errors import NotFound
from cumulet.kernel.http import Request

NEWEST = 18
IMPORT_METHODS = ["glance-direct"]


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
    return {"import-methods": {"description": "Import methods available.", "type": "array", "value": IMPORT_METHODS}}


async def stores(request: Request) -> dict[str, Any]:
    return {"stores": [{"id": STORE_ID, "description": "Files of this cloud", "default": "true"}]}


async def stores_detail(request: Request) -> dict[str, Any]:
    (store,) = (await stores(request))["stores"]
    return {"stores": [{**store, "type": "file", "weight": 0, "properties": {"chunk_size": 1024 * 1024}}]}


async def usage(request: Request) -> dict[str, Any]:
    """What the caller's project uses of each limit."""
    image: Image = request.service
    used = await logic.usage(image.database, request.context.project_id or "")
    limits = {
        "image_size_total": image.config.total_mib_quota,
        "image_stage_total": -1,
        "image_count_total": image.config.count_quota,
        "image_count_uploading": -1,
    }
    return {"usage": {name: {"usage": used[name], "limit": limit} for name, limit in limits.items()}}

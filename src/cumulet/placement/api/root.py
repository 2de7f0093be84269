# SPDX-License-Identifier: Apache-2.0
"""The version document, and our own feed of changes."""

from __future__ import annotations

from typing import Any

from cumulet.kernel.http import Answer, Request, Route
from cumulet.placement import schemas
from cumulet.placement.api.answers import answer


async def show_versions(request: Request) -> Answer:
    version = {
        "id": "v1.0",
        "max_version": "1.39",
        "min_version": "1.0",
        "status": "CURRENT",
        # as published: relative, "this same URL"
        "links": [{"rel": "self", "href": ""}],
    }
    return answer(request, {"versions": [version]})


async def list_changes(request: Request) -> dict[str, Any]:
    query = request.query
    changes: dict[str, Any] = await request.service.feed.changes(
        query.get("after", 0), wait=query.get("wait", 0), limit=query.get("limit", 500)
    )
    return changes


ROUTES = [
    Route("GET /", show_versions, public=True),
    Route("GET /changes", list_changes, policy="placement:cumulet:changes:list", query=schemas.LIST_CHANGES),
]

# SPDX-License-Identifier: Apache-2.0
"""The version documents; they need no token and link to the address that the client used."""

from __future__ import annotations

from typing import Any

import orjson

from cumulet.identity.api import home
from cumulet.kernel.http import Answer, Request, Route


def _version(request: Request) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{request.base}/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


def _home(request: Request, prefix: str = "") -> Answer | None:
    """The JSON Home document, for who asks for it."""
    if not home.wanted(request.headers.get("accept", "")):
        return None
    from cumulet.identity import api  # the whole table, of which this module is a part

    return Answer(orjson.dumps(home.document(api.ROUTES, prefix)), content_type=home.MEDIA_TYPE)


async def list_versions(request: Request) -> Answer:
    if (found := _home(request, "/v3")) is not None:
        return found
    return Answer(
        {"versions": {"values": [_version(request)]}}, status=300, headers={"Location": f"{request.base}/v3/"}
    )


async def show_version(request: Request) -> Answer:
    return _home(request) or Answer({"version": _version(request)})


ROUTES = [
    Route("GET /", list_versions, public=True),
    Route("GET /v3", show_version, public=True),
]

# SPDX-License-Identifier: Apache-2.0
"""Version documents, answered without a token; their links use the address that the client used."""

from __future__ import annotations

from typing import Any, Final

from cumulet.kernel.http import Request, Route, Versions

MINIMUM: Final = "2.1"
MAXIMUM: Final = "2.104"
VERSIONS: Final = Versions("compute", MINIMUM, MAXIMUM, "X-OpenStack-Nova-API-Version")
_DOCS: Final = {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/api-ref/compute/"}
_KNOWN: Final[dict[str, dict[str, str]]] = {
    "v2": {
        "id": "v2.0", "status": "DEPRECATED", "version": "", "min_version": "", "updated": "2025-07-04T12:00:00Z",
    },
    "v2.1": {
        "id": "v2.1", "status": "CURRENT", "version": MAXIMUM, "min_version": MINIMUM,
        "updated": "2013-07-23T11:33:21Z",
    },
}  # fmt: skip


def _self(request: Request, path: str) -> dict[str, str]:
    return {"rel": "self", "href": f"{request.base}/{path}/"}


async def index(request: Request) -> dict[str, Any]:
    return {"versions": [{**told, "links": [_self(request, path)]} for path, told in _KNOWN.items()]}


def _whole(request: Request, path: str) -> dict[str, Any]:
    told = _KNOWN[path]
    kind = f"application/vnd.openstack.compute+json;version={path.removeprefix('v')}"
    return {
        "version": {
            **told, "links": [_self(request, path), _DOCS], "media-types": [{"base": "application/json", "type": kind}],
        }
    }  # fmt: skip


async def old(request: Request) -> dict[str, Any]:
    return _whole(request, "v2")


async def current(request: Request) -> dict[str, Any]:
    return _whole(request, "v2.1")


ROUTES: Final = [
    Route("GET /", index, public=True),
    Route("GET /v2", old, public=True),
    Route("GET /v2.1", current, public=True),
]

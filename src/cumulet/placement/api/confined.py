# SPDX-License-Identifier: Apache-2.0
"""What a joined host may change that calls by itself: what its own resource provider offers, and nothing else.

Invariant: every route that changes something is in this rule; a new one is
closed to hosts until `_OWN` names it. So a host that fell to somebody lies
about itself only: it neither empties another host nor takes anybody's claims.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from cumulet.kernel.errors import Forbidden
from cumulet.kernel.http import Request, Route
from cumulet.placement.logic.providers import find_provider

_ONE = "/resource_providers/{uuid}"
_OWN = {"POST /resource_providers", f"PUT {_ONE}", f"PUT {_ONE}/inventories", f"PUT {_ONE}/traits"}
"""What a host does when it reports."""
_READING = ("GET", "HEAD")


def confined(routes: Iterable[Route]) -> list[Route]:
    """The same routes, closed to joined hosts as said above."""
    return [
        one if one.method in _READING else replace(one, target=_own if one.at in _OWN else _closed) for one in routes
    ]


async def _closed(request: Request) -> dict[str, Any]:
    if (host := request.context.host) is not None:
        raise Forbidden(f"Host {host} can't change this.")
    return {}


async def _own(request: Request) -> dict[str, Any]:
    """Raise Forbidden where a host names a provider, now or from now on, that is not itself."""
    if (host := request.context.host) is None:
        return {}
    sent = request.sent if isinstance(request.sent, dict) else {}
    names = [sent["name"]] if "name" in sent else []
    if "uuid" in request.params:
        names.append((await find_provider(request.service.database, request.params["uuid"]))["name"])
    if set(map(str, names)) - {host} or sent.get("parent_provider_uuid") is not None:
        raise Forbidden(f"Host {host} can't change the resource provider of anybody else.")
    return {}

# SPDX-License-Identifier: Apache-2.0
"""Why a server got its host, or none (our own addition): what insight asks for and shows with hosts' names hidden."""

from __future__ import annotations

from typing import Any

from cumulet.compute.api.targets import server_ever
from cumulet.kernel.http import Request, Route


async def why(request: Request) -> dict[str, Any]:
    """The scheduler's account of the server's last selection, and its fault."""
    fault = request.found["fault"]
    told = {key: fault.get(key) for key in ("code", "message", "details")} if fault else None
    return {"why": request.found["why"] or {}, "fault": told}


ROUTES = [
    Route("GET /cumulet/servers/{server_id}/why", why, policy="cumulet:servers:why", target=server_ever),
]

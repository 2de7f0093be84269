# SPDX-License-Identifier: Apache-2.0
"""What policies are about: each loader finds the object of a route, or says that it is not there."""

from __future__ import annotations

from cumulet.compute.logic import groups, servers
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Request
from cumulet.kernel.policy import Target


async def server(request: Request) -> Target:
    """The server of the path, as ``request.found``."""
    request.found = await servers.load(request.service, request.context, request.params["server_id"])
    return {"project_id": request.found["project_id"], "user_id": request.found["user_id"]}


async def server_ever(request: Request) -> Target:
    """The same, and from 2.21 on deleted ones too."""
    deleted = request.since("2.21")
    request.found = await servers.load(request.service, request.context, request.params["server_id"], deleted=deleted)
    return {"project_id": request.found["project_id"], "user_id": request.found["user_id"]}


async def group(request: Request) -> Target:
    request.found = await groups.load(request.service, request.context, request.params["group_id"])
    return {"project_id": request.found["project_id"], "user_id": request.found["user_id"]}


async def project(request: Request) -> Target:
    """The project that the path names."""
    return {"project_id": request.params["project_id"]}


async def key_owner(request: Request) -> Target:
    """Whose key pairs: the caller's, or (2.10) those of the user that an admin names."""
    owner = request.context.user_id
    if request.since("2.10"):
        from urllib.parse import parse_qs

        named = parse_qs(request.query_text).get("user_id", [])
        body = request.sent.get("keypair") if isinstance(request.sent, dict) else None
        if isinstance(body, dict) and "user_id" in body:
            named = [body["user_id"]]
        if named:
            if not isinstance(named[0], str):
                raise Invalid("Invalid input for field/attribute user_id.")
            owner = named[0]
    request.found = owner
    return {"user_id": owner}

# SPDX-License-Identifier: Apache-2.0
"""The compute service as the others see it: servers to look at, and what to tell it about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from cumulet.client.session import ServiceSession

_VERSION = "2.104"


class Server(msgspec.Struct, frozen=True, rename={
    "project_id": "tenant_id", "vm_state": "OS-EXT-STS:vm_state", "task_state": "OS-EXT-STS:task_state",
    "power_state": "OS-EXT-STS:power_state", "host": "OS-EXT-SRV-ATTR:host",
    "availability_zone": "OS-EXT-AZ:availability_zone", "volumes": "os-extended-volumes:volumes_attached",
}):  # fmt: skip
    """One server; ``host`` is seen by services and administrators only."""

    id: str
    name: str
    status: str
    project_id: str
    user_id: str
    vm_state: str = ""
    task_state: str | None = None
    power_state: int = 0
    host: str | None = None
    availability_zone: str = ""
    metadata: dict[str, str] = {}
    tags: list[str] = []
    flavor: dict[str, Any] = {}
    addresses: dict[str, list[dict[str, Any]]] = {}
    volumes: list[dict[str, Any]] = []
    fault: dict[str, Any] | None = None
    created: str = ""
    updated: str = ""


class ServerEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened to a server outside compute, e.g. ``network-vif-plugged`` of the port ``tag``."""

    name: str
    server_uuid: str
    tag: str | None = None
    status: str | None = None


class ComputeClient:
    """Typed calls of the compute API. ``as_service`` sends the service's own token alone."""

    def __init__(self, session: ServiceSession) -> None:
        self._session = session

    async def server(self, server_id: str, *, as_service: bool = False) -> Server:
        """One server; raises NotFound."""
        told = await self._call("GET", f"/servers/{quote(server_id, safe='')}", as_service=as_service)
        return msgspec.convert(told["server"], Server)

    async def servers(self, *, as_service: bool = False, **filters: str) -> list[Server]:
        """All servers that the caller sees and the filters let through (``all_tenants="1"`` for all projects)."""
        query, found = dict(filters), []
        while True:
            told = await self._call("GET", f"/servers/detail?{urlencode(query)}", as_service=as_service)
            found += [msgspec.convert(one, Server) for one in told["servers"]]
            if not told.get("servers_links"):
                return found
            query["marker"] = found[-1].id

    async def tell(self, events: Sequence[ServerEvent]) -> dict[str, int]:
        """Tell what happened to servers, as a service; returns server → code (404 unknown, 422 on no host yet)."""
        body = {"events": [msgspec.to_builtins(event) for event in events]}
        told = await self._call("POST", "/os-server-external-events", body, as_service=True)
        return {one["server_uuid"]: one["code"] for one in told["events"]}

    async def _call(self, method: str, path: str, json: Any = None, *, as_service: bool) -> Any:
        return await self._session.call(
            "compute", method, f"/v2.1{path}", json, version=_VERSION, as_service=as_service
        )  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""What the other services keep of a host, by their published APIs: whether it is used, and that it is forgotten.

Every function is an ensure, and asks as the service itself: an operator's
policy files can't take away half of a removal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from cumulet.client.placement import PlacementClient
from cumulet.client.session import ServiceSession
from cumulet.kernel.errors import Conflict, NotFound

_COMPUTE, _VOLUME = "nova-compute", "cinder-volume"
_MICROVERSION = "2.53"
_SHOWN = 10


@dataclass
class Records:
    """The records of hosts in compute, network, volume and placement."""

    session: ServiceSession

    async def _call(self, service: str, method: str, path: str, body: Any = None) -> Any:
        version = _MICROVERSION if service == "compute" else None
        return await self.session.call(service, method, path, body, version=version, as_service=True)

    # ---- reading

    async def computes(self, host: str | None = None) -> list[dict[str, Any]]:
        """The compute services: of one host, or all."""
        only = f"&host={quote(host, safe='')}" if host else ""
        found = await self._call("compute", "GET", f"/v2.1/os-services?binary={_COMPUTE}{only}")
        return list(found["services"])

    async def agents(self, host: str | None = None) -> list[dict[str, Any]]:
        """The network agents: of one host, or all."""
        only = f"?host={quote(host, safe='')}" if host else ""
        return list((await self._call("network", "GET", f"/v2.0/agents{only}"))["agents"])

    async def backends(self, host: str) -> list[dict[str, Any]]:
        """The volume services of a host."""
        path = f"/v3/os-services?binary={_VOLUME}&host={quote(host, safe='')}"
        return list((await self._call("block-storage", "GET", path))["services"])

    async def node(self, host: str) -> str | None:
        """The id that the host has as a hypervisor and as a resource provider."""
        found = (await self._call("compute", "GET", "/v2.1/os-hypervisors/detail"))["hypervisors"]
        return next((str(one["id"]) for one in found if one["service"]["host"] == host), None)

    async def is_known(self, host: str) -> bool:
        """Whether any service has ever heard of a host of this name."""
        return bool(await self.computes(host) or await self.agents(host) or await self.backends(host))

    async def on_it(self, host: str) -> str:
        """What is still on the host, in words; empty when nothing is."""
        path = f"/v2.1/servers?all_tenants=1&host={quote(host, safe='')}&limit={_SHOWN + 1}"
        servers = (await self._call("compute", "GET", path))["servers"]
        told = await self._call("block-storage", "GET", f"/v3/cumulet/hosts/{quote(host, safe='')}")
        kinds = {"server": servers, "volume": told["volumes"], "snapshot": told["snapshots"]}
        return "; ".join(_named(kind, found) for kind, found in kinds.items() if found)

    # ---- changing

    async def take_no_more(self, host: str, reason: str | None) -> None:
        """Have nothing new put on the host: no server, no volume, no router or DHCP server."""
        for service in await self.computes(host):
            change = {"status": "disabled", **({"disabled_reason": reason} if reason else {})}
            await self._call("compute", "PUT", f"/v2.1/os-services/{service['id']}", change)
        for backend in await self.backends(host):
            named = {"host": backend["host"], "binary": _VOLUME}
            if reason:
                await self._call(
                    "block-storage", "PUT", "/v3/os-services/disable-log-reason", {**named, "disabled_reason": reason}
                )
            else:
                await self._call("block-storage", "PUT", "/v3/os-services/disable", named)
        await self._admit(host, False)

    async def take_again(self, host: str) -> None:
        """The other way round."""
        for service in await self.computes(host):
            await self._call("compute", "PUT", f"/v2.1/os-services/{service['id']}", {"status": "enabled"})
        for backend in await self.backends(host):
            named = {"host": backend["host"], "binary": _VOLUME}
            await self._call("block-storage", "PUT", "/v3/os-services/enable", named)
        await self._admit(host, True)

    async def _admit(self, host: str, admitted: bool) -> None:
        for agent in await self.agents(host):
            change = {"agent": {"admin_state_up": admitted}}
            await self._call("network", "PUT", f"/v2.0/agents/{agent['id']}", change)

    async def forget(self, host: str, node: str | None) -> None:
        """Nothing that names the host is left. Raises Conflict when something is on it after all."""
        for service in await self.computes(host):
            await _gone_is_fine(self._call("compute", "DELETE", f"/v2.1/os-services/{service['id']}"))
        await self._call("block-storage", "DELETE", f"/v3/cumulet/hosts/{quote(host, safe='')}")
        if node is not None:
            await PlacementClient(self.session).delete_provider(node)
        await self._admit(host, False)  # else an agent that spoke just now could not be deleted
        for agent in await self.agents(host):
            await _gone_is_fine(self._call("network", "DELETE", f"/v2.0/agents/{agent['id']}"))


def _named(kind: str, found: list[dict[str, Any]]) -> str:
    shown = ", ".join(f"{one['id']} ({one['name'] or 'no name'})" for one in found[:_SHOWN])
    more = " and more" if len(found) > _SHOWN else ""
    return f"{kind}{'s' if len(found) > 1 else ''} {shown}{more}"


async def _gone_is_fine(call: Any) -> None:
    try:
        await call
    except NotFound:
        return


def refused(host: str, there: str) -> Conflict:
    """Why a host can't be removed, and what to do."""
    return Conflict(
        f"Host {host} is in use: {there}. Delete what is on it (or move it to another host) and try again; `cumulet "
        f"host maintenance {host}` keeps new servers and volumes away from it meanwhile."
    )

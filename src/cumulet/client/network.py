# SPDX-License-Identifier: Apache-2.0
"""The network service as the others see it: networks, ports and what hangs on them.

What a user asked for is done with the user's token, so the network service's
own policy decides; the binding to a host is ours alone and is written with the
service's token in a request of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from cumulet.client.session import ServiceSession
from cumulet.kernel import fences

Filter = str | bool | list[str]


class Network(msgspec.Struct, frozen=True, rename={"external": "router:external"}):
    """One network."""

    id: str
    name: str
    project_id: str
    subnets: list[str] = []
    shared: bool = False
    external: bool = False
    admin_state_up: bool = True
    status: str = ""
    mtu: int = 1500
    port_security_enabled: bool = True


class Subnet(msgspec.Struct, frozen=True):
    """One subnet."""

    id: str
    network_id: str
    project_id: str
    ip_version: int
    cidr: str
    name: str = ""
    gateway_ip: str | None = None
    enable_dhcp: bool = True
    dns_nameservers: list[str] = []
    host_routes: list[dict[str, str]] = []
    ipv6_address_mode: str | None = None
    ipv6_ra_mode: str | None = None


class Port(
    msgspec.Struct,
    frozen=True,
    rename={
        "host_id": "binding:host_id",
        "vif_type": "binding:vif_type",
        "vif_details": "binding:vif_details",
        "vnic_type": "binding:vnic_type",
        "profile": "binding:profile",
    },
):
    """One port; the binding's members are seen by services and administrators only."""

    id: str
    network_id: str
    project_id: str
    mac_address: str
    status: str
    revision_number: int
    name: str = ""
    device_id: str = ""
    device_owner: str = ""
    admin_state_up: bool = True
    fixed_ips: list[dict[str, str]] = []
    security_groups: list[str] = []
    allowed_address_pairs: list[dict[str, str]] = []
    port_security_enabled: bool = True
    vnic_type: str = "normal"
    host_id: str | None = None
    vif_type: str | None = None
    vif_details: dict[str, Any] | None = None
    profile: dict[str, Any] | None = None


class SecurityGroup(msgspec.Struct, frozen=True):
    """One security group."""

    id: str
    name: str
    project_id: str
    description: str = ""
    security_group_rules: list[dict[str, Any]] = []


class FloatingIp(msgspec.Struct, frozen=True):
    """One floating IP."""

    id: str
    project_id: str
    floating_ip_address: str
    floating_network_id: str
    status: str
    port_id: str | None = None
    fixed_ip_address: str | None = None
    router_id: str | None = None


class NetworkClient:
    """Typed calls; lists take any published filter by name, repeated where the value is a list."""

    def __init__(self, session: ServiceSession) -> None:
        self._session = session

    async def networks(self, *, as_service: bool = False, **filters: Filter) -> list[Network]:
        return await self._list("networks", Network, filters, as_service)

    async def network(self, network_id: str, *, as_service: bool = False) -> Network:
        found: Network = await self._show("networks", "network", network_id, Network, as_service)
        return found

    async def subnets(self, *, as_service: bool = False, **filters: Filter) -> list[Subnet]:
        return await self._list("subnets", Subnet, filters, as_service)

    async def ports(self, *, as_service: bool = False, **filters: Filter) -> list[Port]:
        """Ports, e.g. ``device_id=…`` or ``network_id=…, fixed_ips="ip_address=10.0.0.3"``."""
        return await self._list("ports", Port, filters, as_service)

    async def port(self, port_id: str, *, as_service: bool = False) -> Port:
        found: Port = await self._show("ports", "port", port_id, Port, as_service)
        return found

    async def create_port(self, body: Mapping[str, Any], *, fence: int | None = None, as_service: bool = False) -> Port:
        """Make a port; ``body`` may hold an ``id`` of ours and ``binding:…`` members, which users may not set.

        ``fence`` orders this among what is asked of that id (`cumulet.kernel.fences`); raises Conflict when it is late.
        """
        headers = fences.header(fence)
        binding = {name: value for name, value in body.items() if name.startswith("binding:")}
        if as_service or not binding:
            return await self._write("POST", "ports", dict(body), as_service, headers)
        own = {name: value for name, value in body.items() if name not in binding}
        port = await self._write("POST", "ports", own, False, headers)
        return await self.update_port(port.id, binding, revision=port.revision_number, as_service=True)

    async def update_port(
        self, port_id: str, body: Mapping[str, Any], *, revision: int | None = None, as_service: bool = False
    ) -> Port:
        """Change a port; with ``revision`` only that revision of it (else PreconditionFailed)."""
        headers = {"if-match": f"revision_number={revision}"} if revision is not None else None
        return await self._write("PUT", f"ports/{port_id}", dict(body), as_service, headers)

    async def delete_port(self, port_id: str, *, fence: int | None = None, as_service: bool = False) -> None:
        """Remove a port; raises NotFound. After that no request with a lower ``fence`` makes it (again)."""
        path = f"/v2.0/ports/{port_id}"
        await self._session.call("network", "DELETE", path, headers=fences.header(fence), as_service=as_service)

    async def security_groups(self, *, as_service: bool = False, **filters: Filter) -> list[SecurityGroup]:
        return await self._list("security-groups", SecurityGroup, filters, as_service)

    async def floating_ips(self, *, as_service: bool = False, **filters: Filter) -> list[FloatingIp]:
        return await self._list("floatingips", FloatingIp, filters, as_service)

    async def auto_allocated_topology(self, project_id: str, *, as_service: bool = False) -> str:
        """The id of a network that was made, or found, for a project that has none of its own."""
        path = f"/v2.0/auto-allocated-topology/{project_id}"
        told = await self._session.call("network", "GET", path, as_service=as_service)
        return str(told["auto_allocated_topology"]["id"])

    # ---- how they are sent

    async def _list(self, path: str, kind: Any, filters: Mapping[str, Filter], as_service: bool) -> list[Any]:
        pairs = [
            (name, str(one))
            for name, value in filters.items()
            for one in (value if isinstance(value, list) else [value])
        ]
        query = f"?{urlencode(pairs)}" if pairs else ""
        told = await self._session.call("network", "GET", f"/v2.0/{path}{query}", as_service=as_service)
        return msgspec.convert(told[path.replace("-", "_")], list[kind])

    async def _show(self, path: str, name: str, key: str, kind: Any, as_service: bool) -> Any:
        told = await self._session.call("network", "GET", f"/v2.0/{path}/{key}", as_service=as_service)
        return msgspec.convert(told[name], kind)

    async def _write(
        self, method: str, path: str, body: Any, as_service: bool, headers: Mapping[str, str] | None = None
    ) -> Port:
        told = await self._session.call(
            "network", method, f"/v2.0/{path}", {"port": body}, headers=headers, as_service=as_service
        )
        return msgspec.convert(told["port"], Port)

# SPDX-License-Identifier: Apache-2.0
"""A server's own record of its NICs and addresses, made from what the network service says.

No GET of a server asks another service: it shows this record, which events and
a heal loop keep true.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from cumulet.client.network import NetworkClient, Port
from cumulet.compute.models import ADDRESSES, SERVERS
from cumulet.compute.sagas.params import NetworkSlot
from cumulet.kernel.db import Transaction


async def keep_vifs(tx: Transaction, server_id: str, vifs: list[dict[str, Any]], **more: Any) -> None:
    """Make ``vifs`` the server's record, and the index of its addresses with it; ``more`` are further columns."""
    await tx.run(SERVERS.update().where(SERVERS.c.id == server_id).values(network_cache=vifs, **more))
    await tx.run(ADDRESSES.delete().where(ADDRESSES.c.server_id == server_id))
    fixed = {(vif["network_id"], one["addr"]) for vif in vifs for one in vif["addresses"] if one["type"] == "fixed"}
    for network_id, address in sorted(fixed):
        await tx.insert(ADDRESSES, {"server_id": server_id, "network_id": network_id, "address": address})


async def read_vifs(
    client: NetworkClient, server_id: str, project_id: str, slots: list[NetworkSlot]
) -> list[dict[str, Any]]:
    """The server's NICs in the order of its slots; later ones behind.

    Anybody may write anything into ``device_id`` of a port of theirs: a port of
    another project is the server's only when it was asked for.
    """
    order = {slot.port_id or slot.new_port_id: place for place, slot in enumerate(slots)}
    found = await client.ports(device_id=server_id, as_service=True)
    ports = [port for port in found if port.project_id == project_id or port.id in order]
    ports.sort(key=lambda port: (order.get(port.id, len(order)), port.id))
    tags = {slot.port_id or slot.new_port_id: slot.tag for slot in slots}
    wanted = sorted({group for port in ports for group in port.security_groups})
    groups = await client.security_groups(id=wanted, as_service=True) if wanted else []
    vifs = []
    for port in ports:
        network = await client.network(port.network_id, as_service=True)
        subnets = {subnet.id: subnet for subnet in await client.subnets(network_id=port.network_id, as_service=True)}
        named = {group.id: group.name for group in groups}
        floating = await client.floating_ips(port_id=port.id, as_service=True)
        vifs.append(
            {
                "network_id": network.id,
                "network_label": network.name,
                "port_id": port.id,
                "mac": port.mac_address,
                "mtu": network.mtu,
                "tag": tags.get(port.id),
                "status": port.status,
                "addresses": _addresses(port, floating),
                "security_groups": [{"id": one, "name": named.get(one, one)} for one in port.security_groups],
                "subnets": [
                    {
                        "id": subnet.id, "cidr": subnet.cidr, "gateway": subnet.gateway_ip,
                        "version": subnet.ip_version,
                        "dns": subnet.dns_nameservers, "dhcp": subnet.enable_dhcp, "routes": subnet.host_routes,
                    }
                    for subnet in subnets.values()
                    if subnet.id in {one["subnet_id"] for one in port.fixed_ips}
                ],
            }
        )  # fmt: skip
    return vifs


def _addresses(port: Port, floating: list[Any]) -> list[dict[str, Any]]:
    found = []
    for fixed in port.fixed_ips:
        address = fixed["ip_address"]
        version = ipaddress.ip_address(address).version
        found.append({"addr": address, "version": version, "type": "fixed", "subnet_id": fixed["subnet_id"]})
        found += [
            {"addr": one.floating_ip_address, "version": 4, "type": "floating", "fixed": address}
            for one in floating
            if one.fixed_ip_address == address
        ]
    return found

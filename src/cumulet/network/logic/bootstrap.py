# SPDX-License-Identifier: Apache-2.0
"""What a new cloud has of network: the external network, and a private one for the demo project with a router between.

Every id is derived, so each start ensures the same things and one that was
killed half-way is finished by the next; what exists is never changed back.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from sqlalchemy import select

from cumulet.kernel import ids
from cumulet.kernel.db import Duplicate
from cumulet.network import models as m
from cumulet.network.logic import Network, Values, Work, groups, networks, routers, subnets
from cumulet.network.logic.agents import NOBODY


async def bootstrap(
    net: Network, *, admin_project: str, demo_project: str | None, taken: Iterable[str] = ()
) -> dict[str, str]:
    """Ensure the first networks; returns their ids by name. One transaction, and only at the first start.

    ``taken`` are the IPv4 ranges (CIDR) that this machine has routes for.
    """
    made = {name: ids.derive_uuid("network", name) for name in ("public", "private", "router1")}
    if await net.database.first(select(m.NETWORKS.c.id).where(m.NETWORKS.c.id == made["public"])):
        return made

    async def body(work: Work) -> None:
        await _public(work, made["public"], admin_project, taken)
        if demo_project is not None:
            await _private(work, made["private"], demo_project)
            subnet_id = ids.derive_uuid("subnet", "private")
            await routers.create_connected(
                work, made["router1"], "router1", demo_project, made["public"], made["private"], subnet_id
            )
            await _open_group(work, demo_project)

    try:
        await net.change(NOBODY, body)
    except Duplicate:
        pass  # another process was first
    return made


def network_values(key: str, name: str, project: str, *, external: bool) -> Values:
    """A network as a request for it would be."""
    return {
        "id": key, "name": name, "project_id": project, "admin_state_up": True, "shared": False,
        "router:external": external, "is_default": external, "port_security_enabled": True,
        "availability_zone_hints": [],
    }  # fmt: skip


def subnet_values(key: str, network_id: str, name: str, project: str, cidr: str) -> Values:
    """An IPv4 subnet with DHCP as a request for it would be."""
    return {
        "id": key,
        "name": name, "project_id": project, "network_id": network_id,
        "ip_version": ipaddress.ip_network(cidr).version, "cidr": cidr, "enable_dhcp": True, "dns_nameservers": [],
        "host_routes": [], "ipv6_ra_mode": None, "ipv6_address_mode": None,
    }  # fmt: skip


def free_range(taken: Iterable[str]) -> str:
    """The first /24 of 172.24.4.0 … 172.24.254.0 that overlaps none of ``taken`` (CIDRs); the very first if none is."""
    used = [ipaddress.ip_network(one) for one in taken]
    ranges = [ipaddress.ip_network(f"172.24.{third}.0/24") for third in range(4, 255)]
    return str(next((one for one in ranges if not any(one.overlaps(other) for other in used)), ranges[0]))


async def _public(work: Work, key: str, project: str, taken: Iterable[str]) -> None:
    config = work.net.config
    cidr, pool = config.public_cidr, config.public_pool
    if not cidr:
        cidr = free_range(taken)
        low = ipaddress.ip_network(cidr)
        pool = pool or (str(low[10]), str(low[250]))
    flat = {"provider:network_type": networks.FLAT, "provider:physical_network": networks.PUBLIC}
    await networks.create(work, {**network_values(key, "public", project, external=True), **flat})
    subnet = subnet_values(ids.derive_uuid("subnet", "public"), key, "public-subnet", project, cidr)
    subnet["enable_dhcp"] = False
    if pool:
        subnet["allocation_pools"] = [{"start": pool[0], "end": pool[1]}]
    await subnets.create(work, subnet)


async def _private(work: Work, key: str, project: str) -> None:
    config = work.net.config
    await networks.create(work, network_values(key, "private", project, external=False))
    subnet = subnet_values(ids.derive_uuid("subnet", "private"), key, "private-subnet", project, config.private_cidr)
    subnet["dns_nameservers"] = config.dns_servers
    await subnets.create(work, subnet)


async def _open_group(work: Work, project: str) -> None:
    """The demo project's default group lets ssh and ping in."""
    group = await groups.ensure_default(work, project)
    nothing = dict.fromkeys(("port_range_min", "port_range_max", "remote_ip_prefix", "remote_group_id"))
    common = {"project_id": project, "security_group_id": group, "direction": "ingress", "ethertype": "IPv4", **nothing}
    await groups.create_rule(work, {**common, "protocol": "tcp", "port_range_min": 22, "port_range_max": 22})
    await groups.create_rule(work, {**common, "protocol": "icmp"})

# SPDX-License-Identifier: Apache-2.0
"""A network, a subnet and a router to the default external network for a project that has none, in one step.

All ids are derived from the project's, so asking twice finds the same ones.
"""

from __future__ import annotations

from sqlalchemy import select, true

from cumulet.kernel import ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Duplicate
from cumulet.kernel.errors import Conflict
from cumulet.network import models as m
from cumulet.network.errors import missing
from cumulet.network.logic import Network, Work, groups, networks, router_ports, routers, subnets
from cumulet.network.logic.bootstrap import network_values, subnet_values
from cumulet.network.logic.kinds import read


def topology_id(project_id: str) -> str:
    """The id of the network that would be made for a project."""
    return ids.derive_uuid("auto-allocated", project_id)


def _router_id(project_id: str) -> str:
    return ids.derive_uuid("auto-allocated router", project_id)


async def check(net: Network) -> str:
    """The id of the default external network; raises when there is none."""
    n = m.NETWORKS.c
    rows = await net.database.all(select(n.id).where(n.external == true(), n.is_default == true()))
    if not rows:
        raise Conflict("Deployment error: No default router:external network.", kind="AutoAllocationFailure")
    return str(rows[0]["id"])


async def ensure(net: Network, caller: Context, project_id: str) -> str:
    """The id of the project's own network, made with all that belongs to it if it is missing."""
    key = topology_id(project_id)
    if await net.database.first(select(m.NETWORKS.c.id).where(m.NETWORKS.c.id == key)):
        return key
    external = await check(net)

    async def body(work: Work) -> None:
        await groups.ensure_default(work, project_id)
        await networks.create(work, network_values(key, "auto_allocated_network", project_id, external=False))
        subnet_id = ids.derive_uuid("auto-allocated subnet", project_id)
        subnet = subnet_values(subnet_id, key, "auto_allocated_subnet_v4", project_id, net.config.auto_cidr)
        await subnets.create(work, {**subnet, "dns_nameservers": net.config.dns_servers})
        await routers.create_connected(
            work, _router_id(project_id), "auto_allocated_router", project_id, external, key, subnet_id
        )

    try:
        await net.change(caller, body)
    except Duplicate:
        pass  # another request was first
    return key


async def drop(net: Network, caller: Context, project_id: str) -> None:
    """Remove what `ensure` made; raises NetworkInUse while something uses it."""
    key, router_id = topology_id(project_id), _router_id(project_id)

    async def body(work: Work) -> None:
        n, p = m.NETWORKS.c, m.PORTS.c
        if not await work.tx.all(select(n.id).where(n.id == key)):
            raise missing("AutoAllocatedTopologyNotFound", f"No auto-allocated topology for project {project_id}.")
        for row in await router_ports.interfaces(work, router_id):
            if row["network_id"] == key:
                await networks.remove_port(work, row["port_id"], project_id)
        if await work.tx.all(select(m.ROUTERS.c.id).where(m.ROUTERS.c.id == router_id)):
            await routers.delete(work, await read(net, caller, routers.ROUTER, router_id, work.tx))
        await work.tx.run(m.ADDRESSES.delete().where(m.ADDRESSES.c.port_id.in_(
            select(p.id).where(p.network_id == key, p.device_owner == subnets.DHCP_OWNER)
        )))  # fmt: skip
        await networks.delete(work, await read(net, caller, networks.NETWORK, key, work.tx))

    await net.change(caller, body)

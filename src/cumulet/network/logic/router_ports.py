# SPDX-License-Identifier: Apache-2.0
"""The ports of routers: how they are made and what a router reaches by them.

They are ours (`models.PORTS.c.ours`): nothing that a user writes into a port makes it one of these.
"""

from __future__ import annotations

import ipaddress

from sqlalchemy import select

from cumulet.kernel.db import Row
from cumulet.network import models as m
from cumulet.network.errors import bad
from cumulet.network.logic import Values, Work
from cumulet.network.logic.addresses import subnets_of
from cumulet.network.logic.kinds import first, not_found
from cumulet.network.logic.ports import insert

INTERFACE, GATEWAY = "network:router_interface", "network:router_gateway"
no_router = not_found("RouterNotFound", "Router", " could not be found")


async def new_port(work: Work, router_id: str, network_id: str, owner: str, project_id: str) -> Values:
    """A port of the router on the host that carries it; its addresses are given by the caller."""
    d = m.DUTIES.c
    placed = await work.tx.all(select(d.host).where(d.kind == "router", d.object_id == router_id))
    row: Values = {
        **work.standard({"project_id": project_id}),
        "network_id": network_id,
        "admin_state_up": True,
        "status": "DOWN",
        "device_id": router_id,
        "device_owner": owner,
        "port_security_enabled": False,
        "allowed_address_pairs": [],
        "binding_host": placed[0]["host"] if placed else "",
        "binding_vnic_type": "normal",
        "binding_profile": {},
        "dns_name": "",
        "ours": True,
        "vif_type": "tap" if placed else "unbound",
    }
    if project_id:
        await work.net.quota.take(work.tx, project_id, {"port": 1})
    await insert(work, row, None)
    work.duties = work.duties or not placed
    return row


async def interfaces(work: Work, router_id: str) -> list[Row]:
    """(port, subnet, address) rows of the router's inside."""
    p, a, s = m.PORTS.c, m.ADDRESSES.c, m.SUBNETS.c
    statement = (
        select(p.id.label("port_id"), p.network_id, a.subnet_id, a.address, s.cidr, s.ip_version)
        .join(m.ADDRESSES, a.port_id == p.id)
        .join(m.SUBNETS, s.id == a.subnet_id)
        .where(p.device_id == router_id, p.device_owner == INTERFACE, p.ours)
    )
    return await work.tx.all(statement)


async def refuse_overlap(work: Work, router_id: str, new: list[Row], have: list[Row] | None = None) -> None:
    """A router can't tell two subnets apart that overlap."""
    known = list(await interfaces(work, router_id) if have is None else have)
    router = await first(work.tx, m.ROUTERS, router_id, no_router)
    outside = await subnets_of(work.tx, router["gateway_network_id"]) if router["gateway_network_id"] else []
    others = [(row["subnet_id"], row["cidr"]) for row in known] + [(row["id"], row["cidr"]) for row in outside]
    for subnet in new:
        network = ipaddress.ip_network(subnet["cidr"])
        for other_id, cidr in others:
            other = ipaddress.ip_network(cidr)
            if other_id != subnet["id"] and other.version == network.version and network.overlaps(other):
                raise bad(
                    "router",
                    f"Cidr {subnet['cidr']} of subnet {subnet['id']} overlaps with cidr {cidr} of subnet {other_id}",
                )

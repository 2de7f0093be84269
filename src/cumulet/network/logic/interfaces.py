# SPDX-License-Identifier: Apache-2.0
"""Connecting routers to subnets and ports, and disconnecting them when nothing needs it any more."""

from __future__ import annotations

import ipaddress

from sqlalchemy import select

from cumulet.kernel.context import Context
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Fault
from cumulet.network import models as m
from cumulet.network.errors import bad, in_use, missing
from cumulet.network.logic import Document, Network, Values, Work
from cumulet.network.logic.addresses import Wanted, assign, subnets_of
from cumulet.network.logic.kinds import Authorize, change, first, read
from cumulet.network.logic.networks import network_of, remove_port
from cumulet.network.logic.ports import PORT
from cumulet.network.logic.router_ports import INTERFACE, interfaces, new_port, refuse_overlap
from cumulet.network.logic.routers import ROUTER
from cumulet.network.logic.subnets import SUBNET


async def add_interface(net: Network, caller: Context, key: str, wanted: Values, authorize: Authorize) -> Document:
    """Connect the router to a subnet (by a new port with its gateway address) or to a port."""

    async def body(work: Work) -> Document:
        before = await read(net, caller, ROUTER, key, work.tx)
        authorize(before, wanted)
        if "subnet_id" in wanted and "port_id" in wanted:
            raise bad("router", "Cannot specify both subnet-id and port-id")
        if "port_id" in wanted:
            port_id, network_id, subnets = await _add_by_port(work, key, wanted["port_id"])
        else:
            port_id, network_id, subnets = await _add_by_subnet(work, before, wanted["subnet_id"])
        await work.bump(m.ROUTERS, key)
        await work.touch_router(key)
        await work.touch_network(network_id)
        return _interface(before, port_id, network_id, subnets)

    document: Document = await net.change(caller, body)
    return document


def _interface(router: Document, port_id: str, network_id: str, subnets: list[str]) -> Document:
    return {
        "id": router["id"],
        "tenant_id": router["project_id"],
        "project_id": router["project_id"],
        "port_id": port_id,
        "network_id": network_id,
        "subnet_id": subnets[0],
        "subnet_ids": subnets,
    }


async def _add_by_subnet(work: Work, router: Document, subnet_id: str) -> tuple[str, str, list[str]]:
    await read(work.net, work.caller, SUBNET, subnet_id, work.tx)
    subnet = await first(work.tx, m.SUBNETS, subnet_id, SUBNET.missing)
    network = await network_of(work, subnet["network_id"])
    if not (work.caller.is_admin or subnet["project_id"] == work.caller.project_id or network["shared"]):
        raise bad(
            "router",
            f"Cannot add interface to router because subnet {subnet_id} is not owned by project making the request",
        )
    if subnet["gateway_ip"] is None:
        raise bad("router", "Subnet for router interface must have a gateway IP")
    if subnet["ip_version"] == 6 and subnet["ipv6_ra_mode"] is None and subnet["ipv6_address_mode"] is not None:
        raise bad(
            "router",
            f"IPv6 subnet {subnet_id} configured to receive RAs from an external router cannot be added to Neutron "
            "Router",
        )
    have = await interfaces(work, router["id"])
    _refuse_second(subnet_id, have)
    await refuse_overlap(work, router["id"], [subnet], have)
    network_id = subnet["network_id"]
    wanted = Wanted(subnet_id, subnet["gateway_ip"])
    if subnet["ip_version"] == 6:
        # one port carries all IPv6 prefixes that a router has on one network
        ports = {row["port_id"]: row for row in have if row["network_id"] == network_id and row["ip_version"] == 6}
        for port_id in ports:
            held = [Wanted(row["subnet_id"], row["address"]) for row in have if row["port_id"] == port_id]
            await work.tx.run(m.ADDRESSES.delete().where(m.ADDRESSES.c.port_id == port_id))
            await assign(work, port_id, network_id, "", [*held, wanted], router=True)
            return port_id, network_id, [subnet_id]
    row = await new_port(work, router["id"], network_id, INTERFACE, router["project_id"])
    await assign(work, row["id"], network_id, row["mac_address"], [wanted], router=True)
    return str(row["id"]), network_id, [subnet_id]


async def _add_by_port(work: Work, router_id: str, port_id: str) -> tuple[str, str, list[str]]:
    port = await read(work.net, work.caller, PORT, port_id, work.tx)
    if port["device_id"]:
        raise in_use(
            "PortInUse",
            f"Unable to complete operation on port {port_id} for network {port['network_id']}. Port already has an "
            f"attached device {port['device_id']}.",
        )
    if not port["fixed_ips"]:
        raise bad("router", "Router port must have at least one fixed IP")
    have = await interfaces(work, router_id)
    by_id = {row["id"]: row for row in await subnets_of(work.tx, port["network_id"])}
    subnets = [by_id[one["subnet_id"]] for one in port["fixed_ips"]]
    if len([subnet for subnet in subnets if subnet["ip_version"] == 4]) > 1:
        raise bad("router", "Cannot have multiple IPv4 subnets on router port")
    for subnet in subnets:
        _refuse_second(subnet["id"], have)
    await refuse_overlap(work, router_id, subnets, have)
    d = m.DUTIES.c
    placed = await work.tx.all(select(d.host).where(d.kind == "router", d.object_id == router_id))
    await change(
        work,
        m.PORTS,
        port_id,
        device_id=router_id,
        device_owner=INTERFACE,
        ours=True,
        port_security_enabled=False,
        binding_host=placed[0]["host"] if placed else "",
        vif_type="tap" if placed else "unbound",
        status="DOWN",
    )
    await work.tx.run(m.PORT_GROUPS.delete().where(m.PORT_GROUPS.c.port_id == port_id))
    await work.bump(m.PORTS, port_id)
    work.duties = work.duties or not placed
    return port_id, port["network_id"], [subnet["id"] for subnet in subnets]


def _refuse_second(subnet_id: str, have: list[Row]) -> None:
    if subnet_id in [row["subnet_id"] for row in have]:
        raise bad("router", f"Router already has a port on subnet {subnet_id}")


async def remove_interface(net: Network, caller: Context, key: str, wanted: Values, authorize: Authorize) -> Document:
    """Disconnect the router from a subnet or a port; the port goes."""

    async def body(work: Work) -> Document:
        before = await read(net, caller, ROUTER, key, work.tx)
        authorize(before, wanted)
        rows = [
            row
            for row in await interfaces(work, key)
            if row["port_id"] == wanted.get("port_id", row["port_id"])
            and row["subnet_id"] == wanted.get("subnet_id", row["subnet_id"])
        ]
        if not rows:
            raise await _no_such_interface(work, key, wanted)
        for row in rows:
            await _refuse_needed(work, key, row)
        port_id, network_id = rows[0]["port_id"], rows[0]["network_id"]
        subnets = [row["subnet_id"] for row in rows]
        await work.touch_router(key)
        await work.touch_network(network_id)
        a = m.ADDRESSES.c
        await work.tx.run(m.ADDRESSES.delete().where(a.port_id == port_id, a.subnet_id.in_(subnets)))
        if not await work.tx.all(select(a.number).where(a.port_id == port_id).limit(1)):
            owner = await first(work.tx, m.PORTS, port_id, PORT.missing)
            await remove_port(work, port_id, owner["project_id"])
        await work.bump(m.ROUTERS, key)
        return _interface(before, port_id, network_id, subnets)

    document: Document = await net.change(caller, body)
    return document


async def _no_such_interface(work: Work, key: str, wanted: Values) -> Fault:
    if "port_id" in wanted:
        return missing(
            "RouterInterfaceNotFound", f"Router {key} does not have an interface with id {wanted['port_id']}"
        )
    await first(work.tx, m.SUBNETS, wanted["subnet_id"], SUBNET.missing)
    return missing("RouterInterfaceNotFoundForSubnet", f"Router {key} has no interface on subnet {wanted['subnet_id']}")


async def _refuse_needed(work: Work, router_id: str, row: Row) -> None:
    f, a = m.FLOATINGIPS.c, m.ADDRESSES.c
    used = (
        select(f.id)
        .join(m.ADDRESSES, (a.port_id == f.port_id) & (a.address == f.fixed_ip_address))
        .where(f.router_id == router_id, a.subnet_id == row["subnet_id"])
    )
    if await work.tx.all(used.limit(1)):
        raise in_use(
            "RouterInterfaceInUseByFloatingIP",
            f"Router interface for subnet {row['subnet_id']} on router {router_id} cannot be deleted, as it is "
            "required by one or more floating IPs.",
        )
    router = await first(work.tx, m.ROUTERS, router_id, ROUTER.missing)
    network = ipaddress.ip_network(row["cidr"])
    if any(ipaddress.ip_address(route["nexthop"]) in network for route in router["routes"]):
        raise in_use(
            "RouterInterfaceInUseByRoute",
            f"Router interface for subnet {row['subnet_id']} on router {router_id} cannot be deleted, as it is "
            "required by one or more routes.",
        )

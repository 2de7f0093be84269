# SPDX-License-Identifier: Apache-2.0
"""Routers: interfaces into subnets, a gateway to an external network, extra routes.

A router's ports are its own: they come and go with its interfaces, and none is
taken away while a floating IP or a route needs it.
"""

from __future__ import annotations

import ipaddress

from sqlalchemy import select

from cumulet.kernel.context import Context
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Fault, Invalid
from cumulet.network import models as m
from cumulet.network.errors import bad, in_use, missing
from cumulet.network.logic import Document, Network, Reader, Values, Work, by_key, standard_document, tags_of
from cumulet.network.logic.addresses import Wanted, assign, subnets_of
from cumulet.network.logic.kinds import Authorize, Kind, change, first, not_found, read
from cumulet.network.logic.networks import network_of, remove_port
from cumulet.network.logic.ports import PORT, insert
from cumulet.network.logic.subnets import SUBNET

INTERFACE, GATEWAY = "network:router_interface", "network:router_gateway"


async def documents(net: Network, reader: Reader, rows: list[Row]) -> list[Document]:
    a, d = m.ADDRESSES.c, m.DUTIES.c
    ports = [row["gateway_port_id"] for row in rows if row["gateway_port_id"]]
    held = by_key(
        await reader.all(select(a.port_id, a.subnet_id, a.address).where(a.port_id.in_(ports)).order_by(a.place)),
        "port_id",
    )
    statement = select(d.object_id).where(d.kind == "router", d.object_id.in_([row["id"] for row in rows]))
    placed = {row["object_id"] for row in await reader.all(statement)}
    tags = await tags_of(reader, rows)
    found = []
    for row in rows:
        gateway = None
        if row["gateway_network_id"]:
            gateway = {
                "network_id": row["gateway_network_id"],
                "enable_snat": row["enable_snat"],
                "external_fixed_ips": [
                    {"subnet_id": one["subnet_id"], "ip_address": one["address"]}
                    for one in held.get(row["gateway_port_id"], [])
                ],
            }
        found.append(
            standard_document(row, tags)
            | {
                "admin_state_up": row["admin_state_up"],
                "status": row["status"],
                "external_gateway_info": gateway,
                "routes": row["routes"],
                "availability_zone_hints": row["availability_zone_hints"],
                "availability_zones": ["nova"] if row["id"] in placed else [],
                "*": {},
            }
        )
    return found


async def create(work: Work, values: Values) -> str:
    await work.net.quota.take(work.tx, values["project_id"], {"router": 1})
    row = {
        **work.standard(values),
        "admin_state_up": values["admin_state_up"],
        "status": "ACTIVE",
        "gateway_network_id": None,
        "gateway_port_id": None,
        "enable_snat": True,
        "routes": [],
        "availability_zone_hints": values["availability_zone_hints"],
    }
    await work.tx.insert(m.ROUTERS, row)
    if values["external_gateway_info"] is not None:
        await _set_gateway(work, row["id"], values["external_gateway_info"])
    work.duties = True
    return str(row["id"])


async def create_connected(
    work: Work, key: str, name: str, project_id: str, external_id: str, network_id: str, subnet_id: str
) -> None:
    """Make a router with a gateway on one network and an interface with the gateway address of a subnet of another."""
    values = {
        "id": key,
        "name": name,
        "project_id": project_id,
        "admin_state_up": True,
        "external_gateway_info": {"network_id": external_id},
        "availability_zone_hints": [],
    }
    await create(work, values)
    subnet = await first(work.tx, m.SUBNETS, subnet_id, SUBNET.missing)
    port = await new_port(work, key, network_id, INTERFACE, project_id)
    wanted = [Wanted(subnet_id, subnet["gateway_ip"])]
    await assign(work, port["id"], network_id, port["mac_address"], wanted, router=True)
    await work.touch_network(network_id)


async def update(work: Work, before: Document, values: Values) -> None:
    key = before["id"]
    plain = {name: values[name] for name in ("name", "description", "admin_state_up") if name in values}
    await change(work, m.ROUTERS, key, **plain)
    if "external_gateway_info" in values:
        await _change_gateway(work, before, values["external_gateway_info"])
    if "routes" in values:
        await set_routes(work, key, values["routes"])
    await work.touch_router(key)


async def delete(work: Work, before: Document) -> None:
    key = before["id"]
    if await interfaces(work, key):
        raise in_use("RouterInUse", f"Router {key} still has ports")
    if before["external_gateway_info"] is not None:
        await _change_gateway(work, before, None)
    await work.touch_router(key)
    await work.tx.run(m.DUTIES.delete().where(m.DUTIES.c.object_id == key))
    await work.tx.run(m.ROUTERS.delete().where(m.ROUTERS.c.id == key))
    await work.net.quota.give(work.tx, before["project_id"], {"router": 1})


# ---- the way out


async def _change_gateway(work: Work, before: Document, wanted: Values | None) -> None:
    """Make ``wanted`` the router's gateway; one on the same network keeps its addresses unless others are named."""
    key, have = before["id"], before["external_gateway_info"]
    if have is not None and wanted is not None and wanted["network_id"] == have["network_id"]:
        fixed = wanted.get("external_fixed_ips")
        if "enable_snat" in wanted:
            await change(work, m.ROUTERS, key, enable_snat=wanted["enable_snat"])
        if fixed is None or _same_addresses(fixed, have["external_fixed_ips"]):
            return
    if have is not None:
        same = wanted is not None and wanted["network_id"] == have["network_id"]
        f = m.FLOATINGIPS.c
        used = select(f.id).where(
            f.router_id == key, f.floating_network_id == have["network_id"], f.port_id.is_not(None)
        )
        if not same and await work.tx.all(used.limit(1)):
            raise in_use(
                "RouterExternalGatewayInUseByFloatingIp",
                f"Gateway cannot be updated for router {key}, since a gateway to external network "
                f"{have['network_id']} is required by one or more floating IPs.",
            )
        row = await first(work.tx, m.ROUTERS, key, ROUTER.missing)
        await change(work, m.ROUTERS, key, gateway_network_id=None, gateway_port_id=None, enable_snat=True)
        await work.touch_network(have["network_id"])
        await remove_port(work, row["gateway_port_id"], "")
    if wanted is not None:
        await _set_gateway(work, key, wanted)


def _same_addresses(wanted: list[dict[str, str]], have: list[dict[str, str]]) -> bool:
    return len(wanted) == len(have) and all(any(one.items() <= other.items() for other in have) for one in wanted)


async def _set_gateway(work: Work, router_id: str, wanted: Values) -> None:
    network = await network_of(work, wanted["network_id"])
    if not network["external"]:
        raise bad("router", f"Network {network['id']} is not an external network")
    fixed = wanted.get("external_fixed_ips")
    subnets = await subnets_of(work.tx, network["id"])
    for one in fixed or []:
        if one.get("ip_address") and one["ip_address"] in [subnet["gateway_ip"] for subnet in subnets]:
            raise bad("router", f"External IP {one['ip_address']} is the same as the gateway IP")
    await _refuse_overlap(work, router_id, subnets)
    row = await new_port(work, router_id, network["id"], GATEWAY, "")
    addresses = [Wanted(one.get("subnet_id"), one.get("ip_address")) for one in fixed] if fixed else None
    await assign(work, row["id"], network["id"], row["mac_address"], addresses, router=True)
    a = m.ADDRESSES.c
    if not await work.tx.all(select(a.number).where(a.port_id == row["id"]).limit(1)):
        raise bad("router", f"No IPs available for external network {network['id']}")
    await change(
        work,
        m.ROUTERS,
        router_id,
        gateway_network_id=network["id"],
        gateway_port_id=row["id"],
        enable_snat=wanted.get("enable_snat", True),
    )
    await work.touch_router(router_id)


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


# ---- interfaces


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
    await _refuse_overlap(work, router["id"], [subnet], have)
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
    await _refuse_overlap(work, router_id, subnets, have)
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


async def _refuse_overlap(work: Work, router_id: str, new: list[Row], have: list[Row] | None = None) -> None:
    """A router can't tell two subnets apart that overlap."""
    known = list(await interfaces(work, router_id) if have is None else have)
    router = await first(work.tx, m.ROUTERS, router_id, ROUTER.missing)
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


# ---- extra routes


async def set_routes(work: Work, key: str, routes: list[dict[str, str]]) -> None:
    """Make these the router's extra routes; each next hop must be a neighbour and not the router itself."""
    router = await first(work.tx, m.ROUTERS, key, ROUTER.missing)
    near = await interfaces(work, key)
    cidrs = [ipaddress.ip_network(row["cidr"]) for row in near]
    own = {row["address"] for row in near}
    if router["gateway_port_id"]:
        cidrs += [ipaddress.ip_network(row["cidr"]) for row in await subnets_of(work.tx, router["gateway_network_id"])]
        a = m.ADDRESSES.c
        own |= {
            row["address"] for row in await work.tx.all(select(a.address).where(a.port_id == router["gateway_port_id"]))
        }
    for route in routes:
        hop = ipaddress.ip_address(route["nexthop"])
        if not any(hop in cidr for cidr in cidrs):
            raise _bad_routes(routes, "the nexthop is not connected with router")
        if str(hop) in own:
            raise _bad_routes(routes, "the nexthop is used by router")
    await change(work, m.ROUTERS, key, routes=routes)


def _bad_routes(routes: list[dict[str, str]], why: str) -> Invalid:
    return Invalid(f"Invalid format for routes: {routes}, {why}", kind="InvalidRoutes")


async def change_routes(
    net: Network, caller: Context, key: str, routes: list[dict[str, str]], authorize: Authorize, *, add: bool
) -> Document:
    """Add routes to, or remove them from, what the router has, in one step."""

    async def body(work: Work) -> Document:
        before = await read(net, caller, ROUTER, key, work.tx)
        authorize(before, {"routes": routes})
        kept = [route for route in before["routes"] if route not in routes]
        await set_routes(work, key, [*kept, *routes] if add else kept)
        await work.bump(m.ROUTERS, key)
        await work.touch_router(key)
        return await read(net, caller, ROUTER, key, work.tx)

    document: Document = await net.change(caller, body)
    return document


ROUTER = Kind(
    "router",
    "routers",
    m.ROUTERS,
    not_found("RouterNotFound", "Router", " could not be found"),
    documents,
    create,
    update,
    delete,
)

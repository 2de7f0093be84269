# SPDX-License-Identifier: Apache-2.0
"""Routers: a gateway to an external network, extra routes (their insides: `interfaces`).

A router's ports are its own: they come and go with its interfaces, and none is
taken away while a floating IP or a route needs it.
"""

from __future__ import annotations

import ipaddress

from sqlalchemy import select

from cumulet.kernel.context import Context
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid
from cumulet.network import models as m
from cumulet.network.errors import bad, in_use
from cumulet.network.logic import Document, Network, Reader, Values, Work, by_key, standard_document, tags_of
from cumulet.network.logic.addresses import Wanted, assign, subnets_of
from cumulet.network.logic.kinds import Authorize, Kind, change, first, read
from cumulet.network.logic.networks import network_of, remove_port
from cumulet.network.logic.router_ports import GATEWAY, INTERFACE, interfaces, new_port, no_router, refuse_overlap
from cumulet.network.logic.subnets import SUBNET


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
        row = await first(work.tx, m.ROUTERS, key, no_router)
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
    await refuse_overlap(work, router_id, subnets)
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


# ---- extra routes


async def set_routes(work: Work, key: str, routes: list[dict[str, str]]) -> None:
    """Make these the router's extra routes; each next hop must be a neighbour and not the router itself."""
    router = await first(work.tx, m.ROUTERS, key, no_router)
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
    no_router,
    documents,
    create,
    update,
    delete,
)

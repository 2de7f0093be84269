# SPDX-License-Identifier: Apache-2.0
"""What must be on one host: computed from the committed state, complete, and named by a version.

The version is a digest of the content, so equal states have equal versions
whoever computes them, and nothing has to be counted.
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Any

import msgspec
from sqlalchemy import select

from cumulet.kernel.db import Row
from cumulet.network import models as m
from cumulet.network.logic import Network, by_key
from cumulet.network.logic.groups import protocol_number
from cumulet.network.logic.ports import host_name
from cumulet.network.logic.router_ports import GATEWAY, INTERFACE
from cumulet.network.logic.subnets import DHCP_OWNER
from cumulet.network.rpc import (
    Desired,
    DhcpHost,
    FloatingPlan,
    GroupPlan,
    NetworkPlan,
    PortPlan,
    RouterInterface,
    RouterPlan,
    RulePlan,
    SubnetPlan,
)
from cumulet.network.sagas.world import ACTIVE


async def desired_state(net: Network, host: str) -> Desired:
    """Everything of ours that belongs on ``host``."""
    p = m.PORTS
    here = await _all(net, select(p).where(p.c.binding_host == host, p.c.vif_type == "tap"))
    network_ids = sorted({row["network_id"] for row in here})
    state = _State()
    n, s, a = m.NETWORKS, m.SUBNETS, m.ADDRESSES
    state.networks = {row["id"]: row for row in await _all(net, select(n).where(n.c.id.in_(network_ids)))}
    state.subnets = by_key(
        await _all(net, select(s).where(s.c.network_id.in_(network_ids)).order_by(s.c.created_at, s.c.id)), "network_id"
    )
    own = select(a).where(a.c.port_id.in_([row["id"] for row in here])).order_by(a.c.place, a.c.subnet_id, a.c.number)
    state.addresses = by_key(await _all(net, own), "port_id")
    guests = [row for row in here if not row["ours"]]
    ports = await _ports(net, state, guests)
    served = [row for row in here if row["ours"] and row["device_owner"] == DHCP_OWNER]
    routed = [row for row in here if row["ours"] and row["device_owner"] in (INTERFACE, GATEWAY)]
    desired = Desired(
        version="",
        groups=await _groups(net, {rule.group for plan in ports for rule in plan.rules if rule.group}),
        networks=await _networks(net, host, state, served),
        ports=ports,
        routers=await _routers(net, state, routed),
    )
    content = msgspec.json.encode((desired.groups, desired.networks, desired.ports, desired.routers))
    desired.awaited = await _awaited(net, here, desired.routers)
    desired.version = hashlib.blake2b(content, digest_size=16).hexdigest()
    return desired


async def _awaited(net: Network, here: list[Row], routers: list[RouterPlan]) -> list[str]:
    """What the host should carry but is not known to: its next report must name it, changed or not."""
    f = m.FLOATINGIPS.c
    waiting = select(f.floating_ip_address).where(f.router_id.in_([one.id for one in routers]), f.status != ACTIVE)
    floating = await _all(net, waiting) if routers else []
    ports = [row["id"] for row in here if row["status"] != ACTIVE]
    return ports + [row["floating_ip_address"] for row in floating]


class _State:
    """The rows from which the plans are made."""

    networks: dict[str, Row]
    subnets: dict[str, list[Row]]
    addresses: dict[str, list[Row]]


async def _all(net: Network, statement: Any) -> list[Row]:
    return await net.database.all(statement)


# ---- networks


async def _networks(net: Network, host: str, state: _State, served: list[Row]) -> list[NetworkPlan]:
    dhcp = {row["network_id"]: row for row in served}
    p, g = m.PORTS.c, m.AGENTS.c
    spread = (
        select(p.network_id, g.tunnel_address)
        .join(m.AGENTS, g.host == p.binding_host)
        .where(p.network_id.in_(state.networks), p.binding_host != host, p.binding_host != "", g.tunnel_address != "")
        .distinct()
    )
    peers = by_key(await _all(net, spread), "network_id")
    leases = await _leases(net, [key for key in dhcp if key in state.networks])
    plans = []
    for key in sorted(state.networks):
        row, port = state.networks[key], dhcp.get(key)
        port_plan = None
        if port is not None and row["admin_state_up"]:
            port_plan = (
                port["id"],
                port["mac_address"],
                [one["address"] for one in state.addresses.get(port["id"], [])],
            )
        plans.append(
            NetworkPlan(
                id=key,
                segment=row["segment"],
                mtu=row["mtu"],
                external=row["external"],
                subnets=[_subnet(one) for one in state.subnets.get(key, [])],
                dhcp_port=port_plan,
                leases=leases.get(key, []) if port_plan else [],
                peers=sorted(one["tunnel_address"] for one in peers.get(key, [])),
            )
        )
    return plans


def _subnet(row: Row) -> SubnetPlan:
    return SubnetPlan(
        id=row["id"],
        cidr=row["cidr"],
        gateway=row["gateway_ip"],
        dns=row["dns_nameservers"],
        host_routes=[(one["destination"], one["nexthop"]) for one in row["host_routes"]],
        dhcp=row["enable_dhcp"],
    )


async def _leases(net: Network, network_ids: list[str]) -> dict[str, list[DhcpHost]]:
    """The leases of the networks that this host serves: every guest port's addresses, wherever it is."""
    p, a, s = m.PORTS.c, m.ADDRESSES.c, m.SUBNETS.c
    statement = (
        select(p.id, p.network_id, p.mac_address, p.dns_name, p.extra_dhcp_opts, a.address)
        .join(m.ADDRESSES, a.port_id == p.id)
        .join(m.SUBNETS, s.id == a.subnet_id)
        .where(p.network_id.in_(network_ids), p.ours.is_(False), s.enable_dhcp)
        .order_by(p.id, a.number)
    )
    found: dict[str, list[DhcpHost]] = {}
    if network_ids:
        for row in await _all(net, statement):
            name = host_name(row["dns_name"], row["address"])
            version = 6 if ":" in row["address"] else 4
            options = [
                (one["opt_name"], one["opt_value"]) for one in row["extra_dhcp_opts"] if one["ip_version"] == version
            ]
            lease = DhcpHost(row["id"], row["mac_address"], row["address"], name, options)
            found.setdefault(row["network_id"], []).append(lease)
    return found


# ---- guest ports


async def _ports(net: Network, state: _State, guests: list[Row]) -> list[PortPlan]:
    if not guests:
        return []
    pg, r = m.PORT_GROUPS.c, m.RULES
    ids = [row["id"] for row in guests]
    memberships = by_key(
        await _all(net, select(pg.port_id, pg.security_group_id).where(pg.port_id.in_(ids))), "port_id"
    )
    groups = {one["security_group_id"] for rows in memberships.values() for one in rows}
    rows = await _all(net, select(r).where(r.c.security_group_id.in_(groups)).order_by(r.c.id))
    rules = {key: [_rule(row) for row in found] for key, found in by_key(rows, "security_group_id").items()}
    plans = []
    for row in sorted(guests, key=lambda one: str(one["id"])):
        network = state.networks.get(row["network_id"])
        if network is None:
            continue  # it went between two reads; the poke of that change follows
        own = sorted(one["security_group_id"] for one in memberships.get(row["id"], []))
        plans.append(
            PortPlan(
                id=row["id"],
                network_id=row["network_id"],
                mac=row["mac_address"],
                addresses=[one["address"] for one in state.addresses.get(row["id"], [])],
                mtu=network["mtu"],
                tap="tap" + row["id"][:11],
                admin_up=row["admin_state_up"] and network["admin_state_up"],
                port_security=row["port_security_enabled"],
                allowed_pairs=[
                    (one["ip_address"], one.get("mac_address", row["mac_address"]))
                    for one in row["allowed_address_pairs"]
                ],
                rules=[rule for group in own for rule in rules.get(group, [])],
            )
        )
    return plans


async def _groups(net: Network, groups: set[str]) -> list[GroupPlan]:
    """The groups that rules name as the far side, with the addresses of their ports, wherever those are, and what
    these may use beside their own. Each is told once, however many rules name it."""
    if not groups:
        return []
    pg, a, p = m.PORT_GROUPS.c, m.ADDRESSES.c, m.PORTS.c
    addresses = (
        select(pg.security_group_id, a.address)
        .join(m.ADDRESSES, a.port_id == pg.port_id)
        .where(pg.security_group_id.in_(groups))
    )
    found: dict[str, set[str]] = {key: set() for key in groups}
    for row in await _all(net, addresses):
        found[row["security_group_id"]].add(row["address"])
    pairs = (
        select(pg.security_group_id, p.allowed_address_pairs)
        .join(m.PORTS, p.id == pg.port_id)
        .where(pg.security_group_id.in_(groups), p.allowed_address_pairs != [])
    )
    for row in await _all(net, pairs):
        found[row["security_group_id"]].update(one["ip_address"] for one in row["allowed_address_pairs"])
    return [GroupPlan(key, sorted(found[key])) for key in sorted(found)]


def _rule(row: Row) -> RulePlan:
    prefix = row["remote_ip_prefix"] if not row["remote_group_id"] else None
    return RulePlan(
        direction=row["direction"],
        ethertype=row["ethertype"],
        protocol=protocol_number(row["protocol"], row["ethertype"]),
        port_min=row["port_range_min"],
        port_max=row["port_range_max"],
        remotes=[str(ipaddress.ip_network(prefix, strict=False))] if prefix else None,
        group=row["remote_group_id"],
    )


# ---- routers


async def _routers(net: Network, state: _State, routed: list[Row]) -> list[RouterPlan]:
    r, f = m.ROUTERS, m.FLOATINGIPS
    ids = {row["device_id"] for row in routed}
    if not ids:
        return []
    rows = await _all(net, select(r).where(r.c.id.in_(ids)).order_by(r.c.id))
    floating = by_key(await _all(net, select(f).where(f.c.router_id.in_(ids)).order_by(f.c.id)), "router_id")
    ports = by_key(routed, "device_id")
    plans = []
    for row in rows:
        gateway = next((one for one in ports[row["id"]] if one["id"] == row["gateway_port_id"]), None)
        inside = sorted((one for one in ports[row["id"]] if one is not gateway), key=lambda one: str(one["id"]))
        plans.append(
            RouterPlan(
                id=row["id"],
                interfaces=[_interface(state, one) for one in inside if one["device_owner"] == INTERFACE],
                gateway=_interface(state, gateway) if gateway else None,
                gateway_next_hop=_next_hop(state, gateway) if gateway else None,
                snat=row["enable_snat"],
                floating=[
                    FloatingPlan(one["floating_ip_address"], one["fixed_ip_address"], one["generation"])
                    for one in floating.get(row["id"], [])
                    if gateway is not None and one["fixed_ip_address"]
                ],
                routes=[(one["destination"], one["nexthop"]) for one in row["routes"]],
                admin_up=row["admin_state_up"],
            )
        )
    return plans


def _interface(state: _State, port: Row) -> RouterInterface:
    lengths = {one["id"]: one["cidr"].partition("/")[2] for one in state.subnets.get(port["network_id"], [])}
    held = state.addresses.get(port["id"], [])
    return RouterInterface(
        port_id=port["id"],
        network_id=port["network_id"],
        mac=port["mac_address"],
        addresses=[f"{one['address']}/{lengths[one['subnet_id']]}" for one in held if one["subnet_id"] in lengths],
    )


def _next_hop(state: _State, gateway: Row) -> str | None:
    """The external subnet's own gateway, of the first subnet in which the router has an address (IPv4 before IPv6)."""
    held = [one["subnet_id"] for one in state.addresses.get(gateway["id"], [])]
    hops = [
        one["gateway_ip"]
        for one in sorted(state.subnets.get(gateway["network_id"], []), key=lambda one: int(one["ip_version"]))
        if one["id"] in held and one["gateway_ip"]
    ]
    return hops[0] if hops else None

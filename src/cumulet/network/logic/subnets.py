# SPDX-License-Identifier: Apache-2.0
"""Subnets: ranges of one network that never overlap, with pools that lie inside and leave the gateway out.

A network whose subnet serves DHCP has one DHCP port, with an address in each
such subnet; `serve_dhcp` keeps it so.
"""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any

from sqlalchemy import or_, select

from cumulet.kernel import ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Conflict, Fault, Invalid
from cumulet.network import models as m
from cumulet.network.errors import bad, in_use, invalid
from cumulet.network.logic import Document, Network, Reader, Values, Work, chosen, standard_document, tags_of
from cumulet.network.logic.addresses import (
    AUTOMATIC,
    Address,
    Net,
    eui64,
    is_automatic,
    is_usable,
    subnets_of,
    take,
    take_any,
)
from cumulet.network.logic.kinds import Kind, change, not_found
from cumulet.network.logic.macs import new_mac
from cumulet.network.logic.networks import around, check_mtu, network_of, remove_port
from cumulet.network.logic.rbac import as_seen, seen_by
from cumulet.network.logic.subnetpools import check_affinity, pool_for
from cumulet.network.logic.subnetpools import take as take_range
from cumulet.network.schemas.values import boolean

DHCP_OWNER = "network:dhcp"
ROUTER_OWNERS = ("network:router_interface", "network:router_gateway", "network:floatingip")
MAX_NAMESERVERS, MAX_ROUTES = 5, 20


async def documents(net: Network, reader: Reader, rows: list[Row]) -> list[Document]:
    n = m.NETWORKS
    statement = select(n.c.id, n.c.project_id, n.c.shared, n.c.external).where(
        n.c.id.in_({row["network_id"] for row in rows})
    )
    networks = {row["id"]: row for row in await as_seen(reader, await reader.all(statement))}
    tags = await tags_of(reader, rows)
    return [
        standard_document(row, tags)
        | {
            name: row[name]
            for name in ("network_id", "ip_version", "cidr", "gateway_ip", "enable_dhcp", "ipv6_ra_mode",
                         "ipv6_address_mode", "allocation_pools", "dns_nameservers", "host_routes")
        }
        | {
            "subnetpool_id": row["subnetpool_id"],
            "router:external": networks[row["network_id"]]["external"],
            "*": around(networks[row["network_id"]]),
        }
        for row in rows
        if row["network_id"] in networks
    ]  # fmt: skip


async def parent(work: Work, values: Values) -> Values:
    return around(await network_of(work, values["network_id"]))


async def create(work: Work, values: Values) -> str:
    network_id = values["network_id"]
    pool, cidr = await _range(work, values)
    network = ipaddress.ip_network(cidr)
    _check_shape(values, network)
    check_mtu(network_id, (await network_of(work, network_id))["mtu"], {network.version})
    for other in await subnets_of(work.tx, network_id):
        if ipaddress.ip_network(other["cidr"]).overlaps(network):
            raise invalid(f"Requested subnet with cidr: {cidr} for network: {network_id} overlaps with another subnet")
    gateway = values["gateway_ip"] if "gateway_ip" in values else _first_host(network)
    if gateway is not None:
        _check_gateway(gateway, network)
    pools = values.get("allocation_pools")
    if pools is None:
        pools = default_pools(network, gateway)
    else:
        _check_pools(pools, network)
        _check_gateway_outside(gateway, pools)
    await work.net.quota.take(work.tx, values["project_id"], {"subnet": 1})
    row = {
        **work.standard(values),
        "network_id": network_id,
        "subnetpool_id": pool["id"] if pool else None,
        "ip_version": network.version,
        "cidr": cidr,
        "gateway_ip": gateway,
        "enable_dhcp": values["enable_dhcp"],
        "ipv6_ra_mode": values["ipv6_ra_mode"],
        "ipv6_address_mode": values["ipv6_address_mode"],
        "allocation_pools": pools,
        "dns_nameservers": values["dns_nameservers"],
        "host_routes": values["host_routes"],
    }
    await work.tx.insert(m.SUBNETS, row)
    if row["ipv6_address_mode"] in AUTOMATIC:
        await _address_guests(work, row)
    await serve_dhcp(work, network_id)
    await work.bump(m.NETWORKS, network_id)
    await work.touch_network(network_id)
    return str(row["id"])


async def _range(work: Work, values: Values) -> tuple[Row | None, str]:
    """(the pool of a new subnet if it has one, its range)."""
    cidr, length = values.get("cidr"), values.get("prefixlen")
    if cidr is not None and length is not None:
        raise bad("subnets", "cidr and prefixlen must not be supplied together")
    pool = await pool_for(work, values)
    if pool is None and cidr is None:
        raise bad("subnets", "a subnetpool must be specified in the absence of a cidr")
    if pool is not None:
        if cidr is None and values.get("allocation_pools") is not None:
            raise bad("subnets", "allocation_pools allowed only for specific subnet requests.".rstrip("."))
        version = values["ip_version"]
        if version != pool["ip_version"]:
            raise bad("subnets", f"Cannot allocate IPv{version} subnet from IPv{pool['ip_version']} subnet pool")
        cidr = await take_range(work, pool, values["project_id"], cidr, length)
    await check_affinity(work, values["network_id"], values["ip_version"], pool)
    return pool, str(cidr)


def _check_shape(values: Values, network: Net) -> None:
    if values["ip_version"] not in (4, 6):
        raise Invalid(f"Invalid input for ip_version. Reason: '{values['ip_version']}' is not in [4, 6].",
                      kind="HTTPBadRequest")  # fmt: skip
    if network.version != values["ip_version"]:
        raise invalid(f"cidr '{network}' does not match the ip_version '{values['ip_version']}'")
    if network.prefixlen == 0:
        raise invalid("0 is not allowed as CIDR prefix length")
    if values["enable_dhcp"]:
        if network.is_multicast:
            raise invalid("Multicast IP subnet is not supported if enable_dhcp is True")
        if network.is_loopback:
            raise invalid("Loopback IP subnet is not supported if enable_dhcp is True")
        if network.prefixlen > (30 if network.version == 4 else 126) and values["ipv6_address_mode"] not in AUTOMATIC:
            raise invalid("Subnet has a prefix length that is incompatible with DHCP service enabled")
    _check_modes(values, network)
    gateway = values.get("gateway_ip")
    if gateway is not None and ipaddress.ip_address(gateway).version != network.version:
        raise invalid(f"gateway_ip '{gateway}' does not match the ip_version '{network.version}'")
    _check_lists(values, "new subnet", network.version)


def _check_modes(values: Values, network: Net) -> None:
    ra, addressing = values["ipv6_ra_mode"], values["ipv6_address_mode"]
    if network.version == 4:
        for name, value in (("ipv6_ra_mode", ra), ("ipv6_address_mode", addressing)):
            if value is not None:
                raise invalid(f"{name} is not valid when ip_version is 4")
        return
    if (ra or addressing) and not values["enable_dhcp"]:
        raise invalid("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False")
    if ra and addressing and ra != addressing:
        raise invalid(
            f"ipv6_ra_mode set to '{ra}' with ipv6_address_mode set to '{addressing}' is not valid. "
            "If both attributes are set, they must be the same value"
        )
    if addressing in AUTOMATIC and network.prefixlen != 64:
        raise invalid(
            f"Invalid CIDR {network} for IPv6 address mode. OpenStack uses the EUI-64 address format, "
            "which requires the prefix to be /64"
        )


def _check_lists(values: Values, subnet: str, version: int) -> None:
    if len(values.get("dns_nameservers", [])) > MAX_NAMESERVERS:
        raise Invalid(
            f"Unable to complete operation for {subnet}. The number of DNS nameservers exceeds the limit "
            f"{MAX_NAMESERVERS}.",
            kind="DNSNameServersExhausted",
        )
    if len(values.get("host_routes", [])) > MAX_ROUTES:
        raise Invalid(
            f"Unable to complete operation for {subnet}. The number of host routes exceeds the limit {MAX_ROUTES}.",
            kind="HostRoutesExhausted",
        )
    for route in values.get("host_routes", []):
        versions = {ipaddress.ip_network(route["destination"]).version, ipaddress.ip_address(route["nexthop"]).version}
        if versions != {version}:
            raise invalid(f"Invalid route: {route}")


def _first_host(network: Net) -> str | None:
    """The published default gateway: the first address that a host may have."""
    if network.num_addresses == 1:
        return str(network[0])
    return str(network[1]) if network.num_addresses > 2 or network.version == 6 else str(network[0])


def _check_gateway(gateway: str, network: Net) -> None:
    address = ipaddress.ip_address(gateway)
    if address.version != network.version:
        raise invalid(f"gateway_ip '{gateway}' does not match the ip_version '{network.version}'")
    inside = address in network
    if (inside and not is_usable(gateway, str(network)) and network.version == 4) or address.is_multicast:
        raise invalid("Gateway is not valid on subnet")


def default_pools(network: Net, gateway: str | None) -> list[dict[str, str]]:
    """Every address that a guest may have, the gateway left out."""
    low, high = int(network[0]), int(network[-1])
    if network.version == 4 and network.prefixlen < 31:
        low, high = low + 1, high - 1
    elif network.version == 6 and network.prefixlen < 127:
        low += 1
    kind: Any = type(network[0])
    cuts = [(low, high)]
    if (
        gateway is not None
        and low <= int(ipaddress.ip_address(gateway)) <= high
        and ipaddress.ip_address(gateway) in network
    ):
        middle = int(ipaddress.ip_address(gateway))
        cuts = [(low, middle - 1), (middle + 1, high)]
    return [{"start": str(kind(a)), "end": str(kind(b))} for a, b in cuts if a <= b]


def _check_pools(pools: list[dict[str, str]], network: Net) -> None:
    bounds: list[tuple[Address, Address]] = []
    for pool in pools:
        start, end = ipaddress.ip_address(pool["start"]), ipaddress.ip_address(pool["end"])
        said = f"{pool['start']}-{pool['end']}"
        if start.version != network.version or end.version != network.version:
            raise Invalid(f"The allocation pool {said} is not valid.", kind="InvalidAllocationPool")
        if int(end) < int(start):
            raise Invalid(f"The allocation pool {said} is not valid.", kind="InvalidAllocationPool")
        if not (is_usable(pool["start"], str(network)) and is_usable(pool["end"], str(network))):
            raise Invalid(
                f"The allocation pool {said} spans beyond the subnet cidr {network}.", kind="OutOfBoundsAllocationPool"
            )
        bounds.append((start, end))
    bounds.sort(key=lambda pair: int(pair[0]))
    for (low, high), (start, end) in itertools.pairwise(bounds):
        if int(start) <= int(high):
            raise Conflict(
                f"Found overlapping allocation pools: {low}-{high}, {start}-{end} for subnet {network}.",
                kind="OverlappingAllocationPools",
            )


def _check_gateway_outside(gateway: str | None, pools: list[dict[str, str]]) -> None:
    if gateway is None:
        return
    at = int(ipaddress.ip_address(gateway))
    for pool in pools:
        if int(ipaddress.ip_address(pool["start"])) <= at <= int(ipaddress.ip_address(pool["end"])):
            raise in_use(
                "GatewayConflictWithAllocationPools",
                f"Gateway ip {gateway} conflicts with allocation pool {pool['start']}-{pool['end']}.",
            )


async def update(work: Work, before: Document, values: Values) -> None:
    network = ipaddress.ip_network(before["cidr"])
    _check_lists(values, before["id"], network.version)
    if values.get("enable_dhcp") is False and (before["ipv6_ra_mode"] or before["ipv6_address_mode"]):
        raise invalid("Cannot disable enable_dhcp with ipv6 attributes set")
    pools = chosen(values, before, "allocation_pools")
    if "allocation_pools" in values:
        _check_pools(pools, network)
    gateway = chosen(values, before, "gateway_ip")
    if "gateway_ip" in values and gateway != before["gateway_ip"]:
        if gateway is not None:
            _check_gateway(gateway, network)
        await _refuse_used_gateway(work, before)
    if "gateway_ip" in values or "allocation_pools" in values:
        _check_gateway_outside(gateway, pools)
    await change(work, m.SUBNETS, before["id"], **values)
    if "enable_dhcp" in values:
        await serve_dhcp(work, before["network_id"])
    await work.touch_network(before["network_id"])


async def _refuse_used_gateway(work: Work, before: Document) -> None:
    if before["gateway_ip"] is None:
        return
    a, p = m.ADDRESSES.c, m.PORTS.c
    holder = (
        select(p.id)
        .join(m.ADDRESSES, a.port_id == p.id)
        .where(a.subnet_id == before["id"], a.address == before["gateway_ip"], p.ours)
    )
    rows = await work.tx.all(holder)
    if rows:
        raise in_use(
            "GatewayIpInUse",
            f"Current gateway ip {before['gateway_ip']} already in use by port {rows[0]['id']}. Unable to update.",
        )


async def delete(work: Work, before: Document) -> None:
    key, network_id = before["id"], before["network_id"]
    a, p = m.ADDRESSES.c, m.PORTS.c
    holders = await work.tx.all(
        select(p.id, p.device_owner).join(m.ADDRESSES, a.port_id == p.id).where(a.subnet_id == key).distinct()
    )
    automatic = before["ipv6_address_mode"] in AUTOMATIC
    for row in holders:
        owner = row["device_owner"]
        if owner != DHCP_OWNER and (not automatic or owner in ROUTER_OWNERS):
            raise subnet_in_use(key)
    await work.touch_network(network_id)
    await work.tx.run(m.ADDRESSES.delete().where(a.subnet_id == key))
    await work.tx.run(m.SUBNETS.delete().where(m.SUBNETS.c.id == key))
    await work.net.quota.give(work.tx, before["project_id"], {"subnet": 1})
    await serve_dhcp(work, network_id)
    await work.bump(m.NETWORKS, network_id)


def subnet_in_use(key: str) -> Fault:
    return in_use(
        "SubnetInUse",
        f"Unable to complete operation on subnet {key}: One or more ports have an IP allocation from this subnet.",
    )


async def _address_guests(work: Work, subnet: Values) -> None:
    """Ports that were there before a subnet with automatic addresses get theirs in it."""
    p = m.PORTS.c
    guests = select(p.id, p.mac_address).where(p.network_id == subnet["network_id"], p.ours.is_(False))
    for port in await work.tx.all(guests):
        await take(work, port["id"], subnet, eui64(subnet["cidr"], port["mac_address"]), 9)


async def serve_dhcp(work: Work, network_id: str) -> None:
    """Ensure the network's DHCP port: an address in each subnet that serves DHCP, and no port where none does."""
    a, p = m.ADDRESSES.c, m.PORTS.c
    served = [s for s in await subnets_of(work.tx, network_id) if s["enable_dhcp"]]
    ports = await work.tx.all(
        select(p.id, p.project_id).where(p.network_id == network_id, p.device_owner == DHCP_OWNER, p.ours)
    )
    if not served:
        for port in ports:
            await remove_port(work, port["id"], port["project_id"])
        await work.tx.run(m.DUTIES.delete().where(m.DUTIES.c.kind == "dhcp", m.DUTIES.c.object_id == network_id))
        return
    if not ports:
        ports = [await _new_dhcp_port(work, network_id)]
    port_id = ports[0]["id"]
    held = {row["subnet_id"] for row in await work.tx.all(select(a.subnet_id).where(a.port_id == port_id))}
    for subnet in served:
        if subnet["id"] not in held:
            await _take_for_dhcp(work, port_id, subnet)
    gone = held - {subnet["id"] for subnet in served}
    await work.tx.run(m.ADDRESSES.delete().where(a.port_id == port_id, a.subnet_id.in_(gone)))


async def _take_for_dhcp(work: Work, port_id: str, subnet: Row) -> None:
    """The lowest free address for the DHCP server; a subnet without a free one is served from the others' address."""
    try:
        if is_automatic(subnet):
            mac = (await work.tx.all(select(m.PORTS.c.mac_address).where(m.PORTS.c.id == port_id)))[0]["mac_address"]
            await take(work, port_id, subnet, eui64(subnet["cidr"], mac), subnet["ip_version"])
        else:
            await take_any(work, port_id, subnet["network_id"], [subnet], subnet["ip_version"], lowest=True)
    except Conflict:
        pass


async def _new_dhcp_port(work: Work, network_id: str) -> Row:
    n = m.NETWORKS.c
    network = (await work.tx.all(select(n.project_id, n.id).where(n.id == network_id)))[0]
    port_id = ids.derive_uuid("dhcp", network_id)
    row = {
        **work.standard({"id": port_id, "project_id": network["project_id"]}),
        "network_id": network_id,
        "mac_address": new_mac(),
        "admin_state_up": True,
        "status": "DOWN",
        "device_id": f"dhcp-{network_id}",
        "device_owner": DHCP_OWNER,
        "port_security_enabled": False,
        "allowed_address_pairs": [],
        "binding_host": "",
        "binding_vnic_type": "normal",
        "binding_profile": {},
        "dns_name": "",
        "ours": True,
        "vif_type": "unbound",
    }
    await work.tx.insert(m.PORTS, row)
    if network["project_id"]:
        # the service's own port counts for the network's project but is never refused
        await work.net.quota.give(work.tx, network["project_id"], {"port": -1})
    work.duties = True
    return row


def _also_visible(caller: Context) -> Any:
    n = m.NETWORKS.c
    own = select(n.id).where(n.project_id == (caller.project_id or ""))
    return or_(m.SUBNETS.c.network_id.in_(own), m.SUBNETS.c.network_id.in_(seen_by(caller.project_id)))


def _by_external(given: list[str]) -> Any:
    n = m.NETWORKS.c
    return m.SUBNETS.c.network_id.in_(select(n.id).where(n.external.in_([boolean(one) for one in given])))


def _by_shared(given: list[str]) -> Any:
    n = m.NETWORKS.c
    return m.SUBNETS.c.network_id.in_(select(n.id).where(n.shared.in_([boolean(one) for one in given])))


SUBNET = Kind(
    "subnet",
    "subnets",
    m.SUBNETS,
    not_found("SubnetNotFound", "Subnet"),
    documents,
    create,
    update,
    delete,
    parent=parent,
    also_visible=_also_visible,
    filters={"router:external": _by_external, "shared": _by_shared},
)

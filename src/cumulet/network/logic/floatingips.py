# SPDX-License-Identifier: Apache-2.0
"""Floating IPs: an address of an external network that leads to one fixed address behind one router.

The row is the intention, a saga has the router's host carry it out (see
`associations`); until then the status is DOWN.
"""

from __future__ import annotations

import ipaddress

from sqlalchemy import select

from cumulet.kernel.db import Duplicate, Row
from cumulet.kernel.errors import Invalid
from cumulet.network import models as m
from cumulet.network.errors import bad, in_use, missing
from cumulet.network.logic import Document, Network, Reader, Values, Work, standard_document, tags_of
from cumulet.network.logic.addresses import Wanted, assign, invalid_for_network, is_usable, subnets_of
from cumulet.network.logic.associations import associate, disassociate
from cumulet.network.logic.kinds import Kind, change, not_found, read
from cumulet.network.logic.networks import network_of, remove_port
from cumulet.network.logic.ports import PORT, insert
from cumulet.network.logic.router_ports import INTERFACE

OWNER = "network:floatingip"


async def documents(net: Network, reader: Reader, rows: list[Row]) -> list[Document]:
    p = m.PORTS
    statement = select(p).where(p.c.id.in_([row["port_id"] for row in rows if row["port_id"]]))
    ports = {row["id"]: row for row in await reader.all(statement)}
    tags = await tags_of(reader, rows)
    found = []
    for row in rows:
        document = standard_document(row, tags)
        del document["name"]
        port = ports.get(row["port_id"])
        document |= {
            "floating_network_id": row["floating_network_id"],
            "floating_ip_address": row["floating_ip_address"],
            "router_id": row["router_id"],
            "port_id": row["port_id"],
            "fixed_ip_address": row["fixed_ip_address"],
            "status": row["status"],
            "dns_name": row["dns_name"],
            "dns_domain": row["dns_domain"],
            "port_details": _port_details(port) if port else None,
            "*": {},
        }
        found.append(document)
    return found


def _port_details(port: Row) -> Document:
    names = ("name", "network_id", "mac_address", "admin_state_up", "status", "device_id", "device_owner")
    return {name: port[name] for name in names}


async def create(work: Work, values: Values) -> str:
    network = await network_of(work, values["floating_network_id"])
    if not network["external"]:
        raise bad("floatingip", f"Network {network['id']} is not a valid external network")
    subnets = [subnet for subnet in await subnets_of(work.tx, network["id"]) if subnet["ip_version"] == 4]
    if not subnets:
        raise bad("floatingip", f"Network {network['id']} does not contain any IPv4 subnet")
    address = values["floating_ip_address"]
    if address is not None and not any(is_usable(address, subnet["cidr"]) for subnet in subnets):
        raise invalid_for_network(address)
    await work.net.quota.take(work.tx, values["project_id"], {"floatingip": 1})
    row = {**work.standard(values)}
    port: Values = {
        **work.standard({}),
        "network_id": network["id"],
        "admin_state_up": True,
        "status": "N/A",
        "device_id": row["id"],
        "device_owner": OWNER,
        "port_security_enabled": False,
        "allowed_address_pairs": [],
        "binding_host": "",
        "binding_vnic_type": "normal",
        "binding_profile": {},
        "dns_name": "",
        "ours": True,
        "vif_type": "unbound",
    }
    await insert(work, port, None)
    choices = [Wanted(values["subnet_id"], address)] if values["subnet_id"] or address else None
    if choices is None:
        choices = [Wanted(await _subnet_with_room(work, network["id"], subnets))]
    await assign(work, port["id"], network["id"], port["mac_address"], choices, router=True)
    a = m.ADDRESSES.c
    held = await work.tx.all(select(a.address).where(a.port_id == port["id"]))
    row |= {
        "floating_network_id": network["id"],
        "floating_ip_address": held[0]["address"],
        "floating_port_id": port["id"],
        "port_id": None,
        "fixed_ip_address": None,
        "router_id": None,
        "generation": 0,
        "status": "DOWN",
        "dns_name": values["dns_name"],
        "dns_domain": values["dns_domain"],
    }
    await work.tx.insert(m.FLOATINGIPS, row)
    if values["port_id"] is not None:
        await _associate(work, row, values["port_id"], values["fixed_ip_address"])
    elif values["fixed_ip_address"] is not None:
        raise bad("floatingip", "fixed_ip_address cannot be specified without a port_id")
    return str(row["id"])


async def _subnet_with_room(work: Work, network_id: str, subnets: list[Row]) -> str:
    from cumulet.network.logic.addresses import find_free

    for subnet in subnets:
        if await find_free(work.tx, subnet) is not None:
            return str(subnet["id"])
    raise Invalid(f"Unable to find any IP address on external network {network_id}.", kind="ExternalIpAddressExhausted")


async def _associate(work: Work, floating: Row, port_id: str, fixed: str | None) -> None:
    """Let the floating IP lead to a fixed IPv4 address of the port, through a router that reaches both."""
    port = await read(work.net, work.caller, PORT, port_id, work.tx)
    if not work.caller.is_admin and port["project_id"] != floating["project_id"]:
        raise bad(
            "floatingip", f"Cannot process floating IP association with Port {port_id}, since that port is owned by a "
            "different project",
        )  # fmt: skip
    choices = [one for one in port["fixed_ips"] if ipaddress.ip_address(one["ip_address"]).version == 4]
    if fixed is not None:
        choices = [one for one in choices if one["ip_address"] == fixed]
        if not choices:
            raise bad("floatingip", f"Port {port_id} does not have fixed ip {fixed}")
    elif not choices:
        raise bad("floatingip", f"Cannot add floating IP to port {port_id} that has no fixed IPv4 addresses")
    elif len(choices) > 1:
        raise bad(
            "floatingip",
            f"Port {port_id} has multiple fixed IPv4 addresses.  Must provide a specific IPv4 address when assigning a "
            "floating IP",
        )
    fixed, subnet_id = choices[0]["ip_address"], choices[0]["subnet_id"]
    router_id = await _router_between(work, floating["floating_network_id"], subnet_id)
    if router_id is None:
        raise missing(
            "ExternalGatewayForFloatingIPNotFound",
            f"External network {floating['floating_network_id']} is not reachable from subnet {subnet_id}.  "
            f"Therefore, cannot associate Port {port_id} with a Floating IP.",
        )
    try:
        await associate(work, floating, port_id, fixed, router_id)
    except Duplicate:
        raise in_use(
            "FloatingIPPortAlreadyAssociated",
            f"Cannot associate floating IP {floating['floating_ip_address']} ({floating['id']}) with port {port_id} "
            f"using fixed IP {fixed}, as that fixed IP already has a floating IP on external network "
            f"{floating['floating_network_id']}.",
        ) from None


async def _router_between(work: Work, external_id: str, subnet_id: str) -> str | None:
    """A router with a gateway on the external network and an interface in the subnet; the gateway's own first."""
    r, p, a, s = m.ROUTERS.c, m.PORTS.c, m.ADDRESSES.c, m.SUBNETS.c
    statement = (
        select(r.id, (a.address == s.gateway_ip).label("main"))
        .join(m.PORTS, (p.device_id == r.id) & (p.device_owner == INTERFACE) & p.ours)
        .join(m.ADDRESSES, a.port_id == p.id)
        .join(m.SUBNETS, s.id == a.subnet_id)
        .where(r.gateway_network_id == external_id, a.subnet_id == subnet_id)
        .order_by(r.created_at)
    )
    rows = sorted(await work.tx.all(statement), key=lambda row: not row["main"])
    return str(rows[0]["id"]) if rows else None


async def update(work: Work, before: Document, values: Values) -> None:
    f = m.FLOATINGIPS
    if "description" in values:
        await change(work, f, before["id"], description=values["description"])
    if not values:
        await disassociate(work, f.c.id == before["id"])  # as published: an empty change takes the association away
    if "port_id" not in values and "fixed_ip_address" not in values:
        return
    port_id = values.get("port_id", before["port_id"])
    fixed = values.get("fixed_ip_address")
    if port_id is None:
        if fixed is not None:
            raise bad("floatingip", "fixed_ip_address cannot be specified without a port_id")
        await disassociate(work, f.c.id == before["id"])
        return
    if port_id == before["port_id"] and fixed in (None, before["fixed_ip_address"]):
        return
    await disassociate(work, f.c.id == before["id"])
    await _associate(work, before, port_id, fixed)


async def delete(work: Work, before: Document) -> None:
    f = m.FLOATINGIPS
    row = (await work.tx.all(select(f).where(f.c.id == before["id"])))[0]
    await disassociate(work, f.c.id == before["id"])
    await work.tx.run(f.delete().where(f.c.id == before["id"]))
    await remove_port(work, row["floating_port_id"], "")
    await work.net.quota.give(work.tx, before["project_id"], {"floatingip": 1})


FLOATINGIP = Kind(
    "floatingip",
    "floatingips",
    m.FLOATINGIPS,
    not_found("FloatingIPNotFound", "Floating IP", " could not be found"),
    documents,
    create,
    update,
    delete,
)

# SPDX-License-Identifier: Apache-2.0
"""Networks: a segment of its own for each, and nobody's ports left on one that goes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, true

from cumulet.kernel import ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Duplicate, Row
from cumulet.network import models as m
from cumulet.network.errors import in_use, invalid, missing
from cumulet.network.logic import (
    Document,
    Network,
    Reader,
    Values,
    Work,
    by_key,
    chosen,
    rbac,
    standard_document,
    tags_of,
)
from cumulet.network.logic.kinds import Kind, change, first, not_found

VXLAN, FLAT = "vxlan", "flat"
TUNNEL_OVERHEAD = 50
MAX_SEGMENT = 2**24 - 1
PUBLIC = "public"
"""The one physical network that there is: what external networks stand on."""
AUTO_DELETED = ("network:dhcp",)
"""Ports that belong to the network itself and go with it."""
_TRIES = 32


async def documents(net: Network, reader: Reader, rows: list[Row]) -> list[Document]:
    ids_ = [row["id"] for row in rows]
    s, d = m.SUBNETS.c, m.DUTIES.c
    subnets = by_key(
        await reader.all(select(s.id, s.network_id).where(s.network_id.in_(ids_)).order_by(s.created_at, s.id)),
        "network_id",
    )
    duties = {
        row["object_id"] for row in await reader.all(select(d.object_id).where(d.kind == "dhcp", d.object_id.in_(ids_)))
    }
    tags = await tags_of(reader, rows)
    found = []
    for row in await rbac.as_seen(reader, rows):
        document = standard_document(row, tags)
        document |= {
            "admin_state_up": row["admin_state_up"],
            "status": row["status"],
            "subnets": [subnet["id"] for subnet in subnets.get(row["id"], [])],
            "shared": row["shared"],
            "router:external": row["external"],
            "mtu": row["mtu"],
            "dns_domain": row["dns_domain"],
            "port_security_enabled": row["port_security_enabled"],
            "provider:network_type": row["network_type"],
            "provider:physical_network": row["physical_network"],
            "provider:segmentation_id": row["segmentation_id"],
            "ipv4_address_scope": None,
            "ipv6_address_scope": None,
            "availability_zone_hints": row["availability_zone_hints"],
            "availability_zones": ["nova"] if row["id"] in duties else [],
            "*": {"network:project_id": row["project_id"], "network:tenant_id": row["project_id"]},
        }
        if row["external"]:
            document["is_default"] = row["is_default"]
        found.append(document)
    return found


async def create(work: Work, values: Values) -> str:
    await work.net.quota.take(work.tx, values["project_id"], {"network": 1})
    kind, physical, segmentation = _provider(values)
    highest = work.net.config.path_mtu - (TUNNEL_OVERHEAD if kind == VXLAN else 0)
    row = {
        **work.standard(values),
        "admin_state_up": values["admin_state_up"],
        "status": "ACTIVE",
        "shared": values["shared"],
        "external": values["router:external"],
        "is_default": values["is_default"],
        "mtu": _mtu(values.get("mtu"), highest),
        "port_security_enabled": values["port_security_enabled"],
        "network_type": kind,
        "physical_network": physical,
        "availability_zone_hints": values["availability_zone_hints"],
        "dns_domain": values.get("dns_domain", ""),
    }
    if row["is_default"]:
        await _only_default(work, row["id"], external=row["external"])
    await _insert(work, row, kind, segmentation)
    for action, holds in ((rbac.SHARED, row["shared"]), (rbac.EXTERNAL, row["external"])):
        if holds:
            await rbac.open_to_all(work, row["id"], row["project_id"], action)
    return str(row["id"])


async def _insert(work: Work, row: Values, kind: str, segmentation: int | None) -> None:
    """Insert with a segment that no other network has: the asked one, or one drawn at random."""
    for _ in range(_TRIES):
        segment = segmentation if segmentation is not None else int(ids.choose(1, MAX_SEGMENT + 1))
        try:
            shown = segment if kind == VXLAN else None
            await work.tx.insert(m.NETWORKS, {**row, "segment": segment, "segmentation_id": shown})
            return
        except Duplicate as duplicate:
            if "physical_network" in str(duplicate):
                raise in_use(
                    "FlatNetworkInUse",
                    f"Unable to create the flat network. Physical network {row['physical_network']} is in use.",
                ) from None
            if segmentation is not None:
                raise in_use(
                    "TunnelIdInUse", f"Unable to create the network. The tunnel ID {segmentation} is in use."
                ) from None
    raise in_use("NoNetworkAvailable", "Unable to create the network. No available network found.")


def _provider(values: Values) -> tuple[str, str | None, int | None]:
    """(type, physical network, segmentation id) as asked for; refuses what no driver of ours can do."""
    kind = values.get("provider:network_type")
    physical, segmentation = values.get("provider:physical_network"), values.get("provider:segmentation_id")
    if kind is None:
        if physical is not None or segmentation is not None:
            raise invalid("network_type required")
        return VXLAN, None, None
    if kind == FLAT:
        if segmentation is not None:
            raise invalid("segmentation_id prohibited for flat network")
        if physical is None:
            raise invalid("physical_network required for flat network")
        if physical != PUBLIC or not values.get("router:external"):
            raise invalid(f"physical_network '{physical}' unknown for flat provider network")
        return FLAT, physical, None
    if kind != VXLAN:
        raise invalid(f"network_type value '{kind}' not supported")
    if physical is not None:
        raise invalid("provider:physical_network specified for vxlan network")
    if segmentation is not None and not 1 <= segmentation <= MAX_SEGMENT:
        raise invalid(f"segmentation_id out of range (1 through {MAX_SEGMENT})")
    return VXLAN, None, segmentation


def _mtu(wanted: int | None, highest: int) -> int:
    if not wanted:
        return highest
    if wanted > highest:
        raise invalid(f"Requested MTU is too big, maximum is {highest}")
    return wanted


MINIMUM_MTU = {4: 68, 6: 1280}
"""The smallest packet that an IP version must carry (RFC 791, RFC 8200)."""


def check_mtu(network_id: str, mtu: int, versions: set[int]) -> None:
    """Refuse an MTU with which a subnet of one of these IP versions could not work."""
    for version in versions:
        if mtu < MINIMUM_MTU[version]:
            raise in_use(
                "NetworkMTUSubnetConflict",
                f"MTU of {network_id} is not valid, subnet requires a minimum of {MINIMUM_MTU[version]}",
            )


async def _only_default(work: Work, key: str, *, external: bool) -> None:
    """One external network at most is the default one."""
    if not external:
        raise invalid("Only an external network can be the default one")
    n = m.NETWORKS.c
    others = await work.tx.all(select(n.id).where(n.is_default == true(), n.id != key))
    if others:
        raise in_use(
            "DefaultExternalNetworkExists",
            f"A default external network already exists: {others[0]['id']}.",
        )


async def update(work: Work, before: Document, values: Values) -> None:
    key = before["id"]
    if any(name.startswith("provider:") and values[name] != before[name] for name in values):
        raise invalid("Plugin does not support updating provider attributes")
    if before["shared"] and values.get("shared") is False:
        await _refuse_foreign_ports(work, before)
    external = chosen(values, before, "router:external")
    if before["router:external"] and not external:
        await _refuse_gateways(work, key)
    if values.get("is_default"):
        await _only_default(work, key, external=external)
    renamed = {"router:external": "external"}
    plain = {
        renamed.get(name, name): value
        for name, value in values.items()
        if name in ("name", "description", "admin_state_up", "shared", "router:external", "is_default",
                    "port_security_enabled", "dns_domain")
    }  # fmt: skip
    if "mtu" in values:
        overhead = TUNNEL_OVERHEAD if before["provider:network_type"] == VXLAN else 0
        plain["mtu"] = _mtu(values["mtu"], work.net.config.path_mtu - overhead)
        s = m.SUBNETS.c
        rows = await work.tx.all(select(s.ip_version).where(s.network_id == key).distinct())
        check_mtu(key, plain["mtu"], {row["ip_version"] for row in rows})
    await change(work, m.NETWORKS, key, **plain)
    for action, column in rbac.COLUMNS.items():
        if plain.get(column) is True:
            await rbac.open_to_all(work, key, before["project_id"], action)
        elif plain.get(column) is False:
            await rbac.close(work, key, action, rbac.EVERYBODY if action == rbac.SHARED else None)
    await work.touch_network(key)


async def _refuse_foreign_ports(work: Work, before: Document) -> None:
    p, r = m.PORTS.c, m.RBAC.c
    named = select(r.target).where(r.object_id == before["id"], r.action == rbac.SHARED, r.target != rbac.EVERYBODY)
    others = select(p.id).where(
        p.network_id == before["id"], p.project_id.not_in([before["project_id"], ""]), p.project_id.not_in(named)
    )
    if await work.tx.all(others.limit(1)):
        raise in_use(
            "InvalidSharedSetting",
            f"Unable to reconfigure sharing settings for network {before['id']}. Multiple projects are using it.",
        )


async def _refuse_gateways(work: Work, key: str) -> None:
    p = m.PORTS.c
    gateways = select(p.id).where(p.network_id == key, p.device_owner == "network:router_gateway")
    if await work.tx.all(gateways.limit(1)):
        raise in_use(
            "ExternalNetworkInUse",
            f"External network {key} cannot be updated to be made non-external, since it has existing gateway ports.",
        )


async def delete(work: Work, before: Document) -> None:
    key = before["id"]
    p = m.PORTS.c
    await _release_floating(work, key)
    ports = await work.tx.all(select(p.id, p.device_owner, p.project_id).where(p.network_id == key))
    held = sorted(row["id"] for row in ports if row["device_owner"] not in AUTO_DELETED)
    if held:
        raise in_use(
            "NetworkInUse",
            f"Unable to complete operation on network {key}. There are one or more ports still in use on the network, "
            f"id for these ports is: {','.join(held)}.",
        )
    await work.touch_network(key)
    for row in ports:
        await remove_port(work, row["id"], row["project_id"])
    subnets = await work.tx.all(select(m.SUBNETS.c.id, m.SUBNETS.c.project_id).where(m.SUBNETS.c.network_id == key))
    await work.tx.run(m.SUBNETS.delete().where(m.SUBNETS.c.network_id == key))
    await work.tx.run(m.TAGS.delete().where(m.TAGS.c.resource_id.in_([row["id"] for row in subnets])))
    for project_id, own in by_key(subnets, "project_id").items():
        await work.net.quota.give(work.tx, project_id, {"subnet": len(own)})
    await work.net.quota.give(work.tx, before["project_id"], {"network": 1})
    await rbac.close(work, key)
    await work.tx.run(m.DUTIES.delete().where(m.DUTIES.c.object_id == key))
    await work.tx.run(m.NETWORKS.delete().where(m.NETWORKS.c.id == key))


async def _release_floating(work: Work, key: str) -> None:
    """Floating IPs that lead nowhere go with their network."""
    f = m.FLOATINGIPS
    for row in await work.tx.all(select(f).where(f.c.floating_network_id == key, f.c.port_id.is_(None))):
        await work.tx.run(f.delete().where(f.c.id == row["id"]))
        await work.tx.run(m.TAGS.delete().where(m.TAGS.c.resource_id == row["id"]))
        await remove_port(work, row["floating_port_id"], "")
        await work.net.quota.give(work.tx, row["project_id"], {"floatingip": 1})


async def remove_port(work: Work, port_id: str, project_id: str) -> None:
    """Delete a port with everything that hangs on it; who may and what it meant is the caller's business."""
    await work.tx.run(m.ADDRESSES.delete().where(m.ADDRESSES.c.port_id == port_id))
    await work.tx.run(m.PORT_GROUPS.delete().where(m.PORT_GROUPS.c.port_id == port_id))
    await work.tx.run(m.TAGS.delete().where(m.TAGS.c.resource_id == port_id))
    if await work.tx.run(m.PORTS.delete().where(m.PORTS.c.id == port_id)) and project_id:
        await work.net.quota.give(work.tx, project_id, {"port": 1})


async def network_of(work: Work, network_id: str) -> Row:
    """The row of a network that the caller can see; raises NetworkNotFound."""
    n = m.NETWORKS
    row = await first(work.tx, n, network_id, NETWORK.missing)
    caller = work.caller
    if not (row["project_id"] == caller.project_id or caller.is_admin or "service" in caller.roles):
        ways = rbac.seen_by(caller.project_id).where(m.RBAC.c.object_id == network_id)
        if not await work.tx.all(ways):
            raise missing("NetworkNotFound", f"Network {network_id} could not be found.")
    return (await rbac.as_seen(work.tx, [row]))[0]


def around(network: Row) -> Values:
    """What policy rules about a network's ports and subnets may ask of it."""
    return {
        "network:project_id": network["project_id"],
        "network:tenant_id": network["project_id"],
        "shared": network["shared"],
        "router:external": network["external"],
    }


def _also_visible(caller: Context) -> Any:
    return m.NETWORKS.c.id.in_(rbac.seen_by(caller.project_id))


NETWORK = Kind(
    "network",
    "networks",
    m.NETWORKS,
    not_found("NetworkNotFound", "Network"),
    documents,
    create,
    update,
    delete,
    also_visible=_also_visible,
)

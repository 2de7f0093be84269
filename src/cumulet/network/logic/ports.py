# SPDX-License-Identifier: Apache-2.0
"""Ports: addresses, a MAC, groups, and a binding that belongs to exactly one host.

A port is DOWN until the agent of the host to which it is bound reports it; a
binding to another host starts again from DOWN.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import or_, select

from cumulet.kernel import clock
from cumulet.kernel.context import Context
from cumulet.kernel.db import Duplicate, Row
from cumulet.kernel.errors import Conflict, Invalid
from cumulet.network import models as m
from cumulet.network.errors import in_use, invalid
from cumulet.network.logic import Document, Network, Reader, Values, Work, by_key, chosen, standard_document, tags_of
from cumulet.network.logic.addresses import Wanted, assign, number_of
from cumulet.network.logic.associations import disassociate
from cumulet.network.logic.confined import ensure_own
from cumulet.network.logic.groups import ensure_default, group_of
from cumulet.network.logic.kinds import Kind, change, not_found
from cumulet.network.logic.macs import new_mac
from cumulet.network.logic.networks import around, network_of, remove_port
from cumulet.network.logic.rbac import as_seen
from cumulet.network.logic.subnets import DHCP_OWNER, ROUTER_OWNERS, serve_dhcp
from cumulet.network.sagas.world import is_server_port
from cumulet.network.schemas.values import BLANKABLE

UNBOUND, TAP, FAILED = "unbound", "tap", "binding_failed"
_MAC_TRIES = 16
_PLAIN = ("name", "description", "admin_state_up", "device_id", "device_owner", "allowed_address_pairs", "dns_name")


async def documents(net: Network, reader: Reader, rows: list[Row]) -> list[Document]:
    ids = [row["id"] for row in rows]
    a, pg, n = m.ADDRESSES.c, m.PORT_GROUPS.c, m.NETWORKS.c
    held = by_key(
        await reader.all(
            select(a.port_id, a.subnet_id, a.address).where(a.port_id.in_(ids)).order_by(a.place, a.subnet_id, a.number)
        ),
        "port_id",
    )
    groups = by_key(await reader.all(select(pg.port_id, pg.security_group_id).where(pg.port_id.in_(ids))), "port_id")
    statement = select(n.id, n.project_id, n.shared, n.external).where(n.id.in_({row["network_id"] for row in rows}))
    networks = {row["id"]: row for row in await as_seen(reader, await reader.all(statement))}
    tags, domain = await tags_of(reader, rows), net.config.dns_domain
    return [
        _document(row, held.get(row["id"], []), groups.get(row["id"], []), networks[row["network_id"]], tags, domain)
        for row in rows
        if row["network_id"] in networks
    ]


def _assignment(dns_name: str, address: str, domain: str) -> dict[str, str]:
    """What the network's own resolver calls an address of the port."""
    name = host_name(dns_name, address)
    return {"hostname": name, "ip_address": address, "fqdn": f"{name}.{domain}."}


def host_name(dns_name: str, address: str) -> str:
    """The name that a guest gets with its lease: its own, or one made of its address."""
    whole = f"{address}0" if address.endswith(":") else address  # a host name ends in a letter or digit
    return dns_name.partition(".")[0] or "host-" + whole.replace(".", "-").replace(":", "-")


def _document(
    row: Row, held: list[Row], groups: list[Row], network: Row, tags: dict[str, list[str]], domain: str
) -> Document:
    details: dict[str, Any] = {}
    if row["vif_type"] == TAP:
        details = {"port_filter": row["port_security_enabled"], "connectivity": "l2"}
    return standard_document(row, tags) | {
        "network_id": row["network_id"],
        "mac_address": row["mac_address"],
        "admin_state_up": row["admin_state_up"],
        "status": row["status"],
        "device_id": row["device_id"],
        "device_owner": row["device_owner"],
        "fixed_ips": [{"subnet_id": one["subnet_id"], "ip_address": one["address"]} for one in held],
        "security_groups": sorted(one["security_group_id"] for one in groups),
        "allowed_address_pairs": [{"mac_address": row["mac_address"], **one} for one in row["allowed_address_pairs"]],
        "extra_dhcp_opts": row["extra_dhcp_opts"],
        "port_security_enabled": row["port_security_enabled"],
        "binding:host_id": row["binding_host"],
        "binding:vnic_type": row["binding_vnic_type"],
        "binding:profile": row["binding_profile"],
        "binding:vif_type": row["vif_type"],
        "binding:vif_details": details,
        "ip_allocation": "immediate" if held else "none",
        "dns_name": row["dns_name"],
        "dns_assignment": [_assignment(row["dns_name"], one["address"], domain) for one in held],
        "*": {**around(network), "ours": row["ours"]},
    }


async def parent(work: Work, values: Values) -> Values:
    return around(await network_of(work, values["network_id"]))


async def create(work: Work, values: Values) -> str:
    ensure_own(work, values["binding:host_id"], values["device_owner"])
    network = await network_of(work, values["network_id"])
    secure = values.get("port_security_enabled", network["port_security_enabled"])
    if values["device_owner"].startswith("network:"):
        secure = values.get("port_security_enabled", False)
    await work.net.quota.take(work.tx, values["project_id"], {"port": 1})
    mac = values.get("mac_address")
    row = {
        **work.standard(values),
        "network_id": network["id"],
        "admin_state_up": values["admin_state_up"],
        "status": "DOWN",
        "device_id": values["device_id"],
        "device_owner": values["device_owner"],
        "port_security_enabled": secure,
        "allowed_address_pairs": _pairs(values["allowed_address_pairs"]),
        "extra_dhcp_opts": merged_options([], values["extra_dhcp_opts"]),
        "binding_host": values["binding:host_id"],
        "binding_vnic_type": values["binding:vnic_type"],
        "binding_profile": values["binding:profile"],
        "vif_type": await _vif_type(work, values["binding:host_id"], values["binding:vnic_type"]),
        "dns_name": values["dns_name"],
        "ours": False,
    }
    if row["allowed_address_pairs"] and not secure:
        raise pairs_need_security()
    await insert(work, row, mac)
    await assign(work, row["id"], network["id"], row["mac_address"], _wanted(values.get("fixed_ips")))
    groups = values.get("security_groups")
    if groups and not secure:
        raise groups_need_security()
    if groups is None:
        groups = [await ensure_default(work, values["project_id"])] if secure else []
    await _set_groups(work, row["id"], groups)
    await work.touch_groups(groups)
    if row["binding_host"]:
        await work.touch_network(network["id"])
    return str(row["id"])


async def insert(work: Work, row: Values, mac: str | None) -> None:
    """Insert a port with this MAC, or (None) with a new one of ours; sets ``row["mac_address"]``."""
    if await work.tx.all(select(m.PORTS.c.id).where(m.PORTS.c.id == row["id"])):
        raise in_use("PortIdInUse", f"Unable to complete operation. The port id {row['id']} is in use.")
    for _ in range(_MAC_TRIES):
        row["mac_address"] = mac or new_mac()
        try:
            await work.tx.insert(m.PORTS, row)
            return
        except Duplicate:
            if mac is not None:
                raise mac_in_use(row["network_id"], mac) from None
    raise in_use("MacAddressGenerationFailure", f"Unable to generate unique mac on network {row['network_id']}.")


def mac_in_use(network_id: str, mac: str) -> Conflict:
    return in_use(
        "MacAddressInUse",
        f"Unable to complete operation for network {network_id}. The mac address {mac} is in use.",
    )


def pairs_need_security() -> Conflict:
    return Conflict(
        "Port Security must be enabled in order to have allowed address pairs on a port.",
        kind="AddressPairAndPortSecurityRequired",
    )


def groups_need_security() -> Invalid:
    return Invalid(
        "Port security must be enabled and port must have an IP address in order to use security groups.",
        kind="PortSecurityAndIPRequiredForSecurityGroups",
    )


def _pairs(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs as kept: one without a MAC means the port's own, whichever that is."""
    return [{name: value for name, value in one.items() if value is not None} for one in pairs]


def merged_options(have: list[dict[str, Any]], sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A port's DHCP options after a change: those sent replace their namesakes, a null takes one back, the others
    stay."""
    kept = {(one["opt_name"], one["ip_version"]): one for one in have}
    for one in sent:
        key = (one["opt_name"], one["ip_version"])
        if one["opt_value"] is None:
            kept.pop(key, None)
        elif one["opt_value"] or one["opt_name"] in BLANKABLE:
            kept[key] = one
    return list(kept.values())


def _wanted(fixed_ips: list[dict[str, str]] | None) -> list[Wanted] | None:
    return None if fixed_ips is None else [Wanted(one.get("subnet_id"), one.get("ip_address")) for one in fixed_ips]


async def _vif_type(work: Work, host: str, vnic: str) -> str:
    """How the port is plugged on its host: nothing of ours is there when no agent of that host lives."""
    if not host:
        return UNBOUND
    a = m.AGENTS.c
    alive = clock.now() - work.net.config.agent_down
    if vnic != "normal" or not await work.tx.all(select(a.id).where(a.host == host, a.heartbeat_at > alive)):
        return FAILED
    return TAP


async def _set_groups(work: Work, port_id: str, groups: list[str]) -> None:
    await work.tx.run(m.PORT_GROUPS.delete().where(m.PORT_GROUPS.c.port_id == port_id))
    for group in groups:
        await group_of(work, group)
        await work.tx.insert(m.PORT_GROUPS, {"port_id": port_id, "security_group_id": group})


async def update(work: Work, before: Document, values: Values) -> None:
    key, network_id = before["id"], before["network_id"]
    ensure_own(work, chosen(values, before, "binding:host_id"), chosen(values, before, "device_owner"), before)
    secure = chosen(values, before, "port_security_enabled")
    groups = chosen(values, before, "security_groups")
    pairs = chosen(values, before, "allowed_address_pairs")
    if not secure and values.get("security_groups"):
        raise groups_need_security()
    if not secure and groups:
        raise in_use(
            "PortSecurityPortHasSecurityGroup",
            "Port has security group associated. Cannot disable port security or IP address until security group is "
            "removed",
        )
    if not secure and pairs:
        raise pairs_need_security()
    if before["*"]["ours"] and any(
        before[name] != chosen(values, before, name) for name in ("device_id", "device_owner")
    ):
        raise in_use(
            "ServicePortInUse", f"Port {key} belongs to a {before['device_owner']}; its device can't be changed."
        )
    changes = {name: values[name] for name in _PLAIN if name in values}
    if "allowed_address_pairs" in values:
        changes["allowed_address_pairs"] = _pairs(pairs)
    if "extra_dhcp_opts" in values:
        changes["extra_dhcp_opts"] = merged_options(before["extra_dhcp_opts"], values["extra_dhcp_opts"])
    changes["port_security_enabled"] = secure
    changes |= await _mac_change(work, before, values)
    changes |= await _binding_change(work, before, values)
    await work.touch_network(network_id)
    try:
        await change(work, m.PORTS, key, **changes)
    except Duplicate:
        raise mac_in_use(network_id, values["mac_address"]) from None
    if "fixed_ips" in values:
        await _change_addresses(work, before, values["fixed_ips"], chosen(values, before, "mac_address"))
    if "security_groups" in values:
        await _set_groups(work, key, groups)
    await work.touch_groups({*groups, *before["security_groups"]})
    await work.touch_network(network_id)


async def _mac_change(work: Work, before: Document, values: Values) -> Values:
    mac = chosen(values, before, "mac_address")
    if mac == before["mac_address"]:
        return {}
    if before["binding:host_id"] and before["device_owner"]:
        raise in_use(
            "PortBound",
            f"Unable to complete operation on port {before['id']}, port is already bound, port type: "
            f"{before['binding:vif_type']}, old_mac {before['mac_address']}, new_mac {mac}.",
        )
    return {"mac_address": mac}


async def _binding_change(work: Work, before: Document, values: Values) -> Values:
    """What a new host, vnic type or profile makes of the binding."""
    names = {"binding:host_id": "binding_host", "binding:vnic_type": "binding_vnic_type",
             "binding:profile": "binding_profile"}  # fmt: skip
    changes: Values = {column: values[name] for name, column in names.items() if name in values}
    host = chosen(values, before, "binding:host_id")
    vnic = chosen(values, before, "binding:vnic_type")
    moved = host != before["binding:host_id"] or vnic != before["binding:vnic_type"]
    if vnic != before["binding:vnic_type"] and before["binding:host_id"] and before["binding:vif_type"] == TAP:
        raise in_use(
            "PortInUse",
            f"Unable to complete operation on port {before['id']} for network {before['network_id']}. Port already "
            f"has an attached device {before['device_id']}.",
        )
    # a failed binding is tried again whenever the host is told again
    if moved or ("binding:host_id" in values and before["binding:vif_type"] == FAILED):
        changes["vif_type"] = await _vif_type(work, host, vnic)
        changes["status"] = "DOWN"
        if before["status"] == "ACTIVE" and is_server_port(before):
            await work.tell_compute("network-vif-unplugged", before["device_id"], before["id"])
    return changes


async def _change_addresses(work: Work, before: Document, fixed_ips: list[dict[str, str]], mac: str) -> None:
    """Keep the addresses that are still wanted, give back the others, take the new ones."""
    kept: list[dict[str, str]] = []
    wanted: list[Wanted] = []
    for one in fixed_ips:
        match = next(
            (
                have
                for have in before["fixed_ips"]
                if have not in kept
                and one.get("ip_address", have["ip_address"]) == have["ip_address"]
                and one.get("subnet_id", have["subnet_id"]) == have["subnet_id"]
            ),
            None,
        )
        if match is not None:
            kept.append(match)
            wanted.append(Wanted(match["subnet_id"], match["ip_address"]))
        else:
            wanted.append(Wanted(one.get("subnet_id"), one.get("ip_address")))
    gone = [have["ip_address"] for have in before["fixed_ips"] if have not in kept]
    a, f = m.ADDRESSES.c, m.FLOATINGIPS.c
    # all are given back and the kept ones taken again in the same transaction: nobody sees them free
    await work.tx.run(m.ADDRESSES.delete().where(a.port_id == before["id"]))
    await assign(work, before["id"], before["network_id"], mac, wanted, router=before["*"]["ours"])
    if gone:
        await disassociate(work, f.port_id == before["id"], f.fixed_ip_address.in_(gone))
    if is_server_port(before):
        await work.tell_compute("network-changed", before["device_id"], before["id"])


async def delete(work: Work, before: Document) -> None:
    key, network_id = before["id"], before["network_id"]
    owner = before["device_owner"]
    ensure_own(work, before["binding:host_id"], owner, before)
    if before["*"]["ours"] and owner in ROUTER_OWNERS and await _has_device(work, before):
        raise in_use(
            "ServicePortInUse",
            f"Port {key} cannot be deleted directly via the port API: has device owner {owner}.",
        )
    await work.touch_network(network_id)
    await work.touch_groups(before["security_groups"])
    if is_server_port(before) and not work.caller.is_service:
        await work.tell_compute("network-vif-deleted", before["device_id"], key)
    await disassociate(work, m.FLOATINGIPS.c.port_id == key)
    await remove_port(work, key, before["project_id"])
    if owner == DHCP_OWNER:
        await serve_dhcp(work, network_id)


async def _has_device(work: Work, before: Document) -> bool:
    table = m.FLOATINGIPS if before["device_owner"] == "network:floatingip" else m.ROUTERS
    return bool(await work.tx.all(select(table.c.id).where(table.c.id == before["device_id"])))


def _by_fixed_ips(given: list[str]) -> Any:
    """``fixed_ips=ip_address=10.0.0.3`` or ``subnet_id=…``; different members must all hold, same ones are choices."""
    a = m.ADDRESSES.c
    wanted: dict[str, list[str]] = {}
    for one in given:
        name, _, value = one.partition("=")
        wanted.setdefault(name, []).append(value)
    clauses: list[Any] = []
    for name, values in wanted.items():
        if name == "ip_address":
            try:
                exact = a.number.in_([number_of(value) for value in values])
            except ValueError:
                raise invalid(f"'{', '.join(values)}' is not a valid IP address") from None
            clauses.append(exact)
        elif name == "subnet_id":
            clauses.append(a.subnet_id.in_(values))
        elif name == "ip_address_substr":
            clauses.append(or_(*(a.address.contains(value, autoescape=True) for value in values)))
        else:
            raise invalid(f"'{name}' is not a valid filter of fixed_ips")
    return m.PORTS.c.id.in_(select(a.port_id).where(*clauses))


def _by_groups(given: list[str]) -> Any:
    pg = m.PORT_GROUPS.c
    return m.PORTS.c.id.in_(select(pg.port_id).where(pg.security_group_id.in_(given)))


def _also_visible(caller: Context) -> Any:
    n = m.NETWORKS.c
    return m.PORTS.c.network_id.in_(select(n.id).where(n.project_id == (caller.project_id or "")))


PORT = Kind(
    "port",
    "ports",
    m.PORTS,
    not_found("PortNotFound", "Port"),
    documents,
    create,
    update,
    delete,
    parent=parent,
    also_visible=_also_visible,
    filters={"fixed_ips": _by_fixed_ips, "security_groups": _by_groups},
)

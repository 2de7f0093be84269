# SPDX-License-Identifier: Apache-2.0
"""Security groups and their rules. Each project has one default group, made when it is first needed.

No two rules of a group mean the same.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from cumulet.kernel import clock
from cumulet.kernel.context import Context
from cumulet.kernel.db import Duplicate, Row
from cumulet.kernel.errors import Conflict, Invalid
from cumulet.network import models as m
from cumulet.network.errors import in_use, missing
from cumulet.network.logic import Document, Network, Reader, Values, Work, by_key, standard_document, tags_of
from cumulet.network.logic.kinds import Kind, change, first, not_found
from cumulet.network.schemas.values import PROTOCOLS

DEFAULT = "default"
PORTED = (6, 17, 33, 132, 136)
ICMP = (1, 58)
_IPV6_ONLY = (41, 43, 44, 58, 59, 60)
_MEANING = ("direction", "ethertype", "port_range_min", "port_range_max", "remote_ip_prefix", "remote_group_id")


# ---- groups


async def documents(net: Network, reader: Reader, rows: list[Row]) -> list[Document]:
    r = m.RULES
    statement = select(r).where(r.c.security_group_id.in_([row["id"] for row in rows])).order_by(r.c.created_at, r.c.id)
    rules = by_key(await reader.all(statement), "security_group_id")
    tags = await tags_of(reader, rows)
    return [
        standard_document(row, tags)
        | {
            "shared": False,
            "security_group_rules": [rule_document(rule) for rule in rules.get(row["id"], [])],
            "*": {},
        }
        for row in rows
    ]


async def create(work: Work, values: Values) -> str:
    if values["name"].lower() == DEFAULT:
        raise in_use("SecurityGroupDefaultAlreadyExists", "Default security group already exists.")
    await ensure_default(work, values["project_id"])
    await work.net.quota.take(work.tx, values["project_id"], {"security_group": 1})
    row = {**work.standard(values), "default_of": None}
    await work.tx.insert(m.GROUPS, row)
    out = [("egress", "IPv4", None), ("egress", "IPv6", None)]
    await work.net.quota.take(work.tx, values["project_id"], {"security_group_rule": len(out)})
    await _add_rules(work, row["id"], row["project_id"], out)
    return str(row["id"])


async def ensure_default(work: Work, project_id: str) -> str:
    """The id of the project's default group, made if it is missing."""
    g = m.GROUPS
    found = await work.tx.all(select(g.c.id).where(g.c.default_of == project_id))
    if found:
        return str(found[0]["id"])
    row = {
        **work.standard({"project_id": project_id, "name": DEFAULT, "description": "Default security group"}),
        "default_of": project_id,
    }
    await work.tx.insert(g, row)
    key = str(row["id"])
    # the default group counts for its project but is never refused
    await work.net.quota.give(work.tx, project_id, {"security_group": -1, "security_group_rule": -4})
    rules = [(direction, kind, key if direction == "ingress" else None)
             for direction in ("egress", "ingress") for kind in ("IPv4", "IPv6")]  # fmt: skip
    await _add_rules(work, key, project_id, rules)
    return key


async def _add_rules(work: Work, group_id: str, project_id: str, rules: Sequence[tuple[str, str, str | None]]) -> None:
    for direction, ethertype, remote in rules:
        row = {
            **work.standard({"project_id": project_id}),
            "security_group_id": group_id,
            "direction": direction,
            "ethertype": ethertype,
            "protocol": None,
            "port_range_min": None,
            "port_range_max": None,
            "remote_ip_prefix": None,
            "remote_group_id": remote,
        }
        await work.tx.insert(m.RULES, row)


async def ensure_default_of(net: Network, caller: Context, project_id: str) -> None:
    """Make the default group of a project unless it is there (a transaction only the first time)."""
    g = m.GROUPS.c
    if await net.database.first(select(g.id).where(g.default_of == project_id)):
        return

    async def body(work: Work) -> str:
        return await ensure_default(work, project_id)

    try:
        await net.change(caller, body)
    except Duplicate:
        pass  # another request was first


async def update(work: Work, before: Document, values: Values) -> None:
    key = before["id"]
    if before["name"] == DEFAULT and "name" in values and values["name"] != DEFAULT:
        raise in_use("SecurityGroupCannotUpdateDefault", "Updating default security group not allowed.")
    if values.get("name", "").lower() == DEFAULT and before["name"] != DEFAULT:
        raise in_use("SecurityGroupDefaultAlreadyExists", "Default security group already exists.")
    await change(work, m.GROUPS, key, **values)


async def _ports_in(work: Work, key: str) -> bool:
    pg = m.PORT_GROUPS.c
    return bool(await work.tx.all(select(pg.port_id).where(pg.security_group_id == key).limit(1)))


async def delete(work: Work, before: Document) -> None:
    key = before["id"]
    if await _ports_in(work, key):
        raise in_use("SecurityGroupInUse", f"Security Group {key} in use.")
    if before["name"] == DEFAULT and not work.caller.is_admin:
        raise in_use("SecurityGroupCannotRemoveDefault", "Insufficient rights for removing default security group.")
    r = m.RULES
    await work.touch_groups([key])
    rules = await work.tx.all(
        select(r.c.id, r.c.project_id).where((r.c.security_group_id == key) | (r.c.remote_group_id == key))
    )
    await work.tx.run(r.delete().where(r.c.id.in_([row["id"] for row in rules])))
    for project_id, own in by_key(rules, "project_id").items():
        await work.net.quota.give(work.tx, project_id, {"security_group_rule": len(own)})
    await work.tx.run(m.GROUPS.delete().where(m.GROUPS.c.id == key))
    await work.net.quota.give(work.tx, before["project_id"], {"security_group": 1})


# ---- rules


def rule_document(row: Row) -> Document:
    prefix = row["remote_ip_prefix"]
    return {
        "id": row["id"],
        "tenant_id": row["project_id"],
        "project_id": row["project_id"],
        "security_group_id": row["security_group_id"],
        "direction": row["direction"],
        "ethertype": row["ethertype"],
        "protocol": row["protocol"],
        "port_range_min": row["port_range_min"],
        "port_range_max": row["port_range_max"],
        "remote_ip_prefix": prefix,
        "remote_group_id": row["remote_group_id"],
        "normalized_cidr": str(ipaddress.ip_network(prefix, strict=False)) if prefix else None,
        "description": row["description"],
        "created_at": clock.iso_z(row["created_at"]),
        "updated_at": clock.iso_z(row["updated_at"]),
        "revision_number": row["revision_number"],
    }


async def rule_documents(net: Network, reader: Reader, rows: list[Row]) -> list[Document]:
    g = m.GROUPS.c
    statement = select(g.id, g.project_id).where(g.id.in_({row["security_group_id"] for row in rows}))
    owners = {row["id"]: row["project_id"] for row in await reader.all(statement)}
    return [
        rule_document(row) | {"*": {"security_group:project_id": owners.get(row["security_group_id"])}} for row in rows
    ]


async def rule_parent(work: Work, values: Values) -> Values:
    group = await group_of(work, values["security_group_id"])
    return {"security_group:project_id": group["project_id"]}


async def group_of(work: Work, key: str) -> Row:
    """The row of a group that the caller can see; raises SecurityGroupNotFound."""
    row = await first(work.tx, m.GROUPS, key, GROUP.missing)
    if row["project_id"] != work.caller.project_id and not work.caller.is_admin and "service" not in work.caller.roles:
        raise missing("SecurityGroupNotFound", f"Security group {key} does not exist")
    return row


async def create_rule(work: Work, values: Values) -> str:
    _check_rule(values)
    if values["remote_group_id"] is not None:
        await group_of(work, values["remote_group_id"])
    group_id = values["security_group_id"]
    await _refuse_same(work, values)
    await work.net.quota.take(work.tx, values["project_id"], {"security_group_rule": 1})
    row = {**work.standard(values)} | {name: values[name] for name in ("security_group_id", "protocol", *_MEANING)}
    await work.tx.insert(m.RULES, row)
    await work.bump(m.GROUPS, group_id)
    await work.touch_members(group_id)
    return str(row["id"])


def protocol_number(protocol: str | None, ethertype: str = "IPv4") -> int | None:
    """The IANA number of a rule's protocol; ``icmp`` of IPv6 is ICMPv6."""
    if protocol is None:
        return None
    number = PROTOCOLS[protocol] if protocol in PROTOCOLS else int(protocol)
    return 58 if number == 1 and ethertype == "IPv6" else number


def _check_rule(values: Values) -> None:
    """Refuse what can't be meant; a range of all ports becomes no range."""
    number = protocol_number(values["protocol"])
    low, high = values["port_range_min"], values["port_range_max"]
    if values["remote_ip_prefix"] and values["remote_group_id"]:
        raise Invalid(
            "Only one of remote_ip_prefix or remote_group_id or remote_address_group_id may be provided.",
            kind="SecurityGroupMultipleRemoteEntites",
        )
    if values["remote_ip_prefix"]:
        version = ipaddress.ip_network(values["remote_ip_prefix"], strict=False).version
        if values["ethertype"] != f"IPv{version}":
            raise Invalid(
                f"Conflicting value ethertype {values['ethertype']} for CIDR {values['remote_ip_prefix']}",
                kind="SecurityGroupRuleParameterConflict",
            )
    if number in _IPV6_ONLY and values["ethertype"] == "IPv4":
        raise Invalid(
            f"Invalid ethertype {values['ethertype']} for protocol {values['protocol']}.",
            kind="SecurityGroupEthertypeConflictWithProtocol",
        )
    if low is None and high is None:
        return
    if number is None:
        raise Invalid("Must also specify protocol if port range is given.",
                      kind="SecurityGroupProtocolRequiredWithPorts")  # fmt: skip
    if number in PORTED:
        if low == 0 or high == 0:
            raise Invalid("Invalid value for port 0", kind="SecurityGroupInvalidPortValue")
        if low is None or high is None or low > high:
            raise Invalid(
                "For TCP/UDP protocols, port_range_min must be <= port_range_max", kind="SecurityGroupInvalidPortRange"
            )
        if (low, high) == (1, 65535):
            values["port_range_min"] = values["port_range_max"] = None
    elif number in ICMP:
        for attribute, field, value in (("port_range_min", "type", low), ("port_range_max", "code", high)):
            if value is not None and value > 255:
                raise Invalid(
                    f"Invalid value for ICMP {field} ({attribute}) {value}. It must be 0 to 255.",
                    kind="SecurityGroupInvalidIcmpValue",
                )
        if low is None:
            raise Invalid(
                f"ICMP code (port-range-max) {high} is provided but ICMP type (port-range-min) is missing.",
                kind="SecurityGroupMissingIcmpType",
            )
    else:
        raise Invalid(
            f"Ports cannot be specified for protocol {number}. Ports are only supported for TCP, UDP, UDPLITE, SCTP, "
            "DCCP.",
            kind="SecurityGroupInvalidProtocolForPort",
        )


async def _refuse_same(work: Work, values: Values) -> None:
    r = m.RULES
    same = [r.c[name].is_not_distinct_from(values[name]) for name in _MEANING]
    statement = select(r.c.id, r.c.protocol).where(r.c.security_group_id == values["security_group_id"], *same)
    number = protocol_number(values["protocol"], values["ethertype"])
    for row in await work.tx.all(statement):
        if protocol_number(row["protocol"], values["ethertype"]) == number:
            raise Conflict(
                f"Security group rule already exists. Rule id is {row['id']}.", kind="SecurityGroupRuleExists"
            )


async def delete_rule(work: Work, before: Document) -> None:
    await work.tx.run(m.RULES.delete().where(m.RULES.c.id == before["id"]))
    await work.net.quota.give(work.tx, before["project_id"], {"security_group_rule": 1})
    await work.bump(m.GROUPS, before["security_group_id"])
    await work.touch_members(before["security_group_id"])


def _rules_of_own_groups(caller: Context) -> Any:
    g = m.GROUPS.c
    return m.RULES.c.security_group_id.in_(select(g.id).where(g.project_id == (caller.project_id or "")))


GROUP = Kind(
    "security_group",
    "security_groups",
    m.GROUPS,
    not_found("SecurityGroupNotFound", "Security group", " does not exist"),
    documents,
    create,
    update,
    delete,
)
RULE = Kind(
    "security_group_rule",
    "security_group_rules",
    m.RULES,
    not_found("SecurityGroupRuleNotFound", "Security group rule", " does not exist"),
    rule_documents,
    create_rule,
    None,
    delete_rule,
    parent=rule_parent,
    also_visible=_rules_of_own_groups,
)

# SPDX-License-Identifier: Apache-2.0
"""What network holds and for whom, and what its hosts really carry: for the invariant checker."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import func, select

from cumulet.kernel import owned
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Fault
from cumulet.network import models as m
from cumulet.network.logic import Network
from cumulet.network.logic.desired import desired_state
from cumulet.network.rpc import FOUND, Found, Look
from cumulet.network.sagas import ALL

ANSWERS_WITHIN = 10.0
"""Seconds that a host may take to say what it carries."""
COUNTED = {
    "network": m.NETWORKS, "subnet": m.SUBNETS, "port": m.PORTS, "router": m.ROUTERS, "floatingip": m.FLOATINGIPS,
    "security_group": m.GROUPS, "security_group_rule": m.RULES, "subnetpool": m.SUBNETPOOLS,
    "rbac_policy": m.RBAC,
}  # fmt: skip
"""Resource of the quota → its table. What belongs to no project counts for none."""


def _database(net: Network) -> Database:
    return net.database


def _some(table: Any, *names: str) -> Any:
    return select(*(table.c[name] for name in names))


async def _ports(net: Network, after: str, limit: int) -> list[Row]:
    """Ports with their addresses; the schema itself sees to it that no address is without its port."""
    p, a = m.PORTS.c, m.ADDRESSES.c
    statement = _some(m.PORTS, "id", "network_id", "project_id", "device_id", "device_owner", "binding_host", "status",
                      "ours", "created_at",
                      "mac_address")  # fmt: skip
    found = await net.database.all(statement.where(p.id > after).order_by(p.id).limit(limit))
    held: dict[str, list[str]] = defaultdict(list)
    if found:
        theirs = select(a.port_id, a.address).where(a.port_id > after, a.port_id <= found[-1]["id"])
        for row in await net.database.all(theirs):
            held[row["port_id"]].append(row["address"])
    return [{**row, "addresses": held[row["id"]]} for row in found]


async def _hosts(net: Network) -> list[Row]:
    """Every host with the difference between what it carries and what it should carry."""
    g = m.AGENTS.c
    known = await net.database.all(select(g.host, g.heartbeat_at).order_by(g.host))

    async def ask(row: Row) -> Row:
        told: Row = {"id": row["host"], "last_seen": row["heartbeat_at"], "answers": True}
        try:
            found: Found = await net.sagas.world.bus.call(FOUND, Look(), host=row["host"], timeout=ANSWERS_WITHIN)
        except Fault as fault:
            return {**told, "answers": False, "reason": fault.message}
        wanted = await desired_state(net, row["host"])
        there = {"network": set(found.networks), "port": set(found.ports), "router": set(found.routers)}
        plans: dict[str, list[Any]] = {"network": wanted.networks, "port": wanted.ports, "router": wanted.routers}
        should = {kind: {one.id for one in found} for kind, found in plans.items()}
        return {
            **told,
            "stray": {kind: sorted(ids - should[kind]) for kind, ids in there.items()},
            "missing": {kind: sorted(ids - there[kind]) for kind, ids in should.items()},
        }

    return await asyncio.gather(*(ask(row) for row in known))


async def _count(reader: Database | Transaction) -> dict[tuple[str, str], int]:
    """What exists of what network counts against a project."""
    found: Counter[tuple[str, str]] = Counter()
    for resource, table in COUNTED.items():
        each = select(table.c.project_id, func.count().label("number")).group_by(table.c.project_id)
        for row in await reader.all(each):
            if row["project_id"]:
                found[row["project_id"], resource] = row["number"]
    return found


ROUTES = owned.routes(
    "/v2.0",
    [
        owned.Kind("port", _ports),
        owned.rows("network", _database, _some(m.NETWORKS, "id", "project_id"), m.NETWORKS.c.id),
        owned.rows("router", _database, _some(m.ROUTERS, "id", "project_id"), m.ROUTERS.c.id),
        owned.rows(
            "floatingip", _database,
            _some(m.FLOATINGIPS, "id", "project_id", "floating_ip_address", "floating_port_id", "port_id",
                  "fixed_ip_address", "router_id", "status", "updated_at"),
            m.FLOATINGIPS.c.id,
        ),
        owned.whole("host", _hosts),
        owned.sagas(_database, m.SAGAS, ALL),
        owned.usage(_database, m.USAGE, _count),
    ],
)  # fmt: skip

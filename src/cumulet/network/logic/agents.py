# SPDX-License-Identifier: Apache-2.0
"""The agents of the hosts, whether they live, and which of them serves DHCP and carries routers.

Every network that serves DHCP and every router has a duty on one host: that of
the first living agent. It moves only when that host has been silent for long.
"""

from __future__ import annotations

from sqlalchemy import select

from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Conflict
from cumulet.network import models as m
from cumulet.network.errors import missing
from cumulet.network.logic import Document, Network, Reader, Values, Work
from cumulet.network.logic.kinds import Kind, change
from cumulet.network.logic.router_ports import GATEWAY, INTERFACE
from cumulet.network.logic.subnets import DHCP_OWNER
from cumulet.network.rpc import Alive

BINARY, TYPE, ZONE = "cumulet-network-agent", "Cumulet network agent", "nova"
NOBODY = Context(request_id="req-00000000-0000-0000-0000-000000000000", roles=["admin", "service"])
"""Who changes what no request asked for: heartbeats, reports, placements."""
_FRESH = 10.0


async def documents(net: Network, reader: Reader, rows: list[Row]) -> list[Document]:
    alive = clock.now() - net.config.agent_down
    return [
        {
            "id": row["id"],
            "agent_type": row["agent_type"],
            "binary": row["binary"],
            "topic": row["topic"],
            "host": row["host"],
            "admin_state_up": row["admin_state_up"],
            "description": row["description"],
            "availability_zone": row["availability_zone"],
            "alive": row["heartbeat_at"] > alive,
            "created_at": clock.moment(row["created_at"]).strftime("%Y-%m-%d %H:%M:%S"),
            "started_at": clock.moment(row["started_at"]).strftime("%Y-%m-%d %H:%M:%S"),
            "heartbeat_timestamp": clock.moment(row["heartbeat_at"]).strftime("%Y-%m-%d %H:%M:%S"),
            "configurations": row["configurations"],
            "*": {},
        }
        for row in rows
    ]


async def update(work: Work, before: Document, values: Values) -> None:
    await change(work, m.AGENTS, before["id"], **values)
    work.duties = True


async def delete(work: Work, before: Document) -> None:
    if before["alive"] and before["admin_state_up"]:
        raise Conflict(f"Agent {before['id']} is alive; disable it or wait until it is down.", kind="AgentInUse")
    await work.tx.run(m.AGENTS.delete().where(m.AGENTS.c.id == before["id"]))
    await work.tx.run(m.DUTIES.delete().where(m.DUTIES.c.host == before["host"]))
    work.duties = True


async def heartbeat(net: Network, alive: Alive) -> None:
    """Note that an agent lives. One that is new or was dead is given work."""
    a = m.AGENTS
    known = await net.database.first(select(a).where(a.c.host == alive.host))
    now = clock.now()
    facts = {
        "configurations": alive.configurations,
        "tunnel_address": alive.tunnel_address,
        "started_at": alive.started_at,
    }
    if known is not None and now - known["heartbeat_at"] < _FRESH and all(known[name] == facts[name] for name in facts):
        return

    async def body(work: Work) -> None:
        if await work.tx.run(a.update().where(a.c.host == alive.host).values(**facts, heartbeat_at=now)):
            work.duties = known is not None and now - known["heartbeat_at"] > net.config.agent_down
            return
        row = {
            "id": ids.new_uuid(),
            "host": alive.host,
            "agent_type": TYPE,
            "binary": BINARY,
            "topic": "network.agent",
            "availability_zone": ZONE,
            "admin_state_up": True,
            "description": None,
            "created_at": now,
            "heartbeat_at": now,
            **facts,
        }
        await work.tx.insert(a, row)

    await net.change(NOBODY, body)
    if known is None:
        await place(net)


async def place(net: Network) -> None:
    """Give every DHCP server and router that nobody carries, or whose host is lost, to the first living agent."""
    d = m.DUTIES

    async def body(work: Work) -> None:
        a, p, r = m.AGENTS.c, m.PORTS.c, m.ROUTERS.c
        agents = await work.tx.all(select(a.host, a.heartbeat_at, a.admin_state_up).order_by(a.created_at, a.id))
        now = clock.now()
        able = [
            one["host"] for one in agents if one["admin_state_up"] and one["heartbeat_at"] > now - net.config.agent_down
        ]
        if not able:
            return
        kept = {one["host"] for one in agents if one["heartbeat_at"] > now - net.config.agent_lost}
        placed = {(row["kind"], row["object_id"]): row["host"] for row in await work.tx.all(select(d))}
        networks = await work.tx.all(select(p.network_id).where(p.device_owner == DHCP_OWNER, p.ours).distinct())
        routers = await work.tx.all(select(r.id))
        wanted = [("dhcp", row["network_id"]) for row in networks] + [("router", row["id"]) for row in routers]
        for kind, key in wanted:
            if placed.get((kind, key)) not in kept:
                await _give(work, kind, key, placed.get((kind, key)), able[0])
            await _bind(work, kind, key, placed.get((kind, key)) if placed.get((kind, key)) in kept else able[0])

    await net.change(NOBODY, body)


async def _give(work: Work, kind: str, key: str, before: str | None, host: str) -> None:
    d = m.DUTIES
    if before is not None:
        await work.tx.run(d.update().where(d.c.kind == kind, d.c.object_id == key).values(host=host))
        work.hosts.add(before)
    else:
        await work.tx.insert(d, {"kind": kind, "object_id": key, "host": host})


async def _bind(work: Work, kind: str, key: str, host: str | None) -> None:
    """The ports of a duty stand on the host that carries it; hosts that share their networks look again."""
    p = m.PORTS.c
    mine = (
        (p.network_id == key) & (p.device_owner == DHCP_OWNER) & p.ours
        if kind == "dhcp"
        else (p.device_id == key) & p.device_owner.in_((INTERFACE, GATEWAY)) & p.ours
    )
    astray = await work.tx.all(select(p.id, p.network_id).where(mine, p.binding_host != host))
    for row in astray:
        await work.touch_network(row["network_id"])
        await change(work, m.PORTS, row["id"], binding_host=host, vif_type="tap", status="DOWN")
        await work.touch_network(row["network_id"])
    if astray and host is not None:
        work.hosts.add(host)


AGENT = Kind(
    "agent",
    "agents",
    m.AGENTS,
    lambda key: missing("AgentNotFound", f"Agent {key} could not be found."),
    documents,
    None,
    update,
    delete,
    revised=False,
)

# SPDX-License-Identifier: Apache-2.0
"""What the sagas act on: the records, and the agents behind the bus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from cumulet.kernel import clock
from cumulet.kernel.bus import Bus
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.outbox import Outbox
from cumulet.network import models as m
from cumulet.network.config import NetworkConfig
from cumulet.network.rpc import CARRIED, Ask, Carried

ACTIVE, DOWN, ERROR = "ACTIVE", "DOWN", "ERROR"
NOWHERE = {"port_id": None, "fixed_ip_address": None, "router_id": None, "status": DOWN}
"""What a floating IP's record says when it leads nowhere."""


@dataclass
class World:
    """The surroundings of the saga engine."""

    database: Database
    bus: Bus
    outbox: Outbox
    config: NetworkConfig

    async def floatingip(self, key: str, generation: int) -> Row | None:
        """The record of one association; None once the address leads elsewhere, nowhere, or is gone."""
        f = m.FLOATINGIPS
        return await self.database.first(
            select(f).where(f.c.id == key, f.c.generation == generation, f.c.port_id.is_not(None))
        )

    async def host_of(self, router_id: str) -> tuple[str, bool]:
        """(host that carries the router or ``""``, whether somebody lives who can carry it)."""
        d, a = m.DUTIES.c, m.AGENTS.c
        duty = await self.database.first(select(d.host).where(d.kind == "router", d.object_id == router_id))
        late = clock.now() - self.config.agent_down
        living = select(a.host, a.admin_state_up).where(a.heartbeat_at > late)
        alive = {row["host"]: row["admin_state_up"] for row in await self.database.all(living)}
        if duty is None:
            return "", any(alive.values())
        return str(duty["host"]), duty["host"] in alive

    async def carried(self, host: str, ask: Ask) -> Carried:
        """What ``host`` says of an address after it looked at its desired state. Raises Unavailable."""
        return await self.bus.call(CARRIED, ask, host=host, timeout=15.0)


async def take_away(tx: Transaction, outbox: Outbox, row: Row, **more: Any) -> None:
    """Let a floating IP lead nowhere, and let compute know of its server."""
    f = m.FLOATINGIPS
    values = {**NOWHERE, "updated_at": clock.now(), **more}
    await tx.run(f.update().where(f.c.id == row["id"]).values(**values))
    await tell_server(tx, outbox, row["port_id"])


async def tell_server(tx: Transaction, outbox: Outbox, port_id: str) -> None:
    """The addresses of the port's server changed: compute must read them again."""
    p = m.PORTS.c
    port = await tx.first(select(p.device_id, p.device_owner).where(p.id == port_id))
    if port is not None and is_server_port(port):
        event = {"name": "network-changed", "server_uuid": port["device_id"], "tag": port_id, "status": "completed"}
        await outbox.add(tx, event["name"], event)


def is_server_port(port: Any) -> bool:
    """Whether a port (row or document) belongs to a server of compute."""
    return bool(port["device_id"]) and str(port["device_owner"]).startswith("compute:")

# SPDX-License-Identifier: Apache-2.0
"""Floating IPs begin and cease to lead to ports: the record and the saga that makes it true, in one transaction.

An association is desired state: the row says where the address leads, the host
of the router makes it true; ACTIVE means that it did.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.kernel.db import Row
from cumulet.network import models as m
from cumulet.network.logic import Work
from cumulet.network.sagas import ASSOCIATE, DISASSOCIATE, Associate, Disassociate
from cumulet.network.sagas.world import DOWN, take_away, tell_server


async def associate(work: Work, row: Row, port_id: str, fixed: str, router_id: str) -> None:
    """Let the floating IP lead to that address of the port. Raises Duplicate when another one does."""
    f = m.FLOATINGIPS
    current = await work.tx.all(select(f.c.generation).where(f.c.id == row["id"]))
    generation = current[0]["generation"] + 1
    values = {"port_id": port_id, "fixed_ip_address": fixed, "router_id": router_id, "status": DOWN}
    await work.tx.run(f.update().where(f.c.id == row["id"]).values(**values, generation=generation))
    params = Associate(row["id"], row["floating_ip_address"], router_id, generation)
    await work.net.sagas.start_saga(work.tx, ASSOCIATE.name, subject=row["id"], params=params)
    await work.touch_router(router_id)
    await tell_server(work.tx, work.net.outbox, port_id)


async def disassociate(work: Work, *where: Any) -> None:
    """Let the floating IPs that match lead nowhere; what still makes their association true turns back."""
    f, g = m.FLOATINGIPS, m.SAGAS.c
    for row in await work.tx.all(select(f).where(f.c.port_id.is_not(None), *where)):
        running = select(g.id).where(g.subject == row["id"], g.state == "ready", g.name == ASSOCIATE.name)
        for saga in await work.tx.all(running):
            await work.net.sagas.cancel(work.tx, saga["id"])
        await work.touch_router(row["router_id"])
        await take_away(work.tx, work.net.outbox, row, generation=row["generation"] + 1)
        params = Disassociate(row["id"], row["floating_ip_address"], row["router_id"], row["generation"])
        await work.net.sagas.start_saga(work.tx, DISASSOCIATE.name, subject=row["id"], params=params)

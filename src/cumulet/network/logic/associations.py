# SPDX-License-Identifier: Apache-2.0
"""Taking floating IPs from the ports that they lead to: the one writer of a lost association.

An association is desired state: the row says where the address leads, the host
of the router makes it true and reports; ACTIVE means that it did.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.kernel.db import Row
from cumulet.network import models as m
from cumulet.network.logic import Work

ACTIVE, DOWN, ERROR = "ACTIVE", "DOWN", "ERROR"


async def disassociate(work: Work, *where: Any) -> None:
    """Let the floating IPs that match lead nowhere."""
    f = m.FLOATINGIPS
    for row in await work.tx.all(select(f).where(f.c.port_id.is_not(None), *where)):
        if row["router_id"] is not None:
            await work.touch_router(row["router_id"])
        nowhere = {"port_id": None, "fixed_ip_address": None, "router_id": None, "status": DOWN}
        await work.tx.run(f.update().where(f.c.id == row["id"]).values(**nowhere, updated_at=work.now))
        await tell_server(work, row["port_id"])


async def tell_server(work: Work, port_id: str) -> None:
    """The addresses of the port's server changed: compute must read them again."""
    p = m.PORTS.c
    rows: list[Row] = await work.tx.all(select(p.device_id, p.device_owner).where(p.id == port_id))
    if rows and is_server_port(rows[0]):
        await work.tell_compute("network-changed", rows[0]["device_id"], port_id)


def is_server_port(port: Any) -> bool:
    """Whether a port (row or document) belongs to a server of compute."""
    return bool(port["device_id"]) and str(port["device_owner"]).startswith("compute:")

# SPDX-License-Identifier: Apache-2.0
"""What a host reported becomes the status that users see, and what compute is told.

A report counts for what is bound to the reporting host right now; one that
comes too late changes nothing.
"""

from __future__ import annotations

import logging

from sqlalchemy import select

from cumulet.kernel import clock
from cumulet.network import models as m
from cumulet.network.logic import Network, Work
from cumulet.network.logic.agents import NOBODY
from cumulet.network.rpc import Report
from cumulet.network.sagas.world import ACTIVE, is_server_port

_log = logging.getLogger(__name__)
_EVENT = {True: "completed", False: "failed"}
_KEEP = 7 * 86_400.0
"""Seconds for which ended sagas are kept."""


async def apply(net: Network, report: Report) -> None:
    """Write what changed; a report that tells nothing new opens no transaction."""
    p, f = m.PORTS, m.FLOATINGIPS
    told = [*report.up, *report.failed]
    rows = await net.database.all(
        select(p.c.id, p.c.status).where(p.c.id.in_(told), p.c.binding_host == report.host), point=True
    )
    news = [
        row["id"] for row in rows if (row["status"] == ACTIVE) != (row["id"] in report.up) or row["id"] in report.failed
    ]
    carried = {(one.router_id, one.floating, one.generation) for one in report.floating}
    waiting = select(f.c.id, f.c.router_id, f.c.floating_ip_address, f.c.generation).where(
        f.c.router_id.in_({one[0] for one in carried}), f.c.status != ACTIVE
    )
    floating = [
        row
        for row in (await net.database.all(waiting, point=True) if carried else [])
        if (row["router_id"], row["floating_ip_address"], row["generation"]) in carried
    ]
    if not news and not floating:
        return

    async def body(work: Work) -> None:
        for key in news:
            await _port(work, report, key)
        for row in floating:
            same = (f.c.id == row["id"]) & (f.c.generation == row["generation"])
            await work.tx.run(f.update().where(same, f.c.router_id == row["router_id"]).values(status=ACTIVE))

    await net.change(NOBODY, body)


async def purge(net: Network) -> None:
    """Forget sagas that ended long ago."""
    await net.sagas.journal.purge(clock.now() - _KEEP)


async def _port(work: Work, report: Report, key: str) -> None:
    p = m.PORTS
    up = key not in report.failed
    if not up:
        _log.warning("port %s can't be wired on %s: %s", key, report.host, report.failed[key])
    bound = (p.c.id == key) & (p.c.binding_host == report.host)
    rows = await work.tx.all(select(p.c.device_id, p.c.device_owner, p.c.status).where(bound))
    if not rows or (up and rows[0]["status"] == ACTIVE):
        return
    await work.tx.run(p.update().where(bound).values(status=ACTIVE if up else "DOWN", updated_at=work.now))
    if is_server_port(rows[0]):
        await work.tell_compute("network-vif-plugged", rows[0]["device_id"], key, _EVENT[up])

# SPDX-License-Identifier: Apache-2.0
"""Which servers used something in a span of time; deleted ones count until they are purged."""

from __future__ import annotations

from sqlalchemy import or_, select

from cumulet.compute.errors import marker_missing
from cumulet.compute.logic import Compute
from cumulet.compute.models import SERVERS
from cumulet.kernel.db import Row


async def active_between(
    compute: Compute, start: float, end: float, project_id: str | None, limit: int, marker: str | None
) -> list[Row]:
    """Servers that were launched before ``end`` and not gone before ``start``, by number."""
    s = SERVERS.c
    statement = select(SERVERS).where(
        s.launched_at.is_not(None), s.launched_at < end, or_(s.terminated_at.is_(None), s.terminated_at > start)
    )
    if project_id is not None:
        statement = statement.where(s.project_id == project_id)
    if marker is not None:
        last = await compute.db.first(select(s.number).where(s.id == marker))
        if last is None:
            raise marker_missing(marker)
        statement = statement.where(s.number > last["number"])
    return await compute.db.all(statement.order_by(s.number).limit(limit))

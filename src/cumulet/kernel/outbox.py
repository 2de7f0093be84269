# SPDX-License-Identifier: Apache-2.0
"""Notifications written with the change and sent after the commit, at least once, in order.

A notification that can't be sent stays and is sent later; one nobody wants any
more after a day is dropped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import Column, MetaData, String, Table, select

from cumulet.kernel import clock, context, ids
from cumulet.kernel.db import Database, Json, Row, Time, Transaction
from cumulet.kernel.loops import Loop

KEEP = 86_400.0


def outbox_table(metadata: MetaData) -> Table:
    return Table(
        "outbox",
        metadata,
        Column("id", String(36), primary_key=True),
        Column("event_type", String(255), nullable=False),
        Column("body", Json, nullable=False),
        Column("request_id", String(64), nullable=False),
        Column("created_at", Time, nullable=False, index=True),
    )


class Outbox:
    """One service's outgoing notifications."""

    def __init__(self, database: Database, table: Table, send: Callable[[Row], Awaitable[None]]) -> None:
        self._database, self._table, self._send = database, table, send
        self.loop = Loop("outbox", 5.0, self.deliver)

    async def add(self, tx: Transaction, event_type: str, body: dict[str, Any]) -> None:
        """Write a notification in the transaction of its change; it is sent once that commits."""
        caller = context.current()
        values = {
            "id": ids.new_uuid(),
            "event_type": event_type,
            "body": body,
            "request_id": caller.trace_id if caller else "",
            "created_at": clock.now(),
        }
        await tx.insert(self._table, values)
        tx.after_commit(self.loop.poke)

    async def deliver(self) -> None:
        """Send what waits, oldest first; stops at the first that can't be sent. One process sends at a time."""
        async with self._database.hold("outbox"):
            await self._deliver()

    async def _deliver(self) -> None:
        table = self._table
        while rows := await self._database.all(select(table).order_by(table.c.created_at).limit(100)):
            for row in rows:
                if row["created_at"] > clock.now() - KEEP:
                    await self._send(row)

            async def forget(tx: Transaction, sent: list[Row] = rows) -> None:
                await tx.run(table.delete().where(table.c.id.in_([row["id"] for row in sent])))

            await self._database.run(forget, durable=False)

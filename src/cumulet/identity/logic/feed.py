# SPDX-License-Identifier: Apache-2.0
"""The number of the newest change to what tokens say, and who waits for the next one.

Invariant: a transaction that alters what a token says (or makes one void)
raises the number, so whoever read the number before it read the rows can tell
whether what it read still holds. The number lives in one row, which orders
changes of all processes on one database.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import select

from cumulet.identity.models import CHANGES, FEED
from cumulet.kernel import clock
from cumulet.kernel.db import Database, Row, Transaction

_SEQUENCE = select(FEED.c.sequence).where(FEED.c.id == 1)
_LOOK = 0.5
"""Seconds between looks for changes that another process on the same database made."""
PAGE = 1000


class Feed:
    """The changes of one cloud."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: set[asyncio.Future[None]] = set()

    async def sequence(self) -> int:
        """The number of the newest committed change."""
        row = await self._database.first(_SEQUENCE)
        return row["sequence"] if row is not None else 0

    async def changed(
        self,
        tx: Transaction,
        *,
        void: bool = False,
        audit_id: str | None = None,
        audit_chain_id: str | None = None,
        user_id: str | None = None,
        project_id: str | None = None,
        domain_id: str | None = None,
        role_id: str | None = None,
    ) -> int:
        """Record that tokens of the named things say something else from now on (``void``: nothing any more).

        Returns the number of the change, for the ``voided`` column of the rows concerned.
        """
        if not await tx.run(FEED.update().where(FEED.c.id == 1).values(sequence=FEED.c.sequence + 1)):
            await tx.insert(FEED, {"id": 1, "sequence": 1})
        row = await tx.first(_SEQUENCE)
        assert row is not None
        now = clock.now()
        values = {
            "sequence": row["sequence"],
            "audit_id": audit_id,
            "audit_chain_id": audit_chain_id,
            "user_id": user_id,
            "project_id": project_id,
            "domain_id": domain_id,
            "role_id": role_id,
            "issued_before": now if void else 0.0,
            "made_at": now,
        }
        await tx.insert(CHANGES, values)
        tx.after_commit(self._wake)
        sequence: int = row["sequence"]
        return sequence

    async def since(self, after: int) -> tuple[int, list[Row]]:
        """The changes after number ``after``, oldest first, and the number that they lead to."""
        sequence = await self.sequence()
        statement = select(CHANGES).where(CHANGES.c.sequence > after).order_by(CHANGES.c.sequence).limit(PAGE)
        rows = await self._database.all(statement)
        if len(rows) == PAGE:
            sequence = rows[-1]["sequence"]
        return sequence, rows

    async def voided(self, since: float | None) -> list[Row]:
        """The changes that made tokens void (after the time ``since``), oldest first.

        Times are shown in microseconds, so what is shown as ``since`` is not after it.
        """
        statement = select(CHANGES).where(CHANGES.c.issued_before > 0).order_by(CHANGES.c.sequence)
        if since is not None:
            statement = statement.where(CHANGES.c.made_at > since + 1e-6)
        return await self._database.all(statement)

    async def wait(self, after: int, seconds: float) -> int:
        """Wait until the newest number is another than ``after``, at most ``seconds``; returns it."""
        until = clock.monotonic() + seconds
        while True:
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(woken)
            timer: asyncio.Task[None] | None = None
            try:
                sequence = await self.sequence()
                left = until - clock.monotonic()
                if sequence != after or left <= 0:
                    return sequence
                timer = asyncio.create_task(clock.sleep(min(left, _LOOK)))
                await asyncio.wait({timer, woken}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._waiting.discard(woken)
                if timer is not None:
                    timer.cancel()

    async def purge(self, older_than: float) -> None:
        """Forget changes made before the time ``older_than``: no token of that age is valid in any way."""

        async def body(tx: Transaction) -> None:
            await tx.run(CHANGES.delete().where(CHANGES.c.made_at < older_than))

        await self._database.run(body, durable=False)

    def _wake(self) -> None:
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)


def told(row: Row) -> dict[str, Any]:
    """One change as the feed publishes it."""
    return {name: value for name, value in row.items() if value is not None and name != "made_at"}

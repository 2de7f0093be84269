# SPDX-License-Identifier: Apache-2.0
"""The feed of changes: what snapshots of other services follow by long poll.

A transaction only marks its provider (``changed`` empty). Numbers are given
afterwards, by transactions that all take the one sequence row: so whoever has
seen number n has seen every change below it, and claims never queue for a
counter. Numbers grow with time, so one that a power cut lost is never used again.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import select

from cumulet.kernel import clock
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.placement.models import (
    INVENTORIES,
    PROVIDER_AGGREGATES,
    PROVIDER_TRAITS,
    PROVIDERS,
    SEQUENCE,
    TOMBSTONES,
)

_BATCH = 500
_LOOK = 1.0
"""Seconds after which a waiting reader looks for changes made by other processes."""


class Feed:
    """The numbered changes of one placement database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._event = asyncio.Event()
        self._readers = 0
        self._empty = asyncio.Event()
        self._closed = False

    def poke(self) -> None:
        """Something was committed: waiting readers look at once."""
        self._event.set()
        self._event = asyncio.Event()

    async def changes(self, after: int, *, wait: float, limit: int) -> dict[str, Any]:
        """The providers that changed after number ``after``, oldest change first.

        Waits up to ``wait`` seconds for the first. ``complete`` says that the
        answer begins with everything (the caller forgets what it has), ``more``
        that there is more to fetch after the returned ``sequence``.
        """
        deadline = clock.monotonic() + wait
        self._readers += 1
        try:
            while True:
                event = self._event
                await self._number()
                answer = await self._read(after, limit)
                left = deadline - clock.monotonic()
                news = answer["providers"] or answer["deleted"] or (answer["complete"] and after)
                if news or left <= 0:
                    return answer
                await _either(event, min(left, _LOOK))
                if self._closed:
                    return answer
        finally:
            self._readers -= 1
            if not self._readers:
                self._empty.set()

    def dismiss(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        self.poke()

    async def close(self) -> None:
        """Send all waiting readers home; the database is no longer needed when this returns."""
        self.dismiss()
        if self._readers:
            self._empty.clear()
            await self._empty.wait()

    async def _number(self) -> None:
        """Give a number to every marked change."""
        database = self._database
        while True:
            for table in (PROVIDERS, TOMBSTONES):
                if await database.first(select(table.c.uuid).where(table.c.changed.is_(None)).limit(1)):
                    break
            else:
                return
            await database.run(_number, durable=False)

    async def _read(self, after: int, limit: int) -> dict[str, Any]:
        last = await self._database.first(select(SEQUENCE.c.value).where(SEQUENCE.c.id == 1))
        sequence = last["value"] if last else 0
        complete = after == 0 or after > sequence
        low = 0 if complete else after
        changed = await self._database.all(
            select(PROVIDERS)
            .where(PROVIDERS.c.changed > low, PROVIDERS.c.changed <= sequence)
            .order_by(PROVIDERS.c.changed)
            .limit(limit + 1)
        )
        deleted = [] if complete else await self._database.all(
            select(TOMBSTONES)
            .where(TOMBSTONES.c.changed > low, TOMBSTONES.c.changed <= sequence)
            .order_by(TOMBSTONES.c.changed)
            .limit(limit + 1)
        )  # fmt: skip
        numbers = sorted(row["changed"] for row in [*changed, *deleted])
        more = len(numbers) > limit
        if more:
            sequence = numbers[limit - 1]
        return {
            "sequence": sequence,
            "complete": complete,
            "more": more,
            "providers": await self._summaries([row for row in changed if row["changed"] <= sequence]),
            "deleted": [row["uuid"] for row in deleted if row["changed"] <= sequence],
        }

    async def _summaries(self, rows: list[Row]) -> list[dict[str, Any]]:
        summaries = {
            row["uuid"]: {
                "uuid": row["uuid"],
                "name": row["name"],
                "generation": row["generation"],
                "parent_provider_uuid": row["parent_uuid"],
                "root_provider_uuid": row["root_uuid"],
                "inventories": {},
                "traits": [],
                "aggregates": [],
            }
            for row in rows
        }
        uuids = list(summaries)
        for start in range(0, len(uuids), _BATCH):
            some = uuids[start : start + _BATCH]
            found = await self._database.all(select(INVENTORIES).where(INVENTORIES.c.provider_uuid.in_(some)))
            for row in found:
                uuid, name = row.pop("provider_uuid"), row.pop("resource_class")
                row.pop("updated_at")
                summaries[uuid]["inventories"][name] = row
            for table, column, key in (
                (PROVIDER_TRAITS, "trait", "traits"),
                (PROVIDER_AGGREGATES, "aggregate_uuid", "aggregates"),
            ):
                statement = select(table).where(table.c.provider_uuid.in_(some)).order_by(table.c[column])
                for row in await self._database.all(statement):
                    summaries[row["provider_uuid"]][key].append(row[column])
        return list(summaries.values())


async def _number(tx: Transaction) -> None:
    last = await tx.first(select(SEQUENCE.c.value).where(SEQUENCE.c.id == 1))
    value = max(last["value"] if last else 0, int(clock.now() * 1_000_000))
    for table in (PROVIDERS, TOMBSTONES):
        for row in await tx.all(select(table.c.uuid).where(table.c.changed.is_(None)).limit(_BATCH)):
            value += 1
            await tx.run(table.update().where(table.c.uuid == row["uuid"]).values(changed=value))
    if last is None:
        await tx.insert(SEQUENCE, {"id": 1, "value": value})
    else:
        await tx.run(SEQUENCE.update().where(SEQUENCE.c.id == 1).values(value=value))


async def _either(event: asyncio.Event, seconds: float) -> None:
    waiters = {asyncio.create_task(event.wait()), asyncio.create_task(clock.sleep(seconds))}
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()

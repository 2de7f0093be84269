# SPDX-License-Identifier: Apache-2.0
"""The journal of sagas: one row each. A commit counts only under the lease it was made for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Boolean, Column, Index, Integer, MetaData, String, Table, Text, and_, false, or_, select

from cumulet.kernel import clock, context, ids, trace
from cumulet.kernel.context import Context
from cumulet.kernel.db import Database, Json, Row, Time, Transaction
from cumulet.kernel.secrets import Seal

READY, DONE, FAILED, STUCK = "ready", "done", "failed", "stuck"


def saga_table(metadata: MetaData) -> Table:
    """The saga journal of one service; finished rows are kept for a week."""
    return Table(
        "sagas",
        metadata,
        Column("id", String(36), primary_key=True),
        Column("name", String(64), nullable=False),
        Column("version", Integer, nullable=False),
        Column("subject", String(64), nullable=False, index=True),
        Column("params", Json, nullable=False),
        Column("outputs", Json, nullable=False),
        Column("notes", Json, nullable=False),
        Column("state", String(16), nullable=False),
        Column("cursor", Integer, nullable=False),
        Column("floor", Integer),
        Column("attempt", Integer, nullable=False),
        Column("tries", Integer, nullable=False),
        Column("step_since", Time, nullable=False),
        Column("wake_at", Time, nullable=False),
        Column("cancel", Boolean, nullable=False),
        Column("error", Json),
        Column("caller", Json),
        Column("token", Text),
        Column("baggage", Json, nullable=False),
        Column("owner", String(64)),
        Column("lease_until", Time, nullable=False),
        Column("generation", Integer, nullable=False),
        Column("created_at", Time, nullable=False),
        Column("updated_at", Time, nullable=False),
        Index("ix_sagas_due", "state", "wake_at"),
    )


class LostLease(Exception):
    """Another worker took the saga over; nothing more may be written or done."""


class Journal:
    """Reads and writes saga rows; the engine decides what.

    Only the sagas of ``known`` names and versions are taken: while an upgrade goes on, those
    of a newer release are left to the processes that are newer, too.
    """

    def __init__(self, database: Database, table: Table, seal: Seal, known: Iterable[tuple[str, int]]) -> None:
        self.database, self.table, self._seal = database, table, seal
        versions: dict[int, list[str]] = {}
        for name, version in known:
            versions.setdefault(version, []).append(name)
        t = table
        self._ours = or_(
            false(), *(and_(t.c.version == version, t.c.name.in_(sorted(names))) for version, names in versions.items())
        )

    async def add(self, tx: Transaction, name: str, version: int, subject: str, params: msgspec.Struct) -> str:
        """Write a new saga, ready to run, in the transaction of what it is about."""
        now, caller = clock.now(), context.current()
        values = {
            "id": ids.new_uuid(), "name": name, "version": version, "subject": subject,
            "params": msgspec.to_builtins(params), "outputs": {}, "notes": {}, "state": READY, "cursor": 0,
            "floor": None, "attempt": 1, "tries": 0, "step_since": now, "wake_at": now, "cancel": False,
            "error": None, "caller": msgspec.to_builtins(caller.journal()) if caller else None,
            "token": self._seal.close(caller.token) if caller and caller.token else None,
            "baggage": trace.baggage(), "owner": None, "lease_until": 0.0, "generation": 0,
            "created_at": now, "updated_at": now,
        }  # fmt: skip
        await tx.insert(self.table, values)
        saga_id: str = values["id"]
        return saga_id

    async def cancel(self, tx: Transaction, saga_id: str) -> bool:
        """Ask a saga to unwind; False when it is over already."""
        t = self.table
        statement = t.update().where(t.c.id == saga_id, t.c.state == READY)
        return bool(await tx.run(statement.values(cancel=True, wake_at=clock.now(), updated_at=clock.now())))

    async def due(self, limit: int = 100) -> list[str]:
        """Ids of sagas that want to run and that nobody holds."""
        t, now = self.table, clock.now()
        statement = (
            select(t.c.id)
            .where(t.c.state == READY, t.c.wake_at <= now, or_(t.c.owner.is_(None), t.c.lease_until < now), self._ours)
            .order_by(t.c.wake_at)
            .limit(limit)
        )
        return [row["id"] for row in await self.database.all(statement, point=True)]

    async def take(self, saga_id: str, owner: str, lease: float) -> Row | None:
        """Claim a saga for ``lease`` seconds; None when somebody else has it, it is over or not known here.

        The time in which nobody could work on it (its process was down) is not
        counted: the start of its step moves by as much.
        """
        t = self.table

        async def body(tx: Transaction) -> Row | None:
            now = clock.now()
            row = await tx.first(select(t).where(t.c.id == saga_id, t.c.state == READY, self._ours))
            if row is None or (row["owner"] is not None and row["lease_until"] >= now):
                return None
            idle = now - max(row["updated_at"], row["wake_at"], row["lease_until"])
            taken = {"owner": owner, "lease_until": now + lease, "generation": row["generation"] + 1}
            if idle > lease:
                taken["step_since"] = row["step_since"] + idle
            mine = t.update().where(t.c.id == saga_id, t.c.generation == row["generation"])
            return {**row, **taken} if await tx.run(mine.values(**taken)) else None

        return await self.database.run(body, durable=False)

    async def give_back(self, saga_id: str, generation: int, seconds: float) -> None:
        """Leave a saga to others for a while."""

        async def body(tx: Transaction) -> None:
            await self.write(tx, saga_id, generation, owner=None, lease_until=0.0, wake_at=clock.now() + seconds)

        await self.database.run(body, durable=False)

    async def renew(self, saga_id: str, generation: int, lease: float) -> bool:
        t = self.table

        async def body(tx: Transaction) -> bool:
            mine = t.update().where(t.c.id == saga_id, t.c.generation == generation)
            return bool(await tx.run(mine.values(lease_until=clock.now() + lease)))

        return await self.database.run(body, durable=False)

    async def write(self, tx: Transaction, saga_id: str, generation: int, **values: Any) -> None:
        """Change the row under the lease; raises LostLease, which undoes the whole transaction."""
        t = self.table
        mine = t.update().where(t.c.id == saga_id, t.c.generation == generation)
        if not await tx.run(mine.values(**values, updated_at=clock.now())):
            raise LostLease(saga_id)

    async def cancelled(self, saga_id: str) -> bool:
        row = await self.database.first(select(self.table.c.cancel).where(self.table.c.id == saga_id))
        return bool(row and row["cancel"])

    async def release_all(self) -> None:
        """Free every lease: only for the sole worker of a database, at its start."""
        t = self.table

        async def body(tx: Transaction) -> None:
            # what was due before stays so: `take` tells from it how long nobody worked
            later = t.update().where(t.c.state == READY, t.c.wake_at > clock.now())
            await tx.run(later.values(wake_at=clock.now()))
            await tx.run(t.update().where(t.c.state == READY).values(owner=None))

        await self.database.run(body, durable=False)

    async def purge(self, before: float) -> int:
        """Forget sagas that ended before a time; returns how many."""
        t = self.table

        async def body(tx: Transaction) -> int:
            return await tx.run(t.delete().where(t.c.state.in_([DONE, FAILED]), t.c.updated_at < before))

        return await self.database.run(body, durable=False)

    def caller_of(self, row: Row) -> Context | None:
        """Who started the saga, with the token when it is still kept."""
        if row["caller"] is None:
            return None
        caller = msgspec.convert(row["caller"], Context)
        token = self._seal.open(row["token"]) if row["token"] else None
        return msgspec.structs.replace(caller, token=token, accepted=True)

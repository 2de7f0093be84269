# SPDX-License-Identifier: Apache-2.0
"""What the scheduler role hears and keeps true: who is alive, who holds what, nothing old is kept.

Also the ear of the saga engine: an agent's "finished" and the API's "begin" are pokes.
"""

from __future__ import annotations

from sqlalchemy import select

from cumulet.kernel import clock
from cumulet.kernel.bus import Bus, Handlers, Subscription
from cumulet.kernel.db import Transaction
from cumulet.kernel.loops import Loop
from cumulet.kernel.saga import SagaEngine
from cumulet.volume.models import SAGAS, SERVICES, SNAPSHOTS, VOLUMES
from cumulet.volume.rpc import (
    FINISHED,
    HELD,
    POKE,
    REPORT,
    Finished,
    Held,
    Nothing,
    Poke,
    Report,
    Superfluous,
    backend_host,
)
from cumulet.volume.sagas.world import AGENT_BINARY, SCHEDULER_BINARY, World
from cumulet.volume.states import DELETED, ERROR


class VolumeScheduler:
    """The role ``volume-scheduler``: the saga engine and what agents tell."""

    def __init__(self, world: World, engine: SagaEngine, bus: Bus, host: str) -> None:
        self._world, self._engine, self._bus, self._host = world, engine, bus, host
        self._subscription: Subscription | None = None
        self.alive = Loop("volume scheduler", world.config.report_seconds, self._alive)
        self.purge = Loop("volume purge", 3600.0, self.drop_old)

    async def start(self) -> None:
        handlers: Handlers = {REPORT: self.report, HELD: self.held, FINISHED: self.finished, POKE: self.poke}
        self._subscription = await self._bus.subscribe(handlers, component="volume-scheduler", host=self._host)
        await self._engine.start()
        await self.alive.start()
        await self.purge.start()

    async def stop(self) -> None:
        await self.purge.stop()
        await self.alive.stop()
        if self._subscription is not None:
            await self._subscription.stop()
        await self._engine.stop()

    # ---- what it hears

    async def report(self, told: Report) -> Nothing:
        await self._seen(
            told.backend, AGENT_BINARY, told.zone, total_gib=told.total_gib, free_gib=told.free_gib,
            protocol=told.protocol,
        )  # fmt: skip
        return Nothing()

    async def held(self, told: Held) -> Superfluous:
        """Name only what the records know to be deleted, failed or elsewhere, and what no saga works on."""
        database = self._world.database
        busy = {row["subject"] for row in await database.all(select(SAGAS.c.subject).where(SAGAS.c.state == "ready"))}
        superfluous: list[str] = []
        for start in range(0, len(told.ids), 200):
            ids = told.ids[start : start + 200]
            volumes = select(VOLUMES.c.id, VOLUMES.c.status, VOLUMES.c.host).where(VOLUMES.c.id.in_(ids))
            for row in await database.all(volumes):
                elsewhere = row["host"] is not None and backend_host(row["host"]) != told.host
                failed = row["host"] is None and row["status"] == ERROR
                if row["status"] == DELETED or elsewhere or failed:
                    superfluous.append(row["id"])
            snapshots = select(SNAPSHOTS.c.id).where(SNAPSHOTS.c.id.in_(ids), SNAPSHOTS.c.status == DELETED)
            superfluous += [row["id"] for row in await database.all(snapshots)]
        return Superfluous([id_ for id_ in superfluous if id_ not in busy])

    async def finished(self, told: Finished) -> Nothing:
        await self._engine.poke_subject(told.subject)
        return Nothing()

    async def poke(self, told: Poke) -> Nothing:
        self._engine.poke(told.saga_id)
        return Nothing()

    # ---- what it keeps true

    async def _alive(self) -> None:
        await self._seen(self._host, SCHEDULER_BINARY, self._world.config.zone)

    async def _seen(self, host: str, binary: str, zone: str, **facts: object) -> None:
        now = clock.now()

        async def body(tx: Transaction) -> None:
            row = (SERVICES.c.host == host) & (SERVICES.c.binary == binary)
            if not await tx.run(SERVICES.update().where(row).values(zone=zone, seen_at=now, **facts)):
                new = {"host": host, "binary": binary, "zone": zone, "disabled": False, "created_at": now}
                await tx.insert(SERVICES, {**new, "seen_at": now, **facts})

        await self._world.database.run(body, durable=False)

    async def drop_old(self) -> None:
        """Forget volumes, snapshots and sagas that ended long ago."""
        before = clock.now() - self._world.config.keep_deleted_days * 86_400

        async def body(tx: Transaction) -> None:
            for table in (SNAPSHOTS, VOLUMES):
                await tx.run(table.delete().where(table.c.status == DELETED, table.c.deleted_at < before))

        await self._world.database.run(body, durable=False)
        await self._engine.journal.purge(clock.now() - 7 * 86_400)

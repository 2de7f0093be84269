# SPDX-License-Identifier: Apache-2.0
"""What the sagas act on: the records, and the agents behind the bus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from cumulet.kernel import clock
from cumulet.kernel.bus import Bus, Method
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.quota import Quota
from cumulet.kernel.saga import Failed, Run, Wait
from cumulet.volume.config import VolumeConfig
from cumulet.volume.models import SAGAS, SERVICES, SNAPSHOTS, TYPES, VOLUMES
from cumulet.volume.rpc import Outcome, agent_of
from cumulet.volume.scheduler import Candidate
from cumulet.volume.states import DELETED

AGENT_BINARY, SCHEDULER_BINARY = "cinder-volume", "cinder-scheduler"
"""What the published API calls our roles."""
LOOK = 15.0
"""Seconds after which an order in work is looked at when its end was not heard."""


@dataclass
class World:
    """The surroundings of one saga engine."""

    database: Database
    bus: Bus
    quota: Quota
    config: VolumeConfig

    async def order(self, method: Method[Any, Outcome], request: Any, host: str) -> None:
        """Have an agent carry out an order. Raises Wait while it is in work, Failed, or Unavailable."""
        outcome = await self.bus.call(method, request, host=agent_of(host))
        if outcome.state == "working":
            raise Wait(LOOK)
        if outcome.state == "failed":
            raise Failed(outcome.error, full=outcome.full)

    async def volume(self, volume_id: str) -> Row:
        """A volume's row with its type's name; raises Failed when it is gone."""
        found = await self.database.first(_with_type(VOLUMES).where(VOLUMES.c.id == volume_id))
        if found is None or found["status"] == DELETED:
            raise Failed(f"Volume {volume_id} could not be found.")
        return found

    async def snapshot(self, snapshot_id: str) -> Row:
        """A snapshot's row with its type's name; raises Failed when it is gone."""
        found = await self.database.first(_with_type(SNAPSHOTS).where(SNAPSHOTS.c.id == snapshot_id))
        if found is None or found["status"] == DELETED:
            raise Failed(f"Snapshot {snapshot_id} could not be found.")
        return found

    async def alone(self, run: Run, subject: str) -> None:
        """Wait until no other saga works on a resource."""
        other = select(SAGAS.c.id).where(SAGAS.c.subject == subject, SAGAS.c.state == "ready", SAGAS.c.id != run.id)
        if await self.database.first(other) is not None:
            raise Wait(0.5)


def _with_type(table: Any) -> Any:
    return select(table, TYPES.c.name.label("type_name")).join(TYPES, TYPES.c.id == table.c.type_id)


async def candidates(tx: Transaction | Database, config: VolumeConfig) -> list[Candidate]:
    """All back ends as they were last seen, with what they promised."""
    size = func.coalesce(func.sum(VOLUMES.c.size), 0).label("gib")
    held = select(VOLUMES.c.host, size).where(VOLUMES.c.host.is_not(None), VOLUMES.c.status != DELETED)
    promised: dict[str, float] = {}
    for row in await tx.all(held.group_by(VOLUMES.c.host)):
        host = row["host"].partition("#")[0]
        promised[host] = promised.get(host, 0.0) + float(row["gib"])
    late = clock.now() - config.down_seconds
    return [
        Candidate(
            host=row["host"],
            zone=row["zone"],
            total_gib=row["total_gib"] or 0.0,
            free_gib=row["free_gib"] or 0.0,
            promised_gib=promised.get(row["host"], 0.0),
            up=row["seen_at"] > late,
            disabled=row["disabled"],
        )
        for row in await tx.all(select(SERVICES).where(SERVICES.c.binary == AGENT_BINARY))
    ]

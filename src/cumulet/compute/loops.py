# SPDX-License-Identifier: Apache-2.0
"""What must stay true of compute without anybody asking: addresses, tombstones, finished sagas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from cumulet.compute.logic.hosts import seen
from cumulet.compute.models import ACTIONS, ADDRESSES, BLOCK_DEVICES, SERVERS
from cumulet.kernel import clock
from cumulet.kernel.loops import Loop

if TYPE_CHECKING:
    from cumulet.compute.conductor import Conductor
    from cumulet.compute.logic import Compute
    from cumulet.kernel.db import Transaction

KEEP_SAGAS = 7 * 86_400.0


def loops(compute: Compute, conductor: Conductor) -> list[Loop]:
    """The conductor's reconcilers."""
    healed: list[str] = []

    async def heal() -> None:
        """Refresh the addresses of one server a turn, in the order of their ids: what an event lost, this finds."""
        after = healed.pop() if healed else ""
        living = select(SERVERS.c.id).where(SERVERS.c.deleted_at.is_(None), SERVERS.c.task_state.is_(None))
        rows = await compute.db.all(living.where(SERVERS.c.id > after).order_by(SERVERS.c.id).limit(1), point=True)
        if rows:
            healed.append(rows[0]["id"])  # also of one that can't be refreshed: the others have their turn
            await conductor.refresh(rows[0]["id"])

    async def purge() -> None:
        """Forget servers that were deleted long ago, with their actions, and sagas that ended long ago."""
        old = select(SERVERS.c.id).where(SERVERS.c.deleted_at < clock.now() - compute.settings.keep_deleted)

        async def body(tx: Transaction) -> None:
            await tx.run(ACTIONS.delete().where(ACTIONS.c.server_id.in_(old)))
            for table in (BLOCK_DEVICES, ADDRESSES):
                await tx.run(table.delete().where(table.c.server_id.in_(old)))
            await tx.run(SERVERS.delete().where(SERVERS.c.deleted_at < clock.now() - compute.settings.keep_deleted))

        await compute.db.run(body, durable=False)
        await conductor.engine.journal.purge(clock.now() - KEEP_SAGAS)

    async def sign_of_life() -> None:
        """This conductor is there, as the list of services shows."""

        async def body(tx: Transaction) -> None:
            await seen(tx, host=compute.host, binary="nova-conductor")

        await compute.db.run(body, durable=False)

    return [
        Loop("sign of life", 15.0, sign_of_life),
        Loop("heal addresses", 30.0, heal, at_start=False),
        Loop("purge", 3600.0, purge, at_start=False),
    ]

# SPDX-License-Identifier: Apache-2.0
"""Start, stop and reboot: one action on the host, its end in the record."""

from __future__ import annotations

from cumulet.compute.models import SERVERS
from cumulet.compute.rpc import POWER, Power
from cumulet.compute.sagas.params import PowerServer
from cumulet.compute.sagas.world import World, set_fault
from cumulet.compute.states import DELETING, SERVER
from cumulet.kernel.db import Transaction
from cumulet.kernel.saga import Failed, Run, Saga, Step

GRACE = 60.0
"""Seconds that a guest has to power off by itself."""

_ACTIONS = {"start": "start", "stop": "stop", "reboot-soft": "reboot_soft", "reboot-hard": "reboot_hard"}
"""saga action → name in the action table"""


async def act(run: Run) -> None:
    """Have the host do it, then record where the server is."""
    world: World = run.world
    params: PowerServer = run.params
    server = await world.server(run.subject)
    request = Power(run.subject, params.action, grace=GRACE)
    answer = await world.on_host(POWER, request, server["host"], timeout=GRACE + 60.0)
    if answer is None:
        raise Failed(f"Host {server['host']} does not answer.")

    async def record(tx: Transaction) -> None:
        name = _ACTIONS[params.action]
        await SERVER.finish(tx, name, run.subject, power_state=answer.power_state)

    run.commit(record)


async def mark_failed(run: Run, failed: Failed) -> None:
    """The server stays what it was; the fault says why."""

    async def record(tx: Transaction) -> None:
        mine = (SERVERS.c.id == run.subject) & SERVERS.c.task_state.is_distinct_from(DELETING)
        await tx.run(SERVERS.update().where(mine).values(task_state=None))
        await set_fault(tx, run.subject, failed.message)

    run.commit(record)


POWER_SERVER = Saga("compute.power_server", PowerServer, (Step("act", act, within=300.0),), on_failed=mark_failed)

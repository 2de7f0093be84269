# SPDX-License-Identifier: Apache-2.0
"""Delete a server: accepted in every state, and always ends.

It only goes forward. What runs for the server is cancelled first; a host that
is dead is not waited for: its agent removes the guest when it is back.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from cumulet.compute.models import BLOCK_DEVICES, SAGAS, SERVERS
from cumulet.compute.rpc import ENSURE_ABSENT, EnsureAbsent
from cumulet.compute.sagas.create import drop_devices, our_ports
from cumulet.compute.sagas.params import CreateServer, DeleteServer
from cumulet.compute.sagas.world import World, set_fault
from cumulet.compute.scheduler.rpc import RELEASE, ReleaseHost
from cumulet.compute.states import SERVER
from cumulet.compute.vifs import keep_vifs
from cumulet.kernel import clock, fences
from cumulet.kernel.db import Transaction
from cumulet.kernel.saga import Failed, Run, Saga, Step, Wait


async def settle_others(run: Run) -> None:
    """Wait until every other saga of this server is over; logic cancelled them."""
    world: World = run.world
    others = select(SAGAS.c.id).where(SAGAS.c.subject == run.subject, SAGAS.c.state == "ready", SAGAS.c.id != run.id)

    async def cancel(tx: Transaction) -> None:
        waiting = (SAGAS.c.subject == run.subject) & (SAGAS.c.state == "ready") & (SAGAS.c.id != run.id)
        await tx.run(SAGAS.update().where(waiting & ~SAGAS.c.cancel).values(cancel=True, wake_at=clock.now()))

    if await world.db.all(others, point=True):
        await world.db.run(cancel, durable=False)
        raise Wait(0.5)


async def remove_guest(run: Run) -> None:
    """The host has nothing of the server any more: guest, disks, connections."""
    world: World = run.world
    row = await world.db.first(select(SERVERS).where(SERVERS.c.id == run.subject))
    if row is not None and row["host"]:
        await world.on_host(ENSURE_ABSENT, EnsureAbsent(run.subject), row["host"])


async def drop_volumes(run: Run) -> None:
    """Detach everything; delete the volumes that asked for it."""
    world: World = run.world
    row = await world.db.first(select(SERVERS.c.attempt).where(SERVERS.c.id == run.subject))
    newest = max(world.max_attempts, row["attempt"] if row is not None else 0)
    await drop_devices(world, run.subject, newest, finally_=True)


async def drop_ports(run: Run) -> None:
    """Delete the ports that the server's create or attach made; keep the user's own."""
    world: World = run.world
    ours: set[str] = set()
    journal = select(SAGAS.c.params).where(SAGAS.c.subject == run.subject, SAGAS.c.name == CREATE)
    for row in await world.db.all(journal, point=True):
        ours |= our_ports(msgspec.convert(row["params"], CreateServer))
    server = await world.db.first(select(SERVERS.c.slots).where(SERVERS.c.id == run.subject))
    if server is not None:
        ours |= {slot["new_port_id"] for slot in server["slots"] or [] if slot.get("new_port_id")}
    await world.drop_ports(run.subject, ours, fences.LAST)


async def release_claim(run: Run) -> None:
    world: World = run.world
    await world.bus.call(RELEASE, ReleaseHost(run.subject, fences.LAST), timeout=30.0)


async def bury(run: Run) -> None:
    """The tombstone, the quota given back, the notification: one commit."""
    world: World = run.world

    async def record(tx: Transaction) -> None:
        row = await tx.first(select(SERVERS).where(SERVERS.c.id == run.subject))
        if row is None or row["deleted_at"] is not None:
            return
        flavor = row["flavor"]
        freed = {"instances": 1, "cores": flavor["vcpus"], "ram": flavor["ram"]}
        await world.quota.give(tx, row["project_id"], freed)
        await tx.run(BLOCK_DEVICES.delete().where(BLOCK_DEVICES.c.server_id == run.subject))
        now = clock.now()
        await keep_vifs(tx, run.subject, [])
        await SERVER.finish(tx, "delete", run.subject, power_state=0, deleted_at=now, terminated_at=now, fault=None)
        await world.outbox.add(tx, "instance.delete.end", {"server_id": run.subject})

    run.commit(record)


async def mark_error(run: Run, failed: Failed) -> None:
    """It could not be finished now: the server shows why, and may be deleted again."""

    async def record(tx: Transaction) -> None:
        await SERVER.finish(tx, "delete", run.subject, ends="error")
        await set_fault(tx, run.subject, f"Delete failed: {failed.message}")

    run.commit(record)


CREATE = "compute.create_server"

DELETE_SERVER = Saga(
    "compute.delete_server",
    DeleteServer,
    (
        Step("settle", settle_others, within=1800.0),
        Step("guest", remove_guest, within=600.0),
        Step("volumes", drop_volumes, within=600.0),
        Step("ports", drop_ports, within=600.0),
        Step("claim", release_claim, within=600.0),
        Step("gone", bury),
    ),
    on_failed=mark_error,
)

# SPDX-License-Identifier: Apache-2.0
"""The sagas of snapshots: create and delete."""

from __future__ import annotations

from sqlalchemy import delete

from cumulet.kernel import clock
from cumulet.kernel.db import Transaction
from cumulet.kernel.saga import Failed, Run, Saga, Step
from cumulet.volume.limits import snapshot_costs
from cumulet.volume.models import SNAPSHOTS, WORDS
from cumulet.volume.rpc import DROP, SNAP, Drop, Snap
from cumulet.volume.sagas.params import CreateSnapshot, DeleteSnapshot
from cumulet.volume.sagas.volumes import drop_there, is_there
from cumulet.volume.sagas.world import World
from cumulet.volume.states import CREATING, ERROR_DELETING, SNAPSHOT


async def make(run: Run) -> None:
    params: CreateSnapshot = run.params
    row = await run.world.snapshot(params.snapshot_id)
    await run.world.order(SNAP, Snap(params.snapshot_id, params.volume_id), row["host"])


async def unmake(run: Run) -> None:
    row = await run.world.snapshot(run.params.snapshot_id)
    await drop_there(run, [run.params.snapshot_id], row["host"])


async def ready(run: Run) -> None:
    async def body(tx: Transaction) -> None:
        row = await tx.first(SNAPSHOTS.select().where(SNAPSHOTS.c.id == run.params.snapshot_id))
        if row is not None and row["status"] == CREATING:
            await SNAPSHOT.finish(tx, "create", run.params.snapshot_id, progress="100%")

    run.commit(body)


async def create_failed(run: Run, failed: Failed) -> None:
    async def body(tx: Transaction) -> None:
        row = await tx.first(SNAPSHOTS.select().where(SNAPSHOTS.c.id == run.params.snapshot_id))
        if row is not None and row["status"] == CREATING:
            await SNAPSHOT.begin(tx, "fail", run.params.snapshot_id, fault=failed.message)

    run.commit(body)


CREATE_SNAPSHOT = Saga(
    "volume.create_snapshot",
    CreateSnapshot,
    (Step("make", make, unmake, within=6 * 3600.0), Step("ready", ready)),
    on_failed=create_failed,
)


async def stand_alone(run: Run) -> None:
    await run.world.alone(run, run.params.snapshot_id)


async def absent(run: Run) -> None:
    row = await run.world.snapshot(run.params.snapshot_id)
    await run.world.order(DROP, Drop([row["id"]]), row["host"])


async def gone(run: Run) -> None:
    world: World = run.world
    row = await world.snapshot(run.params.snapshot_id)

    async def body(tx: Transaction) -> None:
        if not await is_there(tx, SNAPSHOTS, row["id"]):
            return
        await SNAPSHOT.finish(tx, "delete", row["id"], deleted_at=clock.now())
        await world.quota.give(tx, row["project_id"], snapshot_costs(row["size"], row["type_name"]))
        await tx.run(delete(WORDS).where(WORDS.c.owner_id == row["id"]))

    run.commit(body)


async def delete_failed(run: Run, failed: Failed) -> None:
    async def body(tx: Transaction) -> None:
        await SNAPSHOT.finish(tx, "delete", run.params.snapshot_id, ends=ERROR_DELETING, fault=failed.message)

    run.commit(body)


DELETE_SNAPSHOT = Saga(
    "volume.delete_snapshot",
    DeleteSnapshot,
    (Step("alone", stand_alone, within=600.0), Step("absent", absent, within=600.0), Step("gone", gone)),
    on_failed=delete_failed,
)

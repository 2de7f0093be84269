# SPDX-License-Identifier: Apache-2.0
"""The sagas of volumes: create, delete, extend.

A volume that can't be made anywhere stays as a record in error, with nothing
behind it. What an agent could not be told to drop is found by its own sweep.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table, delete, select

from cumulet.kernel import clock
from cumulet.kernel.db import Transaction
from cumulet.kernel.errors import Unavailable
from cumulet.kernel.saga import Failed, RetryFrom, Run, Saga, Step, Wait
from cumulet.volume.limits import growth_costs, snapshot_costs, volume_costs
from cumulet.volume.models import ATTACHMENTS, VOLUMES, WORDS
from cumulet.volume.rpc import DROP, GROW, MAKE, Drop, Grow, Make, backend_host
from cumulet.volume.sagas.params import CreateVolume, DeleteVolume, ExtendVolume
from cumulet.volume.sagas.world import World, candidates
from cumulet.volume.scheduler import DOWN, NOT_THERE, Request, rank
from cumulet.volume.states import CREATING, DELETED, ERROR_DELETING, ERROR_EXTENDING, EXTENDING, SNAPSHOT, VOLUME

_GIVE_UP = 5
"""Tries of an undo on a host that does not answer; its own sweep does the rest."""


# ---- create


async def choose_host(run: Run) -> str:
    """Claim room on the best back end: the volume's row gets its host."""
    world: World = run.world
    params: CreateVolume = run.params
    tried: list[str] = run.notes.get("tried", [])
    request = Request(params.size_gib, params.zone, params.only, tried)

    async def body(tx: Transaction) -> str | dict[str, str]:
        row = await tx.first(VOLUMES.select().where(VOLUMES.c.id == params.volume_id))
        if row is not None and row["host"] is not None:
            return str(row["host"])
        hosts, reasons = rank(request, await candidates(tx, world.config), world.config.over_subscription)
        if not hosts:
            return reasons
        host = f"{hosts[0]}#{hosts[0].partition('@')[2]}"
        await tx.run(VOLUMES.update().where(VOLUMES.c.id == params.volume_id).values(host=host))
        return host

    found = await world.database.run(body, durable=False)
    if isinstance(found, str):
        return found
    if set(found.values()) - {NOT_THERE} <= {DOWN} and clock.now() - run.since < 30:
        raise Wait(1.0)  # none has reported yet, or none since a restart
    told = "; ".join(f"{host} {reason}" for host, reason in sorted(found.items())) or "no back end has reported"
    last = run.notes.get("last_reason")
    raise Failed(f"No valid backend was found. {told}" + (f". The last one that was tried: {last}" if last else ""))


async def release_host(run: Run) -> None:
    async def body(tx: Transaction) -> None:
        mine = (VOLUMES.c.id == run.params.volume_id) & (VOLUMES.c.status == CREATING)
        await tx.run(VOLUMES.update().where(mine).values(host=None))

    run.commit(body)


async def make(run: Run) -> None:
    params: CreateVolume = run.params
    host = run.outputs["host"]
    try:
        await run.world.order(MAKE, Make(params.volume_id, params.size_gib, params.kind, params.source_id), host)
    except Failed as failed:
        if failed.details.get("full") and params.only is None:
            reason = f"{backend_host(host)}: {failed.message}"
            raise RetryFrom("host", failed.message, tried=[backend_host(host)], last_reason=reason) from None
        raise


async def unmake(run: Run) -> None:
    if "host" in run.outputs:
        await drop_there(run, [run.params.volume_id], run.outputs["host"])


async def drop_there(run: Run, ids: list[str], host: str) -> None:
    """Have an agent drop something; one that is dead for long does it itself when it is back."""
    try:
        await run.world.order(DROP, Drop(ids), host)
    except Unavailable:
        if run.tries < _GIVE_UP:
            raise


async def ready(run: Run) -> None:
    async def body(tx: Transaction) -> None:
        row = await tx.first(VOLUMES.select().where(VOLUMES.c.id == run.params.volume_id))
        if row is not None and row["status"] == CREATING:
            await VOLUME.finish(tx, "create", run.params.volume_id, fault=None)

    run.commit(body)


async def create_failed(run: Run, failed: Failed) -> None:
    async def body(tx: Transaction) -> None:
        row = await tx.first(VOLUMES.select().where(VOLUMES.c.id == run.params.volume_id))
        if row is not None and row["status"] == CREATING:
            await VOLUME.begin(tx, "fail", run.params.volume_id, fault=failed.message, host=None)

    run.commit(body)


CREATE_VOLUME = Saga(
    "volume.create_volume",
    CreateVolume,
    (
        Step("host", choose_host, release_host, within=60.0),
        Step("make", make, unmake, within=6 * 3600.0),
        Step("ready", ready),
    ),
    on_failed=create_failed,
)


# ---- delete


async def stand_alone(run: Run) -> None:
    await run.world.alone(run, run.params.volume_id)
    for snapshot_id in run.params.snapshots:
        await run.world.alone(run, snapshot_id)


async def absent(run: Run) -> None:
    """The data is gone; a volume that never got a host has none."""
    row = await run.world.volume(run.params.volume_id)
    if row["host"] is not None:
        await run.world.order(DROP, Drop([*run.params.snapshots, row["id"]]), row["host"])


async def gone(run: Run) -> None:
    world: World = run.world
    row = await world.volume(run.params.volume_id)
    snapshots = [await world.snapshot(snapshot_id) for snapshot_id in run.params.snapshots]

    async def body(tx: Transaction) -> None:
        if not await is_there(tx, VOLUMES, row["id"]):
            return
        now = clock.now()
        await VOLUME.finish(tx, "delete", row["id"], deleted_at=now, host=None)
        await world.quota.give(tx, row["project_id"], volume_costs(row["size"], row["type_name"]))
        await tx.run(delete(ATTACHMENTS).where(ATTACHMENTS.c.volume_id == row["id"]))
        await tx.run(delete(WORDS).where(WORDS.c.owner_id.in_([row["id"], *run.params.snapshots])))
        for one in snapshots:
            await SNAPSHOT.finish(tx, "delete", one["id"], deleted_at=now)
            await world.quota.give(tx, one["project_id"], snapshot_costs(one["size"], one["type_name"]))

    run.commit(body)


async def is_there(tx: Transaction, table: Table, id_: str) -> bool:
    """Whether a record is not deleted yet: what a delete gives back it gives once."""
    return await tx.first(select(table.c.id).where(table.c.id == id_, table.c.status != DELETED)) is not None


async def delete_failed(run: Run, failed: Failed) -> None:
    async def body(tx: Transaction) -> None:
        await VOLUME.finish(tx, "delete", run.params.volume_id, ends=ERROR_DELETING, fault=failed.message)
        for snapshot_id in run.params.snapshots:
            await SNAPSHOT.finish(tx, "delete", snapshot_id, ends=ERROR_DELETING, fault=failed.message)

    run.commit(body)


DELETE_VOLUME = Saga(
    "volume.delete_volume",
    DeleteVolume,
    (Step("alone", stand_alone, within=600.0), Step("absent", absent, within=600.0), Step("gone", gone)),
    on_failed=delete_failed,
)


# ---- extend


async def grow(run: Run) -> None:
    params: ExtendVolume = run.params
    row = await run.world.volume(params.volume_id)
    await run.world.order(GROW, Grow(params.volume_id, params.new_gib), row["host"])


async def grown(run: Run) -> None:
    async def body(tx: Transaction) -> None:
        await VOLUME.finish(tx, "extend", run.params.volume_id, size=run.params.new_gib)

    run.commit(body)


async def extend_failed(run: Run, failed: Failed) -> None:
    world: World = run.world
    params: ExtendVolume = run.params
    row = await world.volume(params.volume_id)
    costs = growth_costs(params.new_gib - params.old_gib, row["type_name"])

    async def body(tx: Transaction) -> None:
        now: Any = await tx.first(VOLUMES.select().where(VOLUMES.c.id == params.volume_id))
        if now is not None and now["status"] == EXTENDING:
            await VOLUME.finish(tx, "extend", params.volume_id, ends=ERROR_EXTENDING, fault=failed.message)
        await world.quota.give(tx, row["project_id"], costs)

    run.commit(body)


EXTEND_VOLUME = Saga(
    "volume.extend_volume",
    ExtendVolume,
    (Step("grow", grow, within=600.0), Step("grown", grown)),
    on_failed=extend_failed,
)

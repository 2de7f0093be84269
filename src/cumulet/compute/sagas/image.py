# SPDX-License-Identifier: Apache-2.0
"""Make an image of a server: register it, have the host copy the disk and send it, or snapshot its volumes.

Invariant: an image that is not active at the end is not there at all: no record,
no data, no copy on the host, no snapshot of a volume. All ids are chosen before
the first step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
from sqlalchemy import select

from cumulet.compute.models import SERVERS
from cumulet.compute.rpc import DROP_SNAPSHOT, TAKE_SNAPSHOT, DropSnapshot, TakeSnapshot
from cumulet.compute.sagas.params import CreateImage, VolumeSnapshot
from cumulet.compute.sagas.world import World, gone_is_fine, set_fault
from cumulet.compute.states import IMAGE_MARKS, IMAGE_UPLOADING, SERVER
from cumulet.kernel.db import Transaction
from cumulet.kernel.errors import Conflict, Forbidden, NotFound
from cumulet.kernel.saga import Cancelled, Failed, Run, Saga, Step, Wait

_SLOWEST = 2.0
"""Seconds between two looks at a host's work."""
_WITHIN = 6 * 3600.0
"""Seconds for copy and upload together."""


async def register(run: Run) -> None:
    """The image's record is there, queued, under the id that was chosen."""
    world: World = run.world
    params: CreateImage = run.params
    body = {
        **params.properties, "id": params.image_id, "name": params.name, "visibility": params.visibility,
        "min_disk": params.min_disk, "min_ram": params.min_ram,
    }  # fmt: skip
    try:
        await world.image.create_image(body)
    except Conflict:
        await _ours(run)


async def _ours(run: Run) -> Any:
    """The image of an earlier try; raises Failed when somebody deleted it or made another one."""
    try:
        image = await run.world.image.image(run.params.image_id, as_service=True)
    except NotFound:
        raise Failed(f"Image {run.params.image_id} was deleted.") from None
    if image.properties.get("instance_uuid") != run.subject:
        raise Failed(f"Image {run.params.image_id} is another one's.")
    return image


async def unregister(run: Run) -> None:
    """The image is gone, whatever its user did with it meanwhile."""
    world: World = run.world
    image_id = run.params.image_id
    try:
        await gone_is_fine(world.image.delete_image(image_id, as_service=True))
    except Forbidden:  # somebody protected it
        await gone_is_fine(world.image.change_image(image_id, {"protected": False}, as_service=True))
        await gone_is_fine(world.image.delete_image(image_id, as_service=True))


async def capture(run: Run) -> None:
    """The image has its data: the copy of the root disk, or (booted from a volume) none, and snapshots instead."""
    world: World = run.world
    params: CreateImage = run.params
    if params.volumes:
        return await _snapshot_volumes(run)
    image = await _ours(run)
    if image.status not in ("queued", "saving"):  # asked by us: a joined host may not look at everybody's images
        return await _forget_copy(run)
    server = await world.server(run.subject)
    if not server["host"]:
        raise Failed(f"Instance {run.subject} is on no host.")
    caller = run.caller
    order = TakeSnapshot(
        run.subject, params.image_id, caller.journal() if caller else None, caller.token if caller else None
    )  # fmt: skip
    answer = await world.on_host(TAKE_SNAPSHOT, order, server["host"], timeout=30.0)
    if answer is None:
        raise Failed(f"Host {server['host']} does not answer.")
    if answer.error is not None:
        raise Failed(answer.error)
    if answer.phase is None:
        return
    if answer.format is not None and image.status == "queued" and image.disk_format != answer.format:
        facts = {
            "disk_format": answer.format, "container_format": "bare", "image_location": "snapshot",
            "image_state": "available",
        }  # fmt: skip
        await world.image.change_image(params.image_id, facts, as_service=True)
    await _show(run, answer.phase)
    raise Wait(min(0.05 * 1.5 ** min(run.tries, 20), _SLOWEST))


async def uncapture(run: Run) -> None:
    """Nothing is copied or sent any more; no snapshot of ours is left."""
    world: World = run.world
    if run.params.volumes:
        for one in run.params.volumes:
            await _drop_snapshot(world, one)
        return
    await _forget_copy(run)


async def _forget_copy(run: Run) -> None:
    """The host works no more on the image, and keeps no copy."""
    world: World = run.world
    row = await world.db.first(select(SERVERS.c.host).where(SERVERS.c.id == run.subject))
    if row is not None and row["host"]:
        await world.on_host(DROP_SNAPSHOT, DropSnapshot(run.subject), row["host"])


async def _drop_snapshot(world: World, one: VolumeSnapshot) -> None:
    found = await gone_is_fine(world.volume.snapshot(one.snapshot_id, as_service=True))
    if found is None or found.volume_id != one.volume_id:
        return
    if found.status == "creating":  # it ends before it can be deleted
        raise Wait(0.5)
    if found.status != "deleting":
        await gone_is_fine(world.volume.delete_snapshot(one.snapshot_id, as_service=True))


async def _snapshot_volumes(run: Run) -> None:
    """A snapshot of each volume; then the image becomes active without bytes of its own."""
    world: World = run.world
    params: CreateImage = run.params
    for one in params.volumes:
        try:
            found = await world.volume.create_snapshot(
                one.volume_id, f"snapshot for {params.name}", snapshot_id=one.snapshot_id
            )
        except Conflict:
            found = await world.volume.snapshot(one.snapshot_id, as_service=True)
            if found.volume_id != one.volume_id:
                raise
        if found.status == "error":
            raise Failed(f"Volume {one.volume_id} could not be snapshotted.")
        if found.status != "available":
            raise Wait(min(0.05 * 1.5 ** min(run.tries, 20), _SLOWEST))
    await _show(run, IMAGE_UPLOADING)
    image = await _ours(run)
    if image.status != "active":
        mappings = orjson.dumps([_mapping(one) for one in params.volumes]).decode()
        facts = {"disk_format": "raw", "container_format": "bare", "block_device_mapping": mappings, "bdm_v2": "True"}
        await world.image.change_image(params.image_id, facts, as_service=True)
        await world.image.upload(params.image_id, _nothing(), 0, as_service=True)


def _mapping(one: VolumeSnapshot) -> dict[str, Any]:
    """One block device of the image, in the members that are published for it."""
    return {
        "source_type": "snapshot", "destination_type": "volume", "snapshot_id": one.snapshot_id,
        "volume_size": one.size_gib or None, "boot_index": one.boot_index, "device_name": one.device_name,
        "delete_on_termination": one.delete_on_termination, "device_type": "disk", "disk_bus": one.disk_bus,
        "guest_format": None, "image_id": None, "volume_id": None, "no_device": None, "tag": one.tag,
        "volume_type": one.volume_type,
    }  # fmt: skip


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


async def _show(run: Run, mark: str) -> None:
    """The server's task_state says how far it is, unless something else took the server over."""

    async def body(tx: Transaction) -> None:
        row = await tx.first(select(SERVERS.c.task_state).where(SERVERS.c.id == run.subject))
        if row is not None and row["task_state"] in IMAGE_MARKS - {mark}:
            await SERVER.progress(tx, "create_image", run.subject, mark)

    await run.world.db.run(body, durable=False)


async def _let_go(tx: Transaction, server_id: str) -> None:
    """The server is free again; an action that an operator's reset let in meanwhile keeps its mark."""
    row = await tx.first(select(SERVERS.c.task_state).where(SERVERS.c.id == server_id))
    if row is not None and row["task_state"] in IMAGE_MARKS:
        await SERVER.finish(tx, "create_image", server_id)


async def finish(run: Run) -> None:
    world: World = run.world

    async def record(tx: Transaction) -> None:
        await _let_go(tx, run.subject)
        told = {"server_id": run.subject, "image_id": run.params.image_id}
        await world.outbox.add(tx, "instance.snapshot.end", told)

    run.commit(record)


async def failed(run: Run, error: Failed) -> None:
    """The server stays what it was; the fault says why."""

    async def record(tx: Transaction) -> None:
        await _let_go(tx, run.subject)
        if not isinstance(error, Cancelled):
            await set_fault(tx, run.subject, f"No image was made of the server: {error.message}")

    run.commit(record)


CREATE_IMAGE = Saga(
    "compute.create_image",
    CreateImage,
    (
        Step("register", register, undo=unregister, within=60.0),
        Step("capture", capture, undo=uncapture, within=_WITHIN),
        Step("finish", finish),
    ),
    on_failed=failed,
)

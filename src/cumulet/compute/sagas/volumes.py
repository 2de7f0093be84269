# SPDX-License-Identifier: Apache-2.0
"""Attach and detach a volume of a server that exists."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import select

from cumulet.compute.models import BLOCK_DEVICES, SAGAS
from cumulet.compute.rpc import PLUG_VOLUME, UNPLUG_VOLUME, PlugVolume, UnplugVolume
from cumulet.compute.sagas.params import AttachVolume, DetachVolume
from cumulet.compute.sagas.world import World, gone_is_fine, set_fault
from cumulet.kernel.db import Transaction
from cumulet.kernel.errors import Invalid, NotFound, Unavailable
from cumulet.kernel.saga import Cancelled, Failed, Run, Saga, Step, Wait


async def reserve(run: Run) -> None:
    """The attachment exists, reserved for this server; its id was chosen before."""
    params: AttachVolume = run.params
    await run.world.volume.create_attachment(params.volume_id, run.subject, attachment_id=params.attachment_id)


async def unreserve(run: Run) -> None:
    await run.world.drop_attachment(run.params.attachment_id)


async def plug(run: Run) -> str:
    """The host connects the volume and hot-plugs it; returns the device name."""
    world: World = run.world
    params: AttachVolume = run.params
    server = await world.server(run.subject)
    request = PlugVolume(run.subject, params.volume_id, params.attachment_id, params.device)
    answer = await world.on_host(PLUG_VOLUME, request, server["host"], timeout=120.0)
    if answer is None:
        raise Failed(f"Host {server['host']} does not answer.")
    device: str = answer.device
    return device


async def unplug_alone(run: Run) -> None:
    """Take it out once its attach is over: two sagas never work on one attachment."""
    others = select(SAGAS.c.id, SAGAS.c.params).where(
        SAGAS.c.subject == run.subject, SAGAS.c.name == ATTACH_VOLUME.name, SAGAS.c.state == "ready"
    )
    for other in await run.world.db.all(others, point=True):
        if other["params"]["block_device_id"] == run.params.block_device_id:
            raise Wait(0.2)
    await begin_detach(run)
    await unplug(run)


async def unplug(run: Run) -> None:
    request = UnplugVolume(run.subject, run.params.volume_id, run.params.attachment_id)
    await run.world.out_of_guest(UNPLUG_VOLUME, request, run.subject)


async def unplug_again(run: Run) -> None:
    """An attach is taken back: for as long as the host is silent, its guest may have the volume."""
    try:
        await unplug(run)
    except Unavailable:
        raise Wait(10.0) from None


async def complete(run: Run) -> None:
    """The volume is in use, the record knows its device."""
    params: AttachVolume = run.params
    world: World = run.world
    await world.volume.complete_attachment(params.attachment_id, as_service=True)
    device = run.outputs["plug"]

    async def record(tx: Transaction) -> None:
        row = BLOCK_DEVICES.update().where(BLOCK_DEVICES.c.id == params.block_device_id)
        await tx.run(row.values(device_name=device, attachment_id=params.attachment_id))

    run.commit(record)


async def forget(run: Run) -> None:
    """The server's record has no such device any more."""

    async def record(tx: Transaction) -> None:
        await tx.run(BLOCK_DEVICES.delete().where(BLOCK_DEVICES.c.id == run.params.block_device_id))

    run.commit(record)


async def attach_failed(run: Run, failed: Failed) -> None:
    async def record(tx: Transaction) -> None:
        await tx.run(BLOCK_DEVICES.delete().where(BLOCK_DEVICES.c.id == run.params.block_device_id))
        if not isinstance(failed, Cancelled):
            await set_fault(tx, run.subject, f"Volume {run.params.volume_id} was not attached: {failed.message}")

    run.commit(record)


async def begin_detach(run: Run) -> None:
    """The volume shows that it is being detached; one that does already, or is gone, is fine."""
    params: DetachVolume = run.params
    with suppress(NotFound, Invalid):
        await run.world.volume.begin_detaching(params.volume_id, params.attachment_id, as_service=True)


async def detach_failed(run: Run, failed: Failed) -> None:
    """It is still attached: the volume goes back to in-use, the fault says why."""
    if not isinstance(failed, Cancelled):
        await gone_is_fine(run.world.volume.roll_detaching(run.params.volume_id, as_service=True))

    async def record(tx: Transaction) -> None:
        if not isinstance(failed, Cancelled):
            await set_fault(tx, run.subject, f"Volume {run.params.volume_id} was not detached: {failed.message}")

    run.commit(record)


ATTACH_VOLUME = Saga(
    "compute.attach_volume",
    AttachVolume,
    (
        Step("reserve", reserve, undo=unreserve, within=60.0),
        Step("plug", plug, undo=unplug_again, within=240.0),
        Step("complete", complete, within=60.0),
    ),
    on_failed=attach_failed,
)

DETACH_VOLUME = Saga(
    "compute.detach_volume",
    DetachVolume,
    (
        Step("unplug", unplug_alone, within=300.0),
        Step("release", unreserve, within=120.0),
        Step("forget", forget),
    ),
    on_failed=detach_failed,
)

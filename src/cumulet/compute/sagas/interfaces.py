# SPDX-License-Identifier: Apache-2.0
"""Attach and detach a NIC of a server that exists."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.compute.models import SAGAS, SERVERS
from cumulet.compute.rpc import PLUG_PORT, UNPLUG_PORT, PlugPort, UnplugPort
from cumulet.compute.sagas.params import AttachInterface, DetachInterface
from cumulet.compute.sagas.world import World, gone_is_fine, set_fault
from cumulet.compute.vifs import keep_vifs
from cumulet.kernel import fences
from cumulet.kernel.db import Transaction
from cumulet.kernel.errors import Unavailable
from cumulet.kernel.saga import Cancelled, Failed, Run, Saga, Step, Wait


async def plug(run: Run) -> None:
    """The host binds the port, waits until it is wired and hot-plugs the NIC."""
    world: World = run.world
    params: AttachInterface = run.params
    server = await world.server(run.subject)
    request = PlugPort(
        run.subject, params.slot, server["project_id"], server["availability_zone"] or "", params.security_groups
    )
    if await world.on_host(PLUG_PORT, request, server["host"], timeout=120.0) is None:
        raise Failed(f"Host {server['host']} does not answer.")


async def unplug(run: Run) -> None:
    """The NIC is out of the guest; a port of ours is deleted, the user's is let go."""
    world: World = run.world
    slot = run.params.slot
    try:
        await _release(world, run.subject, slot.port_id or slot.new_port_id, delete=slot.new_port_id is not None)
    except Unavailable:  # its host is silent, and its guest may have the NIC
        raise Wait(10.0) from None


async def record_slot(run: Run) -> None:
    """The server's record knows the NIC, so that its delete knows whose port it is."""
    params: AttachInterface = run.params

    async def record(tx: Transaction) -> None:
        import msgspec

        row = await tx.first(select(SERVERS.c.slots).where(SERVERS.c.id == run.subject))
        slots: list[Any] = list(row["slots"] or []) if row else []
        added = msgspec.to_builtins(params.slot)
        if added not in slots:
            await tx.run(SERVERS.update().where(SERVERS.c.id == run.subject).values(slots=[*slots, added]))

    run.commit(record)


async def detach(run: Run) -> None:
    world: World = run.world
    params: DetachInterface = run.params
    await _attach_is_over(world, run.subject, params.port_id)
    row = await world.db.first(select(SERVERS.c.slots).where(SERVERS.c.id == run.subject))
    slots = (row["slots"] if row else None) or []
    ours = any(slot.get("new_port_id") == params.port_id for slot in slots)
    await _release(world, run.subject, params.port_id, delete=ours)

    async def record(tx: Transaction) -> None:
        now = await tx.first(select(SERVERS.c.slots, SERVERS.c.network_cache).where(SERVERS.c.id == run.subject))
        have = (now["slots"] if now else None) or []  # another NIC may have come meanwhile
        kept = [slot for slot in have if params.port_id not in (slot.get("new_port_id"), slot.get("port_id"))]
        cache = [vif for vif in (now["network_cache"] if now else None) or [] if vif.get("port_id") != params.port_id]
        await keep_vifs(tx, run.subject, cache, slots=kept)

    run.commit(record)


async def _attach_is_over(world: World, server_id: str, port_id: str) -> None:
    """Two sagas never work on one NIC: raises Wait while the port's attach is not over."""
    same = (SAGAS.c.subject == server_id) & (SAGAS.c.state == "ready") & (SAGAS.c.name == ATTACH_INTERFACE.name)
    for other in await world.db.all(select(SAGAS.c.params).where(same), point=True):
        slot = other["params"]["slot"]
        if port_id in (slot.get("port_id"), slot.get("new_port_id")):
            raise Wait(0.2)


async def _release(world: World, server_id: str, port_id: str, *, delete: bool) -> None:
    port = await gone_is_fine(world.network.port(port_id, as_service=True))
    if port is not None:
        if port.device_id != server_id:
            return
        await world.out_of_guest(UNPLUG_PORT, UnplugPort(server_id, port_id, port.mac_address), server_id)
    if delete:
        await gone_is_fine(world.network.delete_port(port_id, fence=fences.LAST, as_service=True))
    elif port is not None:
        await world.let_go(port)


async def failed(run: Run, error: Failed) -> None:
    async def record(tx: Transaction) -> None:
        if not isinstance(error, Cancelled):
            await set_fault(tx, run.subject, f"The interface was not changed: {error.message}")

    run.commit(record)


ATTACH_INTERFACE = Saga(
    "compute.attach_interface",
    AttachInterface,
    (Step("plug", plug, undo=unplug, within=240.0), Step("record", record_slot)),
    on_failed=failed,
)

DETACH_INTERFACE = Saga(
    "compute.detach_interface", DetachInterface, (Step("detach", detach, within=240.0),), on_failed=failed
)

# SPDX-License-Identifier: Apache-2.0
"""What is asked of a server that exists: delete, power, lock, reset, volumes and NICs.

Each is one transaction: the state's table allows it, the action is recorded,
the saga that does it is written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
from sqlalchemy import select

from cumulet.compute import rpc
from cumulet.compute.logic import Compute, actions, devices, networks, servers
from cumulet.compute.models import BLOCK_DEVICES, SAGAS, SERVERS
from cumulet.compute.sagas.params import (
    AttachInterface,
    AttachVolume,
    DeleteServer,
    DetachInterface,
    DetachVolume,
    NetworkSlot,
    PowerServer,
)
from cumulet.compute.sagas.volumes import ATTACH_VOLUME, DETACH_VOLUME
from cumulet.compute.states import DELETING, SERVER, SHELVED, SHELVED_OFFLOADED
from cumulet.kernel import clock, trace
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, Fault, Forbidden, Internal, Invalid, NotFound, of_status

DELETE: Final = str(SERVER.actions["delete"].saga)
Prepare = Callable[[Transaction, Row], Awaitable[msgspec.Struct]]
POWER: Final = {
    "start": ("start", "start"),
    "stop": ("stop", "stop"),
    "reboot_soft": ("reboot-soft", "reboot"),
    "reboot_hard": ("reboot-hard", "reboot"),
}
"""action of the states' table → (the saga's action, the recorded one)."""
_VOLUME_WORK: Final = {ATTACH_VOLUME.name: "attaching", DETACH_VOLUME.name: "detaching"}
"""saga → the status that the volume has meanwhile."""


class _GoesOn(Exception):
    """A delete of the server is at work: nothing is to be begun."""


async def start(
    compute: Compute,
    context: Context,
    server_id: str,
    action: str,
    log: str,
    prepare: Prepare,
    *,
    remember: bool = False,
    **values: Any,
) -> tuple[Row, str]:
    """Begin an action that a saga carries out; returns the row as it was and the saga's id.

    ``remember`` makes the saga the server's current one, which a delete cancels.
    """
    flow = trace.current()
    if flow is not None:
        flow.bind(server_id)

    async def body(tx: Transaction) -> tuple[Row, str]:
        row = await servers.load_in(tx, server_id)
        servers.check_unlocked(row, context)
        before = await SERVER.begin(tx, action, server_id, **values)
        params = await prepare(tx, before)
        name = SERVER.actions[action].saga
        assert name is not None
        saga_id = await compute.sagas.start_saga(tx, name, subject=server_id, params=params)
        if remember:
            await tx.run(SERVERS.update().where(SERVERS.c.id == server_id).values(saga_id=saga_id))
        await actions.record(tx, server_id, log, row["project_id"], saga_id)
        return before, saga_id

    return await compute.db.run(body)


async def delete(compute: Compute, context: Context, server_id: str) -> None:
    """Delete a server in whatever state it is; one that is being deleted already is left to it."""
    row = await servers.load(compute, context, server_id)
    if row["task_state"] == DELETING and row["vm_state"] != "error":
        return

    async def prepare(tx: Transaction, before: Row) -> DeleteServer:
        if before["saga_id"]:
            current = await tx.first(select(SAGAS.c.name, SAGAS.c.state).where(SAGAS.c.id == before["saga_id"]))
            if current is not None and (current["name"], current["state"]) == (DELETE, "ready"):
                raise _GoesOn
            await compute.sagas.cancel(tx, before["saga_id"])
        return DeleteServer(server_id)

    with suppress(_GoesOn):
        await start(compute, context, server_id, "delete", "delete", prepare, remember=True)


async def power(compute: Compute, context: Context, server_id: str, action: str) -> None:
    """``action`` is start, stop, reboot_soft or reboot_hard."""
    word, log = POWER[action]

    async def prepare(tx: Transaction, before: Row) -> PowerServer:
        if not before["host"]:
            raise Conflict(f"Instance {server_id} is not ready", kind="InstanceNotReady")
        return PowerServer(server_id, word)

    await start(compute, context, server_id, action, log, prepare, remember=True)


async def lock(compute: Compute, context: Context, row: Mapping[str, Any], reason: str | None) -> None:
    """Only an admin changes what an admin locked: see `unlock`."""
    owner = row["project_id"] == context.project_id
    if row["locked"] and owner:
        return
    changes = {"locked": True, "locked_by": "owner" if owner else "admin", "locked_reason": reason}
    await servers.change(compute, context, row["id"], "lock", lambda _: changes, log="lock", even_locked=True)


def locked_by_other(row: Mapping[str, Any], context: Context) -> bool:
    """Whether somebody else than the caller's kind (owner or admin) locked the server."""
    kind = "owner" if row["project_id"] == context.project_id else "admin"
    return row["locked_by"] not in (None, kind)


async def unlock(compute: Compute, context: Context, row: Mapping[str, Any]) -> None:
    changes = {"locked": False, "locked_by": None, "locked_reason": None}
    await servers.change(compute, context, row["id"], "unlock", lambda _: changes, log="unlock", even_locked=True)


async def reset_state(compute: Compute, context: Context, server_id: str, state: str) -> None:
    """Make a server ``active`` or ``error`` by an admin's word, with nothing going on."""

    async def body(tx: Transaction) -> None:
        row = await servers.load_in(tx, server_id)
        await SERVER.finish(tx, "reset_state", server_id, ends=state)
        await actions.record(tx, server_id, "resetState", row["project_id"])

    await compute.db.run(body)


async def console_log(compute: Compute, row: Mapping[str, Any], lines: int | None) -> str:
    """The last ``lines`` lines (None: all) of the serial console's log."""
    if not row["host"]:
        raise Conflict(f"Instance {row['id']} is not ready", kind="InstanceNotReady")
    text = await compute.bus.call(rpc.CONSOLE_LOG, rpc.ConsoleLog(row["id"]), host=row["host"])
    if lines is None or lines < 0:
        return text
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines else ""


# ---- security groups


async def change_groups(
    compute: Compute, context: Context, row: Mapping[str, Any], name: str, *, add: bool
) -> None:  # fmt: skip
    """Put a security group on all ports of a server, or take it off; raises NotFound as published."""
    servers.check_unlocked(row, context)
    try:
        (group,) = await networks.resolve_groups(compute, context, [name])
    except Invalid:
        raise NotFound(f"Security group {name} not found for project {context.project_id}.") from None
    ports = await compute.network.ports(device_id=row["id"])
    if not ports:
        raise NotFound(f"Instance {row['id']} has no port that a security group could be applied to.")
    if not add and not any(group["id"] in port.security_groups for port in ports):
        raise NotFound(f"Security group {name} not associated with the instance {row['id']}")
    for port in ports:
        have = [one for one in port.security_groups if one != group["id"]]
        wanted = [*have, group["id"]] if add else have
        if wanted != port.security_groups:
            await compute.network.update_port(port.id, {"security_groups": wanted})

    async def body(tx: Transaction) -> None:
        now = await servers.load_in(tx, row["id"])
        kept = [one for one in now["security_groups"] if one.get("id", one["name"]) not in (group["id"], group["name"])]
        shown = [*kept, group] if add else kept
        await tx.run(SERVERS.update().where(SERVERS.c.id == row["id"]).values(security_groups=shown))

    await compute.db.run(body, durable=False)


# ---- volumes


async def attach_volume(
    compute: Compute,
    context: Context,
    row: Mapping[str, Any],
    volume_id: str,
    *,
    device: str | None,
    tag: str | None,
    delete_on_termination: bool,
    multiattach: bool,
) -> str:
    """Accept to attach a volume; returns the device name it is meant for."""
    server_id = row["id"]
    if row["vm_state"] in (SHELVED, SHELVED_OFFLOADED):
        raise Conflict(f"Cannot 'attach_volume' instance {server_id} while it is in vm_state {row['vm_state']}")
    devices.next_name([], device)
    volume = await compute.volume.volume(volume_id)
    chosen = ""

    async def prepare(tx: Transaction, before: Row) -> AttachVolume:
        nonlocal chosen
        b = BLOCK_DEVICES.c
        others = await tx.all(
            select(b.server_id).join(SERVERS, SERVERS.c.id == b.server_id)
            .where(b.volume_id == volume_id, SERVERS.c.deleted_at.is_(None))
        )  # fmt: skip
        if others and not volume.multiattach:
            told = " ".join(one["server_id"] for one in others)
            raise Invalid(f"Invalid volume: volume {volume_id} is already attached to instances: {told}")
        if any(one["server_id"] == server_id for one in others):
            raise Invalid(f"Invalid volume: volume {volume_id} already attached")
        devices.check_attachable(volume, multiattach)
        have = await servers.devices_of(tx, server_id)
        chosen = devices.next_name(have, device)
        made = devices.attached(have, server_id, volume_id, volume.size, chosen, tag, delete_on_termination)
        await tx.insert(BLOCK_DEVICES, made)
        return AttachVolume(server_id, volume_id, made["attachment_id"], made["id"], chosen, delete_on_termination)

    await start(compute, context, server_id, "attach_volume", "attach_volume", prepare)
    return chosen


async def detach_volume(compute: Compute, context: Context, row: Mapping[str, Any], device: Row) -> None:
    """Accept to detach a volume; the root device is refused."""
    if device["boot_index"] == 0:
        raise Forbidden("Cannot detach a root device volume")

    async def prepare(tx: Transaction, before: Row) -> DetachVolume:
        now = await tx.first(select(BLOCK_DEVICES).where(BLOCK_DEVICES.c.id == device["id"]))
        if now is None:
            raise volume_missing(row["id"], device["volume_id"])
        if (doing := await _volume_work(tx, row["id"], device["id"])) is not None:
            raise Invalid(
                "Invalid input received: Invalid volume: Volume status must be in-use to detach, but current status "
                f"is: {doing}."
            )
        return DetachVolume(row["id"], now["volume_id"], now["attachment_id"] or "", now["id"])

    await start(compute, context, row["id"], "detach_volume", "detach_volume", prepare)


async def _volume_work(tx: Transaction, server_id: str, device_id: str) -> str | None:
    """What is being done to a block device. An attach that is about to end counts as done: the detach waits for it."""
    mine = (SAGAS.c.subject == server_id) & (SAGAS.c.state == "ready") & SAGAS.c.name.in_(list(_VOLUME_WORK))
    for saga in await tx.all(select(SAGAS.c.name, SAGAS.c.params, SAGAS.c.cursor).where(mine)):
        ending = saga["name"] == ATTACH_VOLUME.name and saga["cursor"] >= ATTACH_VOLUME.index("complete")
        if saga["params"]["block_device_id"] == device_id and not ending:
            return _VOLUME_WORK[saga["name"]]
    return None


async def attachment_of(compute: Compute, server_id: str, volume_id: str) -> Row:
    """The block device that a volume is on a server; raises NotFound."""
    b = BLOCK_DEVICES.c
    row = await compute.db.first(select(BLOCK_DEVICES).where(b.server_id == server_id, b.volume_id == volume_id))
    if row is None:
        raise volume_missing(server_id, volume_id)
    return row


def volume_missing(server_id: str, volume_id: str) -> NotFound:
    return NotFound(f"Instance {server_id} is not attached to volume {volume_id}", kind="VolumeBDMNotFound")


async def keep_volume(compute: Compute, device: Row, *, delete_on_termination: bool) -> None:
    """Change whether a volume goes with its server."""

    async def body(tx: Transaction) -> None:
        same = BLOCK_DEVICES.update().where(BLOCK_DEVICES.c.id == device["id"])
        await tx.run(same.values(delete_on_termination=delete_on_termination))

    await compute.db.run(body)


# ---- NICs


async def attach_interface(
    compute: Compute,
    context: Context,
    row: Mapping[str, Any],
    *,
    network_id: str | None,
    port_id: str | None,
    fixed_ip: str | None,
    tag: str | None,
    allows: Callable[[str], bool],
) -> str:
    """Attach a NIC and wait until it is; returns the port's id. Raises what made it fail."""
    if network_id and port_id:
        raise Invalid("Must not input both network_id and port_id")
    if fixed_ip and not network_id:
        raise Invalid("Must input network_id when request IP address")
    server_id = row["id"]
    slot = await _one_slot(compute, context, network_id, port_id, fixed_ip, tag, allows)

    async def prepare(tx: Transaction, before: Row) -> AttachInterface:
        return AttachInterface(server_id, slot)

    _, saga_id = await start(compute, context, server_id, "attach_interface", "attach_interface", prepare)
    await _wait(compute, saga_id)
    return slot.port_id or slot.new_port_id or ""


async def _one_slot(
    compute: Compute,
    context: Context,
    network_id: str | None,
    port_id: str | None,
    fixed_ip: str | None,
    tag: str | None,
    allows: Callable[[str], bool],
) -> NetworkSlot:
    wanted: str | list[dict[str, Any]] = "any"
    if port_id or network_id:
        item = {"port": port_id, "tag": tag} if port_id else {"uuid": network_id, "fixed_ip": fixed_ip, "tag": tag}
        wanted = [item]
    try:
        slots, _ = await networks.plan_slots(compute, context, wanted, count=1, allows=allows)
    except Invalid as refused:
        if refused.kind in ("PortNotFound", "NetworkNotFound"):
            raise NotFound(refused.message, kind=refused.kind) from None
        if refused.kind == "FixedIpAlreadyInUse":
            raise Conflict(refused.message, kind=refused.kind) from None
        raise
    except Conflict as refused:
        if refused.kind == "NetworkAmbiguous":
            raise Invalid(refused.message, kind=refused.kind) from None
        raise
    if not slots:
        raise Invalid(
            f"No specific network was requested and none are available for project '{context.project_id}'.",
            kind="InterfaceAttachFailedNoNetwork",
        )
    slot = slots[0]
    return slot if slot.tag == tag else msgspec.structs.replace(slot, tag=tag)


async def _wait(compute: Compute, saga_id: str) -> None:
    """Wait until a saga is over; raises its failure, or Internal when it takes too long."""
    deadline, pause = clock.monotonic() + compute.settings.attach_interface_wait, 0.02
    columns = (SAGAS.c.state, SAGAS.c.error)
    while clock.monotonic() < deadline:
        saga = await compute.db.first(select(*columns).where(SAGAS.c.id == saga_id))
        if saga is None or saga["state"] == "done":
            return
        if saga["state"] in ("failed", "stuck"):
            raise failure(saga["error"] or {})
        await clock.sleep(pause)
        pause = min(pause * 1.5, 0.5)
    raise Internal("The interface is not attached yet; the operation goes on.", kind="InterfaceAttachFailed")


def failure(error: Mapping[str, Any]) -> Fault:
    """What a saga failed of, as a fault of its own status."""
    message = str(error.get("message") or "Failed to attach network adapter device.")
    status = (error.get("details") or {}).get("status")
    return of_status(status, message) if isinstance(status, int) and 400 <= status < 500 else Internal(message)


async def detach_interface(compute: Compute, context: Context, row: Mapping[str, Any], port_id: str) -> None:
    """Accept to detach a NIC; raises NotFound for a port that is not the server's."""
    known = {vif["port_id"] for vif in row["network_cache"]}
    known |= {slot.get("port_id") or slot.get("new_port_id") for slot in row["slots"]}
    if port_id not in known:
        raise NotFound(f"Port id {port_id} could not be found.", kind="PortNotFound")

    async def prepare(tx: Transaction, before: Row) -> DetachInterface:
        return DetachInterface(row["id"], port_id)

    await start(compute, context, row["id"], "detach_interface", "detach_interface", prepare)

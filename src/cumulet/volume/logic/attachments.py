# SPDX-License-Identifier: Apache-2.0
"""Attachments: who uses a volume, from reservation to connection to use to end.

Reserve (create) → connect to a host (update) → in use (complete) → gone
(delete). An attachment that a server uses ends only by a service's word: else a
user could make a volume leave a guest that still writes to it (CVE-2023-2088).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import select

from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Duplicate, Row, Transaction
from cumulet.kernel.errors import Conflict, Forbidden, Internal, Invalid, NotFound
from cumulet.volume.errors import InvalidVolume
from cumulet.volume.logic import Volume
from cumulet.volume.logic.volumes import missing
from cumulet.volume.models import ATTACHMENTS, VOLUMES
from cumulet.volume.rpc import CONNECT, DISCONNECT, Connect, Disconnect, agent_of
from cumulet.volume.states import (
    ATTACHED,
    ATTACHING,
    ATTACHMENT,
    AVAILABLE,
    DELETED,
    DETACHING,
    IN_USE,
    RESERVED,
    VOLUME,
)


async def load(volume: Volume, caller: Context, attachment_id: str) -> Row:
    """One attachment; raises NotFound."""
    row = await volume.database.first(select(ATTACHMENTS).where(ATTACHMENTS.c.id == attachment_id))
    if row is None or not (caller.is_admin or caller.serves or row["project_id"] == caller.project_id):
        raise not_found(attachment_id)
    return row


def ensure_own(caller: Context, connector: Mapping[str, Any] | None) -> None:
    """Raise Forbidden where a host that calls by itself wants a volume for another host."""
    if caller.host is not None and connector is not None and connector.get("host") != caller.host:
        raise Forbidden(f"Host {caller.host} can't connect volumes for another host.")


def not_found(attachment_id: str) -> NotFound:
    told = f"Volume attachment could not be found with filter: attachment_id = {attachment_id}."
    return NotFound(told, kind="VolumeAttachmentNotFound")


async def _volume(tx: Transaction, volume_id: str) -> Row:
    row = await tx.first(select(VOLUMES).where(VOLUMES.c.id == volume_id))
    if row is None or row["status"] == DELETED:
        raise missing(volume_id)
    return row


async def _attachments(tx: Transaction, volume_id: str) -> list[Row]:
    return await tx.all(select(ATTACHMENTS).where(ATTACHMENTS.c.volume_id == volume_id))


# ---- the steps of the way


async def reserve(
    volume: Volume, row: Row, *, instance: str | None, mode: str | None, attachment_id: str | None = None
) -> Row:
    """Reserve a volume for a server. Raises Conflict when ``attachment_id`` is used, InvalidVolume when it can't be."""
    made: Row = {
        "id": attachment_id or ids.new_uuid(), "volume_id": row["id"], "project_id": row["project_id"],
        "instance_uuid": instance, "status": RESERVED, "mode": "ro" if row["readonly"] else mode, "host_name": None,
        "mountpoint": None, "connector": None, "connection_info": None, "attached_at": None,
        "created_at": clock.now(), "updated_at": None,
    }  # fmt: skip

    async def body(tx: Transaction) -> None:
        if await tx.first(select(ATTACHMENTS.c.id).where(ATTACHMENTS.c.id == made["id"])) is not None:
            raise Conflict(f"Volume attachment {made['id']} exists already.")
        now = await _volume(tx, row["id"])
        if "error" in now["status"]:
            raise InvalidVolume(
                "Volume attachments can not be created if the volume is in an error state. "
                f"The Volume {now['id']} currently has a status of: {now['status']} "
            )
        others = await _attachments(tx, row["id"])
        # a server that moves to another host attaches there before it detaches here
        again = instance is not None and any(one["instance_uuid"] == instance for one in others)
        if now["status"] == AVAILABLE or (now["multiattach"] and now["status"] == IN_USE):
            await VOLUME.begin(tx, "reserve again" if now["multiattach"] else "reserve", row["id"])
        elif not (again and now["status"] in (IN_USE, RESERVED)):
            wanted = "available or in-use or downloading" if now["multiattach"] else "available or downloading"
            raise InvalidVolume(
                f"Volume {now['id']} status must be {wanted} to reserve, but the current status is {now['status']}."
            )
        try:
            await tx.insert(ATTACHMENTS, made)
        except Duplicate:
            raise Conflict(f"Volume attachment {made['id']} exists already.") from None

    await volume.database.run(body)
    return made


async def connect(volume: Volume, attachment: Row, connector: dict[str, Any]) -> Row:
    """Have the volume's agent let the connector's host open it; may be repeated.

    Raises Invalid for a connector without a host, Conflict when another
    attachment of a volume that is not for many is connected.
    """
    host = connector.get("host")
    if not isinstance(host, str) or not host:
        raise Invalid("Invalid input received: The connector names no host.")

    async def check(tx: Transaction) -> Row:
        row = await _volume(tx, attachment["volume_id"])
        if "error" in row["status"]:
            raise Conflict(
                "Resource conflict: Volume attachments can not be updated if the volume is in an error state. "
                f"The Volume {row['id']} currently has a status of: {row['status']} "
            )
        for one in await _attachments(tx, row["id"]):
            other = one["id"] != attachment["id"] and one["connection_info"] is not None
            moving = one["instance_uuid"] is not None and one["instance_uuid"] == attachment["instance_uuid"]
            if other and not row["multiattach"] and not (moving and one["host_name"] != host):
                raise Conflict(f"Resource conflict: duplicate connectors detected on volume {row['id']}")
        return row

    row = await volume.database.run(check, durable=False)
    if row["host"] is None:
        raise InvalidVolume(f"Volume {row['id']} is on no back end.")
    read_only = attachment["mode"] == "ro" or connector.get("mode") == "ro"
    try:
        found = await volume.bus.call(CONNECT, Connect(row["id"], host, read_only), host=agent_of(row["host"]))
    except Conflict as error:
        raise Internal(f"Unable to update attachment. ({error.message})") from None
    info = {
        **msgspec.to_builtins(found),
        "access_mode": "ro" if found.read_only else "rw",
        "attachment_id": attachment["id"],
        "encrypted": False,
    }

    async def write(tx: Transaction) -> Row:
        now = await tx.first(select(ATTACHMENTS).where(ATTACHMENTS.c.id == attachment["id"]))
        if now is None:
            raise not_found(attachment["id"])
        values = {
            "connector": connector, "connection_info": info, "host_name": host,
            "mountpoint": connector.get("mountpoint") or now["mountpoint"],
            "mode": "ro" if found.read_only else now["mode"] if now["mode"] in ("rw", "ro") else "rw",
        }  # fmt: skip
        used = now["status"] == ATTACHED
        await ATTACHMENT.begin(tx, "reconnect" if used else "connect", now["id"], **values)
        status = (await _volume(tx, row["id"]))["status"]
        if not used and status == RESERVED:
            await VOLUME.begin(tx, "connect", row["id"])
        fresh = await tx.first(select(ATTACHMENTS).where(ATTACHMENTS.c.id == attachment["id"]))
        assert fresh is not None
        return fresh

    return await volume.database.run(write)


async def complete(volume: Volume, attachment: Row) -> None:
    """The guest has the volume: in use; may be repeated."""

    async def body(tx: Transaction) -> None:
        now = await tx.first(select(ATTACHMENTS).where(ATTACHMENTS.c.id == attachment["id"]))
        if now is None:
            raise not_found(attachment["id"])
        if now["status"] == ATTACHED:
            return
        await ATTACHMENT.begin(tx, "complete", now["id"], attached_at=clock.now())
        await VOLUME.begin(tx, "attach", now["volume_id"])

    await volume.database.run(body)


async def remove(volume: Volume, caller: Context, attachment: Row) -> list[Row]:
    """Disconnect and end; returns the volume's other attachments. Raises Conflict for a user while a server has it."""
    _check_free(caller, attachment)
    await _disconnect(volume, attachment)

    async def body(tx: Transaction) -> list[Row]:
        await tx.run(ATTACHMENTS.delete().where(ATTACHMENTS.c.id == attachment["id"]))
        return await _settle(tx, attachment["volume_id"])

    return await volume.database.run(body)


def _check_free(caller: Context, attachment: Row) -> None:
    used = attachment["instance_uuid"] is not None and attachment["connection_info"] is not None
    if used and not caller.is_service:
        raise Conflict(
            f"Detach volume from instance {attachment['instance_uuid']} using the Compute API",
            kind="ConflictNovaUsingAttachment",
        )


async def _disconnect(volume: Volume, attachment: Row) -> None:
    """Tell the agent, unless another attachment of the same host still needs the connection."""
    if attachment["connection_info"] is None:
        return
    row = await volume.database.first(select(VOLUMES).where(VOLUMES.c.id == attachment["volume_id"]))
    same = select(ATTACHMENTS.c.id).where(
        ATTACHMENTS.c.volume_id == attachment["volume_id"],
        ATTACHMENTS.c.host_name == attachment["host_name"],
        ATTACHMENTS.c.id != attachment["id"],
    )
    if row is None or row["host"] is None or await volume.database.first(same) is not None:
        return
    order = Disconnect(row["id"], attachment["host_name"] or "")
    await volume.bus.call(DISCONNECT, order, host=agent_of(row["host"]))


async def _settle(tx: Transaction, volume_id: str) -> list[Row]:
    """The volume's state after one attachment ended, by those that are left."""
    left = await _attachments(tx, volume_id)
    row = await _volume(tx, volume_id)
    if row["status"] in (RESERVED, ATTACHING, IN_USE, DETACHING):
        if any(one["status"] == ATTACHED for one in left):
            action = "detach one"
        else:
            action = "detach to reserved" if left else "detach"
        await VOLUME.begin(tx, action, volume_id)
    return left


# ---- the older way: marks on the volume, without a connection


async def legacy_mark(volume: Volume, caller: Context, row: Row, action: str, attachment: str | None = None) -> None:
    """`reserve`, `unreserve`, `begin_detaching` (told: only by that attachment) or `roll_detaching`: older actions."""

    async def body(tx: Transaction) -> None:
        now = await _volume(tx, row["id"])
        status = now["status"]
        if action == "reserve":
            if status != AVAILABLE and not (now["multiattach"] and status == IN_USE):
                raise InvalidVolume(f"Volume status must be available to reserve, but the status is {status}.")
            await VOLUME.begin(tx, "legacy reserve again" if now["multiattach"] else "legacy reserve", row["id"])
        elif action == "unreserve":
            if status == ATTACHING:
                used = any(one["status"] == ATTACHED for one in await _attachments(tx, row["id"]))
                await VOLUME.begin(tx, "unreserve in use" if used else "unreserve", row["id"])
        elif action == "begin_detaching":
            if status == DETACHING and caller.is_service:
                return  # a step of compute that is repeated
            over = attachment is not None and attachment not in {one["id"] for one in await _attachments(tx, row["id"])}
            if status != IN_USE or over:
                raise InvalidVolume(
                    "Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' "
                    "to detach."
                )
            await VOLUME.begin(tx, "begin detaching", row["id"])
        elif status == DETACHING:
            await VOLUME.begin(tx, "roll detaching", row["id"])

    await volume.database.run(body)


async def legacy_attach(
    volume: Volume, row: Row, *, instance: str | None, host_name: str | None, mountpoint: str, mode: str
) -> None:
    """Record that somebody uses the volume, by the older action."""
    if row["readonly"] and mode != "ro":
        raise InvalidVolume(f"mode {mode} is not allowed for the read-only volume {row['id']}")
    now = clock.now()
    made = {
        "id": ids.new_uuid(), "volume_id": row["id"], "project_id": row["project_id"], "instance_uuid": instance,
        "status": ATTACHED, "mode": mode, "host_name": host_name, "mountpoint": mountpoint, "attached_at": now,
        "created_at": now,
    }  # fmt: skip

    async def body(tx: Transaction) -> None:
        fresh = await _volume(tx, row["id"])
        action = "legacy attach again" if fresh["multiattach"] else "legacy attach"
        if fresh["status"] not in VOLUME.actions[action].allowed:
            raise InvalidVolume(f"status must be available or attaching, but it is {fresh['status']}")
        await VOLUME.begin(tx, action, row["id"])
        await tx.insert(ATTACHMENTS, made)

    await volume.database.run(body)


async def legacy_detach(volume: Volume, caller: Context, row: Row, attachment_id: str | None) -> None:
    """End an attachment (the only one, when none is named) by the older action."""
    held = row["attachments"]
    if attachment_id is not None:
        held = [one for one in held if one["id"] == attachment_id]
        if not held:
            raise not_found(attachment_id)
    if len(held) > 1:
        raise InvalidVolume("Detach volume failed: More than one attachment, but no attachment_id provided.")
    if not held:
        await volume.database.run(lambda tx: _settle(tx, row["id"]))
        return
    await remove(volume, caller, held[0])

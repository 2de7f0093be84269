# SPDX-License-Identifier: Apache-2.0
"""Volumes: who sees which, how they are made, changed, grown and ended.

The record, its quota and its saga are one transaction. A volume of another
project does not exist for the caller: 404.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import select

from cumulet.client.image import ImageRecord
from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, Fault, Forbidden, Invalid, NotFound
from cumulet.volume.errors import InvalidInput, InvalidVolume
from cumulet.volume.limits import PER_VOLUME, growth_costs, volume_costs
from cumulet.volume.logic import Volume, types, words
from cumulet.volume.models import ATTACHMENTS, SAGAS, SERVICES, SNAPSHOTS, TYPES, VOLUMES
from cumulet.volume.rpc import backend_host
from cumulet.volume.sagas.params import CreateVolume, DeleteVolume, ExtendVolume
from cumulet.volume.sagas.world import AGENT_BINARY
from cumulet.volume.states import AVAILABLE, CREATING, DELETED, ERROR, IN_USE, SNAPSHOT, VOLUME

GIB = 1024**3


# ---- reading


async def load(volume: Volume, caller: Context, volume_id: str) -> Row:
    """The volume with its type, words and attachments; raises NotFound."""
    row = await volume.database.first(select(VOLUMES).where(VOLUMES.c.id == volume_id))
    seen = caller.is_admin or caller.serves or (row or {}).get("project_id") == caller.project_id
    if row is None or row["status"] == DELETED or not seen:
        raise missing(volume_id)
    await decorate(volume, [row])
    return row


def missing(volume_id: str) -> NotFound:
    return NotFound(f"Volume {volume_id} could not be found.", kind="VolumeNotFound")


async def decorate(volume: Volume, rows: list[Row]) -> None:
    """Add ``type_name``, ``words`` and ``attachments`` to volume rows, in place."""
    found = [row["id"] for row in rows]
    if not found:
        return
    names = {row["id"]: row["name"] for row in await volume.database.all(select(TYPES), point=True)}
    held = await words.of(volume.database, found)
    attached: dict[str, list[Row]] = {}
    statement = select(ATTACHMENTS).where(ATTACHMENTS.c.volume_id.in_(found)).order_by(ATTACHMENTS.c.created_at)
    for one in await volume.database.all(statement):
        attached.setdefault(one["volume_id"], []).append(one)
    for row in rows:
        row["type_name"] = names.get(row["type_id"])
        row["words"] = held[row["id"]]
        row["attachments"] = attached.get(row["id"], [])


# ---- making


async def create(volume: Volume, caller: Context, body: Mapping[str, Any]) -> Row:
    """A new volume in `creating`; ``body`` has the published names. Raises what is published for each mistake.

    The volume is the caller's, or that of the project and user that the body names. Raises Conflict for an ``id`` that
    is, or was, another's.
    """
    owner = msgspec.structs.replace(
        caller, project_id=body.get("project_id", caller.project_id), user_id=body.get("user_id", caller.user_id)
    )
    sources = [name for name in ("snapshot_id", "source_volid", "imageRef") if body.get(name)]
    if len(sources) > 1:
        raise InvalidInput(f"Only one source of {', '.join(sources)} may be given.")
    snapshot = await _snapshot(volume, caller, body["snapshot_id"]) if body.get("snapshot_id") else None
    source = await _source(volume, caller, body["source_volid"]) if body.get("source_volid") else None
    image = await _image(volume, str(body["imageRef"])) if body.get("imageRef") else None
    size = _size(body.get("size"), snapshot, source, image)
    kind = await _type(volume, caller, body.get("volume_type"), snapshot, source)
    zone = await _zone(volume, body.get("availability_zone"))
    parent = snapshot or source
    multiattach = types.is_multiattach(kind)
    if multiattach:
        volume.policy.enforce("volume:multiattach", caller)
    await _check_per_volume(volume, owner.project_id or "", size)
    origin = source or (await _any_volume(volume, snapshot["volume_id"]) if snapshot else None)
    image_words = _image_words(image) if image else dict((origin or {}).get("words", {}).get(words.IMAGE, {}))
    row: Row = {
        "id": body.get("id") or ids.new_uuid(),
        "name": body.get("name"),
        "description": body.get("description"),
        "status": CREATING,
        "size": size,
        "project_id": owner.project_id,
        "user_id": owner.user_id,
        "availability_zone": zone or volume.config.zone,
        "type_id": kind["id"],
        "multiattach": multiattach,
        "bootable": image is not None or bool(origin and origin["bootable"]),
        "readonly": False,
        "snapshot_id": snapshot["id"] if snapshot else None,
        "source_volid": source["id"] if source else None,
        "image_id": image.id if image else None,
        "created_at": clock.now(),
    }
    params = CreateVolume(
        row["id"],
        size,
        "snapshot" if snapshot else "volume" if source else "image" if image else "empty",
        source_id=(parent or {}).get("id") or row["image_id"] or "",
        only=backend_host(parent["host"]) if parent and parent["host"] else None,
        zone=zone,
    )

    async def write(tx: Transaction) -> str:
        if "id" in body and await tx.first(select(VOLUMES.c.id).where(VOLUMES.c.id == row["id"])) is not None:
            raise Conflict(f"Volume {row['id']} exists already.")
        await volume.quota.take(tx, row["project_id"], volume_costs(size, kind["name"]))
        await tx.insert(VOLUMES, row)
        await words.lay(tx, row["id"], words.USER, body.get("metadata") or {})
        await words.lay(tx, row["id"], words.IMAGE, image_words)
        return await volume.begin(tx, "volume.create_volume", row["id"], params)

    await volume.told(await volume.database.run(write))
    return await load(volume, caller, row["id"])


def _size(given: Any, snapshot: Row | None, source: Row | None, image: ImageRecord | None) -> int:
    """GiB of the new volume; it must hold what it is made from."""
    origin = snapshot or source
    size = given if given is not None else origin["size"] if origin else None
    if isinstance(size, str) and size.isdigit():
        size = int(size)
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        raise InvalidInput(f"Volume size '{size}' must be an integer and greater than 0")
    if snapshot is not None and size < snapshot["size"]:
        raise InvalidInput(
            f"Volume size '{size}'GB cannot be smaller than the snapshot size {snapshot['size']}GB. "
            "They must be >= original snapshot size."
        )
    if source is not None and size < source["size"]:
        raise InvalidInput(
            f"Volume size '{size}'GB cannot be smaller than original volume size {source['size']}GB. "
            "They must be >= original volume size."
        )
    if image is not None:
        needs = -(-max(image.size or 0, image.virtual_size or 0) // GIB)
        if needs > size:
            raise InvalidInput(f"Size of specified image {needs}GB is larger than volume size {size}GB.")
        if image.min_disk > size:
            raise InvalidInput(
                f"Volume size {size}GB cannot be smaller than the image minDisk size {image.min_disk}GB."
            )
    return size


async def _snapshot(volume: Volume, caller: Context, snapshot_id: str) -> Row:
    row = await volume.database.first(select(SNAPSHOTS).where(SNAPSHOTS.c.id == snapshot_id))
    if row is None or row["status"] == DELETED or not (caller.is_admin or row["project_id"] == caller.project_id):
        raise NotFound(f"Snapshot {snapshot_id} could not be found.", kind="SnapshotNotFound")
    if row["status"] != AVAILABLE:
        raise Invalid(
            f"Invalid snapshot: Originating snapshot status must be one of '{AVAILABLE}' values", kind="InvalidSnapshot"
        )
    return row


async def _source(volume: Volume, caller: Context, volume_id: str) -> Row:
    row = await load(volume, caller, volume_id)
    if row["status"] not in (AVAILABLE, IN_USE):
        raise InvalidVolume(
            f"Unable to create a volume from an originating source volume when its status is not one of "
            f"'{AVAILABLE}, {IN_USE}' values"
        )
    return row


async def _any_volume(volume: Volume, volume_id: str) -> Row | None:
    row = await volume.database.first(select(VOLUMES).where(VOLUMES.c.id == volume_id))
    if row is not None:
        await decorate(volume, [row])
    return row


async def _image(volume: Volume, reference: str) -> ImageRecord:
    """An image by id, the end of a URL, or a name that only one image has."""
    image: ImageRecord | None = None
    image_id = reference.rsplit("/", 1)[-1]
    try:
        if ids.is_uuid(image_id):
            image = await volume.image.image(image_id)
        else:
            found = await volume.image.images(name=f"eq:{reference}")
            if len(found) > 1:
                raise Conflict(f"Multiple matches found for '{reference}', use an ID to be more specific.")
            image = found[0] if found else None
    except Conflict:
        raise
    except Fault as fault:
        if fault.status >= 500:
            raise
    if image is None:
        raise Invalid("Invalid image identifier or unable to access requested image.")
    if image.status != "active":
        raise InvalidInput(f"Image {image.id} is not active.")
    if image.disk_format is None or image.container_format != "bare":
        raise InvalidInput(f"Image {image.id} has no content that can be written to a volume.")
    return image


def _image_words(image: ImageRecord) -> dict[str, str]:
    """What a volume remembers of the image that it was made from."""
    facts: dict[str, Any] = {
        "image_id": image.id, "image_name": image.name, "checksum": image.checksum, "disk_format": image.disk_format,
        "container_format": image.container_format, "min_disk": image.min_disk, "min_ram": image.min_ram,
        "size": image.size,
    }  # fmt: skip
    return {**image.properties, **{name: str(value) for name, value in facts.items() if value is not None}}


async def _type(volume: Volume, caller: Context, asked: str | None, snapshot: Row | None, source: Row | None) -> Row:
    """The volume's type: as asked, that of its source, or the default."""
    origin = snapshot or source
    if asked:
        found = await types.find(volume, caller, asked)
        if origin is not None and found["id"] != origin["type_id"]:
            raise InvalidInput(
                f"Invalid volume_type provided: {found['id']} (requested type is not compatible; either match "
                "source volume, or omit type argument)."
            )
        return found
    if origin is not None:
        row = await volume.database.first(select(TYPES).where(TYPES.c.id == origin["type_id"]))
        assert row is not None
        return row
    return await types.find(volume, caller, volume.default_type)


async def _zone(volume: Volume, asked: str | None) -> str | None:
    if asked is None:
        return None
    if asked not in await zones(volume):
        raise Invalid(f"Availability zone '{asked}' is invalid.", kind="InvalidAvailabilityZone")
    return asked


async def zones(volume: Volume) -> dict[str, bool]:
    """All availability zones and whether one of their back ends may be used."""
    found = {volume.config.zone: False}
    statement = select(SERVICES).where(SERVICES.c.binary == AGENT_BINARY)
    for row in await volume.database.all(statement, point=True):
        found[row["zone"]] = found.get(row["zone"], False) or not row["disabled"]
    return found


async def _check_per_volume(volume: Volume, project_id: str, size: int) -> None:
    limit = (await volume.quota.limits_of(volume.database, project_id))[PER_VOLUME]
    if 0 <= limit < size:
        raise InvalidInput(f"Requested volume size {size}G is larger than maximum allowed limit {limit}G.")


# ---- changing


async def update(volume: Volume, caller: Context, row: Row, values: Mapping[str, Any]) -> Row:
    """Change name, description or metadata."""
    columns = {name: values[name] for name in ("name", "description") if name in values}

    async def body(tx: Transaction) -> None:
        changed = VOLUMES.update().where(VOLUMES.c.id == row["id"]).values(**columns, updated_at=clock.now())
        await tx.run(changed)
        if values.get("metadata") is not None:
            await words.lay(tx, row["id"], words.USER, values["metadata"], replace=True)

    await volume.database.run(body)
    return await load(volume, caller, row["id"])


async def set_flag(volume: Volume, row: Row, flag: str, value: bool) -> None:
    """Set ``bootable`` or ``readonly``."""

    async def body(tx: Transaction) -> None:
        values = {flag: value, "updated_at": clock.now()}
        await tx.run(VOLUMES.update().where(VOLUMES.c.id == row["id"]).values(values))

    await volume.database.run(body)


async def extend(volume: Volume, row: Row, new_size: int) -> None:
    """Begin to grow a volume that nobody uses; ``new_size`` in GiB."""
    if new_size <= row["size"]:
        raise InvalidInput(
            f"New size for extend must be greater than current size. (current: {row['size']}, extended: {new_size})."
        )
    await _check_per_volume(volume, row["project_id"], new_size)

    async def body(tx: Transaction) -> str:
        before = await VOLUME.begin(tx, "extend", row["id"])
        if before["size"] != row["size"]:
            raise Conflict(f"volume {row['id']} was changed by another request.")
        await volume.quota.take(tx, row["project_id"], growth_costs(new_size - row["size"], row["type_name"]))
        params = ExtendVolume(row["id"], row["size"], new_size)
        return await volume.begin(tx, "volume.extend_volume", row["id"], params)

    await volume.told(await volume.database.run(body))


async def retype(volume: Volume, caller: Context, row: Row, new_type: str) -> None:
    """Change a volume's type. Types are bound to no back end, so nothing moves."""
    kind = await types.find(volume, caller, new_type)
    many = types.is_multiattach(kind)
    if kind["id"] == row["type_id"]:
        raise InvalidVolume("Retype needs the requested type to be different from that of the volume.")
    if many != row["multiattach"] and row["status"] != AVAILABLE:
        raise InvalidInput(
            "Invalid volume_type passed, retypes affecting multiattach are only allowed on available volumes, the "
            f"specified volume however currently has a status of: {row['status']}."
        )
    if many:
        volume.policy.enforce("volume:multiattach", caller, {"project_id": row["project_id"]})

    async def body(tx: Transaction) -> None:
        action = "retype in use" if row["status"] == IN_USE else "retype"
        before = await VOLUME.begin(tx, action, row["id"], type_id=kind["id"], multiattach=many)
        if before["type_id"] != row["type_id"]:
            raise Conflict(f"volume {row['id']} was changed by another request.")
        project, size = row["project_id"], before["size"]
        await volume.quota.give(tx, project, volume_costs(size, row["type_name"]))
        await volume.quota.take(tx, project, volume_costs(size, kind["name"]))

    await volume.database.run(body)


async def reset(volume: Volume, row: Row, status: str | None, attach_status: str | None) -> None:
    """An operator says what state the volume is in; ``detached`` also ends its attachments."""
    if status in ("deleting", "error_deleting", "detaching"):
        raise Invalid(f"Cannot reset-state to {status}")
    if status == IN_USE and not row["attachments"]:
        raise Invalid("Cannot reset-state to in-use because volume does not have any attachments.")

    async def body(tx: Transaction) -> None:
        if status is not None:
            # only an operator's word sets a state that no action leads to
            await VOLUME.finish(tx, "create", row["id"], ends=status)
        if attach_status == "detached":
            await tx.run(ATTACHMENTS.delete().where(ATTACHMENTS.c.volume_id == row["id"]))

    await volume.database.run(body)


# ---- ending


async def remove(volume: Volume, caller: Context, row: Row, *, cascade: bool = False, force: bool = False) -> None:
    """Begin to delete. Raises Invalid while it is attached, busy, or has snapshots (without ``cascade``)."""
    refusal = (
        f"Volume status must be available or error or error_restoring or error_extending or error_managing and "
        f"must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be "
        f"disassociated from snapshots after volume transfer. (volume {row['id']})"
    )

    async def body(tx: Transaction) -> str:
        attached = select(ATTACHMENTS.c.id).where(
            ATTACHMENTS.c.volume_id == row["id"], ATTACHMENTS.c.status == "attached"
        )
        if await tx.first(attached) is not None:
            raise InvalidVolume(refusal)
        held = await tx.all(select(SNAPSHOTS).where(SNAPSHOTS.c.volume_id == row["id"], SNAPSHOTS.c.status != DELETED))
        if held and not cascade:
            raise InvalidVolume(refusal)
        if not caller.is_admin and any(one["project_id"] != row["project_id"] for one in held):
            raise Forbidden("The volume has snapshots of other projects.")
        try:
            before = await VOLUME.begin(tx, "force-delete" if force else "delete", row["id"])
        except Conflict as error:
            raise (InvalidVolume(refusal) if error.kind == "InvalidState" else error) from None
        for one in held:
            if one["status"] not in (AVAILABLE, ERROR) and not force:
                raise InvalidVolume(refusal)
            await SNAPSHOT.begin(tx, "force-delete", one["id"])
        if before["status"] == CREATING:
            running = select(SAGAS.c.id).where(SAGAS.c.subject == row["id"], SAGAS.c.state == "ready")
            for saga in await tx.all(running):
                await volume.engine.cancel(tx, saga["id"])
        params = DeleteVolume(row["id"], [one["id"] for one in held])
        return await volume.begin(tx, "volume.delete_volume", row["id"], params)

    await volume.told(await volume.database.run(body))

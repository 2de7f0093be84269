# SPDX-License-Identifier: Apache-2.0
"""Accept to make an image of a server: what it inherits, its id, one transaction; then wait until its record is there.

Source: the Compute API reference, "Create Image (createImage Action)".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import select

from cumulet.compute.logic import Compute, operations
from cumulet.compute.models import SAGAS
from cumulet.compute.sagas.params import CreateImage, VolumeSnapshot
from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, Forbidden, NotFound, OverQuota

_SIGNATURE: Final = ("img_signature_hash_method", "img_signature", "img_signature_key_type",
                     "img_signature_certificate_uuid")  # fmt: skip
_NOT_INHERITED: Final = frozenset({
    "cache_in_nova", "bittorrent", "block_device_mapping", "bdm_v2", "root_device_name", "stores", "direct_url",
    "locations", "image_id", "image_name", "size", "checksum", "container_format", "disk_format", "min_disk", "min_ram",
    *_SIGNATURE,
})  # fmt: skip
_REGISTERED_WITHIN: Final = 20.0
"""Seconds that the answer waits for the image's record."""


def is_volume_backed(devices: Sequence[Row]) -> bool:
    return any(one["boot_index"] == 0 and one["destination_type"] == "volume" for one in devices)


async def create_image(
    compute: Compute, context: Context, row: Row, name: str, metadata: Mapping[str, str], devices: Sequence[Row]
) -> str:
    """Returns the image's id. Raises Conflict for a server that is busy, and what the image service refuses it for."""
    await _check_quota(compute, context, metadata)
    image_id = ids.new_uuid()
    volumes = volumes_of(devices) if is_volume_backed(devices) else []
    min_disk, min_ram = await _least(compute, row, devices)
    own = row["project_id"] == context.project_id
    properties = {
        **_inherited(row), "instance_uuid": row["id"], "user_id": context.user_id or "", "image_type": "snapshot",
        "owner_id": row["project_id"], "base_image_ref": row["image_id"] or "", **metadata,
        **({} if own else {"instance_owner": row["project_id"]}),
        **({"root_device_name": row["root_device_name"]} if volumes else {}),
    }  # fmt: skip
    params = CreateImage(
        server_id=row["id"], image_id=image_id, name=name, visibility="private" if own else "shared",
        min_disk=min_disk, min_ram=min_ram, properties=properties, volumes=volumes,
    )  # fmt: skip

    async def prepare(tx: Transaction, before: Row) -> CreateImage:
        if not before["host"]:
            raise Conflict(f"Instance {row['id']} is not ready", kind="InstanceNotReady")
        return params

    _, saga_id = await operations.start(
        compute, context, row["id"], "create_image", "createImage", prepare, remember=True
    )  # fmt: skip
    await _registered(compute, saga_id)
    return image_id


def _inherited(row: Row) -> dict[str, str]:
    """What the image takes over from the one that the server was made of."""
    held: dict[str, Any] = row["image_properties"] or {}
    return {
        name: str(value)
        for name, value in held.items()
        if name not in _NOT_INHERITED and not name.startswith("os_glance") and value is not None
    }


async def _least(compute: Compute, row: Row, devices: Sequence[Row]) -> tuple[int, int]:
    """(min_disk in GiB, min_ram in MiB): the disk's size, and what the first image asked for if it is still there."""
    root = next((one for one in devices if one["boot_index"] == 0), None)
    volume = root is not None and root["destination_type"] == "volume"
    disk = int(root["size_gib"] or 0) if volume and root is not None else int(row["flavor"]["disk"])
    if not row["image_id"]:
        return disk, 0
    try:
        image = await compute.image.image(row["image_id"])
    except (NotFound, Forbidden):
        return disk, 0
    return max(disk, image.min_disk), image.min_ram


def volumes_of(devices: Sequence[Row]) -> list[VolumeSnapshot]:
    """What is to be snapshotted of a server's volumes, the ids chosen."""
    return [
        VolumeSnapshot(
            volume_id=one["volume_id"], snapshot_id=ids.new_uuid(), size_gib=one["size_gib"] or 0,
            boot_index=one["boot_index"], device_name=one["device_name"], disk_bus=one["disk_bus"] or "virtio",
            delete_on_termination=one["delete_on_termination"], tag=one["tag"], volume_type=one["volume_type"],
        )
        for one in devices
        if one["destination_type"] == "volume" and one["volume_id"]
    ]  # fmt: skip


async def _check_quota(compute: Compute, context: Context, metadata: Mapping[str, str]) -> None:
    most = (await compute.quota.limits_of(compute.db, context.project_id or ""))["metadata_items"]
    if 0 <= most < len(metadata):
        raise OverQuota("Image metadata limit exceeded")


async def _registered(compute: Compute, saga_id: str) -> None:
    """Wait until the image can be seen; raises what it was refused for."""
    deadline, pause = clock.monotonic() + _REGISTERED_WITHIN, 0.01
    columns = (SAGAS.c.state, SAGAS.c.cursor, SAGAS.c.floor, SAGAS.c.error)
    while clock.monotonic() < deadline:
        saga = await compute.db.first(select(*columns).where(SAGAS.c.id == saga_id))
        if saga is None or saga["state"] == "done":
            return
        if saga["error"] and (saga["floor"] is not None or saga["state"] in ("failed", "stuck")):
            fault = operations.failure(saga["error"])
            raise OverQuota(fault.message) if fault.status == 413 else fault
        if saga["cursor"] > 0 and saga["floor"] is None:
            return
        await clock.sleep(pause)
        pause = min(pause * 1.5, 0.5)

# SPDX-License-Identifier: Apache-2.0
"""The disks of a new server: published block device mappings, old and new, become checked rows.

Nothing is made or reserved here. The first entry that boots is index 0; an
image named beside the mappings must appear among them as published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cumulet.compute.logic import Compute
from cumulet.compute.logic.mappings import mappings_of
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from cumulet.kernel.http.fields import truth

if TYPE_CHECKING:
    from cumulet.client.image import ImageRecord
    from cumulet.client.volume import Volume

GIB: Final = 1 << 30
ROOT: Final = "/dev/vda"
_DEVICE = re.compile(r"^(/dev/)?[a-z]{1,6}[0-9]*$")
INVALID: Final = "Block Device Mapping is Invalid"
FILE_SYSTEMS: Final = ("ext2", "ext3", "ext4", "vfat")
"""What hosts can make on a local disk."""


@dataclass
class Disks:
    """What was decided: rows without a server, and the image that the root disk is made of."""

    rows: list[dict[str, Any]]
    image: ImageRecord | None
    """The image of a local root disk or of the volume that is made from it."""
    image_id: str | None
    """The published image of the server: none when it boots from a volume."""
    properties: dict[str, Any] = field(default_factory=dict)
    min_ram: int = 0


def _row(**values: Any) -> dict[str, Any]:
    plain: dict[str, Any] = dict.fromkeys(
        ("boot_index", "volume_id", "image_id", "snapshot_id", "size_gib", "swap_mib", "volume_type", "device_name",
         "device_type", "disk_bus", "guest_format", "tag")
    )  # fmt: skip
    return {**plain, "delete_on_termination": False, "created_by_us": False, **values}


def _bad(details: str) -> Invalid:
    return Invalid(f"{INVALID}: {details}", kind="InvalidBDMFormat")


def lift(sent: Sequence[Mapping[str, Any]], image_ref: str | None) -> list[dict[str, Any]]:
    """Published mappings (version 2) as rows, shape checked, nothing looked up."""
    rows = []
    for one in sent:
        if truth(one.get("no_device") or False):
            continue
        source, target = one.get("source_type"), one.get("destination_type")
        given = one.get("uuid") or one.get("volume_id") or one.get("snapshot_id") or one.get("image_id")
        if source is None:
            for kind in ("volume", "snapshot", "image"):
                if one.get(f"{kind}_id"):
                    source = kind
        if source is None:
            raise _bad("Invalid source_type field.")
        if source == "blank" and given:
            raise _bad("Invalid device UUID.")
        if source != "blank" and not given:
            raise _bad("Missing device UUID.")
        target = target or ("volume" if source in ("volume", "snapshot") else "local")
        if source in ("volume", "snapshot") and target == "local":
            raise _bad(f"Mapping {source} to local is not supported.")
        boot = one.get("boot_index")
        boot = int(boot) if boot is not None else None
        if source == "image" and target == "local" and not (image_ref and boot == 0):
            raise _bad("Mapping image to local is not supported.")
        size = int(one["volume_size"]) if one.get("volume_size") is not None else None
        swap = size if source == "blank" and target == "local" and one.get("guest_format") == "swap" else None
        name = one.get("device_name")
        if name is not None and not _DEVICE.match(name):
            raise _bad("Device name contains spaces or is not a disk's.")
        rows.append(
            _row(
                source_type=source, destination_type=target, boot_index=boot if boot is None or boot >= 0 else None,
                size_gib=size if swap is None else _gib(swap), swap_mib=swap, device_name=_full(name),
                delete_on_termination=truth(one.get("delete_on_termination") or False),
                guest_format=one.get("guest_format"), disk_bus=one.get("disk_bus"), device_type=one.get("device_type"),
                tag=one.get("tag"), volume_type=one.get("volume_type"),
                created_by_us=target == "volume" and source != "volume",
                **({f"{source}_id": given} if source != "blank" else {}),
            )
        )  # fmt: skip
    return rows


def lift_legacy(sent: Sequence[Mapping[str, Any]], image_ref: str | None) -> list[dict[str, Any]]:
    """Mappings of version 1: by device name, the root one boots; the image comes first where one is named."""
    rows = []
    for one in sent:
        if one.get("no_device") is not None or one.get("virtual_name"):
            continue
        volume, snapshot = one.get("volume_id"), one.get("snapshot_id")
        if not volume and not snapshot:
            raise _bad("Missing device UUID.")
        name = _full(one.get("device_name"))
        size = one.get("volume_size")
        boots = not image_ref and (name in (ROOT, None) or len(sent) == 1)
        rows.append(
            _row(
                source_type="volume" if volume else "snapshot", destination_type="volume", volume_id=volume,
                snapshot_id=None if volume else snapshot, boot_index=0 if boots else None, device_name=name,
                size_gib=int(size) if size is not None else None, created_by_us=not volume,
                delete_on_termination=truth(one.get("delete_on_termination") or False),
            )
        )  # fmt: skip
    return ([_root_of(image_ref)] if image_ref else []) + rows


def _root_of(image_ref: str) -> dict[str, Any]:
    return _row(
        source_type="image", destination_type="local", image_id=image_ref, boot_index=0, delete_on_termination=True
    )


def _full(name: str | None) -> str | None:
    return None if not name else name if name.startswith("/dev/") else f"/dev/{name}"


async def plan_disks(
    compute: Compute,
    flavor: Mapping[str, Any],
    image_ref: str | None,
    mappings: Sequence[Mapping[str, Any]],
    legacy: Sequence[Mapping[str, Any]],
    *,
    count: int,
    multiattach: bool,
    zero_disk: bool,
) -> Disks:
    """All disks of one server, looked up and checked; raises Invalid, Conflict or Forbidden as published.

    ``multiattach`` and ``zero_disk`` say whether such volumes and flavors may be used.
    """
    if mappings and legacy:
        raise Invalid("Using different block_device_mapping syntaxes is not allowed in the same request.")
    image_ref = image_ref or None
    image = await _usable_image(compute, image_ref, named=True) if image_ref else None
    within: dict[str, Any] = {}
    if image is not None and not mappings and not legacy:
        mappings, within = mappings_of(image)
        image_ref = None if mappings else image_ref
    if mappings:
        rows = lift(mappings, image_ref)
    elif legacy:
        rows = lift_legacy(legacy, image_ref)
    elif image_ref:
        rows = [_root_of(image_ref)]
    else:
        raise Invalid("Missing imageRef attribute")
    if count > 1 and any(row["source_type"] == "volume" for row in rows):
        raise Invalid("Cannot attach one or more volumes to multiple instances")
    rows += _of_flavor(flavor, rows)
    boots = sorted(row["boot_index"] for row in rows if row["boot_index"] is not None)
    if not boots or boots != list(range(len(boots))):
        raise Invalid(
            f"{INVALID}: Boot sequence for the instance and image/block device mapping combination is not valid.",
            kind="InvalidBDMBootSequence",
        )
    found = Disks(rows, None, image_ref if any(row["image_id"] == image_ref for row in rows) else None)
    for row in rows:
        await _check(compute, found, row, image if row["image_id"] == image_ref else None, multiattach)
    found.properties |= within
    found.min_ram = max(found.min_ram, image.min_ram if image is not None else 0)
    _check_locals(flavor, rows)
    root = next(row for row in rows if row["boot_index"] == 0)
    if root["destination_type"] == "local":
        _check_flavor_disk(flavor, found.image, zero_disk)
    elif image is not None and image_ref is None:  # what the image names is made, not the image
        _check_volume_size(root, image)
    if found.min_ram > flavor["ram"]:
        raise Invalid("Flavor's memory is too small for requested image.", kind="FlavorMemoryTooSmall")
    _name_devices(rows)
    return found


def _of_flavor(flavor: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ephemeral disk and the swap that a flavor brings unless they are asked for otherwise.

    Those that are asked for without a size get the flavor's.
    """
    blank = [row for row in rows if is_local(row)]
    added = []
    if flavor["ephemeral"] and not any(row["guest_format"] != "swap" for row in blank):
        added.append(_local(flavor["ephemeral"], None))
    if flavor["swap"] and not any(row["guest_format"] == "swap" for row in blank):
        added.append(_local(_gib(flavor["swap"]), "swap", flavor["swap"]))
    for row in blank:
        if row["guest_format"] == "swap" and row["swap_mib"] is None:
            row.update(swap_mib=flavor["swap"], size_gib=_gib(flavor["swap"]))
        elif row["size_gib"] is None:
            row["size_gib"] = flavor["ephemeral"]
    return added


def _local(size_gib: int, kind: str | None, swap_mib: int | None = None) -> dict[str, Any]:
    return _row(
        source_type="blank", destination_type="local", size_gib=size_gib, swap_mib=swap_mib, guest_format=kind,
        delete_on_termination=True,
    )  # fmt: skip


def _gib(mib: int) -> int:
    """MiB in whole GiB, rounded up."""
    return -(-mib // 1024)


async def _check(
    compute: Compute, found: Disks, row: dict[str, Any], image: ImageRecord | None, multiattach: bool
) -> None:  # fmt: skip
    """Look up what one row is made of; ``image``: what it is made of, where that was looked up already."""
    boots = row["boot_index"] == 0
    if row["source_type"] == "image":
        image = image or await _usable_image(compute, row["image_id"], named=False)
        if row["destination_type"] == "volume":
            if not row["size_gib"]:
                raise Invalid(
                    f"{INVALID}: Images with destination_type 'volume' need to have a non-zero size specified"
                )
            _check_volume_size(row, image)
        if boots:
            found.image, found.properties, found.min_ram = image, dict(image.properties), image.min_ram
    elif row["source_type"] == "volume":
        volume = await _usable_volume(compute, row["volume_id"], multiattach)
        row["size_gib"] = volume.size
        if boots:
            if not volume.bootable:
                raise Invalid(f"Block Device {volume.id} is not bootable.", kind="InvalidBDMVolumeNotBootable")
            told = volume.volume_image_metadata or {}
            found.properties = {key: value for key, value in told.items() if key not in ("image_id", "checksum")}
            least = str(told.get("min_ram") or "")
            found.min_ram = int(least) if least.isdecimal() and len(least) < 10 else 0  # users may write there
    elif row["source_type"] == "snapshot":
        try:
            snapshot = await compute.volume.snapshot(row["snapshot_id"])
        except NotFound:
            raise Invalid(f"{INVALID}: failed to get snapshot {row['snapshot_id']}.") from None
        row["size_gib"] = row["size_gib"] or snapshot.size
    elif row["destination_type"] == "volume" and not row["size_gib"]:
        raise Invalid(f"{INVALID}: Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size")


def _check_volume_size(row: Mapping[str, Any], image: ImageRecord) -> None:
    """Raise Invalid for a volume that is smaller than its image asks for."""
    if image.min_disk > (row["size_gib"] or 0):
        raise Invalid(
            "Volume is smaller than the minimum size specified in image metadata. Volume size is "
            f"{(row['size_gib'] or 0) * GIB} bytes, minimum size is {image.min_disk * GIB} bytes."
        )


async def _usable_image(compute: Compute, image_id: str, *, named: bool) -> ImageRecord:
    try:
        image = await compute.image.image(image_id)
    except (NotFound, Forbidden):
        told = "Can not find requested image" if named else f"{INVALID}: failed to get image {image_id}."
        raise Invalid(told, kind="ImageNotFound") from None
    if image.status != "active":
        raise Invalid(f"Image {image_id} is not active.", kind="ImageNotActive")
    return image


async def _usable_volume(compute: Compute, volume_id: str, multiattach: bool) -> Volume:
    try:
        volume = await compute.volume.volume(volume_id)
    except NotFound:
        raise Invalid(f"{INVALID}: failed to get volume {volume_id}.", kind="InvalidBDMVolume") from None
    check_attachable(volume, multiattach)
    return volume


def check_attachable(volume: Volume, multiattach: bool) -> None:
    """Raise Invalid unless a server may take the volume now."""
    if volume.multiattach and not multiattach:
        raise Invalid("Multiattach volumes are only supported starting with compute API version 2.60.")
    good = ("available", "in-use") if volume.multiattach else ("available",)
    if volume.status not in good:
        raise Invalid(
            f"Invalid volume: volume {volume.id} status must be {' or '.join(good)}. Currently in '{volume.status}'"
        )


def _check_locals(flavor: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    local = [row for row in rows if is_local(row)]
    swap = [row for row in local if row["guest_format"] == "swap"]
    plain = [row for row in local if row["guest_format"] != "swap"]
    if len(swap) > 1:
        raise Invalid(f"{INVALID}: More than one swap drive requested.")
    if any(not flavor["swap"] or row["swap_mib"] > flavor["swap"] for row in swap):
        raise Invalid("Swap drive requested is larger than instance type allows.")
    if any(row["guest_format"] not in (None, "", "ephemeral", *FILE_SYSTEMS) for row in plain):
        raise _bad(f"A local disk may be formatted with {', '.join(FILE_SYSTEMS)}.")
    if sum(row["size_gib"] or 1 for row in plain) > flavor["ephemeral"]:
        raise Invalid(
            "Ephemeral disks requested are larger than the instance type allows. If no size is given in one block "
            "device mapping, flavor ephemeral size will be used."
        )


def _check_flavor_disk(flavor: Mapping[str, Any], image: ImageRecord | None, zero_disk: bool) -> None:
    if flavor["disk"] == 0:
        if not zero_disk:
            raise Forbidden(
                "Only volume-backed servers are allowed for flavors with zero disk.",
                kind="BootFromVolumeRequiredForZeroDiskFlavor",
            )
        return
    if image is None:
        return
    have = flavor["disk"] * GIB
    if (image.size or 0) > have:
        raise Invalid(
            f"Flavor's disk is too small for requested image. Flavor disk is {have} bytes, "
            f"image is {image.size} bytes.",
            kind="FlavorDiskSmallerThanImage",
        )
    if image.min_disk * GIB > have:
        raise Invalid(
            "Flavor's disk is smaller than the minimum size specified in image metadata. "
            f"Flavor disk is {have} bytes, minimum size is {image.min_disk * GIB} bytes.",
            kind="FlavorDiskSmallerThanMinDisk",
        )


def _name_devices(rows: list[dict[str, Any]]) -> None:
    """Put the rows in their order, boot index first, and give each disk that has no name one."""
    rows.sort(key=lambda row: (row["boot_index"] is None, row["boot_index"] or 0))
    rows[0]["device_name"] = rows[0]["device_name"] or ROOT
    for position, row in enumerate(rows):
        row["position"] = position
    for row in rows:
        if row["device_name"] is None:
            row["device_name"] = next_name(rows, None)


def is_local(row: Mapping[str, Any]) -> bool:
    """Whether a block device is one that the host makes empty beside the root disk."""
    return bool(row["source_type"] == "blank" and row["destination_type"] == "local")


def written(disks: Sequence[Mapping[str, Any]], server_id: str, now: float) -> list[dict[str, Any]]:
    """The rows of one server."""
    return [
        {**row, "id": ids.derive_uuid("block_device", server_id, str(row["position"])), "server_id": server_id,
         "attachment_id": None, "created_at": now}
        for row in disks
    ]  # fmt: skip


def attached(
    have: Sequence[Row], server_id: str, volume_id: str, size_gib: int, device: str, tag: str | None, goes_with: bool
) -> dict[str, Any]:
    """The row of a volume that is attached to a running server; its attachment's id is chosen here."""
    row = _row(
        source_type="volume", destination_type="volume", volume_id=volume_id, size_gib=size_gib, device_name=device,
        tag=tag, delete_on_termination=goes_with, position=1 + max((one["position"] for one in have), default=-1),
    )  # fmt: skip
    return {
        **row, "id": ids.new_uuid(), "server_id": server_id, "attachment_id": ids.new_uuid(), "created_at": clock.now(),
    }  # fmt: skip


def next_name(rows: Sequence[Mapping[str, Any]], wished: str | None) -> str:
    """A free device name on a server; raises Conflict or Invalid for a bad wish."""
    taken = {row["device_name"] for row in rows if row["device_name"]} | {ROOT}
    if wished is not None:
        full = _full(wished)
        if full is None or not _DEVICE.match(wished):
            raise Invalid(f"The supplied device path ({wished[:80]}) is invalid.", kind="InvalidDevicePath")
        if full in taken:
            raise Conflict(f"The supplied device path ({full}) is in use.", kind="DevicePathInUse")
        return full
    for letters in _letters():
        if (name := f"/dev/vd{letters}") not in taken:
            return name
    raise Invalid("There is no free device name left on the server.")


def _letters() -> list[str]:
    plain = "abcdefghijklmnopqrstuvwxyz"
    return [*plain, *(one + other for one in plain for other in plain)]

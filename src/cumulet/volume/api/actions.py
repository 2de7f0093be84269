# SPDX-License-Identifier: Apache-2.0
"""Actions on volumes and snapshots over HTTP."""

from __future__ import annotations

from typing import Any

from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Request
from cumulet.volume.logic import attachments as attachments_logic
from cumulet.volume.logic import snapshots as snapshots_logic
from cumulet.volume.logic import volumes as logic
from cumulet.volume.states import EVERY, IN_USE

_PROGRESS = {"creating": ("creating", "available", "error"), "deleting": ("deleting", "error_deleting")}
_SNAPSHOT_STATES = ("creating", "available", "deleting", "error", "error_deleting")


async def extend(request: Request) -> None:
    if request.found["status"] == IN_USE and request.since("3.42"):
        # no back end can tell a running guest yet
        raise Invalid(f"Invalid volume: Volume {request.found['id']} is in use and can't be extended while it is.")
    await logic.extend(request.service, request.found, request.body["new_size"])


async def set_bootable(request: Request) -> None:
    await logic.set_flag(request.service, request.found, "bootable", request.body["bootable"])


async def set_readonly(request: Request) -> None:
    if request.found["status"] != "available":
        raise Invalid(
            f"Invalid volume: Volume {request.found['id']} status must be available to update readonly flag, but "
            f"current status is: {request.found['status']}."
        )
    await logic.set_flag(request.service, request.found, "readonly", request.body["readonly"])


async def reset_status(request: Request) -> None:
    status, attach = request.body.get("status"), request.body.get("attach_status")
    if status is None and attach is None and request.body.get("migration_status") is None:
        raise Invalid("Must specify 'status', 'attach_status' or 'migration_status' for update.")
    status = status.lower() if status else None
    if status is not None and status not in EVERY:
        raise Invalid(f"Must specify a valid status, not {status[:40]}")
    await logic.reset(request.service, request.found, status, attach.lower() if attach else None)


async def retype(request: Request) -> None:
    await logic.retype(request.service, request.context, request.found, request.body["new_type"])


async def force_delete(request: Request) -> None:
    await logic.remove(request.service, request.context, request.found, force=True)


async def attach(request: Request) -> None:
    body = request.body
    if not body.get("instance_uuid") and not body.get("host_name"):
        raise Invalid("Invalid input for field/attribute os-attach. 'instance_uuid' or 'host_name' is required.")
    await attachments_logic.legacy_attach(
        request.service,
        request.found,
        instance=body.get("instance_uuid"),
        host_name=body.get("host_name"),
        mountpoint=body["mountpoint"],
        mode=body.get("mode", "rw"),
    )


async def detach(request: Request) -> None:
    told: dict[str, Any] = next(iter(request.sent.values())) or {}
    await attachments_logic.legacy_detach(request.service, request.context, request.found, told.get("attachment_id"))


async def reserve(request: Request) -> None:
    await attachments_logic.legacy_mark(request.service, request.context, request.found, "reserve")


async def unreserve(request: Request) -> None:
    await attachments_logic.legacy_mark(request.service, request.context, request.found, "unreserve")


async def begin_detaching(request: Request) -> None:
    """Ours may name the attachment that ends: one that ended meanwhile marks nothing."""
    told: Any = next(iter(request.sent.values()))
    named = told.get("attachment_id") if isinstance(told, dict) else None
    ending = named if isinstance(named, str) else None
    await attachments_logic.legacy_mark(request.service, request.context, request.found, "begin_detaching", ending)


async def roll_detaching(request: Request) -> None:
    await attachments_logic.legacy_mark(request.service, request.context, request.found, "roll_detaching")


async def reset_snapshot(request: Request) -> None:
    status = request.body["status"].lower()
    if status not in _SNAPSHOT_STATES:
        raise Invalid(f"Must specify a valid status, not {status}")
    await snapshots_logic.reset(request.service, request.found, status)


async def update_snapshot_status(request: Request) -> None:
    """What an outside maker of snapshots says of its progress."""
    now, status = request.found["status"], request.body["status"]
    if now not in _PROGRESS:
        raise Invalid(f"Snapshot status {now} not allowed for update_snapshot_status")
    if status not in _PROGRESS[now]:
        raise Invalid(f"Provided snapshot status {status} not allowed for snapshot with status {now}.")
    await snapshots_logic.reset(request.service, request.found, status, progress=request.body.get("progress"))


async def force_delete_snapshot(request: Request) -> None:
    await snapshots_logic.remove(request.service, request.found, force=True)

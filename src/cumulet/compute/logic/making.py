# SPDX-License-Identifier: Apache-2.0
"""Volumes that a server brings into the world: made once, the user's from the first moment.

They are made by the service, not by the host that builds: a host may connect
volumes and make none, and work that was accepted goes on when the user's token aged.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cumulet.client.volume import VolumeClient
from cumulet.kernel import context, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Conflict, NotFound


def volume_of(device_id: str, attempt: int) -> str:
    """The id of the volume that one attempt makes for a device: the same for every repetition."""
    return ids.derive_uuid(device_id, "volume", str(attempt))


async def ensure_volume(client: VolumeClient, caller: Context | None, server: Row, device: Row) -> str:
    """The id of the volume of a server's device, made for ``caller`` by this attempt if it is not there.

    Raises what the volume service refuses it for.
    """
    if device["volume_id"] is not None:
        return str(device["volume_id"])
    volume_id = volume_of(device["id"], server["attempt"])
    body: dict[str, Any] = {
        "id": volume_id, "size": device["size_gib"], "metadata": {"cumulet_block_device": device["id"]},
    }  # fmt: skip
    if device["image_id"] and device["source_type"] == "image":
        body["imageRef"] = device["image_id"]
    for name in ("snapshot_id", "volume_type"):
        if device[name]:
            body[name] = device[name]
    try:
        await _create(client, caller, server, body)
    except Conflict:  # somebody was here before, another conductor even
        try:
            status = (await client.volume(volume_id, as_service=True)).status
        except NotFound:
            status = "deleting"
        if status == "deleting":
            raise
    return volume_id


async def _create(client: VolumeClient, caller: Context | None, server: Row, body: dict[str, Any]) -> None:
    if caller is None:
        owner = {"project_id": server["project_id"], "user_id": server["user_id"]}
        await client.create_volume({**body, **owner}, as_service=True)
        return
    before = context.current()
    context.use(msgspec.structs.replace(caller, accepted=True))
    try:
        await client.create_volume(body)
    finally:
        context.use(before)

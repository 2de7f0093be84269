# SPDX-License-Identifier: Apache-2.0
"""Volumes that a server brings into the world: made once, the user's from the first moment.

They are made by the service, not by the host that builds: a host may connect
volumes and make none, and work that was accepted goes on when the user's token aged.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cumulet.client.volume import VolumeClient
from cumulet.kernel import context
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row


async def ensure_volume(client: VolumeClient, caller: Context | None, server: Row, device: Row) -> str:
    """The id of the volume of a server's device, made for ``caller`` if it is not there; found again by its mark.

    Raises what the volume service refuses it for.
    """
    if device["volume_id"] is not None:
        return str(device["volume_id"])
    mark = {"cumulet_block_device": device["id"]}
    # by project too: whoever knows the mark could give it to a volume of theirs
    there = await client.volumes(metadata=mark, all_tenants="1", project_id=server["project_id"], as_service=True)
    if there:
        return there[0].id
    body: dict[str, Any] = {"size": device["size_gib"], "metadata": mark}
    if device["image_id"] and device["source_type"] == "image":
        body["imageRef"] = device["image_id"]
    for name in ("snapshot_id", "volume_type"):
        if device[name]:
            body[name] = device[name]
    if caller is None:
        owner = {"project_id": server["project_id"], "user_id": server["user_id"]}
        return (await client.create_volume({**body, **owner}, as_service=True)).id
    before = context.current()
    context.use(msgspec.structs.replace(caller, accepted=True))
    try:
        return (await client.create_volume(body)).id
    finally:
        context.use(before)

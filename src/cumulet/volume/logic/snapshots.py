# SPDX-License-Identifier: Apache-2.0
"""Snapshots: full copies of a volume at one moment, kept on its back end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Duplicate, Row, Transaction
from cumulet.kernel.errors import Conflict, Invalid, NotFound
from cumulet.volume.errors import InvalidVolume
from cumulet.volume.limits import snapshot_costs
from cumulet.volume.logic import Volume, words
from cumulet.volume.models import SNAPSHOTS, VOLUMES
from cumulet.volume.sagas.params import CreateSnapshot, DeleteSnapshot
from cumulet.volume.states import AVAILABLE, CREATING, DELETED, IN_USE, SNAPSHOT


async def load(volume: Volume, caller: Context, snapshot_id: str) -> Row:
    """The snapshot with its metadata; raises NotFound."""
    row = await volume.database.first(select(SNAPSHOTS).where(SNAPSHOTS.c.id == snapshot_id))
    if row is None or row["status"] == DELETED or not (caller.is_admin or row["project_id"] == caller.project_id):
        raise NotFound(f"Snapshot {snapshot_id} could not be found.", kind="SnapshotNotFound")
    await decorate(volume, [row])
    return row


async def decorate(volume: Volume, rows: list[Row]) -> None:
    """Add ``metadata`` to snapshot rows, in place."""
    held = await words.of(volume.database, [row["id"] for row in rows])
    for row in rows:
        row["metadata"] = held[row["id"]].get(words.SNAPSHOT, {})


async def create(volume: Volume, caller: Context, source: Row, body: Mapping[str, Any], *, in_use: bool) -> Row:
    """A new snapshot in `creating`; ``in_use`` allows a volume that a guest has."""
    allowed = (AVAILABLE, IN_USE) if in_use else (AVAILABLE,)
    row: Row = {
        "id": body.get("id") or ids.new_uuid(), "volume_id": source["id"], "name": body.get("name"),
        "description": body.get("description"), "status": CREATING, "size": source["size"],
        "project_id": caller.project_id, "user_id": caller.user_id, "type_id": source["type_id"], "progress": "0%",
        "created_at": clock.now(),
    }  # fmt: skip

    async def write(tx: Transaction) -> str:
        now = await tx.first(select(VOLUMES).where(VOLUMES.c.id == source["id"]))
        status = now["status"] if now else DELETED
        if now is None or status not in allowed:
            raise InvalidVolume(
                f"Volume {source['id']} status must be {', '.join(allowed)}, but current status is: {status}."
            )
        size = now["size"]
        await volume.quota.take(tx, row["project_id"], snapshot_costs(size, source["type_name"]))
        try:
            await tx.insert(SNAPSHOTS, {**row, "size": size, "host": now["host"]})
        except Duplicate:
            raise Conflict(f"Snapshot {row['id']} exists already.") from None
        await words.lay(tx, row["id"], words.SNAPSHOT, body.get("metadata") or {})
        params = CreateSnapshot(row["id"], source["id"])
        return await volume.begin(tx, "volume.create_snapshot", row["id"], params)

    await volume.told(await volume.database.run(write))
    return await load(volume, caller, row["id"])


async def update(volume: Volume, caller: Context, row: Row, values: Mapping[str, Any]) -> Row:
    columns = {name: values[name] for name in ("name", "description") if name in values}

    async def body(tx: Transaction) -> None:
        await tx.run(SNAPSHOTS.update().where(SNAPSHOTS.c.id == row["id"]).values(**columns, updated_at=clock.now()))

    await volume.database.run(body)
    return await load(volume, caller, row["id"])


async def remove(volume: Volume, row: Row, *, force: bool = False) -> None:
    """Begin to delete. Raises Invalid while it is busy."""

    async def body(tx: Transaction) -> str:
        try:
            await SNAPSHOT.begin(tx, "force-delete" if force else "delete", row["id"])
        except Conflict as error:
            if error.kind != "InvalidState":
                raise
            raise Invalid(
                "Invalid snapshot: Snapshot status must be available or error and must not be part of a group.",
                kind="InvalidSnapshot",
            ) from None
        return await volume.begin(tx, "volume.delete_snapshot", row["id"], DeleteSnapshot(row["id"]))

    await volume.told(await volume.database.run(body))


async def reset(volume: Volume, row: Row, status: str, *, progress: str | None = None) -> None:
    """An operator, or an outside maker, says what state the snapshot is in."""
    values = {"progress": progress} if progress else {}
    await volume.database.run(lambda tx: SNAPSHOT.finish(tx, "create", row["id"], ends=status, **values))

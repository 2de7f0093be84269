# SPDX-License-Identifier: Apache-2.0
"""Servers as records: finding one, changing what needs no host.

Whether the caller may is decided by policy on what `load` found; a server of
another project does not exist for anybody but an admin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import select

from cumulet.compute.errors import server_missing
from cumulet.compute.logic import Compute, actions
from cumulet.compute.models import BLOCK_DEVICES, HOSTS, SERVERS
from cumulet.compute.states import SERVER
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, Forbidden, Invalid, NotFound

MAX_TAGS = 50


async def load(compute: Compute, context: Context, server_id: str, *, deleted: bool = False) -> Row:
    """A server that exists for the caller (with ``deleted`` also a tombstone); raises NotFound."""
    row = await compute.db.first(select(SERVERS).where(SERVERS.c.id == server_id))
    if row is None or not (context.is_admin or row["project_id"] == context.project_id):
        raise server_missing(server_id)
    if row["deleted_at"] is not None and not deleted:
        raise server_missing(server_id)
    return row


async def load_in(tx: Transaction, server_id: str) -> Row:
    """The server inside a transaction; raises NotFound when it went meanwhile."""
    row = await tx.first(select(SERVERS).where(SERVERS.c.id == server_id, SERVERS.c.deleted_at.is_(None)))
    if row is None:
        raise server_missing(server_id)
    return row


def check_unlocked(row: Mapping[str, Any], context: Context) -> None:
    """Raise Conflict for a locked server, unless an admin asks."""
    if row["locked"] and not context.is_admin:
        raise Conflict(f"Instance {row['id']} is locked", kind="InstanceIsLocked")


async def devices_of(reader: Compute | Transaction, server_id: str) -> list[Row]:
    """The block devices of a server in their order."""
    statement = select(BLOCK_DEVICES).where(BLOCK_DEVICES.c.server_id == server_id)
    statement = statement.order_by(BLOCK_DEVICES.c.position, BLOCK_DEVICES.c.created_at)
    return await (reader.db if isinstance(reader, Compute) else reader).all(statement)


async def host_of(compute: Compute, row: Mapping[str, Any]) -> Row | None:
    """The record of the host that a server is on."""
    if row["host"] is None:
        return None
    return await compute.db.first(
        select(HOSTS).where(HOSTS.c.host == row["host"], HOSTS.c.binary == "nova-compute")
    )  # fmt: skip


async def change(
    compute: Compute,
    context: Context,
    server_id: str,
    action: str,
    compute_values: Callable[[Row], Mapping[str, Any]],
    *,
    log: str | None = None,
    after: Callable[[Transaction, Row], Awaitable[None]] | None = None,
    even_locked: bool = False,
) -> Row:
    """Carry out an action that is done at once: the state's table allows it, ``compute_values`` says what changes.

    Returns the row as it is then. ``log`` names the instance action to record.
    """

    async def body(tx: Transaction) -> Row:
        row = await load_in(tx, server_id)
        if not even_locked:
            check_unlocked(row, context)
        values = dict(compute_values(row))
        before = await SERVER.begin(tx, action, server_id)
        if values:
            await tx.run(SERVERS.update().where(SERVERS.c.id == server_id).values(**values))
        if log is not None:
            await actions.record(tx, server_id, log, row["project_id"])
        if after is not None:
            await after(tx, row)
        return {**before, **values}

    return await compute.db.run(body)


async def update(compute: Compute, context: Context, server_id: str, changes: Mapping[str, Any]) -> Row:
    """Change name, description, host name, access addresses, disk config or the pinned zone."""

    def values(row: Row) -> Mapping[str, Any]:
        inner = dict(changes)
        if "pinned_availability_zone" in inner:
            _check_pin(row, inner["pinned_availability_zone"])
        return inner

    return await change(compute, context, server_id, "update", values, even_locked=True)


def _check_pin(row: Row, zone: str | None) -> None:
    pinned, current = row["pinned_availability_zone"], row["availability_zone"]
    if zone is None or zone == pinned:
        return
    if pinned is not None:
        raise Conflict(
            "Cannot change pinned availability zone directly. Unpin first by setting pinned_availability_zone to null."
        )
    if zone != current:
        raise Conflict(
            f"Server can only be pinned to its current availability zone '{current}', but '{zone}' was requested."
        )


# ---- metadata


async def put_metadata(
    compute: Compute, context: Context, server_id: str, items: Mapping[str, str], *, replace: bool
) -> dict[str, str]:
    """Merge metadata into a server's, or replace it; returns all of it. Raises Forbidden above the limit."""
    limit = (await compute.quota.limits_of(compute.db, context.project_id or ""))["metadata_items"]

    def values(row: Row) -> Mapping[str, Any]:
        merged = dict(items) if replace else {**row["metadata"], **items}
        if 0 <= limit < len(merged):
            raise Forbidden(f"Maximum number of metadata items exceeds {limit}", kind="MetadataLimitExceeded")
        return {"metadata": merged}

    row = await change(compute, context, server_id, "update_metadata", values)
    found: dict[str, str] = row["metadata"]
    return found


async def drop_metadata(compute: Compute, context: Context, server_id: str, key: str) -> None:
    """Take one item away; raises NotFound when it is not there."""

    def values(row: Row) -> Mapping[str, Any]:
        if key not in row["metadata"]:
            raise NotFound("Metadata item was not found")
        return {"metadata": {name: value for name, value in row["metadata"].items() if name != key}}

    await change(compute, context, server_id, "delete_metadata", values)


# ---- tags


async def put_tags(compute: Compute, context: Context, server_id: str, tags: Iterable[str]) -> list[str]:
    wanted = sorted(set(tags))
    await change(compute, context, server_id, "update_tags", lambda row: {"tags": wanted}, even_locked=True)
    return wanted


async def add_tag(compute: Compute, context: Context, server_id: str, tag: str) -> bool:
    """Put one tag on a server; False when it was there. Raises Invalid above the limit."""
    new = True

    def values(row: Row) -> Mapping[str, Any]:
        nonlocal new
        new = tag not in row["tags"]
        if new and len(row["tags"]) >= MAX_TAGS:
            raise Invalid(f"The number of tags exceeded the per-server limit {MAX_TAGS}")
        return {"tags": sorted({*row["tags"], tag})}

    await change(compute, context, server_id, "update_tags", values, even_locked=True)
    return new


async def drop_tags(compute: Compute, context: Context, server_id: str, tag: str | None = None) -> None:
    """Take one tag away (NotFound when it is not there), or all."""

    def values(row: Row) -> Mapping[str, Any]:
        if tag is not None and tag not in row["tags"]:
            raise tag_missing(server_id, tag)
        return {"tags": [one for one in row["tags"] if tag is not None and one != tag]}

    await change(compute, context, server_id, "delete_tags", values, even_locked=True)


def tag_missing(server_id: str, tag: str) -> NotFound:
    return NotFound(f"Server {server_id} has no tag '{tag}'")

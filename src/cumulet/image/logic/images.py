# SPDX-License-Identifier: Apache-2.0
"""Image records: who sees which, how they are made, changed and ended.

An image that the caller may not see does not exist for him: 404, never 403.
Inner documents are rows with ``properties`` (custom, by name), ``tags`` and
``locations`` (where the data is, in the order in which it is read).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import delete, func, select

from cumulet.image.logic import Image
from cumulet.image.logic.limits import COUNT, SIZE, STAGE, UPLOADING
from cumulet.image.models import cache, images, locations, members, properties, sagas, tags
from cumulet.image.states import ACTIVE, DEACTIVATED, DELETED, IMAGE, QUEUED
from cumulet.image.store.model import StoreDown
from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Conflict, Forbidden, Invalid, NotFound, OverQuota, TooLarge, Unavailable

MIB = 1024 * 1024
_log = logging.getLogger(__name__)


# ---- reading


async def load(image: Image, caller: Context, image_id: str) -> Row:
    """The image with its properties and tags, if the caller may see it; raises NotFound."""
    row = await image.database.first(select(images).where(images.c.id == image_id))
    if row is None or row["status"] == DELETED:
        raise missing(image_id)
    membership = None
    if row["visibility"] == "shared" and caller.project_id is not None:
        key = (members.c.image_id == image_id) & (members.c.member_id == caller.project_id)
        membership = await image.database.first(select(members).where(key))
    row["member_id"] = caller.project_id if membership else None
    owned = row["owner"] is not None and row["owner"] == caller.project_id
    seen = caller.is_admin or caller.serves or owned or membership or row["visibility"] in ("public", "community")
    if not seen or not image.policy.allows("get_image", caller, target_of(row)):
        raise missing(image_id)
    await decorate(image, image.database, [row])
    return row


def missing(image_id: str) -> NotFound:
    return NotFound(f"No image found with ID {image_id}")


def target_of(row: Row) -> dict[str, Any]:
    """What policy rules may ask about an image."""
    return {**row, "project_id": row["owner"], "owner": row["owner"]}


async def decorate(image: Image, reader: Database | Transaction, rows: list[Row]) -> None:
    """Add ``properties``, ``tags`` and ``locations`` to image rows, in place."""
    known = {row["id"]: row for row in rows}
    for row in rows:
        row["properties"], row["tags"], row["locations"] = {}, [], []
    if not rows:
        return
    held = select(properties).where(properties.c.image_id.in_(list(known))).order_by(properties.c.name)
    for one in await reader.all(held):
        known[one["image_id"]]["properties"][one["name"]] = one["value"]
    words = select(tags).where(tags.c.image_id.in_(list(known))).order_by(tags.c.tag)
    for one in await reader.all(words):
        known[one["image_id"]]["tags"].append(one["tag"])
    where = select(locations).where(locations.c.image_id.in_(list(known))).order_by(locations.c.position)
    for one in await reader.all(where):
        known[one["image_id"]]["locations"].append(one)


def best_first(image: Image, row: Row) -> list[Row]:
    """An image's locations in the order in which they are read: by their store's weight."""

    def weight(location: Row) -> int:
        place = image.stores.get(location["store"])
        return place.weight if place is not None else 0

    held: list[Row] = row["locations"]
    return sorted(held, key=weight, reverse=True)


# ---- making


async def create(image: Image, caller: Context, wanted: Mapping[str, Any]) -> Row:
    """A new queued image; ``wanted`` holds attributes, ``properties`` and ``tags``.

    Raises Conflict for a used id and OverQuota or TooLarge over a limit.
    """
    now, image_id = clock.now(), wanted.get("id") or ids.new_uuid()
    row: Row = {
        "id": image_id,
        "name": wanted.get("name"),
        "status": QUEUED,
        "visibility": wanted.get("visibility", "shared"),
        "owner": wanted.get("owner", caller.project_id),
        "protected": wanted.get("protected", False),
        "os_hidden": wanted.get("os_hidden", False),
        "container_format": wanted.get("container_format"),
        "disk_format": wanted.get("disk_format"),
        "min_disk": wanted.get("min_disk", 0),
        "min_ram": wanted.get("min_ram", 0),
        "created_at": now,
        "updated_at": now,
    }
    held, words = dict(wanted.get("properties", {})), sorted(set(wanted.get("tags", [])))
    check_counts(image, held, words)
    limits = await image.limits.of(row["owner"])

    async def body(tx: Transaction) -> None:
        await check_quota(limits, tx, row["owner"], {COUNT: 1})
        await insert(tx, row, held, words)

    await image.database.run(body)
    found = await image.database.first(select(images).where(images.c.id == image_id))
    assert found is not None
    return {**found, "properties": held, "tags": words, "locations": [], "member_id": None}


async def insert(tx: Transaction, row: Row, held: Mapping[str, str], words: Iterable[str]) -> None:
    """Write a new image; raises Conflict for a used id."""
    try:
        await tx.insert(images, row)
    except Duplicate:
        raise Conflict(f"Image ID {row['id']} already exists!") from None
    await write_words(tx, row["id"], held, words)


def check_counts(image: Image, held: Mapping[str, str], words: Iterable[str]) -> None:
    """Raise TooLarge when an image has too many custom properties or tags."""
    for noun, count, limit in (
        ("properties", len(held), image.config.property_quota),
        ("tags", len(list(words)), image.config.tag_quota),
    ):
        if 0 <= limit < count:
            raise TooLarge(
                f"The limit has been exceeded on the number of allowed image {noun}. "
                f"Attempted: {count}, Maximum: {limit}"
            )


async def check_quota(
    limits: Mapping[str, int], tx: Transaction, owner: str | None, more: Mapping[str, int], *, more_bytes: int = 0
) -> None:
    """Count what the project owns, in the transaction that adds to it; raises OverQuota.

    ``more`` is what is added, by the names of the limits; ``more_bytes`` of stored data.
    """
    asked = {**more, SIZE: 0} if more_bytes else dict(more)
    if owner is None or all(limits[name] < 0 for name in asked):
        return
    used = await usage(tx, owner)
    for name, amount in asked.items():
        over = limits[name] < used[name] + amount
        if name == SIZE:
            over = limits[name] * MIB < used["bytes"] + more_bytes
        if limits[name] >= 0 and over:
            raise OverQuota(f"Project {owner} is over a limit for {name} of {limits[name]}")


async def usage(reader: Database | Transaction, owner: str) -> dict[str, int]:
    """What a project owns, by the names of the published limits, and ``bytes`` of stored data (each copy counts)."""
    mine = (images.c.owner == owner) & (images.c.status != DELETED)
    copies = select(func.coalesce(func.sum(images.c.size), 0).label("n")).where(
        mine, locations.c.image_id == images.c.id
    )
    counted = {
        COUNT: select(func.count().label("n")).where(mine),
        "bytes": copies,
        UPLOADING: select(func.count().label("n")).where(
            mine & images.c.status.in_(["saving", "uploading", "importing"])
        ),
        STAGE: select(func.coalesce(func.sum(images.c.size), 0).label("n")).where(
            mine & images.c.staged_key.is_not(None)
        ),
    }
    found = {}
    for name, statement in counted.items():
        row = await reader.first(statement)
        assert row is not None
        found[name] = int(row["n"])
    return {**found, SIZE: found["bytes"] // MIB, STAGE: found[STAGE] // MIB}


async def write_words(tx: Transaction, image_id: str, held: Mapping[str, str], words: Iterable[str]) -> None:
    """Replace an image's custom properties and tags."""
    await tx.run(delete(properties).where(properties.c.image_id == image_id))
    await tx.run(delete(tags).where(tags.c.image_id == image_id))
    for name, value in held.items():
        await tx.insert(properties, {"image_id": image_id, "name": name, "value": value})
    for word in words:
        await tx.insert(tags, {"image_id": image_id, "tag": word})


async def write_locations(tx: Transaction, image_id: str, held: Iterable[Row]) -> None:
    """Replace where an image's data is."""
    await tx.run(delete(locations).where(locations.c.image_id == image_id))
    for position, one in enumerate(held):
        kept = {name: one[name] for name in ("store", "key", "details")}
        await tx.insert(locations, {"image_id": image_id, "position": position, **kept})


# ---- changing

_LOCATED = ("status", "size", "checksum", "os_hash_algo", "os_hash_value")
"""What else a change of locations may change."""


async def update(image: Image, before: Row, after: Row) -> Row:
    """Write the changed image ``after``; raises Conflict when somebody changed it since ``before`` was read."""
    check_counts(image, after["properties"], after["tags"])
    values = {
        name: after[name]
        for name in (
            "name", "visibility", "owner", "protected", "os_hidden", "container_format", "disk_format",
            "min_disk", "min_ram",
        )
        if after[name] != before[name]
    }  # fmt: skip
    image_id = before["id"]
    values |= {name: after[name] for name in _LOCATED if after[name] != before[name]}
    limits = await image.limits.of(values["owner"]) if values.get("owner") is not None else {}

    async def body(tx: Transaction) -> Row:
        if limits:
            more_bytes = (before["size"] or 0) * len(before["locations"])
            await check_quota(limits, tx, values["owner"], {COUNT: 1}, more_bytes=more_bytes)
        same = (images.c.id == image_id) & (images.c.updated_at == before["updated_at"])
        same &= images.c.status == before["status"]
        # two changes within one tick of the clock must still differ
        stamp = max(clock.now(), before["updated_at"] + 1e-6)
        if not await tx.run(images.update().where(same).values(**values, updated_at=stamp)):
            raise Conflict(f"The image {image_id} was changed by another request.")
        if after["properties"] != before["properties"] or after["tags"] != before["tags"]:
            await write_words(tx, image_id, after["properties"], after["tags"])
        if after["locations"] != before["locations"]:
            await write_locations(tx, image_id, after["locations"])
        row = await tx.first(select(images).where(images.c.id == image_id))
        assert row is not None
        return row

    row = await image.database.run(body)
    return {**after, **row}


async def add_tag(image: Image, row: Row, word: str) -> None:
    """Ensure a tag; raises TooLarge over the limit."""
    if word in row["tags"]:
        return
    check_counts(image, {}, [*row["tags"], word])

    async def body(tx: Transaction) -> None:
        try:
            await tx.insert(tags, {"image_id": row["id"], "tag": word})
        except Duplicate:
            return
        await _touch(tx, row["id"])

    await image.database.run(body)


async def remove_tag(image: Image, row: Row, word: str) -> None:
    """Raises NotFound when the image has no such tag."""

    async def body(tx: Transaction) -> int:
        gone = await tx.run(delete(tags).where(tags.c.image_id == row["id"], tags.c.tag == word))
        await _touch(tx, row["id"])
        return gone

    if not await image.database.run(body):
        raise NotFound


async def _touch(tx: Transaction, image_id: str) -> None:
    await tx.run(images.update().where(images.c.id == image_id).values(updated_at=clock.now()))


async def switch(image: Image, row: Row, action: str) -> None:
    """`deactivate` or `reactivate`; being so already is success, any other state is Forbidden."""
    goal = DEACTIVATED if action == "deactivate" else ACTIVE
    if row["status"] == goal:
        return
    if row["status"] not in IMAGE.actions[action].allowed:
        raise Forbidden(f"Not allowed to {action} image in status '{row['status']}'")
    await image.database.run(lambda tx: IMAGE.begin(tx, action, row["id"]))


async def remove(image: Image, row: Row) -> None:
    """End an image: the record stays as a tombstone, the data goes.

    Raises Forbidden when it is protected, Conflict while volumes are clones of its data.
    """
    if row["protected"]:
        raise Forbidden(f"Image {row['id']} is protected and cannot be deleted.")
    await _check_unused(image, row, row["locations"])

    async def body(tx: Transaction) -> Row:
        before = await IMAGE.begin(tx, "delete", row["id"], deleted_at=clock.now(), staged_key=None, task_id=None)
        before["locations"] = await tx.all(select(locations).where(locations.c.image_id == row["id"]))
        for table in (members, locations, cache):
            await tx.run(delete(table).where(table.c.image_id == row["id"]))
        for saga in await tx.all(select(sagas.c.id).where(sagas.c.subject == row["id"], sagas.c.state == "ready")):
            await image.engine.cancel(tx, saga["id"])
        return before

    try:
        before = await image.database.run(body)
    except Conflict as error:
        if error.kind == "InvalidState":
            raise NotFound(f"Failed to find image {row['id']} to delete") from None
        raise
    await drop_data(image, before["locations"])
    if before["staged_key"]:
        await image.staging.delete(before["staged_key"])


async def _check_unused(image: Image, row: Row, held: Iterable[Row]) -> None:
    """Raise Conflict while somebody outside builds upon the data, Unavailable when its store does not tell."""
    for one in held:
        place = image.stores.get(one["store"])
        try:
            used = place is not None and await place.store.in_use(one["key"])
        except StoreDown as error:
            raise Unavailable(str(error)) from None
        if used:
            raise Conflict(
                f"Image {row['id']} could not be deleted because it is in use: The image cannot be deleted because "
                "it is in use through the backend store outside of Glance."
            )


async def drop_data(image: Image, held: Iterable[Row]) -> None:
    """Delete what locations named and no record names any more; what a store can't delete now is an orphan."""
    for one in held:
        place = image.stores.get(one["store"])
        if place is not None:
            try:
                await place.store.delete(one["key"])
            except OSError as error:
                _log.warning("store %s could not delete %s now: %s", place.id, one["key"], error)


async def drop_from_store(image: Image, row: Row, store_id: str) -> None:
    """Delete one of several copies. Raises NotFound for a copy that is not there, Forbidden for the last."""
    if len(row["locations"]) == 1:
        raise Forbidden(
            "Cannot delete image data from the only store containing it. Consider deleting the image instead."
        )
    gone = [one for one in row["locations"] if one["store"] == store_id][:1]
    if not gone:
        raise NotFound(f"Image {row['id']} is not stored in store {store_id}.")
    await _check_unused(image, row, gone)
    await update(image, row, {**row, "locations": [one for one in row["locations"] if one is not gone[0]]})
    await drop_data(image, gone)


def check_formats(row: Row) -> None:
    """Raise Invalid while an image does not say what its data will be."""
    absent = [name for name in ("disk_format", "container_format") if not row[name]]
    if absent:
        noun = "Property" if len(absent) == 1 else "Properties"
        raise Invalid(f"{noun} {', '.join(absent)} must be set prior to saving data.")

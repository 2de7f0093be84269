# SPDX-License-Identifier: Apache-2.0
"""What stays true of images: no lost upload keeps one busy, nothing in a store is an orphan, old records go."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from sqlalchemy import or_, select

from cumulet.image.logic import Image
from cumulet.image.logic import cache as cache_logic
from cumulet.image.logic.data import key_of, restore
from cumulet.image.models import images, locations, sagas, tasks
from cumulet.image.states import DELETED, SAVING, UPLOADING
from cumulet.image.store.model import StoreBusy, StoreDown
from cumulet.kernel import clock
from cumulet.kernel.db import Transaction
from cumulet.kernel.loops import Loop


def make(image: Image) -> list[Loop]:
    """The reconcilers of the image service; they find the service's pokes by name."""

    async def uploads() -> None:
        await drop_lost_uploads(image)

    async def orphans() -> None:
        await drop_orphans(image)
        await purge(image)

    async def cache() -> None:
        await cache_logic.fetch_queued(image)
        await cache_logic.prune(image)
        await cache_logic.drop_orphans(image)

    image.loops = {
        "uploads": Loop("image uploads", 20.0, uploads),
        "orphans": Loop("image orphans", 300.0, orphans),
        "cache": Loop("image cache", 300.0, cache),
    }
    return list(image.loops.values())


async def drop_lost_uploads(image: Image) -> None:
    """Put back to queued what its process stopped reporting."""
    late = clock.now() - image.config.lost_seconds

    async def body(tx: Transaction) -> None:
        lost = (images.c.upload_id.is_not(None)) & (images.c.upload_seen_at < late)
        for row in await tx.all(select(images.c.id).where(lost, images.c.status.in_([SAVING, UPLOADING]))):
            await restore(tx, row["id"])

    await image.database.run(body, durable=False)


async def drop_orphans(image: Image) -> None:
    """Delete objects that no image holds and that nothing in work writes."""
    for _, store, key in await find_orphans(image):
        with contextlib.suppress(StoreDown, StoreBusy):
            await store.delete(key)


async def find_orphans(image: Image) -> list[tuple[str, Any, str]]:
    """(place, store, key) of each object that no image holds and that nothing in work writes.

    The keys are listed first: an upload, or a saga's keys, are recorded before the
    first byte is written, so what is listed and not recorded belongs to nobody.
    A store that is away, or an object that is in use, waits for the next time.
    """
    listed: list[tuple[str, Any, list[str]]] = [("staging", image.staging, await image.staging.list())]
    for place in image.stores.values():
        if not place.read_only:
            with contextlib.suppress(StoreDown):
                listed.append((place.id, place.store, await place.store.list()))
    if not any(keys for _, _, keys in listed):
        return []
    held = set()
    uploads = select(images.c.staged_key, images.c.upload_id).where(
        images.c.status != DELETED, or_(images.c.staged_key.is_not(None), images.c.upload_id.is_not(None))
    )
    for row in await image.database.all(uploads):
        held |= {row["staged_key"], key_of(row["upload_id"])}
    held |= {row["key"] for row in await image.database.all(select(locations.c.key))}
    for row in await image.database.all(select(sagas.c.params).where(sagas.c.state.in_(["ready", "stuck"]))):
        told = msgspec.to_builtins(row["params"])
        held |= {told[name] for name in ("key", "staged_key", "converted_key") if name in told}
    return [(place, store, key) for place, store, keys in listed for key in keys if key not in held]


async def purge(image: Image) -> None:
    """Forget images that were deleted long ago, tasks that expired and sagas that ended."""
    now = clock.now()
    gone = images.delete().where(
        images.c.status == DELETED, images.c.deleted_at < now - image.config.keep_deleted_days * 86_400
    )
    expired = tasks.delete().where(tasks.c.expires_at < now)

    async def body(tx: Transaction) -> None:
        await tx.run(gone)
        await tx.run(expired)

    await image.database.run(body, durable=False)
    await image.engine.journal.purge(now - 7 * 86_400)

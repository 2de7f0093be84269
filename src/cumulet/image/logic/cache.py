# SPDX-License-Identifier: Apache-2.0
"""A cache of image data on this machine, for stores that are far away; each machine knows only its own entries.

A reconciler fetches what was queued; a download of a cached image is served
from here. What the cache holds may be thrown away at any time.
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import delete, func, select

from cumulet.image.logic import Image
from cumulet.image.logic.data import Pieces, key_of, open_data, receive
from cumulet.image.logic.images import MIB, decorate
from cumulet.image.models import cache, images
from cumulet.image.states import ACTIVE
from cumulet.image.store.model import Reader
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Duplicate, Row, Transaction
from cumulet.kernel.errors import Fault

_log = logging.getLogger(__name__)


def _mine(image: Image) -> Any:
    return cache.c.node == image.node


async def queue(image: Image, image_id: str) -> None:
    """Ask for an image to be fetched; one that is cached or queued stays so."""
    now = clock.now()
    row = {
        "node": image.node, "image_id": image_id, "key": None, "size": 0, "hits": 0, "created_at": now,
        "accessed_at": now,
    }  # fmt: skip

    async def body(tx: Transaction) -> None:
        if await tx.first(select(cache).where(_mine(image), cache.c.image_id == image_id)) is None:
            await tx.insert(cache, row)

    try:
        await image.database.run(body)
    except Duplicate:
        return
    image.poke("cache")


async def entries(image: Image) -> list[Row]:
    """What is queued (without a key) and cached."""
    return await image.database.all(select(cache).where(_mine(image)).order_by(cache.c.created_at, cache.c.image_id))


async def fetch_queued(image: Image) -> None:
    """Fetch what waits; what can't be fetched is dropped from the queue."""
    for entry in await image.database.all(select(cache.c.image_id).where(_mine(image), cache.c.key.is_(None))):
        await _fetch(image, entry["image_id"])


async def _fetch(image: Image, image_id: str) -> None:
    row = await image.database.first(select(images).where(images.c.id == image_id, images.c.status == ACTIVE))
    if row is None:
        await drop(image, [image_id])
        return
    await decorate(image, image.database, [row])
    key = key_of(ids.new_uuid())
    try:
        reader = await open_data(image, row)
        try:
            received = await receive(image, image.cached, key, Pieces(reader), None)
        finally:
            await reader.close()
    except Fault as error:
        _log.warning("image %s could not be cached: %s", image_id, error)
        await drop(image, [image_id])
        return
    values = {"key": key, "size": received.size, "created_at": clock.now(), "accessed_at": clock.now()}
    waits = cache.update().where(_mine(image), cache.c.image_id == image_id, cache.c.key.is_(None))
    good = row["os_hash_value"] in (None, received.digest) or row["os_hash_algo"] != "sha512"
    if not good or not await image.database.run(lambda tx: tx.run(waits.values(**values)), durable=False):
        await image.cached.delete(key)


async def open_cached(image: Image, row: Row, offset: int, length: int | None) -> Reader | None:
    """The cached bytes of an image; None when they are not here."""
    mine = select(cache).where(_mine(image), cache.c.image_id == row["id"], cache.c.key.is_not(None))
    entry = await image.database.first(mine)
    if entry is None:
        return None
    try:
        reader = await image.cached.read(entry["key"], offset, length)
    except FileNotFoundError:
        await drop(image, [row["id"]])
        return None
    read = cache.update().where(_mine(image), cache.c.image_id == row["id"])
    seen = read.values(hits=cache.c.hits + 1, accessed_at=clock.now())
    await image.database.run(lambda tx: tx.run(seen), durable=False)
    return reader


async def drop(image: Image, image_ids: list[str] | None = None, *, queued: bool = True, cached: bool = True) -> None:
    """Forget entries (None: all) of the queue, of the cache, or of both."""
    condition: Any = _mine(image)
    if image_ids is not None:
        condition &= cache.c.image_id.in_(image_ids)
    if not queued:
        condition &= cache.c.key.is_not(None)
    if not cached:
        condition &= cache.c.key.is_(None)

    async def body(tx: Transaction) -> list[Row]:
        gone = await tx.all(select(cache.c.key).where(condition))
        await tx.run(delete(cache).where(condition))
        return gone

    for entry in await image.database.run(body):
        if entry["key"] is not None:
            await image.cached.delete(entry["key"])


async def clean(image: Image) -> None:
    """Make files and entries agree: a file without an entry goes, and an entry without a file."""
    keys = set(await image.cached.list())
    held = {}
    filled = select(cache.c.image_id, cache.c.key).where(_mine(image), cache.c.key.is_not(None))
    for entry in await image.database.all(filled):
        held[entry["key"]] = entry["image_id"]
    await drop(image, [image_id for key, image_id in held.items() if key not in keys])


async def drop_orphans(image: Image) -> None:
    """Delete files of the cache that no entry of any machine names, unless one is being fetched."""
    keys = await image.cached.list()
    if keys and await image.database.first(select(cache).where(_mine(image), cache.c.key.is_(None))) is None:
        known = {row["key"] for row in await image.database.all(select(cache.c.key))}
        for key in keys:
            if key not in known:
                await image.cached.delete(key)


async def prune(image: Image) -> tuple[int, int]:
    """Make the cache as small as it may be, oldest reads first; (files, bytes) that went."""
    size = func.coalesce(func.sum(cache.c.size), 0).label("n")
    total = await image.database.first(select(size).where(_mine(image)))
    assert total is not None
    left, files, freed = int(total["n"]), 0, 0
    oldest = select(cache).where(_mine(image), cache.c.key.is_not(None)).order_by(cache.c.accessed_at)
    for entry in await image.database.all(oldest):
        if left <= image.config.cache_max_mib * MIB:
            break
        await drop(image, [entry["image_id"]])
        left, files, freed = left - entry["size"], files + 1, freed + entry["size"]
    return files, freed

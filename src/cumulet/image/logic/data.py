# SPDX-License-Identifier: Apache-2.0
"""Image bytes: upload, staging, download.

Invariant: an image is active only with data that is whole, durable, hashed on
the way and of the declared format. Whatever breaks an upload (client gone, disk
full, refused content, process killed) leaves the image `queued` and no file.
Memory stays flat: one piece is read while the one before it is worked on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import select

from cumulet.image.logic import Image
from cumulet.image.logic.images import MIB, best_first, check_formats, check_quota, write_locations
from cumulet.image.logic.limits import STAGE, UPLOADING
from cumulet.image.models import images
from cumulet.image.states import IMAGE, SAVING
from cumulet.image.states import UPLOADING as STAGED
from cumulet.image.store.model import Place, Reader, Store, StoreDown, StoreFull
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.disks import Inspection, Refused
from cumulet.kernel.errors import Gone, Invalid, TooLarge, Unavailable, UnsupportedMedia
from cumulet.kernel.pools import Pool

_log = logging.getLogger(__name__)
PIECE = MIB
HASH = "sha512"


class Source(Protocol):
    """Bytes that come in pieces; an empty piece is the end."""

    async def read(self, size: int = -1) -> bytes: ...


@dataclass
class Received:
    """What was learnt of the bytes while they passed; sizes in bytes."""

    size: int
    checksum: str
    digest: str
    virtual_size: int | None


class Sieve:
    """Everything that is done to each piece on its way to the disk; blocking, for a worker thread.

    ``declared`` is the disk format to hold the content against (None: not looked
    at); unless ``strict``, a content that is not what was declared is let through.
    """

    def __init__(self, writer: Any, declared: str | None, *, strict: bool = True, algorithm: str = HASH) -> None:
        self._writer = writer
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha = hashlib.new(algorithm)
        self._inspection = Inspection(declared) if declared is not None else None
        self._strict = strict
        self.size = 0

    def take(self, piece: bytes) -> None:
        self._md5.update(piece)
        self._sha.update(piece)
        if self._inspection is not None:
            self._inspection.feed(piece)
        if self._writer is not None:
            self._writer.write(piece)
        self.size += len(piece)

    def result(self) -> Received:
        """Raises Refused for content that is not what was declared."""
        virtual = None
        try:
            virtual = self._inspection.verdict() if self._inspection is not None else None
        except Refused:
            if self._strict:
                raise
        return Received(self.size, self._md5.hexdigest(), self._sha.hexdigest(), virtual)


async def receive(image: Image, store: Store, key: str, source: Source, declared: str | None) -> Received:
    """Write a stream to the store under ``key``, hashed and inspected on the way.

    Raises TooLarge, UnsupportedMedia, Unavailable, or what the source raises;
    then nothing is left.
    """
    writer = await _stored(store.write(key))
    try:
        sieve = await image.pool.run(Sieve, writer, declared, strict=image.config.check_formats)
        await pump(image, source, sieve.take, pool=writer.pool)
        received = await image.pool.run(sieve.result)
        await writer.commit()
        return received
    except BaseException as error:
        await asyncio.shield(writer.abort())
        if isinstance(error, Refused):
            raise UnsupportedMedia(str(error)) from None
        raise as_fault(error) from None


async def pump(
    image: Image, source: Source, take: Callable[[bytes], None], already: int = 0, *, pool: Pool | None = None
) -> int:
    """Hand every piece of a source to ``take`` in a worker thread (of ``pool``); returns the bytes in all.

    ``already`` bytes are there from an earlier try. One piece is read while the one
    before it is worked on. Raises TooLarge, and what source and ``take`` raise.
    """
    size = already
    working: asyncio.Task[None] | None = None
    try:
        while piece := await _next_piece(image, source):
            size += len(piece)
            if size > image.config.size_cap_bytes:
                raise too_large(image)
            if working is not None:
                await working
            working = asyncio.ensure_future((pool or image.pool).run(take, piece, timeout=600.0))
        if working is not None:
            await working
    finally:
        if working is not None:  # what it was writing must be over before the writer is closed
            await asyncio.wait({working})
            if not working.cancelled():
                working.exception()
    return size


def too_large(image: Image) -> TooLarge:
    return TooLarge(f"The incoming image is too large: the limit is {image.config.size_cap_bytes} bytes.")


async def _next_piece(image: Image, source: Source) -> bytes:
    try:
        async with asyncio.timeout(image.config.stall_seconds):
            return await source.read(PIECE)
    except TimeoutError:
        raise Invalid(f"The upload sent nothing for {image.config.stall_seconds:g} s.") from None


async def _stored(pending: Any) -> Any:
    try:
        return await pending
    except OSError as error:
        raise as_fault(error) from None


def as_fault(error: BaseException) -> BaseException:
    """What a store's own errors mean to a client."""
    if isinstance(error, StoreFull):
        return TooLarge("Image storage media is full.")
    if isinstance(error, StoreDown):
        return Unavailable(str(error))
    if isinstance(error, OSError) and not isinstance(error, asyncio.CancelledError):
        _log.error("the image store failed: %s", error)
        return Unavailable("The image store can't take the data.")
    return error


# ---- upload and staging


@asynccontextmanager
async def _upload(image: Image, image_id: str, owner: str | None, action: str) -> AsyncIterator[str]:
    """Hold an image in the busy state of ``action``; anything that goes wrong inside puts it back to queued."""
    upload_id = ids.new_uuid()
    limits = await image.limits.of(owner)
    more = {UPLOADING: 1} if action == "upload" else {UPLOADING: 1, STAGE: 0}

    async def begin(tx: Transaction) -> None:
        await check_quota(limits, tx, owner, more)
        await IMAGE.begin(tx, action, image_id, upload_id=upload_id, upload_seen_at=clock.now())

    await image.database.run(begin)
    alive = asyncio.get_running_loop().create_task(_report(image, upload_id))
    try:
        yield upload_id
    except BaseException:
        await asyncio.shield(_restore(image, image_id, upload_id))
        raise
    finally:
        alive.cancel()


async def _report(image: Image, upload_id: str) -> None:
    """Say now and then that the upload goes on, so that no reconciler takes it for lost."""
    while True:
        await clock.sleep(image.config.lost_seconds / 6)
        mine = images.update().where(images.c.upload_id == upload_id).values(upload_seen_at=clock.now())

        async def body(tx: Transaction, statement: Any = mine) -> None:
            await tx.run(statement)

        await image.database.run(body, durable=False)


async def _restore(image: Image, image_id: str, upload_id: str) -> None:
    async def body(tx: Transaction) -> None:
        row = await tx.first(select(images).where(images.c.id == image_id))
        if row is not None and row["upload_id"] == upload_id and row["status"] in (SAVING, STAGED):
            await restore(tx, image_id)

    await image.database.run(body)


async def restore(tx: Transaction, image_id: str, **more: Any) -> None:
    """Back to queued, with nothing of the attempt in the record; its files are then orphans."""
    nothing = {"upload_id": None, "upload_seen_at": None, "staged_key": None, "size": None, "virtual_size": None}
    await IMAGE.begin(tx, "restore", image_id, **nothing, **more)


async def _finish(image: Image, row: Row, action: str, upload_id: str, size: int, store: str = "", **more: Any) -> None:
    """Record the data and end the action, unless the image was deleted or taken meanwhile (Gone)."""
    busy = IMAGE.actions[action].busy
    values: dict[str, Any] = {"upload_id": None, "upload_seen_at": None, "size": size, **more}
    limits = await image.limits.of(row["owner"])

    async def body(tx: Transaction) -> None:
        now = await tx.first(select(images).where(images.c.id == row["id"]))
        if now is None or now["status"] != busy or now["upload_id"] != upload_id:
            raise Gone(
                f"Image {row['id']} could not be found after upload. The image may have been deleted during the upload."
            )
        if store:
            await check_quota(limits, tx, now["owner"], {}, more_bytes=size)
            await write_locations(tx, row["id"], [{"store": store, "key": key_of(upload_id), "details": {}}])
        await IMAGE.finish(tx, action, row["id"], **values)

    await image.database.run(body)


def facts_of(received: Received) -> dict[str, Any]:
    """What a record says of data that was received."""
    return {
        "size": received.size,
        "checksum": received.checksum,
        "os_hash_algo": HASH,
        "os_hash_value": received.digest,
        "virtual_size": received.virtual_size,
    }


def declared(row: Row) -> str | None:
    """The disk format to inspect for; what is packed in another container can't be looked into."""
    return row["disk_format"] if row["container_format"] == "bare" else None


async def upload(image: Image, row: Row, source: Source, *, announced: int | None, place: Place | None = None) -> None:
    """Take the image's data from a client; ``announced`` is its size in bytes, if the client told it."""
    check_formats(row)
    await _check_room(image, row, announced)
    chosen = place or image.default
    async with _upload(image, row["id"], row["owner"], "upload") as upload_id:
        key = key_of(upload_id)
        received = await receive(image, chosen.store, key, source, declared(row))
        try:
            _check_size(received.size, announced)
            await _finish(image, row, "upload", upload_id, store=chosen.id, **facts_of(received))
        except BaseException:
            await asyncio.shield(chosen.store.delete(key))
            raise


async def stage(image: Image, row: Row, source: Source, *, announced: int | None) -> None:
    """Take data into the staging area, to be imported later; it is hashed and inspected then."""
    await _check_room(image, row, announced)
    async with _upload(image, row["id"], row["owner"], "stage") as upload_id:
        key = key_of(upload_id)
        writer = await _stored(image.staging.write(key))
        try:
            size = await pump(image, source, writer.write)
            _check_size(size, announced)
            await writer.commit()
        except BaseException as error:
            await asyncio.shield(writer.abort())
            raise as_fault(error) from None
        try:
            await _finish(image, row, "stage", upload_id, size, staged_key=key)
        except BaseException:
            await asyncio.shield(image.staging.delete(key))
            raise


async def _check_room(image: Image, row: Row, announced: int | None) -> None:
    """Refuse before the first byte what can't fit."""
    if announced is not None and announced > image.config.size_cap_bytes:
        raise too_large(image)
    limits = await image.limits.of(row["owner"])

    async def body(tx: Transaction) -> None:
        await check_quota(limits, tx, row["owner"], {}, more_bytes=announced or 1)

    await image.database.run(body, durable=False)


def _check_size(size: int, announced: int | None) -> None:
    if announced is not None and size != announced:
        raise Invalid(f"The upload was broken: {announced} bytes were announced and {size} received.")


def key_of(upload_id: str) -> str:
    """The store's name of what an upload writes."""
    return f"data-{upload_id}"


# ---- download


class Pieces:
    """A reader as a source."""

    def __init__(self, reader: Any) -> None:
        self._reader = aiter(reader)

    async def read(self, size: int = -1) -> bytes:
        piece: bytes = await anext(self._reader, b"")
        return piece


async def open_data(
    image: Image, row: Row, offset: int = 0, length: int | None = None, *, prefer: Iterable[str] = ()
) -> Reader:
    """The image's bytes as an async iterator, from the best store that has them (``prefer``: ids of better ones).

    Raises Unavailable when no store has them.
    """
    held = best_first(image, row)
    preferred = [one for store in prefer for one in held if one["store"] == store]
    told = ""
    for one in [*preferred, *held]:
        place = image.stores.get(one["store"])
        try:
            if place is not None:
                return await place.store.read(one["key"], offset, length)
        except OSError as error:
            _log.error("image %s can't be read from store %s: %s", row["id"], one["store"], error)
            told = f" {error}" if isinstance(error, StoreDown) else told
    raise Unavailable(f"The image data is not available.{told}")

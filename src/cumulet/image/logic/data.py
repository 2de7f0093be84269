# SPDX-License-Identifier: Apache-2.0
"""Image bytes: upload, staging, import, download.

Invariant: an image is active only with data that is whole, durable, hashed on
the way and of the declared format. Whatever breaks an upload (client gone, disk
full, refused content, process killed) leaves the image `queued` and no file.
Memory stays flat: one piece is read while the one before it is worked on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import select

from cumulet.image.logic import Image
from cumulet.image.logic.images import MIB, check_formats, check_quota
from cumulet.image.models import images, tasks
from cumulet.image.states import IMAGE, IMPORTING, SAVING, UPLOADING
from cumulet.image.store.model import Store, StoreFull
from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.disks import Inspection, Refused
from cumulet.kernel.errors import Conflict, Fault, Gone, Invalid, TooLarge, Unavailable, UnsupportedMedia

_log = logging.getLogger(__name__)
PIECE = MIB
HASH = "sha512"


class Source(Protocol):
    """Bytes that come in pieces; an empty piece is the end."""

    async def read(self, size: int = -1) -> bytes: ...


@dataclass
class Received:
    """What was learnt of the bytes while they passed."""

    key: str
    size: int
    checksum: str
    digest: str
    virtual_size: int | None


class Sieve:
    """Everything that is done to each piece on its way to the disk; blocking, for a worker thread."""

    def __init__(self, writer: Any, declared: str | None) -> None:
        self._writer = writer
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha = hashlib.new(HASH)
        self._inspection = Inspection(declared) if declared is not None else None
        self.size = 0

    def take(self, piece: bytes) -> None:
        self._md5.update(piece)
        self._sha.update(piece)
        if self._inspection is not None:
            self._inspection.feed(piece)
        self._writer.write(piece)
        self.size += len(piece)

    def result(self, key: str) -> Received:
        """Raises Refused for content that is not what was declared."""
        virtual = self._inspection.verdict() if self._inspection is not None else None
        return Received(key, self.size, self._md5.hexdigest(), self._sha.hexdigest(), virtual)


async def receive(image: Image, store: Store, key: str, source: Source, declared: str | None) -> Received:
    """Write a stream to the store under ``key``, hashed and inspected on the way.

    ``declared`` is the disk format to hold it against (None: not inspected).
    Raises TooLarge, UnsupportedMedia, Unavailable, or what the source raises;
    then nothing is left.
    """
    writer = await _stored(store.write(key))
    try:
        sieve = await image.pool.run(Sieve, writer, declared)
        working: asyncio.Task[None] | None = None
        try:
            while piece := await _next_piece(image, source):
                if working is not None:
                    await working
                if sieve.size + len(piece) > image.config.size_cap_bytes:
                    raise TooLarge("The incoming image is too large: the limit is "
                                   f"{image.config.size_cap_bytes} bytes.")  # fmt: skip
                working = asyncio.ensure_future(image.pool.run(sieve.take, piece, timeout=600.0))
            if working is not None:
                await working
        finally:
            if working is not None:  # what it was writing must be over before the writer is closed
                await asyncio.wait({working})
                if not working.cancelled():
                    working.exception()
        received = await image.pool.run(sieve.result, key)
        await writer.commit()
        return received
    except BaseException as error:
        await asyncio.shield(writer.abort())
        if isinstance(error, Refused):
            raise UnsupportedMedia(str(error)) from None
        raise _as_fault(error) from None


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
        raise _as_fault(error) from None


def _as_fault(error: BaseException) -> BaseException:
    if isinstance(error, StoreFull):
        return TooLarge("Image storage media is full.")
    if isinstance(error, OSError) and not isinstance(error, asyncio.CancelledError):
        _log.error("the image store failed: %s", error)
        return Unavailable("The image store can't take the data.")
    return error


# ---- upload and staging


@asynccontextmanager
async def _upload(image: Image, image_id: str, action: str) -> AsyncIterator[str]:
    """Hold an image in the busy state of ``action``; anything that goes wrong inside puts it back to queued."""
    upload_id = ids.new_uuid()
    await image.database.run(
        lambda tx: IMAGE.begin(tx, action, image_id, upload_id=upload_id, upload_seen_at=clock.now())
    )
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
        if row is not None and row["upload_id"] == upload_id and row["status"] in (SAVING, UPLOADING, IMPORTING):
            await restore(tx, image_id)

    await image.database.run(body)


async def restore(tx: Transaction, image_id: str) -> None:
    """Back to queued, with nothing of the attempt in the record; its files are then orphans."""
    await IMAGE.begin(
        tx, "restore", image_id, upload_id=None, upload_seen_at=None, staged_key=None, size=None, virtual_size=None
    )


async def _finish(image: Image, row: Row, action: str, upload_id: str, received: Received, **more: Any) -> None:
    """Record the data and end the action, unless the image was deleted or taken meanwhile (Gone)."""
    busy = IMAGE.actions[action].busy
    values: dict[str, Any] = {"upload_id": None, "upload_seen_at": None, "size": received.size, **more}

    async def body(tx: Transaction) -> None:
        now = await tx.first(select(images).where(images.c.id == row["id"]))
        if now is None or now["status"] != busy or now["upload_id"] != upload_id:
            raise Gone(
                f"Image {row['id']} could not be found after upload. The image may have been deleted during the upload."
            )
        await check_quota(image, tx, now["owner"], more_bytes=received.size)
        await IMAGE.finish(tx, action, row["id"], **values)

    await image.database.run(body)


def _facts(received: Received) -> dict[str, Any]:
    return {
        "checksum": received.checksum,
        "os_hash_algo": HASH,
        "os_hash_value": received.digest,
        "virtual_size": received.virtual_size,
        "data_key": received.key,
    }


def _declared(row: Row) -> str | None:
    """The disk format to inspect for; what is packed in another container can't be looked into."""
    return row["disk_format"] if row["container_format"] == "bare" else None


async def upload(image: Image, row: Row, source: Source, *, announced: int | None) -> None:
    """Take the image's data from a client; ``announced`` is its size in bytes, if the client told it."""
    check_formats(row)
    await _check_room(image, row, announced)
    async with _upload(image, row["id"], "upload") as upload_id:
        received = await receive(image, image.store, _key(upload_id), source, _declared(row))
        try:
            _check_size(received, announced)
            await _finish(image, row, "upload", upload_id, received, **_facts(received))
        except BaseException:
            await asyncio.shield(image.store.delete(received.key))
            raise


async def stage(image: Image, row: Row, source: Source, *, announced: int | None) -> None:
    """Take data into the staging area, to be imported later; nothing is inspected yet."""
    await _check_room(image, row, announced)
    async with _upload(image, row["id"], "stage") as upload_id:
        received = await receive(image, image.staging, _key(upload_id), source, None)
        try:
            _check_size(received, announced)
            await _finish(image, row, "stage", upload_id, received, staged_key=received.key)
        except BaseException:
            await asyncio.shield(image.staging.delete(received.key))
            raise


async def _check_room(image: Image, row: Row, announced: int | None) -> None:
    """Refuse before the first byte what can't fit."""
    if announced is not None and announced > image.config.size_cap_bytes:
        raise TooLarge(f"The incoming image is too large: the limit is {image.config.size_cap_bytes} bytes.")

    async def body(tx: Transaction) -> None:
        await check_quota(image, tx, row["owner"], more_bytes=announced or 1)

    if image.config.total_mib_quota >= 0:
        await image.database.run(body, durable=False)


def _check_size(received: Received, announced: int | None) -> None:
    if announced is not None and received.size != announced:
        raise Invalid(f"The upload was broken: {announced} bytes were announced and {received.size} received.")


def _key(upload_id: str) -> str:
    return f"data-{upload_id}"


# ---- import of staged data


async def begin_import(image: Image, caller: Context, row: Row, asked: dict[str, Any]) -> Row:
    """Accept the import of staged data; a reconciler carries it out. Returns the task."""
    if row["status"] == "active":
        raise Conflict("Image with status active cannot be target for import")
    if row["status"] != UPLOADING or row["staged_key"] is None:
        raise Conflict("Image needs to be staged before 'glance-direct' method can be used")
    for name in ("container_format", "disk_format"):
        if not row[name]:
            raise Conflict(f"'{name}' needs to be set before import")
    now = clock.now()
    task = {
        "id": ids.new_uuid(), "type": "api_image_import", "status": "pending", "owner": caller.project_id or "",
        "image_id": row["id"], "request_id": caller.request_id, "user_id": caller.user_id or "",
        "input": {"image_id": row["id"], "import_req": asked, "backend": ["file"]},
        "message": "", "result": None, "created_at": now, "updated_at": now,
    }  # fmt: skip

    async def body(tx: Transaction) -> None:
        await IMAGE.begin(tx, "import", row["id"])
        await tx.insert(tasks, task)

    await image.database.run(body)
    image.poke("imports")
    return task


async def run_imports(image: Image) -> None:
    """Carry out the imports that wait; one that another process works on is left alone."""
    late = clock.now() - image.config.lost_seconds
    free = images.c.upload_id.is_(None) | (images.c.upload_seen_at < late)
    for row in await image.database.all(select(images).where(images.c.status == IMPORTING, free)):
        upload_id = ids.new_uuid()
        same = (images.c.id == row["id"]) & (images.c.status == IMPORTING)
        same &= images.c.upload_id.is_not_distinct_from(row["upload_id"])
        claim = images.update().where(same).values(upload_id=upload_id, upload_seen_at=clock.now())
        if await image.database.run(lambda tx, claim=claim: tx.run(claim)):  # type: ignore[misc]
            await _import(image, row, upload_id)


async def _import(image: Image, row: Row, upload_id: str) -> None:
    await _task(image, row["id"], "processing")
    alive = asyncio.get_running_loop().create_task(_report(image, upload_id))
    try:
        reader = await image.staging.read(row["staged_key"])
        try:
            received = await receive(image, image.store, _key(upload_id), _Pieces(reader), _declared(row))
        finally:
            await reader.close()
        try:
            await _finish(image, row, "import", upload_id, received, staged_key=None, **_facts(received))
        except BaseException:
            await asyncio.shield(image.store.delete(received.key))
            raise
        await _task(image, row["id"], "success")
    except (Fault, FileNotFoundError) as error:
        await _restore(image, row["id"], upload_id)
        await _task(image, row["id"], "failure", error.message if isinstance(error, Fault) else "The data is gone.")
    finally:
        alive.cancel()
    await image.staging.delete(row["staged_key"])


class _Pieces:
    """A store's reader as a source."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    async def read(self, size: int = -1) -> bytes:
        piece: bytes = await anext(self._reader, b"")
        return piece


async def _task(image: Image, image_id: str, status: str, message: str = "") -> None:
    """Say how the newest import of an image goes."""
    now = clock.now()

    async def body(tx: Transaction) -> None:
        open_ = (tasks.c.image_id == image_id) & tasks.c.status.in_(["pending", "processing"])
        await tx.run(tasks.update().where(open_).values(status=status, message=message, updated_at=now))

    await image.database.run(body, durable=False)


# ---- download


async def open_data(image: Image, row: Row, offset: int = 0, length: int | None = None) -> Any:
    """The image's bytes as an async iterator. Raises Unavailable when the store lost them."""
    try:
        return await image.store.read(row["data_key"], offset, length)
    except FileNotFoundError:
        _log.error("the data of image %s is not in the store", row["id"])
        raise Unavailable("The image data is not available.") from None

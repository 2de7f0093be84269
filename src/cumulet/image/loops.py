# SPDX-License-Identifier: Apache-2.0
"""What stays true of images: no lost upload keeps an image busy, no import is forgotten, no file is an orphan."""

from __future__ import annotations

from sqlalchemy import or_, select

from cumulet.image.logic import Image
from cumulet.image.logic.data import restore, run_imports
from cumulet.image.models import images
from cumulet.image.states import DELETED, SAVING, UPLOADING
from cumulet.kernel import clock
from cumulet.kernel.db import Transaction
from cumulet.kernel.loops import Loop


def make(image: Image) -> list[Loop]:
    """The reconcilers of the image service; they find the service's pokes by name."""

    async def imports() -> None:
        await run_imports(image)

    async def uploads() -> None:
        await drop_lost_uploads(image)

    async def orphans() -> None:
        await drop_orphans(image)
        await purge(image)

    image.loops = {
        "imports": Loop("image imports", 30.0, imports),
        "uploads": Loop("image uploads", 20.0, uploads),
        "orphans": Loop("image orphans", 300.0, orphans),
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
    """Delete objects that no image holds and no upload in work writes.

    The keys are listed first: an upload is recorded before its first byte is
    written, so what is listed and not recorded belongs to nobody.
    """
    for store, column in ((image.store, images.c.data_key), (image.staging, images.c.staged_key)):
        keys = await store.list()
        if not keys:
            continue
        known = select(column.label("key"), images.c.upload_id).where(
            images.c.status != DELETED, or_(column.is_not(None), images.c.upload_id.is_not(None))
        )
        held = set()
        for row in await image.database.all(known):
            held |= {row["key"], f"data-{row['upload_id']}"}
        for key in keys:
            if key not in held:
                await store.delete(key)


async def purge(image: Image) -> None:
    """Forget images that were deleted long ago."""
    before = clock.now() - image.config.keep_deleted_days * 86_400
    old = images.delete().where(images.c.status == DELETED, images.c.deleted_at < before)

    async def body(tx: Transaction) -> None:
        await tx.run(old)

    await image.database.run(body, durable=False)

# SPDX-License-Identifier: Apache-2.0
"""Copies of an active image in further stores; the image stays active all the time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.image.logic import Image
from cumulet.image.logic.data import Pieces, open_data, receive
from cumulet.image.logic.images import decorate, write_locations
from cumulet.image.models import images
from cumulet.image.sagas.params import Copy
from cumulet.image.sagas.work import Tracked, empty, end_task, fill, held
from cumulet.kernel.db import Transaction
from cumulet.kernel.errors import Unavailable
from cumulet.kernel.saga import Failed, Run, Saga, Step


async def copy(run: Run) -> dict[str, Any]:
    """Ensure that every store has the data; each copy is held against the record's digest."""
    image: Image = run.world
    row = await held(run)
    await decorate(image, image.database, [row])

    async def one(name: str) -> None:
        place = image.stores.get(name)
        if place is None:
            raise Failed(f"The store {name} is not there any more.")
        reader = await open_data(image, row)
        try:
            received = await receive(image, place.store, run.params.key, Tracked(run, Pieces(reader)), None)
        finally:
            await reader.close()
        run.notes["size"] = received.size
        other = row["os_hash_algo"] == "sha512" and row["os_hash_value"] not in (None, received.digest)
        if other or row["size"] not in (None, received.size):
            await place.store.delete(run.params.key)
            raise Unavailable("the copy is not what the record names")

    done, failed = await fill(run, run.params.stores, one)
    return {"stores": done, "failed": failed, "size": run.notes["size"]}


async def record(run: Run) -> None:
    """The copies count: one transaction with the end of the task."""
    image: Image = run.world
    params: Copy = run.params
    await held(run)
    copied = run.outputs["copy"]

    async def body(tx: Transaction) -> None:
        row = await tx.first(select(images).where(images.c.id == params.image_id))
        if row is None or row["task_id"] != params.task_id:
            return  # deleted in this moment: the copies are found as orphaned
        await decorate(image, tx, [row])
        more = [{"store": name, "key": params.key, "details": {}} for name in copied["stores"]]
        await write_locations(tx, params.image_id, [*row["locations"], *more])
        await _let_go(tx, params, copied["failed"])
        message = f"Copied {copied['size'] // (1024 * 1024)} MiB"
        await end_task(image, tx, params.task_id, "success", message, {"image_id": params.image_id})

    run.commit(body)


async def _let_go(tx: Transaction, params: Copy, failed: list[str]) -> None:
    mine = images.update().where(images.c.id == params.image_id, images.c.task_id == params.task_id)
    await tx.run(mine.values(task_id=None, importing="", failed=",".join(failed)))


async def copy_failed(run: Run, failed: Failed) -> None:
    image: Image = run.world
    params: Copy = run.params

    async def body(tx: Transaction) -> None:
        await _let_go(tx, params, params.stores)
        await end_task(image, tx, params.task_id, "failure", failed.message)

    run.commit(body)


COPY = Saga(
    "image.copy",
    Copy,
    (Step("copy", copy, empty, within=6 * 3600.0), Step("record", record)),
    on_failed=copy_failed,
)

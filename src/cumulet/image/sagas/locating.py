# SPDX-License-Identifier: Apache-2.0
"""An image whose data is somewhere else: its location is recorded, its data read once to learn or check its digests.

With a digest to check, the image becomes active when it is right; without, it
is active at once and its digests follow. As published, a location that others
own stays with the image when the check fails.
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import select

from cumulet.image.logic import Image
from cumulet.image.logic.data import Pieces, Sieve, pump
from cumulet.image.logic.images import decorate, write_locations
from cumulet.image.models import images
from cumulet.image.sagas.params import Locate
from cumulet.image.sagas.work import Tracked, end_task, held, say
from cumulet.image.states import ACTIVE, DEACTIVATED, IMAGE, IMPORTING
from cumulet.kernel.db import Transaction
from cumulet.kernel.errors import TooLarge
from cumulet.kernel.saga import Failed, Run, Saga, Step

_log = logging.getLogger(__name__)


async def find(run: Run) -> int | None:
    """The size of what is there, in bytes."""
    image: Image = run.world
    await held(run)
    await say(run, "")
    try:
        size = await image.stores[run.params.store].store.size(run.params.url)
    except OSError as error:
        raise Failed(f"Invalid location: {error}") from None
    if size > image.config.size_cap_bytes:
        raise Failed("The data is larger than the limit.")
    return size or None


async def place(run: Run) -> None:
    """Record the location; without a digest to check, the image is active now."""
    image: Image = run.world
    params: Locate = run.params
    await held(run)

    async def body(tx: Transaction) -> None:
        row = await tx.first(select(images).where(images.c.id == params.image_id))
        if row is None or row["status"] != IMPORTING or row["task_id"] != params.task_id:
            return
        await decorate(image, tx, [row])
        if all(one["key"] != params.url for one in row["locations"]):
            new = {"store": params.store, "key": params.url, "details": {}}
            await write_locations(tx, params.image_id, [*row["locations"], new])
        values: dict[str, Any] = {"size": run.outputs["find"]}
        if params.hash:
            values["os_hash_algo"] = params.algorithm
        mine = images.update().where(images.c.id == params.image_id)
        await tx.run(mine.values(**values))
        if not params.digest:
            await IMAGE.finish(tx, "import", params.image_id)

    run.commit(body)


async def learn(run: Run) -> dict[str, Any]:
    """The digests of the data; raises Failed for others than were told."""
    image: Image = run.world
    params: Locate = run.params
    await held(run)
    if not params.hash:
        return {"os_hash_algo": params.algorithm, "os_hash_value": params.digest} if params.digest else {}
    sieve = await image.pool.run(Sieve, None, None, algorithm=params.algorithm)
    try:
        reader = await image.stores[params.store].store.read(params.url)
        try:
            await pump(image, Tracked(run, Pieces(reader)), sieve.take)
        finally:
            await reader.close()
    except (OSError, TooLarge) as error:
        if params.digest:
            raise Failed(f"Hash calculation failed for image {params.image_id} data: {error}") from None
        _log.warning("the data of image %s could not be hashed: %s", params.image_id, error)
        return {"os_hash_algo": None}
    received = await image.pool.run(sieve.result)
    if params.digest and received.digest != params.digest:
        raise Failed(f"os_hash_value: ({params.digest}) not matched with actual os_hash_value: ({received.digest})")
    return {
        "size": received.size, "checksum": received.checksum, "os_hash_algo": params.algorithm,
        "os_hash_value": received.digest,
    }  # fmt: skip


async def finish(run: Run) -> None:
    """Record the digests; one transaction with the end of the task."""
    image: Image = run.world
    params: Locate = run.params
    await held(run)

    async def body(tx: Transaction) -> None:
        row = await tx.first(select(images).where(images.c.id == params.image_id))
        if row is None or row["task_id"] != params.task_id:
            return
        mine = images.update().where(images.c.id == params.image_id)
        await tx.run(mine.values(task_id=None, **run.outputs["learn"]))
        if row["status"] == IMPORTING:
            await IMAGE.finish(tx, "import", params.image_id)
        await end_task(image, tx, params.task_id, "success", "", {"image_id": params.image_id})

    run.commit(body)


async def locate_failed(run: Run, failed: Failed) -> None:
    image: Image = run.world
    params: Locate = run.params

    async def body(tx: Transaction) -> None:
        row = await tx.first(select(images).where(images.c.id == params.image_id))
        if row is not None and row["task_id"] == params.task_id:
            mine = images.update().where(images.c.id == params.image_id)
            await tx.run(mine.values(task_id=None, os_hash_algo=None, os_hash_value=None, checksum=None))
            if row["status"] in (IMPORTING, ACTIVE, DEACTIVATED):
                await IMAGE.begin(tx, "unlocate", params.image_id, size=None)
        await end_task(image, tx, params.task_id, "failure", failed.message)

    run.commit(body)


LOCATE = Saga(
    "image.locate",
    Locate,
    (
        Step("find", find, within=300.0),
        Step("place", place),
        Step("learn", learn, within=6 * 3600.0),
        Step("finish", finish),
    ),
    on_failed=locate_failed,
)

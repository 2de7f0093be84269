# SPDX-License-Identifier: Apache-2.0
"""What the sagas of images share: holding an image, telling how far they are, filling one store.

Invariant: whoever works on an image holds its ``task_id``; who finds another's
there, or the image deleted, stops and cleans up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import select

from cumulet.image.logic import Image
from cumulet.image.logic.data import Source
from cumulet.image.models import images, tasks
from cumulet.image.states import DELETED
from cumulet.kernel import clock
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Unavailable
from cumulet.kernel.saga import Failed, Run, Wait

MIB = 1024 * 1024
_TRIES = 3
"""Tries of one store that does not answer."""
_TELL = 1.0
"""Seconds between two words about the progress."""


async def held(run: Run) -> Row:
    """The image that this run works on; raises Failed when it is gone or another's."""
    image: Image = run.world
    row = await image.database.first(select(images).where(images.c.id == run.params.image_id))
    if row is None or row["status"] == DELETED or row["task_id"] != run.params.task_id:
        raise Failed("The image was deleted.")
    return row


async def say(run: Run, message: str) -> None:
    """Tell the task's reader how far it is."""
    values = {"status": "processing", "message": message, "updated_at": clock.now()}
    mine = tasks.update().where(tasks.c.id == run.params.task_id, tasks.c.status.in_(["pending", "processing"]))

    async def body(tx: Transaction) -> None:
        await tx.run(mine.values(**values))

    await run.world.database.run(body, durable=False)


async def end_task(image: Image, tx: Transaction, task_id: str, status: str, message: str, result: Any = None) -> None:
    """Close a task; its record goes some time later."""
    now = clock.now()
    values = {
        "status": status, "message": message, "result": result, "updated_at": now,
        "expires_at": now + image.config.task_hours * 3600,
    }  # fmt: skip
    await tx.run(tasks.update().where(tasks.c.id == task_id).values(**values))


class Tracked:
    """A source whose progress is told, and which ends with the image that it is for."""

    def __init__(self, run: Run, source: Source, already: int = 0) -> None:
        self._run, self._source, self._size = run, source, already
        self._told = clock.monotonic()

    async def read(self, size: int = -1) -> bytes:
        piece = await self._source.read(size)
        self._size += len(piece)
        if clock.monotonic() - self._told >= _TELL:
            self._told = clock.monotonic()
            await held(self._run)
            await say(self._run, f"Copied {self._size // MIB} MiB")
        return piece


async def fill(run: Run, stores: list[str], one: Callable[[str], Awaitable[None]]) -> tuple[list[str], list[str]]:
    """Fill stores one after the other; which were filled and which could not be.

    The record shows which are left. Raises Failed when one fails that must not,
    when none is filled, and for what no store would take; Wait for another try.
    """
    notes = run.notes
    done, failed = notes.setdefault("done", []), notes.setdefault("failed", [])
    for store in stores:
        if store in done or store in failed:
            continue
        await _show(run, [left for left in stores if left not in done and left not in failed], failed)
        try:
            await one(store)
            done.append(store)
        except (Unavailable, OSError) as error:
            notes["tries"] = notes.get("tries", 0) + 1
            if notes["tries"] < _TRIES:
                raise Wait(2.0 ** notes["tries"]) from None
            if run.params.must_all:
                raise Failed(f"The store {store} can't take the data: {error}") from None
            failed.append(store)
        notes["tries"] = 0
    if not done:
        raise Failed("No store could take the data.")
    return done, failed


async def _show(run: Run, left: list[str], failed: list[str]) -> None:
    values = {"importing": ",".join(left), "failed": ",".join(failed)}
    mine = images.update().where(images.c.id == run.params.image_id, images.c.task_id == run.params.task_id)

    async def body(tx: Transaction) -> None:
        await tx.run(mine.values(**values))

    await run.world.database.run(body, durable=False)


async def empty(run: Run) -> None:
    """Delete what this run put into its stores; what can't be deleted for long is left to the search for orphans."""
    image: Image = run.world
    for store in run.params.stores:
        if store in image.stores:
            try:
                await image.stores[store].store.delete(run.params.key)
            except OSError:
                if run.tries < _TRIES:
                    raise

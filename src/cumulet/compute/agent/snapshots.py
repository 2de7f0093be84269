# SPDX-License-Identifier: Apache-2.0
"""Copies of guests' disks on their way to the image service: taken here, sent from here, one per server.

Invariants: a copy's file is on the host only while it is being made or sent (what
a killed agent left goes at its next start); and a snapshot that was taken once
is not taken again: whoever asks anew finds the image active, or the work going on.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from cumulet.client.image import ImageRecord
from cumulet.compute import rpc
from cumulet.compute.agent.build import Tools
from cumulet.compute.drivers.model import GuestMissing, HypervisorError
from cumulet.kernel import clock, context
from cumulet.kernel.errors import Fault, Unauthorized, Unavailable

_log = logging.getLogger(__name__)
_AT_ONCE: Final = 2
"""Copies that one host makes at a time."""
_PIECE: Final = 1 << 20
_TRIES: Final = 5
"""How often an image service that is away is asked again before the snapshot fails."""
_LOOK, _SLOWEST = 0.1, 2.0
"""Seconds between the first two looks at an image that is about to be described, and between two later ones."""
COPYING, PENDING, UPLOADING = "image_snapshot", "image_pending_upload", "image_uploading"


@dataclass
class _Work:
    """One snapshot in work."""

    image_id: str
    task: asyncio.Task[None] | None = None
    phase: str = COPYING
    error: str | None = None
    format: str | None = None


class Snapshots:
    """Serves the snapshot part of `compute.agent`; ``alone`` holds a server against all other work on it."""

    def __init__(self, tools: Tools, alone: Callable[[str], AbstractAsyncContextManager[None]]) -> None:
        self._tools, self._alone = tools, alone
        self._work: dict[str, _Work] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)

    def open(self) -> None:
        """Make the folder, for us and QEMU alone, and drop what a crash left in it; blocking."""
        folder, gid = self._tools.copies, self._tools.gid
        folder.mkdir(parents=True, exist_ok=True)
        if gid is not None:
            os.chown(folder, -1, gid)
        folder.chmod(0o700 if gid is None else 0o2770)
        for left in folder.iterdir():
            left.unlink()

    def files(self) -> list[str]:
        """Ids of the servers with a copy here; blocking."""
        return sorted(path.name for path in self._tools.copies.iterdir())

    async def stop(self) -> None:
        for server_id in list(self._work):
            await self.drop(rpc.DropSnapshot(server_id))

    # ---- rpc

    async def take(self, order: rpc.TakeSnapshot) -> rpc.SnapshotAnswer:
        """Begin, or tell how far it is. An end is told once; asked after that, it looks again."""
        work = self._work.get(order.server_id)
        if work is not None and work.image_id != order.image_id:
            await self.drop(rpc.DropSnapshot(order.server_id))
            work = None
        if work is None:
            work = self._begin(order)
        assert work.task is not None
        if not work.task.done():
            return rpc.SnapshotAnswer(work.phase, format=work.format)
        del self._work[order.server_id]
        return rpc.SnapshotAnswer(None, work.error)

    def _begin(self, order: rpc.TakeSnapshot) -> _Work:
        work = self._work[order.server_id] = _Work(order.image_id)
        name = f"snapshot of {order.server_id}"
        work.task = asyncio.get_running_loop().create_task(self._run(order, work), name=name)
        return work

    async def drop(self, order: rpc.DropSnapshot) -> rpc.Nothing:
        work = self._work.pop(order.server_id, None)
        if work is not None and work.task is not None:
            work.task.cancel()
            await asyncio.gather(work.task, return_exceptions=True)
            # one that was in its own end already may have left this to a thread that still runs
            await self._tools.files.run(_drop, self._tools.copies / order.server_id)
        return rpc.Nothing()

    # ---- inside

    async def _run(self, order: rpc.TakeSnapshot, work: _Work) -> None:
        if order.caller is not None:
            context.use(msgspec.structs.replace(order.caller, token=order.token, accepted=True))
        try:
            async with self._room:
                await self._take(order, work)
        except (Fault, HypervisorError) as error:
            work.error = str(error)
        except GuestMissing:
            work.error = "The server has no guest on this host."
        except OSError as error:
            work.error = f"The copy can't be kept on this host: {os.strerror(error.errno or 0)}."
        except Exception as error:
            _log.exception("snapshot of %s", order.server_id)
            work.error = type(error).__name__
        if work.error is not None:
            _log.warning("snapshot of %s failed while %s: %s", order.server_id, work.phase, work.error)

    async def _take(self, order: rpc.TakeSnapshot, work: _Work) -> None:
        if not await self._wanted(order.image_id):
            return
        tools = self._tools
        path = tools.copies / order.server_id
        try:
            async with self._alone(order.server_id):
                await tools.files.run(_drop, path)
                work.format = await tools.disks.copy_root(order.server_id, str(path))
            work.phase = PENDING
            if await self._described(order.image_id, work.format):
                work.phase = UPLOADING
                await self._send(order.image_id, path)
        finally:
            await asyncio.shield(tools.files.run(_drop, path))

    async def _image(self, image_id: str) -> ImageRecord:
        for _ in range(_TRIES):
            try:
                return await self._tools.image.image(image_id)
            except Unavailable:
                await clock.sleep(1.0)
        return await self._tools.image.image(image_id)

    async def _wanted(self, image_id: str) -> bool:
        """Whether the image still waits for its data; one that an upload of a dead agent holds is waited for."""
        while (image := await self._image(image_id)).status == "saving":
            await clock.sleep(1.0)
        return image.status == "queued"

    async def _described(self, image_id: str, format_: str) -> bool:
        """Wait until the image's record says what the copy is; False when it waits for no data any more.

        Whoever asked us writes it down: an hour may have passed, the user's token may have aged, and a host
        changes nobody's images by its own right.
        """
        pause = _LOOK
        while (image := await self._image(image_id)).status == "queued":
            if image.disk_format == format_:
                return True
            await clock.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST)
        return False

    async def _send(self, image_id: str, path: Path) -> None:
        """Upload; with our own token where the user's has aged, and again where the service went away meanwhile."""
        as_service, size = False, (await self._tools.files.run(path.stat)).st_size
        for again in range(_TRIES, -1, -1):
            source = await self._tools.files.run(lambda: path.open("rb"))
            try:
                await self._tools.image.upload(image_id, self._pieces(source), size, as_service=as_service)
            except Unauthorized:
                as_service = True
            except Unavailable:
                if not again:
                    raise
                await clock.sleep(1.0)
            finally:
                source.close()
            if not await self._wanted(image_id):
                return
        raise Unavailable("The image service did not take the snapshot.")

    async def _pieces(self, source: BinaryIO) -> AsyncIterator[bytes]:
        """The copy. Whoever still reads once ``source`` is closed gets an error: half a copy must not pass for one."""
        while piece := await self._tools.files.run(source.read, _PIECE):
            yield piece


def _drop(path: Path) -> None:
    path.unlink(missing_ok=True)

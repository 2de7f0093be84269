# SPDX-License-Identifier: Apache-2.0
"""The volume agent: carries out orders on this host's back end, reports its room. It has no database.

Orders say *ensure* and may come twice or after a crash. A slow one is answered
with `working` and goes on; asking again finds it, and its end is announced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from cumulet.client.image import ImageClient, ImageRecord
from cumulet.kernel.bus import Bus, Handlers, Subscription
from cumulet.kernel.errors import Conflict, Fault, Unavailable
from cumulet.kernel.loops import Loop
from cumulet.kernel.pools import Pool
from cumulet.volume.config import VolumeConfig
from cumulet.volume.drivers.model import BackendDown, BackendError, Connection, NoSpace, VolumeBackend
from cumulet.volume.rpc import (
    CONNECT,
    DISCONNECT,
    DROP,
    FINISHED,
    GROW,
    HELD,
    INVENTORY,
    MAKE,
    REPORT,
    SNAP,
    Ask,
    Connect,
    Disconnect,
    Drop,
    Finished,
    Grow,
    Held,
    Make,
    Nothing,
    Outcome,
    Report,
    Snap,
)

_log = logging.getLogger(__name__)
QUICK = 1.0
"""Seconds that an order is waited for before the answer is ``working``."""
GIB = 1024**3


class VolumeAgent:
    """One host's back end on the bus."""

    def __init__(
        self,
        bus: Bus,
        backend: VolumeBackend,
        *,
        host: str,
        name: str,
        config: VolumeConfig,
        image: ImageClient,
        folder: Path,
        pool: Pool,
    ) -> None:
        self._bus, self._backend, self._host, self._name, self._config = bus, backend, host, name, config
        self._image, self._folder, self._pool = image, folder, pool
        self._jobs: dict[str, asyncio.Task[Outcome]] = {}
        self._orders: dict[str, Any] = {}
        """What each of the jobs was told to do."""
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._subscription: Subscription | None = None
        self.reports = Loop("volume capacity", config.report_seconds, self.report)
        self.sweep = Loop("volume leftovers", 300.0, self.drop_superfluous)

    async def start(self) -> None:
        await self._backend.open()
        await self._pool.run(self._clean_downloads)
        handlers: Handlers = {
            MAKE: self.make, DROP: self.drop, GROW: self.grow, SNAP: self.snap, CONNECT: self.connect,
            DISCONNECT: self.disconnect, INVENTORY: self.inventory,
        }  # fmt: skip
        self._subscription = await self._bus.subscribe(
            handlers, component="volume-agent", host=self._host, own_host=True
        )
        await self.reports.start()
        await self.sweep.start()

    async def stop(self) -> None:
        """Take no more orders; those in work are dropped half-way and found again by whoever asks again."""
        await self.sweep.stop()
        await self.reports.stop()
        if self._subscription is not None:
            await self._subscription.stop()
        for task in list(self._jobs.values()):
            task.cancel()
        await asyncio.gather(*self._jobs.values(), return_exceptions=True)

    def _clean_downloads(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            path.unlink(missing_ok=True)

    # ---- what it tells

    async def report(self) -> None:
        """Tell the scheduler what there is; it counts as down when it does not hear of us."""
        capacity = await self._backend.capacity()
        protocol = "ceph" if self._name == "rbd" else "file" if self._backend.real else "simulated"
        told = Report(
            self._host, f"{self._host}@{self._name}", self._config.zone, capacity.total_gib, capacity.free_gib, protocol
        )
        try:
            await self._bus.call(REPORT, told)
        except Unavailable as error:
            _log.info("no volume scheduler hears the report: %s", error.message)

    async def drop_superfluous(self) -> None:
        """Remove what the records say is deleted or lives elsewhere; what they do not know stays."""
        held = await self._backend.volumes()
        if not held:
            return
        try:
            answer = await self._bus.call(HELD, Held(f"{self._host}@{self._name}", held))
        except Unavailable:
            return
        for id_ in answer.ids:
            if id_ in held:
                _log.warning("volume or snapshot %s is superfluous here and is removed", id_)
                async with self._alone(id_):
                    await self._backend.ensure_absent(id_)

    # ---- orders

    async def make(self, order: Make) -> Outcome:
        async def work() -> None:
            if order.kind == "image":
                await self._from_image(order)
                return
            async with self._alone(order.volume_id, order.source_id):
                if order.kind == "empty":
                    await self._backend.ensure_volume(order.volume_id, order.size_gib)
                else:
                    await self._backend.ensure_clone(order.volume_id, order.size_gib, order.source_id)

        return await self._started(f"make {order.volume_id}", order, order.volume_id, work)

    async def drop(self, order: Drop) -> Outcome:
        async def work() -> None:
            for id_ in order.ids:
                await self._cancel(f"make {id_}")
                async with self._alone(id_):
                    await self._backend.ensure_absent(id_)

        return await self._started(f"drop {order.ids[-1]}", order, order.ids[-1], work)

    async def grow(self, order: Grow) -> Outcome:
        async def work() -> None:
            async with self._alone(order.volume_id):
                await self._backend.ensure_size(order.volume_id, order.size_gib)

        return await self._started(f"grow {order.volume_id}", order, order.volume_id, work)

    async def snap(self, order: Snap) -> Outcome:
        async def work() -> None:
            async with self._alone(order.snapshot_id, order.volume_id):
                await self._backend.ensure_snapshot(order.snapshot_id, order.volume_id)

        return await self._started(f"make {order.snapshot_id}", order, order.snapshot_id, work)

    async def connect(self, order: Connect) -> Connection:
        try:
            async with self._alone(order.volume_id):
                found = await self._backend.connect(order.volume_id, order.host)
        except BackendError as error:
            raise Conflict(str(error), kind="BackendError") from None
        return Connection(found.driver_volume_type, found.path, found.format, found.read_only or order.read_only)

    async def disconnect(self, order: Disconnect) -> Nothing:
        try:
            async with self._alone(order.volume_id):
                await self._backend.disconnect(order.volume_id, order.host)
        except BackendError as error:
            raise Conflict(str(error), kind="BackendError") from None
        return Nothing()

    async def inventory(self, ask: Ask) -> Held:
        """What is really there, for whoever compares it with the records."""
        return Held(f"{self._host}@{self._name}", await self._backend.volumes())

    # ---- inside

    async def _from_image(self, order: Make) -> None:
        """Fetch the image, verified, and write its content to the volume; nothing of the image stays."""
        if order.volume_id in await self._backend.volumes():
            async with self._alone(order.volume_id):
                await self._backend.ensure_volume(order.volume_id, order.size_gib)  # there already, with that size
            return
        image = await self._image.image(order.source_id, as_service=True)
        if await self._shared(order, image):
            return
        path = self._folder / f"{order.volume_id}.image"
        try:
            virtual = await self._image.fetch(image, path, self._pool, as_service=True)
            if virtual is not None and virtual > order.size_gib * GIB:
                raise BackendError(
                    f"Image virtual size is {-(-virtual // GIB)}GB and doesn't fit in a volume of size "
                    f"{order.size_gib}GB."
                )
            async with self._alone(order.volume_id):
                await self._backend.ensure_from_image(
                    order.volume_id, order.size_gib, str(path), _QEMU_NAMES.get(str(image.disk_format), "raw")
                )
        finally:
            await asyncio.shield(self._pool.run(lambda: path.unlink(missing_ok=True)))

    async def _shared(self, order: Make, image: ImageRecord) -> bool:
        """Make the volume of the image's own data, where the back end can; whether it is there now."""
        if not self._backend.schemes or image.status != "active" or image.container_format != "bare":
            return False
        for url in await self._image.locations(image.id):
            if url.partition("://")[0] in self._backend.schemes:
                async with self._alone(order.volume_id):
                    if await self._backend.ensure_from_location(
                        order.volume_id, order.size_gib, url, str(image.disk_format)
                    ):
                        return True
        return False

    async def _started(self, key: str, order: Any, subject: str, work: Callable[[], Awaitable[None]]) -> Outcome:
        """Start an order unless it is in work, wait a moment for its end, else say that it goes on.

        The end of another order with this key, for which nobody asked any more, is not this one's.
        """
        task = self._jobs.get(key)
        if task is not None and self._orders.get(key) != order:
            if not task.done():
                return Outcome("working")  # first that one, then this
            task = None
        if task is None:
            self._orders[key] = order
            task = asyncio.get_running_loop().create_task(self._carry_out(work), name=key)
            self._jobs[key] = task
        done, _ = await asyncio.wait({task}, timeout=QUICK)
        if done:
            self._forget(key)
            return Outcome("failed", "The order was given up.") if task.cancelled() else task.result()
        task.add_done_callback(lambda _: self._announce(subject))
        return Outcome("working")

    def _announce(self, subject: str) -> None:
        async def tell() -> None:
            with contextlib.suppress(Fault):
                await self._bus.cast(FINISHED, Finished(subject))

        self._telling = asyncio.get_running_loop().create_task(tell())

    async def _carry_out(self, work: Callable[[], Awaitable[None]]) -> Outcome:
        try:
            await work()
        except NoSpace as error:
            return Outcome("failed", str(error), full=True)
        except BackendDown as error:
            raise Unavailable(str(error)) from None
        except BackendError as error:
            return Outcome("failed", str(error))
        except Unavailable:
            raise
        except Fault as error:
            return Outcome("failed", error.message)
        except OSError as error:
            _log.exception("an order failed")
            return Outcome("failed", f"The host failed: {error.strerror or type(error).__name__}.")
        return Outcome("done")

    def _forget(self, key: str) -> asyncio.Task[Outcome] | None:
        self._orders.pop(key, None)
        return self._jobs.pop(key, None)

    async def _cancel(self, key: str) -> None:
        task = self._forget(key)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _alone(self, *ids: str) -> AsyncIterator[None]:
        """Hold these volumes and snapshots: one thing at a time is done with each."""
        async with contextlib.AsyncExitStack() as stack:
            for id_ in sorted({id_ for id_ in ids if id_}):
                await stack.enter_async_context(self._locks.setdefault(id_, asyncio.Lock()))
            yield


_QEMU_NAMES = {"qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi", "vhd": "vpc", "vhdx": "vhdx", "raw": "raw", "iso": "raw"}
"""Image formats → what qemu-img calls them."""

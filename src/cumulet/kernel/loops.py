# SPDX-License-Identifier: Apache-2.0
"""Reconcilers: functions without input that compare what is wanted with what is, and close the gap.

Each runs on a timer and on a poke; the poke carries no data, so there is one
path and not a usual and a rare one. An error is logged, and the timer goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cumulet.kernel import clock, ids

_log = logging.getLogger(__name__)


class Loop:
    """One reconciler. ``every`` is in seconds (10 % jitter); pokes that come close together run it once.

    ``retry``: seconds until the next run after one that failed, doubled with each failure up to ``every`` (None: that).
    """

    def __init__(
        self, name: str, every: float, work: Callable[[], Awaitable[None]], *, at_start: bool = True,
        retry: float | None = None,
    ) -> None:  # fmt: skip
        self.name, self.every, self._work, self._retry = name, every, work, retry
        self._poked = asyncio.Event()
        if at_start:
            self._poked.set()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.failures = 0
        self.last_error: str | None = None

    async def start(self) -> None:
        self._stopping = False
        self._task = asyncio.get_running_loop().create_task(self._forever(), name=f"loop {self.name}")

    async def stop(self) -> None:
        """Finish the run in work, then end."""
        self._stopping = True
        self._poked.set()
        if self._task is not None:
            try:
                async with asyncio.timeout(10):
                    await asyncio.shield(self._task)
            except TimeoutError:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def poke(self) -> None:
        """Run soon; safe to call from the loop's thread at any time."""
        self._poked.set()

    async def run_once(self) -> None:
        """One run, with its errors raised (for tests and for the first run at start)."""
        await self._work()

    def _pause(self) -> float:
        """Seconds until the next run when nobody pokes."""
        if not self.failures or self._retry is None:
            return self.every
        return min(self._retry * 2.0 ** min(self.failures - 1, 32), self.every)

    async def _forever(self) -> None:
        while True:
            timer = asyncio.create_task(clock.sleep(self._pause() * ids.choose(0.9, 1.1)))
            poke = asyncio.create_task(self._poked.wait())
            try:
                await asyncio.wait({timer, poke}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
                poke.cancel()
            if self._stopping:
                return
            self._poked.clear()
            try:
                await self._work()
                self.failures, self.last_error = 0, None
            except Exception as error:
                self.failures += 1
                self.last_error = str(error) or type(error).__name__
                level = logging.ERROR if self.failures in (1, 10, 100) else logging.DEBUG
                _log.log(level, "%s failed (%d in a row)", self.name, self.failures, exc_info=True)

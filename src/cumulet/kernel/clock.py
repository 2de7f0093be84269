# SPDX-License-Identifier: Apache-2.0
"""The only source of time. Everything that waits or stamps asks here, so a test can own time.

Two clocks exist: the system's, and `FakeClock`, whose time moves only when a
test says so. The current one is a context variable's value, because several
clouds may live in one test process.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time as _time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time in seconds since the epoch, monotonic time, and sleep."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return _time.time()

    def monotonic(self) -> float:
        return _time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class FakeClock:
    """Time that a test moves by hand: `advance` wakes every sleeper whose time has come, in order."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Move time forward by ``seconds``, letting woken tasks run between the wake-ups."""
        end = self._now + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not woken.done():
                woken.set_result(None)
            await self._settle()
        self._now = end

    @staticmethod
    async def _settle() -> None:
        for _ in range(20):
            await asyncio.sleep(0)


_SYSTEM = SystemClock()
_current: ContextVar[Clock] = ContextVar("clock", default=_SYSTEM)


def use(clock: Clock) -> None:
    """Make ``clock`` the clock of the current context and of all tasks started from it."""
    _current.set(clock)


def now() -> float:
    """Seconds since the epoch, with fractions."""
    return _current.get().now()


def monotonic() -> float:
    """Seconds that never go back; for durations only."""
    return _current.get().monotonic()


async def sleep(seconds: float) -> None:
    await _current.get().sleep(seconds)


def moment(seconds: float) -> datetime:
    """The aware UTC datetime of a time in seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


def iso_z(seconds: float) -> str:
    """``2026-01-02T03:04:05Z``, the form of compute, network and image."""
    return moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_micro_z(seconds: float) -> str:
    """``2026-01-02T03:04:05.000000Z``, the form of identity."""
    return moment(seconds).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def iso_micro(seconds: float) -> str:
    """``2026-01-02T03:04:05.000000``, the form of block storage."""
    return moment(seconds).strftime("%Y-%m-%dT%H:%M:%S.%f")


def parse_iso(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 time (UTC when it has no offset); raises ValueError."""
    value = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()

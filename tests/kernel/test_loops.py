# SPDX-License-Identifier: Apache-2.0
"""When a reconciler runs again."""

from __future__ import annotations

import asyncio

import pytest

from cumulet.kernel import clock, ids
from cumulet.kernel.loops import Loop


@pytest.mark.parametrize(
    ("retry", "pauses"), [(None, [10.0] * 7), (1.0, [10.0, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0])]
)  # fmt: skip
async def test_what_failed_is_tried_again_ever_later(
    monkeypatch: pytest.MonkeyPatch, retry: float | None, pauses: list[float]
) -> None:
    """Six failures, a success, and again as usual."""
    slept: list[float] = []
    done = asyncio.Event()
    runs = 0

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs <= len(pauses) - 1:
            raise RuntimeError
        if runs == len(pauses) + 1:
            done.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(clock, "sleep", sleep)
    monkeypatch.setattr(ids, "choose", lambda low, high: 1.0)
    loop = Loop("one", 10.0, work, at_start=False, retry=retry)
    await loop.start()
    try:
        async with asyncio.timeout(30):
            await done.wait()
        assert slept == [*pauses, 10.0]
        assert loop.failures == 0
    finally:
        assert loop._task is not None
        loop._task.cancel()

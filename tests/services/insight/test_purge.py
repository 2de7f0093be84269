# SPDX-License-Identifier: Apache-2.0
"""Events are kept for a week and then forgotten, also when there are very many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulet.kernel import clock
from cumulet.kernel.clock import FakeClock
from tests.contract.image.lone import lone_service
from tests.contract.insight.conftest import SERVER, event


@pytest.fixture
def time() -> Iterator[FakeClock]:
    fake = FakeClock()
    clock.use(fake)
    yield fake
    clock.use(clock.SystemClock())


async def test_only_what_is_older_than_a_week_is_purged(tmp_path: Path, time: FakeClock) -> None:
    async with lone_service("insight", tmp_path, {"insight"}, mount="/cumulet", started=False) as lone:
        insight = lone.inner
        many = 5_001  # more than one piece
        await insight.store([event("compute.receive", number) for number in range(many)])
        await time.advance(6 * 86_400)
        await insight.store([event("compute.fetch", 0)])
        await insight.purge()
        assert len(await insight._events(SERVER)) == many + 1
        await time.advance(1 * 86_400 + 1)
        await insight.purge()
        assert [one.event.name for one in await insight._events(SERVER)] == ["compute.fetch"]


async def test_the_time_is_a_setting(tmp_path: Path, time: FakeClock) -> None:
    settings = {"insight": {"keep_days": 0.5}}
    async with lone_service(
        "insight", tmp_path, {"insight"}, mount="/cumulet", settings=settings, started=False
    ) as lone:
        await lone.inner.store([event("compute.receive", 0)])
        await time.advance(86_400 / 2 + 1)
        await lone.inner.purge()
        assert await lone.inner._events(SERVER) == []

# SPDX-License-Identifier: Apache-2.0
"""The agent: slow orders are started and looked at, leftovers go, what nobody knows stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cumulet.kernel import ids
from cumulet.kernel.bus import MemoryBus
from cumulet.kernel.errors import Conflict, Unavailable
from cumulet.kernel.pools import Pool
from cumulet.volume import agent as agent_module
from cumulet.volume.agent import VolumeAgent
from cumulet.volume.config import VolumeConfig
from cumulet.volume.drivers.simulated import Knobs, SimulatedBackend
from cumulet.volume.rpc import (
    CONNECT,
    DISCONNECT,
    DROP,
    FINISHED,
    GROW,
    HELD,
    MAKE,
    REPORT,
    Connect,
    Disconnect,
    Drop,
    Finished,
    Grow,
    Held,
    Make,
    Nothing,
    Report,
    Superfluous,
)


@dataclass
class Ear:
    """What a scheduler would hear."""

    reports: list[Report] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    superfluous: list[str] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def report(self, told: Report) -> Nothing:
        self.reports.append(told)
        return Nothing()

    async def done(self, told: Finished) -> Nothing:
        self.finished.append(told.subject)
        self.heard.set()
        return Nothing()

    async def held(self, told: Held) -> Superfluous:
        return Superfluous(self.superfluous)


@dataclass
class Site:
    bus: MemoryBus
    backend: SimulatedBackend
    agent: VolumeAgent
    ear: Ear


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(agent_module, "QUICK", 0.02)
    bus, pool, ear = MemoryBus(), Pool("t", 2), Ear()
    await bus.subscribe({REPORT: ear.report, FINISHED: ear.done, HELD: ear.held}, component="volume-scheduler")
    backend = SimulatedBackend(tmp_path / "s.json", Knobs())
    image: Any = None
    agent = VolumeAgent(
        bus, backend, host="node-1", name="simulated", config=VolumeConfig(), image=image,
        folder=tmp_path / "images", pool=pool,
    )  # fmt: skip
    await agent.start()
    yield Site(bus, backend, agent, ear)
    await agent.stop()
    await bus.close()
    pool.close()


async def test_a_slow_order_goes_on_and_tells_its_end(site: Site) -> None:
    id_ = ids.new_uuid()
    site.backend.knobs.slow["ensure_volume"] = 0.2
    for _ in range(3):
        assert (await site.bus.call(MAKE, Make(id_, 1), host="node-1")).state == "working"
    async with asyncio.timeout(60):
        await site.ear.heard.wait()
    assert set(site.ear.finished) == {id_}
    assert (await site.bus.call(MAKE, Make(id_, 1), host="node-1")).state == "done"
    assert await site.backend.volumes() == [id_]


async def test_a_drop_ends_a_make_that_is_in_work(site: Site) -> None:
    id_ = ids.new_uuid()
    site.backend.knobs.slow["ensure_volume"] = 60.0
    assert (await site.bus.call(MAKE, Make(id_, 1), host="node-1")).state == "working"
    assert (await site.bus.call(DROP, Drop([id_]), host="node-1")).state == "done"
    assert await site.backend.volumes() == []


async def test_the_end_of_another_order_answers_nothing(site: Site) -> None:
    id_ = ids.new_uuid()
    assert (await site.bus.call(MAKE, Make(id_, 1), host="node-1")).state == "done"
    site.backend.knobs.slow["ensure_size"] = 0.2
    assert (await site.bus.call(GROW, Grow(id_, 2), host="node-1")).state == "working"
    assert (await site.bus.call(GROW, Grow(id_, 5), host="node-1")).state == "working"
    async with asyncio.timeout(60):
        await site.ear.heard.wait()  # nobody asks how the first one ended
        while (outcome := await site.bus.call(GROW, Grow(id_, 5), host="node-1")).state == "working":
            await asyncio.sleep(0.01)
    assert outcome.state == "done"
    assert site.backend.size_of(id_) == 5


async def test_refusals_are_answers(site: Site) -> None:
    site.backend.knobs.full = True
    outcome = await site.bus.call(MAKE, Make(ids.new_uuid(), 1), host="node-1")
    assert (outcome.state, outcome.full) == ("failed", True)
    with pytest.raises(Conflict, match="not on this back end"):
        await site.bus.call(CONNECT, Connect(ids.new_uuid(), "node-1"), host="node-1")
    with pytest.raises(Unavailable):
        await site.bus.call(MAKE, Make(ids.new_uuid(), 1), host="node-2")


async def test_connections_are_made_and_ended(site: Site) -> None:
    id_ = ids.new_uuid()
    await site.bus.call(MAKE, Make(id_, 1), host="node-1")
    found = await site.bus.call(CONNECT, Connect(id_, "node-1", read_only=True), host="node-1")
    assert (found.driver_volume_type, found.read_only) == ("simulated", True)
    assert site.backend.hosts_of(id_) == ["node-1"]
    for _ in range(2):
        await site.bus.call(DISCONNECT, Disconnect(id_, "node-1"), host="node-1")
    assert site.backend.hosts_of(id_) == []


async def test_it_reports_its_room(site: Site) -> None:
    async with asyncio.timeout(60):
        while not site.ear.reports:
            await asyncio.sleep(0.01)
    told = site.ear.reports[0]
    assert (told.host, told.backend, told.total_gib) == ("node-1", "node-1@simulated", 1000.0)


async def test_only_what_is_named_superfluous_goes(site: Site) -> None:
    gone, kept = ids.new_uuid(), ids.new_uuid()
    for id_ in (gone, kept):
        await site.backend.ensure_volume(id_, 1)
    site.ear.superfluous = [gone, ids.new_uuid()]
    await site.agent.drop_superfluous()
    assert await site.backend.volumes() == [kept]

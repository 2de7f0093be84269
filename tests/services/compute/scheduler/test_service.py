# SPDX-License-Identifier: Apache-2.0
"""The scheduler role over the bus, with a real placement behind it: claims that hold, repeat, get lost and go back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cumulet.client.placement import Changes, PlacementClient
from cumulet.compute.scheduler import rpc
from cumulet.compute.scheduler.model import HostReport, Request
from cumulet.compute.scheduler.service import NO_HOST, Scheduler
from cumulet.kernel import clock, trace
from cumulet.kernel.bus import MemoryBus, Subscription
from cumulet.kernel.errors import NotFound
from tests.services.compute.scheduler.hosts import node, request
from tests.services.placement.played import placement_client

WHO: Any = {"project_id": "p", "user_id": "u"}


def consumer(number: int) -> str:
    return f"cccccccc-0000-4000-8000-{number:012}"


@dataclass
class World:
    """A placement, a bus, a conductor that knows the hosts, and schedulers."""

    placement: PlacementClient
    bus: MemoryBus
    hosts: dict[str, HostReport] = field(default_factory=dict)
    schedulers: list[Scheduler] = field(default_factory=list)

    async def host(self, number: int, vcpus: int = 4, **facts: Any) -> str:
        """A host with its provider; told to the conductor and fanned out as after a report."""
        inventory = {
            "VCPU": {"total": vcpus, "max_unit": vcpus}, "MEMORY_MB": {"total": 65536}, "DISK_GB": {"total": 1000},
        }  # fmt: skip
        await self.placement.ensure_provider(node(number), f"h{number}", inventory, ["COMPUTE_NODE"])
        told = HostReport(**{"host": f"h{number}", "node": node(number), "reported_at": clock.now(), **facts})
        self.hosts[told.host] = told
        await self.bus.fanout(rpc.REPORT, told)
        return told.host

    async def list_hosts(self, asked: rpc.AskHosts) -> rpc.Hosts:
        return rpc.Hosts(list(self.hosts.values()))

    def scheduler(self, placement: PlacementClient | None = None) -> Scheduler:
        made = Scheduler(self.bus, placement or self.placement, host="node-1")
        self.schedulers.append(made)
        return made

    async def started(self) -> Scheduler:
        made = self.scheduler()
        await made.start()
        return made

    async def select(self, **wishes: Any) -> rpc.Selection:
        return await self.bus.call(rpc.SELECT_AND_CLAIM, request(**wishes))

    async def used(self, number: int) -> int:
        changes = await self.placement.changes()
        (summary,) = [one for one in changes.providers if one.uuid == node(number)]
        return summary.inventories["VCPU"].used


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    bus = MemoryBus()
    async with placement_client(tmp_path) as (client, _):
        made = World(client, bus)
        conductor: Subscription = await bus.subscribe({rpc.HOSTS: made.list_hosts}, component="conductor")
        try:
            yield made
        finally:
            for one in made.schedulers:
                await one.stop()
            await conductor.stop()
            await bus.close()


async def test_the_best_host_is_claimed(world: World) -> None:
    await world.host(1, vcpus=2)
    await world.host(2, vcpus=16)
    await world.host(3, vcpus=8)
    await world.started()
    selection = await world.select(server_id=consumer(1), vcpus=2)
    assert (selection.host, selection.node, selection.reason) == ("h2", node(2), "")
    assert [one.host for one in selection.alternates] == ["h3", "h1"]
    held = await world.placement.allocations(consumer(1))
    assert held.allocations == {node(2): {"VCPU": 2, "MEMORY_MB": 512, "DISK_GB": 1}}
    assert (held.project_id, held.user_id) == ("p", "u")
    assert selection.why["tried"] == [{"host": "h2", "outcome": "claimed", "reason": ""}]
    assert selection.why["filters"][0] == {
        "name": "ComputeFilter", "hosts_in": 3, "hosts_out": 3, "wanted": "up and enabled", "rejected": [],
    }  # fmt: skip


async def test_a_repeated_call_finds_its_claim(world: World) -> None:
    for number in (1, 2, 3):
        await world.host(number, vcpus=4)
    await world.started()
    first = await world.select(server_id=consumer(1), vcpus=2)
    for _ in range(5):
        again = await world.select(server_id=consumer(1), vcpus=2)
        assert (again.host, again.node) == (first.host, first.node)
        assert again.why["tried"][-1] == {"host": first.host, "outcome": "found", "reason": ""}
    assert sum([await world.used(number) for number in (1, 2, 3)]) == 2


async def test_a_claim_that_fills_the_cloud_is_found_too(world: World) -> None:
    await world.host(1, vcpus=4)
    await world.started()
    assert (await world.select(server_id=consumer(1), vcpus=4)).host == "h1"
    again = await world.select(server_id=consumer(1), vcpus=4)
    assert (again.host, again.why["tried"][-1]["outcome"]) == ("h1", "found")
    assert await world.used(1) == 4


async def test_no_valid_host_says_why(world: World) -> None:
    await world.host(1, vcpus=4)
    await world.host(2, vcpus=8, enabled=False)
    await world.started()
    selection = await world.select(server_id=consumer(1), vcpus=6)
    assert (selection.host, selection.node, selection.reason) == (None, None, NO_HOST)
    filters = {one["name"]: one for one in selection.why["filters"]}
    assert filters["ComputeFilter"]["rejected"] == [{"host": "h2", "found": "disabled"}]
    assert (filters["VCPU"]["hosts_in"], filters["VCPU"]["hosts_out"]) == (1, 0)
    assert filters["VCPU"]["wanted"] == 6
    assert filters["VCPU"]["rejected"] == [{"host": "h1", "found": 4.0}]
    assert selection.why["rounds"] == 2
    assert (await world.placement.allocations(consumer(1))).allocations == {}


async def test_a_retry_moves_the_claim(world: World) -> None:
    await world.host(1, vcpus=4)
    await world.host(2, vcpus=4)
    await world.started()
    first = await world.select(server_id=consumer(1))
    second = await world.select(server_id=consumer(1), attempt=2, exclude=[first.host])
    assert {first.host, second.host} == {"h1", "h2"}
    assert list((await world.placement.allocations(consumer(1))).allocations) == [second.node]
    assert await world.used(1) + await world.used(2) == 1
    third = await world.select(server_id=consumer(1), attempt=3, exclude=["h1", "h2"])
    assert third.host is None


async def test_release_is_repeatable(world: World) -> None:
    await world.host(1, vcpus=4)
    await world.started()
    await world.select(server_id=consumer(1), vcpus=4)
    await world.bus.call(rpc.RELEASE, rpc.ReleaseHost(consumer(1)))
    assert await world.used(1) == 0
    assert (await world.select(server_id=consumer(2), vcpus=4)).host == "h1"
    for _ in range(2):
        await world.bus.call(rpc.RELEASE, rpc.ReleaseHost(consumer(2)))
    assert await world.used(1) == 0


async def test_a_host_that_came_a_moment_ago_is_found(world: World) -> None:
    scheduler = await world.started()
    assert (await world.select(server_id=consumer(1))).host is None
    await world.host(1)
    assert (await world.select(server_id=consumer(1))).host == "h1"
    # a report that was lost is pulled before the scheduler gives up
    await world.host(2, zone="far")
    scheduler.snapshot.forget(node(2))
    assert (await world.select(server_id=consumer(2), availability_zone="far")).host == "h2"


async def test_a_stale_snapshot_costs_nobody_a_host(world: World) -> None:
    await world.host(1, vcpus=8)
    await world.host(2, vcpus=4)
    scheduler = world.scheduler()  # not started: its snapshot changes only when it looks
    await scheduler.refresh()
    await world.placement.claim(consumer(9), {node(1): {"VCPU": 8}}, **WHO)
    selection = await scheduler.select_and_claim(request(server_id=consumer(1)))
    assert selection.host == "h2"
    assert [one["outcome"] for one in selection.why["tried"]] == ["no candidate", "claimed"]
    await scheduler.refresh()
    await world.placement.drop(consumer(9))
    selection = await scheduler.select_and_claim(request(server_id=consumer(2), vcpus=6))
    assert (selection.host, selection.why["rounds"]) == ("h1", 2)


class Rival(PlacementClient):
    """Between a candidate and its claim somebody else is faster, as often as it says."""

    wins = 0

    async def claim(self, consumer: str, allocations: Mapping[str, Mapping[str, int]], **more: Any) -> None:
        if self.wins:
            self.wins -= 1
            for uuid in allocations:
                rival = f"dddddddd-0000-4000-8000-{self.wins:012}"
                await super().claim(rival, {uuid: {"VCPU": 4}}, **WHO)
        await super().claim(consumer, allocations, **more)


async def test_a_lost_claim_takes_the_next_host(world: World) -> None:
    for number in (1, 2, 3):
        await world.host(number, vcpus=4)
    rival = Rival(world.placement._session)
    rival.wins = 2
    scheduler = world.scheduler(rival)
    selection = await scheduler.select_and_claim(request(server_id=consumer(1)))
    assert [one["outcome"] for one in selection.why["tried"]] == ["refused", "refused", "claimed"]
    assert "exceed the capacity" in selection.why["tried"][0]["reason"]
    assert await world.used(int((selection.host or "")[1:])) == 1
    rival.wins = 3
    none = await scheduler.select_and_claim(request(server_id=consumer(2), vcpus=4))
    assert none.host is None
    assert (await world.placement.allocations(consumer(2))).allocations == {}


async def test_two_schedulers_never_oversubscribe(world: World) -> None:
    for number in range(5):
        await world.host(number, vcpus=4)
    for _ in range(2):
        await world.started()
    selections = await asyncio.gather(*(world.select(server_id=consumer(n), vcpus=1) for n in range(26)))
    assert sum(one.host is not None for one in selections) == 20
    assert [await world.used(number) for number in range(5)] == [4] * 5
    for number, one in enumerate(selections):
        held = (await world.placement.allocations(consumer(number))).allocations
        assert list(held) == ([one.node] if one.node else [])


class Foreign(PlacementClient):
    """A placement without our feed."""

    async def changes(self, after: int = 0, *, wait: int = 0, limit: int = 500) -> Changes:
        raise NotFound


async def test_a_placement_without_our_feed_is_asked_at_each_request(world: World) -> None:
    await world.host(1, vcpus=2)
    await world.host(2, vcpus=8, free_memory_mib=100)
    scheduler = world.scheduler(Foreign(world.placement._session))
    await scheduler.start()
    selection = await world.select(server_id=consumer(1), vcpus=2)
    assert selection.host == "h2"
    assert selection.why["filters"][0]["name"] == "Placement"
    assert (await world.select(server_id=consumer(2), vcpus=7)).host is None
    assert (await world.select(server_id=consumer(2), vcpus=6)).host == "h2"


async def test_the_flow_is_recorded(world: World) -> None:
    await world.host(1)
    buffer = trace.Buffer()
    trace.use_buffer(buffer)
    await world.started()
    trace.use(trace.Trace("conductor", "node-1", subject=consumer(1), attempt=1))
    await world.select(server_id=consumer(1))
    await world.select(server_id=consumer(1), availability_zone="nowhere", vcpus=99)
    events: list[trace.Event] = []

    async def keep(some: list[trace.Event]) -> None:
        events.extend(some)

    await buffer.flush(keep)
    told = [(one.name, one.component, one.subject) for one in events]
    expected = [(f"scheduler.{name}", "scheduler", consumer(1)) for name in ("receive", "select", "claim")]
    assert told == [*expected, *expected[:2]]
    assert events[1].detail == {"hosts": 1, "passed": 1, "best": "h1"}
    assert events[2].detail == {"host": "h1", "tried": 1}
    assert events[-1].error == f"No valid host was found. {NO_HOST}"


async def test_a_boot_from_volume_claims_no_disk(world: World) -> None:
    await world.host(1)
    await world.started()
    await world.select(server_id=consumer(1), disk_gib=0)
    held = await world.placement.allocations(consumer(1))
    assert held.allocations == {node(1): {"VCPU": 1, "MEMORY_MB": 512}}


async def test_messages_survive_the_wire(world: World) -> None:
    """What the conductor sends is what the scheduler gets."""
    seen: list[Request] = []

    async def keep(asked: Request) -> rpc.Selection:
        seen.append(asked)
        return rpc.Selection("h1", node(1))

    subscription = await world.bus.subscribe({rpc.SELECT_AND_CLAIM: keep}, component="scheduler")
    asked = request(hints={"same_host": ["a"]}, hosts_of={"a": "h1"}, group=rpc.GroupWish("affinity", {"h1": 2}))
    assert (await world.bus.call(rpc.SELECT_AND_CLAIM, asked)).host == "h1"
    assert seen == [asked]
    await subscription.stop()

# SPDX-License-Identifier: Apache-2.0
"""What only the simulated hypervisor has: knobs, a state file, and time that tests own."""

from __future__ import annotations

import asyncio
import resource
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cumulet.compute.drivers.model import GuestDisk, GuestNic, GuestPlan, HypervisorError, PowerState, RootDisk
from cumulet.compute.drivers.simulated import Failure, Knobs, SimulatedHypervisor
from cumulet.kernel import clock


def plan(server_id: str | None = None, vcpus: int = 1, memory_mib: int = 64) -> GuestPlan:
    root = RootDisk(base=None, base_format="raw", size_gib=1)
    return GuestPlan(server_id or str(uuid.uuid4()), 1, "guest", "project", vcpus, memory_mib, root)


async def opened(knobs: Knobs, state_file: Path | None = None) -> SimulatedHypervisor:
    driver = SimulatedHypervisor("host", knobs=knobs, state_file=state_file)
    await driver.open()
    return driver


@pytest.fixture
def fake() -> Iterator[clock.FakeClock]:
    made = clock.FakeClock()
    clock.use(made)
    yield made
    clock.use(clock.SystemClock())


@pytest.mark.parametrize(
    ("knobs", "unit"),
    [
        (Knobs(vcpus=2, cpu_ratio=1.0), "vCPUs"),
        (Knobs(memory_mib=100), "MiB of memory"),
        (Knobs(disk_gib=1), "GiB of disk"),
    ],
)
async def test_a_full_host_refuses_and_keeps_what_it_has(knobs: Knobs, unit: str) -> None:
    driver = await opened(knobs)
    first = plan(vcpus=2)
    await driver.ensure_running(first)
    with pytest.raises(HypervisorError, match=unit):
        await driver.ensure_running(plan())
    assert [guest.server_id for guest in await driver.guests()] == [first.server_id]
    await driver.ensure_running(msgspec.structs.replace(first, attempt=2))  # its own place counts once


async def test_latency_is_the_clocks_time(fake: clock.FakeClock) -> None:
    driver = await opened(Knobs(latency={"ensure_running": 30, "*": 0}))
    task = asyncio.create_task(driver.ensure_running(plan()))
    await fake.advance(29.9)
    assert not task.done()
    await fake.advance(0.2)
    assert task.done()
    assert task.result().power_state == PowerState.RUNNING


async def test_operations_on_one_guest_wait_for_each_other_and_not_for_others(fake: clock.FakeClock) -> None:
    driver = await opened(Knobs(latency={"ensure_running": 10}))
    same, other = plan(), plan()
    tasks = [asyncio.create_task(driver.ensure_running(each)) for each in (same, same, other)]
    await fake.advance(10.1)
    assert [task.done() for task in tasks] == [True, False, True]
    await fake.advance(10)
    assert tasks[1].done()


async def test_the_nth_call_for_a_server_fails(tmp_path: Path) -> None:
    cursed, spared = plan(), plan()
    failure = Failure("start", server_id=cursed.server_id, occurrence=2, message="no power")
    driver = await opened(Knobs(failures=[failure]), tmp_path / "host.json")
    for each in (cursed, spared):
        await driver.ensure_running(each)
    await driver.start(cursed.server_id)
    await driver.start(spared.server_id)
    with pytest.raises(HypervisorError, match="no power"):
        await driver.start(cursed.server_id)
    await driver.start(cursed.server_id)


@pytest.mark.parametrize(("when", "made"), [("before", False), ("after", True)])
async def test_a_failure_before_or_after_the_effect(when: str, made: bool) -> None:
    driver = await opened(Knobs(failures=[Failure("ensure_running", occurrence=1, when=when)]))
    wanted = plan()
    with pytest.raises(HypervisorError):
        await driver.ensure_running(wanted)
    assert bool(await driver.guests()) is made
    assert (await driver.ensure_running(wanted)).power_state == PowerState.RUNNING


async def test_a_guest_that_does_not_listen(fake: clock.FakeClock) -> None:
    driver = await opened(Knobs(ignores_power_button=True, keeps_devices=True))
    wanted = msgspec.structs.replace(
        plan(), disks=[GuestDisk("serial", "/x", "raw")], nics=[GuestNic("p", "m", "t", 0)]
    )
    await driver.ensure_running(wanted)
    for call in (driver.detach_disk(wanted.server_id, "serial"), driver.detach_nic(wanted.server_id, "m")):
        with pytest.raises(HypervisorError, match="let go"):
            await call
    task = asyncio.create_task(driver.stop(wanted.server_id, grace=60))
    await fake.advance(59)
    assert not task.done()
    await fake.advance(2)
    assert (await driver.guests())[0].power_state == PowerState.SHUTDOWN


async def test_a_state_file_that_is_no_state_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "host.json"
    file.write_text("{")
    with pytest.raises(HypervisorError, match="state can't be read"):
        await opened(Knobs(), file)
    assert file.read_text() == "{"


async def test_a_disk_that_is_full_is_an_error_and_the_file_stays_whole(tmp_path: Path) -> None:
    file = tmp_path / "host.json"
    driver = await opened(Knobs(), file)
    await driver.ensure_running(plan())
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(HypervisorError, match="state can't be written"):
            await driver.ensure_running(plan())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before

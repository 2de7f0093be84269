# SPDX-License-Identifier: Apache-2.0
"""One suite over the Hypervisor Protocol: whatever the agent relies on holds for every driver.

The simulated driver always runs; libvirt with real guests runs under the
``machine`` marker and needs root. Only those tests boot a guest's own system
in which it has to take part (power button, unplugging).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from cumulet.compute.drivers.model import (
    GuestEvent,
    GuestPlan,
    GuestState,
    Hypervisor,
    HypervisorError,
    LocalDisk,
    PowerState,
)
from tests.conformance.hypervisor_rigs import Listener, Rig, is_missing, until


async def state(driver: Hypervisor, server_id: str) -> GuestState | None:
    return next((guest for guest in await driver.guests() if guest.server_id == server_id), None)


async def power(driver: Hypervisor, server_id: str) -> PowerState | None:
    found = await state(driver, server_id)
    return found.power_state if found is not None else None


@pytest.fixture
async def listener(rig: Rig) -> AsyncIterator[Listener]:
    found = Listener(rig.driver)
    await asyncio.sleep(0)
    yield found
    await found.close()


def bases(plan: GuestPlan) -> list[str]:
    """The images that must stay while the guest is there."""
    return [plan.root.base] if plan.root is not None and plan.root.base else []


# -- being there ------------------------------------------------------------------------------


async def test_a_guest_runs_and_is_listed(rig: Rig) -> None:
    plan = msgspec.structs.replace(rig.plan(), disks=[rig.disk()], nics=[rig.nic()])
    made = await rig.driver.ensure_running(plan)
    serials, macs = [plan.disks[0].serial], [plan.nics[0].mac]
    wanted = GuestState(plan.server_id, 1, PowerState.RUNNING, serials, macs, bases(plan))
    assert made == wanted
    assert await rig.driver.guests() == [wanted]


async def test_the_same_plan_again_leaves_the_guest_alone(rig: Rig) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    before = rig.identity(plan.server_id)
    assert before
    assert (await rig.driver.ensure_running(plan)).power_state == PowerState.RUNNING
    assert rig.identity(plan.server_id) == before


async def test_the_same_plan_starts_a_guest_that_is_off(rig: Rig) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    await rig.driver.stop(plan.server_id, grace=0)
    assert (await rig.driver.ensure_running(plan)).power_state == PowerState.RUNNING


async def test_a_guest_may_be_there_and_off(rig: Rig) -> None:
    plan = msgspec.structs.replace(rig.plan(), run=False)
    for _ in range(2):
        assert (await rig.driver.ensure_running(plan)).power_state == PowerState.SHUTDOWN
    await rig.driver.start(plan.server_id)
    assert (await rig.driver.guests())[0].power_state == PowerState.RUNNING


async def test_an_older_attempt_is_refused_and_changes_nothing(rig: Rig) -> None:
    plan = msgspec.structs.replace(rig.plan(), attempt=2)
    made = await rig.driver.ensure_running(plan)
    before = rig.identity(plan.server_id)
    with pytest.raises(HypervisorError):
        await rig.driver.ensure_running(msgspec.structs.replace(plan, attempt=1))
    assert await rig.driver.guests() == [made]
    assert rig.identity(plan.server_id) == before


async def test_a_newer_attempt_replaces_the_guest(rig: Rig) -> None:
    plan = msgspec.structs.replace(rig.plan(), disks=[rig.disk()])
    await rig.driver.ensure_running(plan)
    newer = msgspec.structs.replace(plan, attempt=2, disks=[])
    made = await rig.driver.ensure_running(newer)
    assert made == GuestState(plan.server_id, 2, PowerState.RUNNING, bases=bases(plan))
    assert await rig.driver.guests() == [made]


async def test_local_disks_take_their_names_before_volumes(rig: Rig) -> None:
    local = [LocalDisk("ephemeral0", 64), LocalDisk("swap", 32, "swap")]
    plan = msgspec.structs.replace(rig.plan(), local_disks=local)
    assert (await rig.driver.ensure_running(plan)).disks == []
    assert await rig.driver.attach_disk(plan.server_id, rig.disk()) == "/dev/vdd"
    await rig.driver.ensure_absent(plan.server_id)
    assert rig.left_of(plan.server_id) == []


async def test_resources_count_the_guests(rig: Rig) -> None:
    before = await rig.driver.resources()
    assert before.hostname == "host"
    assert min(before.vcpus, before.memory_mib, before.disk_gib, before.hypervisor_version) > 0
    assert (before.vcpus_used, before.memory_mib_used, before.running_guests) == (0, 0, 0)
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    during = await rig.driver.resources()
    used = (during.vcpus_used, during.memory_mib_used, during.running_guests)
    assert used == (plan.vcpus, plan.memory_mib, 1)
    await rig.driver.stop(plan.server_id, grace=0)
    stopped = await rig.driver.resources()
    assert (stopped.memory_mib_used, stopped.running_guests) == (plan.memory_mib, 0)
    await rig.driver.ensure_absent(plan.server_id)
    assert (await rig.driver.resources()).vcpus_used == 0


async def test_nothing_is_left_of_an_absent_guest(rig: Rig) -> None:
    plan = msgspec.structs.replace(rig.plan(), nics=[rig.nic()])
    await rig.driver.ensure_running(plan)
    assert rig.left_of(plan.server_id)
    await rig.driver.ensure_absent(plan.server_id)
    assert rig.left_of(plan.server_id) == []
    assert await rig.driver.guests() == []
    await rig.driver.ensure_absent(plan.server_id)
    await rig.driver.ensure_absent(str(uuid.uuid4()))


async def test_a_name_may_be_anything(rig: Rig) -> None:
    name = "]]></title><devices/>&amp; \x00\x1b\n" + "名" * 300 + "\ud800"
    plan = msgspec.structs.replace(rig.plan(), name=name.encode("utf-8", "replace").decode(), project_id="<&>\x01")
    assert (await rig.driver.ensure_running(plan)).power_state == PowerState.RUNNING


async def test_guests_do_not_disturb_each_other(rig: Rig) -> None:
    plans = [rig.plan() for _ in range(3)]
    await asyncio.gather(*(rig.driver.ensure_running(plan) for plan in plans))
    await rig.driver.ensure_absent(plans[1].server_id)
    left = {guest.server_id: guest.power_state for guest in await rig.driver.guests()}
    assert left == dict.fromkeys((plans[0].server_id, plans[2].server_id), PowerState.RUNNING)


# -- power ------------------------------------------------------------------------------------


async def test_stop_and_start(rig: Rig, listener: Listener) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    for _ in range(2):
        await rig.driver.stop(plan.server_id, grace=0)
        assert await power(rig.driver, plan.server_id) == PowerState.SHUTDOWN
    await rig.driver.start(plan.server_id)
    before = rig.identity(plan.server_id)
    await rig.driver.start(plan.server_id)
    assert await power(rig.driver, plan.server_id) == PowerState.RUNNING
    assert rig.identity(plan.server_id) == before
    assert listener.heard == []


async def test_a_guest_that_does_not_listen_is_cut_off_after_the_grace(rig: Rig) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    begun = asyncio.get_running_loop().time()
    await rig.driver.stop(plan.server_id, grace=2)
    assert asyncio.get_running_loop().time() - begun < 20
    assert await power(rig.driver, plan.server_id) == PowerState.SHUTDOWN


async def test_a_hard_reboot_starts_the_guest_anew_with_all_it_has(rig: Rig, listener: Listener) -> None:
    plan = msgspec.structs.replace(rig.plan(), disks=[rig.disk()], nics=[rig.nic()])
    made = await rig.driver.ensure_running(plan)
    before = rig.identity(plan.server_id)
    await rig.driver.reboot(plan.server_id, hard=True, grace=0)
    assert await rig.driver.guests() == [made]
    assert rig.identity(plan.server_id) != before
    assert listener.heard == []


async def test_rebooting_a_guest_that_is_off_starts_it(rig: Rig) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    await rig.driver.stop(plan.server_id, grace=0)
    await rig.driver.reboot(plan.server_id, hard=False, grace=5)
    assert await power(rig.driver, plan.server_id) == PowerState.RUNNING


async def test_no_method_invents_a_guest(rig: Rig) -> None:
    driver, nobody = rig.driver, str(uuid.uuid4())
    calls: list[Awaitable[object]] = [
        driver.start(nobody),
        driver.stop(nobody, grace=0),
        driver.reboot(nobody, hard=True, grace=0),
        driver.attach_disk(nobody, rig.disk()),
        driver.detach_disk(nobody, "serial"),
        driver.attach_nic(nobody, rig.nic()),
        driver.detach_nic(nobody, "fa:16:3e:00:00:01"),
        driver.console_log(nobody),
    ]
    assert [await is_missing(call) for call in calls] == [True] * len(calls)


# -- devices ----------------------------------------------------------------------------------


async def test_disks_come_and_stay_and_go(rig: Rig) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    first, second = rig.disk(), msgspec.structs.replace(rig.disk(), device="/dev/vdf")
    assert await rig.driver.attach_disk(plan.server_id, first) == "/dev/vdb"
    assert await rig.driver.attach_disk(plan.server_id, first) == "/dev/vdb"
    assert await rig.driver.attach_disk(plan.server_id, second) == "/dev/vdf"
    await rig.driver.stop(plan.server_id, grace=0)
    await rig.driver.start(plan.server_id)
    found = await state(rig.driver, plan.server_id)
    assert found is not None
    assert found.disks == [first.serial, second.serial]
    await rig.driver.stop(plan.server_id, grace=0)
    for _ in range(2):
        await rig.driver.detach_disk(plan.server_id, first.serial)
    found = await state(rig.driver, plan.server_id)
    assert found is not None
    assert found.disks == [second.serial]


async def test_a_taken_device_name_gives_the_next_free_one(rig: Rig) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    assert await rig.driver.attach_disk(plan.server_id, rig.disk()) == "/dev/vdb"
    wish = msgspec.structs.replace(rig.disk(), device="/dev/vdb")
    assert await rig.driver.attach_disk(plan.server_id, wish) == "/dev/vdc"


async def test_disks_of_a_guest_that_is_off(rig: Rig) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    await rig.driver.stop(plan.server_id, grace=0)
    disk = rig.disk()
    assert await rig.driver.attach_disk(plan.server_id, disk) == "/dev/vdb"
    await rig.driver.start(plan.server_id)
    found = await state(rig.driver, plan.server_id)
    assert found is not None
    assert found.disks == [disk.serial]


async def test_a_guest_may_boot_from_its_first_disk(rig: Rig) -> None:
    plan = msgspec.structs.replace(rig.plan(), root=None, disks=[rig.disk(), rig.disk()])
    made = await rig.driver.ensure_running(plan)
    assert made.disks == [disk.serial for disk in plan.disks]
    assert await rig.driver.attach_disk(plan.server_id, plan.disks[0]) == "/dev/vda"


async def test_nics_of_a_guest_that_is_off(rig: Rig) -> None:
    plan = msgspec.structs.replace(rig.plan(), nics=[rig.nic()])
    await rig.driver.ensure_running(plan)
    await rig.driver.stop(plan.server_id, grace=0)
    nic = rig.nic()
    for _ in range(2):
        await rig.driver.attach_nic(plan.server_id, nic)
    for _ in range(2):
        await rig.driver.detach_nic(plan.server_id, plan.nics[0].mac.upper())
    await rig.driver.start(plan.server_id)
    found = await state(rig.driver, plan.server_id)
    assert found is not None
    assert found.macs == [nic.mac]


# -- crashes ----------------------------------------------------------------------------------


async def test_a_crash_is_reported_and_start_recovers(rig: Rig, listener: Listener) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    rig.crash_inside(plan.server_id)
    await listener.wait(GuestEvent(plan.server_id, PowerState.CRASHED), 10)
    assert await power(rig.driver, plan.server_id) == PowerState.CRASHED
    await rig.driver.start(plan.server_id)
    assert await power(rig.driver, plan.server_id) == PowerState.RUNNING
    assert len(listener.heard) == 1


async def test_guests_outlive_the_agent(rig: Rig) -> None:
    plan = msgspec.structs.replace(rig.plan(), disks=[rig.disk()])
    made = await rig.driver.ensure_running(plan)
    before = rig.identity(plan.server_id)
    await rig.driver.close()
    await rig.reopen()
    assert await rig.driver.guests() == [made]
    assert rig.identity(plan.server_id) == before
    assert await rig.driver.ensure_running(plan) == made
    assert rig.identity(plan.server_id) == before


@pytest.mark.parametrize(
    "name", ["ensure_running", "ensure_absent", "start", "stop", "reboot", "attach_disk", "detach_disk", "nics"]
)
async def test_every_method_may_be_cut_off_and_repeated(rig: Rig, name: str) -> None:
    """The caller dies at several moments of a method; a new agent repeats it and finds or finishes the work."""
    disk, nic, other = rig.disk(), rig.nic(), rig.nic()
    plan = msgspec.structs.replace(rig.plan(), disks=[disk], nics=[nic])
    server, extra = plan.server_id, rig.disk()

    async def swap_nics(driver: Hypervisor) -> None:
        await driver.attach_nic(server, other)
        await driver.detach_nic(server, nic.mac)

    running = GuestState(server, 1, PowerState.RUNNING, [disk.serial], [nic.mac], bases(plan))
    off = msgspec.structs.replace(running, power_state=PowerState.SHUTDOWN)
    cases: dict[str, tuple[bool, Callable[[Hypervisor], Awaitable[object]], list[GuestState]]] = {
        "ensure_running": (False, lambda driver: driver.ensure_running(plan), [running]),
        "ensure_absent": (True, lambda driver: driver.ensure_absent(server), []),
        "start": (False, lambda driver: driver.start(server), [running]),
        "stop": (True, lambda driver: driver.stop(server, grace=0), [off]),
        "reboot": (True, lambda driver: driver.reboot(server, hard=True, grace=0), [running]),
        "attach_disk": (
            True,
            lambda driver: driver.attach_disk(server, extra),
            [msgspec.structs.replace(running, disks=[disk.serial, extra.serial])],
        ),
        "detach_disk": (
            False,
            lambda driver: driver.detach_disk(server, disk.serial),
            [msgspec.structs.replace(off, disks=[])],
        ),
        "nics": (False, swap_nics, [msgspec.structs.replace(off, macs=[other.mac])]),
    }
    on, method, wanted = cases[name]
    for moment in (0.0, 0.01, 0.05, 0.3):
        await rig.driver.ensure_absent(server)
        if name != "ensure_running":
            await rig.driver.ensure_running(plan)
            if not on:
                await rig.driver.stop(server, grace=0)
        task = asyncio.ensure_future(method(rig.driver))
        await asyncio.wait({task}, timeout=moment)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await rig.reopen()
        await method(rig.driver)
        assert await rig.driver.guests() == wanted, f"cut off after {moment} s"
    await rig.driver.ensure_absent(server)
    assert rig.left_of(server) == []


# -- guests whose own system takes part -------------------------------------------------------


async def test_a_guest_that_powers_itself_off_is_reported(rig: Rig, listener: Listener) -> None:
    plan = rig.plan(bootable=True)
    await rig.driver.ensure_running(plan)
    await rig.until_up(plan.server_id)
    await rig.power_off_inside(plan.server_id)
    await listener.wait(GuestEvent(plan.server_id, PowerState.SHUTDOWN), 1)
    assert await power(rig.driver, plan.server_id) == PowerState.SHUTDOWN
    await rig.driver.start(plan.server_id)
    assert await power(rig.driver, plan.server_id) == PowerState.RUNNING
    assert len(listener.heard) == 1


async def test_devices_come_and_go_while_a_guest_runs(rig: Rig, listener: Listener) -> None:
    plan = msgspec.structs.replace(rig.plan(bootable=True), nics=[rig.nic()])
    made = await rig.driver.ensure_running(plan)
    await rig.until_up(plan.server_id)
    before = rig.identity(plan.server_id)
    disk, nic = rig.disk(), rig.nic()
    assert await rig.driver.attach_disk(plan.server_id, disk) == "/dev/vdb"
    await rig.driver.attach_nic(plan.server_id, nic)
    assert await rig.driver.guests() == [
        msgspec.structs.replace(made, disks=[disk.serial], macs=[plan.nics[0].mac, nic.mac])
    ]
    for _ in range(2):
        await rig.driver.detach_disk(plan.server_id, disk.serial)
        await rig.driver.detach_nic(plan.server_id, nic.mac)
    assert await rig.driver.guests() == [made]
    assert rig.identity(plan.server_id) == before
    assert listener.heard == []


async def test_a_soft_reboot_and_a_soft_stop(rig: Rig, listener: Listener) -> None:
    plan = rig.plan(bootable=True)
    await rig.driver.ensure_running(plan)
    await rig.until_up(plan.server_id)
    disk = rig.disk()
    await rig.driver.attach_disk(plan.server_id, disk)
    before = rig.identity(plan.server_id)
    await rig.driver.reboot(plan.server_id, hard=False, grace=60)
    assert rig.identity(plan.server_id) != before
    found = await state(rig.driver, plan.server_id)
    assert found is not None
    assert (found.power_state, found.disks) == (PowerState.RUNNING, [disk.serial])
    await rig.until_up(plan.server_id)
    begun = asyncio.get_running_loop().time()
    await rig.driver.stop(plan.server_id, grace=120)
    assert asyncio.get_running_loop().time() - begun < 60, "the guest heard the power button"
    assert listener.heard == []


async def test_the_console_log_has_the_guests_words(rig: Rig) -> None:
    plan = rig.plan(bootable=True)
    await rig.driver.ensure_running(plan)

    async def has_login() -> bool:
        return "login: " in await rig.driver.console_log(plan.server_id)

    await until(has_login, 120, "login")
    whole = await rig.driver.console_log(plan.server_id)
    assert whole.endswith(await rig.driver.console_log(plan.server_id, max_bytes=6))
    assert len(await rig.driver.console_log(plan.server_id, max_bytes=6)) == 6
    assert await rig.driver.console_log(plan.server_id, max_bytes=0) == ""

# SPDX-License-Identifier: Apache-2.0
"""After a reboot of the host its guests are what the records say: those that ran run again, the others stay off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from cumulet.compute.drivers.model import PowerState
from cumulet.compute.drivers.simulated import SimulatedHypervisor
from cumulet.compute.models import SERVERS
from tests.services.insight.furnished import Rig, furnished


def _host(rig: Rig) -> SimulatedHypervisor:
    agent: Any = rig.role("compute", "compute-agent")
    driver: SimulatedHypervisor = agent.tools.hypervisor
    return driver


async def _reported(rig: Rig) -> None:
    """The host tells what it has, and does what it is told then."""
    role = next(one for one in rig.cloud.cloud.services["compute"].roles if one.name == "compute-agent")
    agent, reports = role.tasks[:2]
    await reports.run_once()  # type: ignore[attr-defined]
    for coming in list(agent.comebacks._tasks.values()):  # type: ignore[attr-defined]
        await coming


async def _age(rig: Rig) -> None:
    """The server's last change was a while ago."""
    await rig.change("compute", SERVERS.update().values(updated_at=SERVERS.c.updated_at - 60))


async def _server(rig: Rig) -> dict[str, Any]:
    found: dict[str, Any] = (await rig.call("GET", f"/compute/v2.1/servers/{rig.server}"))["server"]
    return found


async def _act(rig: Rig, action: str, status: str) -> None:
    await rig.call("POST", f"/compute/v2.1/servers/{rig.server}/action", {action: None})
    await rig.until(f"/compute/v2.1/servers/{rig.server}", lambda told: told["server"]["status"] == status)


async def test_guests_that_ran_are_started_with_their_host(tmp_path: Path) -> None:
    async with furnished(tmp_path) as rig:
        await _reported(rig)
        (before,) = await _host(rig).guests()
        _host(rig).lose_power()
        await _reported(rig)
        assert await _host(rig).guests() == [before]
        assert (await _server(rig))["status"] == "ACTIVE"
        await rig.clean()


async def test_a_guest_that_its_host_forgot_is_made_again(tmp_path: Path) -> None:
    async with furnished(tmp_path) as rig:
        await _reported(rig)
        (before,) = await _host(rig).guests()
        assert before.disks == [rig.volume]
        await _age(rig)
        _host(rig).lose_power(forgetful=True)
        await _reported(rig)
        (after,) = await _host(rig).guests()
        assert msgspec.structs.replace(after, bases=before.bases) == before  # a real disk says what it stands on
        assert (await _server(rig))["status"] == "ACTIVE"
        await rig.clean()


async def test_a_stopped_guest_stays_off_and_can_be_started(tmp_path: Path) -> None:
    async with furnished(tmp_path) as rig:
        await _act(rig, "os-stop", "SHUTOFF")
        await _reported(rig)
        for forgetful in (False, True):
            await _age(rig)
            _host(rig).lose_power(forgetful=forgetful)
            await _reported(rig)
            (guest,) = await _host(rig).guests()
            assert guest.power_state == PowerState.SHUTDOWN
            assert (await _server(rig))["status"] == "SHUTOFF"
        await _act(rig, "os-start", "ACTIVE")
        await rig.clean()


async def test_a_guest_that_went_off_by_itself_unwatched_stays_off(tmp_path: Path) -> None:
    async with furnished(tmp_path) as rig:
        await _reported(rig)
        await _off_by_itself(rig)


async def _off_by_itself(rig: Rig) -> None:
    """Its user powers the guest off from inside while nobody watches: it stays off."""
    _host(rig)._listeners.clear()  # the agent was away: no event
    _host(rig).power_off_inside(rig.server)
    await _reported(rig)
    assert (await _server(rig))["status"] == "SHUTOFF"
    assert (await _host(rig).guests())[0].power_state == PowerState.SHUTDOWN


async def test_what_came_back_with_its_host_is_started_once(tmp_path: Path) -> None:
    """The boot of the host is no reason any more once the guest ran after it."""
    async with furnished(tmp_path) as rig:
        await _reported(rig)
        _host(rig).lose_power()
        await _reported(rig)
        assert (await _host(rig).guests())[0].power_state == PowerState.RUNNING
        await _reported(rig)
        await _off_by_itself(rig)


async def test_a_guest_older_than_the_first_note_of_a_boot_stays_off(tmp_path: Path) -> None:
    """As after an upgrade from a version that kept no boot: no host rebooted."""
    async with furnished(tmp_path) as rig:
        await _age(rig)
        await _reported(rig)
        await _off_by_itself(rig)
        updated = (await _server(rig))["updated"]
        await _age(rig)
        await _reported(rig)
        shown = await _server(rig)
        await _reported(rig)
        assert (shown["status"], (await _server(rig))["updated"]) == ("SHUTOFF", shown["updated"])
        assert shown["updated"] >= updated


async def test_a_stop_that_was_accepted_meanwhile_is_not_undone(tmp_path: Path) -> None:
    """Guests of a whole host come back a few at a time: who waits may be stopped, deleted or busy by then."""
    async with furnished(tmp_path) as rig:
        await _reported(rig)
        agent: Any = rig.role("compute", "compute-agent")
        places = agent.comebacks._places
        taken = 0
        while not places.locked():
            await places.acquire()
            taken += 1
        _host(rig).lose_power()
        reports = next(one for one in rig.cloud.cloud.services["compute"].roles if one.name == "compute-agent").tasks[1]
        await reports.run_once()  # type: ignore[attr-defined]
        (coming,) = agent.comebacks._tasks.values()
        await _act(rig, "os-stop", "SHUTOFF")
        for _ in range(taken):
            places.release()
        await coming
        assert (await _host(rig).guests())[0].power_state == PowerState.SHUTDOWN
        await _reported(rig)
        assert (await _server(rig))["status"] == "SHUTOFF"


async def test_a_guest_without_its_disk_is_an_error_with_the_reason(tmp_path: Path) -> None:
    async with furnished(tmp_path) as rig:
        await _reported(rig)
        await _age(rig)
        await rig.change("compute", SERVERS.update().values(config_drive=True))
        host = _host(rig)
        host.knobs = msgspec.structs.replace(host.knobs, loses_disks=True)
        host.lose_power(forgetful=True)
        await _reported(rig)
        shown = await _server(rig)
        assert shown["status"] == "ERROR"
        assert shown["fault"]["message"] == "The guest was lost on node-1: its disk is not on the host any more"
        assert await host.guests() == []
        agent: Any = rig.role("compute", "compute-agent")
        assert list(agent.tools.drives.iterdir()) == []
        await rig.call("DELETE", f"/compute/v2.1/servers/{rig.server}")
        await rig.until(f"/compute/v2.1/servers/{rig.server}", lambda told: told is None)
        await rig.clean()


async def _swept(rig: Rig) -> list[str]:
    """The images that are left in the host's cache when all of them are old."""
    role = next(one for one in rig.cloud.cloud.services["compute"].roles if one.name == "compute-agent")
    agent: Any = role.tasks[0]
    images = agent.tools.drives.parent / "images"
    for path in images.iterdir():
        os.utime(path, (0, 0))
    await role.tasks[2].run_once()  # type: ignore[attr-defined]
    return [path.name for path in images.iterdir()]


async def test_images_stay_for_a_disk_whose_guest_may_come_back_and_for_nothing_else(tmp_path: Path) -> None:
    async with furnished(tmp_path) as rig:
        agent: Any = rig.role("compute", "compute-agent")
        _host(rig).lose_power(forgetful=True)
        mine = agent.tools.drives.parent / "guests" / rig.server
        mine.mkdir(parents=True)
        (mine / "root.1.qcow2").touch()
        assert len(await _swept(rig)) == 1
        (mine / "root.1.qcow2").rename(mine / "console.log")
        (agent.tools.drives / f"{rig.server}.iso").touch()
        assert await _swept(rig) == []


async def test_a_volume_that_is_just_leaving_does_not_come_back(tmp_path: Path) -> None:
    async with furnished(tmp_path) as rig:
        await _reported(rig)
        await _age(rig)
        await rig.call("POST", f"/volume/v3/volumes/{rig.volume}/action", {"os-begin_detaching": {}})
        _host(rig).lose_power(forgetful=True)
        await _reported(rig)
        (guest,) = await _host(rig).guests()
        assert guest.disks == []

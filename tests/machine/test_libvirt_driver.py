# SPDX-License-Identifier: Apache-2.0
"""What only real guests can show: who runs QEMU, what the guest sees, and what a dead or hung libvirtd does.

Needs root (taps, a libvirtd of its own); the driver itself is also tried without any right.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from cumulet.compute.drivers import configdrive, probe
from cumulet.compute.drivers.libvirt import LibvirtHypervisor
from cumulet.compute.drivers.libvirtd import StartLibvirtd, StopLibvirtd, start_libvirtd, stop_libvirtd
from cumulet.compute.drivers.model import HypervisorError, LocalDisk, PowerState
from cumulet.kernel.host import DirectHost, HostError
from tests.conformance.hypervisor_rigs import GUEST_GID, GUEST_UID, ROOT, LibvirtRig, Listener, until

pytestmark = pytest.mark.machine
AGENT_UID = 1  # any user but root and the guest user


@pytest.fixture
async def rig() -> AsyncIterator[LibvirtRig]:
    found = LibvirtRig()
    await found.driver.open()
    yield found
    await found.close()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


async def test_a_guest_sees_what_its_plan_says(rig: LibvirtRig) -> None:
    metadata = {"uuid": "u-1", "hostname": "tiny.example", "public_keys": {"mine": "ssh-ed25519 AAAA me\n"}}
    drive = rig.directory / "config.iso"
    files = {
        "openstack/latest/meta_data.json": json.dumps(metadata).encode(),
        "openstack/latest/user_data": b"#!/bin/sh\necho said-by-user-data\n",
        "openstack/latest/vendor_data.json": b"{}",
        "ec2/latest/meta-data.json": b"{}",
    }
    configdrive.write(drive, files, gid=GUEST_GID)
    plan = msgspec.structs.replace(rig.plan(bootable=True), vcpus=2, nics=[rig.nic()], config_drive=str(drive))
    await rig.driver.ensure_running(plan)
    server = plan.server_id
    (pid,) = rig.pids(server)
    assert status(pid)["Uid"].split() == [str(GUEST_UID)] * 4
    assert int(status(pid)["CapEff"], 16) == 0
    await rig.until_up(server)
    disk = rig.disk()
    assert await rig.driver.attach_disk(server, disk) == "/dev/vdb"

    said = await rig.type(
        server,
        "grep -c ^processor /proc/cpuinfo",
        "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu",
        "cat /home/cirros/.ssh/authorized_keys; hostname",
        "cat /sys/block/vdb/size /sys/block/vdb/serial; echo",
        "df -m / | tail -n 1",
        "cat /sys/class/dmi/id/product_name",
    )
    lines = [line.strip() for line in said.replace("\x1b[6n", "").splitlines()]
    for wanted in (
        "2",
        plan.nics[0].mac,
        "1450",
        "ssh-ed25519 AAAA me",
        "tiny",
        "65536",
        disk.serial[:20],
        "OpenStack Nova",
    ):
        assert wanted in lines, said
    (root,) = [line for line in lines if line.startswith("/dev/vda")]
    assert int(root.split()[1]) > 900, "the root file system fills the disk"
    assert "said-by-user-data" in await rig.driver.console_log(server)

    await rig.driver.detach_disk(server, disk.serial)
    assert "gone" in await rig.type(server, "ls /sys/block/vdb || echo gone")


async def test_a_guest_finds_extra_space_and_swap(rig: LibvirtRig) -> None:
    local = [LocalDisk("ephemeral0", 64), LocalDisk("swap", 32, "swap")]
    plan = msgspec.structs.replace(rig.plan(bootable=True), local_disks=local)
    state = await rig.driver.ensure_running(plan)
    assert state.bases == [plan.root.base if plan.root is not None else None]
    await rig.until_up(plan.server_id)
    said = await rig.type(
        plan.server_id,
        "cat /sys/block/vdb/size /sys/block/vdc/size",
        "sudo dd if=/dev/vdc bs=1 skip=4086 count=10 2>/dev/null; echo",
        "sudo dd if=/dev/vdb bs=1 skip=1144 count=10 2>/dev/null; echo",
        "sudo mount /dev/vdb /mnt && grep -c vdb /proc/mounts",
    )
    lines = [line.strip() for line in said.replace("\x1b[6n", "").splitlines()]
    for wanted in ("131072", "65536", "SWAPSPACE2", "ephemeral0"):
        assert wanted in lines, said
    assert "1" in lines, said


async def test_a_disk_that_is_too_small_is_refused_and_leaves_nothing(rig: LibvirtRig) -> None:
    plan = rig.plan()
    big = rig.directory / "big.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(big), "3G"], check=True)
    assert plan.root is not None
    root = msgspec.structs.replace(plan.root, base=str(big), base_format="qcow2", size_gib=2)
    with pytest.raises(HypervisorError, match="smaller than the image") as refused:
        await rig.driver.ensure_running(msgspec.structs.replace(plan, root=root))
    assert str(rig.directory) not in str(refused.value)
    await rig.driver.ensure_absent(plan.server_id)
    assert rig.left_of(plan.server_id) == []


async def test_a_refusal_of_qemu_is_told_without_paths(rig: LibvirtRig) -> None:
    plan = msgspec.structs.replace(rig.plan(), disks=[msgspec.structs.replace(rig.disk(), path="/nowhere/secret-name")])
    with pytest.raises(HypervisorError) as refused:
        await rig.driver.ensure_running(plan)
    assert "secret-name" not in str(refused.value)
    await rig.driver.ensure_absent(plan.server_id)
    assert rig.left_of(plan.server_id) == []


async def test_two_clouds_on_one_libvirt_do_not_see_each_other(rig: LibvirtRig) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    other = rig.new_driver(cloud="cloud-2")
    await other.open()
    try:
        assert await other.guests() == []
        for call in (other.ensure_absent(plan.server_id), other.ensure_running(plan)):
            with pytest.raises(HypervisorError, match="another system"):
                await call
    finally:
        await other.close()
    assert [guest.server_id for guest in await rig.driver.guests()] == [plan.server_id]


# -- libvirtd ---------------------------------------------------------------------------------


async def test_libvirtd_is_adopted_and_has_no_rights(rig: LibvirtRig) -> None:
    again = start_libvirtd(rig.libvirtd)
    assert again == msgspec.structs.replace(rig.info, adopted=True)
    assert status(again.pid)["Uid"].split() == [str(GUEST_UID)] * 4
    assert int(status(again.pid)["CapEff"], 16) == 0
    listening = subprocess.run(["ss", "-Hltnp"], check=True, capture_output=True, text=True).stdout
    assert f"pid={again.pid}," not in listening


async def test_guests_and_driver_survive_the_end_of_libvirtd(rig: LibvirtRig) -> None:
    stays, dies = rig.plan(), rig.plan()
    for plan in (stays, dies):
        await rig.driver.ensure_running(plan)
    before = rig.identity(stays.server_id)
    listener = Listener(rig.driver)
    await asyncio.sleep(0)
    stop_libvirtd(StopLibvirtd(rig.libvirtd.directory))
    assert rig.identity(stays.server_id) == before
    rig.crash_inside(dies.server_id)
    with pytest.raises(HypervisorError):
        await rig.driver.guests()
    restarted = start_libvirtd(rig.libvirtd)
    assert restarted.pid != rig.info.pid

    async def has_heard() -> bool:
        return bool(listener.heard)

    await until(has_heard, 20, "what happened while libvirtd was away")
    assert listener.heard[0].server_id == dies.server_id
    assert listener.heard[0].power_state in (PowerState.SHUTDOWN, PowerState.CRASHED)
    found = {guest.server_id: guest.power_state for guest in await rig.driver.guests()}
    assert found[stays.server_id] == PowerState.RUNNING
    assert rig.identity(stays.server_id) == before
    await listener.close()


async def test_guests_are_known_after_a_reboot_of_the_host(rig: LibvirtRig) -> None:
    plan = msgspec.structs.replace(rig.plan(), disks=[rig.disk()])
    made = await rig.driver.ensure_running(plan)
    await rig.driver.close()
    stop_libvirtd(StopLibvirtd(rig.libvirtd.directory))
    rig.crash_inside(plan.server_id)
    record = Path(rig.libvirtd.directory, "libvirtd.json")
    # What a power failure leaves: the record of another boot, and run-time files that are no longer true.
    record.write_text(json.dumps({"pid": os.getpid(), "started": 1, "boot": "another"}))
    rig.info = start_libvirtd(rig.libvirtd)
    await rig.reopen()
    (found,) = await rig.driver.guests()
    assert found == msgspec.structs.replace(made, power_state=found.power_state)
    assert found.power_state in (PowerState.SHUTDOWN, PowerState.CRASHED)
    await rig.driver.start(plan.server_id)
    assert await rig.driver.guests() == [made]


async def test_a_libvirtd_that_hangs_costs_an_error_and_nothing_else(rig: LibvirtRig) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    await rig.driver.close()
    driver = rig.driver = LibvirtHypervisor(
        rig.info.uri,
        rig.directory / "state",
        accelerator="tcg",
        guest_uid=GUEST_UID,
        guest_gid=GUEST_GID,
        cloud_id="cloud-1",
        log_dir=rig.info.log_dir,
        answer_within=1,
    )
    await driver.open()
    os.kill(rig.info.pid, signal.SIGSTOP)
    try:
        begun = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(driver.guests() for _ in range(20)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {HypervisorError}
        assert asyncio.get_running_loop().time() - begun < 3, "nobody waits longer than the deadline"
    finally:
        os.kill(rig.info.pid, signal.SIGCONT)

    async def answers_again() -> bool:
        try:
            return [guest.server_id for guest in await driver.guests()] == [plan.server_id]
        except HypervisorError:
            return False

    await until(answers_again, 20, "libvirtd answers again")


async def test_the_privileged_parent_says_why_libvirtd_can_not_start(tmp_path: Path) -> None:
    name = "cumulet.compute.drivers.libvirtd:start_libvirtd"
    host = DirectHost({name: name})
    deep = StartLibvirtd(str(tmp_path / ("x" * 60)), GUEST_UID, GUEST_GID)
    with pytest.raises(HostError, match="at most 40 characters"):
        await host.call(start_libvirtd, deep)
    assert not Path(deep.directory).exists()
    host.close()


# -- the agent dies ---------------------------------------------------------------------------

AGENT = """
    import asyncio, os, sys
    import msgspec
    from cumulet.compute.drivers.libvirt import LibvirtHypervisor
    from cumulet.compute.drivers.model import GuestPlan

    async def main():
        uri, state, method, uid, gid = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
        plan = msgspec.json.decode(sys.stdin.read(), type=GuestPlan)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        user = {"guest_uid": 65534, "guest_gid": gid}
        driver = LibvirtHypervisor(uri, state, accelerator="tcg", cloud_id="cloud-1", log_dir=sys.argv[6], **user)
        await driver.open()
        print("open", flush=True)
        if method == "ensure_running":
            await driver.ensure_running(plan)
        elif method == "stop":
            await driver.stop(plan.server_id, grace=0)
        else:
            await driver.ensure_absent(plan.server_id)
        print("done", flush=True)
        await driver.close()

    asyncio.run(main())
"""


async def test_an_agent_without_rights_may_be_killed_at_any_moment(rig: LibvirtRig, tmp_path: Path) -> None:
    """The agent runs as a user of its own, is killed with -9 inside a method, and its successor repeats it."""
    program = rig.directory / "agent.py"
    program.write_text(textwrap.dedent(AGENT))
    state = rig.directory / "agent"
    state.mkdir()
    os.chown(state, AGENT_UID, GUEST_GID)
    state.chmod(0o750)
    plan = msgspec.structs.replace(rig.plan(bootable=True), nics=[rig.nic()])

    async def agent(method: str, killed_after: float | None) -> str:
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                str(program),
                rig.info.uri,
                str(state),
                method,
                str(AGENT_UID),
                str(GUEST_GID),
                rig.info.log_dir,
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(plan))
        process.stdin.close()
        assert (await process.stdout.readline()).strip() == b"open"
        if killed_after is not None:
            await asyncio.sleep(killed_after)
            with contextlib.suppress(ProcessLookupError):  # it was quicker
                process.kill()
        said = await process.stdout.read()
        await process.wait()
        return said.decode().strip()

    for moment in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
        await agent("ensure_running", moment)
        assert await agent("ensure_running", None) == "done"
        (pid,) = rig.pids(plan.server_id)
        assert status(pid)["Uid"].split()[0] == str(GUEST_UID)
        await agent("ensure_absent", moment)
        assert await agent("ensure_absent", None) == "done"
        assert rig.left_of(plan.server_id) == [], f"killed after {moment} s"
    shutil.rmtree(state)


# -- KVM --------------------------------------------------------------------------------------


def test_the_probe_runs_to_its_end_and_a_broken_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = probe.ProbeAccelerator(uid=GUEST_UID, gid=GUEST_GID, seconds=20)
    assert probe.runs_long_mode("tcg", wanted)
    assert probe.probe_accelerator(probe.ProbeAccelerator()) in ("kvm", "tcg")
    # The same ROM with its last word, the way into long mode's work, cut short never says that it is done.
    whole = probe.rom()
    monkeypatch.setattr(probe, "rom", lambda: whole.replace(b"\xb8\x31\x00\x00\x00", b"\xb8\x30\x00\x00\x00"))
    assert probe.rom() != whole
    assert not probe.runs_long_mode("tcg", msgspec.structs.replace(wanted, seconds=3))


def test_the_shipped_rom_is_its_source(tmp_path: Path) -> None:
    source = Path(probe.__file__).with_name("kvmprobe.S")
    subprocess.run(["as", "--64", "-o", str(tmp_path / "o"), str(source)], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", str(tmp_path / "o"), str(tmp_path / "rom")], check=True)
    assert (tmp_path / "rom").read_bytes() == probe.rom()


def test_an_agent_on_a_host_without_libvirtd_is_told_so(tmp_path: Path) -> None:
    driver = LibvirtHypervisor(
        f"qemu+unix:///session?socket={tmp_path}/none",
        tmp_path,
        accelerator="tcg",
        guest_uid=GUEST_UID,
        guest_gid=GUEST_GID,
        cloud_id=str(uuid.uuid4()),
    )
    with pytest.raises(HypervisorError, match="is libvirtd running"):
        asyncio.run(driver.open())

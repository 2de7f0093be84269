# SPDX-License-Identifier: Apache-2.0
"""Copies of root disks, for every driver: whole, of one moment, standing on nothing, the guest undisturbed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cumulet.compute.drivers.model import DiskCopies, HypervisorError, PowerState, RootDisk
from tests.conformance.hypervisor_rigs import LibvirtRig, Rig, is_missing, until

GIB = 1 << 30


def disks(rig: Rig) -> DiskCopies:
    return rig.driver  # type: ignore[return-value]


def described(path: Path, format_: str) -> dict[str, Any]:
    """What the copy says of itself."""
    if format_ == "raw":
        return {"virtual-size": path.stat().st_size}
    told = subprocess.run(
        ["qemu-img", "info", "-f", format_, "--output=json", str(path)], check=True, capture_output=True
    )  # fmt: skip
    found: dict[str, Any] = json.loads(told.stdout)
    return found


async def test_a_running_guest_goes_on_and_its_copy_is_whole(rig: Rig) -> None:
    plan = msgspec.structs.replace(rig.plan(), disks=[rig.disk()])
    await rig.driver.ensure_running(plan)
    before = rig.identity(plan.server_id)
    for _ in range(2):
        target = rig.target()
        told = described(target, await disks(rig).copy_root(plan.server_id, str(target)))
        assert told["virtual-size"] == GIB
        assert "backing-filename" not in told
    assert rig.identity(plan.server_id) == before
    assert (await rig.driver.guests())[0].power_state == PowerState.RUNNING
    await rig.driver.reboot(plan.server_id, hard=True, grace=0)  # nothing holds it any more


async def test_a_guest_that_is_off(rig: Rig) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    await rig.driver.stop(plan.server_id, grace=0)
    target = rig.target()
    assert described(target, await disks(rig).copy_root(plan.server_id, str(target)))["virtual-size"] == GIB


async def test_what_has_no_disk_of_its_own(rig: Rig) -> None:
    missing = str(uuid.uuid4())
    await is_missing(disks(rig).copy_root(missing, str(rig.target())))
    plan = msgspec.structs.replace(rig.plan(), root=None, disks=[rig.disk()])
    await rig.driver.ensure_running(plan)
    with pytest.raises(HypervisorError, match="no root disk of its own"):
        await disks(rig).copy_root(plan.server_id, str(rig.target()))


async def test_a_copy_that_is_given_up_leaves_the_guest_free(rig: Rig) -> None:
    plan = rig.plan()
    await rig.driver.ensure_running(plan)
    given_up = rig.target()
    copying = asyncio.ensure_future(disks(rig).copy_root(plan.server_id, str(given_up)))

    async def has_begun() -> bool:
        return given_up.exists() or copying.done()

    await until(has_begun, 60, "the copy has begun")
    copying.cancel()
    await asyncio.gather(copying, return_exceptions=True)
    target = rig.target()
    assert described(target, await disks(rig).copy_root(plan.server_id, str(target)))["virtual-size"] == GIB
    await rig.driver.ensure_absent(plan.server_id)
    assert rig.left_of(plan.server_id) == []


def written_by(rig: LibvirtRig, server_id: str, target: Path) -> bool:
    """Whether the guest's QEMU has the file open."""
    open_files = [file for pid in rig.pids(server_id) for file in Path(f"/proc/{pid}/fd").iterdir()]
    return any(os.path.realpath(file).startswith(str(target)) for file in open_files)


@pytest.mark.machine
@pytest.mark.parametrize("moment", ["it begins", "it goes on", "the process died"])
async def test_qemu_goes_on_with_no_copy_that_nobody_waits_for(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cumulet.compute.drivers.libvirt import guest

    rig = LibvirtRig()
    await rig.driver.open()
    begun, go = threading.Event(), threading.Event()
    begin = guest.begin_copy

    def held(domain: Any, file: str) -> None:
        begun.set()
        assert go.wait(60)
        begin(domain, file)

    async def is_copying() -> bool:
        return written_by(rig, plan.server_id, target) and target.stat().st_size > 4 << 20

    async def has_let_go() -> bool:
        return not written_by(rig, plan.server_id, target)

    async def has_begun() -> bool:
        return begun.is_set()

    monkeypatch.setattr(guest, "begin_copy", held)
    try:
        full = rig.directory / "full.raw"
        with full.open("wb") as file:
            for _ in range(1024):
                file.write(os.urandom(1 << 20))
        full.chmod(0o644)
        plan = msgspec.structs.replace(rig.plan(), root=RootDisk(str(full), "raw", 1))
        await rig.driver.ensure_running(plan)
        target = rig.target()
        copying = asyncio.ensure_future(disks(rig).copy_root(plan.server_id, str(target)))
        await until(has_begun, 60, "the copy begins")
        if moment == "it begins":
            copying.cancel()
            await asyncio.sleep(0)
            go.set()
        else:
            go.set()
            await until(is_copying, 60, "the copy goes on")
            if moment == "the process died":  # it says nothing to libvirt any more
                monkeypatch.setattr(guest, "end_copy", lambda _domain: None)
            copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)
        if moment == "the process died":
            assert await is_copying()
            monkeypatch.undo()
            await rig.reopen()
        await until(has_let_go, 20, "QEMU lets go of the copy")
    finally:
        await rig.close()


@pytest.mark.machine
async def test_what_a_real_guest_wrote_is_in_the_copy() -> None:
    rig = LibvirtRig()
    await rig.driver.open()
    try:
        plan = rig.plan(bootable=True)
        await rig.driver.ensure_running(plan)
        await rig.until_up(plan.server_id)
        place = GIB // 512 - 8
        write = f"echo written-by-the-guest | sudo dd of=/dev/vda bs=512 seek={place} conv=fsync,notrunc"
        await rig.type(plan.server_id, write)
        target = rig.target()
        assert await disks(rig).copy_root(plan.server_id, str(target)) == "qcow2"
        raw = target.with_suffix(".raw")
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(target), str(raw)], check=True)
        with raw.open("rb") as file:
            file.seek(place * 512)
            assert file.read(21) == b"written-by-the-guest\n"
    finally:
        await rig.close()

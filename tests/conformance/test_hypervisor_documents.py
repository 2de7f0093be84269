# SPDX-License-Identifier: Apache-2.0
"""What the libvirt driver writes: domain documents, config drives, guests' files. Needs no hypervisor."""

from __future__ import annotations

import dataclasses
import io
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from lxml import etree

from cumulet.compute.drivers import configdrive
from cumulet.compute.drivers.libvirt import domain as doc
from cumulet.compute.drivers.libvirt.connection import reason
from cumulet.compute.drivers.libvirt.storage import KEEP_LOG_BYTES, Storage
from cumulet.compute.drivers.model import GuestDisk, GuestNic, GuestPlan, HypervisorError, LocalDisk, RootDisk

SERVER = str(uuid.UUID(int=7))
TCG = doc.Machine(cloud="cloud-1", accelerator="tcg", tb_cache_mib=48, label=None)
FILES = doc.Files("/g/root.1.qcow2", "/cache/base", "/g/console.log", "/g/serial", "/g/vnc", "/g/agent")
PLAN = GuestPlan(SERVER, 1, "name", "project", 2, 512, RootDisk("/cache/base", "raw", 5))
TEXT = some.text(alphabet=some.characters(codec=None), max_size=400)


def domain(plan: GuestPlan = PLAN, machine: doc.Machine = TCG) -> Any:
    return etree.fromstring(doc.domain_xml(plan, machine, FILES))


@given(name=TEXT, project=TEXT)
def test_any_text_stays_text(name: str, project: str) -> None:
    found = domain(msgspec.structs.replace(PLAN, name=name, project_id=project))
    plain = domain()
    assert [child.tag for child in found if child.tag != "title"] == [
        child.tag for child in plain if child.tag != "title"
    ]
    assert "\n" not in (found.findtext("title") or "")
    assert doc.read_tag(etree.tostring(found.find("metadata")[0], encoding="unicode")) == doc.Tag("cloud-1", SERVER, 1)


@pytest.mark.parametrize("server_id", ["", "../../etc", "x" * 36, f"{SERVER}\n", "<a/>"])
def test_only_a_uuid_names_a_guest(server_id: str) -> None:
    with pytest.raises(HypervisorError, match="not a UUID"):
        doc.domain_name(server_id)


def test_every_backing_chain_is_stated_and_ends() -> None:
    disks = [GuestDisk("v-1", "/v/1", "qcow2"), GuestDisk("v-2", "/v/2", "raw", read_only=True)]
    found = domain(msgspec.structs.replace(PLAN, disks=disks, config_drive="/g/config"))
    assert [disk.find("driver").get("type") for disk in found.iterfind("devices/disk")] == [
        "qcow2",
        "qcow2",
        "raw",
        "raw",
    ]
    for disk in found.iterfind("devices/disk"):
        last = disk.find("backingStore")
        while last.find("backingStore") is not None:
            assert last.find("format").get("type") in doc.FORMATS
            last = last.find("backingStore")
        assert len(last) == 0
        assert last.attrib == {}
    assert [disk.get("device") for disk in found.iterfind("devices/disk")] == ["disk", "disk", "disk", "cdrom"]
    assert [disk.find("target").get("dev") for disk in found.iterfind("devices/disk")] == ["vda", "vdb", "vdc", "sda"]
    assert [disk.find("readonly") is not None for disk in found.iterfind("devices/disk")] == [False, False, True, True]
    assert [device.key for device in doc.read_disks(etree.tostring(found).decode())] == ["v-1", "v-2"]


LOCAL = [LocalDisk("ephemeral0", 64), LocalDisk("swap", 32, "swap")]


@pytest.mark.parametrize("boots_from_volume", [False, True])
def test_local_disks_come_after_the_one_that_boots(boots_from_volume: bool) -> None:
    volume = GuestDisk("v-1", "/v/1", "raw")
    plan = msgspec.structs.replace(PLAN, disks=[volume], local_disks=LOCAL)
    files = dataclasses.replace(FILES, local=("/g/local-ephemeral0.1.raw", "/g/local-swap.1.raw"))
    if boots_from_volume:
        plan = msgspec.structs.replace(plan, root=None, disks=[volume, GuestDisk("v-2", "/v/2", "raw")])
        files = dataclasses.replace(files, root=None, base=None)
    text = doc.domain_xml(plan, TCG, files)
    disks = list(etree.fromstring(text).iterfind("devices/disk"))
    assert [disk.xpath("string(target/@dev)") for disk in disks] == ["vda", "vdb", "vdc", "vdd"]
    assert [disk.xpath("string(source/@file)") for disk in disks[1:3]] == list(files.local)
    assert {disk.xpath("string(driver/@type)") for disk in disks[1:3]} == {"raw"}
    assert [disk.find("boot") is not None for disk in disks] == [True, False, False, False]
    assert [one.key for one in doc.read_disks(text)] == (["v-1", "v-2"] if boots_from_volume else ["v-1"])
    assert doc.read_bases(text) == ([] if boots_from_volume else ["/cache/base"])


@pytest.mark.parametrize("format", ["vmdk", "qcow2,backing=/etc/shadow", "", "RAW"])
def test_only_known_formats_are_opened(format: str) -> None:
    with pytest.raises(HypervisorError, match="is not one of"):
        domain(msgspec.structs.replace(PLAN, disks=[GuestDisk("s", "/v", format)]))


def test_a_tap_is_taken_as_it_is_and_ports_are_spare() -> None:
    found = domain(msgspec.structs.replace(PLAN, nics=[GuestNic("p", "fa:16:3e:00:00:01", "tap0", 1400)]))
    nic = found.find("devices/interface")
    assert (nic.get("type"), nic.find("target").get("managed"), nic.find("mtu").get("size")) == (
        "ethernet",
        "no",
        "1400",
    )
    controllers = [(each.get("type"), each.get("model")) for each in found.iterfind("devices/controller")]
    assert controllers.index(("pci", "pcie-root")) < controllers.index(("pci", "pcie-root-port"))
    taken = 6  # root disk, NIC, virtio serial, balloon, random, and one to spare
    assert controllers.count(("pci", "pcie-root-port")) >= doc.SPARE_PORTS + taken - 1


def test_kvm_and_tcg_and_a_privileged_libvirt() -> None:
    tcg, kvm = domain(), domain(machine=doc.Machine("c", "kvm", 48, "+64055:+64055"))
    assert (tcg.get("type"), tcg.findtext("features/tcg/tb-cache"), tcg.find("seclabel")) == ("qemu", "48", None)
    assert (kvm.get("type"), kvm.find("features/tcg")) == ("kvm", None)
    assert (kvm.find("seclabel").get("relabel"), kvm.findtext("seclabel/label")) == ("no", "+64055:+64055")
    assert [tcg.findtext(f"on_{event}") for event in ("poweroff", "reboot", "crash")] == [
        "destroy",
        "restart",
        "destroy",
    ]


def test_reasons_carry_no_paths() -> None:
    text = """qemu: -blockdev {"driver":"file","filename":"/x/y"}: Could not open '/g/r.1': Permission denied\nmore"""
    told = reason(RuntimeError(text))
    assert "Permission denied" in told
    assert "/" not in told
    assert "more" not in told


# -- config drives ----------------------------------------------------------------------------


def read_iso(image: bytes) -> dict[str, bytes]:
    """The files of the Rock Ridge tree, and a check that the Joliet tree has the same."""
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(image))
    trees = []
    for facade in (iso.get_rock_ridge_facade(), iso.get_joliet_facade()):
        found: dict[str, bytes] = {}
        todo = ["/"]
        while todo:
            folder = todo.pop()
            for child in facade.list_children(folder):
                if child.is_dot() or child.is_dotdot():
                    continue
                rock = (
                    child.rock_ridge.name().decode()
                    if child.rock_ridge
                    else child.file_identifier().decode("utf-16_be")
                )
                path = f"{folder.rstrip('/')}/{rock}"
                if child.is_dir():
                    todo.append(path)
                else:
                    content = io.BytesIO()
                    facade.get_file_from_iso_fp(content, path)
                    found[path[1:]] = content.getvalue()
        trees.append(found)
    iso.close()
    assert trees[0] == trees[1]
    return trees[0]


def test_a_config_drive_holds_what_it_is_given(tmp_path: Path) -> None:
    files = {
        "openstack/latest/meta_data.json": b'{"uuid": "x"}',
        "openstack/latest/user_data": bytes(range(256)) * 256,
        "openstack/latest/vendor_data.json": b"",
        "openstack/2018-08-27/network_data.json": b"{}",
        "openstack/content/0000": b"injected",
        "ec2/latest/meta-data.json": b"{}",
    }
    target = tmp_path / "config.iso"
    for _ in range(2):
        configdrive.write(target, files, gid=os.getegid())
    image = target.read_bytes()
    assert image[32808:32840].decode().strip() == configdrive.LABEL
    assert read_iso(image) == files
    assert target.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["config.iso"]


@pytest.mark.parametrize("path", ["", "/etc/passwd", "a//b", "../x", "a/./b", "a/"])
def test_a_config_drive_takes_relative_paths_only(path: str) -> None:
    with pytest.raises(ValueError, match="not a relative path"):
        configdrive.build({path: b""})


# -- guests' files ----------------------------------------------------------------------------


@pytest.fixture
def short_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cm") as name:
        yield Path(name)


def test_old_console_text_gives_its_space_back_and_the_tail_stays(short_path: Path) -> None:
    storage = Storage(short_path, os.getegid())
    storage.open()
    files, missing = storage.prepare(msgspec.structs.replace(PLAN, root=None))
    assert missing == []
    with open(files.console, "ab", buffering=0) as guest:
        line = b"x" * 99 + b"\n"
        for _ in range(3):
            guest.write(line * (3 * KEEP_LOG_BYTES // 100))
            storage.trim_logs()
            assert os.stat(files.console).st_blocks * 512 <= KEEP_LOG_BYTES + (64 << 10)
        guest.write(b"the last words")
        assert storage.tail(SERVER, 20) == "xxxxx\nthe last words"
        whole = storage.tail(SERVER, 100 << 20)
        assert "\0" not in whole
        assert len(whole) >= KEEP_LOG_BYTES
    storage.remove(SERVER)
    storage.remove(SERVER)
    assert storage.tail(SERVER, 10) == ""


def test_a_link_in_place_of_a_console_log_is_not_followed(short_path: Path) -> None:
    storage = Storage(short_path, os.getegid())
    storage.open()
    files, _ = storage.prepare(msgspec.structs.replace(PLAN, root=None))
    (short_path / "secret").write_text("secret")
    os.unlink(files.console)
    os.symlink(short_path / "secret", files.console)
    with pytest.raises(OSError, match="symbolic"):
        storage.tail(SERVER, 100)
    with pytest.raises(OSError, match="symbolic"):
        storage.prepare(msgspec.structs.replace(PLAN, root=None))


def test_what_an_earlier_attempt_left_is_not_taken(short_path: Path) -> None:
    storage = Storage(short_path, os.getegid())
    storage.open()
    files, _ = storage.prepare(PLAN)
    assert files.root is not None
    Path(files.root).touch()
    assert storage.prepare(PLAN) == (files, [])
    newer, missing = storage.prepare(msgspec.structs.replace(PLAN, attempt=2))
    assert missing == [newer.root]
    assert newer.root != files.root
    assert not Path(files.root).exists()


async def test_local_disks_are_made_with_what_is_wanted_on_them(short_path: Path) -> None:
    storage = Storage(short_path, os.getegid())
    storage.open()
    fat = LocalDisk("ephemeral1", 40, "vfat")
    plan = msgspec.structs.replace(PLAN, root=None, local_disks=[*LOCAL, fat])
    files, missing = storage.prepare(plan)
    assert missing == list(files.local)
    await storage.make_disks(plan, files, missing)
    ephemeral, swap, second = (Path(path) for path in files.local)
    assert [path.stat().st_size >> 20 for path in (ephemeral, swap, second)] == [64, 32, 40]
    assert sum(path.stat().st_blocks for path in (ephemeral, swap, second)) * 512 < 16 << 20  # empty takes no room
    assert {path.stat().st_mode & 0o777 for path in (ephemeral, swap, second)} == {0o660}
    assert ephemeral.read_bytes()[1080:1082] == b"\x53\xef"
    assert ephemeral.read_bytes()[1144:1154] == b"ephemeral0"
    assert swap.read_bytes()[4086:4096] == b"SWAPSPACE2"
    assert second.read_bytes()[510:512] == b"\x55\xaa"
    before = ephemeral.stat().st_ino
    files, missing = storage.prepare(plan)
    assert missing == []
    await storage.make_disks(plan, files, missing)
    assert ephemeral.stat().st_ino == before
    storage.prepare(msgspec.structs.replace(plan, attempt=2))
    assert not any(path.exists() for path in (ephemeral, swap, second))


@pytest.mark.parametrize(
    ("disk", "told"),
    [
        (LocalDisk("../../etc", 1), "letters and digits"),
        (LocalDisk("-n", 1), "letters and digits"),
        (LocalDisk("ephemeral0", 1, "ntfs; reboot"), "must be one of"),
        (LocalDisk("ephemeral0", 1 << 40), "has no room"),
    ],
)
async def test_a_local_disk_that_can_not_be_is_refused(short_path: Path, disk: LocalDisk, told: str) -> None:
    storage = Storage(short_path, os.getegid())
    storage.open()
    plan = msgspec.structs.replace(PLAN, root=None, local_disks=[disk])
    with pytest.raises(HypervisorError, match=told):
        await storage.make_disks(plan, *storage.prepare(plan))


def test_a_state_directory_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HypervisorError, match="too long"):
        Storage(tmp_path / ("x" * 90), os.getegid()).open()

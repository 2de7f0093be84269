# SPDX-License-Identifier: Apache-2.0
"""The domain document: built from a guest's plan, and read back from libvirt.

Invariants: every text from outside goes through the XML library, never through
string formatting; every image format is stated and every backing chain ends
explicitly, so QEMU never probes content that a tenant wrote; and the document
carries who made it (cloud, server, attempt), so foreign domains are never touched.

Source of the elements: libvirt's domain XML reference (formatdomain).
"""

from __future__ import annotations

import re
import string
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from lxml import etree

from cumulet.compute.drivers.model import GuestDisk, GuestNic, GuestPlan, HypervisorError

NAMESPACE = "urn:cumulet:guest:1"
SPARE_PORTS = 12
"""Free PCI Express ports of a new guest: that many disks and NICs can be added while it runs."""
FORMATS = ("raw", "qcow2")
_VIRTIO_NAMES = [f"vd{letter}" for letter in string.ascii_lowercase]
_NOT_XML = re.compile("[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")


@dataclass(frozen=True)
class Machine:
    """What this host adds to every plan."""

    cloud: str
    """Id of the cloud; domains with another one are foreign."""
    accelerator: str
    """``kvm`` or ``tcg``."""
    tb_cache_mib: int
    """Bound of TCG's cache of translated code; QEMU's own default is up to 1 GiB per guest."""
    label: str | None
    """``+uid:+gid`` that a privileged libvirtd gives QEMU; None where libvirtd already runs as that user."""


@dataclass(frozen=True)
class Tag:
    """Our mark in a domain's metadata."""

    cloud: str
    server_id: str
    attempt: int


@dataclass(frozen=True)
class Device:
    """A disk (``key`` is its serial) or a NIC (``key`` is its MAC) as a domain has it."""

    key: str
    alias: str
    target: str


@dataclass(frozen=True)
class Files:
    """Where a guest's own files are; all of them below one directory."""

    root: str | None
    base: str | None
    console: str
    serial: str
    vnc: str
    agent: str
    local: tuple[str, ...] = ()
    """Its local disks, in the order of the plan."""


def domain_uuid(server_id: str) -> str:
    """The domain's UUID is the server's id; raises HypervisorError where that is none."""
    try:
        return str(uuid.UUID(server_id))
    except ValueError:
        raise HypervisorError("the server's id is not a UUID") from None


def domain_name(server_id: str) -> str:
    return f"cumulet-{domain_uuid(server_id)}"


def printable(text: str, limit: int = 200) -> str:
    """``text`` as one line that XML can hold."""
    return " ".join(_NOT_XML.sub(" ", text).split())[:limit]


def domain_xml(plan: GuestPlan, machine: Machine, files: Files) -> str:
    """The whole domain of ``plan``; the same arguments always give the same text."""
    domain = etree.Element("domain", type="kvm" if machine.accelerator == "kvm" else "qemu")
    _add(domain, "name", domain_name(plan.server_id))
    _add(domain, "uuid", domain_uuid(plan.server_id))
    if title := printable(plan.name):
        _add(domain, "title", title)
    tag = etree.SubElement(_add(domain, "metadata"), f"{{{NAMESPACE}}}guest", nsmap={"cumulet": NAMESPACE})
    tag.set("cloud", machine.cloud)
    tag.set("server", plan.server_id)
    tag.set("attempt", str(plan.attempt))
    tag.set("project", printable(plan.project_id))
    _add(domain, "memory", str(plan.memory_mib), unit="MiB")
    _add(domain, "vcpu", str(plan.vcpus))
    _add_platform(domain, plan, machine)
    devices = _add(domain, "devices")
    _add(devices, "controller", type="usb", model="none")
    _add(devices, "controller", type="pci", model="pcie-root", index="0")
    if plan.config_drive is not None or any(disk.cdrom for disk in plan.disks):
        _add(devices, "controller", type="scsi", model="virtio-scsi")
    fixed = 4  # virtio serial, balloon, random, SCSI
    for _ in range(SPARE_PORTS + fixed + 1 + len(plan.disks) + len(plan.local_disks) + len(plan.nics)):
        _add(devices, "controller", type="pci", model="pcie-root-port")
    _add_disks(devices, plan, files)
    for nic in plan.nics:
        devices.append(nic_element(nic))
    _add_consoles(devices, files)
    if machine.label is not None:
        label = _add(domain, "seclabel", type="static", model="dac", relabel="no")
        _add(label, "label", machine.label)
    return etree.tostring(domain, encoding="unicode")


def _add_platform(domain: etree._Element, plan: GuestPlan, machine: Machine) -> None:
    system = _add(_add(domain, "sysinfo", type="smbios"), "system")
    # cloud-init recognises an OpenStack guest by this product name
    for name, value in (("manufacturer", "Cumulet"), ("product", "OpenStack Nova"), ("family", "Virtual Machine")):
        _add(system, "entry", value, name=name)
    _add(system, "entry", domain_uuid(plan.server_id), name="uuid")
    os = _add(domain, "os")
    _add(os, "type", "hvm", arch="x86_64", machine="q35")
    _add(os, "smbios", mode="sysinfo")
    features = _add(domain, "features")
    _add(features, "acpi")
    _add(features, "apic")
    if machine.accelerator == "kvm":
        _add(domain, "cpu", mode="host-model", check="partial")
    else:
        _add(_add(features, "tcg"), "tb-cache", str(machine.tb_cache_mib), unit="MiB")
        _add(domain, "cpu", mode="maximum")
    timers = _add(domain, "clock", offset="utc")
    _add(timers, "timer", name="pit", tickpolicy="delay")
    _add(timers, "timer", name="rtc", tickpolicy="catchup")
    _add(timers, "timer", name="hpet", present="no")
    # A guest that powers itself off stays off and is reported; only the agent decides what is next.
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _add(domain, event, action)


def _add_disks(devices: etree._Element, plan: GuestPlan, files: Files) -> None:
    if plan.root is not None:
        assert files.root is not None
        disk = _add(devices, "disk", type="file", device="disk")
        _add(disk, "driver", name="qemu", type="qcow2", cache="writeback", discard="unmap")
        _add(disk, "source", file=files.root)
        if files.base is None:
            _add(disk, "backingStore")
        else:
            backing = _add(disk, "backingStore", type="file")
            _add(backing, "format", type=_known_format(plan.root.base_format))
            _add(backing, "source", file=files.base)
            _add(backing, "backingStore")
        _add(disk, "target", dev="vda", bus="virtio")
        _add(disk, "boot", order="1")
    used = {"vda"} if plan.root is not None else set()
    booting = 0 if plan.root is not None else 1
    for entry in plan.disks[:booting]:
        element = disk_element(entry, used)
        _add(element, "boot", order="1")
        devices.append(element)
    for path in files.local:
        disk = _add(devices, "disk", type="file", device="disk")
        _add(disk, "driver", name="qemu", type="raw", cache="writeback", discard="unmap")
        _add(disk, "source", file=path)
        _add(disk, "backingStore")
        _add(disk, "target", dev=_take(_VIRTIO_NAMES, None, used), bus="virtio")
    for entry in plan.disks[booting:]:
        devices.append(disk_element(entry, used))
    if plan.config_drive is not None:
        drive = GuestDisk(serial="config-drive", path=plan.config_drive, format="raw", cdrom=True, read_only=True)
        devices.append(disk_element(drive, used))


def _add_consoles(devices: etree._Element, files: Files) -> None:
    serial = _add(devices, "serial", type="unix")
    _add(serial, "source", mode="bind", path=files.serial)
    _add(serial, "log", file=files.console, append="on")
    _add(serial, "target", port="0")
    channel = _add(devices, "channel", type="unix")
    _add(channel, "source", mode="bind", path=files.agent)
    _add(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    _add(devices, "graphics", type="vnc", socket=files.vnc)
    _add(_add(devices, "video"), "model", type="vga")
    _add(devices, "memballoon", model="virtio")
    _add(_add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")


def disk_element(disk: GuestDisk, used: set[str]) -> etree._Element:
    """A disk of the plan or one to plug in; takes a free target name and adds it to ``used``.

    CD-ROMs sit on virtio SCSI, because kernels made for clouds know no SATA, and keep the disks' names as they are.
    """
    element = etree.Element("disk", type="file", device="cdrom" if disk.cdrom else "disk")
    options = {"name": "qemu", "type": _known_format(disk.format), "cache": "writeback"}
    _add(element, "driver", **options if disk.cdrom else {**options, "discard": "unmap"})
    _add(element, "source", file=disk.path)
    _add(element, "backingStore")
    if disk.cdrom:
        target, bus = _take([f"sd{letter}" for letter in "abcdef"], None, used), "scsi"
    else:
        target, bus = _take(_VIRTIO_NAMES, disk.device, used), "virtio"
    _add(element, "target", dev=target, bus=bus)
    if disk.read_only or disk.cdrom:
        _add(element, "readonly")
    _add(element, "serial", printable(disk.serial))
    return element


def nic_element(nic: GuestNic) -> etree._Element:
    """A NIC on the tap as it is: libvirt neither makes, raises, addresses nor removes it."""
    element = etree.Element("interface", type="ethernet")
    _add(element, "mac", address=nic.mac)
    _add(element, "target", dev=nic.tap, managed="no")
    _add(element, "model", type="virtio")
    if nic.mtu:
        _add(element, "mtu", size=str(nic.mtu))
    return element


def to_text(element: etree._Element) -> str:
    return etree.tostring(element, encoding="unicode")


def read_tag(text: str) -> Tag:
    """Our metadata element as libvirt returns it."""
    element = _parse(text)
    return Tag(element.get("cloud", ""), element.get("server", ""), int(element.get("attempt", "0")))


def read_disks(text: str) -> list[Device]:
    """Disks of a domain document that came from a plan's ``disks`` or were plugged in later."""
    found = []
    for disk in _parse(text).iterfind("devices/disk"):
        serial = disk.findtext("serial")
        if serial and serial != "config-drive":
            found.append(Device(serial, _attribute(disk, "alias", "name"), _attribute(disk, "target", "dev")))
    return found


def read_bases(text: str) -> list[str]:
    """The files on which the overlays of a domain document stand."""
    found = (element.get("file", "") for element in _parse(text).iterfind("devices/disk//backingStore/source"))
    return sorted({path for path in found if path})


def read_root(text: str) -> tuple[str, str, str | None] | None:
    """(target, file, file below it) of a guest's own root disk; None where it boots from a volume."""
    for disk in _parse(text).iterfind("devices/disk"):
        file = _attribute(disk, "source", "file")
        if PurePath(file).name.startswith("root.") and disk.findtext("serial") is None:
            base = disk.find("backingStore/source")
            return _attribute(disk, "target", "dev"), file, base.get("file") if base is not None else None
    return None


def copy_xml(target: str, others: Iterable[str], file: str) -> str:
    """What tells libvirt to copy the disk ``target`` to ``file``, and no other (formatbackup)."""
    document = etree.Element("domainbackup", mode="push")
    disks = _add(document, "disks")
    for name in sorted(set(others) - {target}):
        _add(disks, "disk", name=name, backup="no")
    disk = _add(disks, "disk", name=target, backup="yes", type="file")
    _add(disk, "target", file=file)
    _add(disk, "driver", type="qcow2")
    return to_text(document)


def read_targets(text: str) -> set[str]:
    """All disk target names that are taken in a domain document."""
    return {_attribute(disk, "target", "dev") for disk in _parse(text).iterfind("devices/disk")}


def read_nics(text: str) -> list[Device]:
    found = []
    for nic in _parse(text).iterfind("devices/interface"):
        mac = _attribute(nic, "mac", "address").lower()
        found.append(Device(mac, _attribute(nic, "alias", "name"), _attribute(nic, "target", "dev")))
    return found


def read_device(text: str, kind: str, key: str) -> str:
    """The XML of one disk (by serial) or interface (by MAC), to be handed back to libvirt."""
    tag, child, attribute = ("disk", "serial", None) if kind == "disk" else ("interface", "mac", "address")
    for element in _parse(text).iterfind(f"devices/{tag}"):
        value = element.findtext(child) if attribute is None else _attribute(element, child, attribute).lower()
        if value == key:
            return to_text(element)
    raise LookupError(key)


def read_size(text: str) -> tuple[int, int]:
    """(vCPUs, memory in MiB) of a domain document, whose memory libvirt states in KiB."""
    root = _parse(text)
    return int(root.findtext("vcpu") or 0), int(root.findtext("memory") or 0) // 1024


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise HypervisorError(f"disk format {printable(name, 20)!r} is not one of {', '.join(FORMATS)}")
    return name


def _take(names: list[str], wished: str | None, used: set[str]) -> str:
    wish = wished.removeprefix("/dev/") if wished else ""
    for name in ([wish] if wish in names else []) + names:
        if name not in used:
            used.add(name)
            return name
    raise HypervisorError("the server has no free place for one more disk")


def _attribute(element: etree._Element, child: str, name: str) -> str:
    found = element.find(child)
    return found.get(name, "") if found is not None else ""


def _parse(text: str) -> etree._Element:
    return etree.fromstring(text, etree.XMLParser(resolve_entities=False, no_network=True))


def _add(parent: etree._Element, name: str, text: str | None = None, /, **attributes: str) -> etree._Element:
    element = etree.SubElement(parent, name, attributes)
    element.text = text
    return element

# SPDX-License-Identifier: Apache-2.0
"""What is done to one domain. Plain functions that run on the connection's threads.

Invariant: each of them looks first and then closes the gap, so any may be run
again; and none touches a domain without our mark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import libvirt
from lxml import etree

from cumulet.compute.drivers.libvirt import domain as doc
from cumulet.compute.drivers.model import GuestMissing, GuestState, HypervisorError, PowerState

T = TypeVar("T")

_POWER = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.SHUTDOWN,  # the guest is off, its QEMU is about to end
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.SHUTDOWN,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.SUSPENDED,
}
_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


def read_tag(domain: libvirt.virDomain) -> doc.Tag | None:
    """Who made the domain, or None where it is somebody else's altogether."""
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, doc.NAMESPACE, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise
    return doc.read_tag(text)


def each(conn: libvirt.virConnect, cloud: str, read: Callable[[libvirt.virDomain, doc.Tag], T]) -> list[T]:
    """``read`` of every domain of this cloud; those that go away meanwhile are left out."""
    found = []
    for domain in conn.listAllDomains(0):
        try:
            tag = read_tag(domain)
            if tag is not None and tag.cloud == cloud:
                found.append(read(domain, tag))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    return found


def find(conn: libvirt.virConnect, cloud: str, server_id: str) -> tuple[libvirt.virDomain, doc.Tag] | None:
    """The server's domain and its mark, or None; raises HypervisorError where the id is a foreign domain's."""
    try:
        domain = conn.lookupByUUIDString(doc.domain_uuid(server_id))
        tag = read_tag(domain)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    if tag is None or tag.cloud != cloud:
        raise HypervisorError("this host has a guest with the server's id that another system made")
    return domain, tag


def need(conn: libvirt.virConnect, cloud: str, server_id: str) -> libvirt.virDomain:
    """The server's domain; raises GuestMissing."""
    found = find(conn, cloud, server_id)
    if found is None:
        raise GuestMissing(server_id)
    return found[0]


def power(domain: libvirt.virDomain) -> PowerState:
    state, why = domain.state()
    if state == libvirt.VIR_DOMAIN_SHUTOFF and why == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED:
        return PowerState.CRASHED
    return _POWER.get(state, PowerState.NOSTATE)


def state(domain: libvirt.virDomain, tag: doc.Tag) -> GuestState:
    text = domain.XMLDesc(0)
    return GuestState(
        server_id=tag.server_id,
        attempt=tag.attempt,
        power_state=power(domain),
        disks=[disk.key for disk in doc.read_disks(text)],
        macs=[nic.key for nic in doc.read_nics(text)],
        bases=doc.read_bases(text),
    )


def switch_on(domain: libvirt.virDomain) -> None:
    """Start the guest, or let it go on when QEMU holds it (a full disk, a half-finished start)."""
    now = power(domain)
    try:
        if now == PowerState.PAUSED:
            domain.resume()
        elif now in (PowerState.SHUTDOWN, PowerState.CRASHED):
            cut_power(domain)  # the last QEMU may not have ended yet
            domain.create()
    except libvirt.libvirtError:
        if power(domain) != PowerState.RUNNING:  # else a start whose caller died has just come to its end
            raise


def taps(domain: libvirt.virDomain) -> list[str]:
    """The links on this host that the guest's NICs are on."""
    return [nic.target for nic in doc.read_nics(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))]


def is_off(domain: libvirt.virDomain) -> bool:
    return power(domain) in (PowerState.SHUTDOWN, PowerState.CRASHED)


def press_power_button(domain: libvirt.virDomain) -> bool:
    """Ask the guest to power off; returns False when it is off already."""
    if is_off(domain):
        return False
    try:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    except libvirt.libvirtError:
        if not is_off(domain):
            raise
    return True


def cut_power(domain: libvirt.virDomain) -> None:
    """End QEMU, which flushes its disks; off already is success."""
    if not domain.isActive():
        return
    try:
        domain.destroy()
    except libvirt.libvirtError:
        if domain.isActive():
            raise


def erase(domain: libvirt.virDomain) -> None:
    """Stop and undefine."""
    cut_power(domain)
    try:
        domain.undefineFlags(_UNDEFINE)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def _documents(domain: libvirt.virDomain) -> list[tuple[int, str]]:
    """The (flag, text) pairs in which a device must be: the definition, and the running guest if there is one."""
    found = [(libvirt.VIR_DOMAIN_AFFECT_CONFIG, domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))]
    if domain.isActive():
        found.append((libvirt.VIR_DOMAIN_AFFECT_LIVE, domain.XMLDesc(0)))
    return found


_READ = {"disk": doc.read_disks, "interface": doc.read_nics}


def _have(kind: str, key: str, text: str) -> doc.Device | None:
    return next((device for device in _READ[kind](text) if device.key == key), None)


def plug(domain: libvirt.virDomain, kind: str, key: str, make: Callable[[str | None, set[str]], etree._Element]) -> str:
    """Plug a device in wherever it is missing; returns its target name.

    ``make(wish, used)`` builds the element, under the target name ``wish`` where one half of the work was done before.
    """
    while True:
        documents = _documents(domain)
        halves = [device for _, text in documents if (device := _have(kind, key, text)) is not None]
        used = {name for _, text in documents for name in doc.read_targets(text)}
        wish = halves[0].target if halves else None
        element = make(wish, used - {wish} if wish else used)
        try:
            for flag, text in documents:
                if _have(kind, key, text) is None:
                    domain.attachDeviceFlags(doc.to_text(element), flag)
        except libvirt.libvirtError:
            if _documents(domain) == documents:
                raise
            continue  # a request whose caller died has been carried out meanwhile: look again
        target = element.find("target")
        assert target is not None
        return str(target.get("dev"))


def ask_unplug(domain: libvirt.virDomain, kind: str, key: str) -> bool:
    """Ask the running guest to let go of a device; returns True when it has none such (any more)."""
    device = None if not domain.isActive() else _have(kind, key, domain.XMLDesc(0))
    if device is None:
        return True
    try:
        domain.detachDeviceAlias(device.alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        # an earlier request is pending, the guest has just stopped, or it is not ready for one yet: look again
        return bool(error.get_error_code() == libvirt.VIR_ERR_DEVICE_MISSING)
    return False


def is_unplugged(domain: libvirt.virDomain, kind: str, key: str) -> bool:
    return not domain.isActive() or _have(kind, key, domain.XMLDesc(0)) is None


def forget_device(domain: libvirt.virDomain, kind: str, key: str) -> None:
    """Take a device out of the definition."""
    text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    if _have(kind, key, text) is None:
        return
    try:
        domain.detachDeviceFlags(doc.read_device(text, kind, key), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    except libvirt.libvirtError:
        if _have(kind, key, domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) is not None:
            raise


# ---- copies of the root disk

_OPERATION, _TYPE = "operation", "type"


def need_root(domain: libvirt.virDomain) -> tuple[str, str, str | None]:
    """(target, file, file below it) of the root disk; raises HypervisorError where the guest has none of its own."""
    found = doc.read_root(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    if found is None:
        raise HypervisorError("the server has no root disk of its own")
    return found


def begin_copy(domain: libvirt.virDomain, file: str) -> None:
    """Have QEMU copy the root disk, as it is now, into the empty qcow2 ``file``."""
    target, _, _ = need_root(domain)
    document = doc.copy_xml(target, doc.read_targets(domain.XMLDesc(0)), file)
    domain.backupBegin(document, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)


def copy_ended(domain: libvirt.virDomain) -> bool | None:
    """None while a copy goes on; then whether it is whole. Told once: libvirt forgets it."""
    if domain.isActive() and domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    told = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    wanted = (libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP, libvirt.VIR_DOMAIN_JOB_COMPLETED)
    return (told.get(_OPERATION), told.get(_TYPE)) == wanted


def end_copy(domain: libvirt.virDomain) -> None:
    """Nothing copies the guest's disk any more."""
    if not domain.isActive() or domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE:
        return
    if domain.jobStats().get(_OPERATION) == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
        try:
            domain.abortJob()
        except libvirt.libvirtError:
            if domain.isActive() and domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
                raise

# SPDX-License-Identifier: Apache-2.0
"""What the compute agent and a hypervisor driver say to each other.

The agent owns the decisions (which disk, which tap, which attempt); a driver
owns one machine's hypervisor and nothing else. Every method says *ensure*: it
may be repeated after a crash at any point and then finds its own work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import IntEnum
from typing import Protocol

import msgspec


class PowerState(IntEnum):
    """Power states as the Compute API publishes them (OS-EXT-STS:power_state)."""

    NOSTATE = 0
    RUNNING = 1
    PAUSED = 3
    SHUTDOWN = 4
    CRASHED = 6
    SUSPENDED = 7


class Capabilities(msgspec.Struct, frozen=True):
    """What this driver can do; the agent asks before it tries."""

    kind: str
    """hypervisor_type as published, e.g. ``QEMU``, ``KVM`` or ``simulated``."""
    accelerator: str
    """``kvm``, ``tcg`` or ``none``."""
    real: bool
    """Whether guests are real machines (disks and taps are then really opened)."""
    hotplug_disks: bool = True
    hotplug_nics: bool = True


class HostResources(msgspec.Struct, frozen=True):
    """True capacity of the host, as reported to placement and in os-hypervisors."""

    hostname: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    hypervisor_version: int
    cpu_info: str
    vcpus_used: int = 0
    memory_mib_used: int = 0
    disk_gib_used: int = 0
    disk_gib_free: int = 0
    running_guests: int = 0
    uptime: str = ""
    """As ``uptime(1)`` says it."""
    boot: str = ""
    """Another text after each boot of the host; empty where it is not known."""


class RootDisk(msgspec.Struct, frozen=True):
    """The local root disk that the driver makes from a cached image.

    ``base`` is the absolute path of a file in the host's image cache (already
    verified and of the stated format), or None for an empty disk.
    """

    base: str | None
    base_format: str
    size_gib: int
    """Virtual size of the disk in GiB; 0 keeps the size of the image."""


class LocalDisk(msgspec.Struct, frozen=True):
    """A disk of the host's own beside the root disk; it lives and goes with the guest, empty but for its format."""

    name: str
    """``ephemeral0`` … or ``swap``; also the label of what is on it."""
    size_mib: int
    format: str = "ext4"
    """A file system of ``FORMATS_INSIDE``, or ``swap``."""


FORMATS_INSIDE = ("ext2", "ext3", "ext4", "vfat", "swap")
"""What a local disk may be formatted with."""


class GuestDisk(msgspec.Struct, frozen=True):
    """A volume or a config drive, as QEMU will open it."""

    serial: str
    """At most 36 characters; the volume id. The disk is found again by it."""
    path: str
    format: str
    """``raw`` or ``qcow2``; never probed from the content."""
    device: str | None = None
    """Wished device name such as ``/dev/vdb``; None lets the driver choose."""
    cdrom: bool = False
    read_only: bool = False


class GuestNic(msgspec.Struct, frozen=True):
    """One virtual NIC on a persistent tap that the network agent made."""

    port_id: str
    mac: str
    tap: str
    mtu: int


class GuestPlan(msgspec.Struct, frozen=True):
    """A whole guest, complete: the same plan always gives the same guest."""

    server_id: str
    attempt: int
    name: str
    """Display name; shown in the domain's title and metadata only (hostile text)."""
    project_id: str
    vcpus: int
    memory_mib: int
    root: RootDisk | None
    """None when the server boots from the first entry of ``disks``."""
    disks: list[GuestDisk] = []
    nics: list[GuestNic] = []
    config_drive: str | None = None
    """Absolute path of an ISO 9660 image, or None."""
    local_disks: list[LocalDisk] = []
    """They come right after the disk that boots."""
    restored: bool = False
    """The guest was here before: its own disks are there, or it is lost (GuestLost); none is made anew, and the
    root disk's ``base`` is what the disk itself says."""
    run: bool = True
    """False: it is defined and stays off."""


class GuestState(msgspec.Struct, frozen=True):
    """What the hypervisor really has for a server."""

    server_id: str
    attempt: int
    power_state: PowerState
    disks: list[str] = []
    """Serials of the attached disks, the local root disk not among them."""
    macs: list[str] = []
    bases: list[str] = []
    """Absolute paths of the images that its local disks stand on: they must stay."""


class GuestEvent(msgspec.Struct, frozen=True):
    """A change that the guest made by itself (it powered off, it crashed)."""

    server_id: str
    power_state: PowerState


class GuestMissing(LookupError):
    """There is no such guest on this host; carries the server's id."""


class HypervisorError(RuntimeError):
    """The hypervisor refused; the text is fit for a server's fault (no paths, no secrets)."""


class GuestLost(HypervisorError):
    """What the guest kept on this host is not there any more."""


class Hypervisor(Protocol):
    """One host's hypervisor. At most 15 methods, all idempotent, none blocking the loop."""

    capabilities: Capabilities

    async def open(self) -> None:
        """Connect and recover what is there; raises HypervisorError with what to do."""

    async def close(self) -> None:
        """Let go of the connection. Guests go on running."""

    async def resources(self) -> HostResources: ...

    async def guests(self) -> list[GuestState]:
        """All guests that this cloud made on this host, running or not."""

    async def ensure_running(self, plan: GuestPlan) -> GuestState:
        """Make disks, define and start the guest; a guest that runs with this attempt stays as it is."""

    async def ensure_absent(self, server_id: str) -> None:
        """Stop and remove the guest, its local disks, logs and sockets; gone already is success."""

    async def start(self, server_id: str) -> None:
        """Power on a guest that is defined; raises GuestMissing."""

    async def stop(self, server_id: str, *, grace: float) -> None:
        """Ask the guest to power off, and cut power after ``grace`` seconds (0: at once)."""

    async def reboot(self, server_id: str, *, hard: bool, grace: float) -> None:
        """Restart the guest with its disks and NICs as they are now."""

    async def attach_disk(self, server_id: str, disk: GuestDisk) -> str:
        """Hot-plug; returns the device name in the guest (``/dev/vdb``). Attached already is success."""

    async def detach_disk(self, server_id: str, serial: str) -> None:
        """Unplug and wait until the guest let go; gone already is success."""

    async def attach_nic(self, server_id: str, nic: GuestNic) -> None: ...

    async def detach_nic(self, server_id: str, mac: str) -> None: ...

    async def console_log(self, server_id: str, *, max_bytes: int = 1 << 20) -> str:
        """The tail of the serial console's log as text."""

    def events(self) -> AsyncIterator[GuestEvent]:
        """Changes of power state that nobody here asked for, within a second."""


class DiskCopies(Protocol):
    """What every hypervisor offers besides: its guests' own disks, to take away."""

    async def copy_root(self, server_id: str, target: str) -> str:
        """Write the guest's local root disk as it is at one moment to the file ``target``; returns its format.

        The copy stands on no other file. The guest goes on running. ``target`` must not exist; its folder is one that
        QEMU may write to. After a failure or a cancellation nothing writes there any more (the file may be left).
        Raises GuestMissing, and HypervisorError for a guest without a root disk of its own.
        """

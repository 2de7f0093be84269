# SPDX-License-Identifier: Apache-2.0
"""rpc inside compute: conductor ↔ agents. An agent has no database; all it knows it asks for.

Every message about a build carries the attempt: the conductor refuses an
attempt that is not the current one, so a host that slept through a retry finds
every door closed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cumulet.compute.sagas.params import NetworkSlot
from cumulet.kernel.bus import Method
from cumulet.kernel.context import Context

CONDUCTOR = "compute.conductor"
AGENT = "compute.agent"


class Nothing(msgspec.Struct, frozen=True):
    """An answer that only says: done."""


# ---- to the conductor


class Fetch(msgspec.Struct, frozen=True):
    server_id: str
    attempt: int
    host: str


class BlockDevice(msgspec.Struct, frozen=True):
    """One requested block device, as the agent needs it."""

    id: str
    boot_index: int | None
    source_type: str
    destination_type: str
    volume_id: str | None
    image_id: str | None
    snapshot_id: str | None
    size_gib: int | None
    delete_on_termination: bool
    device_name: str | None
    attachment_id: str
    """Derived from server, volume and attempt; one attempt's own."""
    volume_type: str | None = None
    guest_format: str | None = None
    swap_mib: int | None = None


class ServerRecord(msgspec.Struct, frozen=True):
    """A server's data for the host that builds it."""

    server_id: str
    attempt: int
    project_id: str
    user_id: str
    name: str
    hostname: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    image_id: str | None
    availability_zone: str
    slots: list[NetworkSlot]
    security_groups: list[str]
    block_devices: list[BlockDevice]
    config_drive: bool
    caller: Context | None
    token: str | None
    """The user's token while it can be used; never written anywhere."""


class Progress(msgspec.Struct, frozen=True):
    """A host says what it is doing (task_state); refused when the attempt is not the current one."""

    server_id: str
    attempt: int
    host: str
    task_state: str | None = None


class Networked(msgspec.Struct, frozen=True):
    """A host has its ports; the record of the server's addresses is made now, for metadata and readers."""

    server_id: str
    attempt: int
    host: str
    port_ids: list[str]


class NeedVolume(msgspec.Struct, frozen=True):
    """A host builds: which volume is the server's device? It is made first where that was asked and not done."""

    server_id: str
    attempt: int
    host: str
    device_id: str


class NeededVolume(msgspec.Struct, frozen=True):
    volume_id: str
    """It may still be on its way."""


class Documents(msgspec.Struct, frozen=True):
    """Metadata documents by path, for the config drive (empty when it has none)."""

    documents: dict[str, bytes] = {}


class Built(msgspec.Struct, frozen=True):
    """The end of one build on one host."""

    server_id: str
    attempt: int
    host: str
    error: str | None = None
    step: str = ""
    """The flow step that failed."""
    retryable: bool = True
    devices: dict[str, dict[str, Any]] = {}
    """block device id → what became of it (volume_id, attachment_id, device_name)."""
    root_device: str | None = None


class GuestReport(msgspec.Struct, frozen=True):
    server_id: str
    power_state: int
    attempt: int


class Report(msgspec.Struct, frozen=True):
    """What a host truly has, at a steady interval and after each change."""

    host: str
    node: str
    """The resource provider's UUID."""
    zone: str
    hypervisor_hostname: str
    hypervisor_type: str
    hypervisor_version: int
    cpu_info: str
    host_ip: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    vcpus_used: int
    memory_mib_used: int
    disk_gib_used: int
    disk_gib_free: int
    running: int
    guests: list[GuestReport]
    started_at: float
    uptime: str | None = None
    boot: str = ""
    """Another text after each boot of the host; empty from an agent that does not know."""


class Verdict(msgspec.Struct, frozen=True):
    """What the records say about a host's guests."""

    remove: list[str] = []
    """Servers that should not be on this host: ensure their absence."""
    start: list[str] = []
    """Servers that should run and do not."""
    attempts: dict[str, int] = {}
    """Of those to remove that live elsewhere: the newest attempt that must go."""
    restore: list[str] = []
    """Servers that should have a guest on this host and have none."""


class Recall(msgspec.Struct, frozen=True):
    """A host asks what a guest was that it has no more."""

    server_id: str
    host: str


class Recalled(msgspec.Struct, frozen=True):
    """A server as it was at rest, with the NICs and volumes that it has now."""

    record: ServerRecord
    run: bool
    """Whether it ran."""
    documents: dict[str, bytes] = {}
    """Metadata documents by path, for the config drive (empty when it has none)."""


class Lost(msgspec.Struct, frozen=True):
    """A guest can't be brought back: what it kept on its host is gone."""

    server_id: str
    attempt: int
    host: str
    reason: str


class PowerChanged(msgspec.Struct, frozen=True):
    host: str
    server_id: str
    power_state: int


class ServerEvent(msgspec.Struct, frozen=True):
    """An external event about a server (``network-vif-plugged`` …), from the API."""

    server_id: str
    name: str
    status: str = "completed"
    tag: str | None = None


FETCH = Method(CONDUCTOR, "fetch", Fetch, ServerRecord)
NEED_VOLUME = Method(CONDUCTOR, "need_volume", NeedVolume, NeededVolume)
PROGRESS = Method(CONDUCTOR, "progress", Progress, Nothing)
NETWORKED = Method(CONDUCTOR, "networked", Networked, Documents)
BUILT = Method(CONDUCTOR, "built", Built, Nothing)
REPORT = Method(CONDUCTOR, "report", Report, Verdict)
POWER_CHANGED = Method(CONDUCTOR, "power_changed", PowerChanged, Nothing)
EVENT = Method(CONDUCTOR, "event", ServerEvent, Nothing)
RECALL = Method(CONDUCTOR, "recall", Recall, Recalled)
LOST = Method(CONDUCTOR, "lost", Lost, Nothing)


# ---- to an agent (addressed by host)


class Build(msgspec.Struct, frozen=True):
    server_id: str
    attempt: int


class EnsureAbsent(msgspec.Struct, frozen=True):
    """Nothing of a server may be left on the host: guest, disks, volumes' connections.

    ``attempt`` is the newest one that must go; 0 means any.
    """

    server_id: str
    attempt: int = 0


class Power(msgspec.Struct, frozen=True):
    server_id: str
    action: str
    """start, stop, reboot-soft or reboot-hard."""
    grace: float = 60.0


class PowerAnswer(msgspec.Struct, frozen=True):
    power_state: int


class PlugVolume(msgspec.Struct, frozen=True):
    server_id: str
    volume_id: str
    attachment_id: str
    device: str | None = None


class PlugAnswer(msgspec.Struct, frozen=True):
    device: str


class UnplugVolume(msgspec.Struct, frozen=True):
    server_id: str
    volume_id: str
    attachment_id: str


class PlugPort(msgspec.Struct, frozen=True):
    """Bind a port to this host, wait until it is wired, and plug it into the guest."""

    server_id: str
    slot: NetworkSlot
    project_id: str
    availability_zone: str
    security_groups: list[str] = []


class UnplugPort(msgspec.Struct, frozen=True):
    server_id: str
    port_id: str
    mac: str


class TakeSnapshot(msgspec.Struct, frozen=True):
    """Copy a server's root disk and give it to the image ``image_id`` as its data. Asked again, it tells how far it is.

    ``caller`` and ``token`` are who asked for it; the token is never written anywhere.
    """

    server_id: str
    image_id: str
    caller: Context | None
    token: str | None


class SnapshotAnswer(msgspec.Struct, frozen=True):
    """``phase`` is the server's task_state meanwhile; None: it is over, well or with an ``error``.

    ``format`` is the copy's once that is known: nothing is sent until the image's record says the same.
    """

    phase: str | None
    error: str | None = None
    format: str | None = None


class DropSnapshot(msgspec.Struct, frozen=True):
    """Nothing copies a server's disk, or sends a copy away, any more; its file is gone."""

    server_id: str


class ConsoleLog(msgspec.Struct, frozen=True):
    server_id: str
    max_bytes: int = 1 << 20


class Ask(msgspec.Struct, frozen=True):
    """What is there?"""


class GuestHeld(msgspec.Struct, frozen=True):
    """One guest that the hypervisor has."""

    server_id: str
    attempt: int
    power_state: int
    disks: list[str] = []
    """Ids of the volumes that are plugged in."""
    macs: list[str] = []


class Holding(msgspec.Struct, frozen=True):
    """What a host really has: its guests, and the ids of servers that have files on it."""

    guests: list[GuestHeld] = []
    files: list[str] = []
    copies: list[str] = []
    """Ids of servers with a copy of their disk that is on its way to an image."""


BUILD = Method(AGENT, "build", Build, Nothing)
ENSURE_ABSENT = Method(AGENT, "ensure_absent", EnsureAbsent, Nothing)
POWER = Method(AGENT, "power", Power, PowerAnswer)
PLUG_VOLUME = Method(AGENT, "plug_volume", PlugVolume, PlugAnswer)
UNPLUG_VOLUME = Method(AGENT, "unplug_volume", UnplugVolume, Nothing)
PLUG_PORT = Method(AGENT, "plug_port", PlugPort, Nothing)
UNPLUG_PORT = Method(AGENT, "unplug_port", UnplugPort, Nothing)
TAKE_SNAPSHOT = Method(AGENT, "take_snapshot", TakeSnapshot, SnapshotAnswer)
DROP_SNAPSHOT = Method(AGENT, "drop_snapshot", DropSnapshot, Nothing)
CONSOLE_LOG = Method(AGENT, "console_log", ConsoleLog, str)
AGENT_EVENT = Method(AGENT, "event", ServerEvent, Nothing)
HOLDING = Method(AGENT, "holding", Ask, Holding)

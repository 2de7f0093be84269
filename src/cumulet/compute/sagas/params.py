# SPDX-License-Identifier: Apache-2.0
"""What the compute sagas are started with: ids and decisions, all made before the first step."""

from __future__ import annotations

from typing import Any

import msgspec


class NetworkSlot(msgspec.Struct, frozen=True):
    """One requested NIC. Exactly one of ``port_id`` (the user's) and ``new_port_id`` (ours to make) is set."""

    network_id: str
    port_id: str | None = None
    new_port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


class CreateServer(msgspec.Struct, frozen=True):
    """Parameters of ``compute.create_server``; everything else stands in the server's own row."""

    server_id: str
    slots: list[NetworkSlot] = []
    security_groups: list[str] = []
    """Ids, resolved and allowed before the 202."""
    scheduler_hints: dict[str, Any] = {}
    availability_zone: str | None = None
    forced_host: str | None = None
    forced_node: str | None = None
    requested_destination: str | None = None


class DeleteServer(msgspec.Struct, frozen=True):
    server_id: str


class PowerServer(msgspec.Struct, frozen=True):
    """``action`` is start, stop, reboot-soft or reboot-hard."""

    server_id: str
    action: str


class VolumeSnapshot(msgspec.Struct, frozen=True):
    """A volume of a server that boots from one, and the snapshot that an image of the server names."""

    volume_id: str
    snapshot_id: str
    size_gib: int
    boot_index: int | None = None
    device_name: str | None = None
    disk_bus: str = "virtio"
    delete_on_termination: bool = False
    tag: str | None = None
    volume_type: str | None = None


class CreateImage(msgspec.Struct, frozen=True):
    """``volumes`` is empty for a server with a root disk of its own. Sizes in GiB and MiB."""

    server_id: str
    image_id: str
    name: str
    visibility: str
    min_disk: int
    min_ram: int
    properties: dict[str, str] = {}
    volumes: list[VolumeSnapshot] = []


class AttachVolume(msgspec.Struct, frozen=True):
    server_id: str
    volume_id: str
    attachment_id: str
    """The volume service's attachment, chosen by us."""
    block_device_id: str
    device: str | None = None
    delete_on_termination: bool = False


class DetachVolume(msgspec.Struct, frozen=True):
    server_id: str
    volume_id: str
    attachment_id: str
    block_device_id: str


class AttachInterface(msgspec.Struct, frozen=True):
    server_id: str
    slot: NetworkSlot
    security_groups: list[str] = []


class DetachInterface(msgspec.Struct, frozen=True):
    server_id: str
    port_id: str

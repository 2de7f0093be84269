# SPDX-License-Identifier: Apache-2.0
"""Steps 13 to 29: one build of one server on this host, as a list of ensure parts.

Each part may be repeated after a crash at any point and finds its own work.
Before each effect `fence` asks the conductor whether this attempt still counts.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from cumulet.client.image import ImageClient
from cumulet.client.network import NetworkClient, Port
from cumulet.client.volume import VolumeClient
from cumulet.compute.agent.images import CachedImage, ImageCache
from cumulet.compute.agent.wiring import Wiring
from cumulet.compute.drivers.model import DiskCopies, GuestDisk, GuestPlan, Hypervisor, LocalDisk, RootDisk
from cumulet.compute.rpc import (
    BUILT,
    FETCH,
    NEED_VOLUME,
    NETWORKED,
    PROGRESS,
    BlockDevice,
    Build,
    Built,
    Fetch,
    NeedVolume,
    Networked,
    Progress,
    ServerRecord,
)
from cumulet.kernel import clock, context, trace
from cumulet.kernel.bus import Bus
from cumulet.kernel.errors import Conflict, Fault, NotFound, Unavailable
from cumulet.kernel.pools import Pool
from cumulet.kernel.saga import Failed

_log = logging.getLogger(__name__)
PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Seconds before a part whose service or conductor is away is done again; then another host is tried."""
_MAKING_SECONDS = 200.0
"""How long the conductor may take to have a volume begun: longer than what it asks itself, so that none comes twice."""
VOLUME_SECONDS = 600.0
"""How long a volume that is made for the server may take."""


@dataclass
class Tools:
    """What a build works with on this host."""

    host: str
    bus: Bus
    image: ImageClient
    network: NetworkClient
    volume: VolumeClient
    cache: ImageCache
    wiring: Wiring
    hypervisor: Hypervisor
    files: Pool
    drives: Path
    """Where config drives are kept, one file per server."""
    gid: int | None
    disks: DiskCopies
    """The hypervisor again, as who copies its guests' disks."""
    copies: Path
    """Where those copies are while they are sent away, one file per server."""


@dataclass
class BuildRun:
    """One build: what it has gathered so far."""

    tools: Tools
    order: Build
    step: str = "compute.receive"
    record: ServerRecord | None = None
    image: CachedImage | None = None
    ports: list[Port] = field(default_factory=list)
    disks: list[GuestDisk] = field(default_factory=list)
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)

    @property
    def data(self) -> ServerRecord:
        assert self.record is not None
        return self.record

    async def run(self) -> Built:
        """The whole build; never raises but Conflict (this attempt counts no more) and cancellation."""
        told: dict[str, Any] = {
            "server_id": self.order.server_id,
            "attempt": self.order.attempt,
            "host": self.tools.host,
        }
        try:
            for part in (self._fetch, self._image, self._networks, self._volumes, self._guest):
                await _patiently(part)
        except Conflict as error:
            if error.kind == "StaleAttempt":
                raise
            return Built(**told, error=error.message, step=self.step, retryable=False)
        except Failed as error:
            return Built(**told, error=error.message, step=self.step, retryable=error.details.get("retryable", True))
        except Fault as error:
            # a bad request stays bad on the next host; a fault of a service may not
            return Built(**told, error=error.message, step=self.step, retryable=error.status >= 500)
        except Exception as error:
            return Built(**told, error=str(error) or type(error).__name__, step=self.step)
        return Built(**told, devices=self.devices, root_device=self._root_device())

    # ---- the parts

    async def _fetch(self) -> None:
        """Steps 14 to 19: the server's data, from the conductor, which alone has the database."""
        with trace.step("compute.fetch"):
            request = Fetch(self.order.server_id, self.order.attempt, self.tools.host)
            self.record = await self.tools.bus.call(FETCH, request)
        trace.record("compute.fetched")
        caller = self.record.caller
        if caller is not None:
            context.use(msgspec.structs.replace(caller, token=self.record.token, accepted=True))

    async def _image(self) -> None:
        """Steps 20 to 22: metadata, then the bits, once per host."""
        self.step = "image.request"
        if self.data.image_id is None:
            for name in ("image.request", "image.token.validate", "image.ready"):
                trace.record(name, skipped="boots from a volume")
            return
        with trace.step("image.request", image_id=self.data.image_id):
            image = await self.tools.image.image(self.data.image_id)
        self.step = "image.ready"
        with trace.step("image.ready", image_id=image.id, size=image.size) as detail:
            await self._fence(None)
            self.image = await self.tools.cache.ensure(image)
            detail["format"] = self.image.format
        if self.data.disk_gib and self.image.virtual_gib > self.data.disk_gib:
            raise Failed(
                f"The image needs a disk of {self.image.virtual_gib} GiB, the flavor has {self.data.disk_gib} GiB.",
                retryable=False,
            )

    async def _networks(self) -> None:
        """Steps 23 to 25: ports bound to this host, wired by its network agent."""
        self.step, self.ports = "network.request", []
        await self._fence("networking")
        if not self.data.slots:
            for name in ("network.request", "network.token.validate", "network.ready"):
                trace.record(name, skipped="no network was asked for")
        else:
            with trace.step("network.request", ports=len(self.data.slots)):
                for slot in self.data.slots:
                    self.ports.append(
                        await self.tools.wiring.bind(
                            self.data.server_id, slot, self.data.project_id, self.data.availability_zone,
                            self.data.security_groups, lambda: self._fence(None), self.data.attempt,
                        )
                    )  # fmt: skip
            self.step = "network.ready"
            with trace.step("network.ready") as detail:
                await self.tools.wiring.wait_until_up(self.data.server_id, [port.id for port in self.ports])
                detail["addresses"] = [ip["ip_address"] for port in self.ports for ip in port.fixed_ips]
        request = Networked(self.data.server_id, self.data.attempt, self.tools.host, [port.id for port in self.ports])
        self.documents = (await self.tools.bus.call(NETWORKED, request)).documents

    async def _volumes(self) -> None:
        """Steps 26 to 28: attachments, each of this attempt; volumes made first where that was asked."""
        self.step, self.disks = "volume.request", []
        wanted = [device for device in self.data.block_devices if is_volume(device)]
        if not wanted:
            for name in ("volume.request", "volume.token.validate", "volume.ready"):
                trace.record(name, skipped="no volume was asked for")
            return
        await self._fence("block_device_mapping")
        with trace.step("volume.request", volumes=len(wanted)):
            volumes = [(device, await self._ensure_volume(device)) for device in wanted]
        self.step = "volume.ready"
        with trace.step("volume.ready"):
            for device, volume_id in volumes:
                await self._fence(None)
                attachment = device.attachment_id
                await self.tools.volume.create_attachment(volume_id, self.data.server_id, attachment_id=attachment)
                where = {**self.tools.wiring.connector(), "mountpoint": device.device_name}
                connection = await self.tools.volume.update_attachment(attachment, where)
                self.devices[device.id] = {"volume_id": volume_id, "attachment_id": attachment}
                wished = device.device_name if device.device_name and device.boot_index != 0 else None
                self.disks.append(
                    GuestDisk(
                        serial=volume_id, path=connection.file(), format=connection.format, device=wished,
                        read_only=connection.read_only,
                    )
                )  # fmt: skip

    async def _ensure_volume(self, device: BlockDevice) -> str:
        """The device's volume: the user's, or one that the conductor makes: no host makes volumes for projects."""
        if device.volume_id is not None:
            return device.volume_id
        asked = NeedVolume(self.order.server_id, self.order.attempt, self.tools.host, device.id)
        volume_id = (await self.tools.bus.call(NEED_VOLUME, asked, timeout=_MAKING_SECONDS)).volume_id
        volume = await self.tools.volume.volume(volume_id)
        deadline = clock.monotonic() + VOLUME_SECONDS
        while volume.status in ("creating", "downloading"):
            if clock.monotonic() > deadline:
                raise Failed(f"Volume {volume.id} was not ready in {VOLUME_SECONDS:g} s.")
            await clock.sleep(0.2)
            volume = await self.tools.volume.volume(volume.id)
        if volume.status == "error":
            raise Failed(f"Volume {volume.id} could not be made.", retryable=False)
        return volume.id

    async def _guest(self) -> None:
        """Step 29: the guest is defined and started, its volumes are in use."""
        self.step = "hypervisor.spawn"
        await self._fence("spawning")
        with trace.step("hypervisor.spawn", kind=self.tools.hypervisor.capabilities.kind) as detail:
            drive = await self._config_drive() if self.data.config_drive else None
            root = None
            if self.image is not None:
                size = self.data.disk_gib or 0
                root = RootDisk(base=self.image.path, base_format=self.image.format, size_gib=size)
            plan = GuestPlan(
                server_id=self.data.server_id,
                attempt=self.data.attempt,
                name=self.data.name,
                project_id=self.data.project_id,
                vcpus=self.data.vcpus,
                memory_mib=self.data.memory_mib,
                root=root,
                disks=self.disks,
                nics=[await self.tools.wiring.nic(port) for port in self.ports],
                config_drive=drive,
                local_disks=local_disks(self.data.block_devices),
            )
            state = await self.tools.hypervisor.ensure_running(plan)
            detail["power_state"] = int(state.power_state)
        for made in self.devices.values():
            await self.tools.volume.complete_attachment(made["attachment_id"])

    async def _config_drive(self) -> str:
        from cumulet.compute.drivers import configdrive

        path = self.tools.drives / f"{self.data.server_id}.iso"
        await self.tools.files.run(configdrive.write, path, self.documents, gid=self.tools.gid, timeout=60.0)
        return str(path)

    async def _fence(self, task_state: str | None) -> None:
        """Raise Conflict (StaleAttempt) unless this attempt is still the current one; show what is done next."""
        request = Progress(self.data.server_id, self.data.attempt, self.tools.host, task_state)
        await self.tools.bus.call(PROGRESS, request)

    def _root_device(self) -> str:
        return "/dev/vda"


async def _patiently(part: Callable[[], Awaitable[None]]) -> None:
    """Do a part of a build; it is an *ensure*, so one process of several that goes away costs no host."""
    for pause in PAUSES:
        try:
            await part()
            return
        except Unavailable as error:
            _log.warning("a build goes on in %g s: %s", pause, error.message)
            await clock.sleep(pause)
    await part()


def local_disks(devices: list[BlockDevice]) -> list[LocalDisk]:
    """The extra space and the swap that the flavor brings, in the order of the record."""
    found: list[LocalDisk] = []
    for device in devices:
        if (device.source_type, device.destination_type) != ("blank", "local"):
            continue
        if device.guest_format == "swap":
            found.append(LocalDisk("swap", device.swap_mib or 0, "swap"))
        else:
            name = f"ephemeral{sum(one.format != 'swap' for one in found)}"
            inside = device.guest_format if device.guest_format not in (None, "", "ephemeral") else "ext4"
            found.append(LocalDisk(name, (device.size_gib or 0) * 1024, inside))
    return found


def is_volume(device: BlockDevice) -> bool:
    """Whether the device is a volume of the volume service, not a disk of the host's own."""
    return device.destination_type == "volume"


async def report(bus: Bus, built: Built, wait: Callable[[float], Awaitable[None]] = clock.sleep) -> None:
    """Tell the conductor how a build ended; the saga asks again if this never arrives."""
    for pause in (0.2, 1.0, 3.0):
        try:
            await bus.call(BUILT, built)
            return
        except Unavailable:
            await wait(pause)
        except (Conflict, NotFound):
            return

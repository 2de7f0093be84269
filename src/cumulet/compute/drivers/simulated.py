# SPDX-License-Identifier: Apache-2.0
"""A hypervisor without machines: the default where there is no real one, and the engine of large simulations.

Invariants: it keeps the whole Protocol (the same conformance suite as libvirt);
guests survive the end of this process, as real ones do, when a state file is
given; and it is deterministic: the same calls, knobs and clock give the same
answers, so a simulated failure can be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import string
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from cumulet.compute.drivers.model import (
    Capabilities,
    GuestDisk,
    GuestEvent,
    GuestLost,
    GuestMissing,
    GuestNic,
    GuestPlan,
    GuestState,
    HostResources,
    HypervisorError,
    PowerState,
    RootDisk,
)
from cumulet.compute.drivers.uptime import uptime_text
from cumulet.kernel import clock
from cumulet.kernel.files import write_whole
from cumulet.kernel.pools import Pool

_OFF = (PowerState.SHUTDOWN, PowerState.CRASHED)


class Failure(msgspec.Struct, frozen=True):
    """Make an operation fail."""

    operation: str
    """The Protocol method's name, or ``*``."""
    server_id: str | None = None
    """Only for this server; None: for any."""
    occurrence: int | None = None
    """Only the n-th matching call, counted from 1; None: each."""
    when: str = "before"
    """``before`` the effect, or ``after`` it (the answer is lost, the effect is not)."""
    message: str = "the simulated hypervisor was told to fail"


class Knobs(msgspec.Struct, frozen=True):
    """How one simulated host behaves."""

    vcpus: int = 64
    cpu_ratio: float = 4.0
    """How many guests' vCPUs stand for one of the host's: what placement is told by default."""
    memory_mib: int = 262144
    disk_gib: int = 4096
    latency: dict[str, float] = {}
    """Seconds by operation name; ``*`` is for those not named."""
    failures: list[Failure] = []
    ignores_power_button: bool = False
    """Guests never power off when asked, so every stop takes its whole grace."""
    keeps_devices: bool = False
    """Guests never let go of a device."""
    loses_disks: bool = False
    """What guests kept on the host is gone when they are to come back."""


class _Guest(msgspec.Struct):
    plan: GuestPlan
    power: PowerState
    disks: list[GuestDisk]
    nics: list[GuestNic]
    log: str = ""


class _State(msgspec.Struct):
    version: int = 1
    guests: dict[str, _Guest] = {}
    boots: int = 1


class SimulatedHypervisor:
    """One simulated host. See ``model.Hypervisor`` for what the methods promise."""

    def __init__(
        self,
        hostname: str | None = None,
        *,
        state_file: str | os.PathLike[str] | None = None,
        knobs: Knobs | None = None,
    ) -> None:
        """``state_file``: where guests outlive this process; None keeps them in memory only."""
        self.capabilities = Capabilities(kind="simulated", accelerator="none", real=False)
        self.knobs = knobs or Knobs()
        self._hostname = hostname or socket.gethostname()
        self._file = os.fspath(state_file) if state_file is not None else None
        self._guests: dict[str, _Guest] = {}
        self._boots = 1
        self._calls: Counter[int] = Counter()
        self._is_open = False
        self._opened_at = 0.0
        self._files = Pool("simulated-disks", 1)
        self._listeners: weakref.WeakSet[asyncio.Queue[GuestEvent]] = weakref.WeakSet()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    # -- the Protocol ---------------------------------------------------------------------------

    async def open(self) -> None:
        async with self._operation("open", None):
            if self._file is not None:
                try:
                    with open(self._file, "rb") as file:  # noqa: ASYNC230 - small, local, and simulations use no threads
                        kept = msgspec.json.decode(file.read(), type=_State)
                except FileNotFoundError:
                    kept = _State()
                except (OSError, msgspec.DecodeError) as error:
                    raise HypervisorError(f"the simulated host's state can't be read: {error}") from error
                self._guests, self._boots = kept.guests, kept.boots
            self._is_open, self._opened_at = True, clock.now()

    async def close(self) -> None:
        self._is_open = False

    async def resources(self) -> HostResources:
        async with self._operation("resources", None):
            vcpus, memory, disk = self._used()
            return HostResources(
                hostname=self._hostname,
                vcpus=self.knobs.vcpus,
                memory_mib=self.knobs.memory_mib,
                disk_gib=self.knobs.disk_gib,
                hypervisor_version=1_000_000,
                cpu_info='{"arch": "x86_64", "model": "simulated"}',
                vcpus_used=vcpus,
                memory_mib_used=memory,
                disk_gib_used=disk,
                disk_gib_free=max(0, self.knobs.disk_gib - disk),
                running_guests=sum(guest.power not in _OFF for guest in self._guests.values()),
                uptime=uptime_text(clock.now() - self._opened_at),
                boot=f"{self._hostname} {self._boots}",
            )

    async def guests(self) -> list[GuestState]:
        async with self._operation("guests", None):
            return [_state(guest) for guest in self._guests.values()]

    async def ensure_running(self, plan: GuestPlan) -> GuestState:
        async with self._operation("ensure_running", plan.server_id):
            there = self._guests.get(plan.server_id)
            if there is not None and there.plan.attempt > plan.attempt:
                raise HypervisorError("a newer build of this server is on this host already")
            if there is None or there.plan.attempt < plan.attempt:
                if plan.restored and self.knobs.loses_disks:
                    raise GuestLost("its disk is not on the host any more")
                self._check_capacity(plan)
                there = _Guest(plan, PowerState.SHUTDOWN, [], list(plan.nics))
                for disk in plan.disks:
                    there.disks.append(_named(disk, there))
                self._guests[plan.server_id] = there
                self._save()
            if plan.run:
                self._boot(there)
            return _state(there)

    async def ensure_absent(self, server_id: str) -> None:
        async with self._operation("ensure_absent", server_id):
            if self._guests.pop(server_id, None) is not None:
                self._save()

    async def start(self, server_id: str) -> None:
        async with self._operation("start", server_id):
            self._boot(self._need(server_id))

    async def stop(self, server_id: str, *, grace: float) -> None:
        async with self._operation("stop", server_id):
            await self._power_off(self._need(server_id), grace)

    async def reboot(self, server_id: str, *, hard: bool, grace: float) -> None:
        async with self._operation("reboot", server_id):
            guest = self._need(server_id)
            await self._power_off(guest, 0 if hard else grace)
            self._boot(guest)

    async def attach_disk(self, server_id: str, disk: GuestDisk) -> str:
        async with self._operation("attach_disk", server_id):
            guest = self._need(server_id)
            there = next((known for known in guest.disks if known.serial == disk.serial), None)
            if there is None:
                there = _named(disk, guest)
                guest.disks.append(there)
                self._save()
            assert there.device is not None
            return there.device

    async def detach_disk(self, server_id: str, serial: str) -> None:
        async with self._operation("detach_disk", server_id):
            guest = self._need(server_id)
            if any(disk.serial == serial for disk in guest.disks):
                self._check_lets_go(guest, "disk")
                guest.disks = [disk for disk in guest.disks if disk.serial != serial]
                self._save()

    async def attach_nic(self, server_id: str, nic: GuestNic) -> None:
        async with self._operation("attach_nic", server_id):
            guest = self._need(server_id)
            if all(known.mac.lower() != nic.mac.lower() for known in guest.nics):
                guest.nics.append(nic)
                self._save()

    async def detach_nic(self, server_id: str, mac: str) -> None:
        async with self._operation("detach_nic", server_id):
            guest = self._need(server_id)
            if any(nic.mac.lower() == mac.lower() for nic in guest.nics):
                self._check_lets_go(guest, "interface")
                guest.nics = [nic for nic in guest.nics if nic.mac.lower() != mac.lower()]
                self._save()

    async def copy_root(self, server_id: str, target: str) -> str:
        """What the disk was made from: a simulated guest never writes."""
        async with self._operation("copy_root", server_id):
            root = self._need(server_id).plan.root
            if root is None:
                raise HypervisorError("the server has no root disk of its own")
            try:
                await self._files.run(_copied, root, target, timeout=600.0)
            except OSError as error:
                raise HypervisorError(f"the disk can't be copied: {error.strerror}") from error
            return root.base_format

    async def console_log(self, server_id: str, *, max_bytes: int = 1 << 20) -> str:
        async with self._operation("console_log", server_id):
            text = self._need(server_id).log.encode()
            return text[max(0, len(text) - max_bytes) :].decode(errors="replace")

    def events(self) -> AsyncIterator[GuestEvent]:
        queue: asyncio.Queue[GuestEvent] = asyncio.Queue()
        self._listeners.add(queue)  # from now on, not from the first step of the iteration
        return _drain(queue)

    # -- what a guest does by itself --------------------------------------------------------------

    def power_off_inside(self, server_id: str, *, crash: bool = False) -> None:
        """The guest powers itself off, or its QEMU dies; raises GuestMissing."""
        guest = self._need(server_id)
        if guest.power not in _OFF:
            guest.power = PowerState.CRASHED if crash else PowerState.SHUTDOWN
            self._save()
            for listener in list(self._listeners):
                listener.put_nowait(GuestEvent(server_id, guest.power))

    def lose_power(self, *, forgetful: bool = False) -> None:
        """The host reboots, so every guest is off; a ``forgetful`` one does not even know them any more."""
        self._boots += 1
        if forgetful:
            self._guests.clear()
        for guest in self._guests.values():
            guest.power = PowerState.SHUTDOWN
        self._save()

    # -- inside -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _operation(self, name: str, server_id: str | None) -> AsyncIterator[None]:
        """Latency and failures around an operation; operations on one guest follow each other."""
        if not self._is_open and name != "open":
            raise HypervisorError("the hypervisor driver is not open")
        lock = self._locks.setdefault(server_id or "", asyncio.Lock()) if server_id else contextlib.nullcontext()
        async with lock:
            if seconds := self.knobs.latency.get(name, self.knobs.latency.get("*", 0.0)):
                await clock.sleep(seconds)
            failure = self._due(name, server_id)
            if failure is not None and failure.when == "before":
                raise HypervisorError(failure.message)
            yield
            if failure is not None:
                raise HypervisorError(failure.message)

    def _due(self, name: str, server_id: str | None) -> Failure | None:
        due = None
        for index, failure in enumerate(self.knobs.failures):
            if failure.operation in (name, "*") and failure.server_id in (server_id, None):
                self._calls[index] += 1
                if due is None and failure.occurrence in (None, self._calls[index]):
                    due = failure
        return due

    def _need(self, server_id: str) -> _Guest:
        try:
            return self._guests[server_id]
        except KeyError:
            raise GuestMissing(server_id) from None

    def _boot(self, guest: _Guest) -> None:
        if guest.power == PowerState.RUNNING:
            return
        guest.power = PowerState.RUNNING
        guest.log += f"simulated guest {guest.plan.server_id} attempt {guest.plan.attempt}\n"
        guest.log += f"{guest.plan.vcpus} vCPU, {guest.plan.memory_mib} MiB\nlogin: "
        self._save()

    async def _power_off(self, guest: _Guest, grace: float) -> None:
        if guest.power in _OFF:
            return
        if grace > 0 and self.knobs.ignores_power_button:
            await clock.sleep(grace)
        guest.power = PowerState.SHUTDOWN
        guest.log += "\n"
        self._save()

    def _check_lets_go(self, guest: _Guest, kind: str) -> None:
        if self.knobs.keeps_devices and guest.power == PowerState.RUNNING:
            raise HypervisorError(f"the guest did not let go of the {kind}")

    def _used(self, without: str | None = None) -> tuple[int, int, int]:
        plans = [guest.plan for guest in self._guests.values() if guest.plan.server_id != without]
        return (
            sum(plan.vcpus for plan in plans),
            sum(plan.memory_mib for plan in plans),
            sum(map(_disk_gib, plans)),
        )

    def _check_capacity(self, plan: GuestPlan) -> None:
        vcpus, memory, disk = self._used(without=plan.server_id)
        asked = (
            ("vCPUs", vcpus + plan.vcpus, int(self.knobs.vcpus * self.knobs.cpu_ratio)),
            ("MiB of memory", memory + plan.memory_mib, self.knobs.memory_mib),
            ("GiB of disk", disk + _disk_gib(plan), self.knobs.disk_gib),
        )
        for unit, needed, there in asked:
            if needed > there:
                raise HypervisorError(f"the host has {there} {unit}, {needed} would be needed")

    def _save(self) -> None:
        """Write all guests to the file, whole or not at all."""
        if self._file is None:
            return
        try:
            write_whole(Path(self._file), msgspec.json.encode(_State(guests=self._guests, boots=self._boots)))
        except OSError as error:
            raise HypervisorError(f"the simulated host's state can't be written: {error.strerror}") from error


def _disk_gib(plan: GuestPlan) -> int:
    """GiB of the host's disk that a guest takes, each disk rounded up."""
    local = sum(-(-disk.size_mib // 1024) for disk in plan.local_disks)
    return local + (plan.root.size_gib if plan.root is not None else 0)


def _copied(root: RootDisk, target: str) -> None:
    """The bytes of the image, or an empty disk as a file of holes; blocking."""
    with open(target, "xb") as file:
        if root.base is None:
            file.truncate(root.size_gib << 30)
        else:
            with open(root.base, "rb") as base:
                shutil.copyfileobj(base, file, 1 << 20)


async def _drain(queue: asyncio.Queue[GuestEvent]) -> AsyncIterator[GuestEvent]:
    while True:
        yield await queue.get()


def _named(disk: GuestDisk, guest: _Guest) -> GuestDisk:
    """``disk`` under the device name it gets: the wished one when free, else the next."""
    used = {known.device for known in guest.disks}
    if guest.plan.root is not None:
        used.add("/dev/vda")
    used |= {f"/dev/vd{letter}" for letter in string.ascii_lowercase[1 : 1 + len(guest.plan.local_disks)]}
    names = [f"/dev/sd{letter}" if disk.cdrom else f"/dev/vd{letter}" for letter in string.ascii_lowercase]
    for name in ([disk.device] if disk.device in names else []) + names:
        if name not in used:
            return msgspec.structs.replace(disk, device=name)
    raise HypervisorError("the server has no free place for one more disk")


def _state(guest: _Guest) -> GuestState:
    return GuestState(
        server_id=guest.plan.server_id,
        attempt=guest.plan.attempt,
        power_state=guest.power,
        disks=[disk.serial for disk in guest.disks],
        macs=[nic.mac.lower() for nic in guest.nics],
        bases=[guest.plan.root.base] if guest.plan.root is not None and guest.plan.root.base else [],
    )

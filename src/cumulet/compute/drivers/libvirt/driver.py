# SPDX-License-Identifier: Apache-2.0
"""Real guests: the Hypervisor Protocol on libvirt and QEMU.

Invariants: a server is one persistent domain whose UUID is the server's id and
whose metadata says which attempt made it, so every method finds its own work
after a crash and an older attempt never touches a newer one's guest; what a
guest does by itself is told apart from what was asked for by comparing, never
by guessing from an event; and nothing waits for a word of the guest without a
deadline (the driver never talks to the guest agent).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import libvirt
import msgspec
from lxml import etree

from cumulet.compute.drivers.libvirt import domain as doc
from cumulet.compute.drivers.libvirt import guest, wires
from cumulet.compute.drivers.libvirt.connection import Connection
from cumulet.compute.drivers.libvirt.copies import Copies
from cumulet.compute.drivers.libvirt.storage import Storage
from cumulet.compute.drivers.model import (
    Capabilities,
    GuestDisk,
    GuestEvent,
    GuestMissing,
    GuestNic,
    GuestPlan,
    GuestState,
    HostResources,
    HypervisorError,
    PowerState,
)
from cumulet.compute.drivers.uptime import boot_id, uptime_text
from cumulet.kernel import clock

T = TypeVar("T")
_GIB = 1 << 30
_START_SECONDS = 120.0  # a busy host takes long to start QEMU
_STOP_SECONDS = 60.0
_ASK_AGAIN_SECONDS = 5.0  # a guest that is still booting hears neither the power button nor an unplug
_LOOK_AGAIN_SECONDS = 1.0  # in case an event was lost
_TRIM_SECONDS = 10.0


class LibvirtHypervisor:
    """One host's libvirt. See ``model.Hypervisor`` for what the methods promise."""

    def __init__(
        self,
        uri: str,
        state_dir: str | os.PathLike[str],
        *,
        accelerator: str,
        guest_uid: int,
        guest_gid: int,
        cloud_id: str,
        hostname: str | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        tb_cache_mib: int = 64,
        unplug_within: float = 60.0,
        answer_within: float = 30.0,
        revive: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """``uri``: as ``libvirtd.LibvirtdInfo`` gives it; ``…/session`` runs as the guest user already.

        ``state_dir``: a directory of this process for guests' files. ``accelerator``: the probe's answer.
        ``guest_uid``, ``guest_gid``: QEMU's user, and the group it shares with this process.
        ``log_dir``: where libvirtd keeps QEMU's own logs, to leave none behind.
        ``unplug_within``: seconds a guest may take to let go of a device.
        ``answer_within``: seconds an ordinary call to libvirt may take.
        ``revive``: awaited before each try to reconnect (it may start libvirtd again).
        """
        self.capabilities = Capabilities(kind="QEMU", accelerator=accelerator, real=True)
        self._cloud = cloud_id
        self._hostname = hostname or socket.gethostname()
        self._log_dir = Path(log_dir) if log_dir is not None else None
        self._unplug_within = unplug_within
        label = None if "/session" in uri else f"+{guest_uid}:+{guest_gid}"
        self._machine = doc.Machine(cloud_id, accelerator, tb_cache_mib, label)
        self._storage = Storage(Path(state_dir), guest_gid)
        self._connection = Connection(
            uri,
            on_power=self._power_changed,
            on_unplugged=self._wake,
            on_back=self._look_at_all,
            revive=revive,
            answer_within=answer_within,
        )
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._changed: dict[str, asyncio.Event] = {}
        self._asked: dict[str, PowerState] = {}
        """The power state of each guest that was last asked for or reported."""
        self._busy: set[str] = set()
        self._missed: set[str] = set()
        """Guests whose power changed while a method was at work on them."""
        self._listeners: weakref.WeakSet[asyncio.Queue[GuestEvent]] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()
        self._copies = Copies(self._storage, self._connection, self._at_work, self._on_domain)

    # -- connection and host ----------------------------------------------------------------

    async def open(self) -> None:
        try:
            await self._connection.open()
        except HypervisorError as error:
            await self._connection.close()
            raise HypervisorError(f"{error}; is libvirtd running on this host?") from error
        await self._connection.work(self._storage.open)
        there = await self.guests()
        self._asked = {doc.domain_uuid(found.server_id): found.power_state for found in there}
        self._spawn(self._trim_logs())
        self._spawn(self._copies.end_left([found.server_id for found in there]))

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.close()

    async def resources(self) -> HostResources:
        def ask(conn: libvirt.virConnect) -> HostResources:
            def size(found: libvirt.virDomain, _tag: doc.Tag) -> tuple[int, int, bool]:
                return (*doc.read_size(found.XMLDesc(0)), bool(found.isActive()))

            sizes = guest.each(conn, self._cloud, size)
            total, free = self._storage.space()
            return HostResources(
                hostname=self._hostname,
                vcpus=os.cpu_count() or 1,
                memory_mib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
                disk_gib=total // _GIB,
                hypervisor_version=conn.getVersion(),
                cpu_info=json.dumps({"arch": conn.getInfo()[0], "accelerator": self.capabilities.accelerator}),
                vcpus_used=sum(vcpus for vcpus, _, _ in sizes),
                memory_mib_used=sum(memory for _, memory, _ in sizes),
                disk_gib_used=(total - free) // _GIB,
                disk_gib_free=free // _GIB,
                running_guests=sum(active for _, _, active in sizes),
                uptime=uptime_text(clock.monotonic(), os.getloadavg()),  # monotonic time counts from the boot
                boot=boot_id(),
            )

        return await self._connection.call(ask)

    async def guests(self) -> list[GuestState]:
        def ask(conn: libvirt.virConnect) -> list[GuestState]:
            return guest.each(conn, self._cloud, guest.state)

        return await self._connection.call(ask)

    # -- a guest's life -------------------------------------------------------------------------

    async def ensure_running(self, plan: GuestPlan) -> GuestState:
        async with self._at_work(plan.server_id) as key:
            there = await self._call(key, lambda conn: guest.find(conn, self._cloud, key))
            attempt = there[1].attempt if there is not None else None
            if attempt is not None and attempt > plan.attempt:
                raise HypervisorError("a newer build of this server is on this host already")
            if attempt is not None and attempt < plan.attempt:
                await self._remove(key)
            text: str | None = None
            if attempt != plan.attempt:
                whole = await self._storage.recall(plan, self._connection.work) if plan.restored else plan
                files, missing = await self._connection.work(lambda: self._storage.prepare(whole))
                await self._storage.make_disks(whole, files, missing)
                text = doc.domain_xml(whole, self._machine, files)
            await wires.present(nic.tap for nic in plan.nics if plan.run)

            def run(conn: libvirt.virConnect) -> GuestState:
                found = conn.defineXML(text) if text is not None else guest.need(conn, self._cloud, key)
                if plan.run:
                    guest.switch_on(found)
                return guest.state(found, doc.Tag(self._cloud, plan.server_id, plan.attempt))

            state = await self._call(key, run, within=_START_SECONDS)
            self._asked[key] = PowerState.RUNNING if plan.run else state.power_state
            return state

    async def ensure_absent(self, server_id: str) -> None:
        async with self._at_work(server_id) as key:
            await self._remove(key)
            for of_guest in (self._asked, self._changed):
                of_guest.pop(key, None)
            self._connection.forget(key)

    async def _remove(self, key: str) -> None:
        def erase(conn: libvirt.virConnect) -> None:
            found = guest.find(conn, self._cloud, key)
            if found is not None:
                guest.erase(found[0])
            self._storage.remove(key)
            if self._log_dir is not None:
                (self._log_dir / f"{doc.domain_name(key)}.log").unlink(missing_ok=True)

        await self._call(key, erase, within=_STOP_SECONDS)

    async def start(self, server_id: str) -> None:
        async with self._at_work(server_id) as key:
            await self._switch_on(key)

    async def _switch_on(self, key: str) -> None:
        await wires.present(await self._on_domain(key, guest.taps))
        await self._on_domain(key, guest.switch_on, within=_START_SECONDS)
        self._asked[key] = PowerState.RUNNING

    async def stop(self, server_id: str, *, grace: float) -> None:
        async with self._at_work(server_id) as key:
            await self._switch_off(key, grace)

    async def _switch_off(self, key: str, grace: float) -> None:
        async def is_off() -> bool:
            return await self._on_domain(key, guest.is_off)

        until = clock.monotonic() + grace
        while (left := until - clock.monotonic()) > 0 and await self._on_domain(key, guest.press_power_button):
            if await self._wait(key, is_off, min(left, _ASK_AGAIN_SECONDS)):
                break
        await self._on_domain(key, guest.cut_power, within=_STOP_SECONDS)
        self._asked[key] = PowerState.SHUTDOWN

    async def reboot(self, server_id: str, *, hard: bool, grace: float) -> None:
        async with self._at_work(server_id) as key:
            await self._switch_off(key, 0 if hard else grace)
            await self._switch_on(key)

    # -- devices ----------------------------------------------------------------------------------

    async def attach_disk(self, server_id: str, disk: GuestDisk) -> str:
        def make(target: str | None, used: set[str]) -> etree._Element:
            return doc.disk_element(msgspec.structs.replace(disk, device=target or disk.device), used)

        return "/dev/" + await self._plug(server_id, "disk", doc.printable(disk.serial), make)

    async def detach_disk(self, server_id: str, serial: str) -> None:
        await self._unplug(server_id, "disk", doc.printable(serial))

    async def attach_nic(self, server_id: str, nic: GuestNic) -> None:
        await self._plug(server_id, "interface", nic.mac.lower(), lambda _target, _used: doc.nic_element(nic))

    async def detach_nic(self, server_id: str, mac: str) -> None:
        await self._unplug(server_id, "interface", mac.lower())

    async def _plug(
        self, server_id: str, kind: str, ident: str, make: Callable[[str | None, set[str]], etree._Element]
    ) -> str:
        async with self._at_work(server_id) as key:
            return await self._on_domain(key, lambda domain: guest.plug(domain, kind, ident, make))

    async def _unplug(self, server_id: str, kind: str, ident: str) -> None:
        async with self._at_work(server_id) as key:

            async def is_gone() -> bool:
                return await self._on_domain(key, lambda domain: guest.is_unplugged(domain, kind, ident))

            until = clock.monotonic() + self._unplug_within
            while not await self._on_domain(key, lambda domain: guest.ask_unplug(domain, kind, ident)):
                if (left := until - clock.monotonic()) <= 0:
                    raise HypervisorError(f"the guest did not let go of the {kind} within {self._unplug_within:g} s")
                if await self._wait(key, is_gone, min(left, _ASK_AGAIN_SECONDS)):
                    break
            await self._on_domain(key, lambda domain: guest.forget_device(domain, kind, ident))

    async def copy_root(self, server_id: str, target: str) -> str:
        return await self._copies.copy_root(server_id, target)

    # -- consoles ---------------------------------------------------------------------------------

    async def console_log(self, server_id: str, *, max_bytes: int = 1 << 20) -> str:
        await self._on_domain(doc.domain_uuid(server_id), lambda _domain: None)
        try:
            return await self._connection.work(lambda: self._storage.tail(server_id, max_bytes))
        except OSError as error:
            raise HypervisorError(f"the console log can't be read: {error.strerror}") from error

    def console_socket(self, server_id: str, kind: str) -> str:
        """The unix socket of a guest's ``vnc`` or ``serial`` console, for the console proxy. Not in the Protocol."""
        files = self._storage.files(server_id)
        return {"vnc": files.vnc, "serial": files.serial}[kind]

    async def _trim_logs(self) -> None:
        while True:
            await clock.sleep(_TRIM_SECONDS)
            with contextlib.suppress(HypervisorError, OSError):
                await self._connection.work(self._storage.trim_logs)

    # -- events -------------------------------------------------------------------------------------

    def events(self) -> AsyncIterator[GuestEvent]:
        queue: asyncio.Queue[GuestEvent] = asyncio.Queue()
        self._listeners.add(queue)  # from now on, not from the first step of the iteration
        return self._drain(queue)

    @staticmethod
    async def _drain(queue: asyncio.Queue[GuestEvent]) -> AsyncIterator[GuestEvent]:
        while True:
            yield await queue.get()

    def _power_changed(self, key: str) -> None:
        self._wake(key)
        if key in self._busy:
            self._missed.add(key)
        else:
            self._spawn(self._settle(key))

    def _wake(self, key: str) -> None:
        if (waiting := self._changed.get(key)) is not None:
            waiting.set()

    async def _settle(self, key: str) -> None:
        """Compare what the guest is with what was asked for, and report the difference once."""
        try:
            power = await self._on_domain(key, guest.power)
        except (GuestMissing, HypervisorError):
            return  # removed meanwhile, foreign, or the connection is lost (all are looked at when it is back)
        if key in self._busy:
            self._missed.add(key)
        elif self._asked.setdefault(key, power) != power:
            self._asked[key] = power
            for listener in list(self._listeners):
                listener.put_nowait(GuestEvent(key, power))

    async def _look_at_all(self) -> None:
        for found in await self.guests():
            await self._settle(doc.domain_uuid(found.server_id))

    # -- inside -------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _at_work(self, server_id: str) -> AsyncIterator[str]:
        """Yields the guest's key. One method at a time per guest; its changes of power are compared afterwards."""
        key = doc.domain_uuid(server_id)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            self._busy.add(key)
            try:
                yield key
            finally:
                self._busy.discard(key)
                if key in self._missed:
                    self._missed.discard(key)
                    self._spawn(self._settle(key))

    async def _call(self, key: str, fn: Callable[[Any], T], *, within: float = 0) -> T:
        return await self._connection.call(fn, guest=key, within=within)

    async def _on_domain(self, key: str, fn: Callable[[Any], T], *, within: float = 0) -> T:
        """``fn(domain)`` of the guest; raises GuestMissing."""
        return await self._call(key, lambda conn: fn(guest.need(conn, self._cloud, key)), within=within)

    async def _wait(self, key: str, is_done: Callable[[], Awaitable[bool]], seconds: float) -> bool:
        """Wait until ``is_done()``, looking again at each event; False when the time is over."""
        changed = self._changed.setdefault(key, asyncio.Event())
        until = clock.monotonic() + seconds
        while True:
            changed.clear()
            if await is_done():
                return True
            if (left := until - clock.monotonic()) <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(left, _LOOK_AGAIN_SECONDS))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

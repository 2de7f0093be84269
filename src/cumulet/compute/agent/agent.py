# SPDX-License-Identifier: Apache-2.0
"""The agent's rpc and its duties: build, remove, power, plug; one thing at a time per server."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cumulet.compute import rpc
from cumulet.compute.agent.build import BuildRun, Tools, report
from cumulet.compute.agent.comeback import Comebacks
from cumulet.compute.agent.snapshots import Snapshots
from cumulet.compute.drivers.model import GuestDisk, GuestMissing, HypervisorError
from cumulet.kernel import trace
from cumulet.kernel.bus import Method, Subscription
from cumulet.kernel.errors import Conflict, Internal, NotFound

_log = logging.getLogger(__name__)


class ComputeAgent:
    """Serves `compute.agent` for this host."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self.snapshots = Snapshots(tools, self.alone)
        self._builds: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self._subscription: Subscription | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.comebacks = Comebacks(tools, self.alone)

    async def start(self) -> None:
        """Recover what the hypervisor has, then take messages."""
        tools = self.tools
        await tools.files.run(tools.cache.open, timeout=60.0)
        tools.drives.mkdir(parents=True, exist_ok=True)
        await tools.files.run(self.snapshots.open, timeout=60.0)
        await tools.hypervisor.open()
        handlers: dict[Method[Any, Any], Any] = {
            rpc.BUILD: self.build,
            rpc.ENSURE_ABSENT: self.ensure_absent,
            rpc.POWER: self.power,
            rpc.PLUG_VOLUME: self.plug_volume,
            rpc.UNPLUG_VOLUME: self.unplug_volume,
            rpc.PLUG_PORT: self.plug_port,
            rpc.UNPLUG_PORT: self.unplug_port,
            rpc.TAKE_SNAPSHOT: self.snapshots.take,
            rpc.DROP_SNAPSHOT: self.snapshots.drop,
            rpc.CONSOLE_LOG: self.console_log,
            rpc.AGENT_EVENT: self.event,
            rpc.HOLDING: self.holding,
        }
        self._subscription = await tools.bus.subscribe(
            handlers, component="compute-agent", host=tools.host, own_host=True
        )
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="guest events")

    async def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self._subscription is not None:
            await self._subscription.stop()
        await self.comebacks.stop()
        for _, task in list(self._builds.values()):
            task.cancel()
        await asyncio.gather(*(task for _, task in self._builds.values()), return_exceptions=True)
        await self.snapshots.stop()
        await self.tools.hypervisor.close()

    # ---- rpc

    async def build(self, order: rpc.Build) -> rpc.Nothing:
        """Step 13: take the order; the build itself runs beside, and reports when it ends."""
        running = self._builds.get(order.server_id)
        if running is not None:
            attempt, task = running
            if attempt >= order.attempt:
                return rpc.Nothing()  # the saga only looks again
            await _end(task)
        trace.record("compute.receive")
        task = asyncio.get_running_loop().create_task(self._build(order), name=f"build {order.server_id}")
        self._builds[order.server_id] = (order.attempt, task)

        def forget(done: asyncio.Task[None]) -> None:
            if self._builds.get(order.server_id, (0, None))[1] is done:
                del self._builds[order.server_id]

        task.add_done_callback(forget)
        return rpc.Nothing()

    async def _build(self, order: rpc.Build) -> None:
        async with self.alone(order.server_id):
            try:
                built = await BuildRun(self.tools, order).run()
            except Conflict as error:
                _log.warning(
                    "build of %s, attempt %d, is not wanted any more: %s", order.server_id, order.attempt, error
                )
                return
            if built.error is not None:
                _log.warning("build of %s failed at %s: %s", order.server_id, built.step, built.error)
            await report(self.tools.bus, built)

    async def ensure_absent(self, order: rpc.EnsureAbsent) -> rpc.Nothing:
        """Nothing of the server is left here afterwards; a build in work is stopped first."""
        running = self._builds.get(order.server_id)
        if running is not None and (order.attempt == 0 or running[0] <= order.attempt):
            await _end(running[1])
        await self.snapshots.drop(rpc.DropSnapshot(order.server_id))
        async with self.alone(order.server_id):
            guest = await self._guest(order.server_id)
            if guest is None or order.attempt == 0 or guest.attempt <= order.attempt:
                await self._hypervisor(self.tools.hypervisor.ensure_absent(order.server_id))
                (self.tools.drives / f"{order.server_id}.iso").unlink(missing_ok=True)
        return rpc.Nothing()

    async def power(self, order: rpc.Power) -> rpc.PowerAnswer:
        driver = self.tools.hypervisor
        async with self.alone(order.server_id):
            match order.action:
                case "start":
                    await self._hypervisor(driver.start(order.server_id))
                case "stop":
                    await self._hypervisor(driver.stop(order.server_id, grace=order.grace))
                case "reboot-soft" | "reboot-hard":
                    hard = order.action == "reboot-hard"
                    await self._hypervisor(driver.reboot(order.server_id, hard=hard, grace=order.grace))
                case other:
                    raise Internal(f"{other} is no power action")
            guest = await self._guest(order.server_id)
            return rpc.PowerAnswer(int(guest.power_state) if guest is not None else 0)

    async def plug_volume(self, order: rpc.PlugVolume) -> rpc.PlugAnswer:
        async with self.alone(order.server_id):
            connection = await self.tools.volume.update_attachment(
                order.attachment_id, {**self.tools.wiring.connector(), "mountpoint": order.device}, as_service=True
            )
            disk = GuestDisk(
                serial=order.volume_id, path=connection.file(), format=connection.format, device=order.device,
                read_only=connection.read_only,
            )  # fmt: skip
            return rpc.PlugAnswer(await self._hypervisor(self.tools.hypervisor.attach_disk(order.server_id, disk)))

    async def unplug_volume(self, order: rpc.UnplugVolume) -> rpc.Nothing:
        async with self.alone(order.server_id):
            if await self._guest(order.server_id) is not None:
                await self._hypervisor(self.tools.hypervisor.detach_disk(order.server_id, order.volume_id))
        return rpc.Nothing()

    async def plug_port(self, order: rpc.PlugPort) -> rpc.Nothing:
        wiring = self.tools.wiring
        async with self.alone(order.server_id):
            port = await wiring.bind(
                order.server_id, order.slot, order.project_id, order.availability_zone, order.security_groups
            )
            await wiring.wait_until_up(order.server_id, [port.id])
            await self._hypervisor(self.tools.hypervisor.attach_nic(order.server_id, await wiring.nic(port)))
        return rpc.Nothing()

    async def unplug_port(self, order: rpc.UnplugPort) -> rpc.Nothing:
        async with self.alone(order.server_id):
            if await self._guest(order.server_id) is not None:
                await self._hypervisor(self.tools.hypervisor.detach_nic(order.server_id, order.mac))
        return rpc.Nothing()

    async def console_log(self, order: rpc.ConsoleLog) -> str:
        text: str = await self._hypervisor(
            self.tools.hypervisor.console_log(order.server_id, max_bytes=order.max_bytes)
        )
        return text

    async def event(self, event: rpc.ServerEvent) -> rpc.Nothing:
        """The network service said something about a port of a server here."""
        if event.tag is not None and event.name.startswith("network-"):
            self.tools.wiring.heard(event.tag)
        return rpc.Nothing()

    async def holding(self, ask: rpc.Ask) -> rpc.Holding:
        """What this host really has, for whoever compares it with the records."""
        guests = await self._hypervisor(self.tools.hypervisor.guests())
        files = await self.tools.files.run(self.files)
        return rpc.Holding(
            [rpc.GuestHeld(one.server_id, one.attempt, int(one.power_state), one.disks, one.macs) for one in guests],
            files,
            await self.tools.files.run(self.snapshots.files),
        )

    # ---- inside

    def files(self) -> list[str]:
        """Ids of the servers that have a directory or a config drive here."""
        drives = self.tools.drives
        found = {path.stem for path in drives.glob("*.iso")}
        guests = drives.parent / "guests"
        return sorted(found | {path.name for path in guests.iterdir()} if guests.is_dir() else found)

    def rooted(self) -> set[str]:
        """Ids of the servers whose root disk is on this host, with or without a guest; blocking."""
        guests = self.tools.drives.parent / "guests"
        return {path.parent.name for path in guests.glob("*/root.*")}

    @asynccontextmanager
    async def alone(self, server_id: str) -> AsyncIterator[None]:
        """One thing at a time is done with a server's guest."""
        lock = self._locks.setdefault(server_id, asyncio.Lock())
        async with lock:
            yield

    async def _guest(self, server_id: str) -> Any | None:
        guests = await self._hypervisor(self.tools.hypervisor.guests())
        return next((guest for guest in guests if guest.server_id == server_id), None)

    async def _hypervisor(self, work: Any) -> Any:
        """Await a driver call; its errors become faults that can travel."""
        try:
            return await work
        except GuestMissing as error:
            raise NotFound(f"Instance {error} has no guest on this host.") from None
        except HypervisorError as error:
            raise Conflict(str(error), kind="HypervisorError") from None

    async def _watch(self) -> None:
        """Pass on what guests did by themselves."""
        async for event in self.tools.hypervisor.events():
            told = rpc.PowerChanged(self.tools.host, event.server_id, int(event.power_state))
            try:
                await self.tools.bus.cast(rpc.POWER_CHANGED, told)
            except Exception:
                _log.exception("a power event was not passed on; the next report says it again")


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

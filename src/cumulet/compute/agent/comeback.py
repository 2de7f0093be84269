# SPDX-License-Identifier: Apache-2.0
"""Guests that their host lost: started again where only their power went, else made anew around their own disks.

What a guest is, the records say: its NICs, volumes and config drive as they are
now. What it kept on this host must still be there; a guest never comes back
with an empty disk. What fails is tried again at the host's next report.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from cumulet.compute import rpc
from cumulet.compute.agent.build import Tools, is_volume, local_disks
from cumulet.compute.drivers.model import (
    GuestDisk,
    GuestLost,
    GuestMissing,
    GuestNic,
    GuestPlan,
    HypervisorError,
    RootDisk,
)
from cumulet.kernel.errors import Conflict, Fault, NotFound

_log = logging.getLogger(__name__)
_AT_ONCE = 4
"""Guests that come back at the same time: a whole host must not boot in one moment."""


class Comebacks:
    """The guests of one host that are coming back."""

    def __init__(self, tools: Tools, alone: Callable[[str], AbstractAsyncContextManager[None]]) -> None:
        """``alone``: nobody else does anything with a server's guest meanwhile."""
        self._tools, self._alone = tools, alone
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, verdict: rpc.Verdict) -> None:
        """Bring back what the records say should be here; what is under way already goes on."""
        for work, servers in ((self._start, verdict.start), (self._restore, verdict.restore)):
            for server_id in servers:
                if server_id not in self._tasks:
                    coming = self._bring(server_id, work)
                    self._tasks[server_id] = asyncio.get_running_loop().create_task(coming, name=f"back {server_id}")

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _bring(self, server_id: str, work: Callable[[str], Awaitable[None]]) -> None:
        try:
            async with self._places, self._alone(server_id):
                await work(server_id)
        except (Conflict, NotFound, GuestMissing) as error:
            _log.info("guest of %s does not come back: %s", server_id, error)
        except (Fault, HypervisorError) as error:
            _log.warning("guest of %s can't come back yet: %s", server_id, error)
        except Exception:
            _log.exception("guest of %s", server_id)
        finally:
            del self._tasks[server_id]

    async def _start(self, server_id: str) -> None:
        tools = self._tools
        # it may have waited for its turn: what was accepted meanwhile counts
        found = await tools.bus.call(rpc.RECALL, rpc.Recall(server_id, tools.host))
        if found.run:
            _log.warning("guest of %s should run: it is started", server_id)
            await tools.hypervisor.start(server_id)

    async def _restore(self, server_id: str) -> None:
        tools = self._tools
        if any(guest.server_id == server_id for guest in await tools.hypervisor.guests()):
            return
        found = await tools.bus.call(rpc.RECALL, rpc.Recall(server_id, tools.host))
        record = found.record
        _log.warning("guest of %s is not on this host: it is made again", server_id)
        drive = None
        if record.config_drive:
            from cumulet.compute.drivers import configdrive

            path = tools.drives / f"{server_id}.iso"
            await tools.files.run(configdrive.write, path, found.documents, gid=tools.gid, timeout=60.0)
            drive = str(path)
        plan = GuestPlan(
            server_id=server_id,
            attempt=record.attempt,
            name=record.name,
            project_id=record.project_id,
            vcpus=record.vcpus,
            memory_mib=record.memory_mib,
            root=RootDisk(base=None, base_format="", size_gib=record.disk_gib) if record.image_id else None,
            disks=await self._volumes(record),
            nics=await self._nics(record),
            config_drive=drive,
            local_disks=local_disks(record.block_devices),
            restored=True,
            run=found.run,
        )
        try:
            await tools.hypervisor.ensure_running(plan)
        except GuestLost as error:
            _log.error("guest of %s is lost: %s", server_id, error)
            if drive is not None:  # nobody will ever read it
                await tools.files.run(Path(drive).unlink, missing_ok=True)
            await tools.bus.call(rpc.LOST, rpc.Lost(server_id, record.attempt, tools.host, str(error)))

    async def _volumes(self, record: rpc.ServerRecord) -> list[GuestDisk]:
        """The server's volumes, connected to this host again; one that is just leaving stays out."""
        disks = []
        for device in record.block_devices:
            if not is_volume(device) or not device.attachment_id or device.volume_id is None:
                continue
            try:
                if (await self._tools.volume.volume(device.volume_id, as_service=True)).status == "detaching":
                    continue
                connection = await self._tools.volume.update_attachment(
                    device.attachment_id, self._tools.wiring.connector(), as_service=True
                )
                await self._tools.volume.complete_attachment(device.attachment_id, as_service=True)
            except NotFound:
                continue
            wished = device.device_name if device.boot_index != 0 else None
            disks.append(
                GuestDisk(
                    serial=device.volume_id, path=connection.file(), format=connection.format, device=wished,
                    read_only=connection.read_only,
                )
            )  # fmt: skip
        return disks

    async def _nics(self, record: rpc.ServerRecord) -> list[GuestNic]:
        """The server's ports on this host, in the order of its slots; a port of a stranger names it in vain."""
        ports = await self._tools.network.ports(device_id=record.server_id, as_service=True)
        order = {slot.port_id or slot.new_port_id: place for place, slot in enumerate(record.slots)}
        ours = [port for port in ports if port.project_id == record.project_id or port.id in order]
        here = [port for port in ours if port.host_id == self._tools.host]
        here.sort(key=lambda port: (order.get(port.id, len(order)), port.id))
        return [await self._tools.wiring.nic(port) for port in here]

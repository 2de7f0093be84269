# SPDX-License-Identifier: Apache-2.0
"""What the compute sagas act on, and the few questions that several of them ask."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sqlalchemy import select

from cumulet.client.image import ImageClient
from cumulet.client.network import NetworkClient, Port
from cumulet.client.volume import VolumeClient
from cumulet.compute.models import BLOCK_DEVICES, HOSTS, SERVERS
from cumulet.compute.states import DELETING
from cumulet.kernel import clock
from cumulet.kernel.bus import Bus
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Invalid, NotFound, PreconditionFailed, Unavailable
from cumulet.kernel.outbox import Outbox
from cumulet.kernel.quota import Quota
from cumulet.kernel.saga import Failed, Wait

_log = logging.getLogger(__name__)
DEAD_AFTER = 60.0
"""Seconds without a report after which a host is not waited for any more."""

_LONGEST_FAULT = 4096
"""Characters of a fault's message: it names step, component, host and reason, and ends up in every GET."""


@dataclass
class World:
    """One conductor's surroundings."""

    db: Database
    bus: Bus
    image: ImageClient
    network: NetworkClient
    volume: VolumeClient
    quota: Quota
    outbox: Outbox
    max_attempts: int = 3
    build_timeout: float = 900.0
    dhcp_domain: str = "novalocal"
    """What the documents of a guest add to its host name."""

    async def server(self, server_id: str) -> Row:
        """The server's row; raises Failed when it is deleted."""
        row = await self.db.first(select(SERVERS).where(SERVERS.c.id == server_id))
        if row is None or row["deleted_at"] is not None:
            raise Failed(f"Instance {server_id} could not be found.")
        return row

    async def devices(self, server_id: str) -> list[Row]:
        """The server's block devices, boot device first."""
        t = BLOCK_DEVICES
        return await self.db.all(select(t).where(t.c.server_id == server_id).order_by(t.c.position), point=True)

    async def host_is_dead(self, host: str) -> bool:
        """Whether a host has been silent for so long that nobody waits for it."""
        row = await self.db.first(select(HOSTS).where(HOSTS.c.host == host, HOSTS.c.binary == "nova-compute"))
        return row is None or bool(row["forced_down"]) or row["last_seen"] < clock.now() - DEAD_AFTER

    async def host_is_declared_down(self, host: str) -> bool:
        """Whether an operator says that nothing runs on a host any more (or forgot it)."""
        row = await self.db.first(select(HOSTS).where(HOSTS.c.host == host, HOSTS.c.binary == "nova-compute"))
        return row is None or bool(row["forced_down"])

    async def out_of_guest(self, method: Any, request: Any, server_id: str) -> None:
        """Have a server's host take a thing out of its guest; raises Unavailable while it does not answer.

        Silence is no answer: the guest may run on and use the thing. Only a host
        that was declared down is passed over, and one whose guest is deleted anyway.
        """
        row = await self.db.first(select(SERVERS).where(SERVERS.c.id == server_id))
        if row is None or not row["host"]:
            return
        try:
            await self.bus.call(method, request, host=row["host"], timeout=120.0)
        except Unavailable:
            if row["task_state"] != DELETING and not await self.host_is_declared_down(row["host"]):
                raise

    async def on_host(self, method: Any, request: Any, host: str, *, timeout: float = 60.0) -> Any | None:
        """Call a host's agent; None when the host is dead. Raises Unavailable while it only does not answer."""
        try:
            return await self.bus.call(method, request, host=host, timeout=timeout)
        except Unavailable:
            if await self.host_is_dead(host):
                return None
            raise

    async def drop_ports(self, server_id: str, ours: set[str], fence: int) -> None:
        """Delete the server's ports that we made, there or still to come, and let go of those that the user brought."""
        there = await self.network.ports(device_id=server_id, as_service=True)
        for port_id in sorted(ours - {port.id for port in there}):
            if await gone_is_fine(self.network.port(port_id, as_service=True)) is None:  # else it is another's by now
                await gone_is_fine(self.network.delete_port(port_id, fence=fence, as_service=True))
        for port in there:
            if port.id in ours:
                await gone_is_fine(self.network.delete_port(port.id, fence=fence, as_service=True))
            else:
                await self.let_go(port, {"binding:profile": {}})

    async def let_go(self, port: Port, besides: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Leave a user's port to others, as it was seen: raises Wait when somebody changed it since."""
        change = {"device_id": "", "device_owner": "", "binding:host_id": "", **besides}
        try:
            await gone_is_fine(
                self.network.update_port(port.id, change, revision=port.revision_number, as_service=True)
            )
        except PreconditionFailed:
            raise Wait(0.2) from None

    async def drop_attachment(self, attachment_id: str | None) -> None:
        if attachment_id:
            await gone_is_fine(self.volume.delete_attachment(attachment_id, as_service=True))

    async def drop_volume(self, volume_id: str) -> None:
        """Delete a volume; one that snapshots stand on (an image of its server may name them) stays."""
        try:
            await gone_is_fine(self.volume.delete_volume(volume_id, as_service=True))
        except Invalid:
            there = await gone_is_fine(self.volume.volume(volume_id, as_service=True))
            if there is not None and there.status != "available":
                raise
            _log.warning("volume %s stays: it can't be deleted while it has snapshots", volume_id)


async def gone_is_fine(work: Any) -> Any:
    """Await ``work``; what is gone already counts as done (None)."""
    try:
        return await work
    except NotFound:
        return None


async def set_fault(tx: Transaction, server_id: str, message: str, *, code: int = 500, details: str = "") -> None:
    """Record why the server's last operation failed, for its user."""
    fault = {"code": code, "message": message[:_LONGEST_FAULT], "details": details, "created": clock.now()}
    await tx.run(SERVERS.update().where(SERVERS.c.id == server_id).values(fault=fault))

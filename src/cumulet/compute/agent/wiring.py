# SPDX-License-Identifier: Apache-2.0
"""Ports on this host: bound by us over REST, wired by the host's network agent, awaited here.

The network service says through compute that a port is up; when that word is
lost, the port is looked up after five seconds.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from cumulet.client.network import NetworkClient, Port
from cumulet.compute.drivers.model import GuestNic
from cumulet.compute.sagas.params import NetworkSlot
from cumulet.kernel import fences
from cumulet.kernel.errors import Conflict, NotFound
from cumulet.kernel.saga import Failed

LOOK_AFTER = 5.0
"""Seconds without word after which ports are looked up."""
UP_WITHIN = 120.0
"""Seconds in which a port must be wired."""


def tap_name(port: Port) -> str:
    """The tap that the network agent makes for a port; it says so in the binding."""
    told = (port.vif_details or {}).get("tap")
    return told if isinstance(told, str) else f"tap{port.id[:11]}"


class Wiring:
    """This host's side of ports."""

    def __init__(self, client: NetworkClient, host: str, host_ip: str) -> None:
        self._client, self._host, self._host_ip = client, host, host_ip
        self._words: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def connector(self) -> dict[str, Any]:
        """How this host presents itself to the volume service."""
        return {"host": self._host, "ip": self._host_ip, "os_type": "linux", "platform": "x86_64", "multipath": False}

    async def nic(self, port: Port) -> GuestNic:
        """The guest's NIC on a port's tap."""
        network = await self._client.network(port.network_id, as_service=True)
        return GuestNic(port_id=port.id, mac=port.mac_address, tap=tap_name(port), mtu=network.mtu)

    def heard(self, port_id: str) -> None:
        """The network service said that something about a port changed."""
        if port_id in self._words:
            self._words[port_id].set()

    async def bind(
        self,
        server_id: str,
        slot: NetworkSlot,
        project_id: str,
        zone: str,
        security_groups: Iterable[str],
        fence: Callable[[], Awaitable[None]] | None = None,
        attempt: int = 1,
    ) -> Port:
        """Ensure the slot's port, bound to this host for this server; repeated calls find it again.

        ``attempt`` is the server's build that wants it. ``fence`` raises when this host should not do so any
        more. It is asked between the look at the port and the change of what was seen, so a host that slept in
        between changes nothing.
        """
        owner = f"compute:{zone or 'nova'}"
        binding = {"device_id": server_id, "device_owner": owner, "binding:host_id": self._host}
        port_id = slot.port_id or slot.new_port_id
        assert port_id is not None
        port = await self._find(slot, port_id)
        if fence is not None:
            await fence()
        if port is None:
            body: dict[str, Any] = {
                "id": port_id, "network_id": slot.network_id, "project_id": project_id,
                "admin_state_up": True, **binding,
            }  # fmt: skip
            if groups := list(security_groups):
                body["security_groups"] = groups
            if slot.fixed_ip:
                body["fixed_ips"] = [{"ip_address": slot.fixed_ip}]
            try:
                return await self._client.create_port(body, fence=fences.making(attempt))
            except Conflict:
                port = await self._client.port(port_id, as_service=True)  # our own repeated request won
                if fence is not None:
                    await fence()
        if port.device_id not in ("", server_id):
            raise Failed(f"Port {port_id} is still in use.", retryable=False)
        if port.device_id == server_id and port.host_id == self._host:
            return port
        return await self._client.update_port(port_id, binding, revision=port.revision_number, as_service=True)

    async def _find(self, slot: NetworkSlot, port_id: str) -> Port | None:
        """The slot's port; None when it is ours to make. Raises Failed when it is the user's and gone."""
        try:
            return await self._client.port(port_id, as_service=True)
        except NotFound:
            if slot.port_id is not None:
                raise Failed(f"Port {slot.port_id} could not be found.", retryable=False) from None
            return None

    async def wait_until_up(self, server_id: str, port_ids: list[str]) -> None:
        """Return once all ports are wired; raises Failed after `UP_WITHIN` seconds."""
        words = [self._words[port_id] for port_id in port_ids]
        try:
            async with asyncio.timeout(UP_WITHIN):
                while True:
                    down = await self._down(server_id, port_ids)
                    if not down:
                        return
                    for word in words:
                        word.clear()
                    waits = [asyncio.ensure_future(self._words[port_id].wait()) for port_id in down]
                    _, pending = await asyncio.wait(waits, timeout=LOOK_AFTER)
                    for one in pending:
                        one.cancel()
        except TimeoutError:
            raise Failed(f"The network was not ready within {UP_WITHIN:g} s.") from None
        finally:
            for port_id in port_ids:
                self._words.pop(port_id, None)

    async def _down(self, server_id: str, port_ids: list[str]) -> list[str]:
        ports = await self._client.ports(device_id=server_id, as_service=True)
        up = {port.id for port in ports if port.status == "ACTIVE"}
        return [port_id for port_id in port_ids if port_id not in up]

# SPDX-License-Identifier: Apache-2.0
"""The bridge driver's unprivileged half: hands whole plans to the privileged parent, serves metadata."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from cumulet.kernel.host.model import Host, HostError
from cumulet.network.drivers.bridge import operations
from cumulet.network.drivers.bridge.operations import ForGroup, ForNetwork, ForPort, ForRouter, Named
from cumulet.network.drivers.bridge.site import Site
from cumulet.network.drivers.model import (
    GroupPlan,
    MetadataPlan,
    NetworkError,
    NetworkPlan,
    Observed,
    PortPlan,
    RouterPlan,
)

if TYPE_CHECKING:
    from cumulet.network.drivers.bridge.metadata import MetadataProxy

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R")

log = logging.getLogger(__name__)

_TIMEOUT = 60.0
"""Seconds for one plan; plans of one machine follow one another."""


class BridgeNetwork:
    """Real packets on one Linux host: bridges and taps in its root namespace, DHCP and routers in their own."""

    def __init__(
        self,
        host: Host,
        *,
        cloud: str,
        underlay: str | None = None,
        guest_user: str | None = None,
        domain: str = "openstacklocal",
        reachable: list[int] | None = None,
    ) -> None:
        """``cloud`` is any id of this cloud's part of this machine: clouds that share a machine, and hosts of one
        cloud that do so in a test, must differ in it; ``underlay`` this host's tunnel
        address; ``guest_user`` owns the taps; ``reachable`` are TCP ports of this host that guests and
        routers may open on the public network's gateway address (none by default)."""
        self._host = host
        self._site = Site(cloud, underlay, guest_user, domain, reachable or [])
        self._namespaces: dict[str, int] = {}
        """network id -> inode of its DHCP namespace, as last ensured"""
        self._proxies: dict[str, tuple[int, MetadataProxy]] = {}
        self._metadata: MetadataPlan | None = None
        self._serving = asyncio.Lock()

    async def open(self) -> None:
        for warning in await self._call(operations.prepare, self._site):
            log.warning(warning)

    async def close(self) -> None:
        async with self._serving:
            for network_id in list(self._proxies):
                await self._stop_metadata(network_id)

    async def observed(self) -> Observed:
        return await self._call(operations.observe, self._site)

    async def ensure_network(self, plan: NetworkPlan) -> None:
        inode = await self._call(operations.ensure_network, ForNetwork(self._site, plan))
        self._namespaces[plan.id] = inode
        await self._serve_metadata(plan.id)

    async def drop_network(self, network_id: str) -> None:
        self._namespaces.pop(network_id, None)
        await self._serve_metadata(network_id)
        await self._call(operations.drop_network, Named(self._site, network_id))

    async def ensure_group(self, plan: GroupPlan) -> None:
        await self._call(operations.ensure_group, ForGroup(self._site, plan))

    async def drop_group(self, group_id: str) -> None:
        await self._call(operations.drop_group, Named(self._site, group_id))

    async def ensure_port(self, plan: PortPlan) -> None:
        await self._call(operations.ensure_port, ForPort(self._site, plan))

    async def drop_port(self, port_id: str) -> None:
        await self._call(operations.drop_port, Named(self._site, port_id))

    async def ensure_router(self, plan: RouterPlan) -> None:
        await self._call(operations.ensure_router, ForRouter(self._site, plan))

    async def drop_router(self, router_id: str) -> None:
        await self._call(operations.drop_router, Named(self._site, router_id))

    async def ensure_metadata(self, plan: MetadataPlan) -> None:
        self._metadata = plan
        for _, proxy in self._proxies.values():
            proxy.plan = plan
        for network_id in list(self._namespaces):
            await self._serve_metadata(network_id)

    async def purge(self) -> None:
        self._namespaces.clear()
        await self.close()
        await self._call(operations.purge, self._site)

    # -- metadata -------------------------------------------------------------------------------------

    async def _serve_metadata(self, network_id: str) -> None:
        """Have the network's metadata address served exactly when it should be, in the namespace that is there now."""
        async with self._serving:
            wanted = self._namespaces.get(network_id, 0)
            held = self._proxies.get(network_id)
            if held is not None and held[0] != wanted:
                await self._stop_metadata(network_id)
                held = None
            if held is not None or not wanted or self._metadata is None:
                return
            from cumulet.network.drivers.bridge.metadata import MetadataProxy

            listener = await self._listener(network_id)
            proxy = MetadataProxy(network_id, listener, self._metadata)
            await proxy.start()
            self._proxies[network_id] = (wanted, proxy)

    async def _listener(self, network_id: str) -> socket.socket:
        try:
            fds = await self._host.call_fd(operations.open_metadata, Named(self._site, network_id), timeout=_TIMEOUT)
        except (HostError, TimeoutError) as error:
            raise _refused(error) from error
        for surplus in fds[1:]:
            os.close(surplus)
        return socket.socket(fileno=fds[0])

    async def _stop_metadata(self, network_id: str) -> None:
        _, proxy = self._proxies.pop(network_id)
        await proxy.close()

    async def _call(self, operation: Callable[[P], R], params: P) -> R:
        try:
            return await self._host.call(operation, params, timeout=_TIMEOUT)
        except (HostError, TimeoutError) as error:
            raise _refused(error) from error


def _refused(error: Exception) -> NetworkError:
    return NetworkError(str(error) or "the host did not answer in time")

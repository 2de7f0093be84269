# SPDX-License-Identifier: Apache-2.0
"""Periodic truth: what this host has, to placement and to the conductor, and what the records say back."""

from __future__ import annotations

import logging

from cumulet.client.placement import PlacementClient
from cumulet.compute import rpc
from cumulet.compute.agent.agent import ComputeAgent
from cumulet.kernel import clock
from cumulet.kernel.loops import Loop

_log = logging.getLogger(__name__)
INTERVAL = 10.0
CPU_RATIO, MEMORY_RATIO, DISK_RATIO = 4.0, 1.0, 1.0
"""Allocation ratios as published defaults (initial_cpu_allocation_ratio …); what an operator sets afterwards stays."""
REFRESH = 300.0
"""Seconds after which placement is told again what it was told: somebody else may have changed it, or lost it."""


class Sweeper:
    """Drops images from this host's cache that no guest stands on and nobody asked for within ``age`` seconds."""

    def __init__(self, agent: ComputeAgent, *, age: float, every: float) -> None:
        self._agent, self._age = agent, age
        self.loop = Loop("image cache", every, self.sweep, at_start=False)

    async def sweep(self) -> None:
        tools = self._agent.tools
        guests = await tools.hypervisor.guests()
        if await tools.files.run(self._agent.rooted) - {guest.server_id for guest in guests}:
            return  # a guest that comes back may stand on an image that no other names
        used = {path for guest in guests for path in guest.bases}
        for name in await tools.cache.evict(used, self._age):
            _log.info("image %s left the cache: no guest uses it", name)


class Reporter:
    """Reports this host's resources and guests every `INTERVAL` seconds and when poked."""

    def __init__(
        self, agent: ComputeAgent, placement: PlacementClient, *, node: str, zone: str, host_ip: str, reserved_mib: int
    ) -> None:
        self._agent, self._placement = agent, placement
        self._node, self._zone, self._host_ip, self._reserved = node, zone, host_ip, reserved_mib
        self._started = clock.now()
        self._inventory: dict[str, dict[str, object]] | None = None
        self._told_at = 0.0
        self.loop = Loop("host report", INTERVAL, self.report, retry=0.5)

    async def report(self) -> None:
        tools = self._agent.tools
        found = await tools.hypervisor.resources()
        guests = await tools.hypervisor.guests()
        inventory: dict[str, dict[str, object]] = {
            "VCPU": {"total": found.vcpus, "allocation_ratio": CPU_RATIO, "max_unit": found.vcpus},
            "MEMORY_MB": {
                "total": found.memory_mib, "reserved": min(self._reserved, found.memory_mib),
                "allocation_ratio": MEMORY_RATIO, "max_unit": found.memory_mib,
            },
            "DISK_GB": {
                "total": max(found.disk_gib, 1), "allocation_ratio": DISK_RATIO, "max_unit": max(found.disk_gib, 1),
            },
        }  # fmt: skip
        now = clock.monotonic()
        if inventory != self._inventory or now >= self._told_at + REFRESH:
            await self._placement.ensure_provider(
                self._node, found.hostname, inventory, ["COMPUTE_NODE"], kept=["allocation_ratio"]
            )
            self._inventory, self._told_at = inventory, now
        kind = tools.hypervisor.capabilities
        told = rpc.Report(
            host=tools.host, node=self._node, zone=self._zone, hypervisor_hostname=found.hostname,
            hypervisor_type=kind.kind, hypervisor_version=found.hypervisor_version, cpu_info=found.cpu_info,
            host_ip=self._host_ip, vcpus=found.vcpus, memory_mib=found.memory_mib, disk_gib=found.disk_gib,
            vcpus_used=found.vcpus_used, memory_mib_used=found.memory_mib_used, disk_gib_used=found.disk_gib_used,
            disk_gib_free=found.disk_gib_free, running=found.running_guests,
            guests=[rpc.GuestReport(one.server_id, int(one.power_state), one.attempt) for one in guests],
            started_at=self._started, uptime=found.uptime, boot=found.boot,
        )  # fmt: skip
        verdict = await tools.bus.call(rpc.REPORT, told)
        for server_id in verdict.remove:
            _log.warning("guest of %s is not in the records of this host: it is removed", server_id)
            await self._agent.ensure_absent(rpc.EnsureAbsent(server_id, verdict.attempts.get(server_id, 0)))
        self._agent.comebacks.begin(verdict)

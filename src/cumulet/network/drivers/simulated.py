# SPDX-License-Identifier: Apache-2.0
"""A host's data plane that carries no packet: plans in a JSON file, with knobs for latency and failure.

The default where the machine has no privilege, and the engine of large
simulations. Invariants: it keeps the whole Protocol (the same conformance suite
as the real drivers); what was ensured is in the state file before the call
returns, so a restart finds it; the same calls, knobs and clock give the same
answers.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from cumulet.kernel import clock
from cumulet.kernel.files import write_whole
from cumulet.kernel.pools import Pool
from cumulet.network.drivers.model import (
    GroupPlan,
    MetadataPlan,
    NetworkError,
    NetworkPlan,
    Observed,
    PortPlan,
    RouterPlan,
)


class Failure(msgspec.Struct, frozen=True):
    """Make an operation fail."""

    operation: str
    """The Protocol method's name, or ``*``."""
    id: str | None = None
    """Only for this network, port or router; None: for any."""
    occurrence: int | None = None
    """Only the n-th matching call, counted from 1; None: each."""
    when: str = "before"
    """``before`` the effect, or ``after`` it (the answer is lost, the effect is not)."""
    message: str = "the simulated network was told to fail"


class Knobs(msgspec.Struct, frozen=True):
    """How one simulated host behaves."""

    latency: dict[str, float] = {}
    """Seconds by operation name; ``*`` is for those not named."""
    failures: list[Failure] = []


class Plans(msgspec.Struct):
    """Everything that is on this host, by id."""

    networks: dict[str, NetworkPlan] = {}
    ports: dict[str, PortPlan] = {}
    routers: dict[str, RouterPlan] = {}
    groups: dict[str, GroupPlan] = {}


class SimulatedNetwork:
    """Keeps plans instead of packets."""

    def __init__(
        self, *, state_file: str | os.PathLike[str] | None = None, knobs: Knobs | None = None, pool: Pool | None = None
    ) -> None:
        """``state_file``: where plans outlive this process; None keeps them in memory only. Files are written
        on ``pool`` (None writes inline, for simulations that use no threads)."""
        self.knobs = knobs or Knobs()
        self.metadata: MetadataPlan | None = None
        self.plans = Plans()
        self._path = None if state_file is None else Path(state_file)
        self._pool = pool or Pool("simulated network", 0)
        self._calls: Counter[int] = Counter()

    async def open(self) -> None:
        async with self._operation("open", None):
            self.plans = await self._pool.run(self._read)

    async def close(self) -> None:
        async with self._operation("close", None):
            pass

    async def observed(self) -> Observed:
        async with self._operation("observed", None):
            there = self.plans
            return Observed(sorted(there.networks), sorted(there.ports), sorted(there.routers), sorted(there.groups))

    async def ensure_network(self, plan: NetworkPlan) -> None:
        async with self._operation("ensure_network", plan.id):
            self.plans.networks[plan.id] = plan
            await self._save()

    async def drop_network(self, network_id: str) -> None:
        async with self._operation("drop_network", network_id):
            self.plans.networks.pop(network_id, None)
            await self._save()

    async def ensure_group(self, plan: GroupPlan) -> None:
        async with self._operation("ensure_group", plan.id):
            self.plans.groups[plan.id] = plan
            await self._save()

    async def drop_group(self, group_id: str) -> None:
        async with self._operation("drop_group", group_id):
            if any(rule.group == group_id for port in self.plans.ports.values() for rule in port.rules):
                raise NetworkError(f"the group {group_id} is named by a port's rule")
            self.plans.groups.pop(group_id, None)
            await self._save()

    async def ensure_port(self, plan: PortPlan) -> None:
        async with self._operation("ensure_port", plan.id):
            self._need(plan.network_id, f"port {plan.id}")
            self.plans.ports[plan.id] = plan
            await self._save()

    async def drop_port(self, port_id: str) -> None:
        async with self._operation("drop_port", port_id):
            self.plans.ports.pop(port_id, None)
            await self._save()

    async def ensure_router(self, plan: RouterPlan) -> None:
        async with self._operation("ensure_router", plan.id):
            for port in [*plan.interfaces, *([plan.gateway] if plan.gateway else [])]:
                self._need(port.network_id, f"router {plan.id}")
            self.plans.routers[plan.id] = plan
            await self._save()

    async def drop_router(self, router_id: str) -> None:
        async with self._operation("drop_router", router_id):
            self.plans.routers.pop(router_id, None)
            await self._save()

    async def ensure_metadata(self, plan: MetadataPlan) -> None:
        async with self._operation("ensure_metadata", None):
            self.metadata = plan  # holds a secret: kept in memory only

    async def purge(self) -> None:
        async with self._operation("purge", None):
            self.plans = Plans()
            if self._path is not None:
                await self._pool.run(self._path.unlink, missing_ok=True)

    @asynccontextmanager
    async def _operation(self, name: str, object_id: str | None) -> AsyncIterator[None]:
        """Latency, then the failures that are due before and after the effect."""
        latency = self.knobs.latency
        if seconds := latency.get(name, latency.get("*", 0.0)):
            await clock.sleep(seconds)
        due = [failure for index, failure in enumerate(self.knobs.failures) if self._due(index, name, object_id)]
        for failure in due:
            if failure.when == "before":
                raise NetworkError(failure.message)
        yield
        for failure in due:
            raise NetworkError(failure.message)

    def _due(self, index: int, name: str, object_id: str | None) -> bool:
        failure = self.knobs.failures[index]
        if failure.operation not in (name, "*") or failure.id not in (None, object_id):
            return False
        self._calls[index] += 1
        return failure.occurrence in (None, self._calls[index])

    def _need(self, network_id: str, whose: str) -> None:
        if network_id not in self.plans.networks:
            raise NetworkError(f"network {network_id} of {whose} is not on this host")

    async def _save(self) -> None:
        if self._path is not None:
            await self._pool.run(self._write, msgspec.json.encode(self.plans))

    def _read(self) -> Plans:
        if self._path is None or not self._path.exists():
            return Plans()
        return msgspec.json.decode(self._path.read_bytes(), type=Plans)

    def _write(self, content: bytes) -> None:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, content)

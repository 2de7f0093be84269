# SPDX-License-Identifier: Apache-2.0
"""One host's reconciler: asks what must be here, makes the difference true, reports what carries traffic.

It has no database and takes no input: a poke or the timer lets it look. What it
applied it remembers only to skip what did not change; after a restart it
applies everything again, which disturbs no packet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cumulet.kernel import clock
from cumulet.kernel.bus import Bus, Subscription
from cumulet.kernel.errors import Fault, Unavailable
from cumulet.kernel.loops import Loop
from cumulet.network.drivers.model import MetadataPlan, NetworkDriver, NetworkError
from cumulet.network.rpc import (
    CARRIED,
    DESIRED,
    FOUND,
    POKE,
    REPORT,
    Alive,
    Ask,
    Carried,
    Desired,
    Done,
    FloatingDone,
    Found,
    GroupPlan,
    Look,
    NetworkPlan,
    PortPlan,
    Report,
    RouterPlan,
)

Plan = TypeVar("Plan", GroupPlan, NetworkPlan, PortPlan, RouterPlan)
_log = logging.getLogger(__name__)
_AT_ONCE = 8
"""Plans that are applied at the same time."""
_STRETCH = 32
"""Changed plans that are applied before the agent looks up whether there is news."""
_RETRY = 1.0
"""Seconds until the next try after something failed; doubled up to the timer's period."""


@dataclass
class Applied:
    """What is on this host, by id: the plan that is in force, None where that is not known.

    What is here without a plan goes like anything else that is not desired.
    """

    groups: dict[str, GroupPlan | None] = field(default_factory=dict)
    networks: dict[str, NetworkPlan | None] = field(default_factory=dict)
    ports: dict[str, PortPlan | None] = field(default_factory=dict)
    routers: dict[str, RouterPlan | None] = field(default_factory=dict)


class NetworkAgent:
    """Keeps the network of one host as the network API wants it."""

    def __init__(
        self,
        bus: Bus,
        driver: NetworkDriver,
        host: str,
        *,
        every: float = 20.0,
        tunnel_address: str = "",
        metadata: MetadataPlan | None = None,
        kind: str = "",
    ) -> None:
        self._bus, self._driver, self._host = bus, driver, host
        self._tunnel, self._metadata, self._kind = tunnel_address, metadata, kind
        self._started_at = clock.now()
        self._applied = Applied()
        self._version = ""
        self._look_at = 0.0
        self._every = every
        self._delay = _RETRY
        self._opened = False
        self._news = False
        """Whether somebody poked since the running look began."""
        self._looked = False
        """Whether every router was compared with what is desired since this process began."""
        self._routers: dict[str, RouterPlan] = {}
        """As they were desired at the last look."""
        self._trouble: dict[str, str] = {}
        """Router id → why it could not be made as desired."""
        self._asked: list[asyncio.Future[None]] = []
        """Those who wait for a look at the routers that begins after their question."""
        self._subscription: Subscription | None = None
        self._again: asyncio.TimerHandle | None = None
        self.loop = Loop(f"network agent {host}", every, self.run)

    async def start(self) -> None:
        self._subscription = await self._bus.subscribe(
            {POKE: self._poked, CARRIED: self._carried, FOUND: self._found},
            component="network-agent",
            host=self._host,
            own_host=True,
        )
        await self.loop.start()

    async def stop(self) -> None:
        """Let go; packets go on flowing."""
        if self._again is not None:
            self._again.cancel()
        if self._subscription is not None:
            await self._subscription.stop()  # whoever asked is still answered by the next look
            self._subscription = None
        await self.loop.stop()
        if self._opened:
            self._opened = False
            await self._driver.close()

    async def _poked(self, _: Done) -> Done:
        self._news = True
        self.loop.poke()
        return Done()

    async def _carried(self, ask: Ask) -> Carried:
        """What leads through a router here, once it is as the records want it now."""
        if not ask.hoped or self._generation(ask) != ask.generation:
            looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._asked.append(looked)
            await self._poked(Done())
            await looked
        key, there, wanted = ask.router_id, self._applied.routers, self._routers
        settled = self._looked and there.get(key) == wanted.get(key) and (key in there) == (key in wanted)
        return Carried(self._generation(ask), settled, self._trouble.get(key, ""))

    async def _found(self, look: Look) -> Found:
        """What is really here, for whoever compares it with the records."""
        if not self._opened:
            raise Unavailable(f"The network agent of {self._host} has not looked at its host yet.")
        there = await self._driver.observed()
        return Found(list(there.networks), list(there.ports), list(there.routers))

    def _generation(self, ask: Ask) -> int:
        """Of the association that the address has on the router here; 0: none."""
        router = self._applied.routers.get(ask.router_id)
        return next((one.generation for one in router.floating if one.floating == ask.floating), 0) if router else 0

    async def run(self) -> None:
        """One look: ask, apply, report. What failed is tried again soon, what was left for news at once."""
        self._news = False
        asked, self._asked = self._asked, []
        try:
            complete = await self._reconcile(asked)
        except (Fault, NetworkError) as fault:
            _log.warning("the network agent of %s could not finish: %s", self._host, fault)
            complete = False
        finally:
            _answer(asked)
        if complete:
            self._delay = _RETRY
            return
        self._version = ""
        if not self._news:
            self._again = asyncio.get_running_loop().call_later(self._delay, self.loop.poke)
            self._delay = min(self._delay * 2, self._every)

    async def _reconcile(self, asked: list[asyncio.Future[None]]) -> bool:
        if not self._opened:
            await self._driver.open()
            self._opened = True
            if self._metadata is not None:
                await self._driver.ensure_metadata(self._metadata)
        full = clock.monotonic() >= self._look_at
        desired = await self._bus.call(DESIRED, self._alive(), timeout=30.0)
        if desired.unchanged and not full and not desired.awaited:
            return True
        if desired.unchanged:
            have = self._applied
            desired.networks, desired.ports = _plans(have.networks), _plans(have.ports)
            desired.routers, desired.groups = _plans(have.routers), _plans(have.groups)
        if full:
            await self._look()
            self._look_at = clock.monotonic() + self._every * 0.8
        complete = await self._apply(desired, asked)
        if complete:
            self._version = desired.version
        return complete

    def _alive(self) -> Alive:
        facts: dict[str, Any] = {
            "driver": self._kind, "networks": len(self._applied.networks), "ports": len(self._applied.ports),
            "routers": len(self._applied.routers), "tunneling_ip": self._tunnel, "tunnel_types": ["vxlan"],
        }  # fmt: skip
        return Alive(self._host, self._started_at, self._tunnel, facts, self._version)

    async def _look(self) -> None:
        """Compare with what is really on the host: forget plans of what is gone, note what is here without one."""
        found = await self._driver.observed()
        applied: dict[str, Any]
        for applied, there in (
            (self._applied.networks, found.networks),
            (self._applied.ports, found.ports),
            (self._applied.routers, found.routers),
            (self._applied.groups, found.groups),
        ):
            for key in applied.keys() - set(there):
                del applied[key]
            for key in there:
                applied.setdefault(key, None)

    async def _apply(self, desired: Desired, asked: list[asyncio.Future[None]]) -> bool:
        """Make the difference true: networks before what stands on them, and the other way round for what goes.

        Ports that are new here come first and are reported at once: servers wait for them. Those who ``asked``
        about a router hear once all routers had their turn.
        """
        have, driver = self._applied, self._driver
        self._routers, self._trouble = {one.id: one for one in desired.routers}, {}
        free = await self._remove(driver.drop_router, have.routers, desired.routers)
        free &= await self._remove(driver.drop_port, have.ports, desired.ports)
        complete = await self._ensure(driver.ensure_group, have.groups, desired.groups, {})
        lost: dict[str, str] = {}
        complete &= await self._ensure(driver.ensure_network, have.networks, desired.networks, lost)
        failed = {one.id: lost[one.network_id] for one in desired.ports if one.network_id in lost}
        ports = [one for one in desired.ports if one.network_id not in lost]
        new = [one for one in ports if have.ports.get(one.id) is None]
        complete &= await self._ensure(driver.ensure_port, have.ports, new, failed)
        awaited = await self._tell(desired, set(desired.awaited), failed)
        complete &= await self._ensure(driver.ensure_router, have.routers, desired.routers, self._trouble)
        self._looked = True
        _answer(asked)
        awaited = await self._tell(desired, awaited, {})
        known, failed = [one for one in ports if have.ports.get(one.id) not in (None, one)], {}
        for start in range(0, len(known), _STRETCH):
            if start and self._news:
                return False  # a new port must not wait for the filters of many old ones
            complete &= await self._ensure(driver.ensure_port, have.ports, known[start : start + _STRETCH], failed)
        await self._tell(desired, awaited, failed)
        # What could not be made holds up no removal: one tenant's plan must not keep another's things here.
        if free:  # what still stands on a network needs it
            complete &= await self._remove(driver.drop_network, have.networks, desired.networks)
        # a group that a rule still names is refused by the driver, and goes at a later look
        complete &= await self._remove(driver.drop_group, have.groups, desired.groups)
        return complete and free

    async def _ensure(
        self,
        ensure: Callable[[Plan], Awaitable[None]],
        applied: dict[str, Plan | None],
        wanted: Sequence[Plan],
        failed: dict[str, str],
    ) -> bool:
        """Apply the plans that are not in force yet; those that fail go to ``failed`` with the reason."""
        places = asyncio.Semaphore(_AT_ONCE)
        before = len(failed)
        errors = 0

        async def one(plan: Plan) -> None:
            nonlocal errors
            async with places:
                try:
                    await ensure(plan)
                except (NetworkError, TimeoutError) as error:
                    _log.warning("%s %s: %s", type(plan).__name__, plan.id, error)
                    applied.pop(plan.id, None)
                    failed[plan.id] = str(error) or type(error).__name__
                    errors += 1
                else:
                    applied[plan.id] = plan

        await asyncio.gather(*(one(plan) for plan in wanted if applied.get(plan.id) != plan))
        return errors == 0 and len(failed) == before

    async def _remove(
        self, drop: Callable[[str], Awaitable[None]], applied: dict[str, Any], wanted: Sequence[Plan]
    ) -> bool:
        kept = {plan.id for plan in wanted}
        complete = True
        for key in [key for key in applied if key not in kept]:
            try:
                await drop(key)
            except (NetworkError, TimeoutError) as error:
                _log.warning("%s can't be removed: %s", key, error)
                complete = False
            else:
                del applied[key]
        return complete

    async def _tell(self, desired: Desired, awaited: set[str], failed: dict[str, str]) -> set[str]:
        """Report what of the awaited is in force, and what failed; returns what is still awaited."""
        have = self._applied
        up = {one.id for one in desired.ports if have.ports.get(one.id) == one}
        up |= {one.dhcp_port[0] for one in desired.networks if one.dhcp_port and have.networks.get(one.id) == one}
        floating = []
        for router in desired.routers:
            if have.routers.get(router.id) == router:
                up |= {end.port_id for end in (*router.interfaces, router.gateway) if end is not None}
                floating += [
                    FloatingDone(router.id, one.floating, one.fixed, one.generation) for one in router.floating
                ]
        report = Report(self._host, sorted(up & awaited), failed, [one for one in floating if one.floating in awaited])
        if report.up or report.failed or report.floating:
            await self._bus.call(REPORT, report, timeout=30.0)
        return awaited - up - {one.floating for one in report.floating}


def _answer(asked: list[asyncio.Future[None]]) -> None:
    for one in asked:
        if not one.done():
            one.set_result(None)


def _plans(applied: dict[str, Plan | None]) -> list[Plan]:
    return [plan for plan in applied.values() if plan is not None]

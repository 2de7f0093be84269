# SPDX-License-Identifier: Apache-2.0
"""The targeted mode: an operation is killed at every point that it passes, all of them in one kill.

One run without a kill finds the points (each step of each saga before, inside and
after; each call between). Then as many operations as there are points are
begun; each is held at another point; the process is killed with all of them
inside, started again, and judged: every server is ACTIVE, ERROR with a fault,
or gone, and the checker finds nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cumulet.cli.chaos.process import CloudProcess
from cumulet.cli.chaos.scenarios import Item, Scenario, Site

_STILL = 8.0
"""Seconds in which nothing happens after which the rest counts as not reached."""
_COMING = 60.0
"""Seconds in which no further operation comes to its gate after which none is waited for."""
QUIET_WITHIN = 90.0


@dataclass
class Swept:
    """What one sweep of one operation showed."""

    operation: str
    points: list[str]
    held: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    """Status of the servers after the restart → how many."""
    faults: dict[str, int] = field(default_factory=dict)
    """Faults of the servers in ERROR → how many."""
    unexplained: list[str] = field(default_factory=list)
    """Servers that are in none of the allowed states."""
    findings: list[dict[str, Any]] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    """What was still there when everything had been deleted."""
    seconds: float = 0.0
    quiet_after: float = 0.0
    """Seconds from the restart until every invariant held."""

    @property
    def good(self) -> bool:
        return not (self.unexplained or self.findings or self.leftovers)

    @property
    def unreached(self) -> list[str]:
        return [point for point in self.points if point not in self.held]


async def sweep(process: CloudProcess, site: Site, scenario: Scenario) -> Swept:
    """Kill the operation everywhere at once. The process runs before and after."""
    begun = time.monotonic()
    process.hold([])
    found = Swept(scenario.name, await _discover(process, site, scenario))
    items = await _several(site, scenario, len(found.points))
    acting = await _begin(process, site, scenario, items)
    already = len(process.lines("held"))
    process.hold(found.points)
    if not acting:
        acting = [asyncio.ensure_future(scenario.act(site, item)) for item in items]
    found.held = await _wait_for_all(process, already, acting)
    await process.kill()
    process.hold([])
    await asyncio.gather(*acting, return_exceptions=True)
    await process.start()
    restarted = time.monotonic()
    await judge(site, found)
    found.quiet_after = time.monotonic() - restarted
    await clear(site, found)
    found.seconds = time.monotonic() - begun
    return found


async def _begin(process: CloudProcess, site: Site, scenario: Scenario, items: list[Item]) -> list[asyncio.Future[Any]]:
    """Bring all operations to the scenario's gate and ask for what comes ``then``; without a gate nothing is begun."""
    if scenario.then is None:
        return []
    already = len(process.lines("held"))
    process.hold([f"*{scenario.gate}"])
    await asyncio.gather(*(scenario.act(site, item) for item in items))
    came, until = 0, time.monotonic() + _COMING
    while (now := len(process.lines("held", already))) < len(items):
        if now > came:
            came, until = now, time.monotonic() + _COMING
        if time.monotonic() > until:
            raise RuntimeError(f"only {came} of {len(items)} came to {scenario.gate}")
        await asyncio.sleep(0.05)
    for item in items:
        await scenario.then(site, item)
    return [asyncio.ensure_future(asyncio.sleep(0)) for _ in items]


async def _discover(process: CloudProcess, site: Site, scenario: Scenario) -> list[str]:
    """The points of one undisturbed operation, in the order in which it passes them."""
    item = await scenario.prepare(site)
    begun = await _begin(process, site, scenario, [item])
    already = len(process.lines("reached"))
    process.hold([])
    if not begun:
        await scenario.act(site, item)
    until = time.monotonic() + 30
    while not await scenario.done(site, item):
        if time.monotonic() > until:
            raise RuntimeError(f"{scenario.name} did not end")
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)  # the last commit follows what the API shows
    points = dict.fromkeys(line.partition(" ")[2] for line in process.lines("reached", already))
    return [point for point in points if " GET " not in point]  # a question changes nothing


async def _several(site: Site, scenario: Scenario, number: int) -> list[Item]:
    places = asyncio.Semaphore(8)

    async def one() -> Item:
        async with places:
            return await scenario.prepare(site)

    return list(await asyncio.gather(*(one() for _ in range(number))))


async def _wait_for_all(process: CloudProcess, already: int, acting: Sequence[asyncio.Future[Any]]) -> list[str]:
    """The points that hold a flow: all, or those after which nothing more happened for a while."""
    held: list[str] = []
    happened, still = 0, time.monotonic()
    while len(held) < len(acting) and time.monotonic() < still + _STILL:
        await asyncio.sleep(0.05)
        held = [line.partition(" ")[2] for line in process.lines("held", already)]
        now = len(held) + sum(one.done() for one in acting)
        if now > happened:
            happened, still = now, time.monotonic()
    return held


async def judge(site: Site, found: Swept, within: float = QUIET_WITHIN) -> None:
    """Wait until every server is at rest and the checker is content; what is not so by then is told."""
    until = time.monotonic() + within
    while True:
        servers = await site.user.servers()
        found.unexplained = [_told(one) for one in servers if not _is_explained(one)]
        reply = await site.admin.ask("GET", "/cumulet/v1/check")
        told: dict[str, Any] = (
            reply.json if reply.good else {"clean": False, "findings": [], "unread": {"insight": str(reply.status)}}
        )
        found.findings = told["findings"] + [{"unread": one} for one in told["unread"].items()]
        found.outcomes = dict(Counter(one["status"] for one in servers))
        faults = [(one.get("fault") or {}).get("message", "") for one in servers if one["status"] == "ERROR"]
        found.faults = dict(Counter(re.sub(r"[0-9a-f-]{36}", "…", one) for one in faults))
        if (not found.unexplained and told["clean"] and not await _working(site)) or time.monotonic() > until:
            return
        await asyncio.sleep(0.3)


async def _working(site: Site) -> bool:
    """Whether any saga is not over yet."""
    for path in ("/compute/v2.1", "/volume/v3", "/network/v2.0"):
        if await site.admin.listed(f"{path}/cumulet/owned?kind=saga", "owned"):
            return True
    return False


def _is_explained(server: dict[str, Any]) -> bool:
    failed = server["status"] == "ERROR" and bool((server.get("fault") or {}).get("message"))
    return server["OS-EXT-STS:task_state"] is None and (server["status"] in ("ACTIVE", "SHUTOFF") or failed)


def _told(server: dict[str, Any]) -> str:
    return f"{server['id']} {server['status']} ({server['OS-EXT-STS:task_state']}) {server.get('fault') or ''}"


async def clear(site: Site, found: Swept) -> None:
    """Delete everything through the API; nothing may stay."""
    user = site.user
    for one in await user.servers():
        await user.ask("DELETE", f"/compute/v2.1/servers/{one['id']}")
    await user.when(lambda: _none(user.servers()), QUIET_WITHIN)
    for path, one in await _own_network_things(site):
        await user.ask("DELETE", f"{path}/{one['id']}")
    for one in await user.volumes():
        await user.ask("DELETE", f"/volume/v3/volumes/{one['id']}")
    await user.when(lambda: _none(user.volumes()), QUIET_WITHIN)
    found.leftovers += [f"server {one['id']} {one['status']}" for one in await user.servers()]
    found.leftovers += [f"volume {one['id']} {one['status']}" for one in await user.volumes()]
    found.leftovers += [f"{path}/{one['id']}" for path, one in await _own_network_things(site)]
    if not found.findings:
        again = Swept(found.operation, [])
        await judge(site, again)
        found.findings = again.findings


async def _none(listed: Awaitable[list[Any]]) -> bool:
    return not await listed


async def _own_network_things(site: Site) -> list[tuple[str, dict[str, Any]]]:
    """Floating IPs, then the ports that are not the network service's own."""
    floating = await site.user.listed("/network/v2.0/floatingips", "floatingips")
    ports = await site.user.listed("/network/v2.0/ports", "ports")
    return [("/network/v2.0/floatingips", one) for one in floating] + [
        ("/network/v2.0/ports", one) for one in ports if not str(one["device_owner"]).startswith("network:")
    ]

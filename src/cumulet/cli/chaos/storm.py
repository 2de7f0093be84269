# SPDX-License-Identifier: Apache-2.0
"""The random mode: servers, volumes and floating IPs come and go at a steady rate while the cloud is killed.

The seed gives the plan: when, and whether something is killed, stopped for
longer than a lease, cut off, or restarted below the cloud. Half of the kills
wait until a flow stands at a point that was hit least so far. Judged is what
anybody can see afterwards: every server at rest, every invariant kept, all that
was promised there, all that was deleted gone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cumulet.cli.chaos.coverage import Coverage
from cumulet.cli.chaos.process import CloudProcess
from cumulet.cli.chaos.scenarios import Site
from cumulet.cli.chaos.spread import SpreadCloud
from cumulet.cli.chaos.sweep import Swept, clear, judge

_log = logging.getLogger(__name__)
_AIMED = 0.5
"""Share of the kills that wait for a flow to stand at a chosen point."""


@dataclass(frozen=True)
class Blow:
    """One thing that happens to the cloud, ``after`` seconds."""

    after: float
    kind: str
    aimed: bool = False
    """A kill that waits for a flow to come to the point that was hit least."""


def plan_of(kills: int, seed: int, kinds: Mapping[str, float]) -> list[Blow]:
    """So many kills and, between them, what else can happen, each at its rate (relative to kills); the seed decides."""
    dice = random.Random(seed)  # noqa: S311 - a plan that can be repeated, no secret
    names, weights = ["kill", *kinds], [1.0, *kinds.values()]
    plan: list[Blow] = []
    while kills:
        kind = dice.choices(names, weights)[0]
        plan.append(Blow(round(dice.uniform(0.05, 1.2), 3), kind, dice.random() < _AIMED and kind == "kill"))
        kills -= kind == "kill"
    return plan


@dataclass
class Storm:
    """What a storm did and showed."""

    seed: int
    plan: list[Blow]
    begun: dict[str, int] = field(default_factory=dict)
    """Operations that were asked for, by name; those that were accepted as ``<name> ok``."""
    ended: dict[str, int] = field(default_factory=dict)
    """How servers ended."""
    blows: int = 0
    """How much of the plan was carried out."""
    struck: dict[str, int] = field(default_factory=dict)
    """What was done to whom → how often."""
    coverage: Coverage = field(default_factory=Coverage)
    restarts: list[float] = field(default_factory=list)
    """Seconds of each start after a kill."""
    died: list[str] = field(default_factory=list)
    """Processes that ended although nobody killed them."""
    broken_promises: list[str] = field(default_factory=list)
    swept: Swept = field(default_factory=lambda: Swept("storm", []))
    seconds: float = 0.0
    _made: set[str] = field(default_factory=set)
    _deleted: set[str] = field(default_factory=set)

    @property
    def good(self) -> bool:
        return self.swept.good and not self.broken_promises and not self.died

    @property
    def kills(self) -> int:
        return sum(blow.kind == "kill" for blow in self.plan[: self.blows])

    def count(self, what: str, good: bool = False) -> None:
        """Count a request, or, ``good``, one that was accepted."""
        name = f"{what} ok" if good else what
        self.begun[name] = self.begun.get(name, 0) + 1

    def accepted(self, what: str, path: str, good: bool) -> bool:
        """Note an answer: what was accepted is a promise."""
        self.count(what, good)
        deletes = what.startswith("delete")
        if good:
            (self._deleted if deletes else self._made).add(path)
        elif deletes:
            self._made.discard(path)  # nobody knows whether it was heard
        return good


async def storm(cloud: CloudProcess | SpreadCloud, site: Site, kills: int, seed: int, workers: int = 6) -> Storm:
    """Kill the cloud, or a part of it, ``kills`` times while ``workers`` users work on it. It runs before and after."""
    begun = time.monotonic()
    found = Storm(seed, plan_of(kills, seed, cloud.kinds))
    dice = random.Random(seed)  # noqa: S311 - which of the points that were hit least
    over = asyncio.Event()
    working = [
        asyncio.ensure_future(_work(site, found, random.Random(seed * 1000 + number), over))  # noqa: S311
        for number in range(workers)
    ]
    watching = asyncio.ensure_future(_look(cloud))
    try:
        for blow in found.plan:
            await asyncio.sleep(blow.after * cloud.pace)
            _, points = found.coverage.aim(cloud.known, dice) if blow.aimed else (None, [])
            struck = await cloud.strike(blow.kind, points)
            found.struck[struck.what] = found.struck.get(struck.what, 0) + 1
            if blow.kind == "kill":
                found.coverage.count(struck.at_work, struck.held)
            found.blows += 1
            if found.blows % 50 == 0:
                _log.info("%d of %d blows after %.0f s", found.blows, len(found.plan), time.monotonic() - begun)
    except asyncio.CancelledError:
        pass  # interrupted: what was done so far is judged
    finally:
        await cloud.start()
        over.set()
        watching.cancel()
        await asyncio.gather(*working, watching, return_exceptions=True)
    found.restarts, found.died = cloud.restart_seconds, cloud.died
    restarted = time.monotonic()
    await judge(site, found.swept)
    found.swept.quiet_after = time.monotonic() - restarted
    await _hold_to_promises(site, found)
    await clear(site, found.swept)
    found.seconds = time.monotonic() - begun
    return found


async def _look(cloud: CloudProcess | SpreadCloud) -> None:
    """Follow the flows, so that one that went on elsewhere is not taken to be where it was."""
    while True:
        cloud.look()
        await asyncio.sleep(0.25)


async def _hold_to_promises(site: Site, found: Storm) -> None:
    for path in sorted(found._made | found._deleted):
        reply = await site.user.ask("GET", path)
        wanted = 404 if path in found._deleted else 200
        if reply.status != wanted:
            found.broken_promises.append(f"GET {path} answers {reply.status}, not {wanted}")


async def _work(site: Site, found: Storm, dice: random.Random, over: asyncio.Event) -> None:
    """One user: a server with more or less around it, again and again. Nothing is taken for granted."""
    while not over.is_set():
        try:
            await _one_life(site, found, dice)
        except (RuntimeError, KeyError, TypeError, LookupError) as error:
            found.count(f"given up: {type(error).__name__}")
        await asyncio.sleep(dice.uniform(0.05, 0.4))


async def _one_life(site: Site, found: Storm, dice: random.Random) -> None:
    volume = await _make_volume(site, found) if dice.random() < 0.75 else None
    at_boot = volume is not None and dice.random() < 0.35
    reply = await site.post_server({"volume": volume} if volume is not None and at_boot else {})
    if not found.accepted("create server", f"/compute/v2.1/servers/{_id(reply, 'server')}", reply.good):
        return
    server = str(_id(reply, "server"))
    path = f"/compute/v2.1/servers/{server}"
    if dice.random() < 0.15:
        await asyncio.sleep(dice.uniform(0.0, 0.5))  # deleted while it is built
    else:
        status = await site.user.until(path, "server", ["ACTIVE", "ERROR", "gone"], 120)
        found.ended[status] = found.ended.get(status, 0) + 1
        if status == "ACTIVE":
            await _use(site, found, dice, server, None if at_boot else volume)
    if dice.random() < 0.9:
        reply = await site.user.ask("DELETE", path)
        found.accepted("delete server", path, reply.status == 204)


async def _use(site: Site, found: Storm, dice: random.Random, server: str, volume: str | None) -> None:
    """Attach, associate, and take it back, each with a good chance."""
    if volume is not None:
        item = {"server": server, "volume": volume}
        reply = await site.attach(item)
        found.count("attach", reply.good)
        if dice.random() < 0.7:
            await site.user.until(f"/volume/v3/volumes/{volume}", "volume", ["in-use", "gone"], 30)
            gone = await site.user.ask("DELETE", f"/compute/v2.1/servers/{server}/os-volume_attachments/{volume}")
            found.count("detach", gone.good)
    if dice.random() < 0.5:
        floating, port = await site.floating(), await site.first_port(server)
        item = {"floating": floating}
        reply = await site.lead(item, port)
        found.count("associate", reply.good)
        if dice.random() < 0.5:
            reply = await site.lead(item, None)
            found.count("disassociate", reply.good)
        path = f"/network/v2.0/floatingips/{floating}"
        reply = await site.user.ask("DELETE", path)
        found.accepted("delete floating IP", path, reply.good)


async def _make_volume(site: Site, found: Storm) -> str | None:
    reply = await site.user.ask("POST", "/volume/v3/volumes", {"volume": {"size": 1}})
    path = f"/volume/v3/volumes/{_id(reply, 'volume')}"
    if not found.accepted("create volume", path, reply.good):
        return None
    status = await site.user.until(path, "volume", ["available", "error", "gone"], 60)
    return str(_id(reply, "volume")) if status == "available" else None


def _id(reply: Any, key: str) -> Any:
    return reply.json[key]["id"] if reply.good and reply.json else None

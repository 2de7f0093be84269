# SPDX-License-Identifier: Apache-2.0
"""The random mode: servers, volumes and floating IPs come and go at a steady rate while the cloud is killed.

The seed gives the plan: when, and whether something is killed, stopped for
longer than a lease, cut off, or restarted below the cloud, and in which order
kills aim at the steps. Until each step was hit before, inside and after, every
kill is aimed, then half of them: a flow is sent there, and the kill waits for it.
Judged is what anybody can see afterwards: every server at rest, every invariant
kept, all that was promised there, all that was deleted gone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cumulet.cli.chaos.coverage import Aim, Coverage, rows
from cumulet.cli.chaos.errands import Errands
from cumulet.cli.chaos.process import CloudProcess
from cumulet.cli.chaos.scenarios import Site
from cumulet.cli.chaos.spread import SpreadCloud
from cumulet.cli.chaos.sweep import Swept, clear, judge
from cumulet.cli.chaos.users import Promises, work

_log = logging.getLogger(__name__)
_AIMED = 0.5
"""Share of the kills that wait for a flow to stand at a chosen point, once each was hit."""
_ENOUGH = 2
"""With so many kills for each row of the coverage none may stay without a hit."""


@dataclass(frozen=True)
class Blow:
    """One thing that happens to the cloud, ``after`` seconds."""

    after: float
    kind: str
    aimed: bool = False
    """A kill that waits for a flow to come to a chosen point (others may, too, as long as some were never hit)."""


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
    promises: Promises = field(default_factory=Promises)
    blows: int = 0
    """How much of the plan was carried out."""
    struck: dict[str, int] = field(default_factory=dict)
    """What was done to whom → how often."""
    coverage: Coverage = field(init=False)
    restarts: list[float] = field(default_factory=list)
    """Seconds of each start after a kill."""
    died: list[str] = field(default_factory=list)
    """Processes that ended although nobody killed them."""
    broken_promises: list[str] = field(default_factory=list)
    swept: Swept = field(default_factory=lambda: Swept("storm", []))
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.coverage = Coverage(self.seed)

    @property
    def good(self) -> bool:
        return self.sound and not self.thin and not self.idle

    @property
    def sound(self) -> bool:
        """Nothing was lost, left over or stuck."""
        return self.swept.good and not self.broken_promises and not self.died

    @property
    def idle(self) -> bool:
        """Not one server was accepted, so nothing was shown."""
        return not self.promises.begun.get("create server ok")

    @property
    def thin(self) -> bool:
        """There were kills enough to hit every row, and some were not: what was not hit is not shown."""
        return self.kills >= _ENOUGH * len(rows()) and bool(self.coverage.missing)

    @property
    def kills(self) -> int:
        return sum(blow.kind == "kill" for blow in self.plan[: self.blows])


async def storm(cloud: CloudProcess | SpreadCloud, site: Site, kills: int, seed: int, workers: int = 6) -> Storm:
    """Kill the cloud, or a part of it, ``kills`` times while ``workers`` users work on it. It runs before and after."""
    begun = time.monotonic()
    found = Storm(seed, plan_of(kills, seed, cloud.kinds))
    errands = Errands(site, found.promises)
    over = asyncio.Event()
    working = [
        asyncio.ensure_future(work(site, found.promises, random.Random(seed * 1000 + number), over))  # noqa: S311
        for number in range(workers)
    ]
    watching = asyncio.ensure_future(_look(cloud))
    _log.info("the cloud is up; %d blows are to come", len(found.plan))
    try:
        for blow in found.plan:
            await asyncio.sleep(blow.after * cloud.pace)
            await _strike(cloud, found, blow, errands)
            found.blows += 1
            if found.blows % 50 == 0:
                _log.info("%d of %d blows after %.0f s", found.blows, len(found.plan), time.monotonic() - begun)
    except asyncio.CancelledError:
        pass  # interrupted: what was done so far is judged
    finally:
        await cloud.start()
        over.set()
        watching.cancel()
        ends = await asyncio.gather(*working, errands.ended(), watching, return_exceptions=True)
        found.broken_promises += [f"a user gave up: {one!r}" for one in ends if isinstance(one, Exception)]
    found.restarts, found.died = cloud.restart_seconds, cloud.died
    restarted = time.monotonic()
    await judge(site, found.swept)
    found.swept.quiet_after = time.monotonic() - restarted
    await _hold_to_promises(site, found)
    await clear(site, found.swept)
    found.seconds = time.monotonic() - begun
    return found


async def _strike(cloud: CloudProcess | SpreadCloud, found: Storm, blow: Blow, errands: Errands) -> None:
    """Let one thing of the plan happen."""
    aim = None
    if blow.kind == "kill" and (blow.aimed or found.coverage.missing):
        row, points = found.coverage.aim(cloud.known)
        aim = Aim(row, points, lambda: errands.begin(row[0]))
    try:
        struck = await cloud.strike(blow.kind, aim)
    finally:
        errands.enough()
    found.struck[struck.what] = found.struck.get(struck.what, 0) + 1
    if blow.kind == "kill":
        found.coverage.count(struck.at_work, struck.held, aim.row if aim is not None else None)


async def _look(cloud: CloudProcess | SpreadCloud) -> None:
    """Follow the flows, so that one that went on elsewhere is not taken to be where it was."""
    while True:
        cloud.look()
        await asyncio.sleep(0.25)


async def _hold_to_promises(site: Site, found: Storm) -> None:
    made, deleted = found.promises.made, found.promises.deleted
    for path in sorted(made | deleted):
        reply = await site.user.ask("GET", path)
        wanted = 404 if path in deleted else 200
        if reply.status != wanted:
            found.broken_promises.append(f"GET {path} answers {reply.status}, not {wanted}")

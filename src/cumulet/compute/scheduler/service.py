# SPDX-License-Identifier: Apache-2.0
"""The scheduler role: keeps a snapshot of all hosts current, and answers "which host?" with a claim.

It holds nothing that can be lost: the snapshot is rebuilt from placement's feed
and the conductor's list. Before it says that there is no host it reads both
again, so a snapshot that lags never costs a server its host.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from cumulet.client.placement import PlacementClient
from cumulet.compute.scheduler import rpc
from cumulet.compute.scheduler.claims import Claims, Option, Walk
from cumulet.compute.scheduler.model import HostReport, Request, Why
from cumulet.compute.scheduler.select import select
from cumulet.compute.scheduler.snapshot import Snapshot
from cumulet.kernel import clock, trace
from cumulet.kernel.bus import Bus, Subscription
from cumulet.kernel.errors import Fault, NotFound, Unavailable
from cumulet.kernel.loops import Loop

_log = logging.getLogger(__name__)
_WAIT = 10
"""Seconds of one long poll of placement's feed."""
_PULL = 30.0
"""Seconds between pulls of the conductor's list (reports come by themselves; one may be lost)."""
NO_HOST = "There are not enough hosts available."


class _NoHost(Exception):
    """No host can take the server."""

    def __init__(self, why: Why) -> None:
        super().__init__(f"No valid host was found. {NO_HOST}")
        self.why = why


class Scheduler:
    """One scheduler; any number may run side by side."""

    def __init__(self, bus: Bus, placement: PlacementClient, *, host: str) -> None:
        self._bus, self._placement, self._host = bus, placement, host
        self.snapshot = Snapshot()
        self._claims = Claims(placement, self.snapshot)
        self._sequence = 0
        self._fresh = False
        self._reading = asyncio.Lock()
        self._subscription: Subscription | None = None
        self._follower: asyncio.Task[None] | None = None
        self._pull = Loop("scheduler hosts", _PULL, self.pull_hosts)

    async def start(self) -> None:
        self._subscription = await self._bus.subscribe(
            {rpc.SELECT_AND_CLAIM: self.select_and_claim, rpc.RELEASE: self.release, rpc.REPORT: self.report},
            component="scheduler",
            host=self._host,
        )
        await self._pull.start()
        self._follower = asyncio.get_running_loop().create_task(self._follow(), name="placement feed")

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.stop()
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        await self._pull.stop()

    # ---- the snapshot's feeds

    async def report(self, told: HostReport) -> rpc.Done:
        """A host's report, from the conductor."""
        self.snapshot.report(told)
        return rpc.Done()

    async def pull_hosts(self) -> None:
        """All hosts, from the conductor; without one the reports alone must do."""
        asked_at = clock.now()
        try:
            told = await self._bus.call(rpc.HOSTS, rpc.AskHosts(self._host), timeout=10.0)
        except Unavailable as error:
            _log.debug("no list of hosts: %s", error.message)
            return
        for one in told.hosts:
            self.snapshot.report(one)
        self.snapshot.keep_only([one.node for one in told.hosts], asked_at)

    async def _follow(self) -> None:
        """Take over placement's changes for as long as we run."""
        while True:
            try:
                await self._read(_WAIT)
            except NotFound:  # not our placement: it is asked at each request
                self.snapshot.room_known = False
                await clock.sleep(60.0)
            except Exception as error:
                _log.debug("placement's feed: %s", error)
                await clock.sleep(1.0)

    async def _read(self, wait: int) -> None:
        """One answer of the feed, or all that is there when ``wait`` is 0."""
        if wait:
            after = self._sequence
            changes = await self._placement.changes(after, wait=wait)
            async with self._reading:
                if after == self._sequence:  # else someone read on meanwhile
                    self._apply(changes)
            return
        async with self._reading:
            more = True
            while more:
                changes = await self._placement.changes(self._sequence)
                self._apply(changes)
                more = changes.more

    def _apply(self, changes: Any) -> None:
        if changes.complete:
            self.snapshot.replace_providers(changes.providers)
        else:
            self.snapshot.update_providers(changes.providers, changes.deleted)
        self._sequence = changes.sequence

    async def refresh(self) -> None:
        """Read both feeds up to now."""
        try:
            await self._read(0)
        except NotFound:
            self.snapshot.room_known = False
        await self.pull_hosts()
        self.snapshot.settle_all()
        self._fresh = True

    # ---- selecting

    async def select_and_claim(self, request: Request) -> rpc.Selection:
        """The best host, claimed for the server; or none, with the reasons. Repeatable."""
        trace.record("scheduler.receive", detail={"attempt": request.attempt})
        if not self._fresh:
            await self.refresh()
        try:
            with trace.step("scheduler.select") as detail:
                walk = Walk(request, self._claims)
                option = await self._choose(walk)
                best = self.snapshot.host(option[0])
                detail.update(hosts=walk.why.hosts, passed=len(walk.order), best=best)
            with trace.step("scheduler.claim") as detail:
                row = await self._claim(walk, option)
                detail.update(host=self.snapshot.host(row), tried=len(walk.why.tried))
        except _NoHost as none:
            return rpc.Selection(None, None, reason=NO_HOST, why=_document(none.why))
        chosen = self._named(row)
        alternates = [self._named(other) for other in walk.alternates(row)]
        return rpc.Selection(chosen.host, chosen.node, alternates, why=_document(walk.why))

    async def _choose(self, walk: Walk) -> Option:
        """The best host that placement would give; looks twice, the second time with everything read again."""
        while True:
            await self._rank(walk)
            option = await walk.next()
            if option is not None:
                return option
            if walk.why.rounds == 2:
                break
            await self._refreshed()
        row = await self._claims.earlier(walk.request)
        if row is not None:  # its own claim is what filled the host
            return row, None
        raise _NoHost(walk.why)

    async def _claim(self, walk: Walk, option: Option | None) -> int:
        """Claim the first host that placement really gives; returns its row."""
        while option is not None:
            row, candidate = option
            if candidate is None:
                walk.tell(row, "found")
                return row
            claimed, tried = await self._claims.take(walk.request, row, candidate)
            walk.why.tried.append(tried)
            if claimed is not None:
                return claimed
            option = await walk.next()
            if option is None and walk.why.rounds == 1:  # all were lost to others: what is left now?
                await self._refreshed()
                option = await self._choose(walk)
        raise _NoHost(walk.why)

    async def _rank(self, walk: Walk) -> None:
        now = clock.now()
        self.snapshot.expire(now)
        known = None if self.snapshot.room_known else await self._claims.candidates(walk.request)
        ranking = select(walk.request, self.snapshot, now, only=None if known is None else list(known))
        walk.begin(ranking, known)

    async def _refreshed(self) -> None:
        try:
            await self.refresh()
        except Fault as fault:  # then what we have must do
            _log.warning("the snapshot could not be refreshed: %s", fault.message)

    def _named(self, row: int) -> rpc.Alternate:
        return rpc.Alternate(self.snapshot.host(row), self.snapshot.nodes[row])

    async def release(self, told: rpc.ReleaseHost) -> rpc.Done:
        """Give the server's claim back; repeatable."""
        await self._claims.release(told.server_id, told.fence)
        return rpc.Done()


def _document(why: Why) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(why)
    return document

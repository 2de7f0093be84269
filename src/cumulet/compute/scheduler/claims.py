# SPDX-License-Identifier: Apache-2.0
"""Claims in placement: the exact word on a host that the snapshot only guessed.

Invariant: a server holds at most one claim, under its own id. A claim that an
earlier try of the same step made is found again and counts as made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cumulet.client.placement import CONCURRENT_UPDATE, Allocations, Candidate, PlacementClient
from cumulet.compute.scheduler.model import Request, Tried, Why
from cumulet.compute.scheduler.select import Ranking
from cumulet.compute.scheduler.snapshot import Snapshot
from cumulet.kernel import clock, fences
from cumulet.kernel.errors import Conflict, Invalid

_TRIES = 5


@dataclass
class Claims:
    """Asks placement for candidates and takes them."""

    placement: PlacementClient
    snapshot: Snapshot

    async def candidate(self, request: Request, row: int) -> Candidate | None:
        """What placement would give on this host, exactly; None: it can't."""
        node = self.snapshot.nodes[row]
        required, forbidden = request.traits()
        found = await self.placement.candidates(
            request.resources(), required=sorted(required), forbidden=sorted(forbidden), in_tree=node, limit=1
        )
        return found[0] if found else None

    async def candidates(self, request: Request) -> dict[int, Candidate]:
        """The possible hosts, each with its candidate, for a placement without our feed."""
        required, forbidden = request.traits()
        found = await self.placement.candidates(
            request.resources(), required=sorted(required), forbidden=sorted(forbidden), limit=1000
        )
        by_row: dict[int, Candidate] = {}
        for one in found:
            for root in one.roots:
                row = self.snapshot.row_of_node(root)
                if row is not None:
                    by_row.setdefault(row, one)
        return by_row

    async def take(self, request: Request, row: int, candidate: Candidate) -> tuple[int | None, Tried]:
        """Claim the candidate; returns the row that is claimed then (None: refused) and what happened."""
        snapshot, host = self.snapshot, self.snapshot.host(row)
        snapshot.deduct(request.server_id, row, request.resources(), clock.now())
        generation = None
        for _ in range(_TRIES):
            try:
                await self._claim(request, candidate.allocations, generation)
            except Conflict as conflict:
                if conflict.kind != CONCURRENT_UPDATE:
                    snapshot.settle(request.server_id)
                    return None, Tried(host, "refused", conflict.message)
                held = await self.placement.allocations(request.server_id)
                found = self._earlier(request, held)
                if found is not None:
                    snapshot.settle(request.server_id)
                    return found, Tried(snapshot.host(found), "found")
                generation = held.generation
            except Invalid as invalid:  # the provider is gone
                snapshot.settle(request.server_id)
                return None, Tried(host, "refused", invalid.message)
            except BaseException:
                snapshot.settle(request.server_id)
                raise
            else:
                snapshot.granted(request.server_id)
                return row, Tried(host, "claimed")
        snapshot.settle(request.server_id)
        return None, Tried(host, "refused", "it is changed by others all the time")

    async def _claim(
        self, request: Request, allocations: Mapping[str, Mapping[str, int]], generation: int | None
    ) -> None:
        await self.placement.claim(
            request.server_id,
            allocations,
            project_id=request.project_id,
            user_id=request.user_id,
            generation=generation,
            fence=fences.making(request.attempt),
        )

    async def earlier(self, request: Request) -> int | None:
        """The row that the server has claimed already, when that suits the request."""
        return self._earlier(request, await self.placement.allocations(request.server_id))

    def _earlier(self, request: Request, held: Allocations) -> int | None:
        total: dict[str, int] = {}
        for amounts in held.allocations.values():
            for name, units in amounts.items():
                total[name] = total.get(name, 0) + units
        if not total or total != request.resources():
            return None
        for provider in held.allocations:
            row = self.snapshot.row_of_node(self.snapshot.root_of(provider))
            if row is None or self.snapshot.reports[row] is None:
                continue
            host = self.snapshot.host(row)
            wanted = request.force_host or request.destination
            if host not in request.exclude and wanted in (None, host):
                return row
        return None

    async def release(self, server_id: str, fence: int | None) -> None:
        """Give back what the server holds; nothing is success."""
        self.snapshot.settle(server_id)
        await self.placement.drop(server_id, fence=fence)


Option = tuple[int, Candidate | None]
"""A row and what placement would give there; None: it gave it already."""


@dataclass
class Walk:
    """One request's way through its ranked hosts: the next one that placement would give."""

    request: Request
    claims: Claims
    why: Why = field(default_factory=lambda: Why(0, [], [], rounds=0))
    order: list[int] = field(default_factory=list)
    known: dict[int, Candidate] | None = None
    """The candidates where they were asked for all at once."""
    most: int = 50
    """Hosts to ask placement about in one round, at most."""
    at: int = 0

    def begin(self, ranking: Ranking, known: dict[int, Candidate] | None) -> None:
        """A round over newly ranked hosts; what was tried before stays told."""
        ranking.why.rounds, ranking.why.tried = self.why.rounds + 1, self.why.tried
        self.why, self.order, self.known, self.at = ranking.why, ranking.order.tolist(), known, 0

    async def next(self) -> tuple[int, Candidate] | None:
        """The next host with an exact candidate; None when there is none left."""
        while self.at < min(len(self.order), self.most):
            row = self.order[self.at]
            self.at += 1
            if self.known is not None:
                candidate = self.known.get(row)
            else:
                candidate = await self.claims.candidate(self.request, row)
            if candidate is not None:
                return row, candidate
            self.tell(row, "no candidate")
        return None

    def tell(self, row: int, outcome: str) -> None:
        self.why.tried.append(Tried(self.claims.snapshot.host(row), outcome))

    def alternates(self, chosen: int, most: int = 3) -> list[int]:
        """The rows to fall back on: those that come next."""
        return [row for row in self.order[self.at : self.at + most + 1] if row != chosen][:most]

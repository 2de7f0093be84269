# SPDX-License-Identifier: Apache-2.0
"""Selecting is a function: a request and a snapshot give ranked hosts and the reasons.

The work does not grow with the number of hosts except inside NumPy; explaining
looks at twenty hosts per filter. Hosts of equal weight (to a hundredth) come in
random order, so that schedulers that work side by side do not all take the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cumulet.compute.scheduler.filters import filters_for
from cumulet.compute.scheduler.model import MEMORY_MB, FilterResult, Rejected, Request, Weighed, Why
from cumulet.compute.scheduler.snapshot import Numbers, Rows, Snapshot
from cumulet.compute.scheduler.weighers import WEIGHERS, stretched
from cumulet.kernel import ids

SHOWN = 20


@dataclass
class Ranking:
    """The hosts that passed, best first, and why the others did not."""

    order: Rows
    """Rows of the snapshot."""
    why: Why


def select(request: Request, snapshot: Snapshot, now: float, *, only: Sequence[int] | None = None) -> Ranking:
    """Rank the hosts for a request at the time ``now`` (seconds since the epoch).

    ``only``: the rows that placement named as possible, where its feed does not
    tell (a real Placement).
    """
    rows = snapshot.rows()
    results: list[FilterResult] = []
    hosts = len(rows)
    if only is not None:
        rows = rows[np.isin(rows, np.asarray(only, np.intp))]
        results.append(FilterResult("Placement", hosts, len(rows), request.resources()))
    for one in filters_for(request):
        passed = one.passes(request, snapshot, rows, now)
        out = rows[~passed]
        rejected = [
            Rejected(snapshot.host(row), one.found(request, snapshot, row, now)) for row in _roomiest(snapshot, out)
        ]
        results.append(FilterResult(one.name, len(rows), len(rows) - len(out), one.wanted(request), rejected))
        rows = rows[passed]
    order, best = _rank(request, snapshot, rows)
    return Ranking(order, Why(hosts=hosts, filters=results, best=best))


def _roomiest(snapshot: Snapshot, rows: Rows) -> list[int]:
    """At most twenty rows, those with most free memory first."""
    if len(rows) > SHOWN:
        room = snapshot.free(MEMORY_MB)[rows]
        rows = rows[np.argpartition(-room, SHOWN)[:SHOWN]]
    ordered: list[int] = rows[np.argsort(-snapshot.free(MEMORY_MB)[rows], kind="stable")].tolist()
    return ordered


def _rank(request: Request, snapshot: Snapshot, rows: Rows) -> tuple[Rows, list[Weighed]]:
    parts: dict[str, Numbers] = {}
    for weigher in WEIGHERS:
        if weigher.applies(request):
            parts[weigher.name] = weigher.multiplier * stretched(weigher.weigh(request, snapshot, rows))
    total: Numbers = np.sum(list(parts.values()), axis=0) if len(rows) else np.zeros(0)
    chance = np.random.default_rng(int(ids.choose(0, 2**53)))
    by_weight = np.lexsort((chance.random(len(rows)), -np.round(total, 2)))
    best = [
        Weighed(
            snapshot.host(int(rows[at])),
            snapshot.nodes[int(rows[at])],
            round(float(total[at]), 4),
            {name: round(float(numbers[at]), 4) for name, numbers in parts.items()},
        )
        for at in by_weight[:SHOWN].tolist()
    ]
    return rows[by_weight], best

# SPDX-License-Identifier: Apache-2.0
"""All hosts in columns: what filters and weighers compute on, without a loop over hosts.

Fed by placement's changes (what can be claimed) and by host reports (status,
zone, kind). It holds root-level necessary conditions only: ``room`` of a class
is the most that one provider of the host's tree, or one that shares with it,
could give. A host that passes may still be refused by placement, never the
other way round once the feed has caught up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cumulet.client.placement import Summary
from cumulet.compute.scheduler.model import HostReport

SHARING = "MISC_SHARES_VIA_AGGREGATE"
_HOLD = 30.0
"""Seconds after which a deduction is forgotten whose claim nobody heard of again."""

Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]


class Snapshot:
    """The columns, one row per host's root provider. Rows are never reused."""

    def __init__(self) -> None:
        self.room_known = False
        """Whether placement's feed told the room; else filters let everything pass that needs it."""
        self._size = 0
        self._capacity = 64
        self._columns: dict[tuple[str, str], NDArray[Any]] = {}
        self._row_of: dict[str, int] = {}
        self.nodes: list[str] = []
        self.reports: list[HostReport | None] = []
        self._node_of_host: dict[str, str] = {}
        self._providers: dict[str, Summary] = {}
        self._trees: dict[str, set[str]] = defaultdict(set)
        self._in_aggregate: dict[str, set[str]] = defaultdict(set)
        self._marks: dict[int, set[tuple[str, str]]] = defaultdict(set)
        self._pending: dict[str, tuple[int, Mapping[str, int], float, bool]] = {}

    # ---- reading

    def column(self, kind: str, name: str = "") -> NDArray[Any]:
        """One column (room, pending, traits, every_trait, aggregates, zone, up, enabled, reported_at …)."""
        key = (kind, name)
        if key not in self._columns:
            self._columns[key] = np.full(self._capacity, *_FILL[kind])
        return self._columns[key][: self._size]

    def rows(self) -> Rows:
        """The rows of all hosts that reported at least once."""
        return np.flatnonzero(self.column("known"))

    def free(self, name: str) -> Numbers:
        """What could be claimed of a class: room less the claims that are under way."""
        answer: Numbers = self.column("room", name) - self.column("pending", name)
        return answer

    def host(self, row: int) -> str:
        report = self.reports[row]
        return report.host if report is not None else self.nodes[row]

    def row_of_node(self, node: str) -> int | None:
        return self._row_of.get(node)

    def row_of_host(self, host: str) -> int | None:
        node = self._node_of_host.get(host)
        return None if node is None else self._row_of[node]

    def rows_of_node(self, name: str) -> list[int]:
        """The rows of a node that an administrator named: by its id or as hypervisor_hostname."""
        return [
            row
            for row, report in enumerate(self.reports)
            if report is not None and name in (report.node, report.hypervisor_hostname)
        ]

    def root_of(self, provider: str) -> str:
        """The root of a provider's tree (itself when it is not known)."""
        known = self._providers.get(provider)
        return known.root_provider_uuid if known is not None else provider

    # ---- host reports

    def report(self, told: HostReport) -> None:
        """Keep what is known of a host; an older report than the last is dropped, or one of before a change."""
        row = self._row(told.node)
        known = self.reports[row]
        if known is not None and _is_older(told, known):
            return
        before = self._node_of_host.get(told.host)
        if before is not None and before != told.node:  # the host was installed anew
            self.forget(before)
        self._node_of_host[told.host] = told.node
        self.reports[row] = told
        self.column("known")[row] = True
        self.column("up")[row] = told.up
        self.column("enabled")[row] = told.enabled
        self.column("reported_at")[row] = told.reported_at
        for kind, value in (("zone", told.zone), ("hypervisor_type", told.hypervisor_type.lower())):
            self._mark(row, {key for key in self._marks[row] if key[0] != kind} | {(kind, value)})
        for name, amount in (
            ("VCPU", told.free_vcpus), ("MEMORY_MB", told.free_memory_mib), ("DISK_GB", told.free_disk_gib),
        ):  # fmt: skip
            self.column("reported", name)[row] = amount

    def forget(self, node: str) -> None:
        """The host is gone."""
        row = self._row_of.get(node)
        if row is not None:
            report = self.reports[row]
            if report is not None and self._node_of_host.get(report.host) == node:
                del self._node_of_host[report.host]
            self.reports[row] = None
            self.column("known")[row] = False

    def keep_only(self, nodes: Iterable[str], asked_at: float) -> None:
        """Forget every host that is not among ``nodes``, the whole list as it was asked for at ``asked_at``."""
        for node in set(self._row_of) - set(nodes):
            report = self.reports[self._row_of[node]]
            if report is None or report.reported_at < asked_at:
                self.forget(node)

    # ---- placement's changes

    def replace_providers(self, summaries: Iterable[Summary]) -> None:
        """Forget all providers; these are all (or the first of all)."""
        self._providers.clear()
        self._trees.clear()
        self._in_aggregate.clear()
        for row in range(self._size):
            self._recompute(self.nodes[row])
        self.update_providers(summaries, ())

    def update_providers(self, summaries: Iterable[Summary], deleted: Iterable[str]) -> None:
        """Take over changed and deleted providers, and recompute the hosts that they touch."""
        self.room_known = True
        touched: set[str] = set()
        for uuid in deleted:
            touched |= self._unlink(uuid)
        for summary in summaries:
            touched |= self._unlink(summary.uuid)
            self._providers[summary.uuid] = summary
            self._trees[summary.root_provider_uuid].add(summary.uuid)
            for aggregate in summary.aggregates:
                self._in_aggregate[aggregate].add(summary.uuid)
            touched |= self._served_by(summary)
        for root in touched:
            self._recompute(root)

    def _unlink(self, uuid: str) -> set[str]:
        """Take a provider out; returns the roots that its absence touches."""
        known = self._providers.get(uuid)
        if known is None:
            return set()
        touched = self._served_by(known)
        del self._providers[uuid]
        self._trees[known.root_provider_uuid].discard(uuid)
        for aggregate in known.aggregates:
            self._in_aggregate[aggregate].discard(uuid)
        return touched

    def _served_by(self, summary: Summary) -> set[str]:
        """Its own tree, and when it shares the trees in its aggregates."""
        roots = {summary.root_provider_uuid}
        if SHARING in summary.traits:
            for aggregate in summary.aggregates:
                roots |= {self._providers[one].root_provider_uuid for one in self._in_aggregate[aggregate]}
        return roots

    def _recompute(self, root: str) -> None:
        """The row of one host from its tree and those that share with it."""
        row = self._row(root)
        own = [self._providers[uuid] for uuid in self._trees.get(root, ())]
        aggregates = {aggregate for summary in own for aggregate in summary.aggregates}
        others = {uuid for aggregate in aggregates for uuid in self._in_aggregate[aggregate]} - {
            summary.uuid for summary in own
        }
        helping = own + [self._providers[uuid] for uuid in others if SHARING in self._providers[uuid].traits]
        room: dict[str, float] = {}
        for summary in helping:
            for name, row_ in summary.inventories.items():
                most = min((row_.total - row_.reserved) * row_.allocation_ratio - row_.used, row_.max_unit)
                room[name] = max(room.get(name, 0.0), most)
        for kind, name in list(self._columns):
            if kind == "room" and name not in room:
                self.column(kind, name)[row] = 0.0
        for name, most in room.items():
            self.column("room", name)[row] = most
        some = {name for summary in helping for name in summary.traits}
        every = set.intersection(*(set(summary.traits) for summary in helping)) if helping else set()
        marks = {("traits", name) for name in some} | {("every_trait", name) for name in every}
        marks |= {("aggregates", name) for name in aggregates}
        kept = {key for key in self._marks[row] if key[0] in ("zone", "hypervisor_type")}
        self._mark(row, kept | marks)
        self._confirm(row)

    def _mark(self, row: int, marks: set[tuple[str, str]]) -> None:
        """Make the row's yes/no columns exactly ``marks``."""
        have = self._marks[row]
        for kind, name in have - marks:
            self.column(kind, name)[row] = False
        for kind, name in marks - have:
            self.column(kind, name)[row] = True
        self._marks[row] = marks

    # ---- claims under way

    def deduct(self, consumer: str, row: int, amounts: Mapping[str, int], now: float) -> None:
        """Count a claim that is being made, until `settle` or until the feed shows it."""
        self.settle(consumer)
        for name, amount in amounts.items():
            self.column("pending", name)[row] += amount
        self._pending[consumer] = (row, amounts, now + _HOLD, False)

    def settle(self, consumer: str) -> None:
        """The claim was refused, given back, or is in the feed: deduct it no longer."""
        known = self._pending.pop(consumer, None)
        if known is not None:
            for name, amount in known[1].items():
                self.column("pending", name)[known[0]] -= amount

    def granted(self, consumer: str) -> None:
        """The claim was made: the feed's next word on that host includes it."""
        known = self._pending.get(consumer)
        if known is not None:
            self._pending[consumer] = (*known[:3], True)

    def _confirm(self, row: int) -> None:
        for consumer in [one for one, (where, _, _, made) in self._pending.items() if where == row and made]:
            self.settle(consumer)

    def settle_all(self) -> None:
        """Deduct nothing: placement was just read, and it decides."""
        for consumer in list(self._pending):
            self.settle(consumer)

    def expire(self, now: float) -> None:
        """Forget deductions that are too old to mean anything."""
        for consumer in [one for one, (_, _, until, _) in self._pending.items() if until < now]:
            self.settle(consumer)

    # ---- rows

    def _row(self, node: str) -> int:
        if node not in self._row_of:
            if self._size == self._capacity:
                self._grow()
            self._row_of[node] = self._size
            self._size += 1
            self.nodes.append(node)
            self.reports.append(None)
        return self._row_of[node]

    def _grow(self) -> None:
        self._capacity *= 2
        for (kind, name), column in self._columns.items():
            wider = np.full(self._capacity, *_FILL[kind])
            wider[: len(column)] = column
            self._columns[kind, name] = wider


def _is_older(told: HostReport, known: HostReport) -> bool:
    """A sign of life may have been on its way while an operator changed the host, so what was changed decides."""
    if told.changed_at and told.changed_at != known.changed_at:  # a conductor of before 2026-11 tells no such time
        return told.changed_at < known.changed_at
    return told.reported_at < known.reported_at


_FILL: dict[str, tuple[Any, Any]] = {
    "known": (False, np.bool_),
    "up": (False, np.bool_),
    "enabled": (False, np.bool_),
    "traits": (False, np.bool_),
    "every_trait": (False, np.bool_),
    "aggregates": (False, np.bool_),
    "zone": (False, np.bool_),
    "hypervisor_type": (False, np.bool_),
    "reported_at": (0.0, np.float64),
    "reported": (0.0, np.float64),
    "room": (0.0, np.float64),
    "pending": (0.0, np.float64),
}
"""The kinds of columns: value of a new row, type. Kinds with names (traits, zone …) have one column per name."""

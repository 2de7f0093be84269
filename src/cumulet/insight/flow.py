# SPDX-License-Identifier: Apache-2.0
"""What the names of flow events mean: the 29 steps, and how events become the rows of a flow.

Pure functions of events. Invariant: a row says what was recorded; what was not
is never guessed, it is shown as "not recorded" once the attempt is over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from cumulet.kernel import clock
from cumulet.kernel.trace import Event

NOT_RECORDED: Final = "not recorded"
STALE_SECONDS: Final = 1800.0
"""A flow without a word for that long is over: no step may take longer."""


class Step(NamedTuple):
    """One of the steps: between whom it happens, and over what."""

    number: int
    name: str
    sender: str
    receiver: str | None
    transport: str

    @property
    def published(self) -> int | None:
        """The number of a step; none for the goal."""
        return self.number if self.number <= _LAST else None

    @property
    def between(self) -> str:
        return f"{self.sender} → {self.receiver}" if self.receiver else self.sender


STEPS: Final = (
    Step(1, "auth.request", "client", "identity", "REST"),
    Step(2, "auth.token", "identity", "client", "REST"),
    Step(3, "api.request", "client", "compute-api", "REST"),
    Step(4, "api.token.validate", "compute-api", "identity", "REST"),
    Step(5, "api.token.valid", "identity", "compute-api", "REST"),
    Step(6, "api.validate", "compute-api", None, "-"),
    Step(7, "api.record", "compute-api", "database", "SQL"),
    Step(8, "rpc.schedule", "compute-api", "scheduler", "rpc"),
    Step(9, "scheduler.receive", "scheduler", None, "rpc"),
    Step(10, "scheduler.select", "scheduler", "placement", "REST"),
    Step(11, "scheduler.claim", "scheduler", "placement", "REST"),
    Step(12, "rpc.build", "conductor", "compute-agent", "rpc"),
    Step(13, "compute.receive", "compute-agent", None, "rpc"),
    Step(14, "compute.fetch", "compute-agent", "conductor", "rpc"),
    Step(15, "conductor.receive", "conductor", None, "rpc"),
    Step(16, "conductor.query", "conductor", "database", "SQL"),
    Step(17, "conductor.rows", "database", "conductor", "SQL"),
    Step(18, "conductor.reply", "conductor", "queue", "rpc"),
    Step(19, "compute.fetched", "compute-agent", None, "rpc"),
    Step(20, "image.request", "compute-agent", "image-api", "REST"),
    Step(21, "image.token.validate", "image-api", "identity", "REST"),
    Step(22, "image.ready", "image-api", "compute-agent", "REST"),
    Step(23, "network.request", "compute-agent", "network-api", "REST"),
    Step(24, "network.token.validate", "network-api", "identity", "REST"),
    Step(25, "network.ready", "network-api", "compute-agent", "REST"),
    Step(26, "volume.request", "compute-agent", "volume-api", "REST"),
    Step(27, "volume.token.validate", "volume-api", "identity", "REST"),
    Step(28, "volume.ready", "volume-api", "compute-agent", "REST"),
    Step(29, "hypervisor.spawn", "compute-agent", "hypervisor", "libvirt"),
    Step(30, "server.active", "conductor", "database", "SQL"),
)
"""The steps in their order, and the goal, which comes after them and is published without a number."""

BY_NAME: Final = {step.name: step for step in STEPS}
_OF_TOKEN: Final = ("auth.request", "auth.token")
_RECORDED, _BUILD, _LAST, _ACTIVE = 7, 12, 29, 30


@dataclass
class Row:
    """A step of one attempt, made of all events that recorded it."""

    step: int | None
    name: str
    component: str
    between: str | None
    transport: str | None
    attempt: int
    host: str | None = None
    started_at: float | None = None
    """Seconds since the epoch; None when it was not recorded."""
    duration_ms: float | None = None
    request_id: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    skipped: str | None = None
    error: str | None = None
    sequence: int = 0
    """The number of the last event in it, for streams."""

    def document(self) -> dict[str, Any]:
        """The published form."""
        return {
            "step": None if self.step == _ACTIVE else self.step,
            "name": self.name,
            "component": self.component,
            "between": self.between,
            "host": self.host,
            "transport": self.transport,
            "attempt": self.attempt,
            "started_at": None if self.started_at is None else clock.iso_micro_z(self.started_at),
            "duration_ms": self.duration_ms,
            "request_id": self.request_id,
            "detail": self.detail,
            "skipped": self.skipped,
            "error": self.error,
        }


@dataclass
class Flow:
    """All that is known of the way of one server."""

    rows: list[Row]
    """Its steps by attempt and number."""
    beside: list[Row]
    """What its requests did besides, which is none of the steps; in order of time."""
    finished: bool
    """Whether nothing more is to come."""


class Stored(NamedTuple):
    """An event and its number in the order of arrival."""

    id: int
    event: Event


def audit_id_of(events: Iterable[Stored]) -> str | None:
    """The audit id of the token that asked for the server: the subject of steps 1 and 2."""
    return _told(events, "api.request", "audit_id")


def project_of(events: Iterable[Stored]) -> str | None:
    """The project of the server, which is known here even after the server is gone."""
    return _told(events, "api.record", "project_id") or _told(events, "api.token.valid", "project_id")


def _told(events: Iterable[Stored], name: str, key: str) -> str | None:
    for one in events:
        if one.event.name == name and isinstance(value := one.event.detail.get(key), str):
            return value
    return None


def assemble(events: list[Stored], token_events: list[Stored], now: float) -> Flow:
    """The flow of a server from its events and those of its token, in any order and with repetitions."""
    steps: dict[tuple[int, str], list[Stored]] = {}
    others: dict[tuple[int, str], list[Stored]] = {}
    accepted_at = _accepted_at(events)
    seen: set[tuple[Any, ...]] = set()
    for one in [*(each for each in token_events if each.event.name in _OF_TOKEN), *events]:
        event = one.event
        mark = (event.name, event.attempt, event.component, event.host, event.started_at, event.duration_ms)
        if mark in seen:  # a batch that was sent twice
            continue
        seen.add(mark)
        step = BY_NAME.get(event.name)
        # the server's later requests are validated too, but by then step 7 is long done
        late = step is not None and step.number < _RECORDED and event.started_at > accepted_at
        place = others if step is None or late else steps
        place.setdefault((event.attempt, event.name), []).append(one)
    rows = [_collapse(found) for found in steps.values()]
    beside = [_collapse(found, beside=True) for found in others.values()]
    finished = _finished(rows, now)
    rows += _gaps(rows, finished)
    rows.sort(key=lambda row: (row.attempt, row.step or 0))
    beside.sort(key=lambda row: (row.started_at or 0.0, row.name))
    return Flow(rows, beside, finished)


def _accepted_at(events: list[Stored]) -> float:
    """When the server was recorded (the end of step 7)."""
    ends = [e.event.started_at + e.event.duration_ms / 1000 for e in events if e.event.name == "api.record"]
    return min(ends, default=float("inf"))


def _collapse(found: list[Stored], *, beside: bool = False) -> Row:
    """One row of all events of a name and attempt: from the first start to the end of the last.

    What counts is how the last of them ended; earlier failures are counted.
    """
    events = sorted((one.event for one in found), key=lambda event: event.started_at)
    done = [event for event in events if event.skipped is None] or events
    last = done[-1]
    detail = dict(last.detail)
    if len(done) > 1:
        detail["calls"] = len(done)
        if failures := sum(1 for event in done[:-1] if event.error):
            detail["failed_calls"] = failures
        if any("cached" in event.detail for event in done):
            cached = sum(1 for event in done if event.detail.get("cached"))
            detail["cached"] = cached == len(done)
            detail["cached_calls"] = cached
    end = max(event.started_at + event.duration_ms / 1000 for event in done)
    step = None if beside else BY_NAME[last.name]
    return Row(
        step=step.number if step else None,
        name=last.name,
        component=last.component,
        between=step.between if step else None,
        transport=step.transport if step else None,
        attempt=last.attempt,
        host=last.host or None,
        started_at=done[0].started_at,
        duration_ms=done[0].duration_ms if len(done) == 1 else round((end - done[0].started_at) * 1000, 3),
        request_id=last.request_id or None,
        detail=detail,
        skipped=last.skipped,
        error=last.error,
        sequence=max(one.id for one in found),
    )


def _finished(rows: list[Row], now: float) -> bool:
    """Whether the last attempt ended, well or badly, or nobody has said anything for very long."""
    attempt = max((row.attempt for row in rows), default=0)
    last = [row for row in rows if row.attempt == attempt]
    if any(row.step == _ACTIVE or row.error for row in last):
        return True
    ends = [row.started_at + (row.duration_ms or 0) / 1000 for row in last if row.started_at is not None]
    return bool(ends) and max(ends) < now - STALE_SECONDS


def _gaps(rows: list[Row], finished: bool) -> list[Row]:
    """Rows for the steps that must have happened but that nobody recorded (a killed process)."""
    missing = []
    by_attempt: dict[int, set[int]] = {}
    for row in rows:
        by_attempt.setdefault(row.attempt, set()).add(row.step or 0)
    for attempt, numbers in by_attempt.items():
        if attempt == max(by_attempt) and not finished:
            continue  # an enclosing step is recorded after those it encloses
        first = 1 if attempt == 1 else min(_BUILD, min(numbers))
        # a failed step ends the attempt; what would have come after it was not to be
        end = max(numbers)
        missing += [
            Row(
                step.number, step.name, step.sender, step.between, step.transport, attempt, skipped=NOT_RECORDED
            )
            for step in STEPS
            if first <= step.number < end and step.number not in numbers
        ]  # fmt: skip
    return missing


# ---- for callers who may not know the hosts

_HOST_KEYS = frozenset({"to", "best", "host", "hosts", "node", "nodes", "tried", "alternates", "candidates", "exclude"})


def without_hosts(flow: Flow) -> Flow:
    """The same flow without any name of a host, in fields, details and texts."""
    rows = [*flow.rows, *flow.beside]
    names = {row.host for row in rows if row.host}
    for row in rows:
        for key in _HOST_KEYS & row.detail.keys():
            value = row.detail[key]
            names |= {each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)}
    hide = hider(dict.fromkeys(names, "(host)"))
    for row in rows:
        row.host = None
        row.detail = {key: hide(value) for key, value in row.detail.items() if key not in _HOST_KEYS}
        row.error = hide(row.error)
        row.skipped = hide(row.skipped)
    return flow


def without_hosts_why(told: dict[str, Any]) -> dict[str, Any]:
    """The same explanation with hosts numbered instead of named."""
    names: dict[str, str] = {}

    def name(host: Any) -> None:
        if isinstance(host, str):
            names.setdefault(host, f"host-{len(names) + 1}")

    why = told.get("why") or {}
    for result in why.get("filters", []):
        for one in result.get("rejected", []):
            name(one.get("host"))
        if result.get("name") in _HOST_FILTERS:
            wanted = result.get("wanted")
            for host in wanted if isinstance(wanted, list) else [wanted]:
                name(host)
    for one in [*why.get("best", []), *why.get("tried", [])]:
        name(one.get("host"))
        one.pop("node", None)
    hidden: dict[str, Any] = hider(names)(told)
    return hidden


_HOST_FILTERS = frozenset({"ServerGroupAffinityFilter", "ForcedHost"})
"""Filters whose wish is names of hosts."""


def hider(names: Mapping[str, str]) -> Callable[[Any], Any]:
    """A function that replaces these names in the texts of a JSON value."""
    known = sorted((name for name in names if name), key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, known))})(?![\w-])") if known else None

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: names[match[0]], value) if pattern else value
        if isinstance(value, list):
            return [hide(each) for each in value]
        if isinstance(value, dict):
            return {key: hide(each) for key, each in value.items()}
        return value

    return hide

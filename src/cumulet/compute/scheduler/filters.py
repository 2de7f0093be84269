# SPDX-License-Identifier: Apache-2.0
"""The filters: which hosts could take the server at all. Pure functions over columns, named as published.

Each says how it decides for many hosts at once, what it wanted, and what it
found on one host, so that every refusal can be explained with its number.
Source: Compute admin guide, "Filters" (scheduling).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cumulet.compute.scheduler.model import Request
from cumulet.compute.scheduler.snapshot import Mask, Rows, Snapshot

DOWN_AFTER = 60.0
"""Seconds without a report after which a host counts as down (published: service_down_time)."""


def _nothing(request: Request, snapshot: Snapshot, row: int, now: float) -> Any:
    return None


@dataclass(frozen=True)
class Filter:
    """One filter. ``passes`` answers for all ``rows`` at once, ``found`` explains one row."""

    name: str
    applies: Callable[[Request], Any]
    passes: Callable[[Request, Snapshot, Rows, float], Mask]
    wanted: Callable[[Request], Any] = lambda request: None
    found: Callable[[Request, Snapshot, int, float], Any] = _nothing


def filters_for(request: Request) -> list[Filter]:
    """The filters that a request needs, the cheapest and most telling first.

    A forced host is asked about nothing but whether it is that host: an
    administrator may test a disabled one. What it can hold, placement decides.
    """
    if request.force_host or request.force_node:
        return [FORCED, *_capacity(request)]
    return [one for one in FILTERS if one.applies(request)] + _capacity(request)


# ---- hosts by name


def _hosts(snapshot: Snapshot, rows: Rows, names: set[str]) -> Mask:
    """Which rows are hosts of these names."""
    named = [row for name in names if (row := snapshot.row_of_host(name)) is not None]
    return np.isin(rows, named)


def _forced(request: Request, snapshot: Snapshot, rows: Rows, now: float) -> Mask:
    wanted = np.ones(len(rows), np.bool_)
    if request.force_host:
        wanted &= _hosts(snapshot, rows, {request.force_host})
    if request.force_node:
        wanted &= np.isin(rows, snapshot.rows_of_node(request.force_node))
    return wanted


FORCED = Filter(
    "ForcedHost",
    lambda request: request.force_host or request.force_node,
    _forced,
    lambda request: request.force_host or request.force_node,
)


def _as_list(hint: Any) -> list[str]:
    return [hint] if isinstance(hint, str) else [one for one in hint or [] if isinstance(one, str)]


def _hinted(request: Request, hint: str) -> set[str]:
    """The hosts of the servers that a hint names."""
    return {host for server in _as_list(request.hints.get(hint)) if (host := request.hosts_of.get(server))}


# ---- status


def _alive(request: Request, snapshot: Snapshot, rows: Rows, now: float) -> Mask:
    fresh = snapshot.column("reported_at")[rows] > now - DOWN_AFTER
    answer: Mask = fresh & snapshot.column("up")[rows] & snapshot.column("enabled")[rows]
    return answer


def _status(request: Request, snapshot: Snapshot, row: int, now: float) -> str:
    report = snapshot.reports[row]
    if report is None or not report.enabled:
        return "disabled"
    if not report.up:
        return "down"
    return f"no report for {now - report.reported_at:.0f} s"


# ---- zone, kind, properties


def _zone(request: Request, snapshot: Snapshot, rows: Rows, now: float) -> Mask:
    answer: Mask = snapshot.column("zone", request.availability_zone or "")[rows]
    return answer


def _zone_of(request: Request, snapshot: Snapshot, row: int, now: float) -> Any:
    report = snapshot.reports[row]
    return report.zone if report else None


_KINDS = {"qemu": ("qemu", "kvm"), "kvm": ("kvm",)}


def _wanted_kind(request: Request) -> str | None:
    properties = request.image_properties
    kind = properties.get("img_hv_type") or properties.get("hypervisor_type")
    return kind.lower() if kind else None


def _image_kind(request: Request, snapshot: Snapshot, rows: Rows, now: float) -> Mask:
    """A simulated hypervisor takes every image."""
    kind = _wanted_kind(request) or ""
    passes = snapshot.column("hypervisor_type", "simulated")[rows].copy()
    for one in _KINDS.get(kind, (kind,)):
        passes |= snapshot.column("hypervisor_type", one)[rows]
    return passes


def _kind_of(request: Request, snapshot: Snapshot, row: int, now: float) -> Any:
    report = snapshot.reports[row]
    return report.hypervisor_type if report else None


def _capabilities(request: Request) -> dict[str, str]:
    """What the flavor asks of a host's attributes: unscoped keys and those of the scope ``capabilities``."""
    asked = {}
    for key, value in request.extra_specs.items():
        scope, _, name = key.rpartition(":")
        if scope in ("", "capabilities"):
            asked[name] = value
    return asked


def _attribute(snapshot: Snapshot, row: int, name: str) -> Any:
    report = snapshot.reports[row]
    if report is None:
        return None
    return report.attributes.get(name, getattr(report, name, None))


def _capable(request: Request, snapshot: Snapshot, rows: Rows, now: float) -> Mask:
    asked = _capabilities(request)
    return np.fromiter(
        (
            all(matches(_attribute(snapshot, row, name), value) for name, value in asked.items())
            for row in rows.tolist()
        ),
        np.bool_,
        len(rows),
    )


def _capabilities_of(request: Request, snapshot: Snapshot, row: int, now: float) -> dict[str, Any]:
    return {name: _attribute(snapshot, row, name) for name in _capabilities(request)}


_NUMERIC: dict[str, Callable[[float, float], bool]] = {
    "=": lambda have, wanted: have >= wanted,  # as published: "=" means at least
    "==": lambda have, wanted: have == wanted,
    "!=": lambda have, wanted: have != wanted,
    ">=": lambda have, wanted: have >= wanted,
    "<=": lambda have, wanted: have <= wanted,
}
_TEXT: dict[str, Callable[[str, str], bool]] = {
    "s==": lambda have, wanted: have == wanted,
    "s!=": lambda have, wanted: have != wanted,
    "s>=": lambda have, wanted: have >= wanted,
    "s>": lambda have, wanted: have > wanted,
    "s<=": lambda have, wanted: have <= wanted,
    "s<": lambda have, wanted: have < wanted,
}


def matches(have: Any, wanted: str) -> bool:
    """The published comparison language of extra specs: operators first, a plain word is compared as it is."""
    if have is None:
        return False
    words = wanted.split()
    operator, rest = (words[0], words[1:]) if words else ("", [])
    if operator in _NUMERIC and rest:
        try:
            return _NUMERIC[operator](float(have), float(rest[0]))
        except (TypeError, ValueError):
            return False
    if operator in _TEXT and rest:
        return _TEXT[operator](str(have), rest[0])
    if operator == "<in>" and rest:
        return rest[0] in str(have)
    if operator == "<all-in>":
        return all(word in have for word in rest if word != "<all-in>") if isinstance(have, list | str) else False
    if operator == "<or>":
        return str(have) in re.split(r"\s*<or>\s*", wanted.strip())[1:]
    return str(have) == wanted


# ---- traits


def _required(request: Request, snapshot: Snapshot, rows: Rows, now: float) -> Mask:
    passes = np.ones(len(rows), np.bool_)
    if snapshot.room_known:
        for name in request.traits()[0]:
            passes &= snapshot.column("traits", name)[rows]
    return passes


def _lacking(request: Request, snapshot: Snapshot, row: int, now: float) -> list[str]:
    return sorted(name for name in request.traits()[0] if not snapshot.column("traits", name)[row])


def _forbidden(request: Request, snapshot: Snapshot, rows: Rows, now: float) -> Mask:
    """Only a trait of every provider that could serve excludes a host for sure."""
    passes = np.ones(len(rows), np.bool_)
    for name in request.traits()[1]:
        passes &= ~snapshot.column("every_trait", name)[rows]
    return passes


# ---- groups


def _alone(request: Request, snapshot: Snapshot, rows: Rows, now: float) -> Mask:
    group = request.group
    assert group is not None
    full = {host for host, members in group.hosts.items() if members >= group.max_server_per_host}
    return ~_hosts(snapshot, rows, full)


def _members(request: Request, snapshot: Snapshot, row: int, now: float) -> int:
    return request.group.hosts.get(snapshot.host(row), 0) if request.group else 0


def _together(request: Request, snapshot: Snapshot, rows: Rows, now: float) -> Mask:
    assert request.group is not None
    return _hosts(snapshot, rows, set(request.group.hosts))


# ---- capacity


def _capacity(request: Request) -> list[Filter]:
    """One filter per resource class, named like it."""
    return [_room(name, amount) for name, amount in request.resources().items()]


def _room(name: str, amount: int) -> Filter:
    def passes(request: Request, snapshot: Snapshot, rows: Rows, now: float) -> Mask:
        if not snapshot.room_known:
            return np.ones(len(rows), np.bool_)
        answer: Mask = snapshot.free(name)[rows] >= amount
        return answer

    def found(request: Request, snapshot: Snapshot, row: int, now: float) -> float:
        return float(snapshot.free(name)[row])

    return Filter(name, lambda request: True, passes, lambda request: amount, found)


FILTERS = [
    Filter(
        "RetryFilter",
        lambda request: request.exclude,
        lambda request, snapshot, rows, now: ~_hosts(snapshot, rows, set(request.exclude)),
        lambda request: "a host that has not failed to build it",
        lambda request, snapshot, row, now: "failed before",
    ),
    Filter(
        "RequestedDestination",
        lambda request: request.destination,
        lambda request, snapshot, rows, now: _hosts(snapshot, rows, {request.destination or ""}),
        lambda request: request.destination,
    ),
    Filter("ComputeFilter", lambda request: True, _alive, lambda request: "up and enabled", _status),
    Filter(
        "AvailabilityZoneFilter",
        lambda request: request.availability_zone,
        _zone,
        lambda request: request.availability_zone,
        _zone_of,
    ),
    Filter("ComputeCapabilitiesFilter", _capabilities, _capable, _capabilities, _capabilities_of),
    Filter("ImagePropertiesFilter", _wanted_kind, _image_kind, _wanted_kind, _kind_of),
    Filter(
        "RequiredTraits",
        lambda request: request.traits()[0],
        _required,
        lambda request: sorted(request.traits()[0]),
        _lacking,
    ),
    Filter(
        "ForbiddenTraits",
        lambda request: request.traits()[1],
        _forbidden,
        lambda request: sorted(request.traits()[1]),
    ),
    Filter(
        "ServerGroupAntiAffinityFilter",
        lambda request: request.group and request.group.policy == "anti-affinity",
        _alone,
        lambda request: request.group.max_server_per_host if request.group else None,
        _members,
    ),
    Filter(
        "ServerGroupAffinityFilter",
        lambda request: request.group and request.group.policy == "affinity" and request.group.hosts,
        _together,
        lambda request: sorted(request.group.hosts) if request.group else None,
        lambda request, snapshot, row, now: snapshot.host(row),
    ),
    Filter(
        "DifferentHostFilter",
        lambda request: _hinted(request, "different_host"),
        lambda request, snapshot, rows, now: ~_hosts(snapshot, rows, _hinted(request, "different_host")),
        lambda request: _as_list(request.hints.get("different_host")),
        lambda request, snapshot, row, now: "hosts one of them",
    ),
    Filter(
        "SameHostFilter",
        lambda request: _as_list(request.hints.get("same_host")),
        lambda request, snapshot, rows, now: _hosts(snapshot, rows, _hinted(request, "same_host")),
        lambda request: _as_list(request.hints.get("same_host")),
        lambda request, snapshot, row, now: "hosts none of them",
    ),
]

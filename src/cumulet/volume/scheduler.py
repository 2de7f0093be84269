# SPDX-License-Identifier: Apache-2.0
"""Which back end gets a volume: a function of the request and a snapshot of all back ends.

Volumes are sparse, so a back end may promise more than it has, up to a ratio;
the claim is made where the volume's row gets its host, and counted there.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

DOWN, NOT_THERE = "is down", "does not hold the source"
"""Reasons against a back end."""


class Candidate(msgspec.Struct, frozen=True):
    """One back end as it was last seen; sizes in GiB."""

    host: str
    """host@backend"""
    zone: str
    total_gib: float
    free_gib: float
    promised_gib: float
    """Sum of the sizes of the volumes that live there."""
    up: bool
    disabled: bool = False


class Request(msgspec.Struct, frozen=True):
    """What a volume needs."""

    size_gib: int
    zone: str | None = None
    only: str | None = None
    """The back end that holds its source: content is copied inside one."""
    excluded: list[str] = []


def rank(request: Request, candidates: Sequence[Candidate], ratio: float) -> tuple[list[str], dict[str, str]]:
    """The hosts that can take the volume, the best (most room left to promise) first; and why others can't."""
    good: list[tuple[float, str]] = []
    reasons: dict[str, str] = {}
    for one in candidates:
        room = one.total_gib * ratio - one.promised_gib
        if request.only is not None and one.host != request.only:
            reasons[one.host] = NOT_THERE
        elif one.host in request.excluded:
            reasons[one.host] = "was tried"
        elif not one.up:
            reasons[one.host] = DOWN
        elif one.disabled:
            reasons[one.host] = "is disabled"
        elif request.zone is not None and one.zone != request.zone:
            reasons[one.host] = f"is in zone {one.zone}"
        elif room < request.size_gib or one.free_gib <= 0:
            reasons[one.host] = f"has {max(room, 0):.0f} GiB left to promise and {one.free_gib:.1f} GiB free"
        else:
            good.append((-min(room, one.free_gib * ratio), one.host))
    return [host for _, host in sorted(good)], reasons

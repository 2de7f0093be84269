# SPDX-License-Identifier: Apache-2.0
"""The weighers: which of the possible hosts is best. Pure functions over columns, named as published.

Each gives a number per host; it is stretched to 0 … 1 over the hosts that
passed, multiplied, and summed. Free resources spread servers over hosts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cumulet.compute.scheduler.model import DISK_GB, MEMORY_MB, VCPU, Request
from cumulet.compute.scheduler.snapshot import Numbers, Rows, Snapshot


@dataclass(frozen=True)
class Weigher:
    """One weigher with its multiplier."""

    name: str
    multiplier: float
    weigh: Callable[[Request, Snapshot, Rows], Numbers]
    applies: Callable[[Request], Any] = lambda request: True


def _free(name: str) -> Callable[[Request, Snapshot, Rows], Numbers]:
    """What placement says is left, or what the host reported where placement does not tell."""

    def weigh(request: Request, snapshot: Snapshot, rows: Rows) -> Numbers:
        source = snapshot.free(name) if snapshot.room_known else snapshot.column("reported", name)
        answer: Numbers = source[rows]
        return answer

    return weigh


def _members(request: Request, snapshot: Snapshot, rows: Rows) -> Numbers:
    """How many members of the server's group are on each host."""
    numbers = np.zeros(len(rows))
    for host, members in (request.group.hosts if request.group else {}).items():
        row = snapshot.row_of_host(host)
        if row is not None:
            numbers[rows == row] = members
    return numbers


WEIGHERS = [
    Weigher("RAMWeigher", 1.0, _free(MEMORY_MB)),
    Weigher("CPUWeigher", 1.0, _free(VCPU)),
    Weigher("DiskWeigher", 1.0, _free(DISK_GB)),
    Weigher(
        "ServerGroupSoftAffinityWeigher", 1.0, _members,
        lambda request: request.group and request.group.policy == "soft-affinity",
    ),
    Weigher(
        "ServerGroupSoftAntiAffinityWeigher", -1.0, _members,
        lambda request: request.group and request.group.policy == "soft-anti-affinity",
    ),
]  # fmt: skip


def stretched(numbers: Numbers) -> Numbers:
    """The numbers as 0 (the least) to 1 (the most); all 0 when they are equal."""
    low, high = (numbers.min(), numbers.max()) if len(numbers) else (0.0, 0.0)
    if high <= low:
        return np.zeros(len(numbers))
    answer: Numbers = (numbers - low) / (high - low)
    return answer

# SPDX-License-Identifier: Apache-2.0
"""What other processes tell insight: flow events, in batches, and that they live; nobody waits for an answer."""

from __future__ import annotations

import msgspec

from cumulet.kernel.bus import Method
from cumulet.kernel.trace import Event


class Events(msgspec.Struct):
    events: list[Event]


class Alive(msgspec.Struct):
    """One process of the cloud, as it sees itself."""

    id: str
    """Of this start of the process."""
    host: str
    roles: list[str]
    pid: int
    address: str
    version: str
    state: str
    """starting, ready or draining."""
    problems: list[str]
    started_at: float
    every: float
    """Seconds until it says so again."""


EVENTS = Method("insight.events", "events", Events, type(None))
ALIVE = Method("insight.events", "alive", Alive, type(None))

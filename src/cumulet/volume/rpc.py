# SPDX-License-Identifier: Apache-2.0
"""What the scheduler, the API and the agents say to each other.

Orders to an agent say *ensure*; slow ones are started and then looked at: the
answer is `Outcome`, and an agent that finishes later says so with `FINISHED`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from cumulet.kernel.bus import Method
from cumulet.volume.drivers.model import Connection

SCHEDULER = "volume.scheduler"
AGENT = "volume.agent"


class Nothing(msgspec.Struct):
    """No answer is needed."""


class Outcome(msgspec.Struct):
    """How far an order is. ``error`` is fit for the user."""

    state: Literal["done", "working", "failed"]
    error: str = ""
    full: bool = False
    """Whether it failed because the back end is full: another one may do."""


class Make(msgspec.Struct):
    """Ensure a volume with this content, size in GiB."""

    volume_id: str
    size_gib: int
    kind: Literal["empty", "image", "volume", "snapshot"] = "empty"
    source_id: str = ""
    """The image, volume or snapshot that the content comes from."""


class Drop(msgspec.Struct):
    """Ensure that these volumes and snapshots are not there."""

    ids: list[str]


class Grow(msgspec.Struct):
    """Ensure that a volume has at least this size in GiB."""

    volume_id: str
    size_gib: int


class Snap(msgspec.Struct):
    """Ensure a snapshot of a volume."""

    snapshot_id: str
    volume_id: str


class Connect(msgspec.Struct):
    """Ensure that a host can open a volume."""

    volume_id: str
    host: str
    read_only: bool = False


class Disconnect(msgspec.Struct):
    """Ensure that a host can't open a volume any more."""

    volume_id: str
    host: str


class Report(msgspec.Struct):
    """An agent's back end and how much room it has, in GiB."""

    host: str
    backend: str
    zone: str
    total_gib: float
    free_gib: float
    protocol: str


class Held(msgspec.Struct):
    """What an agent's back end holds."""

    host: str
    ids: list[str]


class Ask(msgspec.Struct):
    """What is there?"""


class Superfluous(msgspec.Struct):
    """Which of these ids are known to be deleted or to live elsewhere. Unknown ones are never named."""

    ids: list[str]


class Finished(msgspec.Struct):
    """An order about this volume or snapshot is finished, well or not."""

    subject: str


class Poke(msgspec.Struct):
    """A saga waits to be started."""

    saga_id: str


MAKE: Method[Make, Outcome] = Method(AGENT, "make", Make, Outcome)
DROP: Method[Drop, Outcome] = Method(AGENT, "drop", Drop, Outcome)
GROW: Method[Grow, Outcome] = Method(AGENT, "grow", Grow, Outcome)
SNAP: Method[Snap, Outcome] = Method(AGENT, "snap", Snap, Outcome)
CONNECT: Method[Connect, Connection] = Method(AGENT, "connect", Connect, Connection)
DISCONNECT: Method[Disconnect, Nothing] = Method(AGENT, "disconnect", Disconnect, Nothing)
INVENTORY: Method[Ask, Held] = Method(AGENT, "inventory", Ask, Held)

REPORT: Method[Report, Nothing] = Method(SCHEDULER, "report", Report, Nothing)
HELD: Method[Held, Superfluous] = Method(SCHEDULER, "held", Held, Superfluous)
FINISHED: Method[Finished, Nothing] = Method(SCHEDULER, "finished", Finished, Nothing)
POKE: Method[Poke, Nothing] = Method(SCHEDULER, "poke", Poke, Nothing)


def agent_of(host: str) -> str:
    """The host name of the agent behind a volume's ``host`` (host@backend#pool)."""
    return host.partition("@")[0]


def backend_host(host: str) -> str:
    """``host@backend`` of ``host@backend#pool``."""
    return host.partition("#")[0]

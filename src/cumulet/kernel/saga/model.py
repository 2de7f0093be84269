# SPDX-License-Identifier: Apache-2.0
"""What a saga is: parameters, steps, and the few things that a step may say besides 'done'.

Every step says *ensure*: all ids are chosen before the first one, so a repeated
step finds its own work and is content. Undo treats 'already gone' as success
and may run although *do* never did.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from cumulet.kernel.context import Context
from cumulet.kernel.db import Transaction
from cumulet.kernel.errors import Fault


class Wait(Exception):
    """The step is not finished: give the place back and look again after ``seconds``, or at a poke."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"waiting {seconds:g} s")


class RetryFrom(Exception):
    """Unwind to the step ``step`` (itself undone too), then go on from there as a new attempt.

    ``notes`` are merged into the run's notes; lists are appended to.
    """

    def __init__(self, step: str, reason: str, **notes: Any) -> None:
        self.step, self.reason, self.notes = step, reason, notes
        super().__init__(reason)


class Failed(Exception):
    """The step can't be done, now or later: unwind. ``message`` is fit for the user."""

    def __init__(self, message: str, **details: Any) -> None:
        self.message, self.details = message, details
        super().__init__(message)

    def told(self) -> dict[str, Any]:
        """As the journal keeps it."""
        return {"message": self.message, "details": self.details, "cancelled": isinstance(self, Cancelled)}

    @staticmethod
    def read(kept: dict[str, Any]) -> Failed:
        """What the journal keeps: a saga that was cancelled is so in the next process, too."""
        kind = Cancelled if kept.get("cancelled") else Failed
        return kind(kept["message"], **kept.get("details", {}))


class Cancelled(Failed):
    """Somebody asked for the opposite; unwind."""


@dataclass
class Run:
    """One run of a saga, as its steps see it."""

    id: str
    saga: str
    subject: str
    params: Any
    """The saga's parameter Struct."""
    world: Any
    """The service's own object: databases, bus, clients."""
    attempt: int
    """Counts from 1; a retry on another host is the next."""
    generation: int
    """The lease's number: whoever took the saga over has a higher one."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """What each finished step returned."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What survives an unwind, e.g. hosts that were tried."""
    caller: Context | None = None
    """Who asked, with the token if it can still be opened."""
    started_at: float = 0.0
    since: float = 0.0
    """When the current step began; time in which no process was there to work is taken out."""
    tries: int = 0
    """How often the current step was begun before."""
    _commits: list[Callable[[Transaction], Awaitable[None]]] = field(default_factory=list)

    def commit(self, body: Callable[[Transaction], Awaitable[None]]) -> None:
        """Write ``body`` in the same transaction that records this step as done (or the saga as failed)."""
        self._commits.append(body)


StepFunction = Callable[[Run], Awaitable[Any]]


@dataclass(frozen=True)
class Step:
    """``do`` ensures, ``undo`` ensures the opposite; ``within`` bounds all tries of ``do`` together, in seconds
    of work: time in which no process ran does not count."""

    name: str
    do: StepFunction
    undo: StepFunction | None = None
    within: float = 120.0


@dataclass(frozen=True)
class Saga:
    """A named, versioned list of steps. A saga in flight keeps its version."""

    name: str
    params: type[msgspec.Struct]
    steps: tuple[Step, ...]
    version: int = 1
    on_failed: Callable[[Run, Failed], Awaitable[None]] | None = None
    """Runs once everything is undone; says what is left of it to the user (with `Run.commit`)."""
    on_stuck: Callable[[Run, str], Awaitable[None]] | None = None
    """Runs when an undo failed for good, besides the alarm."""

    def index(self, step: str) -> int:
        return next(i for i, one in enumerate(self.steps) if one.name == step)


def failure_of(error: BaseException) -> Failed | None:
    """The final failure that an exception of a step means; None when trying again may help."""
    if isinstance(error, Failed):
        return error
    if isinstance(error, Fault) and error.status < 500:
        return Failed(error.message, kind=error.kind, status=error.status)
    return None


def merge_notes(notes: dict[str, Any], more: dict[str, Any]) -> None:
    """Lay ``more`` over the notes; a value for a list is appended to it."""
    for key, value in more.items():
        if isinstance(notes.get(key), list):
            notes[key] = notes[key] + [
                one for one in (value if isinstance(value, list) else [value]) if one not in notes[key]
            ]
        else:
            notes[key] = value


class Hooks(Protocol):
    """Where a test may interfere: before a step, between its work and its commit, after the commit."""

    async def before(self, run: Run, step: Step, direction: str) -> None: ...

    async def worked(self, run: Run, step: Step, direction: str) -> None: ...

    async def committed(self, run: Run, step: Step, direction: str) -> None: ...

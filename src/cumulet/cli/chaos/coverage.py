# SPDX-License-Identifier: Apache-2.0
"""Where a storm hit: each step of create, delete and attach, before it, inside it, after its commit.

A flow is *before* a step when it stands at its beginning, *inside* from its
first action until its work is done but not committed, *after* it once that is
committed. What counts is read from the trail that a killed process left.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STEPS = {
    "compute.create_server": ("host", "build", "active"),
    "compute.delete_server": ("settle", "guest", "volumes", "ports", "claim", "gone"),
    "compute.attach_volume": ("reserve", "plug", "complete"),
}
"""The sagas that must be hit everywhere, and their steps (a test holds them to the code)."""
PHASES = ("before", "inside", "after")
_POINT = re.compile(r"(?P<saga>\S+) (?P<step>\S+) (?P<way>do|undo): (?P<what>.*)")
_STALE = 3.0
"""Seconds after which a flow that reached nothing more is no longer taken to be at work in that process."""
Row = tuple[str, str, str]
"""Saga, step, phase."""


class Trail:
    """What the flows of one process passed (its file ``reached``), since it was started last."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "reached"
        self._offset = 0
        self._last: dict[tuple[str, str], tuple[str, float]] = {}
        """(subject, saga or component) → the last point, and when we saw it."""
        self.known: set[str] = set()

    def begin(self) -> None:
        """The process is a new one."""
        self.read()
        self._last.clear()

    def read(self) -> None:
        """Take in what was added."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        now = time.monotonic()
        for line in whole.decode().splitlines():
            subject, _, point = line.partition(" ")
            self._last[subject, point.partition(" ")[0]] = (point, now)
            self.known.add(point)

    def at_work(self) -> list[str]:
        """The last point of each flow that this process works on now."""
        self.read()
        now = time.monotonic()
        return [point for point, seen in self._last.values() if now - seen < _STALE and not _is_end(point)]


def _is_end(point: str) -> bool:
    found = _POINT.fullmatch(point)
    return found is not None and found["what"] == "committed" and found["step"] == STEPS.get(found["saga"], ("",))[-1]


def row_of(point: str, *, held: bool) -> Row | None:
    """Which row a flow that stands at this point belongs to; None when it is in none."""
    found = _POINT.fullmatch(point.removesuffix(" (again)"))
    if found is None or found["way"] != "do" or found["saga"] not in STEPS:
        return None
    phase = {"before": "before" if held else "inside", "committed": "after"}.get(found["what"], "inside")
    return found["saga"], found["step"], phase


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Aim:
    """Where a kill is to hit: when the first flow stands at one of the points."""

    row: Row
    points: Sequence[str]
    begin: Callable[[], None] = _nothing
    """Called once flows are held at the points; lets one come there."""


@dataclass
class Coverage:
    """How many flows were hit where, and where the next kill aims: at each row once, then at each again."""

    seed: int = 1
    hits: Counter[Row] = field(default_factory=Counter)
    elsewhere: Counter[str] = field(default_factory=Counter)
    """Other points (agents, other sagas) → flows that were hit there."""
    aimed: Counter[Row] = field(default_factory=Counter)
    """Kills that aimed at a row."""
    came: Counter[Row] = field(default_factory=Counter)
    """Those of them to which a flow came."""

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)  # noqa: S311 - an order that can be repeated, no secret
        order = rows()
        self._dice.shuffle(order)
        self._order = {row: number for number, row in enumerate(order)}

    def count(self, at_work: list[str], held: str | None, row: Row | None = None) -> None:
        """A process was killed with these flows at work, one of them held at a chosen point of ``row``."""
        if row is not None and held is not None:
            self.came[row] += 1
        for point in at_work if held is None else [held, *(one for one in at_work if one != held)]:
            row = row_of(point, held=point == held)
            if row is None:
                self.elsewhere[point] += 1
            else:
                self.hits[row] += 1

    @property
    def missing(self) -> list[Row]:
        return [row for row in rows() if not self.hits[row]]

    def aim(self, known: set[str]) -> tuple[Row, list[str]]:
        """The row that was aimed at least (of these one that was never hit, if there is one; else by the seed's
        order), and the points that are in it: one that every flow passes, and inside a step another one, too."""
        row = min(rows(), key=lambda one: (self.aimed[one], self.hits[one] > 0, self._order[one]))
        self.aimed[row] += 1
        saga, step, phase = row
        begin = f"{saga} {step} do: "
        if phase != "inside":
            return row, [begin + {"before": "before", "after": "committed"}[phase]]
        worked = begin + "worked"
        inner = sorted(one for one in known if one.startswith(begin) and row_of(one, held=True) == row)
        return row, list(dict.fromkeys([self._dice.choice(inner), worked] if inner else [worked]))

    def table(self) -> list[str]:
        """Lines of text: a row per step."""
        lines = [f"{'step':<34}" + "".join(f"{phase:>8}" for phase in PHASES)]
        for saga, steps in STEPS.items():
            for step in steps:
                figures = "".join(f"{self.hits[saga, step, phase]:>8}" for phase in PHASES)
                lines.append(f"{saga + ' ' + step:<34}{figures}")
        return lines

    def told(self) -> dict[str, dict[str, int]]:
        """The same as data, with the rest."""
        hits = {" ".join(row): number for row, number in sorted(self.hits.items())}
        return {"hits": hits, "elsewhere": dict(sorted(self.elsewhere.items()))}


def rows() -> list[Row]:
    return [(saga, step, phase) for saga, steps in STEPS.items() for step in steps for phase in PHASES]

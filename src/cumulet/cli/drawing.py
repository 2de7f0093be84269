# SPDX-License-Identifier: Apache-2.0
"""Draws the flow of a server as lines of text: one per step, with a bar on a common axis of time.

Pure: rows and a width go in, lines come out. Legible in 100 columns, and
without colours: marks and words say what colours repeat.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from rich.text import Text

from cumulet.client.insight import GOAL, FlowStep, StepName

NARROWEST: Final = 72
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_TICKS: Final = "▏│▕"
SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
NOT_RECORDED: Final = "not recorded"

_COLOURS: Final = {
    "auth": "magenta",
    "api": "blue",
    "rpc": "bright_black",
    "scheduler": "cyan",
    "compute": "blue",
    "conductor": "bright_blue",
    "image": "green",
    "network": "yellow",
    "volume": "dark_orange3",
    "hypervisor": "bright_magenta",
    "server": "bright_green",
}
"""The first word of a step's name → its colour."""


def _size(detail: dict[str, Any]) -> str:
    size = detail.get("size")
    told = f"{size / 1_048_576:.0f} MiB" if isinstance(size, int) and size >= 1_048_576 else ""
    return f"{detail.get('format', '')} {told}".strip()


def _count(detail: dict[str, Any], key: str, one: str) -> str:
    number = detail.get(key)
    return f"{number} {one}{'' if number == 1 else 's'}" if isinstance(number, int) else ""


_NOTES: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "rpc.build": lambda detail: f"to {detail['to']}" if detail.get("to") else "",
    "image.ready": _size,
    "network.request": lambda detail: _count(detail, "ports", "port"),
    "network.ready": lambda detail: " ".join(str(one) for one in detail.get("addresses", [])),
    "volume.request": lambda detail: _count(detail, "volumes", "volume"),
    "hypervisor.spawn": lambda detail: str(detail.get("kind", "")),
}


@dataclass
class Layout:
    """The widths of the columns for one drawing."""

    step: int
    component: int
    host: int
    """0: nobody is told the hosts."""
    bar: int
    start: int = 9
    took: int = 8

    @classmethod
    def of(cls, steps: Sequence[FlowStep], names: Iterable[StepName], width: int) -> Layout:
        """The widths that fit ``width`` columns; what is missing is taken from the components."""
        every = [(one.name, one.between or one.component) for one in steps]
        every += [(one.name, one.between) for one in names]
        host = min(max((len(one.host or "") for one in steps), default=0), 14)
        step = max((len(name) for name, _ in every), default=22)
        component = max((len(shortened(label)) for _, label in every), default=22)
        rest = width - (7 + step + 1 + 10 + 10)
        if host and rest - (host + 1) < 9 + 1 + 12:
            host = 0  # too narrow for everything
        rest -= host + 1 if host else 0
        component = max(min(component, rest - 1 - 14), 9)
        bar = rest - 1 - component
        return cls(step, component, host, bar)


@dataclass
class Axis:
    """The common axis: from the request for the server to the end of the last step."""

    begin: float
    end: float

    @classmethod
    def of(cls, steps: Iterable[FlowStep]) -> Axis:
        """The steps of the token came before the axis begins, often long before."""
        spans = [(seconds(one), one.duration_ms or 0.0) for one in steps if one.place > 2]
        starts = [start for start, _ in spans if start is not None]
        ends = [start + ms / 1000 for start, ms in spans if start is not None]
        return cls(min(starts, default=0.0), max(ends, default=0.0))

    @property
    def ms(self) -> float:
        return (self.end - self.begin) * 1000


@dataclass(frozen=True)
class ToCome:
    """A step that has not been recorded yet."""

    place: int
    name: str
    between: str
    attempt: int


@dataclass
class Picture:
    """What is drawn: the steps, and in a living flow also those to come."""

    title: Text
    steps: list[FlowStep]
    names: list[StepName] = field(default_factory=list)
    """All steps there are; those not yet recorded are drawn as to come. Empty: the flow is over."""
    tick: int = 0
    """Moves the sign of life."""
    waited_ms: float = 0.0
    """For how long there has been no news."""

    def lines(self, width: int, height: int | None = None) -> list[Text]:
        """The drawing; with ``height`` at most so many lines, those around the running step."""
        width = max(width, NARROWEST)
        steps = sorted(self.steps, key=lambda one: (one.attempt, one.place))
        layout, axis = Layout.of(steps, self.names, width), Axis.of(steps)
        running = self._running(steps)
        body: list[Text] = []
        attempt, focus = 1, 0
        for one in self._all(steps):
            if one.attempt != attempt:
                attempt = one.attempt
                body.append(_rule(f"attempt {attempt}", width))
            if isinstance(one, ToCome):
                line = _to_come(one, layout, SPINNER[self.tick % len(SPINNER)] if one.place == running else "·")
                if one.place == running:
                    focus = len(body) + 1
                    line.append(" " * ((layout.host + 1 if layout.host else 0) + layout.start + 1))
                    line.append(f"{duration(self.waited_ms):>{layout.took}}", "yellow")
                body.append(line)
            else:
                body += _lines_of(one, layout, axis, width)
                focus = len(body) if running is None else focus
        top = [self.title, Text(""), _head(layout, axis)]
        if height is not None and len(top) + len(body) > height:
            room = max(height - len(top), 1)
            start = min(max(focus - room + 3, 0), len(body) - room)
            body = body[start : start + room]
        return [*top, *body]

    def _all(self, steps: Sequence[FlowStep]) -> list[FlowStep | ToCome]:
        """What was recorded and what is to come, in the order of attempts and numbers."""
        attempt = max((one.attempt for one in steps), default=1)
        known = {one.place for one in steps if one.attempt == attempt}
        first = 3 if attempt == 1 else 12
        failed = any(one.error for one in steps if one.attempt == attempt)
        rest = [
            ToCome(name.place, name.name, name.between, attempt)
            for name in self.names
            if name.place not in known and name.place >= first and not failed
        ]
        every: list[FlowStep | ToCome] = [*steps, *rest]
        return sorted(every, key=lambda one: (one.attempt, one.place))

    def _running(self, steps: Sequence[FlowStep]) -> int | None:
        """The step that is done now: the first that is missing, since a step is recorded when it ends."""
        attempt = max((one.attempt for one in steps), default=1)
        mine = [one for one in steps if one.attempt == attempt]
        if any(one.error for one in mine):
            return None
        known = {one.place for one in mine}
        first = 3 if attempt == 1 else 12
        return next((name.place for name in self.names if name.place >= first and name.place not in known), None)


def shortened(label: str) -> str:
    """A component's label as it is drawn: the compute agent is the only agent in it."""
    return label.replace("compute-agent", "agent")


def seconds(step: FlowStep) -> float | None:
    """When a step began, in seconds since the epoch."""
    return None if step.started_at is None else datetime.fromisoformat(step.started_at).timestamp()


def duration(ms: float) -> str:
    """A duration for people, at most eight characters."""
    if ms == 0:
        return "0 ms"
    if ms < 100:
        return f"{ms:.1f} ms" if ms >= 1 else f"{ms:.2f} ms"
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.2f} s"
    minutes = ms / 60_000
    return f"{int(minutes)} min {int(minutes * 60) % 60:02d}"[:8] if minutes < 60 else f"{minutes / 60:.1f} h"


def bar(begin: float, end: float, width: int) -> tuple[int, str]:
    """(offset, characters) of a bar from ``begin`` to ``end``, fractions of ``width`` cells; never invisible.

    An eighth of a cell is told apart at its end and a half at its beginning; what
    is shorter than a third of a cell is a tick where it happened.
    """
    begin, end = begin * width, max(end, begin) * width
    first = min(int(begin), width - 1)
    within = begin - first
    if end - begin < 1 / 3:
        return first, _TICKS[min(int(within * len(_TICKS)), len(_TICKS) - 1)]
    front = "▐" if within >= 0.5 else ""
    if end <= first + 1:
        return first, front or _EIGHTHS[max(round((end - first) * 8), 1)]
    whole, rest = divmod(round((end - first) * 8), 8)
    drawn = "█" * whole + _EIGHTHS[rest].strip()
    return first, (front + drawn[1:] if front else drawn)[: width - first]


def note_of(step: FlowStep) -> str:
    """The few words beside a bar: what a cache answered, how many calls, what came of it."""
    detail = step.detail
    words = []
    if (calls := detail.get("calls")) is not None:
        words.append(f"×{calls}")
    if detail.get("cached"):
        words.append("cached")
    elif detail.get("cached_calls"):
        words.append(f"{detail['cached_calls']} cached")
    if (note := _NOTES.get(step.name)) is not None and (told := note(detail)):
        words.append(told)
    return " ".join(words)


# ---- lines


def _colour(name: str) -> str:
    return _COLOURS.get(name.split(".")[0], "white")


def _head(layout: Layout, axis: Axis) -> Text:
    line = Text(no_wrap=True)
    line.append(f"     # {'step':<{layout.step}} {'component':<{layout.component}} ")
    if layout.host:
        line.append(f"{'host':<{layout.host}} ")
    line.append(f"{'start':>{layout.start}} {'took':>{layout.took}}  ")
    end = duration(axis.ms) if axis.ms else ""
    line.append(f"0{end:>{layout.bar - 1}}")
    line.stylize("dim")
    return line


def _rule(words: str, width: int) -> Text:
    return Text(f" ── {words} {'─' * (width - len(words) - 6)}", style="yellow", no_wrap=True)


def _front(mark: str, style: str, number: int | None, name: str, label: str, layout: Layout, dim: bool) -> Text:
    line = Text(" ", no_wrap=True)
    line.append(mark, style)
    shown = "" if name == GOAL else str(number or "")
    line.append(f" {shown:>3} ", "dim")
    line.append(f"{name:<{layout.step}} ", "dim" if dim else _colour(name))
    label = shortened(label)
    if len(label) > layout.component:
        label = label[: layout.component - 1] + "…"
    line.append(f"{label:<{layout.component}} ", "dim")
    return line


def _to_come(name: ToCome, layout: Layout, mark: str) -> Text:
    style = "dim" if mark == "·" else "bold yellow"
    return _front(mark, style, name.place, name.name, name.between, layout, dim=mark == "·")


def _lines_of(step: FlowStep, layout: Layout, axis: Axis, width: int) -> list[Text]:
    mark, style = _mark(step)
    label = step.between or step.component
    line = _front(mark, style, step.place, step.name, label, layout, dim=step.skipped is not None)
    if layout.host:
        host = step.host or ""
        host = host if len(host) <= layout.host else host[: layout.host - 1] + "…"
        line.append(f"{host:<{layout.host}} ", "dim")
    started = seconds(step)
    if step.skipped is not None or started is None:
        why = step.skipped or NOT_RECORDED
        words = why if why == NOT_RECORDED else f"skipped: {why}"
        line.append(f"  {words}"[: layout.start + layout.took + layout.bar + 3], "yellow" if mark == "?" else "dim")
        return [line]
    offset = (started - axis.begin) * 1000
    sign = "-" if offset < 0 else "+"
    line.append(f"{sign + duration(abs(offset)):>{layout.start}} ", "dim")
    took = duration(step.duration_ms) if step.duration_ms else "·"
    line.append(f"{took:>{layout.took}}  ")
    line.append_text(_bar_of(step, started, layout.bar, axis))
    if not step.error:
        return [line]
    where = f" (on {step.host})" if step.host and step.host not in step.error else ""
    told = textwrap.wrap(step.error + where, width - 10) or [""]
    return [line, *(Text(f"       {'└─' if at == 0 else '  '} {part}", "red") for at, part in enumerate(told))]


def _mark(step: FlowStep) -> tuple[str, str]:
    if step.error:
        return "✗", "bold red"
    if step.skipped == NOT_RECORDED or step.started_at is None:
        return "?", "yellow"
    if step.skipped is not None:
        return "–", "dim"
    return ("★", "bold bright_green") if step.name == GOAL else ("✓", "green")


def _bar_of(step: FlowStep, started: float, width: int, axis: Axis) -> Text:
    """The bar, with its note in whichever free space beside it is large enough."""
    note = note_of(step)
    style = "red" if step.error else _colour(step.name)
    span = axis.end - axis.begin
    end = started + (step.duration_ms or 0) / 1000
    if end < axis.begin or span <= 0:
        at, drawn = 0, "◂" if end < axis.begin else "█"
    else:
        at, drawn = bar(max(started - axis.begin, 0) / span, min((end - axis.begin) / span, 1.0), width)
    line = Text(" " * at, no_wrap=True)
    line.append(drawn, style)
    after = width - at - len(drawn) - 1
    if note and len(note) <= after:
        line.append(f" {note}", "dim italic")
    elif note and len(note) < at:
        line = Text(" " * (at - len(note) - 1), no_wrap=True)
        line.append(f"{note} ", "dim italic")
        line.append(drawn, style)
    return line

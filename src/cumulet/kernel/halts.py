# SPDX-License-Identifier: Apache-2.0
"""Points at which a process can be made to stand still, so that it can be killed exactly there.

For `cumulet chaos` and its tests: a flow that reaches a chosen point never goes
on; once every chosen point holds a flow, whoever chose them kills the process.
Invariant: without CUMULET_HALTS (a folder) in the environment nothing of this
runs and nothing is slower.

The folder holds ``plan`` (JSON: a list of points to hold at; written by the
controller, read here whenever it changes), ``reached`` and ``held`` (lines
``<subject> <point>``, written here). Each point holds the first flow that
reaches it; the others go on to the next points. ``*<point>`` holds them all.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import orjson

from cumulet.kernel import trace

T = TypeVar("T")
_REPEATS = 2
"""How many times one flow may pass a point and still meet it under a name of its own."""
_LOOK = 0.02
_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
_where: ContextVar[tuple[str, str] | None] = ContextVar("halts_where", default=None)


class Halts:
    """The points of this process."""

    def __init__(self, folder: Path) -> None:
        self._plan = folder / "plan"
        self._reached = open(folder / "reached", "a", buffering=1)  # noqa: SIM115 - lives as long as we
        self._held = open(folder / "held", "a", buffering=1)  # noqa: SIM115 - lives as long as we
        self._passed: Counter[tuple[str, str]] = Counter()
        self._taken: dict[str, str] = {}
        self._stamp, self._points = 0, frozenset[str]()

    def _wanted(self) -> frozenset[str]:
        """The points of the plan as it stands now."""
        try:
            stamp = self._plan.stat().st_mtime_ns
            if stamp != self._stamp:
                self._points, self._stamp = frozenset(orjson.loads(self._plan.read_bytes())), stamp
        except (OSError, orjson.JSONDecodeError):
            return self._points  # it is being written
        self._taken = {point: who for point, who in self._taken.items() if point in self._points}
        return self._points

    async def reach(self, subject: str, point: str) -> None:
        """Pass a point, or stand still there until the plan does not name it any more."""
        self._passed[subject, point] += 1
        times = self._passed[subject, point]
        if times > _REPEATS:
            return
        name = point if times == 1 else f"{point} (again)"
        self._reached.write(f"{subject} {name}\n")
        wanted = self._wanted()
        if (everybody := f"*{name}") in wanted:
            await self._stand(subject, everybody)
        elif name in wanted and name not in self._taken:
            self._taken[name] = subject
            await self._stand(subject, name)

    async def _stand(self, subject: str, name: str) -> None:
        self._held.write(f"{subject} {name}\n")
        while name in self._wanted():  # noqa: ASYNC110 - the controller is another process
            await asyncio.sleep(_LOOK)


class _Sagas:
    """The hooks of a saga engine: before a step, after its work, after its commit."""

    def __init__(self, halts: Halts) -> None:
        self._halts = halts

    async def before(self, run: Any, step: Any, direction: str) -> None:
        _where.set((run.subject, f"{run.saga} {step.name} {direction}"))
        await self._reach(run, step, direction, "before")

    async def worked(self, run: Any, step: Any, direction: str) -> None:
        await self._reach(run, step, direction, "worked")

    async def committed(self, run: Any, step: Any, direction: str) -> None:
        await self._reach(run, step, direction, "committed")

    async def _reach(self, run: Any, step: Any, direction: str, phase: str) -> None:
        await self._halts.reach(run.subject, f"{run.saga} {step.name} {direction}: {phase}")


class Around:
    """Stands before something whose methods have effects: each call is a point before it and one after it."""

    def __init__(self, inner: Any, name: str, methods: frozenset[str], halts: Halts) -> None:
        self._inner, self._name, self._methods, self._halts = inner, name, methods, halts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._methods:
            return found

        async def call(*args: Any, **more: Any) -> Any:
            what = f"{self._name} {getattr(args[0], 'name', None) or name}" if name in _BUS else f"{self._name} {name}"
            about = _about(args)
            await self._pass(about, f"{what} before")
            result = await found(*args, **more)
            await self._pass(about, f"{what} after")
            return result

        return call

    async def _pass(self, about: str | None, what: str) -> None:
        where = _place()
        if where is not None:
            await self._halts.reach(where[0], f"{where[1]}: {what}")
        elif about is not None:
            await self._halts.reach(about, what)


_BUS = frozenset({"call", "cast"})


@cache
def _here() -> Halts | None:
    """The points of the process that asks: one that was forked has its own."""
    folder = os.environ.get("CUMULET_HALTS", "")
    return Halts(Path(folder)) if folder else None


def _place() -> tuple[str, str] | None:
    """Whose work the running task does, and as what."""
    if (where := _where.get()) is not None:
        return where
    flow = trace.current()
    return (flow.subject, flow.component) if flow is not None and flow.subject else None


def _about(args: tuple[Any, ...]) -> str | None:
    """The resource that a driver's call is about: its first argument, or that one's ``server_id``."""
    first = args[0] if args else None
    found = first if isinstance(first, str) else getattr(first, "server_id", None) or getattr(first, "id", None)
    return found if isinstance(found, str) else None


def saga_hooks() -> Any:
    """The hooks that every engine of this process has; None in ordinary life."""
    return _Sagas(here) if (here := _here()) is not None else None


def around(inner: T, name: str, *methods: str) -> T:
    """``inner``, with points around the named async methods; itself in ordinary life."""
    here = _here()
    return inner if here is None else Around(inner, name, frozenset(methods), here)  # type: ignore[return-value]


async def request(what: str, phase: str) -> None:
    """A point before or after a request to another service."""
    if (here := _here()) is not None and (where := _place()) is not None:
        await here.reach(where[0], f"{where[1]}: {_UUID.sub('{id}', what.partition('?')[0])} {phase}")

# SPDX-License-Identifier: Apache-2.0
"""The soundness harness: one call proves of a saga what every saga must keep.

Straight; each step twice; a failure at each step; a crash before and after each
commit, forward and back; each undo twice; a cancel at each step. After every
scenario the world must be finished or clean, nothing in between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import select

from cumulet.kernel import clock
from cumulet.kernel.clock import FakeClock
from cumulet.kernel.saga.engine import Hooks, SagaEngine
from cumulet.kernel.saga.model import Failed, Run, Saga, Step
from cumulet.kernel.saga.store import READY, STUCK

_PATIENCE = 30.0
"""Seconds that a saga in real time may take."""
_LONGEST = 7 * 86_400.0
"""Seconds of simulated time that a saga may take."""


class Crash(BaseException):
    """The process died here."""


class World(Protocol):
    """A world in which one saga can be run from nothing."""

    def engine(self, hooks: Hooks) -> SagaEngine:
        """A new engine, as a new process would make it (``sole=True``)."""

    async def begin(self, engine: SagaEngine) -> str:
        """Write the saga's record and start it; returns the saga's id."""

    async def cancel(self, engine: SagaEngine, saga_id: str) -> None:
        """Cancel it as the service does (a server's delete)."""

    async def assert_finished(self) -> None:
        """Everything that the saga promises is there, once."""

    async def assert_clean(self) -> None:
        """Nothing of it is left, and the record says what happened."""


@dataclass
class _Fault:
    """What goes wrong in one scenario, at which step and point, in which direction."""

    step: str | None = None
    point: str = "before"
    direction: str = "do"
    kind: str = "none"
    undo_twice: bool = False
    do_twice: bool = False
    fail_at: str | None = None
    spent: bool = False
    cancel: Callable[[], Awaitable[None]] | None = None

    async def before(self, run: Run, step: Step, direction: str) -> None:
        await self._strike("before", run, step, direction)

    async def worked(self, run: Run, step: Step, direction: str) -> None:
        if direction == "do" and self.do_twice:
            run.outputs[step.name] = await step.do(run)
        if direction == "undo" and self.undo_twice and step.undo is not None:
            await step.undo(run)
        if direction == "do" and step.name == self.fail_at and self.point != "before":
            raise Failed(f"injected after {step.name}")
        await self._strike("worked", run, step, direction)

    async def committed(self, run: Run, step: Step, direction: str) -> None:
        await self._strike("committed", run, step, direction)

    async def _strike(self, point: str, run: Run, step: Step, direction: str) -> None:
        if point == "before" and direction == "do" and step.name == self.fail_at and self.point == "before":
            raise Failed(f"injected before {step.name}")
        if self.spent or (step.name, direction, point) != (self.step, self.direction, self.point):
            return
        self.spent = True
        if self.kind == "crash":
            raise Crash
        if self.kind == "cancel" and self.cancel is not None:
            await self.cancel()


def scenarios(saga: Saga) -> list[tuple[str, dict[str, Any], bool]]:
    """(title, fault, whether the saga must finish) of every scenario of a saga."""
    found: list[tuple[str, dict[str, Any], bool]] = [
        ("straight", {}, True),
        ("each step twice", {"do_twice": True}, True),
    ]
    for step in saga.steps:
        found += [
            (f"crash {point} {step.name}", {"step": step.name, "point": point, "kind": "crash"}, True)
            for point in ("before", "worked", "committed")
        ]
        for point in ("before", "worked"):
            failing: dict[str, Any] = {"fail_at": step.name, "point": point}
            found.append((f"failure {point} {step.name}", failing, False))
            found.append((f"failure {point} {step.name}, each undo twice", {**failing, "undo_twice": True}, False))
    last = saga.steps[-1].name
    for step in saga.steps:
        for point in ("before", "worked", "committed"):
            crash = {"step": step.name, "point": point, "direction": "undo", "kind": "crash"}
            found.append((f"failure at {last}, crash {point} undo of {step.name}", {"fail_at": last, **crash}, False))
    return found


async def assert_sound(
    saga: Saga,
    make_world: Callable[[], AbstractAsyncContextManager[World]],
    *,
    cancel_until: str | None = None,
    undoable: bool = True,
    real_time: bool = False,
) -> list[str]:
    """Run every scenario in a fresh world; returns their titles.

    ``cancel_until`` is the last step after which a cancel must still lead to a
    clean world (default: the last but one). ``undoable=False`` is for sagas
    that only go forward (a delete): failures and cancels are then left out.
    ``real_time`` is for worlds with real services in them, which can't be stopped in time.
    """
    titles = []
    for title, fault, finishes in scenarios(saga):
        if not undoable and not finishes:
            continue
        await _one(saga, make_world, title, _Fault(**fault), finishes, real_time)
        titles.append(title)
    if undoable:
        stop = saga.index(cancel_until) if cancel_until else len(saga.steps) - 2
        for step in saga.steps[: stop + 1]:
            title = f"cancel after {step.name}"
            cancel = _Fault(step=step.name, point="committed", kind="cancel")
            await _one(saga, make_world, title, cancel, False, real_time)
            titles.append(title)
    return titles


async def _one(
    saga: Saga,
    make_world: Callable[[], AbstractAsyncContextManager[World]],
    title: str,
    fault: _Fault,
    finishes: bool,
    real_time: bool,
) -> None:
    fake = None if real_time else FakeClock()
    if fake is not None:
        clock.use(fake)
    try:
        async with make_world() as world:
            engine = world.engine(fault)
            saga_id = await world.begin(engine)

            async def cancel() -> None:
                await world.cancel(engine, saga_id)

            fault.cancel = cancel
            try:
                await _run_to_its_end(world, engine, saga_id, fake, fault)
                await (world.assert_finished() if finishes else world.assert_clean())
            except AssertionError as error:
                raise AssertionError(f"{saga.name}, {title}: {error}") from error
    finally:
        clock.use(clock.SystemClock())


async def _run_to_its_end(
    world: World, engine: SagaEngine, saga_id: str, fake: FakeClock | None, fault: _Fault
) -> None:
    """Drive the saga, with a new engine after each crash, moving the clock over its waits."""
    table = engine.journal.table
    deadline = clock.monotonic() + _PATIENCE
    while fake is not None or clock.monotonic() < deadline:
        try:
            await engine.settle()
        except Crash:
            engine = world.engine(fault)
            await engine.journal.release_all()
            continue
        row = await engine.journal.database.first(select(table).where(table.c.id == saga_id))
        assert row is not None
        assert row["state"] != STUCK, row["error"]
        if row["state"] != READY:
            return
        if fake is None:
            await clock.sleep(0.005)
        else:
            assert row["wake_at"] < fake.now() + 86_400, f"the saga never ended: {row}"
            await fake.advance(max(row["wake_at"] - fake.now(), 0.05))
            assert fake.now() < deadline + _LONGEST, f"the saga never ended: {row}"
    raise AssertionError("the saga did not end in time")

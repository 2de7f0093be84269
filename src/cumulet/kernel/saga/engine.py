# SPDX-License-Identifier: Apache-2.0
"""The engine: takes due sagas, runs their steps, commits output and cursor together.

Invariants: a step's commit happens only under the lease it was begun with; the
cursor moves by one; a saga that can't go forward goes back, and one that can't
go back is `stuck`, shown and alarmed, never dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from sqlalchemy import Table, select

from cumulet.kernel import clock, context, halts, ids, trace
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Unavailable
from cumulet.kernel.loops import Loop
from cumulet.kernel.saga.model import Cancelled, Failed, RetryFrom, Run, Saga, Step, Wait, failure_of, merge_notes
from cumulet.kernel.saga.model import Hooks as Hooks
from cumulet.kernel.saga.store import DONE, FAILED, READY, STUCK, Journal, LostLease
from cumulet.kernel.secrets import Seal

_log = logging.getLogger(__name__)
_UNDO_TRIES = 12
_UNREADABLE = 60.0
"""Seconds until a saga whose parameters could not be read is looked at again."""


class SagaEngine:
    """Runs the sagas of one service's database. ``sole`` means no other process runs them.

    The sagas of a process that died go on in another after ``lease`` seconds and the
    dispatch loop's one.
    """

    def __init__(
        self,
        database: Database,
        table: Table,
        sagas: Iterable[Saga],
        *,
        world: Any,
        seal: Seal,
        component: str,
        host: str = "",
        sole: bool = False,
        workers: int = 64,
        lease: float = 3.5,
        hooks: Hooks | None = None,
    ) -> None:
        self._sagas = {(saga.name, saga.version): saga for saga in sagas}
        self.journal = Journal(database, table, seal, self._sagas)
        self.world = world
        self._table = table
        self._newest = {saga.name: saga for saga in sorted(self._sagas.values(), key=lambda one: one.version)}
        self._component, self._host, self._sole = component, host, sole
        self._workers, self._lease, self._hooks = workers, lease, hooks or halts.saga_hooks()
        self._owner = ids.new_uuid()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._poked: set[str] = set()
        self._pokes: dict[str, asyncio.Event] = {}
        self._stopping = self._started = False
        self._told: set[str] = set()
        self.tell: Callable[[str, bool], None] | None = None
        """How engines in other processes are poked: one of them, or (True) all."""
        self.loop = Loop(f"{component} sagas", 1.0, self._dispatch)
        self.stuck = 0

    # ---- from outside

    async def start_saga(self, tx: Transaction, name: str, *, subject: str, params: msgspec.Struct) -> str:
        """Write a saga in the transaction of its record; it starts once that is committed. Returns its id."""
        saga = self._newest[name]
        if not isinstance(params, saga.params):
            raise TypeError(f"{name} takes {saga.params.__name__}")
        saga_id = await self.journal.add(tx, name, saga.version, subject, params)
        tx.after_commit(lambda: self.poke(saga_id))
        return saga_id

    async def cancel(self, tx: Transaction, saga_id: str) -> bool:
        """Ask a saga to unwind instead of going on; False when it is over."""
        asked = await self.journal.cancel(tx, saga_id)
        tx.after_commit(lambda: self.poke(saga_id))
        return asked

    def poke(self, saga_id: str) -> None:
        """Let a waiting saga look again now, in whatever process it is run."""
        if self.tell is not None and not self._started:
            self.tell(saga_id, False)
            return
        self._poked.add(saga_id)
        self.loop.poke()

    def hear(self, saga_id: str, *, everybody: bool) -> None:
        """A poke from another process; one that all were told is not passed on."""
        if everybody:
            self._told.add(saga_id)
        self._poked.add(saga_id)
        self.loop.poke()

    async def poke_subject(self, subject: str) -> None:
        """Let all sagas about a resource look again now."""
        t = self._table
        rows = await self.journal.database.all(
            select(t.c.id).where(t.c.subject == subject, t.c.state == READY), point=True
        )
        for row in rows:
            self.poke(row["id"])

    async def start(self) -> None:
        self._stopping = False
        if self._sole:
            await self.journal.release_all()
        await self.loop.start()
        self._started = True

    async def stop(self) -> None:
        """Finish the steps in work, then give all leases back."""
        self._stopping, self._started = True, False
        await self.loop.stop()
        for task in list(self._running.values()):
            try:
                async with asyncio.timeout(10):
                    await asyncio.shield(task)
            except (TimeoutError, Exception):
                task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def settle(self) -> None:
        """Run everything that is due until nothing is (for tests and simulations)."""
        while due := {*self._poked, *await self.journal.due()}:
            self._poked.clear()
            for saga_id in due:
                await self._run(saga_id)

    # ---- inside

    async def _dispatch(self) -> None:
        poked, self._poked = self._poked, set()
        for saga_id in poked:
            if saga_id in self._running:
                self._poked_while_running(saga_id)
            else:
                self._launch(saga_id, poked=True)
        for saga_id in await self.journal.due(self._workers):
            if saga_id not in self._running:
                self._launch(saga_id, poked=False)

    def _poked_while_running(self, saga_id: str) -> None:
        self._pokes.setdefault(saga_id, asyncio.Event()).set()

    def _launch(self, saga_id: str, *, poked: bool) -> None:
        if self._stopping or len(self._running) >= self._workers:
            if poked:
                self._poked.add(saga_id)
            return
        task = asyncio.get_running_loop().create_task(self._run(saga_id, poked=poked), name=f"saga {saga_id}")
        self._running[saga_id] = task
        task.add_done_callback(lambda _: self._ended(saga_id))

    def _ended(self, saga_id: str) -> None:
        self._running.pop(saga_id, None)
        pending = self._pokes.pop(saga_id, None)
        if pending is not None and pending.is_set():
            self.poke(saga_id)  # it came between the last look and the end of the run
        elif self._poked:
            self.loop.poke()

    async def _run(self, saga_id: str, *, poked: bool = False) -> None:
        row = await self.journal.take(saga_id, self._owner, self._lease)
        told = saga_id in self._told
        self._told.discard(saga_id)
        if row is None:
            if poked and not told and self.tell is not None and not self._sole:
                self.tell(saga_id, True)  # whoever runs it must look again
            return
        saga = self._sagas[row["name"], row["version"]]
        try:
            params = msgspec.convert(row["params"], saga.params)
        except msgspec.ValidationError as error:  # another release's; that may be the one that knows what to do
            _log.error("saga %s %s: its parameters can't be read by this release: %s", saga.name, saga_id, error)
            await self.journal.give_back(saga_id, row["generation"], _UNREADABLE)
            return
        run = Run(
            id=saga_id, saga=saga.name, subject=row["subject"], params=params,
            world=self.world, attempt=row["attempt"], generation=row["generation"], outputs=row["outputs"],
            notes=row["notes"], caller=self.journal.caller_of(row), started_at=row["created_at"], tries=row["tries"],
        )  # fmt: skip
        context.use(run.caller)
        carried = {**row["baggage"], "attempt": str(run.attempt)}
        trace.resume(self._component, self._host, carried)
        heartbeat = asyncio.get_running_loop().create_task(self._keep(saga_id, run.generation))
        try:
            await self._advance(saga, run, row)
        except LostLease:
            _log.warning("saga %s %s was taken over by another worker", saga.name, saga_id)
        except Unavailable as error:  # the journal can't be written: whoever gets the lease next goes on
            _log.warning("saga %s %s stops until its lease is over: %s", saga.name, saga_id, error.message)
        finally:
            heartbeat.cancel()

    async def _keep(self, saga_id: str, generation: int) -> None:
        while True:
            await clock.sleep(self._lease / 3)
            try:
                if not await self.journal.renew(saga_id, generation, self._lease):
                    return
            except Unavailable as error:
                _log.warning("the lease of saga %s could not be renewed: %s", saga_id, error.message)

    async def _advance(self, saga: Saga, run: Run, row: Row) -> None:
        """Run steps until the saga ends or waits. ``floor`` set means: going back, down to that cursor."""
        cursor, floor, since = row["cursor"], row["floor"], row["step_since"]
        error = Failed.read(row["error"]) if row["error"] else None
        while not self._stopping:
            if floor is None:
                if cursor == len(saga.steps):
                    await self._end(saga, run, DONE)
                    return
                if await self.journal.cancelled(run.id):
                    error, floor = Cancelled("The operation was cancelled."), 0
                    cursor = await self._turn_back(saga, run, cursor, floor, error)
                    continue
                step = saga.steps[cursor]
                run.since = since
                outcome = await self._try(run, step)
                if isinstance(outcome, Wait):
                    await self._sleep(run, outcome.seconds)
                    return
                if isinstance(outcome, RetryFrom):
                    merge_notes(run.notes, outcome.notes)
                    floor, error = saga.index(outcome.step), None
                    cursor = await self._turn_back(saga, run, cursor, floor, None)
                elif isinstance(outcome, Failed):
                    error, floor = outcome, 0
                    cursor = await self._turn_back(saga, run, cursor, floor, error)
                else:
                    cursor, since = cursor + 1, clock.now()
            elif cursor > floor:
                step = saga.steps[cursor - 1]
                if not await self._undo(saga, run, step, cursor):
                    return
                cursor -= 1
                since = clock.now()
            elif error is not None:
                await self._fail(saga, run, error)
                return
            else:
                run.attempt += 1
                if (flow := trace.current()) is not None:
                    flow.attempt = run.attempt
                floor, since = None, clock.now()
                await self._write(run, floor=None, attempt=run.attempt, step_since=since, tries=0)
        await self._write(run, owner=None, lease_until=0.0)

    async def _try(self, run: Run, step: Step) -> Any:
        """One step forward: its output committed with the cursor, or what it raised instead."""
        run._commits.clear()
        try:
            if self._hooks:
                await self._hooks.before(run, step, "do")
            async with asyncio.timeout(max(step.within, 1.0)):
                output = await step.do(run)
            if self._hooks:
                await self._hooks.worked(run, step, "do")
        except (Wait, RetryFrom) as said:
            if isinstance(said, Wait) and clock.now() - run.since > step.within:
                return Failed(f"{step.name} did not finish within {step.within:g} s.", step=step.name)
            return said
        except LostLease:
            raise
        except Exception as error:
            return self._again(run, step, error)
        run.outputs[step.name] = output
        kept: dict[str, Any] = {"outputs": run.outputs, "notes": run.notes, "tries": 0}
        try:
            await self._write(run, cursor_step=1, step_since=clock.now(), bodies=True, **kept)
        except (LostLease, Unavailable):
            raise
        except Exception as error:  # one of the step's own bodies raised
            run.outputs.pop(step.name, None)
            return self._again(run, step, error)
        run.tries = 0
        if self._hooks:
            await self._hooks.committed(run, step, "do")
        return None

    def _again(self, run: Run, step: Step, error: Exception) -> Wait | Failed:
        """What an error of a step means: the end, or another try, of which nothing was written."""
        run._commits.clear()
        final = failure_of(error)
        if final is not None:
            final.details.setdefault("step", step.name)
            return final
        if clock.now() - run.since > step.within:
            return Failed(f"{step.name} failed: {str(error) or type(error).__name__}", step=step.name)
        _log.warning("saga %s step %s will be tried again: %s", run.saga, step.name, error, exc_info=run.tries == 0)
        run.tries += 1
        return Wait(min(0.2 * 2 ** min(run.tries, 7), 15.0))

    async def _undo(self, saga: Saga, run: Run, step: Step, cursor: int) -> bool:
        """One step back; False when it must wait or is stuck."""
        run._commits.clear()
        try:
            if self._hooks:
                await self._hooks.before(run, step, "undo")
            if step.undo is not None:
                async with asyncio.timeout(max(step.within, 1.0)):
                    await step.undo(run)
            if self._hooks:
                await self._hooks.worked(run, step, "undo")
            run.outputs.pop(step.name, None)
            now, cursor = clock.now(), cursor - 1
            await self._write(run, bodies=True, cursor=cursor, outputs=run.outputs, tries=0, step_since=now)
        except Wait as wait:
            await self._sleep(run, wait.seconds)
            return False
        except Exception as error:
            await self._back_again(saga, run, f"undo of {step.name}", error)
            return False
        run.tries = 0
        if self._hooks:
            await self._hooks.committed(run, step, "undo")
        return True

    async def _back_again(self, saga: Saga, run: Run, what: str, error: Exception) -> None:
        """An error on the way back: try again later, and in the end call for help."""
        if isinstance(error, LostLease):
            raise error
        run._commits.clear()
        run.tries += 1
        reason = str(error) or type(error).__name__
        if run.tries < _UNDO_TRIES:
            _log.warning("saga %s: %s will be tried again: %s", run.saga, what, reason)
            await self._sleep(run, min(0.2 * 2 ** min(run.tries, 8), 60.0))
            return
        _log.error("saga %s %s is stuck: %s failed for good", run.saga, run.id, what, exc_info=error)
        self.stuck += 1
        try:
            if saga.on_stuck is not None:
                await saga.on_stuck(run, f"{what} failed: {reason}")
            await self._write(run, state=STUCK, owner=None, lease_until=0.0, bodies=True)
        except (LostLease, Unavailable):
            raise
        except Exception:
            _log.exception("saga %s %s could not say that it is stuck", run.saga, run.id)
            await self._write(run, state=STUCK, owner=None, lease_until=0.0)

    async def _turn_back(self, saga: Saga, run: Run, cursor: int, floor: int, error: Failed | None) -> int:
        """Begin to unwind, the current step first: it may have done half its work."""
        cursor, run.tries, told = min(cursor + 1, len(saga.steps)), 0, error.told() if error else None
        await self._write(run, cursor=cursor, floor=floor, error=told, notes=run.notes, tries=0)
        return cursor

    async def _fail(self, saga: Saga, run: Run, error: Failed) -> None:
        run._commits.clear()
        try:
            if saga.on_failed is not None:
                await saga.on_failed(run, error)
            await self._end(saga, run, FAILED)
        except Wait as wait:
            await self._sleep(run, wait.seconds)
        except Exception as broken:
            await self._back_again(saga, run, "telling of the failure", broken)

    async def _end(self, saga: Saga, run: Run, state: str) -> None:
        await self._write(run, state=state, token=None, owner=None, lease_until=0.0, bodies=state == FAILED)
        _log.info("saga %s %s for %s", saga.name, state, run.subject)

    async def _sleep(self, run: Run, seconds: float) -> None:
        """Give the place back until a time; a poke that came meanwhile wins."""
        poked = self._pokes.pop(run.id, None)
        wake_at = clock.now() if poked is not None and poked.is_set() else clock.now() + seconds
        await self._write(
            run, wake_at=wake_at, owner=None, lease_until=0.0, notes=run.notes, tries=run.tries, bodies=True
        )
        if (soon := wake_at - clock.now()) < 1.0:  # the dispatch loop looks once a second only
            asyncio.get_running_loop().call_later(max(soon, 0.0), self.poke, run.id)

    async def _write(self, run: Run, *, bodies: bool = False, cursor_step: int = 0, **values: Any) -> None:
        """Write the journal row, with the step's own bodies in the same transaction."""
        commits: list[Any] = list(run._commits) if bodies else []
        if cursor_step:
            values["cursor"] = self._table.c.cursor + cursor_step

        async def body(tx: Transaction) -> None:
            await self.journal.write(tx, run.id, run.generation, **values)
            for commit in commits:
                pending: Awaitable[None] = commit(tx)
                await pending

        await self.journal.database.run(body, durable=False)
        if bodies:
            run._commits.clear()

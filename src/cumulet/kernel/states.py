# SPDX-License-Identifier: Apache-2.0
"""One table of actions per resource with a life. `begin` is a compare-and-swap; no other line writes a state.

An action says where it is allowed, what the resource shows while busy, where it
ends, and which saga does it. The state diagrams of the docs are printed from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from cumulet.kernel import clock
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict

ANY = frozenset({"*"})
DELETING = "deleting"
"""The busy mark that only a delete ends (where marks have a column of their own)."""


@dataclass(frozen=True)
class Action:
    """Allowed in ``allowed`` (state names, or `ANY`), shows ``busy`` meanwhile, ends in ``ends`` (None: as it was).

    ``while_busy`` lists busy marks during which the action may begin all the
    same (`ANY`: always); by default a busy resource refuses.
    """

    allowed: frozenset[str]
    busy: str | None
    ends: str | None
    saga: str | None = None
    while_busy: frozenset[str] = frozenset()
    word: str | None = None
    """What its refusals call the action, where several actions share a published name."""


@dataclass(frozen=True)
class Life:
    """The life of one resource: its table, its actions, and which columns hold the state.

    With ``busy_column`` the busy mark has a column of its own (a server's
    task_state); without, it replaces the state (a volume's status).
    """

    noun: str
    table: Table
    actions: Mapping[str, Action]
    state_column: str = "status"
    busy_column: str | None = None
    refusal: str = "Cannot '{word}' {noun} {id} while it is in {where} {now}"
    """How an action is refused that is not for the state ``now``; ``goal`` is the state that it would show."""

    async def begin(self, tx: Transaction, name: str, id: str, **values: Any) -> Row:
        """Start the action or raise Conflict in the published wording; returns the row as it was before."""
        action = self.actions[name]
        row = await tx.first(self.table.select().where(self.table.c.id == id))
        if row is None:
            raise Conflict(f"{self.noun} {id} is gone.")
        busy = row[self.busy_column] if self.busy_column else None
        word = action.word or name
        if action.allowed is not ANY and row[self.state_column] not in action.allowed:
            told = {"where": self._word("state"), "now": row[self.state_column], "goal": action.busy or action.ends}
            raise Conflict(self.refusal.format(word=word, noun=self.noun, id=id, **told), kind="InvalidState")
        if busy is not None and action.while_busy is not ANY and busy not in action.while_busy:
            raise Conflict(
                f"Cannot '{word}' {self.noun} {id} while it is in {self.busy_column} {busy}", kind="InvalidState"
            )
        changes = dict(values)
        if action.busy is not None:
            changes[self.busy_column or self.state_column] = action.busy
        elif action.ends is not None:
            changes[self.state_column] = action.ends
        condition = (self.table.c.id == id) & (self.table.c[self.state_column] == row[self.state_column])
        if self.busy_column:
            condition &= self.table.c[self.busy_column].is_not_distinct_from(busy)
        if not await tx.run(self.table.update().where(condition).values(**changes, updated_at=clock.now())):
            raise Conflict(f"{self.noun} {id} was changed by another request.")
        return row

    async def finish(self, tx: Transaction, name: str, id: str, *, ends: str | None = None, **values: Any) -> bool:
        """End a begun action in its own end state (or ``ends``); False when the resource is gone.

        False, and nothing changes, too when the action showed a mark of its own
        and a delete began meanwhile: what ends then is not what goes on.
        """
        action = self.actions[name]
        changes = dict(values)
        end = ends or action.ends
        if end is not None:
            changes[self.state_column] = end
        statement = self.table.update().where(self.table.c.id == id)
        if self.busy_column:
            changes[self.busy_column] = None
            if action.busy not in (None, DELETING):
                statement = statement.where(self.table.c[self.busy_column].is_distinct_from(DELETING))
        return bool(await tx.run(statement.values(**changes, updated_at=clock.now())))

    async def progress(self, tx: Transaction, name: str, id: str, busy: str) -> bool:
        """Show another busy mark while the begun action ``name`` goes on; False when it is not the one going on."""
        assert self.busy_column is not None
        assert name in self.actions
        column = self.table.c[self.busy_column]
        statement = self.table.update().where(self.table.c.id == id, column.is_not(None), column != DELETING)
        return bool(await tx.run(statement.values({self.busy_column: busy, "updated_at": clock.now()})))

    def _word(self, plain: str) -> str:
        return plain if self.state_column in ("status", "state") else self.state_column

    def diagram(self) -> str:
        """The state diagram as Mermaid text."""
        lines = ["stateDiagram-v2"]
        for name, action in self.actions.items():
            for start in sorted(action.allowed):
                end = action.ends or start
                lines.append(f"    {'any' if start == '*' else start} --> {end}: {name}")
        return "\n".join(lines)

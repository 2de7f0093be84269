# SPDX-License-Identifier: Apache-2.0
"""Fences: a change that comes too late changes nothing.

Who makes a thing for others and who undoes that can be two processes, and the
request of the first may lie in a stopped process until long after. So requests
between services carry a number: twice the attempt that makes the thing, one
more to undo that attempt, `LAST` to end it for good. A service refuses a number
below what it has seen for the thing, and looks in the transaction that changes
it (M. Kleppmann, "How to do distributed locking", calls such numbers fencing tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from sqlalchemy import BigInteger, Column, MetaData, String, Table

from cumulet.kernel import clock
from cumulet.kernel.context import Context
from cumulet.kernel.db import Database, Time, Transaction
from cumulet.kernel.db.database import Opening, opening
from cumulet.kernel.errors import Conflict, Forbidden, Invalid

HEADER: Final = "x-cumulet-fence"
LAST: Final = 2**32 + 1
KEPT: Final = 7 * 86_400.0
"""Seconds that a number is remembered, as long as an ended saga is."""
_PURGE: Final = 3600.0
_LONGEST: Final = 64


def making(attempt: int = 1) -> int:
    """The number with which an attempt makes a thing."""
    return 2 * attempt


def undoing(attempt: int) -> int:
    """The number with which what an attempt made is undone; a later attempt may make it again."""
    return 2 * attempt + 1


def header(number: int | None) -> dict[str, str]:
    """What a request with this number has besides its other headers."""
    return {} if number is None else {HEADER: str(number)}


def fence_table(metadata: MetaData) -> Table:
    """What one service has seen of the things that others make in it."""
    return Table(
        "fences",
        metadata,
        Column("thing", String(_LONGEST), primary_key=True),
        Column("number", BigInteger, nullable=False),
        Column("seen_at", Time, nullable=False, index=True),
    )


class Fences:
    """The numbers that one service has seen."""

    def __init__(self, database: Database, table: Table) -> None:
        self._database, self._table = database, table
        self._insert: Any = import_module(f"sqlalchemy.dialects.{database.dialect}").insert
        self._purged = 0.0

    async def enter(self, headers: Mapping[str, str], caller: Context, params: Mapping[str, str], sent: Any) -> None:
        """Have every transaction of this request see first whether it comes too late.

        The thing is what the path names last, or the body by its ``id``. Undoing
        counts from here on, before anything is read. Raises Conflict for what is late,
        Invalid for what is no number, and Forbidden for who may not undo: a host, or
        a service that speaks for a user.
        """
        told, thing = headers.get(HEADER), _thing(params, sent)
        if told is None or thing is None or not caller.is_service:
            return
        if not told.isdecimal() or int(told) > LAST:
            raise Invalid(f"{HEADER} is not a number up to {LAST}.")
        number = int(told)
        if number % 2 and (not caller.serves or caller.host is not None):
            raise Forbidden

        async def look(tx: Transaction) -> None:
            await self._look(tx, thing, number)

        if number % 2:
            await self._database.run(look)
            await self._purge()
        opening.set(Opening(self._database, look))

    async def _look(self, tx: Transaction, thing: str, number: int) -> None:
        """Raise the thing's number, which others wait for then; raises Conflict for a lower one.

        Who makes it raises it by no more than what takes back the last undoing, so
        that a host, which says itself which attempt it works on, can stop nobody.
        """
        t, undoes = self._table, number % 2 == 1
        # one statement: of two that come first at once PostgreSQL lets the later one begin anew
        first = self._insert(t).values(thing=thing, number=number if undoes else 0, seen_at=clock.now())
        seen = first.on_conflict_do_update(
            index_elements=[t.c.thing],
            set_={"number": number if undoes else t.c.number + t.c.number % 2, "seen_at": first.excluded.seen_at},
            where=t.c.number <= number,
        )
        if not await tx.run(seen):
            raise Conflict(f"What was asked of {thing} was undone already, or is made anew.")

    async def _purge(self) -> None:
        if clock.monotonic() < self._purged:
            return
        self._purged = clock.monotonic() + _PURGE
        t = self._table
        await self._database.run(lambda tx: tx.run(t.delete().where(t.c.seen_at < clock.now() - KEPT)), durable=False)


def leave() -> None:
    """The request is over: what it left behind to be done is not its own any more."""
    if (mine := opening.get()) is not None:
        mine.over = True


def _thing(params: Mapping[str, str], sent: Any) -> str | None:
    """The id of what a request is about."""
    if params:
        named: Any = list(params.values())[-1]
    elif isinstance(sent, dict):
        inner = next(iter(sent.values()), None) if len(sent) == 1 else sent
        named = inner.get("id") if isinstance(inner, dict) else None
    else:
        named = None
    return named if isinstance(named, str) and 0 < len(named) <= _LONGEST else None

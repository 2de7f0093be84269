# SPDX-License-Identifier: Apache-2.0
"""What every service sees of its database, whichever it is.

Invariant: no call leaves the process while a transaction is open. On SQLite a
body that awaits anything but `tx` is an error at once; on PostgreSQL
`outside_transaction` refuses in the bus and the REST transports.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from cumulet.kernel.db.statements import Row

T = TypeVar("T")
__all__ = ["Database", "Duplicate", "Row", "Transaction", "in_transaction", "outside_transaction"]

in_transaction: ContextVar[bool] = ContextVar("in_transaction", default=False)


class Duplicate(Exception):
    """A uniqueness or foreign key constraint refused the row; the text names the constraint or columns."""


def outside_transaction(what: str) -> None:
    """Raise RuntimeError when a transaction is open in this task: ``what`` would leave the process."""
    if in_transaction.get():
        raise RuntimeError(f"{what} while a transaction is open")


class Transaction(Protocol):
    """The inside of one transaction: everything is seen, nothing is visible outside before the commit."""

    async def all(self, statement: Any, params: Mapping[str, Any] | None = None) -> list[Row]:
        """All rows, as dicts keyed by column name."""

    async def first(self, statement: Any, params: Mapping[str, Any] | None = None) -> Row | None: ...

    async def run(self, statement: Any, params: Mapping[str, Any] | None = None) -> int:
        """Execute; returns the number of rows that it changed. Raises Duplicate."""

    async def insert(self, table: Any, values: Mapping[str, Any]) -> None:
        """Insert one row. Raises Duplicate."""

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call ``action`` on the loop once this transaction is committed (never when it is not)."""


Body = Callable[[Transaction], Awaitable[T]]


@dataclass
class Opening:
    """What every transaction of a request begins with, until the request is over."""

    database: Database
    look: Callable[[Transaction], Awaitable[None]]
    over: bool = False


opening: ContextVar[Opening | None] = ContextVar("opening", default=None)


def opened(database: Database, body: Body[T]) -> Body[T]:
    """``body``, after what the transactions of the running request begin with on ``database``."""
    first = opening.get()
    if first is None or first.over or first.database is not database:
        return body

    async def both(tx: Transaction) -> T:
        await first.look(tx)
        return await body(tx)

    return both


class Database(Protocol):
    """One service's database."""

    dialect: str
    """``sqlite`` or ``postgresql``."""

    async def run(self, body: Body[T], *, durable: bool = True) -> T:
        """Run ``body`` in a serializable transaction and return its result after the commit.

        ``durable=False`` may lose the commit in a power cut (never in a crash of
        the process). ``body`` may be run several times. Raises Unavailable when
        the database can't be reached or is full.
        """

    async def all(self, statement: Any, params: Mapping[str, Any] | None = None, *, point: bool = False) -> list[Row]:
        """Read committed rows; ``point`` promises an indexed read of at most 50 rows."""

    async def first(self, statement: Any, params: Mapping[str, Any] | None = None) -> Row | None:
        """Read the first row by an index."""

    def hold(self, name: str) -> AbstractAsyncContextManager[None]:
        """Be the only one of all processes on this database that holds ``name``; waits for it.

        Whoever dies has given it back. Raises Unavailable.
        """

    async def schema_version(self) -> str | None:
        """The migration that the schema stands at; None for an empty database."""

    async def execute_ddl(self, statements: list[str]) -> None:
        """Run schema statements in one transaction."""

    async def close(self) -> None: ...

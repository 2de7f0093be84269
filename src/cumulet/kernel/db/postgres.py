# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL through asyncpg: one database, a schema per service, every transaction SERIALIZABLE.

A serialisation failure or deadlock runs the body again; the caller never sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

from cumulet.kernel import clock, ids
from cumulet.kernel.db.database import Body, Duplicate, in_transaction, opened
from cumulet.kernel.db.statements import Compiler, Prepared, Row
from cumulet.kernel.errors import Fault, Invalid, Unavailable

T = TypeVar("T")
_TRIES = 30
PATIENCE = 20.0
"""Seconds without an answer (to a statement, or for a free connection) after which the database counts as away."""
_BRIEF = 5.0
"""Seconds for a rollback; the server makes one itself when the connection ends."""
_LONG = 3600.0
"""Seconds for what may take its time: a lock that others hold, a migration."""


class _Tx:
    def __init__(self, connection: Any, compiler: Compiler) -> None:
        self._connection, self._compiler = connection, compiler
        self.actions: list[Callable[[], None]] = []

    async def _fetch(self, statement: Any, params: Mapping[str, Any] | None) -> tuple[Prepared, list[Any]]:
        prepared, sql, values = self._compiler.prepare(statement, params or {})
        with _ended_when_silent(self._connection):
            return prepared, await self._connection.fetch(sql, *values)

    async def all(self, statement: Any, params: Mapping[str, Any] | None = None) -> list[Row]:
        prepared, records = await self._fetch(statement, params)
        return prepared.rows([tuple(record) for record in records])

    async def first(self, statement: Any, params: Mapping[str, Any] | None = None) -> Row | None:
        rows = await self.all(statement, params)
        return rows[0] if rows else None

    async def run(self, statement: Any, params: Mapping[str, Any] | None = None) -> int:
        import asyncpg

        _, sql, values = self._compiler.prepare(statement, params or {})
        try:
            # a savepoint, so that a body may catch Duplicate and go on as it can on SQLite
            async with self._connection.transaction():
                with _ended_when_silent(self._connection):
                    status = await self._connection.execute(sql, *values)
        except asyncpg.IntegrityConstraintViolationError as error:
            raise Duplicate(f"{error.constraint_name}: {error.detail}") from None
        number = status.rsplit(" ", 1)[-1]
        return int(number) if number.isdigit() else 0

    async def insert(self, table: Any, values: Mapping[str, Any]) -> None:
        await self.run(table.insert(), values)

    def after_commit(self, action: Callable[[], None]) -> None:
        self.actions.append(action)


class _Stale(Exception):
    """The connection had ended while nobody used it; nothing was begun."""


class PostgresDatabase:
    """One schema of a PostgreSQL database; made by `connect`."""

    dialect = "postgresql"

    def __init__(self, pool: Any, schema: str, patience: float = PATIENCE) -> None:
        from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

        self._pool, self._schema, self._patience = pool, schema, patience
        self._compiler = Compiler(PGDialect_asyncpg())  # type: ignore[no-untyped-call]

    @classmethod
    async def connect(
        cls, dsn: str, schema: str, *, connections: int = 8, patience: float = PATIENCE
    ) -> PostgresDatabase:
        """Connect to ``dsn`` and create the schema when it is missing; raises Unavailable."""
        import asyncpg

        if not schema.isidentifier():
            raise ValueError(f"{schema!r} is no schema name")
        try:
            pool = await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=connections,
                timeout=10,
                command_timeout=patience,
                reset=_leave_clean,
                server_settings={
                    "search_path": schema,
                    "application_name": f"cumulet-{schema}",
                    # what a process that stands still holds is free before others lose their patience
                    "idle_in_transaction_session_timeout": str(int(patience * 750)),
                    # and what a host that lost its power held within seconds
                    "tcp_keepalives_idle": "5",
                    "tcp_keepalives_interval": "2",
                    "tcp_keepalives_count": "3",
                },
            )
        except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Unavailable(f"The database can't be reached: {_said(error)}") from None
        database = cls(pool, schema, patience)
        async with database.hold("schema"):
            await pool.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        return database

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        key = f"cumulet:{self._schema}:{name}"
        try:
            connection = await self._pool.acquire(timeout=self._patience)
        except _lost() as error:
            raise Unavailable(f"The database can't be reached: {_said(error)}") from None
        try:
            try:
                await connection.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", key, timeout=_LONG)
            except _lost() as error:
                raise Unavailable(f"The database can't be reached: {_said(error)}") from None
            yield
            await connection.execute("SELECT pg_advisory_unlock(hashtextextended($1, 0))", key)
        except BaseException:
            connection.terminate()  # which gives the lock back
            raise
        finally:
            await self._pool.release(connection)

    async def run(self, body: Body[T], *, durable: bool = True) -> T:
        import asyncpg

        body, stale = opened(self, body), 0
        for attempt in range(_TRIES):
            try:
                return await self._once(body, durable)
            except _Stale as told:
                stale += 1  # all that lie in the pool may be
                if stale > self._pool.get_max_size():
                    raise Unavailable(f"The database can't take the change: {_said(told)}") from None
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                await clock.sleep(ids.choose(0, 0.002 * 2 ** min(attempt, 6)))
            except _lost() as error:
                raise _fault(error, "take the change") from None
        raise Unavailable("The database is too busy; try again.")

    async def _once(self, body: Body[T], durable: bool) -> T:
        async with self._pool.acquire(timeout=self._patience) as connection:
            transaction = connection.transaction(isolation="serializable")
            try:
                with _ended_when_silent(connection):
                    await transaction.start()
            except TimeoutError:
                raise
            except _lost() as error:
                raise _Stale(_said(error)) from None
            mark = in_transaction.set(True)
            try:
                if not durable:
                    with _ended_when_silent(connection):
                        await connection.execute("SET LOCAL synchronous_commit = off")
                tx = _Tx(connection, self._compiler)
                result = await body(tx)
            except BaseException as error:
                if not isinstance(error, TimeoutError):
                    with suppress(*_lost()), _ended_when_silent(connection):
                        async with asyncio.timeout(_BRIEF):
                            await transaction.rollback()
                raise
            else:
                with _ended_when_silent(connection):
                    await transaction.commit()
            finally:
                in_transaction.reset(mark)
        for action in tx.actions:
            action()
        return result

    async def all(self, statement: Any, params: Mapping[str, Any] | None = None, *, point: bool = False) -> list[Row]:
        prepared, sql, values = self._compiler.prepare(statement, params or {})
        for left in range(self._pool.get_max_size(), -1, -1):
            try:
                async with self._pool.acquire(timeout=self._patience) as connection:
                    with _ended_when_silent(connection):
                        records = await connection.fetch(sql, *values)
                break
            except _lost() as error:
                # a connection that ended while nobody used it; a server that can't be reached is asked once
                if not left or isinstance(error, OSError | TimeoutError | ValueError):
                    raise _fault(error, "be reached") from None
        return prepared.rows([tuple(record) for record in records])

    async def first(self, statement: Any, params: Mapping[str, Any] | None = None) -> Row | None:
        rows = await self.all(statement, params)
        return rows[0] if rows else None

    async def schema_version(self) -> str | None:
        found = await self._pool.fetchval("SELECT to_regclass($1)", f"{self._schema}.alembic_version")
        return await self._pool.fetchval("SELECT version_num FROM alembic_version") if found else None

    async def execute_ddl(self, statements: list[str]) -> None:
        async with self._pool.acquire(timeout=self._patience) as connection, connection.transaction():
            for statement in statements:
                await connection.execute(statement, timeout=_LONG)

    async def close(self) -> None:
        await self._pool.close()


@contextmanager
def _ended_when_silent(connection: Any) -> Iterator[None]:
    """Give a connection up on which nothing comes any more; to end it in order would wait for an answer, too."""
    try:
        yield
    except TimeoutError:
        connection.terminate()
        raise


async def _leave_clean(connection: Any) -> None:
    """Nothing is left to do: the driver ends an open transaction first, and locks were given back.

    Its own reset would cost every statement a second round trip.
    """


def _lost() -> tuple[type[Exception], ...]:
    """What the driver raises when the server is away, ends, or has no room, and for values that it can't hold."""
    import asyncpg

    return (
        asyncpg.DataError,
        OSError,
        TimeoutError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
        asyncpg.IdleInTransactionSessionTimeoutError,
        asyncpg.InsufficientResourcesError,
        # when it lets nobody in
        asyncpg.ObjectNotInPrerequisiteStateError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
    )


def _fault(error: Exception, what: str) -> Fault:
    """A value that no column holds (a NUL character, a number or text too long) is the request's mistake."""
    import asyncpg

    if isinstance(error, asyncpg.DataError):
        return Invalid("The request holds a text or number that can't be stored.")
    return Unavailable(f"The database can't {what}: {_said(error)}")


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__

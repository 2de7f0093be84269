# SPDX-License-Identifier: Apache-2.0
"""SQLite in WAL mode: one writer thread whose queued transactions share a commit.

Each transaction body is driven inside the writer thread with a savepoint of its
own, so a failing one takes nobody with it; a failing COMMIT (full disk) fails
all that share it. Point reads happen on the loop, others on reader threads.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from cumulet.kernel.db.database import Body, Duplicate, in_transaction, opened
from cumulet.kernel.db.statements import Compiler, Prepared, Row
from cumulet.kernel.errors import Unavailable

T = TypeVar("T")
_GROUP = 64


class _Tx:
    """A transaction on the writer's connection; its methods never suspend."""

    def __init__(self, connection: sqlite3.Connection, compiler: Compiler) -> None:
        self._connection, self._compiler = connection, compiler
        self.actions: list[Callable[[], None]] = []

    def _execute(self, statement: Any, params: Mapping[str, Any] | None) -> tuple[Prepared, sqlite3.Cursor]:
        prepared, sql, values = self._compiler.prepare(statement, params or {})
        try:
            return prepared, self._connection.execute(sql, values)
        except sqlite3.IntegrityError as error:
            raise Duplicate(str(error)) from None

    async def all(self, statement: Any, params: Mapping[str, Any] | None = None) -> list[Row]:
        prepared, cursor = self._execute(statement, params)
        return prepared.rows(cursor.fetchall())

    async def first(self, statement: Any, params: Mapping[str, Any] | None = None) -> Row | None:
        prepared, cursor = self._execute(statement, params)
        row = cursor.fetchone()
        cursor.close()
        return prepared.rows([row])[0] if row is not None else None

    async def run(self, statement: Any, params: Mapping[str, Any] | None = None) -> int:
        _, cursor = self._execute(statement, params)
        return cursor.rowcount

    async def insert(self, table: Any, values: Mapping[str, Any]) -> None:
        self._execute(table.insert(), values)

    def after_commit(self, action: Callable[[], None]) -> None:
        self.actions.append(action)


class _Job:
    """One queued transaction and where its outcome goes."""

    def __init__(self, body: Body[Any], durable: bool) -> None:
        self.body, self.durable = body, durable
        self.context = contextvars.copy_context()
        self.result: Any = None
        self.error: BaseException | None = None
        self.actions: list[Callable[[], None]] = []
        self.done: Callable[[_Job], None] = lambda job: None


class SqliteDatabase:
    """One SQLite file. ``inline`` runs everything on the caller's thread, for deterministic simulations."""

    dialect = "sqlite"

    def __init__(self, path: Path | str, *, inline: bool = False, readers: int = 2) -> None:
        self._path = str(path)
        self._compiler_write = Compiler(_dialect())
        self._compiler_read = Compiler(_dialect())
        self._compiler_threads = threading.local()
        self._writer = self._connect()
        self._writer.execute("PRAGMA journal_mode=WAL")
        self._synchronous = "FULL"
        self._writer.execute("PRAGMA synchronous=FULL")
        self._reader = self._connect(read_only=True)
        self._inline, self._closed = inline, False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._readers = readers
        self._held: dict[str, asyncio.Lock] = {}
        if not inline:
            self._thread = threading.Thread(target=self._write_forever, name="sqlite-writer", daemon=True)
            self._thread.start()

    def _connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, cached_statements=512)
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA foreign_keys=ON")
        if read_only:
            connection.execute("PRAGMA query_only=ON")
        return connection

    # ---- writing

    async def run(self, body: Body[T], *, durable: bool = True) -> T:
        if self._closed:
            raise Unavailable("The database is closed.")
        job = _Job(opened(self, body), durable)
        if self._inline:
            self._commit([job])
        else:
            loop = asyncio.get_running_loop()
            finished: asyncio.Future[None] = loop.create_future()

            def wake() -> None:
                if not finished.done():
                    finished.set_result(None)

            def done(_: _Job) -> None:
                loop.call_soon_threadsafe(wake)

            job.done = done
            self._jobs.put(job)
            # the transaction goes on when the caller is cancelled: what was accepted is decided
            await asyncio.shield(finished)
        if job.error is not None:
            raise job.error
        for action in job.actions:
            action()
        result: T = job.result
        return result

    def _write_forever(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            group, stop = [job], False
            while len(group) < _GROUP:
                try:
                    following = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    stop = True
                    break
                group.append(following)
            try:
                self._commit(group)
            except BaseException as error:  # not even a rollback was possible; the next group begins with one
                self._fail(group, error)
            for member in group:
                try:
                    member.done(member)
                except RuntimeError:
                    pass  # its loop is closed: nobody waits any more
            if stop:
                return

    def _commit(self, group: list[_Job]) -> None:
        """Run the jobs, each in its savepoint, and commit once; every outcome is stored in its job."""
        wanted = "FULL" if any(job.durable for job in group) else "NORMAL"
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            if wanted != self._synchronous:
                self._writer.execute(f"PRAGMA synchronous={wanted}")
                self._synchronous = wanted
            self._writer.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._fail(group, error)
            return
        for job in group:
            try:
                self._writer.execute("SAVEPOINT job")
                job.result, job.actions = job.context.run(self._drive, job.body)
                self._writer.execute("RELEASE job")
            except BaseException as error:
                job.error = self._translate(error)
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK TO job")
                    self._writer.execute("RELEASE job")
                else:  # SQLite rolled the whole group back by itself (disk full)
                    self._fail(group, error)
                    return
        try:
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            self._fail(group, error)

    def _fail(self, group: list[_Job], error: BaseException) -> None:
        for job in group:
            job.error = job.error or self._translate(error)
            job.result, job.actions = None, []

    @staticmethod
    def _translate(error: BaseException) -> BaseException:
        if isinstance(error, sqlite3.OperationalError | sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.IntegrityError | sqlite3.ProgrammingError
        ):
            text = str(error)
            if "full" in text or "disk I/O" in text or "locked" in text or "unable to open" in text:
                return Unavailable(f"The database can't take the change: {text}.")
        return error

    def _drive(self, body: Body[T]) -> tuple[T, list[Callable[[], None]]]:
        """Run the body to its end on this thread; it may await nothing but the transaction."""
        tx = _Tx(self._writer, self._compiler_write)
        in_transaction.set(True)
        running = body(tx).__await__()
        try:
            next(running)
        except StopIteration as end:
            return end.value, tx.actions
        finally:
            in_transaction.set(False)
        running.throw(RuntimeError("a transaction body awaited something other than its transaction"))
        raise RuntimeError("a transaction body awaited something other than its transaction")

    # ---- reading

    async def all(self, statement: Any, params: Mapping[str, Any] | None = None, *, point: bool = False) -> list[Row]:
        if point or self._inline:
            return self._read(self._reader, self._compiler_read, statement, params)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._readers, thread_name_prefix="sqlite-reader")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read_in_thread, statement, params)

    async def first(self, statement: Any, params: Mapping[str, Any] | None = None) -> Row | None:
        prepared, sql, values = self._compiler_read.prepare(statement, params or {})
        cursor = self._reader.execute(sql, values)
        row = cursor.fetchone()
        cursor.close()
        return prepared.rows([row])[0] if row is not None else None

    def _read_in_thread(self, statement: Any, params: Mapping[str, Any] | None) -> list[Row]:
        local = self._compiler_threads
        if not hasattr(local, "connection"):
            local.connection, local.compiler = self._connect(read_only=True), Compiler(_dialect())
        return self._read(local.connection, local.compiler, statement, params)

    @staticmethod
    def _read(
        connection: sqlite3.Connection, compiler: Compiler, statement: Any, params: Mapping[str, Any] | None
    ) -> list[Row]:
        prepared, sql, values = compiler.prepare(statement, params or {})
        return prepared.rows(connection.execute(sql, values).fetchall())

    # ---- schema

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """A file belongs to one process, so only its own tasks are kept apart."""
        async with self._held.setdefault(name, asyncio.Lock()):
            yield

    async def schema_version(self) -> str | None:
        found = self._reader.execute("SELECT name FROM sqlite_master WHERE name='alembic_version'").fetchone()
        if found is None:
            return None
        row = self._reader.execute("SELECT version_num FROM alembic_version").fetchone()
        return row[0] if row else None

    async def execute_ddl(self, statements: list[str]) -> None:
        from sqlalchemy import text

        async def body(tx: Any) -> None:
            for statement in statements:
                await tx.run(text(statement.replace(":", "\\:")))

        await self.run(body)

    async def close(self) -> None:
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, 10)
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        self._reader.close()
        self._writer.close()


def _dialect() -> SQLiteDialect_pysqlite:
    return SQLiteDialect_pysqlite(paramstyle="qmark")

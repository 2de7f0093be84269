# SPDX-License-Identifier: Apache-2.0
"""Schemas: an empty database is made from the table metadata and stamped; an older one is migrated.

Alembic is loaded only when there is something to migrate. A schema newer than
the code is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import MetaData
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from cumulet.kernel.db.database import Database


class SchemaTooNew(RuntimeError):
    """The database was written by a newer release; the text says which versions."""


def create_statements(metadata: MetaData, dialect: Dialect, head: str) -> list[str]:
    """The statements that make an empty database current, the stamp among them."""
    statements = []
    for table in metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)))
        statements += [
            str(CreateIndex(index).compile(dialect=dialect))
            for index in sorted(table.indexes, key=lambda index: str(index.name))
        ]
    statements.append("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    statements.append(f"INSERT INTO alembic_version (version_num) VALUES ('{head}')")  # noqa: S608 - a file's own name
    return statements


def versions_of(folder: Path) -> list[str]:
    """The migrations of a service in order: the names of its files ``NNNN.py``."""
    return sorted(path.stem for path in folder.glob("[0-9]*.py"))


async def ensure_schema(database: Database, metadata: MetaData, migrations: Path | None) -> None:
    """Make the database current; raises SchemaTooNew."""
    async with database.hold("schema"):  # of two starters the second waits and finds the work done
        await _ensure(database, metadata, migrations)


async def _ensure(database: Database, metadata: MetaData, migrations: Path | None) -> None:
    known = versions_of(migrations) if migrations is not None else []
    head = known[-1] if known else "0001"
    current = await database.schema_version()
    if current == head:
        return
    if current is None:
        await database.execute_ddl(create_statements(metadata, _dialect_of(database), head))
        return
    if current not in known or current > head:
        raise SchemaTooNew(
            f"the database is at version {current}, this release knows up to {head}: install a newer one"
        )
    from cumulet.kernel.db.migrate import upgrade

    await upgrade(database, migrations, current, known)


def _dialect_of(database: Any) -> Dialect:
    if database.dialect == "sqlite":
        from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

        return SQLiteDialect_pysqlite()
    from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

    return PGDialect_asyncpg()  # type: ignore[no-untyped-call]

# SPDX-License-Identifier: Apache-2.0
"""Migrations: Alembic operations of a service's numbered files, run as SQL text in one transaction.

A file ``NNNN.py`` has ``upgrade(op)``. Alembic renders it offline, so the same
file serves both databases and no second connection is needed.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

from cumulet.kernel.db.database import Database


def render(migrations: Path, version: str, dialect: str) -> list[str]:
    """The SQL statements of one migration for ``sqlite`` or ``postgresql``."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    specification = importlib.util.spec_from_file_location(f"migration_{version}", migrations / f"{version}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    buffer = io.StringIO()
    context = MigrationContext.configure(
        dialect_name=dialect, opts={"as_sql": True, "output_buffer": buffer, "transactional_ddl": False}
    )
    with Operations.context(context):
        module.upgrade()
    return [text for part in buffer.getvalue().split(";\n\n") if (text := part.strip().rstrip(";"))]


async def upgrade(database: Database, migrations: Path | None, current: str | None, known: list[str]) -> None:
    """Apply all migrations after ``current`` (None: from the empty database) and stamp the last."""
    assert migrations is not None
    statements: list[str] = []
    if current is None:
        statements.append("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        statements.append("INSERT INTO alembic_version (version_num) VALUES ('0000')")
    for version in known:
        if current is None or version > current:
            statements += render(migrations, version, database.dialect)
    statements.append(f"UPDATE alembic_version SET version_num = '{known[-1]}'")  # noqa: S608 - a file's own name
    await database.execute_ddl(statements)

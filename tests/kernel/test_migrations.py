# SPDX-License-Identifier: Apache-2.0
"""An empty database made from the table metadata equals one made by all migrations, on both databases."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import column, text

from cumulet.assembly.table import SERVICES
from cumulet.kernel.db import Database
from cumulet.kernel.db.migrate import upgrade
from cumulet.kernel.db.postgres import PostgresDatabase
from cumulet.kernel.db.schema import ensure_schema, versions_of
from cumulet.kernel.db.sqlite import SqliteDatabase

PACKAGES = [entry.package for entry in SERVICES]


def _of(package: str) -> tuple[Any, Path]:
    models = importlib.import_module(f"cumulet.{package}.models")
    service = importlib.import_module(f"cumulet.{package}")
    return models.METADATA, Path(str(service.__file__)).parent / "migrations"


def _query(sql: str, names: str) -> Any:
    """A statement whose columns are these, in order."""
    return text(sql).columns(*(column(name) for name in names.split()))


async def _sqlite_schema(database: Database) -> dict[str, Any]:
    tables = await database.all(_query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name", "name"))
    found: dict[str, Any] = {}
    for name in (row["name"] for row in tables):
        columns = await database.all(_query(f"PRAGMA table_info('{name}')", "cid name type notnull dflt_value pk"))
        described = {(c["name"], c["type"], c["notnull"], c["dflt_value"], c["pk"]) for c in columns}
        indexes = await database.all(_query(f"PRAGMA index_list('{name}')", "seq name unique origin partial"))
        keys = set()
        for index in indexes:
            members = await database.all(_query(f"PRAGMA index_info('{index['name']}')", "seqno cid name"))
            shown = index["name"] if index["origin"] == "c" else index["origin"]
            keys.add((shown, index["unique"], tuple(member["name"] for member in members)))
        links = await database.all(
            _query(f"PRAGMA foreign_key_list('{name}')", "id seq table from to on_update on_delete match")
        )
        found[name] = (
            described,
            keys,
            {(link["table"], link["from"], link["to"], link["on_delete"]) for link in links},
        )
    return found


async def _postgres_schema(database: Database, schema: str) -> dict[str, Any]:
    columns = await database.all(
        _query(
            "SELECT table_name, column_name, data_type, is_nullable, column_default, character_maximum_length "
            f"FROM information_schema.columns WHERE table_schema = '{schema}' ORDER BY 1, 2",
            "table_name column_name data_type is_nullable column_default character_maximum_length",
        )
    )
    indexes = await database.all(
        _query(
            f"SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = '{schema}' ORDER BY 1, 2",
            "tablename indexname indexdef",
        )
    )
    plain = [{key: str(value).replace(schema, "S") for key, value in row.items()} for row in [*columns, *indexes]]
    return {"schema": plain}


@pytest.mark.parametrize("package", PACKAGES)
async def test_metadata_equals_migrations_on_sqlite(package: str, tmp_path: Path) -> None:
    metadata, folder = _of(package)
    assert versions_of(folder), f"{package} has no migrations: tools/migration.py {package} 'The first schema.'"
    fresh, migrated = SqliteDatabase(tmp_path / "fresh.db"), SqliteDatabase(tmp_path / "migrated.db")
    await ensure_schema(fresh, metadata, folder)
    await upgrade(migrated, folder, None, versions_of(folder))
    assert await _sqlite_schema(fresh) == await _sqlite_schema(migrated)
    assert await fresh.schema_version() == await migrated.schema_version() == versions_of(folder)[-1]
    await fresh.close()
    await migrated.close()


@pytest.mark.postgres
@pytest.mark.parametrize("package", PACKAGES)
async def test_metadata_equals_migrations_on_postgresql(package: str, postgres: str) -> None:
    metadata, folder = _of(package)
    fresh = await PostgresDatabase.connect(postgres, f"fresh_{package}")
    migrated = await PostgresDatabase.connect(postgres, f"migrated_{package}")
    await ensure_schema(fresh, metadata, folder)
    await upgrade(migrated, folder, None, versions_of(folder))
    assert await _postgres_schema(fresh, f"fresh_{package}") == await _postgres_schema(migrated, f"migrated_{package}")
    await fresh.close()
    await migrated.close()

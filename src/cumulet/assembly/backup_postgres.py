# SPDX-License-Identifier: Apache-2.0
"""Backup and restore of a cloud whose records are in PostgreSQL: one transaction, every table of every schema.

Tables travel in PostgreSQL's own binary form with their columns named, so the
order of columns that migrations left behind does not matter.
"""

from __future__ import annotations

import importlib
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Integer, MetaData

from cumulet.assembly.backup import (
    ALWAYS,
    FORMAT,
    IMAGES,
    SECRETS,
    VOLUMES,
    BackupError,
    _link,
    read_manifest,
    write_archive,
)
from cumulet.assembly.table import SERVICES
from cumulet.kernel import clock


def _tables(package: str) -> MetaData:
    metadata: MetaData = importlib.import_module(f"cumulet.{package}.models").METADATA
    return metadata


async def backup_postgres(
    dsn: str, data: Path, target: Path, *, images: bool, volumes: bool, secrets: Path | None = None
) -> dict[str, Any]:
    """Write the cloud to ``target``; returns the manifest. Files beside the database are those of this machine."""
    import asyncpg

    connection = await asyncpg.connect(dsn)
    patterns = (*ALWAYS, *(IMAGES if images else ()), *(VOLUMES if volumes else ()))
    try:
        with tempfile.TemporaryDirectory(dir=data, prefix=".backup-") as scratch:
            kept = Path(scratch)
            files: list[tuple[str, Path]] = []
            versions: dict[str, str] = {}
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                for entry in SERVICES:
                    schema = entry.package
                    if await connection.fetchval("SELECT to_regclass($1)", f"{schema}.alembic_version") is None:
                        continue
                    if not versions:  # the snapshot of the transaction is taken by now
                        _link(data, kept / "files", patterns)
                    versions[schema] = await connection.fetchval(f'SELECT version_num FROM "{schema}".alembic_version')  # noqa: S608
                    for table in _tables(schema).sorted_tables:
                        path = kept / f"{schema}.{table.name}"
                        columns = [column.name for column in table.columns]
                        await connection.copy_from_table(
                            table.name, schema_name=schema, columns=columns, output=path, format="binary"
                        )
                        files.append((f"tables/{schema}/{table.name}", path))
            if not versions:
                raise BackupError("there is no cloud in that database")
            beside = [(str(one.relative_to(kept / "files")), one) for one in sorted((kept / "files").rglob("*"))]
            told = {
                "format": FORMAT, "database": "postgresql", "images": images, "volumes": volumes,
                "made_at": clock.now(), "cloud_id": (data / "cloud-id").read_text().strip(), "schemas": versions,
            }  # fmt: skip
            write_archive(target, told, [*files, (SECRETS, secrets or data / SECRETS), *beside])
    finally:
        await connection.close()
    return told


async def restore_postgres(source: Path, dsn: str) -> None:
    """Fill an empty database from a backup made by the same schema versions; raises BackupError."""
    import asyncpg

    from cumulet.kernel.db.postgres import PostgresDatabase
    from cumulet.kernel.db.schema import ensure_schema, versions_of

    manifest = read_manifest(source)
    for schema, version in manifest["schemas"].items():
        folder = Path(importlib.import_module(f"cumulet.{schema}").__file__ or "").parent / "migrations"
        known = versions_of(folder)
        if not known or known[-1] != version:
            raise BackupError(
                f"the backup's {schema} is at version {version}, this release at {known[-1:]}: use that one"
            )
        database = await PostgresDatabase.connect(dsn, schema, connections=2)
        try:
            await ensure_schema(database, _tables(schema), folder)
        finally:
            await database.close()
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            with tarfile.open(source, mode="r:") as archive:
                for schema in manifest["schemas"]:
                    for table in _tables(schema).sorted_tables:
                        await _fill(connection, archive, schema, table)
    finally:
        await connection.close()


async def _fill(connection: Any, archive: tarfile.TarFile, schema: str, table: Any) -> None:
    name = f'"{schema}"."{table.name}"'
    if await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {name})"):  # noqa: S608 - names of our own tables
        raise BackupError(f"table {name} is not empty; restore into an empty database")
    content = archive.extractfile(f"tables/{schema}/{table.name}")
    assert content is not None
    columns = [column.name for column in table.columns]
    await connection.copy_to_table(table.name, schema_name=schema, columns=columns, source=content, format="binary")
    for column in table.primary_key:
        counted = await connection.fetchval("SELECT pg_get_serial_sequence($1, $2)", name, column.name)
        if counted is not None and isinstance(column.type, Integer):
            highest = f'(SELECT max("{column.name}") FROM {name})'  # noqa: S608 - names of our own tables
            await connection.execute(f"SELECT setval($1, COALESCE({highest}, 0) + 1, false)", counted)

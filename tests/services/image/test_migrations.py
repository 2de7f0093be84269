# SPDX-License-Identifier: Apache-2.0
"""What older schemas held is there after a migration."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

import cumulet.image
from cumulet.image.models import METADATA, images, locations
from cumulet.kernel.db.migrate import upgrade
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase

FOLDER = Path(cumulet.image.__file__).parent / "migrations"


async def test_the_data_of_the_only_store_becomes_a_location(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "image.db")
    try:
        await upgrade(database, FOLDER, None, ["0001"])
        names = (
            "id, status, visibility, protected, os_hidden, min_disk, min_ram, created_at, updated_at, data_key, size"
        )
        rows = [
            "'i1', 'active', 'public', 0, 0, 0, 0, 1, 1, 'data-1', 5",
            "'i2', 'uploading', 'public', 0, 0, 0, 0, 1, 1, NULL, 5",
        ]
        await database.execute_ddl([f"INSERT INTO images ({names}) VALUES ({row})" for row in rows])
        await ensure_schema(database, METADATA, FOLDER)
        assert await database.all(select(locations)) == [
            {"image_id": "i1", "position": 0, "store": "file", "key": "data-1", "details": {}}
        ]
        kept = await database.all(select(images.c.id, images.c.status, images.c.size).order_by(images.c.id))
        assert [tuple(row.values()) for row in kept] == [("i1", "active", 5), ("i2", "queued", None)]
    finally:
        await database.close()

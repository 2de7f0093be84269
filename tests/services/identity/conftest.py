# SPDX-License-Identifier: Apache-2.0
"""Identity's logic alone, bootstrapped, on a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cumulet.identity.bootstrap import bootstrap
from cumulet.identity.config import IdentitySettings
from cumulet.identity.logic import Identity
from cumulet.identity.models import METADATA
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.secrets import SecretFile

CHEAP = IdentitySettings(hash_memory_kib=8, hash_passes=1)
OWN = [("identity", "identity", "/identity", "/v3"), ("compute", "compute", "/compute", "/v2.1")]


async def make_identity(folder: Path, settings: IdentitySettings = CHEAP) -> tuple[Identity, SqliteDatabase]:
    """An identity on the database in ``folder``; a second one on the same folder is another process to the first."""
    database = SqliteDatabase(folder / "identity.db")
    await ensure_schema(database, METADATA, None)
    return Identity.make(database, settings, SecretFile(folder / "secrets.json"), OWN), database


@pytest.fixture
async def identity(tmp_path: Path) -> AsyncIterator[Identity]:
    made, database = await make_identity(tmp_path)
    await bootstrap(made, password="pw", service_passwords={"compute": "secret"}, region="RegionOne")
    yield made
    made.passwords.close()
    await database.close()


def password_auth(user: str, project: str | None = None, *, password: str = "pw") -> dict[str, object]:
    """The ``auth`` document of a bootstrapped user."""
    named = {"name": user, "domain": {"id": "default"}, "password": password}
    scope: object = {"project": {"name": project, "domain": {"id": "default"}}} if project else "unscoped"
    return {"identity": {"methods": ["password"], "password": {"user": named}}, "scope": scope}

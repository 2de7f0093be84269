# SPDX-License-Identifier: Apache-2.0
"""A cloud with nothing but identity, on each database; passwords are hashed cheaply, as the subject is another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.cloud import TestCloud, running_cloud
from tests.contract.identity.company import Company
from tests.directory import Slapd

CHEAP = {"hash_memory_kib": 8, "hash_passes": 1}


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[TestCloud]:
    async with running_cloud(tmp_path, packages=[], settings={"identity": CHEAP}) as running:
        yield running


@pytest.fixture
async def postgres_cloud(tmp_path: Path, postgres: str) -> AsyncIterator[TestCloud]:
    import asyncpg

    connection = await asyncpg.connect(postgres)
    await connection.execute("DROP SCHEMA IF EXISTS identity CASCADE")
    await connection.close()
    settings: dict[str, Any] = {"identity": CHEAP, "cloud": {"database": postgres}}
    async with running_cloud(tmp_path, packages=[], settings=settings) as running:
        yield running


@pytest.fixture
async def company(tmp_path: Path, slapd: Slapd) -> AsyncIterator[Company]:
    async with running_cloud(tmp_path, packages=[], settings={"identity": CHEAP}) as running:
        yield await Company(running, slapd).open()

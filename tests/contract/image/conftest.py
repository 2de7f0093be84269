# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.image.lone import Lone, lone_service


@pytest.fixture
async def image(tmp_path: Path) -> AsyncIterator[Lone]:
    async with lone_service("image", tmp_path, {"image-api"}, mount="/image") as lone:
        yield lone

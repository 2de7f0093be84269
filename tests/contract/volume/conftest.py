# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cumulet.volume.drivers.simulated import Knobs
from tests.contract.image.lone import lone_service
from tests.contract.volume.volumes import ROLES, Volumes


@pytest.fixture
async def volumes(tmp_path: Path) -> AsyncIterator[Volumes]:
    """The volume service with a simulated back end, beside a real image service."""
    knobs = Knobs()
    async with lone_service("image", tmp_path / "image", {"image-api"}, mount="/image") as image:
        others = {"image": image.transport}
        options = {"volume_knobs": knobs}
        async with lone_service(
            "volume", tmp_path / "volume", ROLES, mount="/volume", options=options, others=others
        ) as lone:
            yield Volumes(lone, knobs, image)

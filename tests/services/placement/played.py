# SPDX-License-Identifier: Apache-2.0
"""A placement of its own and the typed client that services use, in the test's process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cumulet.client.placement import PlacementClient
from cumulet.client.session import ServiceSession
from tests.contract.image.lone import SERVICE, Lone, lone_service


class PlayedSession(ServiceSession):
    """A session whose own token needs no identity service."""

    async def token(self) -> str:
        return SERVICE


@asynccontextmanager
async def placement_client(data: Path) -> AsyncIterator[tuple[PlacementClient, Lone]]:
    async with lone_service("placement", data, {"placement-api"}, mount="/placement") as lone:
        yield PlacementClient(PlayedSession(lambda type_: lone.transport, "compute", "")), lone

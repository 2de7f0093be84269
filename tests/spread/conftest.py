# SPDX-License-Identifier: Apache-2.0
"""One spread cloud for all tests of this folder that do not break it for good."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cumulet.cli.chaos.rabbit import Node
from tests.cloud import new_database
from tests.rabbit import Rabbit
from tests.spread.processes import Spread, spread_cloud


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def spread(postgres: str, rabbit_broker: Node, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Spread]:
    """Two of each control role, one host, one front door."""
    rabbit = await Rabbit.prepared(rabbit_broker)
    bus = rabbit.url().replace("@", f":{rabbit.password}@", 1)
    async with (
        new_database(postgres) as dsn,
        spread_cloud(tmp_path_factory.mktemp("spread"), dsn, bus, management=rabbit.management) as cloud,
    ):
        yield cloud

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
        await without_limits(cloud)
        yield cloud


async def without_limits(cloud: Spread) -> None:
    """What one test leaves is in no other's way, whichever ran before it."""
    (project,) = (await cloud.request("GET", "/identity/v3/projects?name=admin")).json["projects"]
    for path, limits in (
        ("/compute/v2.1", {"instances": 1000, "cores": 1000, "ram": 1_000_000}),
        ("/volume/v3", {"volumes": 1000, "gigabytes": 10_000}),
    ):
        reply = await cloud.request("PUT", f"{path}/os-quota-sets/{project['id']}", {"quota_set": limits})
        assert reply.status == 200, reply.data

# SPDX-License-Identifier: Apache-2.0
"""The typed client that the other services use, against the real API."""

from __future__ import annotations

from typing import Any

import pytest

from cumulet.client.compute import ComputeClient, ServerEvent
from cumulet.client.session import ServiceSession
from cumulet.kernel.errors import NotFound
from tests.contract.compute.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOWHERE = "11111111-1111-4111-8111-111111111111"


def client(world: World) -> ComputeClient:
    parts = world.cloud.cloud.parts
    return ComputeClient(ServiceSession(parts.transport, "network", parts.secrets.get("service:network")))


async def test_a_service_reads_servers(world: World, kept: dict[str, Any]) -> None:
    server = await client(world).server(kept["id"], as_service=True)
    assert (server.name, server.status, server.host, server.project_id) == (
        "kept", "ACTIVE", "node-1", world.demo.project_id,
    )  # fmt: skip
    found = await client(world).servers(as_service=True, all_tenants="1", name="kept", limit="1")
    assert [one.id for one in found] == [kept["id"]]
    with pytest.raises(NotFound):
        await client(world).server(NOWHERE, as_service=True)


async def test_a_service_tells_events(world: World, kept: dict[str, Any]) -> None:
    events = [ServerEvent("network-changed", kept["id"]), ServerEvent("network-vif-plugged", NOWHERE, tag=NOWHERE)]
    assert await client(world).tell(events) == {kept["id"]: 200, NOWHERE: 404}

# SPDX-License-Identifier: Apache-2.0
"""Steps 3 to 7 of the flow leave their events, filed under the server that was made."""

from __future__ import annotations

import pytest

from cumulet.kernel import trace
from cumulet.kernel.trace import Event
from tests.contract.compute.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")
STEPS = ["api.request", "api.token.validate", "api.token.valid", "api.validate", "api.record"]


async def events(world: World) -> list[Event]:
    """What this process recorded since it was asked last."""
    found: list[Event] = []

    async def keep(batch: list[Event]) -> None:
        found.extend(batch)

    await world.cloud.cloud.buffer.flush(keep)
    return found


async def test_a_create_leaves_the_events_of_its_first_steps(world: World) -> None:
    trace.use_buffer(world.cloud.cloud.buffer)  # a test's task does not descend from the cloud's
    reply = await world.demo.post("/servers", world.body(name="watched", networks="none"))
    server_id = reply.json["server"]["id"]
    await world.demo.until(server_id, "ACTIVE")
    mine = [event for event in await events(world) if event.subject == server_id]
    first = sorted(
        (event for event in mine if event.name.startswith("api.")), key=lambda event: STEPS.index(event.name)
    )
    assert [event.name for event in first] == STEPS
    assert [event.started_at for event in first] == sorted(event.started_at for event in first)
    assert {event.request_id for event in mine} == {reply.headers["x-openstack-request-id"]}
    assert {event.component for event in first} == {"compute-api"}
    assert first[0].detail["audit_id"]
    assert first[4].detail["task_state"] == "scheduling"
    assert first[4].detail["project_id"] == world.demo.project_id
    await world.demo.gone(server_id)


async def test_each_of_several_servers_has_a_flow_of_its_own(world: World) -> None:
    trace.use_buffer(world.cloud.cloud.buffer)
    body = world.body(name="flows", networks="none", min_count=2)
    assert (await world.demo.post("/servers", body)).status == 202
    servers = (await world.demo.get("/servers?name=flows-")).json["servers"]
    for server in servers:
        await world.demo.until(server["id"], "ACTIVE")
    told = await events(world)
    assert len(servers) == 2
    for server in servers:
        names = [event.name for event in told if event.subject == server["id"]]
        assert [names.count(name) for name in STEPS] == [1] * len(STEPS)
        assert "scheduler.claim" in names
        await world.demo.gone(server["id"])


async def test_a_refused_create_leaves_none(world: World) -> None:
    trace.use_buffer(world.cloud.cloud.buffer)
    await events(world)
    reply = await world.demo.post("/servers", world.body(flavorRef="none"))
    assert reply.status == 400
    refused = reply.headers["x-openstack-request-id"]
    assert [event.name for event in await events(world) if event.request_id == refused] == []

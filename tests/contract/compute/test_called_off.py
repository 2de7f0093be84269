# SPDX-License-Identifier: Apache-2.0
"""A build is called off while a change that it asked for is on its way: nothing of that comes afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cumulet.compute.sagas.world import World as SagaWorld
from cumulet.network.logic import kinds
from tests.contract.compute.conftest import DEADLINE, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_port_that_is_being_made_goes_with_the_server(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, undone, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
    create, drop = kinds.create, SagaWorld.drop_ports

    async def slow(*given: Any, **more: Any) -> Any:
        asked.set()
        await go.wait()
        return await create(*given, **more)

    async def undo(*given: Any) -> None:
        undone.set()
        await drop(*given)

    monkeypatch.setattr(kinds, "create", slow)
    monkeypatch.setattr(SagaWorld, "drop_ports", undo)
    server_id = await world.create()
    await asyncio.wait_for(asked.wait(), DEADLINE)
    assert (await world.demo.send("DELETE", f"/servers/{server_id}")).status == 204
    with pytest.raises(TimeoutError):  # as long as it is being made, nothing is undone
        await asyncio.wait_for(undone.wait(), 1.0)
    go.set()
    await world.demo.gone(server_id)
    made = await world.cloud.request("GET", f"/network/v2.0/ports?device_id={server_id}", token=world.admin.token)
    assert made.json["ports"] == []

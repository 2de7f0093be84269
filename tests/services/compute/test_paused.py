# SPDX-License-Identifier: Apache-2.0
"""A host that sleeps in the middle of a build, until another one has built the server, changes nothing when it wakes.

Its process is still for the rest of the cloud as a stopped one is: no message is taken, nothing is reported. Only its
build goes on later, from wherever it was held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cumulet.compute import rpc
from cumulet.compute.models import HOSTS
from tests.cloud import TestCloud, running_cloud
from tests.services.insight.furnished import Rig

NODES = ("north", "south")


class Held:
    """One object whose method stands still, once, after its work was done and before its caller hears of it."""

    def __init__(self, inner: Any, method: str, wanted: Callable[..., bool] = lambda *_: True) -> None:
        self._inner, self._method, self._wanted = inner, method, wanted
        self.reached, self.gate = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._slow(found) if name == self._method else found

    def _slow(self, call: Any) -> Any:
        async def held(*arguments: Any, **named: Any) -> Any:
            try:
                return await call(*arguments, **named)
            finally:
                if self._wanted(*arguments) and not self.reached.is_set():
                    self.reached.set()
                    await self.gate.wait()

        return held


def _before_spawning(method: Any, told: Any) -> bool:
    return method is rpc.PROGRESS and told.task_state == "spawning"


def _hold(agent: Any, point: str) -> Held:
    """Let the agent's next build stand still at a point."""
    tools = agent.tools
    if point == "it has looked at the port":
        tools.wiring._client = held = Held(tools.wiring._client, "port")
    elif point == "it was allowed to spawn":
        tools.bus = held = Held(tools.bus, "call", _before_spawning)
    else:
        tools.hypervisor = held = Held(tools.hypervisor, "ensure_running")
    return held


def _tasks(cloud: TestCloud, node: str) -> tuple[Any, Any]:
    """A host's compute agent and its loop of reports."""
    for role in cloud.cloud.services["compute"].roles:
        if role.name == "compute-agent" and role.tasks[0].tools.host == node:  # type: ignore[attr-defined]
            return role.tasks[0], role.tasks[1]
    raise LookupError(node)


@pytest.mark.parametrize("point", ["it has looked at the port", "it was allowed to spawn", "it has spawned"])
async def test_a_host_that_slept_through_changes_nothing(tmp_path: Path, point: str) -> None:
    image = tmp_path / "tiny.raw"
    image.write_bytes(b"\0" * (1 << 20))
    guest = {"name": "tiny", "path": str(image), "disk_format": "raw"}
    settings = {"insight": {"check_again_seconds": 0.02}}
    async with running_cloud(
        tmp_path / "data", options={"guest_image": guest}, settings=settings, hosts=NODES
    ) as cloud:
        rig = Rig(cloud, await cloud.login("admin"), await cloud.login("demo"))
        for node in NODES:
            await _tasks(cloud, node)[1].run_once()
        held = {node: _hold(_tasks(cloud, node)[0], point) for node in NODES}
        images = (await rig.call("GET", "/image/v2/images"))["images"]
        networks = (await rig.call("GET", "/network/v2.0/networks"))["networks"]
        private = next(one["id"] for one in networks if one["name"] == "private")
        body = {"name": "s", "flavorRef": "42", "imageRef": images[0]["id"], "networks": [{"uuid": private}]}
        server = (await rig.call("POST", "/compute/v2.1/servers", {"server": body}))["server"]["id"]
        async with asyncio.timeout(60):
            begun = [asyncio.create_task(one.reached.wait()) for one in held.values()]
            await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)
        sleeper, other = sorted(NODES, key=lambda node: not held[node].reached.is_set())
        held[other].gate.set()

        # the sleeper hears and says nothing, and an operator has given it up
        agent, reports = _tasks(cloud, sleeper)
        (_, building) = agent._builds[server]
        await agent._subscription.stop()
        await reports.stop()
        mine = HOSTS.update().where(HOSTS.c.host == sleeper)
        await rig.change("compute", mine.values(last_seen=0.0, forced_down=True))
        path = f"/compute/v2.1/servers/{server}"
        await rig.until(path, lambda told: told["server"]["status"] == "ACTIVE")

        async def seen() -> Any:
            shown = (await rig.call("GET", path))["server"]
            ports = (await cloud.request("GET", f"/network/v2.0/ports?device_id={server}", token=rig.admin)).json[
                "ports"
            ]
            return shown, [{name: one[name] for name in one if name != "status"} for one in ports]

        before = await seen()
        assert [one["binding:host_id"] for one in before[1]] == [other]

        # it wakes up
        await rig.change("compute", mine.values(forced_down=False))
        held[sleeper].gate.set()
        await asyncio.wait([building], timeout=20)
        assert building.done()
        await agent.start()
        await reports.run_once()
        assert await agent.tools.hypervisor.guests() == []
        assert await seen() == before
        assert [one.server_id for one in await _tasks(cloud, other)[0].tools.hypervisor.guests()] == [server]
        await rig.clean()
        await reports.start()

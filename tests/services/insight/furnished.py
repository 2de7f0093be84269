# SPDX-License-Identifier: Apache-2.0
"""A cloud with something in it: one server with a port, a volume, a floating IP; and how to reach behind its back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cumulet.kernel import clock
from cumulet.kernel.loops import Loop
from tests.cloud import TestCloud, running_cloud

SETTINGS = {"insight": {"check_again_seconds": 0.02}}


@dataclass
class Rig:
    """A cloud with one server that has a port, a volume and a floating IP."""

    cloud: TestCloud
    admin: str
    token: str
    server: str = ""
    volume: str = ""
    floating: str = ""
    port: str = ""

    async def call(self, method: str, path: str, json: Any = None) -> Any:
        version = {"openstack-api-version": "compute 2.90"}
        reply = await self.cloud.request(method, path, json, token=self.token, headers=version)
        assert reply.status < 300, (method, path, reply.status, reply.data)
        return reply.json if reply.data else None

    async def until(self, path: str, done: Callable[[Any], bool]) -> Any:
        """The answer of a GET once it is as wanted; None when the thing is gone."""
        deadline = clock.monotonic() + 120
        while clock.monotonic() < deadline:
            reply = await self.cloud.request("GET", path, token=self.token)
            told = reply.json if reply.status == 200 else None
            if done(told):
                return told
            await asyncio.sleep(0.02)
        raise AssertionError(f"{path}: {told}")

    async def check(self) -> dict[str, Any]:
        reply = await self.cloud.request("GET", "/cumulet/v1/check", token=self.admin)
        assert reply.status == 200, reply.data
        verdict: dict[str, Any] = reply.json
        return verdict

    async def clean(self) -> None:
        """The cloud is clean within the time of its reconcilers."""
        deadline = clock.monotonic() + 120
        while not (verdict := await self.check())["clean"] and clock.monotonic() < deadline:
            pass
        assert verdict["clean"], (verdict["findings"], verdict["unread"])

    def service(self, name: str) -> Any:
        """A service's own object."""
        return next(role.app.service for role in self.cloud.cloud.services[name].roles if role.app is not None)

    def database(self, name: str) -> Any:
        service = self.service(name)
        return service.db if name == "compute" else service.database

    async def change(self, service: str, *statements: Any) -> None:
        """Write to a service's database behind its back."""

        async def body(tx: Any) -> None:
            for statement in statements:
                await tx.run(statement)

        await self.database(service).run(body)

    def role(self, service: str, name: str) -> Any:
        """What a role runs first: the agent of an agent's role."""
        return next(one for one in self.cloud.cloud.services[service].roles if one.name == name).tasks[0]

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """No host's reconciler mends anything meanwhile."""
        stopped = []
        for service, role in (("compute", "compute-agent"), ("network", "network-agent"), ("volume", "volume-agent")):
            found = next(one for one in self.cloud.cloud.services[service].roles if one.name == role)
            for loop in (*found.tasks, *(getattr(found.tasks[0], name, None) for name in ("loop", "sweep"))):
                if isinstance(loop, Loop):
                    await loop.stop()
                    stopped.append(loop)
        yield
        for loop in stopped:
            await loop.start()


async def _furnish(rig: Rig) -> None:
    images = (await rig.call("GET", "/image/v2/images"))["images"]
    networks = (await rig.call("GET", "/network/v2.0/networks"))["networks"]
    ids_of = {one["name"]: one["id"] for one in networks}
    made = await rig.call("POST", "/volume/v3/volumes", {"volume": {"size": 1}})
    rig.volume = made["volume"]["id"]
    await rig.until(f"/volume/v3/volumes/{rig.volume}", lambda told: told["volume"]["status"] == "available")
    body = {"name": "s", "flavorRef": "42", "imageRef": images[0]["id"], "networks": [{"uuid": ids_of["private"]}]}
    rig.server = (await rig.call("POST", "/compute/v2.1/servers", {"server": body}))["server"]["id"]
    await rig.until(f"/compute/v2.1/servers/{rig.server}", lambda told: told["server"]["status"] == "ACTIVE")
    attachment = {"volumeAttachment": {"volumeId": rig.volume}}
    await rig.call("POST", f"/compute/v2.1/servers/{rig.server}/os-volume_attachments", attachment)
    await rig.until(f"/volume/v3/volumes/{rig.volume}", lambda told: told["volume"]["status"] == "in-use")
    rig.port = (await rig.call("GET", f"/network/v2.0/ports?device_id={rig.server}"))["ports"][0]["id"]
    floating = {"floatingip": {"floating_network_id": ids_of["public"], "port_id": rig.port}}
    rig.floating = (await rig.call("POST", "/network/v2.0/floatingips", floating))["floatingip"]["id"]
    path = f"/network/v2.0/floatingips/{rig.floating}"
    await rig.until(path, lambda told: told["floatingip"]["status"] == "ACTIVE")


@asynccontextmanager
async def furnished(folder: Path) -> AsyncIterator[Rig]:
    image = folder / "tiny.raw"
    image.write_bytes(b"\0" * (1 << 20))
    guest = {"name": "tiny", "path": str(image), "disk_format": "raw"}
    async with running_cloud(folder / "data", options={"guest_image": guest}, settings=SETTINGS) as cloud:
        one = Rig(cloud, await cloud.login("admin"), await cloud.login("demo"))
        await _furnish(one)
        yield one

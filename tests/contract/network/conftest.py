# SPDX-License-Identifier: Apache-2.0
"""The network service alone, and what tests of it say often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.image.lone import ADMIN, DEMO, Lone, Reply, lone_service, project


class Net:
    """A client of the network API, as demo's member unless told otherwise."""

    def __init__(self, lone: Lone, token: str | None = DEMO) -> None:
        self.lone, self.token = lone, token

    def by(self, token: str | None) -> Net:
        return Net(self.lone, token)

    @property
    def admin(self) -> Net:
        return self.by(ADMIN)

    async def send(self, method: str, path: str, json: Any = None, **headers: str) -> Reply:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.lone.request(method, f"/v2.0{path}", json, token=self.token, headers=sent)

    async def get(self, path: str) -> Reply:
        return await self.send("GET", path)

    async def post(self, path: str, json: Any = None) -> Reply:
        return await self.send("POST", path, json)

    async def put(self, path: str, json: Any = None, **headers: str) -> Reply:
        return await self.send("PUT", path, json, **headers)

    async def delete(self, path: str) -> Reply:
        return await self.send("DELETE", path)

    async def make(self, path: str, **values: Any) -> dict[str, Any]:
        """Create one; keyword ``router__external`` is the attribute ``router:external``."""
        name = path.strip("/").replace("-", "_")[:-1]
        body = {key.replace("__", ":"): value for key, value in values.items()}
        reply = await self.post(path, {name: body})
        assert reply.status == 201, reply.data
        made: dict[str, Any] = reply.json[name]
        return made

    async def show(self, path: str) -> dict[str, Any]:
        reply = await self.get(path)
        assert reply.status == 200, reply.data
        return dict(next(iter(reply.json.values())))

    async def names(self, path: str) -> list[str]:
        """The names of a list, in its order."""
        reply = await self.get(path)
        assert reply.status == 200, reply.data
        return [one["name"] for one in next(value for key, value in reply.json.items() if not key.endswith("_links"))]

    async def network(self, cidr: str | None = "10.9.0.0/24", **values: Any) -> tuple[str, str]:
        """(network id, subnet id) of a new network; in a /24 addresses below 128 are never drawn."""
        network = await self.make("/networks", **values)
        if cidr is None:
            return network["id"], ""
        version = 6 if ":" in cidr else 4
        more = {}
        if cidr.endswith(".0/24"):
            base = cidr.removesuffix("0/24")
            more["allocation_pools"] = [{"start": f"{base}128", "end": f"{base}254"}]
        subnet = await self.make("/subnets", network_id=network["id"], ip_version=version, cidr=cidr, **more)
        return network["id"], subnet["id"]

    async def external(self, cidr: str = "198.51.100.0/24") -> str:
        """The id of a new external network."""
        network = await self.admin.make("/networks", name="ext", router__external=True)
        await self.admin.make("/subnets", network_id=network["id"], ip_version=4, cidr=cidr, enable_dhcp=False)
        return str(network["id"])

    async def eventually(self, path: str, **wanted: Any) -> dict[str, Any]:
        """The document once its members are as ``wanted``; fails after two minutes."""
        async with asyncio.timeout(120):
            while True:
                document = await self.show(path)
                if all(document[key.replace("__", ":")] == value for key, value in wanted.items()):
                    return document
                await asyncio.sleep(0.01)


def refused(reply: Reply, status: int, kind: str) -> str:
    """Assert a refusal in the published form; returns its message."""
    assert reply.status == status, reply.data
    error = reply.json["NeutronError"]
    assert set(error) == {"type", "message", "detail"}
    assert error["type"] == kind, error
    return str(error["message"])


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with lone_service("network", tmp_path, {"network-api"}, mount="/network") as lone:
        yield Net(lone)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Net]:
    """With an agent and its simulated data plane on host ``node-1``."""
    roles = {"network-api", "network-agent"}
    async with lone_service("network", tmp_path, roles, mount="/network") as lone:
        client = Net(lone)
        async with asyncio.timeout(60):
            while not (await client.admin.get("/agents")).json["agents"]:
                await asyncio.sleep(0.01)
        yield client


__all__ = ["Net", "net", "project", "refused"]

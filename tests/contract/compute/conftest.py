# SPDX-License-Identifier: Apache-2.0
"""One cloud with simulated hosts for all contract tests of compute, and callers of every persona."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio

from tests.cloud import PASSWORD, Reply, TestCloud, running_cloud

NEWEST = "2.104"
DEADLINE = 120.0


@dataclass(frozen=True)
class Caller:
    """Somebody who speaks to compute at one version."""

    cloud: TestCloud
    token: str | None
    project_id: str = ""
    user_id: str = ""
    version: str | None = NEWEST

    def at(self, version: str | None) -> Caller:
        return replace(self, version=version)

    async def send(
        self, method: str, path: str, json: Any = None, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        sent = dict(headers or {})
        if self.version is not None:
            sent.setdefault("openstack-api-version", f"compute {self.version}")
        return await self.cloud.request(
            method, f"/compute/v2.1{path}", json, token=self.token, headers=sent, body=body
        )  # fmt: skip

    async def get(self, path: str) -> Reply:
        return await self.send("GET", path)

    async def post(self, path: str, json: Any = None) -> Reply:
        return await self.send("POST", path, json)

    async def put(self, path: str, json: Any = None) -> Reply:
        return await self.send("PUT", path, json)

    async def delete(self, path: str) -> Reply:
        return await self.send("DELETE", path)

    async def act(self, server_id: str, name: str, body: Any = None) -> Reply:
        return await self.post(f"/servers/{server_id}/action", {name: body})

    async def show(self, server_id: str) -> dict[str, Any]:
        reply = await self.get(f"/servers/{server_id}")
        assert reply.status == 200, reply.data
        found: dict[str, Any] = reply.json["server"]
        return found

    async def until(self, server_id: str, status: str) -> dict[str, Any]:
        """The server once it has this status and nothing goes on."""
        async with asyncio.timeout(DEADLINE):
            while True:
                server = await self.show(server_id)
                if server["status"] == status and server["OS-EXT-STS:task_state"] is None:
                    return server
                assert server["status"] != "ERROR" or status == "ERROR", server.get("fault")
                await asyncio.sleep(0.02)

    async def gone(self, server_id: str) -> None:
        """Delete a server and wait until it is."""
        await self.delete(f"/servers/{server_id}")
        async with asyncio.timeout(DEADLINE):
            while (await self.get(f"/servers/{server_id}")).status != 404:
                await asyncio.sleep(0.02)


@dataclass(frozen=True)
class World:
    """The cloud, its callers and what servers are made of."""

    cloud: TestCloud
    demo: Caller
    other: Caller
    admin: Caller
    reader: Caller
    service: Caller
    nobody: Caller
    image: str
    network: str

    def body(self, **changes: Any) -> dict[str, Any]:
        """A create body; a member set to None is left out."""
        server = {
            "name": "web", "imageRef": self.image, "flavorRef": "42", "networks": [{"uuid": self.network}], **changes,
        }  # fmt: skip
        return {"server": {name: value for name, value in server.items() if value is not None}}

    async def create(self, caller: Caller | None = None, **changes: Any) -> str:
        reply = await (caller or self.demo).post("/servers", self.body(**changes))
        assert reply.status == 202, reply.data
        return str(reply.json["server"]["id"])

    async def active(self, caller: Caller | None = None, **changes: Any) -> dict[str, Any]:
        caller = caller or self.demo
        return await caller.until(await self.create(caller, **changes), "ACTIVE")


async def _caller(cloud: TestCloud, user: str, project: str, password: str = PASSWORD) -> Caller:
    named = {"name": user, "domain": {"id": "default"}, "password": password}
    scope = {"project": {"name": project, "domain": {"id": "default"}}}
    auth = {"identity": {"methods": ["password"], "password": {"user": named}}, "scope": scope}
    reply = await cloud.request("POST", "/identity/v3/auth/tokens", {"auth": auth})
    assert reply.status == 201, reply.data
    token = reply.json["token"]
    return Caller(cloud, reply.headers["x-subject-token"], token["project"]["id"], token["user"]["id"])


async def _reader(cloud: TestCloud, admin: Caller, project_id: str) -> Caller:
    """A user with no more than the role reader on demo's project."""
    user = {"name": "looker", "password": PASSWORD, "domain_id": "default"}
    reply = await cloud.request("POST", "/identity/v3/users", {"user": user}, token=admin.token)
    assert reply.status == 201, reply.data
    user_id = reply.json["user"]["id"]
    roles = (await cloud.request("GET", "/identity/v3/roles?name=reader", token=admin.token)).json["roles"]
    path = f"/identity/v3/projects/{project_id}/users/{user_id}/roles/{roles[0]['id']}"
    assert (await cloud.request("PUT", path, token=admin.token)).status == 204
    return await _caller(cloud, "looker", "demo")


async def new_image(cloud: TestCloud, token: str | None) -> str:
    made = await cloud.request(
        "POST", "/image/v2/images", {"name": "tiny", "disk_format": "raw", "container_format": "bare"}, token=token
    )
    image_id = str(made.json["id"])
    headers = {"content-type": "application/octet-stream"}
    path = f"/image/v2/images/{image_id}/file"
    assert (await cloud.request("PUT", path, token=token, headers=headers, body=bytes(1 << 16))).status == 204
    return image_id


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    data = tmp_path_factory.mktemp("compute") / "cloud"
    packages = {"image", "placement", "network", "volume", "compute"}
    async with running_cloud(data, packages=packages) as cloud:
        demo, admin = await _caller(cloud, "demo", "demo"), await _caller(cloud, "admin", "admin")
        networks = (await cloud.request("GET", "/network/v2.0/networks?name=private", token=demo.token)).json
        limits = {"quota_set": {"instances": 100, "cores": 200, "ram": 512_000}}
        assert (await admin.put(f"/os-quota-sets/{demo.project_id}", limits)).status == 200
        limits = {"quota_set": {"volumes": 100}}
        path = f"/volume/v3/os-quota-sets/{demo.project_id}"
        assert (await cloud.request("PUT", path, limits, token=admin.token)).status == 200
        secret = cloud.cloud.parts.secrets.get("service:network")
        async with asyncio.timeout(DEADLINE):
            while not (await admin.get("/os-hypervisors")).json["hypervisors"]:
                await asyncio.sleep(0.02)
        yield World(
            cloud=cloud,
            demo=demo,
            other=await _caller(cloud, "alt_demo", "alt_demo"),
            admin=admin,
            reader=await _reader(cloud, admin, demo.project_id),
            service=await _caller(cloud, "network", "service", secret),
            nobody=Caller(cloud, None),
            image=await new_image(cloud, demo.token),
            network=networks["networks"][0]["id"],
        )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kept(world: World) -> dict[str, Any]:
    """One active server that no test changes."""
    return await world.active(name="kept", metadata={"role": "web"}, tags=["blue"], description="stays")

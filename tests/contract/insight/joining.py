# SPDX-License-Identifier: Apache-2.0
"""A whole cloud that hosts may join: real services, and a played management API of a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from tests.cloud import Reply, TestCloud, running_cloud

BASE = "/cumulet/v1"
CLAIM = "c" * 43
SECTION = {"network": {"dns_domain": "example.test"}}


@dataclass
class Management:
    """The management API of a broker: its users and what they may do."""

    users: dict[str, Any] = field(default_factory=dict)
    rights: dict[str, Any] = field(default_factory=dict)
    broken: bool = False

    async def answer(self, request: web.Request) -> web.Response:
        if self.broken:
            return web.Response(status=500)
        assert request.headers["Authorization"].startswith("Basic ")
        parts = [unquote(part) for part in request.raw_path.split("/")[2:]]
        kept = self.users if parts[0] == "users" else self.rights
        if request.method == "DELETE":
            return web.Response(status=204 if kept.pop(parts[-1], None) else 404)
        kept[parts[-1]] = await request.json()
        return web.Response(status=201)


@dataclass
class World:
    cloud: TestCloud
    broker: Management
    admin: str

    async def call(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Reply:
        return await self.cloud.request(method, BASE + path, body, token=self.admin if token is None else token)

    async def token(self, **given: Any) -> str:
        reply = await self.call("POST", "/join-tokens", given)
        assert reply.status == 201, reply.data
        made: str = reply.json["token"]
        return made

    async def join(self, token: str, host: str, claim: str = CLAIM) -> Reply:
        return await self.call("POST", "/join", {"token": token, "host": host, "claim": claim}, token="")

    async def users(self, host: str) -> list[dict[str, Any]]:
        path = f"/identity/v3/users?name=cumulet-host%2B{host}"
        found: list[dict[str, Any]] = (await self.cloud.request("GET", path, token=self.admin)).json["users"]
        return found

    async def login(self, host: str, password: str) -> Reply:
        domain = {"id": "default"}
        user = {"name": f"cumulet-host+{host}", "domain": domain, "password": password}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": "service", "domain": domain}},
        }
        return await self.cloud.request("POST", "/identity/v3/auth/tokens", {"auth": auth})


@asynccontextmanager
async def joinable_cloud(folder: Path) -> AsyncIterator[World]:
    """The cloud, with its one host node-1, which has the controllers' credentials."""
    broker = Management()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", broker.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    joining = {
        "bus": "amqps://control@mq1.test:5671,mq2.test/cloud?cafile=/nowhere", "bus_ca": "PEM",
        "management": f"http://admin:pw@127.0.0.1:{port}", "endpoints": {"identity": ["http://c.test/identity"]},
        "url": "http://c.test", "region": "R", "sections": SECTION, "calls": ["a.b"], "serves": ["c.d"],
    }  # fmt: skip
    try:
        async with running_cloud(folder, options={"joining": joining}) as cloud:
            yield World(cloud, broker, await cloud.login("admin"))
    finally:
        await runner.cleanup()

# SPDX-License-Identifier: Apache-2.0
"""Insight alone, with a played compute service: which server belongs to which project, and why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from cumulet.client.transport import LocalReply
from cumulet.insight.rpc import EVENTS, Events
from cumulet.kernel import clock, trace
from cumulet.kernel.errors import Unauthorized, Unavailable
from tests.contract.image.lone import DEMO, SERVICE, Lone, Played, lone_service, project

SERVER = "3f1c1c52-6d0e-4d0e-9d43-0e9a3b7c2f10"
START = 1_800_000_000.0


@dataclass
class PlayedCompute:
    """Servers by id, each of a project; shows them as compute would."""

    servers: dict[str, str] = field(default_factory=dict)
    whys: dict[str, Any] = field(default_factory=dict)
    away: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: Any = b"", *, timeout: float = 60.0
    ) -> LocalReply:
        if self.away:
            raise Unavailable("The compute service is not available.")
        self.asked.append((path, headers["x-auth-token"]))
        try:
            caller = (await Played().verify(headers["x-auth-token"])).context
        except Unauthorized:
            return _reply(401, {})
        server_id = path.removesuffix("/why").rsplit("/", 1)[1]
        owner = self.servers.get(server_id)
        if owner is None or not (caller.is_admin or caller.project_id == project(owner)):
            return _reply(404, {"itemNotFound": {"code": 404, "message": f"Instance {server_id} could not be found."}})
        if path.endswith("/why"):
            if not caller.is_service:
                return _reply(403, {"forbidden": {"code": 403, "message": "Only a service may ask."}})
            return _reply(200, self.whys[server_id])
        return _reply(200, {"server": {"id": server_id, "tenant_id": project(owner), "user_id": "u"}})


class PlayedIdentity:
    """Gives insight a token of its own."""

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: Any = b"", *, timeout: float = 60.0
    ) -> LocalReply:
        assert (method, path) == ("POST", "/v3/auth/tokens?nocatalog")
        assert orjson.loads(body)["auth"]["identity"]["password"]["user"]["name"] == "insight"
        reply = _reply(201, {"token": {"expires_at": clock.iso_micro_z(clock.now() + 3600)}})
        reply.headers = {"x-subject-token": SERVICE}
        return reply


def _reply(status: int, document: Any) -> LocalReply:
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
    pieces.put_nowait(orjson.dumps(document))
    pieces.put_nowait(None)
    return LocalReply(status, {}, pieces)


def event(name: str, at: float = 0.0, took: float = 1.0, **more: Any) -> trace.Event:
    """An event ``at`` milliseconds after the start that took ``took`` milliseconds."""
    given: dict[str, Any] = {
        "subject": SERVER, "name": name, "component": "compute-agent", "host": "node-1", "attempt": 1,
        "started_at": START + at / 1000, "duration_ms": took, "request_id": "req-1",
    }  # fmt: skip
    return trace.Event(**{**given, **more})


async def tell(insight: Lone, *events: trace.Event) -> None:
    """Send events over the bus as another process would, and wait until they are filed."""
    wanted = filed(insight) + len(events)
    await insight.parts.bus.cast(EVENTS, Events(list(events)))
    async with asyncio.timeout(60):
        while filed(insight) < wanted:
            await asyncio.sleep(0)


def filed(insight: Lone) -> int:
    """How many events its processes have filed."""
    return sum(one.stored for one in insight.inners)


async def flow_of(insight: Lone, token: str = DEMO, server: str = SERVER) -> dict[str, Any]:
    reply = await insight.request("GET", f"/v1/servers/{server}/flow", token=token)
    assert reply.status == 200, reply.data
    told: dict[str, Any] = reply.json
    return told


@pytest.fixture
def compute() -> PlayedCompute:
    return PlayedCompute({SERVER: "demo"})


@pytest.fixture
async def insight(tmp_path: Path, compute: PlayedCompute) -> AsyncIterator[Lone]:
    settings = {"insight": {"heartbeat_seconds": 0.05}}
    others = {"compute": compute, "identity": PlayedIdentity()}
    async with lone_service(
        "insight",
        tmp_path,
        {"insight"},
        mount="/cumulet",
        settings=settings,
        others=others,
    ) as lone:
        yield lone

# SPDX-License-Identifier: Apache-2.0
"""A client of the volume service under test, and the waits that every client does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from cumulet.volume.drivers.simulated import Knobs
from tests.contract.image.lone import ADMIN, DEMO, Lone, Reply

ROLES = {"volume-api", "volume-scheduler", "volume-agent"}


@dataclass
class Volumes:
    """The service, its simulated back end's knobs, and the image service beside it."""

    lone: Lone
    knobs: Knobs
    image: Lone

    async def request(
        self, method: str, path: str, json: Any = None, *, token: str | None = DEMO, version: str | None = "3.71"
    ) -> Reply:
        headers = {"openstack-api-version": f"volume {version}"} if version else {}
        return await self.lone.request(method, f"/v3{path}", json, token=token, headers=headers)

    async def make(self, *, token: str = DEMO, wait: str | None = "available", **body: Any) -> dict[str, Any]:
        """A new volume, waited for."""
        reply = await self.request("POST", "/volumes", {"volume": {"size": 1, **body}}, token=token)
        assert reply.status == 202, reply.data
        document: dict[str, Any] = reply.json["volume"]
        return await self.wait(document["id"], wait, token=token) if wait else document

    async def wait(self, volume_id: str, goal: str, *, token: str = ADMIN, kind: str = "volume") -> dict[str, Any]:
        async with asyncio.timeout(60):
            while True:
                found = await self.request("GET", f"/{kind}s/{volume_id}", token=token)
                document: dict[str, Any] = found.json[kind]
                if document["status"] == goal:
                    return document
                assert goal == "error" or document["status"] != "error", document
                await asyncio.sleep(0.01)

    async def wait_gone(self, volume_id: str, kind: str = "volume") -> None:
        async with asyncio.timeout(60):
            while (await self.request("GET", f"/{kind}s/{volume_id}", token=ADMIN)).status != 404:
                await asyncio.sleep(0.01)

    async def act(self, volume_id: str, action: str, body: Any = None, *, token: str = DEMO, **more: Any) -> Reply:
        return await self.request("POST", f"/volumes/{volume_id}/action", {action: body}, token=token, **more)

    async def used(self, token: str = DEMO) -> dict[str, int]:
        """What the project uses of its quotas, the service's own count."""
        absolute = (await self.request("GET", "/limits", token=token)).json["limits"]["absolute"]
        return {
            "volumes": absolute["totalVolumesUsed"],
            "gigabytes": absolute["totalGigabytesUsed"],
            "snapshots": absolute["totalSnapshotsUsed"],
        }

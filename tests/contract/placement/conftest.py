# SPDX-License-Identifier: Apache-2.0
"""Placement alone, and what tests of it say often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.image.lone import SERVICE, Lone, Reply, lone_service


class Api:
    """A client of placement at one version, as a service unless told otherwise."""

    def __init__(self, lone: Lone, version: str = "1.39", token: str | None = SERVICE) -> None:
        self.lone, self.version, self.token = lone, version, token

    def at(self, version: str) -> Api:
        return Api(self.lone, version, self.token)

    def by(self, token: str | None) -> Api:
        return Api(self.lone, self.version, token)

    async def send(self, method: str, path: str, json: Any = None, **headers: str) -> Reply:
        sent = {"openstack-api-version": f"placement {self.version}", **headers}
        return await self.lone.request(method, path, json, token=self.token, headers=sent)

    async def get(self, path: str) -> Reply:
        return await self.send("GET", path)

    async def put(self, path: str, json: Any = None) -> Reply:
        return await self.send("PUT", path, json)

    async def post(self, path: str, json: Any = None) -> Reply:
        return await self.send("POST", path, json)

    async def delete(self, path: str) -> Reply:
        return await self.send("DELETE", path)

    # ---- ready-made things

    async def provider(self, name: str, uuid: str, parent: str | None = None) -> str:
        reply = await self.at("1.39").post(
            "/resource_providers", {"name": name, "uuid": uuid, "parent_provider_uuid": parent}
        )
        assert reply.status == 200, reply.data
        return uuid

    async def generation(self, uuid: str) -> int:
        return int((await self.get(f"/resource_providers/{uuid}")).json["generation"])

    async def offer(self, uuid: str, **inventories: Any) -> None:
        """Set inventories: ``VCPU=8`` or ``VCPU={"total": 8, "reserved": 1}``."""
        body = {
            "resource_provider_generation": await self.generation(uuid),
            "inventories": {
                name: value if isinstance(value, dict) else {"total": value, "max_unit": value}
                for name, value in inventories.items()
            },
        }
        reply = await self.put(f"/resource_providers/{uuid}/inventories", body)
        assert reply.status == 200, reply.data

    async def trait(self, uuid: str, *traits: str) -> None:
        for name in traits:
            if name.startswith("CUSTOM_"):
                assert (await self.put(f"/traits/{name}")).status in (201, 204)
        body = {"traits": list(traits), "resource_provider_generation": await self.generation(uuid)}
        assert (await self.put(f"/resource_providers/{uuid}/traits", body)).status == 200

    async def join(self, uuid: str, *aggregates: str) -> None:
        body = {"aggregates": list(aggregates), "resource_provider_generation": await self.generation(uuid)}
        assert (await self.put(f"/resource_providers/{uuid}/aggregates", body)).status == 200

    async def claim(self, consumer: str, generation: int | None = None, **allocations: dict[str, int]) -> Reply:
        """PUT allocations; keys are provider ids with ``_`` for ``-`` after a leading ``p``."""
        held = {key[1:].replace("_", "-"): {"resources": amounts} for key, amounts in allocations.items()}
        return await self.put(f"/allocations/{consumer}", claim_body(held, generation))


def claim_body(held: dict[str, Any], generation: int | None = None, **more: Any) -> dict[str, Any]:
    """A body of PUT /allocations/{consumer} at the newest version."""
    return {
        "allocations": held,
        "project_id": "p1",
        "user_id": "u1",
        "consumer_generation": generation,
        "consumer_type": "INSTANCE",
        **more,
    }


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with lone_service("placement", tmp_path, {"placement-api"}, mount="/placement") as lone:
        yield Api(lone)

# SPDX-License-Identifier: Apache-2.0
"""Which processes the cloud has, for administrators: what each runs, where, since when, and whether it lives."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.cloud import running_cloud


async def test_processes_are_told_to_administrators(tmp_path: Path) -> None:
    async with running_cloud(tmp_path, packages=["insight"]) as cloud:
        admin, demo = await cloud.login("admin"), await cloud.login("demo")
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(60):
            while not {"identity-api", "insight"} <= {role for one in found for role in one["roles"]}:  # heartbeats
                reply = await cloud.request("GET", "/cumulet/v1/roles", token=admin)
                assert reply.status == 200, reply.data
                found = reply.json["processes"]
                await asyncio.sleep(0.01)
        for process in found:
            assert (process["host"], process["alive"]) == ("node-1", True)
            assert process["started_at"] <= process["seen_at"]
        assert (await cloud.request("GET", "/cumulet/v1/roles", token=demo)).status == 403
        assert (await cloud.request("GET", "/cumulet/v1/roles")).status == 401

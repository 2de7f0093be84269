# SPDX-License-Identifier: Apache-2.0
"""What a host says to placement of itself holds, whoever changes it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cumulet.compute.agent import reports
from cumulet.kernel import clock
from tests.cloud import TestCloud, running_cloud

VERSION = {"openstack-api-version": "placement 1.39"}


async def _inventories(cloud: TestCloud, token: str) -> tuple[str, dict[str, Any]]:
    """The path of the one provider's inventories, and what is there."""
    found = await cloud.request("GET", "/placement/resource_providers", token=token, headers=VERSION)
    (provider,) = found.json["resource_providers"]
    path = f"/placement/resource_providers/{provider['uuid']}"
    told = await cloud.request("GET", f"{path}/inventories", token=token, headers=VERSION)
    return path, told.json


async def test_a_host_repeats_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_cloud(tmp_path, packages=["identity", "placement", "network", "image", "compute"]) as cloud:
        token = await cloud.login("admin")
        agent = next(one for one in cloud.cloud.services["compute"].roles if one.name == "compute-agent")
        report: Any = agent.tasks[1]
        await report.run_once()
        path, told = await _inventories(cloud, token)
        before = told["inventories"]

        async def changed(inventories: dict[str, Any]) -> None:
            body = {**(await _inventories(cloud, token))[1], "inventories": inventories}
            reply = await cloud.request("PUT", f"{path}/inventories", body, token=token, headers=VERSION)
            assert reply.status == 200, reply.data

        lies = {"VCPU": {**before["VCPU"], "total": 1000, "allocation_ratio": 16.0}}
        await changed(lies)
        await report.run_once()
        assert (await _inventories(cloud, token))[1]["inventories"] == lies, "it does not ask all the time"
        now = clock.monotonic()
        monkeypatch.setattr(clock, "monotonic", lambda: now + reports.REFRESH + 1)
        await report.run_once()
        after = (await _inventories(cloud, token))[1]["inventories"]
        assert after == {**before, "VCPU": {**before["VCPU"], "allocation_ratio": 16.0}}, "the ratio is the operator's"
        assert (await cloud.request("DELETE", path, token=token, headers=VERSION)).status == 204
        monkeypatch.setattr(clock, "monotonic", lambda: now + 2 * reports.REFRESH + 2)
        await report.run_once()
        assert await _inventories(cloud, token) == (path, {**told, "resource_provider_generation": 2})

# SPDX-License-Identifier: Apache-2.0
"""The same on PostgreSQL: pools, policies and a floating IP's saga, whose statements are the least ordinary ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.contract.image.lone import ALT, SERVICE, lone_service
from tests.contract.network.conftest import Net, project, refused


async def test_the_same_on_postgresql(postgres: str, tmp_path: Path) -> None:
    roles = {"network-api", "network-agent"}
    async with lone_service("network", tmp_path, roles, mount="/network", postgres=postgres) as lone:
        net = Net(lone)
        async with asyncio.timeout(60):
            while not (await net.admin.get("/agents")).json["agents"]:
                await asyncio.sleep(0.01)
        pool = await net.make("/subnetpools", name="p", prefixes=["10.8.0.0/16"], default_prefixlen=24)
        network = (await net.make("/networks"))["id"]
        subnet = await net.make("/subnets", network_id=network, ip_version=4, subnetpool_id=pool["id"])
        assert subnet["cidr"] == "10.8.0.0/24"

        external = await net.external("198.51.100.0/24")
        policy = {"object_type": "network", "action": "access_as_shared", "target_tenant": project("alt")}
        reply = await net.post("/rbac-policies", {"rbac_policy": {"object_id": network, **policy}})
        assert reply.status == 201, reply.data
        assert {one["id"] for one in (await net.by(ALT).get("/networks")).json["networks"]} == {network, external}
        reply = await net.post("/rbac-policies", {"rbac_policy": {"object_id": network, **policy}})
        refused(reply, 409, "DuplicateRbacPolicy")

        router = (await net.make("/routers", external_gateway_info={"network_id": external}))["id"]
        await net.put(f"/routers/{router}/add_router_interface", {"subnet_id": subnet["id"]})
        binding = {"binding__host_id": "node-1", "device_id": "d", "device_owner": "compute:nova"}
        port = await net.by(SERVICE).make("/ports", network_id=network, project_id=project("demo"), **binding)
        floating = await net.make("/floatingips", floating_network_id=external, port_id=port["id"])
        await net.eventually(f"/floatingips/{floating['id']}", status="ACTIVE")
        assert (await net.delete(f"/floatingips/{floating['id']}")).status == 204

# SPDX-License-Identifier: Apache-2.0
"""RBAC policies: a network for one other project, or for all; and nobody is left on a network without a way to it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.image.lone import ADMIN, ALT, DEMO
from tests.contract.network.conftest import Net, project, refused

THIRD = "third@third:member"


async def policy(net: Net, network_id: str, target: str, action: str = "access_as_shared") -> dict[str, Any]:
    body = {"object_type": "network", "object_id": network_id, "action": action, "target_tenant": target}
    reply = await net.post("/rbac-policies", {"rbac_policy": body})
    assert reply.status == 201, reply.data
    return dict(reply.json["rbac_policy"])


async def policies(net: Net, query: str = "") -> list[tuple[str, str]]:
    found = (await net.get(f"/rbac-policies{query}")).json["rbac_policies"]
    return sorted((one["action"], one["target_tenant"]) for one in found)


async def test_a_network_for_one_other_project(net: Net) -> None:
    network_id, subnet_id = await net.network("10.9.0.0/24", name="mine")
    alt, third = net.by(ALT), net.by(THIRD)
    refused(await alt.get(f"/networks/{network_id}"), 404, "NetworkNotFound")
    made = await policy(net, network_id, project("alt"))
    assert set(made) == {"id", "tenant_id", "project_id", "object_type", "object_id", "action", "target_tenant"}
    assert (made["project_id"], made["object_id"]) == (project("demo"), network_id)
    seen = await alt.show(f"/networks/{network_id}")
    assert (seen["shared"], seen["project_id"]) == (True, project("demo"))
    assert (await net.show(f"/networks/{network_id}"))["shared"] is False
    assert await alt.names("/networks") == ["mine"]
    assert [one["id"] for one in (await alt.get("/subnets")).json["subnets"]] == [subnet_id]
    assert (await third.get("/networks")).json["networks"] == []
    assert (await third.get("/subnets")).json["subnets"] == []
    refused(await third.post("/ports", {"port": {"network_id": network_id}}), 404, "NetworkNotFound")

    port = await alt.make("/ports", network_id=network_id)
    body = {"port": {"network_id": network_id, "mac_address": "fa:16:3e:00:00:01"}}
    refused(await alt.post("/ports", body), 403, "PolicyNotAuthorized")  # a guest's right, not an owner's
    assert (await alt.put(f"/networks/{network_id}", {"network": {"name": "x"}})).status == 403
    path = f"/rbac-policies/{made['id']}"
    assert (await net.get(path)).json == {"rbac_policy": made}
    assert "depend on it" in refused(await net.delete(path), 409, "RbacPolicyInUse")
    reply = await net.put(path, {"rbac_policy": {"target_tenant": project("third")}})
    refused(reply, 409, "RbacPolicyInUse")
    assert (await alt.show(f"/networks/{network_id}"))["shared"] is True  # nothing of it was done
    assert (await alt.delete(f"/ports/{port['id']}")).status == 204
    reply = await net.put(path, {"rbac_policy": {"target_tenant": project("third")}})
    assert reply.json["rbac_policy"]["target_tenant"] == project("third")
    refused(await alt.get(f"/networks/{network_id}"), 404, "NetworkNotFound")
    assert (await third.show(f"/networks/{network_id}"))["shared"] is True
    assert (await net.delete(path)).status == 204
    refused(await third.get(f"/networks/{network_id}"), 404, "NetworkNotFound")
    refused(await net.get(path), 404, "RbacPolicyNotFound")


async def test_who_may_share_what_with_whom(net: Net) -> None:
    network_id, _ = await net.network(None)
    body = {"object_type": "network", "object_id": network_id, "action": "access_as_shared", "target_tenant": "*"}

    async def fails(client: Net, status: int, kind: str, **changes: Any) -> str:
        return refused(await client.post("/rbac-policies", {"rbac_policy": {**body, **changes}}), status, kind)

    await fails(net, 403, "PolicyNotAuthorized")
    await fails(net.by(ALT), 404, "NetworkNotFound", target_tenant=project("alt"))
    own = await policy(net, network_id, project("alt"))
    assert "Only admins" in await fails(net.by(ALT), 400, "InvalidInput", target_tenant=project("third"))
    assert "Only admins" in await fails(
        net, 400, "InvalidInput", action="access_as_external", target_tenant=project("alt")
    )
    await fails(net, 409, "DuplicateRbacPolicy", target_tenant=project("alt"))
    await fails(net, 400, "InvalidInput", action="access_as_wished", target_tenant=project("alt"))
    await fails(net, 400, "HTTPBadRequest", object_type="planet", target_tenant=project("alt"))
    await fails(net, 400, "HTTPBadRequest", target_tenant="everybody")
    refused(await net.by(ALT).get(f"/rbac-policies/{own['id']}"), 404, "RbacPolicyNotFound")
    refused(await net.by(ALT).delete(f"/rbac-policies/{own['id']}"), 404, "RbacPolicyNotFound")
    reply = await net.put(f"/rbac-policies/{own['id']}", {"rbac_policy": {"target_tenant": "*"}})
    refused(reply, 403, "PolicyNotAuthorized")
    assert await policies(net) == [("access_as_shared", project("alt"))]
    assert await policies(net.by(ALT)) == []


async def test_shared_and_external_are_policies_for_everybody(net: Net) -> None:
    admin = net.admin
    network = await admin.make("/networks", shared=True)
    path = f"/networks/{network['id']}"
    assert await policies(admin) == [("access_as_shared", "*")]
    assert (await net.show(path))["shared"] is True
    assert (await admin.put(path, {"network": {"router:external": True}})).status == 200
    assert await policies(admin) == [("access_as_external", "*"), ("access_as_shared", "*")]
    assert (await admin.put(path, {"network": {"shared": False, "router:external": False}})).status == 200
    assert await policies(admin) == []
    refused(await net.get(path), 404, "NetworkNotFound")
    everybody = await policy(admin, network["id"], "*")
    assert (await net.show(path))["shared"] is True
    await net.make("/ports", network_id=network["id"])
    refused(await admin.delete(f"/rbac-policies/{everybody['id']}"), 409, "RbacPolicyInUse")
    await policy(admin, network["id"], project("demo"))
    assert (await admin.delete(f"/rbac-policies/{everybody['id']}")).status == 204  # demo has a way of its own
    assert (await net.show(path))["shared"] is True
    assert (await admin.show(path))["shared"] is False
    refused(await net.by(ALT).get(path), 404, "NetworkNotFound")


async def test_a_way_out_for_one_project(net: Net) -> None:
    admin = net.admin
    network_id, _ = await admin.network("198.51.100.0/24")
    made = await policy(admin, network_id, project("demo"), "access_as_external")
    assert (await net.show(f"/networks/{network_id}"))["router:external"] is True
    refused(await net.by(ALT).get(f"/networks/{network_id}"), 404, "NetworkNotFound")
    body = {"router": {"external_gateway_info": {"network_id": network_id}}}
    refused(await net.by(ALT).post("/routers", body), 404, "NetworkNotFound")
    router = (await net.post("/routers", body)).json["router"]
    refused(await net.post("/ports", {"port": {"network_id": network_id}}), 403, "PolicyNotAuthorized")
    refused(await admin.delete(f"/rbac-policies/{made['id']}"), 409, "RbacPolicyInUse")
    assert (await net.delete(f"/routers/{router['id']}")).status == 204
    assert (await admin.delete(f"/rbac-policies/{made['id']}")).status == 204
    assert (await admin.show(f"/networks/{network_id}"))["router:external"] is False


@pytest.mark.parametrize("token", [DEMO, ADMIN])
async def test_policies_go_with_their_network(net: Net, token: str) -> None:
    network_id, _ = await net.by(token).network(None)
    await policy(net.by(token), network_id, project("alt"))
    assert (await net.by(token).delete(f"/networks/{network_id}")).status == 204
    assert await policies(net.admin) == []
    who = project("demo" if token == DEMO else "admin")
    details = (await net.admin.get(f"/quotas/{who}/details.json")).json["quota"]["rbac_policy"]
    assert details["used"] == 0

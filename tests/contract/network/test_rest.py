# SPDX-License-Identifier: Apache-2.0
"""Versions, extensions, quotas, agents, zones, the topology on demand, and errors of the pipeline."""

from __future__ import annotations

from cumulet.network.policy import RULES
from tests.contract.image.lone import ALT, READER
from tests.contract.network.conftest import Net, project, refused


async def test_versions_need_no_token(net: Net) -> None:
    for path in ("/", ""):
        reply = await net.lone.request("GET", path, token=None)
        assert reply.status == 200
        (version,) = reply.json["versions"]
        assert (version["id"], version["status"]) == ("v2.0", "CURRENT")
        assert version["links"] == [{"rel": "self", "href": "http://localhost/network/v2.0/"}]
    for path in ("/v2.0", "/v2.0/"):
        reply = await net.lone.request("GET", path, token=None)
        assert {one["collection"] for one in reply.json["resources"]} >= {"networks", "security-groups"}


async def test_extensions(net: Net) -> None:
    found = (await net.get("/extensions")).json["extensions"]
    assert {"router", "external-net", "security-group", "binding", "project-id"} <= {one["alias"] for one in found}
    assert all(set(one) == {"alias", "name", "description", "updated", "links"} for one in found)
    assert (await net.get("/extensions/router")).json["extension"]["alias"] == "router"
    refused(await net.get("/extensions/teleport"), 404, "HTTPNotFound")


async def test_unauthenticated_and_unknown(net: Net) -> None:
    reply = await net.by(None).get("/networks")
    assert (reply.status, reply.json["error"]["code"]) == (401, 401)
    assert reply.headers["www-authenticate"].startswith("Keystone uri=")
    refused(await net.get("/teleports"), 404, "HTTPNotFound")
    reply = await net.send("PATCH", "/networks")
    refused(reply, 405, "HTTPMethodNotAllowed")
    assert reply.headers["x-openstack-request-id"].startswith("req-")


async def test_quota_refuses(net: Net) -> None:
    path = f"/quotas/{project('demo')}"
    assert (await net.get(path)).json["quota"] == {
        "network": 100, "subnet": 100, "port": 500, "router": 10, "floatingip": 50, "security_group": 10,
        "security_group_rule": 100, "subnetpool": -1, "rbac_policy": 10,
    }  # fmt: skip
    refused(await net.put(path, {"quota": {"network": 1}}), 403, "PolicyNotAuthorized")
    assert (await net.admin.put(path, {"quota": {"network": 1}})).json["quota"]["network"] == 1
    await net.make("/networks")
    message = refused(await net.post("/networks", {"network": {}}), 409, "OverQuota")
    assert message == "Quota exceeded for resources: ['network']."
    details = (await net.get(f"{path}/details.json")).json["quota"]["network"]
    assert details == {"limit": 1, "used": 1, "reserved": 0}
    assert (await net.get(f"{path}/default")).json["quota"]["network"] == 100
    assert [one["project_id"] for one in (await net.admin.get("/quotas")).json["quotas"]] == [project("demo")]
    reply = await net.admin.put(path, {"quota": {"network": 0}})
    assert "must be greater than or equal to already used 1" in refused(reply, 400, "HTTPBadRequest")
    assert (await net.admin.put(path, {"quota": {"network": 0, "force": True}})).status == 200
    assert (await net.admin.delete(path)).status == 204
    assert (await net.get(path)).json["quota"]["network"] == 100
    refused(await net.admin.put(path, {"quota": {"color": 1}}), 400, "HTTPBadRequest")
    refused(await net.admin.put(path, {"quota": {"network": -2}}), 400, "HTTPBadRequest")
    refused(await net.by(ALT).get(path), 403, "PolicyNotAuthorized")


async def test_quota_of_a_bulk_is_all_or_nothing(net: Net) -> None:
    await net.admin.put(f"/quotas/{project('demo')}", {"quota": {"network": 2}})
    refused(await net.post("/networks", {"networks": [{}, {}, {}]}), 409, "OverQuota")
    assert (await net.get("/networks")).json["networks"] == []


async def test_agents(host: Net) -> None:
    assert (await host.get("/agents")).json["agents"] == []  # administrators only
    (agent,) = (await host.admin.get("/agents?host=node-1")).json["agents"]
    assert (agent["host"], agent["alive"], agent["admin_state_up"]) == ("node-1", True, True)
    path = f"/agents/{agent['id']}"
    refused(await host.get(path), 404, "HTTPNotFound")
    assert (await host.admin.show(path))["binary"] == agent["binary"]
    changed = (await host.admin.put(path, {"agent": {"admin_state_up": False, "description": "d"}})).json["agent"]
    assert (changed["admin_state_up"], changed["description"]) == (False, "d")
    refused(await host.admin.post("/agents", {"agent": {}}), 405, "HTTPMethodNotAllowed")
    refused(await host.delete(path), 404, "HTTPNotFound")
    assert (await host.admin.delete(path)).status == 204  # until it reports again
    refused(await host.admin.delete(f"/agents/{project('demo')}"), 404, "AgentNotFound")


async def test_quota_with_what_is_used(net: Net) -> None:
    await net.admin.put(f"/quotas/{project('demo')}", {"quota": {"network": 2}})
    await net.make("/networks")
    for path in (f"/quotas/{project('demo')}/details", f"/quotas/{project('demo')}/details.json"):
        details = (await net.admin.get(path)).json["quota"]
        assert details["network"] == {"limit": 2, "used": 1, "reserved": 0}
        assert details["router"]["used"] == 0


async def test_zones(net: Net) -> None:
    zones = (await net.get("/availability_zones")).json["availability_zones"]
    assert {(one["name"], one["resource"]) for one in zones} == {("nova", "network"), ("nova", "router")}


async def test_topology_on_demand(net: Net) -> None:
    path = f"/auto-allocated-topology/{project('demo')}"
    message = refused(await net.get(path), 409, "AutoAllocationFailure")
    assert "No default router:external network" in message
    external = await net.external()
    assert (await net.admin.put(f"/networks/{external}", {"network": {"is_default": True}})).status == 200
    dry = (await net.get(f"{path}?fields=dry-run")).json["auto_allocated_topology"]
    assert dry["id"] == "dry-run=pass"
    assert (await net.get("/routers")).json["routers"] == []
    found = (await net.get(path)).json["auto_allocated_topology"]
    assert (await net.get(path)).json["auto_allocated_topology"] == found
    network = await net.show(f"/networks/{found['id']}")
    assert network["project_id"] == project("demo")
    assert len(network["subnets"]) == 1
    (router,) = (await net.get("/routers")).json["routers"]
    assert router["external_gateway_info"]["network_id"] == external
    refused(await net.by(ALT).get(path), 403, "PolicyNotAuthorized")
    refused(await net.by(READER).delete(path), 403, "PolicyNotAuthorized")
    assert (await net.delete(path)).status == 204
    refused(await net.delete(path), 404, "AutoAllocatedTopologyNotFound")
    assert (await net.get("/routers")).json["routers"] == []


async def test_ip_availability(net: Net) -> None:
    network_id, subnet_id = await net.network("10.1.0.0/24", name="n")
    await net.make("/ports", network_id=network_id)
    refused(await net.get("/network-ip-availabilities"), 403, "PolicyNotAuthorized")
    (found,) = (await net.admin.get("/network-ip-availabilities?ip_version=4")).json["network_ip_availabilities"]
    (subnet,) = found["subnet_ip_availability"]
    assert (found["network_name"], found["total_ips"], found["used_ips"]) == ("n", 127, 2)
    assert (subnet["subnet_id"], subnet["cidr"], subnet["used_ips"]) == (subnet_id, "10.1.0.0/24", 2)
    assert await net.admin.show(f"/network-ip-availabilities/{network_id}") == found
    assert (await net.admin.get("/network-ip-availabilities?ip_version=6")).json["network_ip_availabilities"] == []


async def test_every_rule_of_an_operation_is_used(net: Net) -> None:
    """One that nothing asks for would be a promise that nobody keeps."""
    api = next(role.app for role in net.lone.service.roles if role.app is not None)
    asked = {route.policy for route in api.routes if route.policy}
    resources = {rule.partition("_")[2] for rule in asked}
    for rule in RULES:
        head, _, attribute = rule.name.partition(":")
        action, _, resource = head.partition("_")
        if action in ("create", "get", "update", "delete"):
            assert rule.name in asked or (attribute and resource in resources), rule.name

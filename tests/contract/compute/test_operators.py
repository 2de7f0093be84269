# SPDX-License-Identifier: Apache-2.0
"""What operators see and set: services, hypervisors, zones, aggregates, quotas, usage."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cloud import Reply, running_cloud
from tests.contract.compute.conftest import DEADLINE, World

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOWHERE = "11111111-1111-4111-8111-111111111111"
UPTIME = re.compile(r"\s*(.+)\sup\s+(.+),\s+(.+)\susers?,\s+load average:\s(.+)")
"""As clients take it apart."""

# ---- services and hypervisors


async def compute_service(world: World) -> dict[str, Any]:
    (found,) = (await world.admin.get("/os-services?binary=nova-compute")).json["services"]
    service: dict[str, Any] = found
    return service


async def test_services(world: World) -> None:
    service = await compute_service(world)
    assert (service["host"], service["zone"], service["status"], service["state"]) == (
        "node-1", "nova", "enabled", "up",
    )  # fmt: skip
    binaries = {one["binary"]: one["zone"] for one in (await world.admin.get("/os-services")).json["services"]}
    assert binaries["nova-conductor"] == binaries["nova-scheduler"] == "internal"
    old = (await world.admin.at("2.52").get("/os-services?binary=nova-compute")).json["services"][0]
    assert isinstance(old["id"], int)
    assert "forced_down" not in (await world.admin.at("2.10").get("/os-services")).json["services"][0]
    assert (await world.demo.get("/os-services")).status == 403
    assert (await world.admin.get("/os-services?colour=red")).status == 400


async def test_a_service_is_disabled_and_enabled(world: World) -> None:
    admin = world.admin
    path = f"/os-services/{(await compute_service(world))['id']}"
    reply = await admin.put(path, {"status": "disabled", "disabled_reason": "repair"})
    assert (reply.json["service"]["status"], reply.json["service"]["disabled_reason"]) == ("disabled", "repair")
    assert (await admin.put(path, {"status": "enabled", "disabled_reason": "x"})).status == 400
    assert (await admin.put(path, {})).status == 400
    assert (await admin.put(f"/os-services/{NOWHERE}", {"status": "enabled"})).status == 404
    assert (await admin.put("/os-services/1", {"status": "enabled"})).status == 400
    assert (await admin.put(path, {"status": "enabled"})).json["service"]["disabled_reason"] is None
    old = admin.at("2.52")
    by_host = {"host": "node-1", "binary": "nova-compute"}
    told = await old.put("/os-services/disable-log-reason", {**by_host, "disabled_reason": "x"})
    assert told.json == {"service": {**by_host, "status": "disabled", "disabled_reason": "x"}}
    assert (await old.put("/os-services/disable-log-reason", by_host)).status == 400
    assert (await old.put("/os-services/enable", by_host)).json["service"]["status"] == "enabled"
    assert (await old.put("/os-services/explode", by_host)).status == 404
    assert (await old.put("/os-services/enable", {**by_host, "host": "other"})).status == 404
    conductor = {"host": "node-1", "binary": "nova-conductor"}
    assert "is not supported" in (await old.put("/os-services/disable", conductor)).json["badRequest"]["message"]


async def test_a_disabled_host_gets_no_server_from_then_on(world: World, kept: dict[str, Any]) -> None:
    """A scheduler that placed one there (``kept``) waits for no report of the host."""
    path = f"/os-services/{(await compute_service(world))['id']}"
    assert (await world.admin.put(path, {"status": "disabled"})).status == 200
    try:
        refused = await world.create()
        assert (await world.demo.until(refused, "ERROR"))["fault"]["message"].startswith("No valid host")
        await world.demo.gone(refused)
    finally:
        assert (await world.admin.put(path, {"status": "enabled"})).status == 200
    await world.demo.gone((await world.active())["id"])


async def test_a_host_with_servers_is_not_forgotten(world: World, kept: dict[str, Any]) -> None:
    service = await compute_service(world)
    reply = await world.admin.delete(f"/os-services/{service['id']}")
    assert (reply.status, "is hosting instances" in reply.json["conflictingRequest"]["message"]) == (409, True)
    assert (await world.admin.delete(f"/os-services/{NOWHERE}")).status == 404


async def test_a_host_without_servers_is_forgotten(tmp_path: Path) -> None:
    async with running_cloud(tmp_path) as cloud:
        token = await cloud.login("admin")
        headers = {"openstack-api-version": "compute 2.104"}

        async def ask(method: str, path: str) -> Reply:
            return await cloud.request(method, f"/compute/v2.1/os-services{path}", token=token, headers=headers)

        async with asyncio.timeout(DEADLINE):
            while not (found := (await ask("GET", "?binary=nova-compute")).json["services"]):
                await asyncio.sleep(0.02)  # until the agent has reported
        (service,) = found
        assert (await ask("DELETE", f"/{service['id']}")).status == 204
        assert service["id"] not in {one["id"] for one in (await ask("GET", "?binary=nova-compute")).json["services"]}
        assert (await ask("DELETE", f"/{service['id']}")).status == 404
        assert (await ask("DELETE", "/1")).status == 400


async def test_hypervisors(world: World, kept: dict[str, Any]) -> None:
    admin = world.admin
    (brief,) = (await admin.get("/os-hypervisors")).json["hypervisors"]
    assert set(brief) == {"id", "hypervisor_hostname", "state", "status"}
    shown = (await admin.get(f"/os-hypervisors/{brief['id']}?with_servers=true")).json["hypervisor"]
    assert (shown["state"], shown["hypervisor_type"], shown["service"]["host"]) == ("up", "simulated", "node-1")
    assert kept["id"] in {one["uuid"] for one in shown["servers"]}
    assert "vcpus" not in shown
    assert UPTIME.fullmatch(shown["uptime"])
    earlier = await admin.at("2.87").get(f"/os-hypervisors/{brief['id']}/uptime")
    assert UPTIME.fullmatch(earlier.json["hypervisor"]["uptime"])
    old = (await admin.at("2.87").get("/os-hypervisors/detail")).json["hypervisors"][0]
    assert old["vcpus"] >= 1
    assert isinstance(old["cpu_info"], dict)
    assert isinstance((await admin.at("2.27").get("/os-hypervisors/detail")).json["hypervisors"][0]["cpu_info"], str)
    number = (await admin.at("2.52").get("/os-hypervisors")).json["hypervisors"][0]["id"]
    assert (await admin.at("2.52").get(f"/os-hypervisors/{number}")).status == 200
    assert (await admin.get(f"/os-hypervisors/{number}")).status == 400
    assert (await admin.get(f"/os-hypervisors/{NOWHERE}")).status == 404
    found = await admin.get("/os-hypervisors?hypervisor_hostname_pattern=node")
    assert len(found.json["hypervisors"]) == 1
    assert (await admin.get("/os-hypervisors?hypervisor_hostname_pattern=none")).status == 404
    assert (await admin.get("/os-hypervisors?hypervisor_hostname_pattern=node&limit=1")).status == 400
    assert (await admin.at("2.52").get("/os-hypervisors/node/servers")).json["hypervisors"][0]["servers"]
    by_name = (await admin.at("2.52").get("/os-hypervisors/node/search")).json["hypervisors"]
    assert by_name == [{"id": number, "hypervisor_hostname": "node-1", "state": "up", "status": "enabled"}]
    assert (await admin.at("2.52").get("/os-hypervisors/none/search")).status == 404
    assert (await admin.get("/os-hypervisors/node/search")).status == 404
    statistics = (await admin.at("2.87").get("/os-hypervisors/statistics")).json["hypervisor_statistics"]
    assert statistics["count"] == 1
    assert (await admin.get("/os-hypervisors/statistics")).status == 404
    assert (await world.demo.get("/os-hypervisors")).status == 403


# ---- zones and aggregates


async def test_zones(world: World) -> None:
    zones = (await world.demo.get("/os-availability-zone")).json["availabilityZoneInfo"]
    assert zones == [{"zoneName": "nova", "zoneState": {"available": True}, "hosts": None}]
    detail = (await world.admin.get("/os-availability-zone/detail")).json["availabilityZoneInfo"]
    by_name = {one["zoneName"]: one["hosts"] for one in detail}
    assert by_name["nova"]["node-1"]["nova-compute"]["available"] is True
    assert "nova-conductor" in by_name["internal"]["node-1"]
    assert (await world.demo.get("/os-availability-zone/detail")).status == 403


async def test_an_aggregate_moves_its_hosts_into_its_zone(world: World) -> None:
    admin = world.admin
    made = await admin.post("/os-aggregates", {"aggregate": {"name": "racks", "availability_zone": "east"}})
    assert made.status == 200
    aggregate = made.json["aggregate"]
    assert (aggregate["name"], aggregate["availability_zone"], aggregate["deleted"]) == ("racks", "east", False)
    assert "hosts" not in aggregate
    path = f"/os-aggregates/{aggregate['id']}"
    assert (await admin.post("/os-aggregates", {"aggregate": {"name": "racks"}})).status == 409
    added = (await admin.post(f"{path}/action", {"add_host": {"host": "node-1"}})).json["aggregate"]
    assert (added["hosts"], added["metadata"]) == (["node-1"], {"availability_zone": "east"})
    assert (await compute_service(world))["zone"] == "east"
    assert (await admin.post(f"{path}/action", {"add_host": {"host": "node-1"}})).status == 409
    assert (await admin.post(f"{path}/action", {"add_host": {"host": "node-9"}})).status == 404
    second = (await admin.post("/os-aggregates", {"aggregate": {"name": "rows", "availability_zone": "west"}})).json
    other = f"/os-aggregates/{second['aggregate']['id']}"
    assert (await admin.post(f"{other}/action", {"add_host": {"host": "node-1"}})).status == 409
    set_ = await admin.post(f"{path}/action", {"set_metadata": {"metadata": {"ssd": "yes", "none": None}}})
    assert set_.json["aggregate"]["metadata"] == {"availability_zone": "east", "ssd": "yes"}
    assert (await admin.delete(path)).status == 400
    shown = (await admin.get(path)).json["aggregate"]
    assert (shown["hosts"], shown["metadata"]) == (["node-1"], {"availability_zone": "east", "ssd": "yes"})
    removed = await admin.post(f"{path}/action", {"remove_host": {"host": "node-1"}})
    assert removed.json["aggregate"]["hosts"] == []
    assert (await compute_service(world))["zone"] == "nova"
    assert (await admin.post(f"{path}/action", {"remove_host": {"host": "node-1"}})).status == 404
    renamed = await admin.put(path, {"aggregate": {"name": "shelves", "availability_zone": None}})
    assert (renamed.json["aggregate"]["name"], renamed.json["aggregate"]["availability_zone"]) == ("shelves", None)
    for one in (path, other):
        assert (await admin.delete(one)).status == 200
    missing = await admin.get(path)
    assert missing.json["itemNotFound"]["message"] == f"Aggregate {aggregate['id']} could not be found."
    assert (await admin.get("/os-aggregates/racks")).status == 400
    assert "uuid" not in (await admin.at("2.40").post("/os-aggregates", {"aggregate": {"name": "x"}})).json["aggregate"]
    for one in (await admin.get("/os-aggregates")).json["aggregates"]:
        await admin.delete(f"/os-aggregates/{one['id']}")
    assert (await world.demo.get("/os-aggregates")).status == 403


# ---- quotas


async def test_quota_sets(world: World) -> None:
    project = world.other.project_id
    path = f"/os-quota-sets/{project}"
    shown = (await world.other.get(path)).json["quota_set"]
    assert (shown["id"], shown["instances"], shown["cores"], shown["ram"]) == (project, 10, 20, 51200)
    assert not {"floating_ips", "injected_files"} & set(shown)
    assert "floating_ips" in (await world.other.at("2.35").get(path)).json["quota_set"]
    assert "injected_files" in (await world.other.at("2.56").get(path)).json["quota_set"]
    detail = (await world.other.get(f"{path}/detail")).json["quota_set"]
    assert detail["instances"] == {"limit": 10, "in_use": 0, "reserved": 0}
    changed = await world.admin.put(path, {"quota_set": {"instances": 5, "cores": "-1"}})
    assert (changed.json["quota_set"]["instances"], changed.json["quota_set"]["cores"]) == (5, -1)
    assert "id" not in changed.json["quota_set"]
    assert (await world.admin.put(path, {"quota_set": {"instances": -2}})).status == 400
    assert (await world.admin.put(path, {"quota_set": {"floating_ips": 1}})).status == 400
    assert (await world.admin.at("2.35").put(path, {"quota_set": {"floating_ips": 1}})).status == 200
    assert (await world.other.get(f"{path}/defaults")).json["quota_set"]["instances"] == 10
    assert (await world.other.put(path, {"quota_set": {"instances": 99}})).status == 403
    assert (await world.demo.get(path)).status == 403
    assert (await world.admin.delete(path)).status == 202
    assert (await world.other.get(path)).json["quota_set"]["instances"] == 10


async def test_a_limit_below_what_is_used_must_be_forced(world: World, kept: dict[str, Any]) -> None:
    path = f"/os-quota-sets/{world.demo.project_id}"
    refused = await world.admin.put(path, {"quota_set": {"instances": 0}})
    assert refused.status == 400
    assert "must be greater than or equal to already used" in refused.json["badRequest"]["message"]
    assert (await world.admin.put(path, {"quota_set": {"instances": 0, "force": True}})).status == 200
    assert (await world.demo.post("/servers", world.body())).status == 403
    assert (await world.admin.put(path, {"quota_set": {"instances": 100}})).status == 200


async def test_limits(world: World, kept: dict[str, Any]) -> None:
    limits = (await world.demo.get("/limits")).json["limits"]
    assert limits["rate"] == []
    assert limits["absolute"]["maxTotalInstances"] == 100
    assert limits["absolute"]["totalInstancesUsed"] >= 1
    assert not {"maxImageMeta", "maxPersonality", "maxTotalFloatingIps"} & set(limits["absolute"])
    old = (await world.demo.at("2.1").get("/limits")).json["limits"]["absolute"]
    assert {"maxImageMeta", "maxPersonality", "maxTotalFloatingIps", "totalSecurityGroupsUsed"} <= set(old)
    asked = f"/limits?tenant_id={world.demo.project_id}"
    assert (await world.admin.get(asked)).json["limits"]["absolute"]["maxTotalInstances"] == 100
    assert (await world.other.get(asked)).status == 403


# ---- usage


async def test_usage(world: World, kept: dict[str, Any]) -> None:
    path = f"/os-simple-tenant-usage/{world.demo.project_id}?start=2020-01-01T00:00:00&end=2100-01-01T00:00:00"
    usage = (await world.demo.get(path)).json["tenant_usage"]
    (mine,) = [one for one in usage["server_usages"] if one["instance_id"] == kept["id"]]
    assert (mine["flavor"], mine["memory_mb"], mine["ended_at"], mine["state"]) == ("m1.nano", 128, None, "active")
    assert usage["total_hours"] > 0
    assert (await world.demo.get("/os-simple-tenant-usage")).status == 403
    everybody = (await world.admin.get("/os-simple-tenant-usage?start=2020-01-01T00:00:00")).json["tenant_usages"]
    assert world.demo.project_id in {one["tenant_id"] for one in everybody}
    assert "server_usages" not in everybody[0]
    assert (await world.demo.get(path.replace("2020", "2200"))).status == 400
    assert (await world.demo.get(path.replace("2020-01-01T00:00:00", "soon"))).status == 400

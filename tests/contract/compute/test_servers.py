# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from typing import Any

import pytest

from tests.contract.compute.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOWHERE = "11111111-1111-4111-8111-111111111111"

# ---- create


async def test_create_answers_202_with_location_and_password(world: World) -> None:
    reply = await world.demo.post("/servers", world.body(name="new"))
    assert reply.status == 202
    server = reply.json["server"]
    assert set(server) == {"id", "links", "OS-DCF:diskConfig", "security_groups", "adminPass"}
    assert server["security_groups"] == [{"name": "default"}]
    assert re.fullmatch(r"[A-Za-z0-9]{12}", server["adminPass"])
    assert reply.headers["location"] == f"http://localhost/compute/v2.1/servers/{server['id']}"
    assert {link["rel"] for link in server["links"]} == {"self", "bookmark"}
    await world.demo.until(server["id"], "ACTIVE")
    await world.demo.gone(server["id"])


async def test_a_new_server_becomes_active_with_addresses(world: World, kept: dict[str, Any]) -> None:
    assert kept["OS-EXT-STS:vm_state"] == "active"
    assert kept["OS-EXT-STS:power_state"] == 1
    (address,) = kept["addresses"]["private"]
    assert (address["version"], address["OS-EXT-IPS:type"]) == (4, "fixed")
    assert kept["OS-EXT-AZ:availability_zone"] == "nova"
    assert kept["flavor"]["original_name"] == "m1.nano"
    assert kept["image"]["id"] == world.image
    assert kept["hostId"]
    assert kept["OS-SRV-USG:launched_at"]


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"flavorRef": "none"}, 400, "Flavor none could not be found."),
        ({"imageRef": NOWHERE}, 400, "Can not find requested image"),
        ({"imageRef": ""}, 400, "Missing imageRef attribute"),
        ({"imageRef": "not-an-id"}, 400, "imageRef"),
        ({"name": ""}, 400, "name"),
        ({"name": " padded"}, 400, "name"),
        ({"name": "x" * 256}, 400, "name"),
        ({"colour": "red"}, 400, "Additional properties are not allowed ('colour' was unexpected)"),
        ({"key_name": "nobody-has-it"}, 400, "Invalid key_name provided."),
        ({"networks": None}, 400, "networks"),
        ({"networks": [{"uuid": NOWHERE}]}, 400, f"Network {NOWHERE} could not be found."),
        ({"networks": [{"port": NOWHERE}]}, 400, f"Port id {NOWHERE} could not be found."),
        ({"networks": [{}]}, 400, "Bad network format: missing uuid"),
        ({"networks": "some"}, 400, "networks"),
        ({"security_groups": [{"name": "nothing"}]}, 400, "Security group nothing not found."),
        ({"availability_zone": "elsewhere"}, 400, "The requested availability zone is not available"),
        ({"availability_zone": "a:b:c:d"}, 400, "Unable to parse availability_zone"),
        ({"min_count": 3, "max_count": 2}, 400, "min_count must be <= max_count"),
        ({"min_count": 0}, 400, "min_count"),
        ({"user_data": "%%%"}, 400, "user_data"),
        ({"metadata": {"k" * 256: "v"}}, 400, "metadata"),
        ({"metadata": {f"k{i}": "v" for i in range(129)}}, 403, "Maximum number of metadata items exceeds 128"),
        ({"tags": ["a,b"]}, 400, "tags"),
        ({"accessIPv4": "::1"}, 400, "accessIPv4"),
        ({"personality": []}, 400, "personality"),
        ({"hostname": "one", "min_count": 2}, 400, "Unable to allocate a single hostname to multiple instances"),
        ({"availability_zone": "nova:node-1"}, 403, "os_compute_api:servers:create:forced_host"),
        ({"host": "node-1"}, 403, "compute:servers:create:requested_destination"),
    ],
)
async def test_a_refused_create_writes_nothing(world: World, changes: dict[str, Any], status: int, text: str) -> None:
    before = (await world.demo.get("/limits")).json["limits"]["absolute"]["totalInstancesUsed"]
    reply = await world.demo.post("/servers", world.body(name=changes.pop("name", "refused"), **changes))
    assert (reply.status, text in reply.data.decode()) == (status, True), reply.data
    assert (await world.demo.get("/servers?name=refused")).json["servers"] == []
    assert (await world.demo.get("/limits")).json["limits"]["absolute"]["totalInstancesUsed"] == before


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        ([{"source_type": "blank", "destination_type": "volume", "boot_index": 0}], "non-zero size"),
        ([{"source_type": "blank", "uuid": NOWHERE, "boot_index": 0}], "Invalid device UUID."),
        ([{"source_type": "image", "boot_index": 0}], "Missing device UUID."),
        ([{"source_type": "volume", "uuid": NOWHERE, "boot_index": 0}], f"failed to get volume {NOWHERE}"),
        ([{"source_type": "snapshot", "uuid": NOWHERE, "boot_index": 0}], f"failed to get snapshot {NOWHERE}"),
        ([{"source_type": "volume", "uuid": NOWHERE, "boot_index": -1}], "Boot sequence"),
        ([{"source_type": "volume", "destination_type": "local", "uuid": NOWHERE}], "is not supported"),
        ([{"source_type": "cloud"}], "source_type"),
    ],
)
async def test_impossible_block_devices_are_refused(world: World, devices: list[dict[str, Any]], text: str) -> None:
    reply = await world.demo.post("/servers", world.body(imageRef="", block_device_mapping_v2=devices))
    assert (reply.status, text in reply.data.decode()) == (400, True), reply.data


async def test_both_device_syntaxes_at_once_are_refused(world: World) -> None:
    body = world.body(
        block_device_mapping=[{"volume_id": NOWHERE, "device_name": "vda"}],
        block_device_mapping_v2=[{"source_type": "volume", "uuid": NOWHERE}],
    )
    reply = await world.demo.post("/servers", body)
    assert reply.status == 400
    assert "Using different block_device_mapping syntaxes" in reply.json["badRequest"]["message"]


@pytest.mark.parametrize(
    ("version", "changes", "accepted"),
    [
        ("2.18", {"description": "d"}, False),
        ("2.19", {"description": "d"}, True),
        ("2.36", {"networks": None}, True),
        ("2.37", {"networks": None}, False),
        ("2.37", {"networks": "none"}, True),
        ("2.36", {"networks": "none"}, False),
        ("2.51", {"tags": ["a"]}, False),
        ("2.52", {"tags": ["a"]}, True),
        ("2.56", {"personality": [{"path": "/a", "contents": "aGk="}]}, True),
        ("2.57", {"personality": []}, False),
        ("2.41", {"nic_tag": "a"}, False),
        ("2.42", {"nic_tag": "a"}, True),
        ("2.32", {"nic_tag": "a"}, True),
        ("2.89", {"hostname": "box"}, False),
        ("2.90", {"hostname": "box"}, True),
        ("2.93", {"hostname": "box.example.org"}, False),
        ("2.94", {"hostname": "box.example.org"}, True),
    ],
)
async def test_members_exist_from_their_version_on(
    world: World, version: str, changes: dict[str, Any], accepted: bool
) -> None:
    if (tag := changes.pop("nic_tag", None)) is not None:
        changes["networks"] = [{"uuid": world.network, "tag": tag}]
    reply = await world.demo.at(version).post("/servers", world.body(name="versioned", **changes))
    assert reply.status == (202 if accepted else 400), reply.data
    if accepted:
        await world.demo.gone(reply.json["server"]["id"])


async def test_several_servers_come_under_one_reservation(world: World) -> None:
    reply = await world.demo.post("/servers", world.body(name="many", min_count=2, return_reservation_id=True))
    assert reply.status == 202
    assert list(reply.json) == ["reservation_id"]
    reservation = reply.json["reservation_id"]
    listed = (await world.admin.get(f"/servers/detail?all_tenants=1&reservation_id={reservation}")).json["servers"]
    assert sorted(one["name"] for one in listed) == ["many-1", "many-2"]
    assert len({one["OS-EXT-SRV-ATTR:launch_index"] for one in listed}) == 2
    for one in listed:
        await world.demo.gone(one["id"])


async def test_quota_says_what_how_much_and_of_how_many(world: World) -> None:
    other = world.other
    await world.admin.put(f"/os-quota-sets/{other.project_id}", {"quota_set": {"instances": 1}})
    network = await _network_of(world, other.token)
    server_id = await world.create(other, name="only", imageRef=await _image_of(world), networks=network)
    reply = await other.post("/servers", world.body(name="second", imageRef=await _image_of(world), networks=network))
    assert reply.status == 403
    assert reply.json["forbidden"]["message"] == (
        "Quota exceeded for instances: Requested 1, but already used 1 of 1 instances"
    )
    await other.gone(server_id)
    assert (await other.get("/limits")).json["limits"]["absolute"]["totalInstancesUsed"] == 0
    await world.admin.delete(f"/os-quota-sets/{other.project_id}")


async def _network_of(world: World, token: str | None) -> Any:
    return "none"


async def _image_of(world: World) -> str:
    change = [{"op": "replace", "path": "/visibility", "value": "public"}]
    headers = {"content-type": "application/openstack-images-v2.1-json-patch"}
    path = f"/image/v2/images/{world.image}"
    reply = await world.cloud.request("PATCH", path, change, token=world.admin.token, headers=headers)
    assert reply.status == 200, reply.data
    return world.image


async def test_a_user_may_bring_a_port(world: World) -> None:
    body = {"port": {"network_id": world.network, "name": "mine"}}
    port = (await world.cloud.request("POST", "/network/v2.0/ports", body, token=world.demo.token)).json["port"]
    server = await world.active(name="ported", networks=[{"port": port["id"]}])
    assert server["addresses"]["private"][0]["addr"] == port["fixed_ips"][0]["ip_address"]
    taken = await world.demo.post("/servers", world.body(networks=[{"port": port["id"]}]))
    assert taken.status == 409
    assert taken.json["conflictingRequest"]["message"] == f"Port {port['id']} is still in use."
    await world.demo.gone(server["id"])
    left = await world.cloud.request("GET", f"/network/v2.0/ports/{port['id']}", token=world.demo.token)
    assert (left.status, left.json["port"]["device_id"]) == (200, "")
    await world.cloud.request("DELETE", f"/network/v2.0/ports/{port['id']}", token=world.demo.token)


async def test_an_admin_may_force_a_host(world: World) -> None:
    body = {**world.body(name="forced", availability_zone="nova:node-1", networks="none")}
    reply = await world.admin.post("/servers", body)
    assert reply.status == 202, reply.data
    server = await world.admin.until(reply.json["server"]["id"], "ACTIVE")
    assert server["OS-EXT-SRV-ATTR:host"] == "node-1"
    await world.admin.gone(server["id"])


# ---- show

SINCE = [
    ("2.3", "OS-EXT-SRV-ATTR:user_data", "admin"),
    ("2.9", "locked", "demo"),
    ("2.16", "host_status", "admin"),
    ("2.19", "description", "demo"),
    ("2.26", "tags", "demo"),
    ("2.63", "trusted_image_certificates", "demo"),
    ("2.71", "server_groups", "demo"),
    ("2.73", "locked_reason", "demo"),
    ("2.90", "OS-EXT-SRV-ATTR:hostname", "demo"),
    ("2.96", "pinned_availability_zone", "demo"),
    ("2.100", "scheduler_hints", "demo"),
]


@pytest.mark.parametrize(("version", "member", "who"), SINCE)
async def test_a_member_is_shown_from_its_version_on(
    world: World, kept: dict[str, Any], version: str, member: str, who: str
) -> None:
    caller = world.admin if who == "admin" else world.demo
    before = f"2.{int(version.split('.')[1]) - 1}"
    assert member not in (await caller.at(before).show(kept["id"]))
    assert member in (await caller.at(version).show(kept["id"]))


async def test_the_flavor_is_a_link_until_2_46_and_a_copy_from_2_47(world: World, kept: dict[str, Any]) -> None:
    assert (await world.demo.at("2.46").show(kept["id"]))["flavor"]["id"] == "42"
    copy = (await world.demo.at("2.47").show(kept["id"]))["flavor"]
    assert copy == {
        "vcpus": 1, "ram": 128, "disk": 1, "ephemeral": 0, "swap": 0, "original_name": "m1.nano", "extra_specs": {},
    }  # fmt: skip


async def test_hosts_are_for_admins(world: World, kept: dict[str, Any]) -> None:
    assert not {name for name in kept if name.startswith("OS-EXT-SRV-ATTR")} - {"OS-EXT-SRV-ATTR:hostname"}
    seen = await world.admin.show(kept["id"])
    assert seen["OS-EXT-SRV-ATTR:host"] == "node-1"
    assert re.fullmatch(r"instance-[0-9a-f]{8}", seen["OS-EXT-SRV-ATTR:instance_name"])
    assert seen["host_status"] == "UP"


async def test_a_server_of_another_project_is_not_there(world: World, kept: dict[str, Any]) -> None:
    reply = await world.other.get(f"/servers/{kept['id']}")
    assert reply.status == 404
    assert reply.json["itemNotFound"]["message"] == f"Instance {kept['id']} could not be found."


async def test_a_reader_sees_and_changes_nothing(world: World, kept: dict[str, Any]) -> None:
    assert (await world.reader.show(kept["id"]))["name"] == "kept"
    reply = await world.reader.post("/servers", world.body())
    assert reply.status == 403
    assert reply.json["forbidden"]["message"] == (
        "Policy doesn't allow os_compute_api:servers:create to be performed."
    )  # fmt: skip
    assert (await world.reader.delete(f"/servers/{kept['id']}")).status == 403


# ---- change and delete


async def test_put_changes_what_needs_no_host(world: World) -> None:
    server_id = await world.create(name="old")
    await world.demo.until(server_id, "ACTIVE")
    change = {"name": "new", "description": None, "accessIPv6": "0:0::babe", "hostname": "box.example.org"}
    reply = await world.demo.put(f"/servers/{server_id}", {"server": change})
    assert reply.status == 200
    server = reply.json["server"]
    assert (server["name"], server["accessIPv6"], server["OS-EXT-SRV-ATTR:hostname"]) == (
        "new", "::babe", "box.example.org",
    )  # fmt: skip
    old = (await world.demo.at("2.74").put(f"/servers/{server_id}", {"server": {"name": "newer"}})).json["server"]
    assert "key_name" not in old
    assert old["name"] == "newer"
    assert (await world.demo.put(f"/servers/{server_id}", {"server": {"status": "x"}})).status == 400
    await world.demo.gone(server_id)


async def test_a_zone_is_pinned_and_unpinned(world: World, kept: dict[str, Any]) -> None:
    path = f"/servers/{kept['id']}"

    async def pin(zone: str | None) -> int:
        return (await world.demo.put(path, {"server": {"pinned_availability_zone": zone}})).status

    assert await pin("elsewhere") == 409
    assert await pin("nova") == 200
    assert (await world.demo.show(kept["id"]))["pinned_availability_zone"] == "nova"
    assert await pin(None) == 200
    reply = await world.demo.at("2.103").put(path, {"server": {"pinned_availability_zone": None}})
    assert reply.status == 400


async def test_a_deleted_server_stays_as_a_tombstone(world: World) -> None:
    server_id = await world.create(name="mortal", networks="none")
    await world.demo.until(server_id, "ACTIVE")
    assert (await world.demo.delete(f"/servers/{server_id}")).status == 204
    await world.demo.gone(server_id)
    assert (await world.demo.delete(f"/servers/{server_id}")).status == 404
    changed = (await world.demo.get("/servers/detail?changes-since=2020-01-01T00:00:00Z&name=mortal")).json["servers"]
    assert [(one["id"], one["status"]) for one in changed] == [(server_id, "DELETED")]
    buried = (await world.admin.get("/servers?deleted=true&all_tenants=1&name=mortal")).json["servers"]
    assert [one["id"] for one in buried] == [server_id]
    actions = (await world.demo.get(f"/servers/{server_id}/os-instance-actions")).json["instanceActions"]
    assert [one["action"] for one in actions] == ["delete", "create"]
    assert (await world.demo.at("2.20").get(f"/servers/{server_id}/os-instance-actions")).status == 404


async def test_delete_is_accepted_while_building(world: World) -> None:
    server_id = await world.create(name="hasty")
    assert (await world.demo.delete(f"/servers/{server_id}")).status == 204
    await world.demo.gone(server_id)
    used = (
        await world.cloud.request("GET", f"/network/v2.0/ports?device_id={server_id}", token=world.admin.token)
    ).json
    assert used["ports"] == []

# SPDX-License-Identifier: Apache-2.0
"""What the user of a joined host may do by itself: what its agents need, for its own host, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from cumulet.insight.check.facts import SOURCES
from cumulet.placement.api import ROUTES
from tests.cloud import Reply
from tests.contract.insight.joining import World, joinable_cloud

pytestmark = pytest.mark.asyncio(loop_scope="session")
HOST = "edge"
SERVICES = {type_: type_ if type_ != "block-storage" else "volume" for type_ in SOURCES}
"""Catalogue type → where the front door has the service."""
RECOUNTED = ("/compute/v2.1", "/network/v2.0", "/volume/v3")


@dataclass
class Host:
    """The host, and a member of a project."""

    world: World
    token: str
    demo: str

    async def call(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Reply:
        return await self.world.cloud.request(method, path, body, token=token or self.token)

    async def made(self, path: str, body: Any, member: str = "") -> dict[str, Any]:
        """Something of the project's."""
        reply = await self.call("POST", path, body, token=self.demo)
        assert reply.status in (200, 201, 202), reply.data
        found: dict[str, Any] = reply.json[member] if member else reply.json
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    async with joinable_cloud(tmp_path_factory.mktemp("user")) as world:
        told = (await world.join(await world.token(), HOST)).json
        reply = await world.login(HOST, told["secrets"]["host"])
        yield Host(world, reply.headers["x-subject-token"], await world.cloud.login("demo"))


async def test_it_reads_a_private_image(host: Host) -> None:
    document = {"name": "i", "disk_format": "raw", "container_format": "bare", "visibility": "private"}
    image = await host.made("/image/v2/images", document)
    where = f"/image/v2/images/{image['id']}"
    octets = {"content-type": "application/octet-stream"}
    sent = await host.world.cloud.request("PUT", f"{where}/file", token=host.demo, headers=octets, body=b"x" * 512)
    assert sent.status == 204, sent.data
    assert (await host.call("GET", where)).json["id"] == image["id"]
    assert (await host.call("GET", f"{where}/file")).data == b"x" * 512
    assert (await host.call("DELETE", where)).status == 403
    change = [{"op": "replace", "path": "/name", "value": "stolen"}]
    patch = {"content-type": "application/openstack-images-v2.1-json-patch"}
    assert (await host.world.cloud.request("PATCH", where, change, token=host.token, headers=patch)).status == 403


async def test_it_connects_volumes_for_itself_only(host: Host) -> None:
    volume = await host.made("/volume/v3/volumes", {"volume": {"size": 1}}, "volume")
    where = f"/volume/v3/volumes/{volume['id']}"
    async with asyncio.timeout(60):
        while (await host.call("GET", where)).json["volume"]["status"] != "available":
            await asyncio.sleep(0.02)
    version = {"openstack-api-version": "volume 3.44"}

    async def volumes(method: str, path: str, body: Any = None) -> Reply:
        return await host.world.cloud.request(method, f"/volume/v3{path}", body, token=host.token, headers=version)

    wanted = {"volume_uuid": volume["id"], "instance_uuid": "3f1c1c52-6d0e-4d0e-9d43-0e9a3b7c2f10"}
    made = await volumes("POST", "/attachments", {"attachment": wanted})
    assert made.status == 200, made.data
    attachment = f"/attachments/{made.json['attachment']['id']}"
    other = await volumes("PUT", attachment, {"attachment": {"connector": {"host": "node-1"}}})
    assert (other.status, "another host" in other.data.decode()) == (403, True)
    assert (await volumes("PUT", attachment, {"attachment": {"connector": {"host": HOST}}})).status == 200
    assert (await volumes("DELETE", f"/volumes/{volume['id']}")).status == 403
    assert (
        await volumes("POST", f"/volumes/{volume['id']}/action", {"os-reset_status": {"status": "error"}})
    ).status == 403


async def test_it_binds_guests_ports_to_itself_only(host: Host) -> None:
    network = await host.made("/network/v2.0/networks", {"network": {"name": "n"}}, "network")
    await host.made(
        "/network/v2.0/subnets",
        {"subnet": {"network_id": network["id"], "cidr": "10.79.0.0/24", "ip_version": 4}}, "subnet",
    )  # fmt: skip
    port = await host.made("/network/v2.0/ports", {"port": {"network_id": network["id"]}}, "port")
    where = f"/network/v2.0/ports/{port['id']}"
    own = {"binding:host_id": HOST, "device_id": "d", "device_owner": "compute:nova"}
    assert (await host.call("PUT", where, {"port": {**own, "binding:host_id": "node-1"}})).status == 403
    assert (await host.call("PUT", where, {"port": {**own, "device_owner": "network:dhcp"}})).status == 403
    bound = await host.call("PUT", where, {"port": own})
    assert (bound.status, bound.json["port"]["binding:host_id"]) == (200, HOST)
    spoof = {"network_id": network["id"], "device_owner": "network:dhcp", "binding:host_id": HOST}
    assert (await host.call("POST", "/network/v2.0/ports", {"port": spoof})).status == 403
    moved = await host.call("PUT", where, {"port": {"binding:host_id": "node-1"}}, token=host.world.admin)
    assert moved.status == 200
    assert (await host.call("PUT", where, {"port": own})).status == 403, "it is another host's now"
    assert (await host.call("DELETE", where)).status == 403
    assert (await host.call("DELETE", f"/network/v2.0/networks/{network['id']}")).status in (403, 404)


INVENTORY = {"VCPU": {"total": 8, "max_unit": 8}}


async def placement(host: Host, method: str, path: str, body: Any = None, *, admin: bool = False) -> Reply:
    token = host.world.admin if admin else host.token
    version = {"openstack-api-version": "placement 1.39"}
    return await host.world.cloud.request(method, f"/placement{path}", body, token=token, headers=version)


async def test_it_offers_what_it_has_itself_and_nothing_else(host: Host) -> None:
    made = await placement(host, "POST", "/resource_providers", {"name": HOST})
    assert made.status == 200, made.data
    mine = f"/resource_providers/{made.json['uuid']}"
    full = {"resource_provider_generation": 0, "inventories": INVENTORY}
    set_ = await placement(host, "PUT", f"{mine}/inventories", full)
    assert set_.status == 200, set_.data
    traits = {"resource_provider_generation": 1, "traits": ["COMPUTE_NODE"]}
    assert (await placement(host, "PUT", f"{mine}/traits", traits)).status == 200
    assert (await placement(host, "PUT", mine, {"name": HOST})).status == 200
    assert (await placement(host, "GET", f"{mine}/inventories")).json["inventories"]["VCPU"]["total"] == 8
    other = (await placement(host, "GET", "/resource_providers?name=node-1")).json["resource_providers"][0]
    theirs = f"/resource_providers/{other['uuid']}"
    before = (await placement(host, "GET", f"{theirs}/inventories")).json
    generation = {"resource_provider_generation": before["resource_provider_generation"]}
    server = "3f1c1c52-6d0e-4d0e-9d43-0e9a3b7c2f11"
    claim = {
        "allocations": {made.json["uuid"]: {"resources": {"VCPU": 1}}}, "project_id": "p", "user_id": "u",
        "consumer_generation": None, "consumer_type": "INSTANCE",
    }  # fmt: skip
    for method, path, body in [
        ("PUT", f"{theirs}/inventories", {**generation, "inventories": {}}), ("PUT", theirs, {"name": HOST}),
        ("PUT", f"{theirs}/traits", {**generation, "traits": []}), ("PUT", mine, {"name": "node-1"}),
        ("PUT", mine, {"name": HOST, "parent_provider_uuid": other["uuid"]}),
        ("PUT", mine, {"name": ["node-1"]}), ("POST", "/resource_providers", {"name": "another"}),
        ("POST", "/resource_providers", {"name": HOST, "parent_provider_uuid": other["uuid"]}),
        ("DELETE", theirs, None), ("DELETE", mine, None), ("DELETE", f"{theirs}/inventories", None),
        ("DELETE", f"{theirs}/traits", None), ("DELETE", f"{theirs}/inventories/VCPU", None),
        ("PUT", f"{theirs}/inventories/VCPU", {**generation, "total": 1}),
        ("POST", f"{theirs}/inventories", {"resource_class": "IPV4_ADDRESS", "total": 1}),
        ("PUT", f"{theirs}/aggregates", {**generation, "aggregates": []}),
        ("PUT", f"/allocations/{server}", claim), ("DELETE", f"/allocations/{server}", None),
        ("POST", "/allocations", {server: claim}), ("POST", "/reshaper", {}), ("PUT", "/traits/CUSTOM_X", None),
        ("PUT", "/resource_classes/CUSTOM_X", None),
    ]:  # fmt: skip
        reply = await placement(host, method, path, body)
        assert reply.status == 403, (method, path, reply.data)
    assert (await placement(host, "GET", f"{theirs}/inventories")).json == before
    assert (await placement(host, "PUT", f"/allocations/{server}", claim, admin=True)).status == 204
    assert (await placement(host, "DELETE", f"/allocations/{server}")).status == 403
    assert (await placement(host, "DELETE", f"/allocations/{server}", admin=True)).status == 204


async def test_every_route_that_changes_placement_is_closed_to_hosts() -> None:
    assert [route.at for route in ROUTES if route.method != "GET" and route.target is None] == []


async def test_its_events_are_about_its_own_servers_only(host: Host) -> None:
    flavor = (await host.call("GET", "/compute/v2.1/flavors", token=host.demo)).json["flavors"][0]["id"]
    volume = {"boot_index": 0, "source_type": "blank", "destination_type": "volume", "volume_size": 1}
    wanted = {"name": "s", "flavorRef": flavor, "networks": "none", "imageRef": "", "block_device_mapping_v2": [volume]}
    version = {"openstack-api-version": "compute 2.90"}
    reply = await host.world.cloud.request(
        "POST", "/compute/v2.1/servers", {"server": wanted}, token=host.demo, headers=version
    )
    assert reply.status == 202, reply.data
    server = reply.json["server"]["id"]
    async with asyncio.timeout(60):
        while not (await host.call("GET", f"/compute/v2.1/servers/{server}", token=host.world.admin)).json["server"][
            "OS-EXT-SRV-ATTR:host"
        ]:
            await asyncio.sleep(0.02)
    events = {"events": [{"name": "network-changed", "server_uuid": server}]}
    told = await host.call("POST", "/compute/v2.1/os-server-external-events", events)
    assert (told.status, told.json["events"][0]["code"]) == (207, 404), told.data
    told = await host.call("POST", "/compute/v2.1/os-server-external-events", events, token=host.world.admin)
    assert (told.status, told.json["events"][0]["code"]) == (200, 200), told.data


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/compute/v2.1/os-services"), ("GET", "/compute/v2.1/os-hypervisors"), ("GET", "/identity/v3/users"),
        ("GET", "/identity/v3/projects"), ("GET", "/cumulet/v1/roles"), ("DELETE", "/cumulet/v1/hosts/node-1"),
        ("GET", "/volume/v3/cumulet/hosts/node-1"), ("GET", "/volume/v3/os-services"),
        *(("GET", f"/{service}{SOURCES[type_]}") for type_, service in SERVICES.items()),
    ],
)  # fmt: skip
async def test_it_is_no_administrator(host: Host, method: str, path: str) -> None:
    assert (await host.call(method, path)).status == 403


@pytest.mark.parametrize("prefix", RECOUNTED)
async def test_a_count_is_the_checker_s_and_makes_no_rows(host: Host, prefix: str) -> None:
    path, junk = f"{prefix}/cumulet/recount", {"project_id": "junk0", "resource": "junk"}
    assert (await host.call("POST", path, junk)).status == 403
    assert (await host.call("POST", path, junk, token=host.world.admin)).status == 204
    told = await host.call("GET", f"{prefix}/cumulet/owned?kind=usage", token=host.world.admin)
    assert not [one for one in told.json["owned"] if one["project_id"] == "junk0"]

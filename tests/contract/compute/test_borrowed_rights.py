# SPDX-License-Identifier: Apache-2.0
"""A service's own rights serve what was accepted, and never decide what somebody asks for."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
import pytest_asyncio

from cumulet.client.session import ServiceSession
from cumulet.client.transport import LocalTransport
from cumulet.compute.metadata.app import signature
from cumulet.compute.models import SERVERS
from cumulet.kernel.secrets import derive
from tests.cloud import PASSWORD, Reply
from tests.contract.compute.conftest import DEADLINE, Caller, World, new_image

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def again(caller: Caller, user: str) -> Caller:
    """The same user with a new token of its own, which a test may revoke."""
    named = {"name": user, "domain": {"id": "default"}, "password": PASSWORD}
    auth = {
        "identity": {"methods": ["password"], "password": {"user": named}},
        "scope": {"project": {"id": caller.project_id}},
    }
    reply = await caller.cloud.request("POST", "/identity/v3/auth/tokens", {"auth": auth})
    return replace(caller, token=reply.headers["x-subject-token"])


async def log_out(caller: Caller) -> None:
    headers = {"x-subject-token": caller.token or ""}
    reply = await caller.cloud.request("DELETE", "/identity/v3/auth/tokens", token=caller.token, headers=headers)
    assert reply.status == 204
    async with asyncio.timeout(60):  # other processes hear of it within a second
        while (await caller.get("/servers")).status != 401:
            await asyncio.sleep(0.05)


async def post_and_log_out(caller: Caller, path: str, json: Any) -> Reply:
    """A request whose sender logs out after its head and the first bytes of its body."""
    data = orjson.dumps(json)

    async def body() -> AsyncIterator[bytes]:
        yield data[:5]
        await log_out(caller)
        yield data[5:]

    headers = {
        "x-auth-token": caller.token or "", "content-type": "application/json", "content-length": str(len(data)),
        "openstack-api-version": f"compute {caller.version}",
    }  # fmt: skip
    front = LocalTransport(caller.cloud.cloud.front, "", "front")
    reply = await front.send("POST", f"/compute/v2.1{path}", headers, body())
    return Reply(reply.status, reply.headers, await reply.read())


@pytest_asyncio.fixture(loop_scope="session")
async def private_network(world: World) -> AsyncIterator[str]:
    """A network of demo's project."""
    cloud, token = world.cloud, world.demo.token
    made = await cloud.request("POST", "/network/v2.0/networks", {"network": {"name": "private"}}, token=token)
    network_id = str(made.json["network"]["id"])
    subnet = {"network_id": network_id, "ip_version": 4, "cidr": "10.99.0.0/24"}
    assert (await cloud.request("POST", "/network/v2.0/subnets", {"subnet": subnet}, token=token)).status == 201
    yield network_id
    await cloud.request("DELETE", f"/network/v2.0/networks/{network_id}", token=token)


async def test_who_logs_out_in_the_middle_gets_no_network_of_others(world: World, private_network: str) -> None:
    image = await new_image(world.cloud, world.other.token)
    body = world.body(imageRef=image, networks=[{"uuid": private_network}])
    assert (await world.other.post("/servers", body)).status == 400
    thief = await again(world.other, "alt_demo")
    assert (await post_and_log_out(thief, "/servers", body)).status == 401
    assert (await world.other.get("/servers")).json["servers"] == []


async def test_nor_a_volume_of_others(world: World) -> None:
    cloud = world.cloud
    made = await cloud.request("POST", "/volume/v3/volumes", {"volume": {"size": 1}}, token=world.demo.token)
    volume_id = made.json["volume"]["id"]
    image = await new_image(cloud, world.other.token)
    server = await world.active(world.other, imageRef=image, networks="none")
    path, body = f"/servers/{server['id']}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume_id}}
    assert (await world.other.post(path, body)).status == 404
    thief = await again(world.other, "alt_demo")
    assert (await post_and_log_out(thief, path, body)).status == 401
    await world.other.gone(server["id"])
    seen = (await cloud.request("GET", f"/volume/v3/volumes/{volume_id}", token=world.demo.token)).json["volume"]
    assert seen["attachments"] == []


async def test_a_volume_made_after_its_owner_logged_out_is_the_owners(world: World) -> None:
    leaver = await again(world.demo, "demo")
    disk = {
        "boot_index": 0, "uuid": world.image, "source_type": "image", "destination_type": "volume", "volume_size": 1,
    }  # fmt: skip
    server_id = await world.create(leaver, imageRef=None, networks="none", block_device_mapping_v2=[disk])
    await log_out(leaver)
    server = await world.demo.until(server_id, "ACTIVE")
    volume_id = server["os-extended-volumes:volumes_attached"][0]["id"]
    shown = await world.cloud.request("GET", f"/volume/v3/volumes/{volume_id}", token=world.demo.token)
    volume = shown.json["volume"]
    assert volume["os-vol-tenant-attr:tenant_id"] == world.demo.project_id
    assert volume["user_id"] == world.demo.user_id
    await world.demo.gone(server_id)


@pytest_asyncio.fixture(loop_scope="session")
async def edge(world: World) -> AsyncIterator[Any]:
    """The agent of the host as that of a joined one: it asks as a user with no role but ``service``."""
    cloud, admin = world.cloud, world.admin.token
    agent: Any = next(r for r in cloud.cloud.services["compute"].roles if r.name == "compute-agent").tasks[0]
    name = f"cumulet-host+{agent.tools.host}"
    user = {"user": {"name": name, "password": PASSWORD, "domain_id": "default"}}
    user_id = (await cloud.request("POST", "/identity/v3/users", user, token=admin)).json["user"]["id"]
    role = (await cloud.request("GET", "/identity/v3/roles?name=service", token=admin)).json["roles"][0]["id"]
    path = f"/identity/v3/projects/{world.service.project_id}/users/{user_id}/roles/{role}"
    assert (await cloud.request("PUT", path, token=admin)).status == 204
    clients = (agent.tools.image, agent.tools.network, agent.tools.volume)
    own = clients[0]._session
    joined = ServiceSession(own._transport, name, PASSWORD)
    for client in clients:
        client._session = joined
    yield agent
    for client in clients:
        client._session = own
    assert (await cloud.request("DELETE", f"/identity/v3/users/{user_id}", token=admin)).status == 204


async def test_a_joined_host_builds_with_new_volumes_after_the_user_logged_out(
    world: World, edge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaver = await again(world.demo, "demo")
    cloud, go, real = world.cloud, asyncio.Event(), edge._build

    async def held(order: Any) -> None:
        await go.wait()
        await real(order)

    monkeypatch.setattr(edge, "_build", held)
    made = await cloud.request("POST", "/volume/v3/volumes", {"volume": {"size": 1}}, token=leaver.token)
    first = f"/volume/v3/volumes/{made.json['volume']['id']}"
    async with asyncio.timeout(DEADLINE):
        while (await cloud.request("GET", first, token=leaver.token)).json["volume"]["status"] != "available":
            await asyncio.sleep(0.02)
    taken = {"snapshot": {"volume_id": made.json["volume"]["id"]}}
    snapshot = (await cloud.request("POST", "/volume/v3/snapshots", taken, token=leaver.token)).json["snapshot"]
    new = {"destination_type": "volume", "volume_size": 1, "delete_on_termination": True}
    disks = [
        {**new, "boot_index": 0, "source_type": "image", "uuid": world.image},
        {**new, "source_type": "snapshot", "uuid": snapshot["id"]}, {**new, "source_type": "blank"},
    ]  # fmt: skip
    second = f"/volume/v3/snapshots/{snapshot['id']}"
    async with asyncio.timeout(DEADLINE):
        while (await cloud.request("GET", second, token=leaver.token)).json["snapshot"]["status"] != "available":
            await asyncio.sleep(0.02)
    server_id = await world.create(leaver, imageRef=None, networks="none", block_device_mapping_v2=disks)
    await log_out(leaver)
    go.set()
    server = await world.demo.until(server_id, "ACTIVE")
    attached = [one["id"] for one in server["os-extended-volumes:volumes_attached"]]
    assert len(attached) == 3
    for volume_id in attached:
        shown = await cloud.request("GET", f"/volume/v3/volumes/{volume_id}", token=world.demo.token)
        volume = shown.json["volume"]
        owner = (volume["os-vol-tenant-attr:tenant_id"], volume["user_id"])
        assert owner == (world.demo.project_id, world.demo.user_id)
    listed = (await cloud.request("GET", "/volume/v3/volumes", token=world.demo.token)).json["volumes"]
    assert {one["id"] for one in listed} >= set(attached)
    await world.demo.gone(server_id)
    for path in (second, first):
        await cloud.request("DELETE", path, token=world.demo.token)


async def test_nor_does_its_image_of_a_server_fail(world: World, edge: Any) -> None:
    """The user logs out while the disk is copied: the image is described and sent all the same."""
    leaver = await again(world.demo, "demo")
    copying, go = asyncio.Event(), asyncio.Event()
    real = edge.tools.disks

    class Slow:
        async def copy_root(self, server_id: str, target: str) -> str:
            copying.set()
            await go.wait()
            return str(await real.copy_root(server_id, target))

    edge.tools.disks = Slow()
    try:
        server = await world.active(leaver, networks="none")
        image_id = (await leaver.act(server["id"], "createImage", {"name": "late"})).json["image_id"]
        await asyncio.wait_for(copying.wait(), DEADLINE)
        await log_out(leaver)
        go.set()
        await world.demo.until(server["id"], "ACTIVE")
        path = f"/image/v2/images/{image_id}"
        image = (await world.cloud.request("GET", path, token=world.demo.token)).json
        told = (image["status"], image["disk_format"], image["image_state"], image["owner"])
        assert told == ("active", "raw", "available", world.demo.project_id)
    finally:
        edge.tools.disks = real
    await world.demo.gone(server["id"])


async def test_only_a_service_says_whose_a_volume_is(world: World) -> None:
    body = {"volume": {"size": 1, "project_id": world.other.project_id}}
    for caller in (world.demo, world.admin):
        reply = await world.cloud.request("POST", "/volume/v3/volumes", body, token=caller.token)
        assert reply.status == 400
        assert "project_id" in reply.json["badRequest"]["message"]


async def test_a_port_of_another_project_makes_nobody_a_servers_guest(world: World) -> None:
    """``device_id`` is free text: metadata and addresses of a server go to ports of its project, or asked for."""
    cloud, token = world.cloud, world.other.token
    secret = base64.b64encode(b"SECRET=1").decode()
    victim = await world.active(networks="none", user_data=secret)
    network = (await cloud.request("POST", "/network/v2.0/networks", {"network": {}}, token=token)).json["network"]
    subnet = {
        "network_id": network["id"], "ip_version": 4, "cidr": "10.66.0.0/24",
        "allocation_pools": [{"start": "10.66.0.100", "end": "10.66.0.200"}],
    }  # fmt: skip
    assert (await cloud.request("POST", "/network/v2.0/subnets", {"subnet": subnet}, token=token)).status == 201
    port = {
        "network_id": network["id"], "device_id": victim["id"], "device_owner": "compute:nova",
        "fixed_ips": [{"ip_address": "10.66.0.50"}],
    }  # fmt: skip
    made = await cloud.request("POST", "/network/v2.0/ports", {"port": port}, token=token)
    assert made.status == 201
    moved = {"port": {"fixed_ips": [{"ip_address": "10.66.0.51"}]}}
    path = f"/network/v2.0/ports/{made.json['port']['id']}"
    assert (await cloud.request("PUT", path, moved, token=token)).status == 200  # compute is told to look
    own = {"network_id": world.network, "device_id": victim["id"]}
    mine = await cloud.request("POST", "/network/v2.0/ports", {"port": own}, token=world.demo.token)
    address = mine.json["port"]["fixed_ips"][0]["ip_address"]
    await cloud.request(
        "PUT", f"/network/v2.0/ports/{mine.json['port']['id']}", {"port": {"name": "x"}}, token=world.demo.token
    )
    event = {"events": [{"name": "network-changed", "server_uuid": victim["id"]}]}
    assert (await world.service.post("/os-server-external-events", event)).status == 200
    async with asyncio.timeout(60):
        while not (addresses := (await world.demo.show(victim["id"]))["addresses"]):
            await asyncio.sleep(0.02)
    shown = [one["addr"] for found in addresses.values() for one in found]
    assert shown == [address]
    assert await asked(world, network["id"], "10.66.0.51") == (404, b"")
    assert await asked(world, world.network, address) == (200, b"SECRET=1")
    for one in (made.json["port"]["id"], mine.json["port"]["id"]):
        await cloud.request("DELETE", f"/network/v2.0/ports/{one}", token=world.admin.token)
    await world.demo.gone(victim["id"])


async def asked(world: World, network_id: str, address: str, name: str = "user_data") -> tuple[int, bytes]:
    """What the metadata API tells a proxy of this network's host; the body of an answer with success only."""
    parts = world.cloud.cloud.parts
    host = parts.host
    signed = signature(derive(parts.secrets.get("metadata"), host), network_id, address)
    headers = {
        "x-forwarded-for": address, "x-neutron-network-id": network_id, "x-cumulet-host": host,
        "x-cumulet-signature": signed,
    }  # fmt: skip
    app = LocalTransport(parts.options["metadata_app"], "", "metadata")
    reply = await app.send("GET", f"/openstack/latest/{name}", headers)
    data = await reply.read()
    return reply.status, data if reply.status == 200 else b""


async def test_a_host_that_serves_a_network_is_looked_up_once(
    world: World, kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many guests ask at the same moment, all of them on other hosts than the network's DHCP server."""
    metadata: Any = world.cloud.cloud.parts.options["metadata_app"]
    compute = metadata._compute
    real, asked_for = compute.network.ports, []

    async def counted(**filters: Any) -> Any:
        asked_for.append(filters)
        return await real(**filters)

    async def moved(host: str) -> None:
        async def body(tx: Any) -> None:
            await tx.run(SERVERS.update().where(SERVERS.c.id == kept["id"]).values(host=host))

        await compute.db.run(body)

    address = next(one["addr"] for found in kept["addresses"].values() for one in found)
    metadata._served.clear()
    monkeypatch.setattr(compute.network, "ports", counted)
    await moved("elsewhere")
    try:
        answers = await asyncio.gather(*(asked(world, world.network, address, "meta_data.json") for _ in range(5)))
    finally:
        await moved(world.cloud.cloud.parts.host)
    assert [status for status, _ in answers] == [200] * 5
    assert [one["network_id"] for one in asked_for] == [world.network]
    owners = {port.device_owner for port in await real(**asked_for[0])}
    assert "network:dhcp" in owners
    assert owners <= {"network:dhcp", "network:router_interface"}


async def test_no_more_servers_are_named_than_fit(world: World) -> None:
    """``max_count`` is what may be, not what will: nothing is made of it before quota has spoken."""
    quota = f"/os-quota-sets/{world.other.project_id}"
    body = world.body(imageRef=await new_image(world.cloud, world.other.token), networks="none")
    assert (await world.admin.put(quota, {"quota_set": {"instances": 2}})).status == 200
    body["server"] |= {"min_count": 1, "max_count": 10**12, "return_reservation_id": True}
    reply = await world.other.post("/servers", body)
    assert reply.status == 202, reply.data
    made = (await world.other.get(f"/servers?reservation_id={reply.json['reservation_id']}")).json["servers"]
    assert len(made) == 2
    for one in made:
        await world.other.gone(one["id"])
    unlimited = dict.fromkeys(("instances", "cores", "ram"), -1)
    assert (await world.admin.put(quota, {"quota_set": unlimited})).status == 200
    body["server"]["min_count"] = 1001
    reply = await world.other.post("/servers", body)
    told = "No more than 1000 servers can be created by one request."
    assert (reply.status, reply.json) == (400, {"badRequest": {"code": 400, "message": told}})
    assert (await world.admin.delete(quota)).status == 202

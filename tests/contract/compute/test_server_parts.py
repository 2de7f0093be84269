# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from tests.contract.compute.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(world: World) -> AsyncIterator[dict[str, Any]]:
    made = await world.active(name="parted")
    yield made
    await world.demo.gone(made["id"])


async def test_metadata(world: World, server: dict[str, Any]) -> None:
    demo, path = world.demo, f"/servers/{server['id']}/metadata"
    assert (await demo.put(path, {"metadata": {"a": "1"}})).json == {"metadata": {"a": "1"}}
    assert (await demo.post(path, {"metadata": {"b": "2"}})).json == {"metadata": {"a": "1", "b": "2"}}
    assert (await demo.put(f"{path}/a", {"meta": {"a": "3"}})).json == {"meta": {"a": "3"}}
    assert (await demo.get(f"{path}/a")).json == {"meta": {"a": "3"}}
    assert (await demo.get(path)).json == {"metadata": {"a": "3", "b": "2"}}
    deleted = await demo.delete(f"{path}/b")
    assert (deleted.status, deleted.data) == (204, b"")
    assert (await demo.delete(f"{path}/b")).status == 404
    missing = await demo.get(f"{path}/b")
    assert (missing.status, missing.json["itemNotFound"]["message"]) == (404, "Metadata item was not found")
    mismatch = await demo.put(f"{path}/a", {"meta": {"b": "3"}})
    assert (mismatch.status, mismatch.json["badRequest"]["message"]) == (400, "Request body and URI mismatch")
    assert (await demo.put(f"{path}/a", {"meta": {}})).status == 400
    assert (await demo.post(path, {"metadata": {"a": None}})).status == 400
    too_many = await demo.post(path, {"metadata": {f"k{i}": "" for i in range(130)}})
    assert (too_many.status, too_many.json["forbidden"]["message"]) == (
        403, "Maximum number of metadata items exceeds 128",
    )  # fmt: skip
    assert (await world.reader.put(path, {"metadata": {}})).status == 403


async def test_tags(world: World, server: dict[str, Any]) -> None:
    demo, path = world.demo, f"/servers/{server['id']}/tags"
    assert (await demo.put(path, {"tags": ["b", "a", "a"]})).json == {"tags": ["a", "b"]}
    new = await demo.put(f"{path}/c")
    assert (new.status, new.headers["location"]) == (201, f"http://localhost/compute/v2.1{path}/c")
    assert (await demo.put(f"{path}/c")).status == 204
    assert (await demo.get(path)).json == {"tags": ["a", "b", "c"]}
    assert (await demo.get(f"{path}/c")).status == 204
    assert (await demo.delete(f"{path}/c")).status == 204
    gone = await demo.delete(f"{path}/c")
    assert (gone.status, gone.json["itemNotFound"]["message"]) == (404, f"Server {server['id']} has no tag 'c'")
    assert (await demo.put(f"{path}/x%2Cy")).status == 400
    assert (await demo.put(path, {"tags": [f"t{i}" for i in range(51)]})).status == 400
    assert (await demo.put(path, {"tags": [f"t{i}" for i in range(50)]})).status == 200
    full = await demo.put(f"{path}/one-more")
    assert "exceeded the per-server limit 50" in full.json["badRequest"]["message"]
    assert (await demo.delete(path)).status == 204
    assert (await demo.get(path)).json == {"tags": []}
    assert (await demo.at("2.25").get(path)).status == 404
    assert (await world.reader.delete(path)).status == 403


async def test_addresses(world: World, server: dict[str, Any]) -> None:
    (address,) = server["addresses"]["private"]
    plain = {"version": 4, "addr": address["addr"]}
    path = f"/servers/{server['id']}/ips"
    assert (await world.demo.get(path)).json == {"addresses": {"private": [plain]}}
    assert (await world.demo.get(f"{path}/private")).json == {"private": [plain]}
    assert (await world.demo.get(f"{path}/public")).status == 404


async def test_a_get_refuses_unknown_keys_from_2_102(world: World, server: dict[str, Any]) -> None:
    assert (await world.demo.at("2.101").get(f"/servers/{server['id']}?x=y")).status == 200
    assert (await world.demo.at("2.102").get(f"/servers/{server['id']}?x=y")).status == 400


async def test_nics_come_and_go(world: World, server: dict[str, Any]) -> None:
    demo, path = world.demo, f"/servers/{server['id']}/os-interface"
    (first,) = (await demo.get(path)).json["interfaceAttachments"]
    assert set(first) == {"net_id", "port_id", "mac_addr", "port_state", "fixed_ips", "tag"}
    assert "tag" not in (await demo.at("2.69").get(path)).json["interfaceAttachments"][0]
    reply = await demo.post(path, {"interfaceAttachment": {"net_id": world.network, "tag": "extra"}})
    assert reply.status == 200, reply.data
    added = reply.json["interfaceAttachment"]
    assert (added["net_id"], added["port_state"], added["tag"]) == (world.network, "ACTIVE", "extra")
    assert (await demo.get(f"{path}/{added['port_id']}")).json["interfaceAttachment"] == added
    removed = await demo.delete(f"{path}/{added['port_id']}")
    assert (removed.status, removed.data) == (202, b"")
    assert (await demo.delete(f"{path}/11111111-1111-4111-8111-111111111111")).status == 404
    assert (await demo.get(f"{path}/11111111-1111-4111-8111-111111111111")).status == 404


async def test_nics_that_come_and_go_at_once_are_all_remembered(world: World) -> None:
    """What was made for a server goes with it, whatever else was being changed when it came."""
    server = await world.active(name="busy")
    demo, path = world.demo, f"/servers/{server['id']}/os-interface"
    wanted = {"interfaceAttachment": {"net_id": world.network}}
    first = (await demo.post(path, wanted)).json["interfaceAttachment"]["port_id"]
    roles = world.cloud.cloud.services["compute"].roles
    driver: Any = next(role for role in roles if role.name == "compute-agent").tasks[0].tools.hypervisor  # type: ignore[attr-defined]
    knobs = driver.knobs
    driver.knobs = msgspec.structs.replace(knobs, latency={**knobs.latency, "attach_nic": 0.6})
    try:
        coming = asyncio.create_task(demo.post(path, wanted))
        await asyncio.sleep(0.3)  # it is being plugged in, and the record does not know it yet
        assert (await demo.delete(f"{path}/{first}")).status == 202
        second = (await coming).json["interfaceAttachment"]["port_id"]
        async with asyncio.timeout(60):
            while first in [one["port_id"] for one in (await demo.get(path)).json["interfaceAttachments"]]:
                await asyncio.sleep(0.02)
    finally:
        driver.knobs = knobs
    await demo.gone(server["id"])
    for port in (first, second):
        assert (await world.cloud.request("GET", f"/network/v2.0/ports/{port}", token=demo.token)).status == 404


@pytest.mark.parametrize(
    ("version", "body", "status", "text"),
    [
        ("2.104", {"net_id": "11111111-1111-4111-8111-111111111111"}, 404, "could not be found"),
        ("2.104", {"port_id": "11111111-1111-4111-8111-111111111111"}, 404, "could not be found"),
        ("2.104", {"fixed_ips": [{"ip_address": "10.0.0.9"}]}, 400, "Must input network_id when request IP address"),
        ("2.104", {"net_id": "no"}, 400, "net_id"),
        ("2.48", {"tag": "x"}, 400, "tag"),
    ],
)
async def test_nics_that_are_refused(
    world: World, server: dict[str, Any], version: str, body: dict[str, Any], status: int, text: str
) -> None:
    path = f"/servers/{server['id']}/os-interface"
    reply = await world.demo.at(version).post(path, {"interfaceAttachment": body})
    assert (reply.status, text in reply.data.decode()) == (status, True), reply.data


async def test_an_address_in_use_is_a_conflict(world: World, server: dict[str, Any], kept: dict[str, Any]) -> None:
    address = kept["addresses"]["private"][0]["addr"]
    body = {"net_id": world.network, "fixed_ips": [{"ip_address": address}]}
    reply = await world.demo.post(f"/servers/{server['id']}/os-interface", {"interfaceAttachment": body})
    assert reply.status == 409
    assert reply.json["conflictingRequest"]["message"].startswith(f"Fixed IP address {address} is already in use")

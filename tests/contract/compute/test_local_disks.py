# SPDX-License-Identifier: Apache-2.0
"""Extra space and swap that a flavor brings: planned, counted, made on the host, told to the guest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.contract.compute.conftest import World
from tests.contract.compute.test_metadata import Guest

pytestmark = pytest.mark.asyncio(loop_scope="session")
EPHEMERAL = {"source_type": "blank", "destination_type": "local", "boot_index": -1, "delete_on_termination": True}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def flavor(world: World) -> AsyncIterator[str]:
    body = {"name": "roomy", "vcpus": 1, "ram": 64, "disk": 1, "OS-FLV-EXT-DATA:ephemeral": 3, "swap": 1536}
    reply = await world.admin.post("/flavors", {"flavor": body})
    assert reply.status == 200, reply.data
    yield str(reply.json["flavor"]["id"])
    await world.admin.delete(f"/flavors/{reply.json['flavor']['id']}")


def made(world: World, server_id: str) -> list[tuple[str, int, str]]:
    """(name, MiB, format) of the local disks that the host made."""
    state = orjson.loads((world.cloud.cloud.parts.data / "hosts" / "node-1" / "simulated.json").read_bytes())
    disks = state["guests"][server_id]["plan"]["local_disks"]
    return [(one["name"], one["size_mib"], one["format"]) for one in disks]


async def test_a_flavors_disks(world: World, flavor: str) -> None:
    server = await world.active(flavorRef=flavor)
    assert made(world, server["id"]) == [("ephemeral0", 3072, "ext4"), ("swap", 1536, "swap")]
    held = await world.cloud.request("GET", f"/placement/allocations/{server['id']}", token=world.admin.token)
    (amounts,) = [one["resources"] for one in held.json["allocations"].values()]
    assert amounts == {"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1 + 3 + 2}
    guest = Guest(world, server)
    listed = (await guest.ask("/latest/meta-data/block-device-mapping")).data.decode().split()
    assert listed == ["ami", "root", "ephemeral0", "swap"]
    for name, device in (("root", "/dev/vda"), ("ephemeral0", "/dev/vdb"), ("swap", "/dev/vdc")):
        assert (await guest.ask(f"/latest/meta-data/block-device-mapping/{name}")).data == device.encode()
    await world.demo.gone(server["id"])


async def test_asked_for_otherwise(world: World, flavor: str) -> None:
    root = {
        "source_type": "image", "uuid": world.image, "destination_type": "local", "boot_index": 0,
        "delete_on_termination": True,
    }  # fmt: skip
    swap = {**EPHEMERAL, "guest_format": "swap", "volume_size": 256}  # in MiB, as published
    parts = [{**EPHEMERAL, "volume_size": 1, "guest_format": "vfat"}, {**EPHEMERAL, "volume_size": 2}, swap]
    server = await world.active(flavorRef=flavor, block_device_mapping_v2=[root, *parts])
    assert made(world, server["id"]) == [
        ("ephemeral0", 1024, "vfat"), ("ephemeral1", 2048, "ext4"), ("swap", 256, "swap"),
    ]  # fmt: skip
    await world.demo.gone(server["id"])

    async def refused(*asked: dict[str, Any]) -> str:
        body = world.body(flavorRef=flavor, block_device_mapping_v2=[root, *asked])
        reply = await world.demo.post("/servers", body)
        assert reply.status == 400, reply.data
        return str(reply.json["badRequest"]["message"])

    assert "larger than instance type allows" in await refused({**swap, "volume_size": 1537})
    assert "larger than the instance type allows" in await refused({**EPHEMERAL, "volume_size": 4})
    assert "More than one swap" in await refused(swap, swap)
    assert "may be formatted with" in await refused({**EPHEMERAL, "volume_size": 1, "guest_format": "zfs"})

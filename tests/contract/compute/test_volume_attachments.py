# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from cumulet.compute.rpc import FETCH, NEED_VOLUME, Fetch, NeedVolume
from tests.contract.compute.conftest import DEADLINE, World

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOWHERE = "11111111-1111-4111-8111-111111111111"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(world: World) -> AsyncIterator[dict[str, Any]]:
    made = await world.active(name="with-disks", networks="none")
    yield made
    await world.demo.gone(made["id"])


async def volume(world: World, **members: Any) -> str:
    body = {"volume": {"size": 1, "name": "data", **members}}
    reply = await world.cloud.request("POST", "/volume/v3/volumes", body, token=world.demo.token)
    assert reply.status == 202, reply.data
    volume_id = str(reply.json["volume"]["id"])
    await status(world, volume_id, "available")
    return volume_id


async def status(world: World, volume_id: str, wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE):
        while True:
            reply = await world.cloud.request("GET", f"/volume/v3/volumes/{volume_id}", token=world.demo.token)
            found: dict[str, Any] = reply.json.get("volume", {"status": "gone"})
            if found["status"] == wanted:
                return found
            assert found["status"] != "error", found
            await asyncio.sleep(0.02)


async def forgotten(world: World, path: str) -> None:
    """Wait until compute forgets an attachment, which it does when the volume is free."""
    async with asyncio.timeout(DEADLINE):
        while (await world.demo.get(path)).status != 404:
            await asyncio.sleep(0.02)


async def test_a_volume_comes_and_goes(world: World, server: dict[str, Any]) -> None:
    demo, path = world.demo, f"/servers/{server['id']}/os-volume_attachments"
    volume_id = await volume(world)
    old = await demo.at("2.100").post(path, {"volumeAttachment": {"volumeId": volume_id, "tag": "data"}})
    assert old.status == 200, old.data
    assert old.json["volumeAttachment"] == {
        "id": volume_id, "volumeId": volume_id, "serverId": server["id"], "device": "/dev/vdb", "tag": "data",
        "delete_on_termination": False,
    }  # fmt: skip
    await status(world, volume_id, "in-use")
    listed = (await demo.get(path)).json["volumeAttachments"]
    assert [set(one) for one in listed] == [
        {"volumeId", "serverId", "device", "tag", "delete_on_termination", "attachment_id", "bdm_uuid"}
    ]
    assert set((await demo.at("2.1").get(path)).json["volumeAttachments"][0]) == {
        "id", "volumeId", "serverId", "device",
    }  # fmt: skip
    assert (await demo.get(f"{path}/{volume_id}")).json["volumeAttachment"] == listed[0]
    shown = (await demo.show(server["id"]))["os-extended-volumes:volumes_attached"]
    assert shown == [{"id": volume_id, "delete_on_termination": False}]
    twice = await demo.post(path, {"volumeAttachment": {"volumeId": volume_id}})
    assert (twice.status, "already attached" in twice.json["badRequest"]["message"]) == (400, True)
    change = {"volumeAttachment": {"volumeId": volume_id, "delete_on_termination": True}}
    assert (await demo.put(f"{path}/{volume_id}", change)).status == 202
    assert (await demo.get(f"{path}/{volume_id}")).json["volumeAttachment"]["delete_on_termination"] is True
    moved = {"volumeAttachment": {"volumeId": volume_id, "device": "/dev/vdz"}}
    assert (await demo.put(f"{path}/{volume_id}", moved)).status == 400
    assert (
        await demo.at("2.84").put(f"{path}/{volume_id}", {"volumeAttachment": {"volumeId": volume_id}})
    ).status == 403
    gone = await demo.delete(f"{path}/{volume_id}")
    assert (gone.status, gone.data) == (202, b"")
    await status(world, volume_id, "available")
    await forgotten(world, f"{path}/{volume_id}")
    assert (await demo.delete(f"{path}/{volume_id}")).status == 404


async def test_attaching_has_no_body_from_2_101(world: World, server: dict[str, Any]) -> None:
    path = f"/servers/{server['id']}/os-volume_attachments"
    volume_id = await volume(world)
    reply = await world.demo.post(path, {"volumeAttachment": {"volumeId": volume_id, "device": "/dev/vdq"}})
    assert (reply.status, reply.data) == (202, b"")
    await status(world, volume_id, "in-use")
    await world.demo.delete(f"{path}/{volume_id}")
    await status(world, volume_id, "available")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"volumeId": NOWHERE}, 404),
        ({"volumeId": "no"}, 400),
        ({"volumeId": NOWHERE, "device": "vdb"}, 400),
        ({"volumeId": NOWHERE, "colour": "red"}, 400),
        ({}, 400),
    ],
)
async def test_attachments_that_are_refused(world: World, server: dict[str, Any], body: Any, code: int) -> None:
    path = f"/servers/{server['id']}/os-volume_attachments"
    assert (await world.demo.post(path, {"volumeAttachment": body})).status == code


async def test_a_reader_attaches_nothing(world: World, server: dict[str, Any]) -> None:
    path = f"/servers/{server['id']}/os-volume_attachments"
    assert (await world.reader.get(path)).status == 200
    assert (await world.reader.post(path, {"volumeAttachment": {"volumeId": NOWHERE}})).status == 403


async def test_boot_from_a_volume_made_of_an_image(world: World) -> None:
    device = {
        "uuid": world.image, "source_type": "image", "destination_type": "volume", "boot_index": 0, "volume_size": 1,
        "delete_on_termination": True,
    }  # fmt: skip
    server = await world.active(name="on-volume", imageRef="", networks="none", block_device_mapping_v2=[device])
    assert server["image"] == ""
    (attached,) = server["os-extended-volumes:volumes_attached"]
    assert attached["delete_on_termination"] is True
    shown = await world.cloud.request("GET", f"/volume/v3/volumes/{attached['id']}", token=world.demo.token)
    assert [one["device"] for one in shown.json["volume"]["attachments"]] == ["/dev/vda"]
    path = f"/servers/{server['id']}/os-volume_attachments"
    refused = await world.demo.delete(f"{path}/{attached['id']}")
    assert (refused.status, refused.json["forbidden"]["message"]) == (403, "Cannot detach a root device volume")
    await world.demo.gone(server["id"])
    await status(world, attached["id"], "gone")


@pytest_asyncio.fixture(loop_scope="session")
async def halfway(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Any, str, str]]:
    """The host's agent, which begins no build; a server on a volume that is to be made; and that volume's device."""
    compute = world.cloud.cloud.services["compute"]
    agent: Any = next(role for role in compute.roles if role.name == "compute-agent").tasks[0]
    told = asyncio.Event()

    async def held(order: Any) -> None:
        told.set()

    monkeypatch.setattr(agent, "_build", held)
    device = {
        "uuid": world.image,
        "source_type": "image",
        "destination_type": "volume",
        "boot_index": 0,
        "volume_size": 1,
    }
    server_id = await world.create(imageRef="", networks="none", block_device_mapping_v2=[device])
    await asyncio.wait_for(told.wait(), DEADLINE)
    record = await agent.tools.bus.call(FETCH, Fetch(server_id, 1, agent.tools.host))
    yield agent, server_id, record.block_devices[0].id
    monkeypatch.undo()
    await world.demo.gone(server_id)


async def _volumes(world: World) -> set[str]:
    reply = await world.cloud.request("GET", "/volume/v3/volumes", token=world.demo.token)
    return {one["id"] for one in reply.json["volumes"]}


async def test_who_asks_at_once_gets_the_same_volume(world: World, halfway: tuple[Any, str, str]) -> None:
    """As when a host that heard nothing of one conductor asks another."""
    agent, server_id, device_id = halfway
    before = await _volumes(world)
    asked = NeedVolume(server_id, 1, agent.tools.host, device_id)
    made = await asyncio.gather(*(agent.tools.bus.call(NEED_VOLUME, asked) for _ in range(6)))
    (volume_id,) = {one.volume_id for one in made}
    assert await _volumes(world) - before == {volume_id}


async def test_a_volume_of_which_its_host_never_told_goes_with_the_build(
    world: World, halfway: tuple[Any, str, str]
) -> None:
    agent, server_id, device_id = halfway
    asked = NeedVolume(server_id, 1, agent.tools.host, device_id)
    volume_id = (await agent.tools.bus.call(NEED_VOLUME, asked)).volume_id
    await status(world, volume_id, "available")
    await world.demo.gone(server_id)
    await status(world, volume_id, "gone")


async def test_boot_with_the_users_volume_beside_the_image(world: World) -> None:
    volume_id = await volume(world)
    root = {"uuid": world.image, "source_type": "image", "destination_type": "local", "boot_index": 0}
    mine = {"uuid": volume_id, "source_type": "volume", "destination_type": "volume", "boot_index": -1}
    server = await world.active(name="two-disks", networks="none", block_device_mapping_v2=[root, mine])
    assert [one["id"] for one in server["os-extended-volumes:volumes_attached"]] == [volume_id]
    (second,) = (await world.demo.get(f"/servers/{server['id']}/os-volume_attachments")).json["volumeAttachments"]
    assert second["device"] == "/dev/vdb"
    again = await world.demo.post("/servers", world.body(networks="none", block_device_mapping_v2=[root, mine]))
    assert again.status == 400
    assert "Invalid volume" in again.json["badRequest"]["message"]
    await world.demo.gone(server["id"])
    await status(world, volume_id, "available")


async def test_an_empty_volume_does_not_boot(world: World) -> None:
    volume_id = await volume(world)
    device = {"uuid": volume_id, "source_type": "volume", "destination_type": "volume", "boot_index": 0}
    reply = await world.demo.post("/servers", world.body(imageRef="", block_device_mapping_v2=[device]))
    assert reply.status == 400
    assert reply.json["badRequest"]["message"] == f"Block Device {volume_id} is not bootable."
    several = world.body(imageRef="", min_count=2, block_device_mapping_v2=[device])
    told = (await world.demo.post("/servers", several)).json["badRequest"]["message"]
    assert told == "Cannot attach one or more volumes to multiple instances"


async def test_a_volume_is_not_detached_while_it_is_being_attached(world: World, server: dict[str, Any]) -> None:
    path = f"/servers/{server['id']}/os-volume_attachments"
    volume_id = await volume(world)
    roles = world.cloud.cloud.services["volume"].roles
    knobs = next(role for role in roles if role.name == "volume-agent").tasks[0]._backend.knobs  # type: ignore[attr-defined]
    knobs.slow["connect"] = 0.5
    try:
        await world.demo.post(path, {"volumeAttachment": {"volumeId": volume_id}})
        early = await world.demo.delete(f"{path}/{volume_id}")
    finally:
        del knobs.slow["connect"]
    assert early.status == 400
    assert "must be in-use to detach" in early.json["badRequest"]["message"]
    await status(world, volume_id, "in-use")
    assert (await world.demo.delete(f"{path}/{volume_id}")).status == 202  # the attach may not quite have ended
    await status(world, volume_id, "available")
    await forgotten(world, f"{path}/{volume_id}")
    listed = (await world.demo.get(path)).json["volumeAttachments"]
    assert volume_id not in [one["volumeId"] for one in listed]

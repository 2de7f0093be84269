# SPDX-License-Identifier: Apache-2.0
"""Images of servers over HTTP: the published answers, what the image says, its bytes, refusals, delete in the middle.

Answers taken from: the Compute API reference (createImage) and Tempest's schemas of it; the image's members from the
samples of the same reference and Tempest's `api/image/v2/test_images_dependency.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from cumulet.kernel.errors import Unavailable
from tests.contract.compute.conftest import DEADLINE, Caller, World, new_image

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def image_of(world: World, image_id: str, token: str | None = None) -> dict[str, Any]:
    reply = await world.cloud.request("GET", f"/image/v2/images/{image_id}", token=token or world.demo.token)
    return dict(reply.json) if reply.status == 200 else {"status": reply.status}


async def until_active(world: World, image_id: str) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE):
        while (image := await image_of(world, image_id))["status"] in ("queued", "saving"):
            await asyncio.sleep(0.02)
    return image


async def make(world: World, server_id: str, name: str = "snap", caller: Caller | None = None, **more: Any) -> str:
    reply = await (caller or world.demo).act(server_id, "createImage", {"name": name, **more})
    assert reply.status == 202, reply.data
    return str(reply.json["image_id"])


async def test_an_image_of_a_server_has_its_bytes_and_says_where_it_comes_from(world: World) -> None:
    server = await world.active(name="photographed")
    reply = await world.demo.act(server["id"], "createImage", {"name": "snap", "metadata": {"a": "b"}})
    image_id = reply.json["image_id"]
    assert (reply.status, set(reply.json)) == (202, {"image_id"})
    assert reply.headers["location"].endswith(f"/v2/images/{image_id}")
    image = await until_active(world, image_id)
    await world.demo.until(server["id"], "ACTIVE")
    told = {
        "name": "snap", "status": "active", "visibility": "private", "owner": world.demo.project_id,
        "disk_format": "raw", "container_format": "bare", "size": 1 << 16, "min_disk": 1, "min_ram": 0,
        "base_image_ref": world.image, "image_type": "snapshot", "image_location": "snapshot",
        "image_state": "available", "instance_uuid": server["id"], "user_id": world.demo.user_id,
        "owner_id": world.demo.project_id, "a": "b",
    }  # fmt: skip
    assert {name: image.get(name) for name in told} == told
    path = f"/image/v2/images/{image_id}/file"
    assert (await world.cloud.request("GET", path, token=world.demo.token)).data == bytes(1 << 16)
    actions = (await world.demo.get(f"/servers/{server['id']}/os-instance-actions")).json["instanceActions"]
    assert actions[0]["action"] == "createImage"
    again = await world.active(name="from a snapshot", imageRef=image_id)
    assert again["image"]["id"] == image_id
    await world.demo.gone(again["id"])
    await world.demo.gone(server["id"])
    assert (await image_of(world, image_id))["status"] == "active"  # it stands on nothing of the server


async def test_before_2_45_only_the_header_names_it(world: World, kept: dict[str, Any]) -> None:
    reply = await world.demo.at("2.44").act(kept["id"], "createImage", {"name": "old"})
    assert (reply.status, reply.data) == (202, b"")
    image_id = reply.headers["location"].rpartition("/images/")[2]
    assert (await until_active(world, image_id))["name"] == "old"
    await world.demo.until(kept["id"], "ACTIVE")


async def test_a_stopped_server(world: World) -> None:
    server = await world.active(name="still")
    await world.demo.act(server["id"], "os-stop")
    await world.demo.until(server["id"], "SHUTOFF")
    assert (await until_active(world, await make(world, server["id"])))["status"] == "active"
    await world.demo.until(server["id"], "SHUTOFF")
    await world.demo.gone(server["id"])


@pytest.mark.parametrize(
    "body",
    [
        None, {}, {"name": ""}, {"name": "a" * 256}, {"name": " a"}, {"name": "a", "metadata": {"": ""}},
        {"name": "a", "metadata": {"k": "a" * 256}}, {"name": "a", "metadata": {"k" * 256: ""}},
        {"name": "a", "metadata": []}, {"name": "a", "more": 1},
    ],
)  # fmt: skip
async def test_a_bad_body(world: World, kept: dict[str, Any], body: Any) -> None:
    reply = await world.demo.act(kept["id"], "createImage", body)
    assert (reply.status, list(reply.json)) == (400, ["badRequest"])


async def test_who_may_not(world: World, kept: dict[str, Any]) -> None:
    wanted = {"name": "no"}
    assert (await world.reader.act(kept["id"], "createImage", wanted)).status == 403
    for caller, server_id in ((world.other, kept["id"]), (world.demo, "a" * 35), (world.demo, "a" * 37)):
        reply = await caller.act(server_id, "createImage", wanted)
        assert (reply.status, reply.json) == (
            404, {"itemNotFound": {"code": 404, "message": f"Instance {server_id} could not be found."}},
        )  # fmt: skip
    assert (await world.nobody.act(kept["id"], "createImage", wanted)).status == 401


async def test_too_much_metadata(world: World, kept: dict[str, Any]) -> None:
    metadata = {f"k{number}": "v" for number in range(129)}
    reply = await world.demo.act(kept["id"], "createImage", {"name": "much", "metadata": metadata})
    assert (reply.status, reply.json) == (403, {"forbidden": {"code": 403, "message": "Image metadata limit exceeded"}})


async def test_what_the_image_service_refuses_is_the_answer(world: World, kept: dict[str, Any]) -> None:
    reply = await world.demo.act(kept["id"], "createImage", {"name": "x", "metadata": {"os_glance_x": "y"}})
    assert (reply.status, list(reply.json)) == (403, ["forbidden"])
    assert "os_glance_x" in reply.json["forbidden"]["message"]
    server = await world.demo.until(kept["id"], "ACTIVE")
    assert "fault" not in server


async def test_an_admins_image_of_anothers_server_is_shared(world: World, kept: dict[str, Any]) -> None:
    image_id = await make(world, kept["id"], caller=world.admin)
    async with asyncio.timeout(DEADLINE):
        while (image := await image_of(world, image_id, world.admin.token))["status"] != "active":
            await asyncio.sleep(0.02)
    assert (image["visibility"], image["instance_owner"]) == ("shared", world.demo.project_id)
    assert image["owner"] == world.admin.project_id
    await world.demo.until(kept["id"], "ACTIVE")


async def test_one_image_at_a_time_and_delete_ends_it(world: World) -> None:
    """The copy is held in the middle: a second image, power and volumes are refused, delete is not."""
    agent = next(r for r in world.cloud.cloud.services["compute"].roles if r.name == "compute-agent").tasks[0]
    copying, go = asyncio.Event(), asyncio.Event()
    real = agent.tools.disks  # type: ignore[attr-defined]

    class Slow:
        async def copy_root(self, server_id: str, target: str) -> str:
            copying.set()
            await go.wait()
            return str(await real.copy_root(server_id, target))

    agent.tools.disks = Slow()  # type: ignore[attr-defined]
    try:
        server = await world.active(name="busy")
        image_id = await make(world, server["id"])
        await asyncio.wait_for(copying.wait(), DEADLINE)
        for action, body in (("createImage", {"name": "second"}), ("os-stop", None), ("reboot", {"type": "HARD"})):
            reply = await world.demo.act(server["id"], action, body)
            assert (reply.status, "task_state image_snapshot" in reply.data.decode()) == (409, True), reply.data
        assert (await image_of(world, image_id))["status"] == "queued"
        await world.demo.gone(server["id"])
        assert await image_of(world, image_id) == {"status": 404}
        assert list(agent.tools.copies.iterdir()) == []  # type: ignore[attr-defined]
    finally:
        agent.tools.disks = real  # type: ignore[attr-defined]


async def test_an_image_deleted_in_the_middle_leaves_the_server_as_it_was(world: World) -> None:
    agent = next(r for r in world.cloud.cloud.services["compute"].roles if r.name == "compute-agent").tasks[0]
    real = agent.tools.disks  # type: ignore[attr-defined]
    made: list[str] = []
    known = asyncio.Event()

    class Deleting:
        async def copy_root(self, server_id: str, target: str) -> str:
            found = str(await real.copy_root(server_id, target))
            await known.wait()
            path = f"/image/v2/images/{made[0]}"
            assert (await world.cloud.request("DELETE", path, token=world.demo.token)).status == 204
            return found

    agent.tools.disks = Deleting()  # type: ignore[attr-defined]
    try:
        server = await world.active(name="robbed")
        made.append(await make(world, server["id"]))
        known.set()
        after = await world.demo.until(server["id"], "ACTIVE")
        assert "fault" not in after  # only told for a server in ERROR, as published
        assert await image_of(world, made[0]) == {"status": 404}
        assert list(agent.tools.copies.iterdir()) == []  # type: ignore[attr-defined]
        await world.demo.gone(server["id"])
    finally:
        agent.tools.disks = real  # type: ignore[attr-defined]


async def test_an_image_of_a_volume_backed_server_names_snapshots(world: World) -> None:
    root = {
        "boot_index": 0, "uuid": world.image, "source_type": "image", "destination_type": "volume", "volume_size": 1,
        "delete_on_termination": True,
    }  # fmt: skip
    server = await world.active(name="on a volume", imageRef=None, block_device_mapping_v2=[root])
    image = await until_active(world, await make(world, server["id"]))
    assert (image["status"], image["size"], image["root_device_name"]) == ("active", 0, "/dev/vda")
    (mapping,) = orjson.loads(image["block_device_mapping"])
    assert (mapping["source_type"], mapping["destination_type"], mapping["boot_index"]) == ("snapshot", "volume", 0)
    path = f"/volume/v3/snapshots/{mapping['snapshot_id']}"
    snapshot = (await world.cloud.request("GET", path, token=world.demo.token)).json["snapshot"]
    assert (snapshot["status"], snapshot["name"], snapshot["size"]) == ("available", "snapshot for snap", 1)
    again = await world.active(name="again", imageRef=image["id"])
    assert again["image"] == ""
    (attached,) = again["os-extended-volumes:volumes_attached"]
    volume = await world.cloud.request("GET", f"/volume/v3/volumes/{attached['id']}", token=world.demo.token)
    assert volume.json["volume"]["snapshot_id"] == mapping["snapshot_id"]
    for one in (again, server):
        await world.demo.gone(one["id"])


async def changed(world: World, image_id: str, *changes: dict[str, Any]) -> None:
    """Change an image's record as its owner."""
    headers = {"content-type": "application/openstack-images-v2.1-json-patch"}
    path, data = f"/image/v2/images/{image_id}", orjson.dumps(changes)
    reply = await world.cloud.request("PATCH", path, token=world.demo.token, headers=headers, body=data)
    assert reply.status == 200, reply.data


def mapped(**changes: Any) -> dict[str, Any]:
    """Make the image one of a volume-backed server."""
    mapping = {"source_type": "blank", "destination_type": "volume", "volume_size": 1, "boot_index": 0, **changes}
    return {"op": "add", "path": "/block_device_mapping", "value": orjson.dumps([mapping]).decode()}


async def refused(world: World, image_id: str) -> str:
    """Why no server can be made of the image."""
    reply = await world.demo.post("/servers", world.body(imageRef=image_id, networks="none"))
    assert reply.status == 400, (reply.status, reply.data)
    return str(reply.json["badRequest"]["message"])


async def test_an_image_that_names_volumes_is_looked_at_like_any_other(world: World) -> None:
    image_id = await new_image(world.cloud, world.demo.token)
    await changed(world, image_id, mapped(), {"op": "replace", "path": "/min_ram", "value": 1 << 20})
    assert await refused(world, image_id) == "Flavor's memory is too small for requested image."
    await changed(
        world, image_id, {"op": "replace", "path": "/min_ram", "value": 0},
        {"op": "replace", "path": "/min_disk", "value": 7},
    )  # fmt: skip
    assert "Volume is smaller than the minimum size specified in image metadata." in await refused(world, image_id)
    await changed(world, image_id, {"op": "replace", "path": "/min_disk", "value": 0})
    path = f"/image/v2/images/{image_id}/actions/deactivate"
    assert (await world.cloud.request("POST", path, token=world.admin.token)).status == 204
    assert await refused(world, image_id) == f"Image {image_id} is not active."


@pytest.mark.parametrize(
    "bad",
    [
        {"volume_size": "x"}, {"volume_size": 0}, {"volume_size": [1]}, {"boot_index": {}}, {"source_type": "tape"},
        {"source_type": "volume", "uuid": "../x"}, {"device_name": ["vda"]}, {"delete_on_termination": "perhaps"},
    ],
)  # fmt: skip
async def test_mappings_in_an_image_have_the_published_shape(world: World, bad: dict[str, Any]) -> None:
    image_id = await new_image(world.cloud, world.demo.token)
    await changed(world, image_id, mapped(**bad))
    assert (await refused(world, image_id)).startswith("Block Device Mapping is Invalid: ")


@pytest.mark.parametrize("told", ["", "{", "7", '"x"', "[7]", "[[]]", "{}"])
async def test_nor_is_anything_else_in_their_place(world: World, told: str) -> None:
    image_id = await new_image(world.cloud, world.demo.token)
    await changed(world, image_id, {"op": "add", "path": "/block_device_mapping", "value": told or " "})
    assert (await refused(world, image_id)).startswith("Block Device Mapping is Invalid: ")


async def test_a_volume_whose_metadata_says_nonsense_is_no_error_of_ours(world: World) -> None:
    cloud, token = world.cloud, world.demo.token
    made = await cloud.request(
        "POST", "/volume/v3/volumes", {"volume": {"size": 1, "imageRef": world.image}}, token=token
    )
    path = f"/volume/v3/volumes/{made.json['volume']['id']}"
    async with asyncio.timeout(DEADLINE):
        while (await cloud.request("GET", path, token=token)).json["volume"]["status"] != "available":
            await asyncio.sleep(0.02)
    words = {"os-set_image_metadata": {"metadata": {"min_ram": "much"}}}
    assert (await cloud.request("POST", f"{path}/action", words, token=token)).status == 200
    disk = {"boot_index": 0, "uuid": made.json["volume"]["id"], "source_type": "volume", "destination_type": "volume"}
    server = await world.active(imageRef=None, networks="none", block_device_mapping_v2=[disk])
    await world.demo.gone(server["id"])
    await cloud.request("DELETE", path, token=token)


async def test_an_image_is_looked_up_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = next(r for r in world.cloud.cloud.services["compute"].roles if r.name == "compute-api").app.service
    asked: list[str] = []
    real = compute.image.image

    async def counted(image_id: str, **more: Any) -> Any:
        asked.append(image_id)
        return await real(image_id, **more)

    monkeypatch.setattr(compute.image, "image", counted)
    reply = await world.demo.post("/servers", world.body(networks="none", min_count=1000))
    assert reply.status == 403  # over quota, after all disks were looked at
    assert asked == [world.image]


async def test_nothing_is_begun_while_the_answer_can_not_be_given(
    world: World, kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer names the image's address, which identity knows: it is asked before anything is accepted."""
    compute = next(r for r in world.cloud.cloud.services["compute"].roles if r.name == "compute-api").app.service
    real = compute.image._look_up
    asked: list[str] = []

    async def away() -> str:
        raise Unavailable("identity is away")

    async def counted() -> str:
        asked.append("identity")
        return str(await real())

    monkeypatch.setattr(compute.image, "_address", None)
    monkeypatch.setattr(compute.image, "_look_up", away)
    before = (await world.demo.get(f"/servers/{kept['id']}/os-instance-actions")).json
    assert (await world.demo.act(kept["id"], "createImage", {"name": "no"})).status == 503
    assert (await world.demo.get(f"/servers/{kept['id']}/os-instance-actions")).json == before
    monkeypatch.setattr(compute.image, "_look_up", counted)
    for _ in range(2):
        await until_active(world, await make(world, kept["id"]))
        await world.demo.until(kept["id"], "ACTIVE")
    assert asked == ["identity"]

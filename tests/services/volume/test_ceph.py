# SPDX-License-Identifier: Apache-2.0
"""Volumes and images in one real Ceph: what shares data, what stands alone, what is refused, through both APIs."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cumulet.volume.drivers.simulated import Knobs
from tests.ceph import Cluster
from tests.contract.image.lone import lone_service
from tests.contract.volume.volumes import ROLES, Volumes

pytestmark = pytest.mark.ceph
MIB = 1024 * 1024


@pytest.fixture
def pools(ceph: Cluster) -> Any:
    """A pool of images and one of volumes."""
    made = (ceph.make_pool(), ceph.make_pool())
    yield made
    for pool in made:
        ceph.drop_pool(pool)


@asynccontextmanager
async def cloud(folder: Path, ceph: Cluster, pools: tuple[str, str], **volume: Any) -> AsyncIterator[Volumes]:
    stores = [{"id": "pool", "type": "rbd", **ceph.rbd(pools[0])}, {"id": "disk"}]
    images = lone_service(
        "image", folder / "image", {"image-api"}, mount="/image", settings={"image": {"stores": stores}}
    )
    async with images as image:
        settings = {"volume": {"backend": "rbd", "ceph": {**ceph.rbd(pools[1]), **volume}}}
        volumes = lone_service(
            "volume", folder / "volume", ROLES, mount="/volume", settings=settings, others={"image": image.transport}
        )
        async with volumes as lone:
            yield Volumes(lone, Knobs(), image)


async def make_image(volumes: Volumes, data: bytes, store: str, disk_format: str = "raw") -> str:
    body = {"name": "n", "disk_format": disk_format, "container_format": "bare"}
    image_id: str = (await volumes.image.request("POST", "/v2/images", body)).json["id"]
    headers = {"content-type": "application/octet-stream", "x-image-meta-store": store}
    sent = await volumes.image.request("PUT", f"/v2/images/{image_id}/file", headers=headers, body=data)
    assert sent.status == 204, sent.data
    return image_id


async def wait(volumes: Volumes, id_: str, goal: str, kind: str = "volume") -> None:
    """Real storage on a busy machine takes longer than the played one that `Volumes.wait` is for."""
    async with asyncio.timeout(300):
        while True:
            found = await volumes.request("GET", f"/{kind}s/{id_}")
            if (404 if goal == "gone" else 200) == found.status and (
                goal == "gone" or found.json[kind]["status"] == goal
            ):
                return
            assert found.status == 200, found.data
            assert goal == "error" or not found.json[kind]["status"].startswith("error"), found.json
            await asyncio.sleep(0.2)


async def make(volumes: Volumes, goal: str = "available", **body: Any) -> str:
    document = await volumes.make(wait=None, **body)
    await wait(volumes, document["id"], goal)
    return str(document["id"])


def told(ceph: Cluster, pool: str, id_: str) -> dict[str, Any]:
    """What Ceph says of a volume."""
    found: dict[str, Any] = json.loads(ceph.run("rbd", "info", "--format", "json", f"{pool}/volume-node-1-{id_}"))
    return found


def content(ceph: Cluster, pool: str, id_: str, size: int) -> bytes:
    return ceph.run("rbd", "export", "--no-progress", f"{pool}/volume-node-1-{id_}", "-")[:size]


async def test_volumes_share_an_images_data(tmp_path: Path, ceph: Cluster, pools: tuple[str, str]) -> None:
    data = os.urandom(2 * MIB)
    async with cloud(tmp_path, ceph, pools) as volumes:
        near, far = await make_image(volumes, data, "pool"), await make_image(volumes, data, "disk")
        shared = await make(volumes, imageRef=near, size=2)
        copied = await make(volumes, imageRef=far)
        parent = told(ceph, pools[1], shared)["parent"]
        assert (parent["pool"], parent["snapshot"], parent["overlap"]) == (pools[0], "snap", len(data))
        assert "parent" not in told(ceph, pools[1], copied)
        assert [told(ceph, pools[1], one)["size"] for one in (shared, copied)] == [2 << 30, 1 << 30]
        assert content(ceph, pools[1], shared, len(data)) == content(ceph, pools[1], copied, len(data)) == data
        assert (await volumes.image.request("DELETE", f"/v2/images/{near}")).status == 409
        assert (await volumes.image.request("DELETE", f"/v2/images/{far}")).status == 204
        for one in (shared, copied):
            assert (await volumes.request("DELETE", f"/volumes/{one}")).status == 202
            await wait(volumes, one, "gone")
        assert (await volumes.image.request("DELETE", f"/v2/images/{near}")).status == 204
        for pool in pools:
            assert [one for one in ceph.run("rbd", "ls", pool).split() if b"data-" in one or b"volume" in one] == []


async def test_what_was_cloned_may_go_first(tmp_path: Path, ceph: Cluster, pools: tuple[str, str]) -> None:
    data = os.urandom(MIB)
    async with cloud(tmp_path, ceph, pools) as volumes:
        first = await make(volumes, imageRef=await make_image(volumes, data, "pool"))
        reply = await volumes.request("POST", "/snapshots", {"snapshot": {"volume_id": first, "force": True}})
        assert reply.status == 202, reply.data
        snapshot = reply.json["snapshot"]["id"]
        await wait(volumes, snapshot, "available", "snapshot")
        second = await make(volumes, snapshot_id=snapshot)
        third = await make(volumes, source_volid=second, size=2)
        grown = await volumes.act(third, "os-extend", {"new_size": 3})
        assert grown.status == 202, grown.data
        await wait(volumes, third, "available")
        for kind, one in (("snapshot", snapshot), ("volume", first), ("volume", second)):
            assert (await volumes.request("DELETE", f"/{kind}s/{one}")).status == 202
            await wait(volumes, one, "gone", kind)
        assert (told(ceph, pools[1], third)["size"], content(ceph, pools[1], third, MIB)) == (3 << 30, data)
        assert ceph.run("rbd", "ls", pools[1]).decode().split() == [f"volume-node-1-{third}"]


async def test_an_image_that_is_larger_than_the_volume(tmp_path: Path, ceph: Cluster, pools: tuple[str, str]) -> None:
    async with cloud(tmp_path, ceph, pools) as volumes:
        image_id = await make_image(volumes, b"x" * MIB, "pool")
        (key,) = await volumes.image.inner.stores["pool"].store.list()
        ceph.run("rbd", "resize", "--no-progress", "--size", "3G", f"{pools[0]}/{key}")
        ceph.run("rbd", "snap", "unprotect", f"{pools[0]}/{key}@snap")
        ceph.run("rbd", "snap", "rm", "--no-progress", f"{pools[0]}/{key}@snap")
        ceph.run("rbd", "snap", "create", f"{pools[0]}/{key}@snap")
        ceph.run("rbd", "snap", "protect", f"{pools[0]}/{key}@snap")
        volume_id = await make(volumes, "error", imageRef=image_id, size=2)
        assert ceph.run("rbd", "ls", pools[1]) == b""
        assert (await volumes.request("DELETE", f"/volumes/{volume_id}")).status == 202
        await wait(volumes, volume_id, "gone")


async def test_an_image_of_another_format_is_copied(tmp_path: Path, ceph: Cluster, pools: tuple[str, str]) -> None:
    raw, disk = tmp_path / "raw", tmp_path / "disk.qcow2"
    raw.write_bytes(os.urandom(MIB))
    process = await asyncio.create_subprocess_exec("qemu-img", "convert", "-O", "qcow2", str(raw), str(disk))
    assert await process.wait() == 0
    async with cloud(tmp_path, ceph, pools) as volumes:
        one = await make(volumes, imageRef=await make_image(volumes, disk.read_bytes(), "pool", "qcow2"))
        assert "parent" not in told(ceph, pools[1], one)
        assert content(ceph, pools[1], one, MIB) == raw.read_bytes()


async def test_connection_information(tmp_path: Path, ceph: Cluster, pools: tuple[str, str]) -> None:
    async with cloud(tmp_path, ceph, pools) as volumes:
        one = await make(volumes)
        body = {"attachment": {"volume_uuid": one, "connector": {"host": "elsewhere", "initiator": "x"}}}
        reply = await volumes.request("POST", "/attachments", body)
        assert reply.status == 200, reply.data
        info = reply.json["attachment"]["connection_info"]
        assert (info["driver_volume_type"], info["path"]) == ("rbd", f"{pools[1]}/volume-node-1-{one}")
        assert "key" not in json.dumps(info)
        pool = (await volumes.request("GET", "/scheduler-stats/get_pools?detail=True", token="admin@admin:admin")).json
        told = pool["pools"][0]["capabilities"]
        assert told["storage_protocol"] == "ceph"
        assert 0 < told["free_capacity_gb"] <= told["total_capacity_gb"] < 8


async def test_a_cluster_that_is_away(tmp_path: Path, ceph_alone: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    pools = (ceph_alone.make_pool(), ceph_alone.make_pool())
    async with cloud(tmp_path, ceph_alone, pools, seconds=2) as volumes:
        kept = await make(volumes)
        with ceph_alone.halted():
            late = (await volumes.make(wait=None))["id"]
            async with asyncio.timeout(200):
                while "will be tried again: The back end does not answer." not in caplog.text:
                    await asyncio.sleep(0.2)
            assert (await volumes.request("GET", f"/volumes/{kept}")).json["volume"]["status"] == "available"
        await wait(volumes, late, "available")
        assert told(ceph_alone, pools[1], late)["size"] == 1 << 30
    for pool in pools:
        ceph_alone.drop_pool(pool)

# SPDX-License-Identifier: Apache-2.0
"""Stores on other machines: away at the start and later, whose they are, what is left half-way, several at once.

The machines are a real Ceph: its gateway speaks S3 and Swift, its pools hold images.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cumulet.cli.chaos.loopback import free_ports
from cumulet.image.loops import drop_orphans
from cumulet.image.store.model import StoreTaken
from cumulet.kernel.ceph import Ceph, CephError, CephPlace
from cumulet.kernel.pools import Pool
from tests.ceph import Cluster
from tests.contract.image.lone import ADMIN, SERVICE, Lone, lone_service
from tests.contract.image.test_image_stores import ended, make, put, show, start
from tests.services.image.stores import SECONDS, moto, settings  # noqa: F401 - a fixture
from tests.services.image.stores import make as make_store

DATA = os.urandom(3 * 1024 * 1024 + 11)
FAR = [pytest.param("moto", id="object"), "swift", pytest.param("rbd", marks=pytest.mark.ceph)]


@asynccontextmanager
async def cloud(folder: Path, *stores: dict[str, Any], **more: Any) -> AsyncIterator[Lone]:
    told = {"image": {"stores": list(stores), "show_locations": True, **more}}
    async with lone_service("image", folder, {"image-api"}, mount="/image", settings=told) as image:
        yield image


@pytest.fixture
def pool(ceph: Cluster) -> Any:
    """A pool of the test's own: a pool belongs to one cloud."""
    made = ceph.make_pool()
    yield made
    ceph.drop_pool(made)


async def upload_breaks(image: Lone, *, after_mib: int) -> None:
    """Begin an upload of 50 MiB whose client goes away in the middle."""
    image_id = await make(image)

    async def broken() -> AsyncIterator[bytes]:
        for _ in range(after_mib):
            yield os.urandom(1024 * 1024)
        raise ConnectionError("the client is gone")

    headers = {"content-type": "application/octet-stream", "x-openstack-image-size": str(50 * 1024 * 1024)}
    reply = await image.request("PUT", f"/v2/images/{image_id}/file", headers=headers, body=broken())
    assert (reply.status, (await show(image, image_id))["status"]) == (503, "queued")


def absent(kind: str, folder: Path) -> dict[str, Any]:
    """A store where nobody answers."""
    (port,) = free_ports(1)
    if kind == "moto":
        return {"type": "object", "bucket": "b", "endpoint": f"http://127.0.0.1:{port}", "access_key": "k",
                "secret_key": "very-secret"}  # fmt: skip
    if kind == "swift":
        login = {"auth_url": f"http://127.0.0.1:{port}/v3", "username": "u", "password": "very-secret", "project": "p"}
        return {"type": "swift", "container": "c", **login}
    conf = folder / "ceph.conf"
    conf.write_text(f"[global]\nmon_host = [v2:127.0.0.1:{port}]\n")
    (folder / "keyring").write_text("[client.cumulet]\nkey = AQBkz3Rnd1VTHxAAYfZWN5s8S3nFVUr7vGAvTA==\n")
    return {"type": "rbd", "conf": str(conf), "keyring": str(folder / "keyring")}


@pytest.mark.parametrize("kind", FAR)
async def test_every_service_of_a_cloud_speaks_in_its_name(kind: str, tmp_path: Path) -> None:
    """On whatever host: else the second one would find the store taken."""
    told = {"image": {"stores": [{"id": "near"}, {"id": "far", **absent(kind, tmp_path), "seconds": 1}]}}
    options = {"cloud_id": "the-cloud"}
    service = lone_service("image", tmp_path / "x", {"image-api"}, mount="/image", settings=told, options=options)
    async with service:
        assert [one.read_text() for one in (tmp_path / "x").rglob("cloud-id")] == ["the-cloud"]


@pytest.mark.parametrize("kind", FAR)
async def test_a_store_that_is_away_keeps_nobody_else_waiting(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    far = {"id": "far", **absent(kind, tmp_path), "seconds": 1}
    async with cloud(tmp_path / "cloud", {"id": "near"}, far) as image:
        kept = await make(image, data=DATA)
        assert (await image.request("GET", f"/v2/images/{kept}/file")).data == DATA
        queued = await make(image)
        reply = await put(image, queued, DATA, store="far")
        assert (reply.status, "The image store far does not answer." in str(reply.data)) == (503, True), reply.data
        assert (await show(image, queued))["status"] == "queued"
        writer = await image.inner.staging.write("data-00000000-0000-0000-0000-000000000000")
        await writer.commit()
        await drop_orphans(image.inner)
        assert await image.inner.staging.list() == []
        assert (await image.request("DELETE", f"/v2/images/{kept}")).status == 204
        assert (await image.request("GET", "/v2/info/stores/detail", token=ADMIN)).json["stores"][1]["id"] == "far"
    assert "very-secret" not in caplog.text
    assert "AQBkz3Rn" not in caplog.text


@pytest.mark.ceph
@pytest.mark.parametrize("kind", ["gateway", "swift", "rbd"])
async def test_a_store_that_hangs(
    kind: str, tmp_path: Path, ceph_alone: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pool = ceph_alone.make_pool()
    config = {
        "rbd": {"type": "rbd", **ceph_alone.rbd(pool)},
        "swift": {"type": "swift", **ceph_alone.container(tmp_path.name)},
        "gateway": {"type": "object", **ceph_alone.bucket(tmp_path.name)},
    }[kind]
    far = {"id": "far", **config, "seconds": SECONDS}
    async with cloud(tmp_path, far, {"id": "near"}) as image:
        kept = await make(image, data=DATA)
        queued = await make(image)
        with ceph_alone.halted():
            for reply in (await put(image, queued, DATA), await image.request("GET", f"/v2/images/{kept}/file")):
                assert (reply.status, b"The image store far does not answer." in reply.data) == (503, True), reply.data
            other = await make(image)
            assert (await put(image, other, DATA, store="near")).status == 204
            if kind == "rbd":  # whether volumes are clones of it can't be told
                assert (await image.request("DELETE", f"/v2/images/{kept}")).status == 503
        assert (await show(image, queued))["status"] == "queued"
        async with asyncio.timeout(120):
            while (await put(image, queued, DATA)).status == 503:
                await asyncio.sleep(0.1)
        assert (await image.request("GET", f"/v2/images/{queued}/file")).data == DATA
        for one in (kept, queued, other):
            assert (await image.request("DELETE", f"/v2/images/{one}")).status == 204
        store = image.inner.stores["far"].store
        async with asyncio.timeout(120):  # what the broken upload left is found
            while await store.list():
                await drop_orphans(image.inner)
                await asyncio.sleep(0.2)
    ceph_alone.drop_pool(pool)
    key = Path(ceph_alone.keyring).read_text().split("key = ")[1].split()[0]
    assert key not in caplog.text
    assert ceph_alone.secret_key not in caplog.text


@pytest.mark.ceph
@pytest.mark.parametrize("kind", ["pool", "container"])
async def test_a_pool_belongs_to_one_cloud(kind: str, tmp_path: Path, ceph: Cluster, pool: str) -> None:
    threads = Pool("t", 2)
    config = {"type": "rbd", **ceph.rbd(pool)}
    if kind == "container":
        config = {"type": "swift", **ceph.container(tmp_path.name)}
    for _ in range(2):
        ours = make_store(config, tmp_path / "a", threads)
        await ours.open()
        await ours.close()
    with pytest.raises(StoreTaken):
        await make_store(config, tmp_path / "b", threads).open()
    threads.close()


@pytest.mark.ceph
async def test_what_is_wrong_with_a_pool_is_said(ceph: Cluster, tmp_path: Path) -> None:
    stranger = tmp_path / "keyring"
    stranger.write_text("[client.cumulet]\nkey = AQBkz3Rnd1VTHxAAYfZWN5s8S3nFVUr7vGAvTA==\n")
    right = ceph.rbd("none")
    for wrong, kind, word in (
        ({}, "down", "ObjectNotFound"),
        ({"python": sys.executable}, "bindings", "has no Python bindings of Ceph"),
        ({"python": "/none"}, "bindings", "No such file"),
        ({"conf": "/none"}, "down", ""),
        ({"keyring": str(stranger)}, "down", ""),
    ):
        one = Ceph(CephPlace(**{**right, "seconds": SECONDS, **wrong}))
        with pytest.raises(CephError, match=word or None) as caught:
            await one.ask("names", prefix="")
        assert (caught.value.kind, "AQBkz3Rn" in str(caught.value)) == (kind, False), caught.value
        one.close()


@pytest.mark.ceph
async def test_a_service_that_dies_leaves_half_an_image(ceph: Cluster, pool: str, tmp_path: Path) -> None:
    config = {"id": "far", "type": "rbd", **ceph.rbd(pool)}
    async with cloud(tmp_path, config) as image:
        store = image.inner.stores["far"].store
        writer = await store.write("data-half")
        writer.write(bytes(100))
        process = writer._writer._writer._process
        async with asyncio.timeout(30):
            while await store.list() != ["data-half"]:
                await asyncio.sleep(0.02)
        process.kill()  # power cut: nobody cleans up
        await writer.abort()
        with pytest.raises(FileNotFoundError):
            await store.size("data-half")
        async with asyncio.timeout(400):  # Ceph waits for the dead for half a minute, and more on a busy machine
            while await store.list():
                await drop_orphans(image.inner)
                await asyncio.sleep(0.2)


@pytest.mark.ceph
async def test_parts_that_nobody_ends_are_found(ceph: Cluster, tmp_path: Path) -> None:
    client = ceph.s3_client()
    prefix = f"{tmp_path.name}/deeper prefix"
    ours, strange = f"{prefix}/data-dead", "elsewhere/data-dead"
    for key in (ours, strange):
        begun = await asyncio.to_thread(client.create_multipart_upload, Bucket="images", Key=key)
        part = {"Bucket": "images", "Key": key, "UploadId": begun["UploadId"], "PartNumber": 1, "Body": b"x" * 100}
        await asyncio.to_thread(client.upload_part, **part)

    async def begun_there() -> list[str]:
        answer = await asyncio.to_thread(client.list_multipart_uploads, Bucket="images")
        return sorted(one["Key"] for one in answer.get("Uploads", []))

    async with cloud(tmp_path, {"id": "far", "type": "object", **ceph.bucket(prefix)}) as image:
        store = image.inner.stores["far"].store
        assert await store.list() == ["data-dead"]
        await drop_orphans(image.inner)
        assert (await store.list(), await begun_there()) == ([], [strange])
        await upload_breaks(image, after_mib=40)
        assert (await store.list(), await begun_there()) == ([], [strange])
    for upload in client.list_multipart_uploads(Bucket="images")["Uploads"]:
        client.abort_multipart_upload(Bucket="images", Key=upload["Key"], UploadId=upload["UploadId"])


@pytest.mark.ceph
async def test_segments_that_nobody_names_are_found(ceph: Cluster, tmp_path: Path) -> None:
    """Of a service that died, and of an upload that its client broke."""
    where = ceph.container(f"{tmp_path.name}/deeper prefix")
    async with cloud(tmp_path, {"id": "far", "type": "swift", **where}) as image:
        store = image.inner.stores["far"].store
        writer = await store.write("data-dead")
        for _ in range(17):  # two segments, and a third that is on its way
            await asyncio.to_thread(writer.write, os.urandom(1024 * 1024))
        assert await store.list() == ["data-dead"]
        with pytest.raises(FileNotFoundError):
            await store.size("data-dead")
        await asyncio.to_thread(writer._writer._segment.stop)
        await drop_orphans(image.inner)
        assert await store.list() == []
        await upload_breaks(image, after_mib=20)
        assert await store.list() == []


@pytest.mark.ceph
async def test_a_login_that_is_refused_later_is_renewed(ceph: Cluster, tmp_path: Path) -> None:
    where = ceph.container(tmp_path.name)
    async with cloud(tmp_path, {"id": "far", "type": "swift", **where}) as image:
        image_id = await make(image, data=DATA)
        inner = image.inner.stores["far"].store._store
        for ask in ("GET", "PUT"):
            inner._session.auth.auth_ref.auth_token = wrong = "AUTH_rgwtk00"  # what no server ever gave
            if ask == "GET":
                assert (await image.request("GET", f"/v2/images/{image_id}/file")).data == DATA
            else:
                assert (await put(image, await make(image), DATA)).status == 204
            assert inner._session.auth.auth_ref.auth_token != wrong
    stranger = make_store({"type": "swift", **where, "password": "wrong", "seconds": SECONDS}, tmp_path, Pool("w", 1))
    await stranger.open()  # it is taken for one that is away; the log says why
    with pytest.raises(OSError, match="does not answer"):
        await stranger.list()


@pytest.mark.ceph
@pytest.mark.parametrize("kind", ["object", "swift"])
async def test_a_full_bucket(kind: str, ceph: Cluster, tmp_path: Path) -> None:
    user = f"small-{os.urandom(4).hex()}"
    ceph.run("radosgw-admin", "user", "create", "--uid", user, "--display-name", user, "--access-key", user,
             "--secret-key", "secret")  # fmt: skip
    ceph.run("radosgw-admin", "quota", "set", "--quota-scope", "user", "--uid", user, "--max-size", "4096")
    ceph.run("radosgw-admin", "quota", "enable", "--quota-scope", "user", "--uid", user)
    ceph.run("radosgw-admin", "subuser", "create", "--uid", user, "--subuser", f"{user}:swift", "--access", "full",
             "--key-type", "swift", "--secret-key", "secret")  # fmt: skip
    import boto3

    own = boto3.client("s3", endpoint_url=ceph.endpoint, aws_access_key_id=user, aws_secret_access_key="secret",
                       region_name="default")  # fmt: skip
    own.create_bucket(Bucket=user)  # now: whom the gateway has seen it remembers as he was
    config = {
        "object": {**ceph.bucket(""), "bucket": user, "access_key": user, "secret_key": "secret"},
        "swift": {**ceph.container(""), "container": user, "username": f"{user}:swift", "password": "secret"},
    }[kind]
    async with cloud(tmp_path, {"id": "far", "type": kind, **config}) as image:
        image_id = await make(image)
        reply = await put(image, image_id, DATA)
        assert (reply.status, b"Image storage media is full." in reply.data) == (413, True), reply.data
        assert (await show(image, image_id))["status"] == "queued"
        assert await image.inner.stores["far"].store.list() == []


@pytest.mark.ceph
async def test_an_image_with_clones_stays(ceph: Cluster, pool: str, tmp_path: Path) -> None:
    config = {"id": "far", "type": "rbd", **ceph.rbd(pool)}
    async with cloud(tmp_path, config, {"id": "near"}) as image:
        image_id = await make(image, data=DATA)
        (location,) = (await show(image, image_id))["locations"]
        fsid, where, name, snap = location["url"].removeprefix("rbd://").split("/")
        assert (fsid, where, snap, location["metadata"]) == (ceph.fsid, pool, "snap", {"store": "far"})
        seen = await image.request("GET", f"/v2/images/{image_id}/locations", token=SERVICE)
        assert (seen.status, [one["url"] for one in seen.json]) == (200, [location["url"]])
        ceph.run("rbd", "clone", f"{pool}/{name}@{snap}", f"{pool}/a-volume")
        reply = await image.request("DELETE", f"/v2/images/{image_id}")
        assert (reply.status, b"in use through the backend store outside of Glance" in reply.data) == (409, True)
        assert (await start(image, image_id, {"name": "copy-image"}, ADMIN, stores=["near"])).status == 202
        assert (await ended(image, image_id))["status"] == "success"
        assert (await image.request("DELETE", f"/v2/stores/far/{image_id}", token=ADMIN)).status == 409
        assert (await show(image, image_id))["status"] == "active"
        ceph.run("rbd", "rm", f"{pool}/a-volume")
        assert (await image.request("DELETE", f"/v2/images/{image_id}")).status == 204
        assert await image.inner.stores["far"].store.list() == []


@pytest.mark.ceph
async def test_a_download_goes_on_while_its_image_is_deleted(ceph: Cluster, pool: str, tmp_path: Path) -> None:
    data = os.urandom(24 * 1024 * 1024)
    async with cloud(tmp_path, {"id": "far", "type": "rbd", **ceph.rbd(pool)}) as image:
        image_id = await make(image, data=data)
        store = image.inner.stores["far"].store
        (key,) = await store.list()
        reader = await store.read(key)
        pieces = [await anext(aiter(reader))]
        assert (await image.request("DELETE", f"/v2/images/{image_id}")).status == 204
        assert (await image.request("GET", f"/v2/images/{image_id}")).status == 404
        pieces += [piece async for piece in reader]
        assert b"".join(pieces) == data
        await drop_orphans(image.inner)
        assert await store.list() == []


@pytest.mark.ceph
async def test_images_move_between_all_kinds(
    ceph: Cluster, pool: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    stores = [
        {"id": "disk"}, {"id": "pool", "type": "rbd", **ceph.rbd(pool)},
        {"id": "bucket", **settings("gateway", request, tmp_path.name)},
        {"id": "container", **settings("swift", request, f"{tmp_path.name}-swift")},
    ]  # fmt: skip
    async with cloud(tmp_path, *stores) as image:
        image_id = await make(image)
        assert (await put(image, image_id, DATA, what="stage")).status == 204
        assert (await start(image, image_id, {"name": "glance-direct"}, all_stores=True)).status == 202
        assert (await ended(image, image_id))["status"] == "success"
        document = await show(image, image_id)
        assert sorted(document["stores"].split(",")) == ["bucket", "container", "disk", "pool"]
        for store in ("disk", "pool", "bucket", "container"):
            got = await image.request("GET", f"/v2/images/{image_id}/file?prefer={store}")
            assert (got.status, got.data == DATA) == (200, True)
            part = await image.request(
                "GET", f"/v2/images/{image_id}/file?prefer={store}", headers={"range": "bytes=7-1048600"}
            )
            assert (part.status, part.data == DATA[7:1048601]) == (206, True)
        kinds = (await image.request("GET", "/v2/info/stores/detail", token=ADMIN)).json["stores"]
        assert [one["type"] for one in kinds] == ["file", "rbd", "s3", "swift"]
        assert kinds[1]["properties"] == {"pool": pool, "chunk_size": 4194304, "thin_provisioning": True}
        for origin, target in (("disk", "pool"), ("pool", "bucket"), ("bucket", "container"), ("container", "disk")):
            one = await make(image)
            assert (await put(image, one, DATA, store=origin)).status == 204
            assert (await start(image, one, {"name": "copy-image"}, ADMIN, stores=[target])).status == 202
            assert (await ended(image, one))["status"] == "success"
            assert (await image.request("DELETE", f"/v2/stores/{origin}/{one}", token=ADMIN)).status == 204
            assert (await show(image, one))["stores"] == target
            assert (await image.request("GET", f"/v2/images/{one}/file")).data == DATA
            assert (await image.request("DELETE", f"/v2/images/{one}")).status == 204
        assert (await image.request("DELETE", f"/v2/images/{image_id}")).status == 204
        for store in ("disk", "pool", "bucket", "container"):
            assert await image.inner.stores[store].store.list() == [], store


@pytest.mark.ceph
@pytest.mark.parametrize("kind", ["rbd", "swift"])
def test_memory_stays_flat(kind: str, ceph: Cluster, pool: str, tmp_path: Path) -> None:
    """The same as for files: see test_streaming."""
    stores = [{"id": "far", "type": "rbd", **ceph.rbd(pool)}]
    if kind == "swift":
        stores = [{"id": "far", "type": "swift", **ceph.container(tmp_path.name), "segment_mib": 1024}]
    child = [sys.executable, "-m", "tests.services.image.streaming", str(tmp_path), "320", json.dumps(stores)]
    done = subprocess.run(child, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300

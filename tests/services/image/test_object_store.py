# SPDX-License-Identifier: Apache-2.0
"""The object store against a server that speaks S3: whole objects, ranges, parts, ownership of a prefix."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulet.image.config import StoreConfig
from cumulet.image.store.object import ObjectStore
from cumulet.kernel.pools import Pool
from tests.contract.image.lone import lone_service

BUCKET = "images"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The URL of a server on loopback with one empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")) as answer:
        assert answer.status == 200
    yield url
    server.stop()


def config(endpoint: str, prefix: str) -> StoreConfig:
    return StoreConfig("far", "object", bucket=BUCKET, prefix=prefix, endpoint=endpoint, access_key="k", secret_key="s")


@pytest.fixture
async def store(endpoint: str, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    made = ObjectStore(config(endpoint, tmp_path.name), tmp_path, Pool("s3", 2))
    await made.open()
    yield made
    await made.close()


async def read(store: ObjectStore, key: str, *where: Any) -> bytes:
    return b"".join([piece async for piece in await store.read(key, *where)])


async def test_objects(store: ObjectStore) -> None:
    data = os.urandom(20 * 1024 * 1024 + 7)  # several parts
    writer = await store.write("data-1")
    for start in range(0, len(data), 1024 * 1024):
        writer.write(data[start : start + 1024 * 1024])
    assert await store.list() == []
    await writer.commit()
    assert (await store.list(), await store.size("data-1")) == (["data-1"], len(data))
    assert await read(store, "data-1") == data
    assert await read(store, "data-1", 5, 10) == data[5:15]
    assert await read(store, "data-1", len(data) - 3) == data[-3:]
    assert await read(store, "data-1", 0, 0) == b""
    assert store.url("data-1").startswith(f"s3://{BUCKET}/")
    broken = await store.write("data-2")
    broken.write(b"x" * 100)
    await broken.abort()
    assert await store.list() == ["data-1"]
    for _ in range(2):
        await store.delete("data-1")
    for asked in (store.size("data-1"), store.read("data-1")):
        with pytest.raises(FileNotFoundError):
            await asked


async def test_a_prefix_belongs_to_one_cloud(endpoint: str, store: ObjectStore, tmp_path: Path) -> None:
    again = ObjectStore(config(endpoint, tmp_path.name), tmp_path, Pool("s3", 2))
    await again.open()
    stranger = ObjectStore(config(endpoint, tmp_path.name), tmp_path / "other", Pool("s3", 2))
    with pytest.raises(OSError, match="another cloud"):
        await stranger.open()
    absent = StoreConfig("n", "object", bucket="none", endpoint=endpoint, access_key="k")
    nobody = ObjectStore(absent, tmp_path, Pool("s3", 2))
    with pytest.raises(OSError, match="can't be used"):
        await nobody.open()


async def test_images_live_there(endpoint: str, tmp_path: Path) -> None:
    far = {
        "id": "far", "type": "object", "bucket": BUCKET, "prefix": "cloud", "endpoint": endpoint, "access_key": "k",
        "secret_key": "s",
    }  # fmt: skip
    settings = {"image": {"stores": [far, {"id": "near"}]}}
    async with lone_service("image", tmp_path, {"image-api"}, mount="/image", settings=settings) as image:
        body = {"disk_format": "raw", "container_format": "bare"}
        image_id = (await image.request("POST", "/v2/images", body)).json["id"]
        path, data = f"/v2/images/{image_id}", os.urandom(3_000_000)
        headers = {"content-type": "application/octet-stream"}
        assert (await image.request("PUT", f"{path}/file", headers=headers, body=data)).status == 204
        document = (await image.request("GET", path)).json
        assert (document["status"], document["stores"]) == ("active", "far")
        assert (await image.request("GET", f"{path}/file")).data == data
        part = await image.request("GET", f"{path}/file", headers={"range": "bytes=10-19"})
        assert (part.status, part.data) == (206, data[10:20])
        assert (await image.request("DELETE", path)).status == 204
        assert await image.inner.stores["far"].store.list() == []

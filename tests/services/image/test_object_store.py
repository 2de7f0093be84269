# SPDX-License-Identifier: Apache-2.0
"""The object store against a played S3 server: ownership of a prefix, images through the API (see also test_stores)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cumulet.image.config import StoreConfig
from cumulet.image.store.model import StoreTaken
from cumulet.image.store.object import ObjectStore
from cumulet.kernel.pools import Pool
from tests.contract.image.lone import lone_service
from tests.services.image.stores import BUCKET, moto  # noqa: F401 - a fixture


def config(endpoint: str, prefix: str) -> StoreConfig:
    return StoreConfig("far", "object", bucket=BUCKET, prefix=prefix, endpoint=endpoint, access_key="k", secret_key="s")


async def test_a_prefix_belongs_to_one_cloud(moto: str, tmp_path: Path) -> None:  # noqa: F811
    for _ in range(2):
        ours = ObjectStore(config(moto, tmp_path.name), tmp_path, Pool("s3", 2))
        await ours.open()
        await ours.close()
    stranger = ObjectStore(config(moto, tmp_path.name), tmp_path / "other", Pool("s3", 2))
    with pytest.raises(StoreTaken, match="another cloud"):
        await stranger.open()
    absent = StoreConfig("n", "object", bucket="none", endpoint=moto, access_key="k")
    nobody = ObjectStore(absent, tmp_path, Pool("s3", 2))
    with pytest.raises(OSError, match="can't be used"):
        await nobody.open()


async def test_several_services_of_one_cloud_share_it(moto: str, tmp_path: Path) -> None:  # noqa: F811
    far = {"id": "far", "type": "object", "bucket": BUCKET, "prefix": tmp_path.name, "endpoint": moto,
           "access_key": "k", "secret_key": "s"}  # fmt: skip
    for folder, cloud, opens in (("a", "one", True), ("b", "one", True), ("c", "two", False)):
        service = lone_service(
            "image", tmp_path / folder, {"image-api"}, mount="/image", settings={"image": {"stores": [far]}},
            options={"cloud_id": cloud},
        )  # fmt: skip
        if opens:
            async with service as image:
                assert await image.inner.stores["far"].store.list() == []
        else:
            with pytest.raises(StoreTaken):
                await service.__aenter__()


async def test_images_live_there(moto: str, tmp_path: Path) -> None:  # noqa: F811
    far = {
        "id": "far", "type": "object", "bucket": BUCKET, "prefix": "cloud", "endpoint": moto, "access_key": "k",
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

# SPDX-License-Identifier: Apache-2.0
"""The first image: registered once from a local file, finished after a crash, refused when it is bad."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cumulet.image.service import bootstrap
from cumulet.kernel.errors import UnsupportedMedia
from tests.contract.image.lone import DEMO, lone_service


async def test_the_guest_image_is_registered_once(tmp_path: Path) -> None:
    path = tmp_path / "guest.raw"
    path.write_bytes(b"guest" * 100_000)
    guest = {"name": "guest", "path": str(path), "disk_format": "raw"}
    for _ in range(2):
        options = {"guest_image": guest}
        async with lone_service("image", tmp_path / "d", {"image-api"}, mount="/image", options=options) as lone:
            (document,) = (await lone.request("GET", "/v2/images", token=DEMO)).json["images"]
            assert (document["name"], document["visibility"], document["status"]) == ("guest", "public", "active")
            assert document["os_hash_value"] == hashlib.sha512(path.read_bytes()).hexdigest()
            data = (await lone.request("GET", f"/v2/images/{document['id']}/file", token=DEMO)).data
            assert data == path.read_bytes()


async def test_a_bad_file_is_refused_and_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "guest.qcow2"
    path.write_bytes(b"not a disk")
    async with lone_service("image", tmp_path / "d", {"image-api"}, mount="/image") as lone:
        with pytest.raises(UnsupportedMedia):
            await bootstrap(lone.inner, name="g", path=path, disk_format="qcow2")
        (document,) = (await lone.request("GET", "/v2/images", token=DEMO)).json["images"]
        assert document["status"] == "queued"

# SPDX-License-Identifier: Apache-2.0
"""The typed image client against the real service: what it fetches is verified."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cumulet.client.image import ImageClient
from cumulet.client.session import ServiceSession
from cumulet.kernel.errors import Conflict, Invalid, NotFound, Unavailable
from cumulet.kernel.pools import Pool
from tests.contract.image.lone import SERVICE, Lone, lone_service


class PlayedSession(ServiceSession):
    """A session whose own token is one that the played identity service knows."""

    async def token(self) -> str:
        return SERVICE


@pytest.fixture
async def lone(tmp_path: Path) -> AsyncIterator[Lone]:
    async with lone_service("image", tmp_path / "cloud", {"image-api"}, mount="/image") as service:
        yield service


def client_of(lone: Lone) -> ImageClient:
    return ImageClient(PlayedSession(lambda type_: lone.transport, "compute", ""))


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65536):
        yield data[start : start + 65536]


async def make(client: ImageClient, data: bytes, **more: Any) -> str:
    body = {"disk_format": "raw", "container_format": "bare", **more}
    image = await client.create_image(body)
    await client.upload(image.id, pieces(data), len(data))
    return image.id


async def test_what_is_fetched_is_what_was_uploaded(lone: Lone, tmp_path: Path) -> None:
    client, pool, data = client_of(lone), Pool("t", 2), b"disk" * 200_000
    image_id = await make(client, data, name="n", os_distro="debian", min_disk=2)
    image = await client.image(image_id)
    assert (image.name, image.min_disk, image.properties) == ("n", 2, {"os_distro": "debian"})
    assert [one.id for one in await client.images(name="n")] == [image_id]
    target = tmp_path / "disk"
    assert await client.fetch(image, target, pool) == len(data)
    assert target.read_bytes() == data
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    await client.delete_image(image_id)
    with pytest.raises(NotFound):
        await client.image(image_id)


async def test_what_is_not_right_is_not_left_behind(lone: Lone, tmp_path: Path) -> None:
    client, pool = client_of(lone), Pool("t", 2)
    empty = await client.create_image({"disk_format": "raw", "container_format": "bare"})
    target = tmp_path / "x"
    with pytest.raises(Invalid):
        await client.fetch(empty, target, pool)
    with pytest.raises(Conflict):
        async for _ in client.download(empty.id):
            pass
    image = await client.image(await make(client, b"x" * 1000))
    with pytest.raises(Unavailable, match="another content"):
        await client.fetch(msgspec.structs.replace(image, os_hash_value="0" * 128), target, pool)
    with pytest.raises(Unavailable, match="1000 bytes instead of 999"):
        await client.fetch(msgspec.structs.replace(image, size=999), target, pool)
    with pytest.raises(Invalid, match="does not match"):
        await client.fetch(msgspec.structs.replace(image, disk_format="qcow2"), target, pool)
    gone = msgspec.structs.replace(image, id=empty.id)
    await client.delete_image(empty.id)
    with pytest.raises(NotFound, match=r"No image found with ID [0-9a-f-]+$"):
        await client.fetch(gone, target, pool)
    assert not [path for path in tmp_path.iterdir() if path.name != "cloud"]


async def test_an_upload_that_is_refused_says_why(lone: Lone, tmp_path: Path) -> None:
    client = client_of(lone)
    base, disk = tmp_path / "b.qcow2", tmp_path / "d.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "1M"], check=True)
    backed = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(disk)]
    subprocess.run(backed, check=True)
    with pytest.raises(Exception, match="safety checks"):
        await make(client, disk.read_bytes(), disk_format="qcow2")

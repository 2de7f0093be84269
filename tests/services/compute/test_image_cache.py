# SPDX-License-Identifier: Apache-2.0
"""A host's image cache forgets what nobody uses, and never what a guest stands on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cumulet.client.image import ImageRecord
from cumulet.compute.agent.images import ImageCache
from cumulet.kernel import clock
from cumulet.kernel.pools import Pool

DAY = 86_400.0


class Images:
    """The image service, as far as the cache speaks to it."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    async def fetch(self, image: ImageRecord, path: Path, files: Pool) -> None:
        self.loaded.append(image.id)
        path.write_bytes(b"bits")


@pytest.fixture
def images() -> Images:
    return Images()


@pytest.fixture
def cache(tmp_path: Path, images: Images) -> ImageCache:
    made = ImageCache(tmp_path, images, Pool("files", 0), None)  # type: ignore[arg-type]
    made.open()
    return made


def record(name: str) -> Any:
    return ImageRecord(id=name, name=name, status="active", disk_format="raw", size=4, checksum="c" * 32)


def age(path: str, seconds: float) -> None:
    then = clock.now() - seconds
    os.utime(path, (then, then))


async def test_what_is_old_and_unused_goes(tmp_path: Path, cache: ImageCache, images: Images) -> None:
    old, used, young = [await cache.ensure(record(name)) for name in ("old", "used", "young")]
    age(old.path, DAY + 60)
    age(used.path, 30 * DAY)
    age(young.path, DAY - 60)
    coming = tmp_path / "coming.raw.part"
    coming.touch()
    age(str(coming), 2 * DAY)
    assert await cache.evict({used.path}, DAY) == [Path(old.path).name]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [Path(used.path).name, Path(young.path).name, coming.name]
    )
    assert await cache.ensure(record("old")) == old
    assert images.loaded == ["old", "used", "young", "old"]


async def test_each_use_makes_it_young_again(cache: ImageCache, images: Images) -> None:
    image = await cache.ensure(record("one"))
    age(image.path, 2 * DAY)
    await cache.ensure(record("one"))
    assert await cache.evict(set(), DAY) == []
    assert images.loaded == ["one"]

# SPDX-License-Identifier: Apache-2.0
"""Every kind of store, made for a test: what the Store contract is held against."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cumulet.image.config import StoreConfig
from cumulet.image.store import make_stores
from cumulet.image.store.model import Store
from cumulet.kernel.pools import Pool
from tests.ceph import Cluster

BUCKET = "images"
KINDS = ["file", "moto", *(pytest.param(kind, marks=pytest.mark.ceph) for kind in ("gateway", "swift", "rbd"))]
"""A directory, a played S3 server, Ceph's real gateway by its S3 and its Swift API, a real pool."""
SECONDS = 2
"""How long a store of a test may take to answer, when the test is about one that does not."""


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The URL of a played S3 server on loopback with one empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")) as answer:
        assert answer.status == 200
    yield url
    server.stop()


def settings(kind: str, request: pytest.FixtureRequest, prefix: str) -> dict[str, Any]:
    """What ``[[image.stores]]`` says of a store of that kind, apart from its id."""
    if kind == "file":
        return {"type": "file"}
    if kind == "moto":
        played = {"endpoint": request.getfixturevalue("moto"), "access_key": "k", "secret_key": "s"}
        return {"type": "object", "bucket": BUCKET, "prefix": prefix, **played}
    cluster: Cluster = request.getfixturevalue("ceph")
    if kind == "gateway":
        return {"type": "object", **cluster.bucket(prefix)}
    if kind == "swift":
        return {"type": "swift", **cluster.container(prefix)}
    pool: str = request.getfixturevalue("ceph_pool")
    return {"type": "rbd", **cluster.rbd(pool)}


def make(config: dict[str, Any], folder: Path, pool: Pool) -> Store:
    """The store, as the service makes it; not opened."""
    from cumulet.image.config import ImageConfig
    from cumulet.image.web import Web

    one = msgspec.convert({"id": "near", **config}, StoreConfig)
    image = ImageConfig(stores=[one])
    return make_stores(image, folder, pool, pool, Web(image))["near"].store


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """One store of each kind, empty."""
    pool = Pool("stores", 2)
    folder = tmp_path
    if request.param == "rbd":  # a module's tests are one cloud, since they share the pool
        folder = tmp_path.parent / "rbd-cloud"
    made = make(settings(request.param, request, tmp_path.name), folder, pool)
    await made.open()
    yield made
    for key in await made.list():
        await made.delete(key)
    await made.close()
    pool.close()

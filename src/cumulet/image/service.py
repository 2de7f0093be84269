# SPDX-License-Identifier: Apache-2.0
"""The image service as the assembly sees it: one role, its reconcilers, the first image."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec

from cumulet.client.session import ServiceSession
from cumulet.image import loops
from cumulet.image.api import ROUTES
from cumulet.image.config import ImageConfig
from cumulet.image.errors import ImageDialect
from cumulet.image.logic import Image
from cumulet.image.logic import data as data_logic
from cumulet.image.logic import images as image_logic
from cumulet.image.logic.limits import Limits
from cumulet.image.logic.metadefs import load_published
from cumulet.image.models import METADATA, fences, images, sagas
from cumulet.image.policy import BESIDES, RULES
from cumulet.image.published import published
from cumulet.image.sagas import ALL
from cumulet.image.states import ACTIVE, DELETED
from cumulet.image.store import make_stores
from cumulet.image.store.far import FarStore
from cumulet.image.store.file import FileStore
from cumulet.image.store.owner import own_id
from cumulet.image.web import Web
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row
from cumulet.kernel.fences import Fences
from cumulet.kernel.http import Api, Flow
from cumulet.kernel.ids import new_request_id
from cumulet.kernel.policy import Policy
from cumulet.kernel.pools import Pool
from cumulet.kernel.registry import Parts, Role, Runnable, Service
from cumulet.kernel.saga import SagaEngine


async def build(parts: Parts, roles: set[str]) -> Service:
    """The service with its one role ``image-api``."""
    config = parts.settings.section("image", ImageConfig)
    folder = parts.data / "image"
    pool, far_pool = Pool("image", 4), Pool("image-far", 4)
    policy = Policy(RULES, besides=BESIDES)
    session = ServiceSession(parts.transport, "image", parts.secrets.get("service:image"))
    web = Web(config)
    stores = make_stores(config, folder, pool, far_pool, web)
    if any(isinstance(place.store, FarStore) for place in stores.values()):
        await pool.run(own_id, folder, str(parts.options.get("cloud_id") or ""))
    image = Image(
        database=await parts.open_database("image", METADATA, Path(__file__).parent / "migrations"),
        config=config,
        policy=policy,
        stores=stores,
        staging=FileStore(Path(config.staging) if config.staging else folder / "staging", pool),
        cached=FileStore(folder / "cache", pool),
        pool=pool,
        web=web,
        session=session,
        limits=Limits(session, config),
        node=parts.host,
    )
    image.engine = SagaEngine(
        image.database, sagas, ALL, world=image, seal=parts.seal, component="image-api", host=parts.host,
        sole=bool(parts.options.get("sole", True)), workers=8,
    )  # fmt: skip
    opened = (image.staging, image.cached, *(place.store for place in image.stores.values()))
    await asyncio.gather(*(store.open() for store in opened))
    api = Api(
        "image",
        ROUTES,
        dialect=ImageDialect(),
        policy=policy,
        service=image,
        authenticator=parts.authenticator,
        component="image-api",
        host=parts.host,
        flow=Flow("image.token.validate"),
        trailing_slash=False,
        fences=Fences(image.database, fences),
    )

    async def first(facts: dict[str, Any]) -> None:
        """The published metadata definitions, once; the guest image of this start (options ``guest_image``: name,
        path, disk_format)."""
        await load_published(image, published())
        guest = parts.options.get("guest_image")
        if guest:
            await bootstrap(image, owner=(facts.get("projects") or {}).get("admin"), **guest)

    async def close() -> None:
        for place in image.stores.values():
            await place.store.close()
        pool.close()
        far_pool.close()

    tasks: list[Runnable] = [image.engine, *loops.make(image)]
    return Service(
        name="image",
        type="image",
        mount="/image",
        endpoint="",
        port=9292,
        roles=[Role("image-api", app=api, tasks=tasks)],
        close=close,
        bootstrap=first,
    )


async def bootstrap(
    image: Image, *, name: str, path: str | Path, disk_format: str, owner: str | None = None
) -> dict[str, Any]:
    """Ensure a public active image ``name`` from a local file, by the same way as an upload.

    Returns its record; one that was left half-way is filled. Raises UnsupportedMedia for a bad file.
    """
    caller = Context(request_id=new_request_id(), project_id=owner, roles=["admin"])
    public = (images.c.name == name) & (images.c.visibility == "public") & (images.c.status != DELETED)
    row: Row | None = await image.database.first(images.select().where(public).order_by(images.c.created_at))
    if row is None:
        wanted = {
            "name": name, "visibility": "public", "disk_format": disk_format, "container_format": "bare",
            "owner": owner,
        }  # fmt: skip
        row = await image_logic.create(image, caller, wanted)
    if row["status"] == "queued":
        file = await image.pool.run(_open, path)
        try:
            await data_logic.upload(image, row, _File(file, image.pool), announced=os.stat(path).st_size)
        finally:
            file.close()
    found = await image_logic.load(image, msgspec.structs.replace(caller, project_id=row["owner"]), row["id"])
    assert found["status"] in (ACTIVE, "saving", "deactivated")
    return found


def _open(path: str | Path) -> Any:
    return Path(path).open("rb", buffering=0)


class _File:
    """A local file as a source of pieces."""

    def __init__(self, file: Any, pool: Pool) -> None:
        self._file, self._pool = file, pool

    async def read(self, size: int = -1) -> bytes:
        piece: bytes = await self._pool.run(self._file.read, size)
        return piece

# SPDX-License-Identifier: Apache-2.0
"""What the image service holds, for the invariant checker: records, what no record names, sagas that are not over."""

from __future__ import annotations

from sqlalchemy import select

from cumulet.image.logic import Image
from cumulet.image.loops import find_orphans
from cumulet.image.models import images, sagas
from cumulet.image.sagas import ALL
from cumulet.image.states import DELETED
from cumulet.kernel import owned
from cumulet.kernel.db import Database, Row


def _database(image: Image) -> Database:
    return image.database


async def _stray(image: Image) -> list[Row]:
    """Bytes in stores and in the staging area that belong to nobody."""
    return [{"id": f"{key}@{place}", "key": key, "store": place} for place, _, key in await find_orphans(image)]


_IMAGES = select(images.c.id, images.c.status, images.c.owner, images.c.created_at).where(images.c.status != DELETED)
ROUTES = owned.routes(
    "/v2",
    [
        owned.rows("image", _database, _IMAGES, images.c.id),
        owned.whole("stray", _stray),
        owned.sagas(_database, sagas, ALL),
    ],
)

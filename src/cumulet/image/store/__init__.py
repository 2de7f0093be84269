# SPDX-License-Identifier: Apache-2.0
"""Where image bytes live: a small Protocol and its back ends."""

from __future__ import annotations

from pathlib import Path

from cumulet.image.config import ImageConfig, StoreConfig
from cumulet.image.store.far import FarStore
from cumulet.image.store.file import PIECE, FileStore
from cumulet.image.store.model import Place, Store
from cumulet.image.store.web import WebStore
from cumulet.image.web import Web
from cumulet.kernel.pools import Pool
from cumulet.kernel.settings import SettingsError

BLOCK = 4 * 1024 * 1024
"""Bytes of one object of Ceph's."""
_FIRST = "file"
"""The id of the store whose folder is called ``store``, as it was when there was only one."""


def make_stores(config: ImageConfig, folder: Path, pool: Pool, far_pool: Pool, web: Web) -> dict[str, Place]:
    """The stores of the settings by id, in their order; raises SettingsError.

    ``far_pool``: for the blocking calls of stores on other machines, which may hang.
    """
    places = {one.id: _place(one, folder, pool, far_pool, web) for one in config.stores}
    if len(places) != len(config.stores):
        raise SettingsError("[image] stores: two stores have the same id")
    if not places or next(iter(places.values())).read_only:
        raise SettingsError("[image] stores: the first store must be one that takes data")
    return places


def _place(one: StoreConfig, folder: Path, pool: Pool, far_pool: Pool, web: Web) -> Place:
    told = {"id": one.id, "kind": one.type, "description": one.description, "weight": one.weight}
    if one.type == "web":
        return Place(**told, store=WebStore(web), read_only=True)  # type: ignore[arg-type]
    if one.type == "object":
        from cumulet.image.store.object import ObjectStore

        if not one.bucket:
            raise SettingsError(f"[image] stores: {one.id} needs a bucket")
        far: Store = FarStore(one.id, ObjectStore(one, folder, far_pool))
        return Place(**told, store=far, properties={"bucket": one.bucket})  # type: ignore[arg-type]
    if one.type == "swift":
        from cumulet.image.store.swift import SwiftStore

        if not one.container or not one.auth_url:
            raise SettingsError(f"[image] stores: {one.id} needs a container and an auth_url")
        far = FarStore(one.id, SwiftStore(one, folder, far_pool))
        return Place(**told, store=far, properties={"container": one.container})  # type: ignore[arg-type]
    if one.type == "rbd":
        from cumulet.image.store.rbd import RbdStore

        far = FarStore(one.id, RbdStore(one, folder, far_pool))
        properties = {"pool": one.pool, "chunk_size": BLOCK, "thin_provisioning": True}
        return Place(**told, store=far, properties=properties)  # type: ignore[arg-type]
    path = Path(one.path) if one.path else folder / ("store" if one.id == _FIRST else f"store-{one.id}")
    properties = {"data_dir": str(path), "chunk_size": PIECE, "thin_provisioning": False}
    return Place(**told, store=FileStore(path, pool, one.id), properties=properties)  # type: ignore[arg-type]

# SPDX-License-Identifier: Apache-2.0
"""Accepting imports, copies and locations: what is refused at once, and the task and saga that begin otherwise.

One operation at a time works on an image: it holds ``task_id``, which the
transaction that starts it sets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from cumulet.image.logic import Image
from cumulet.image.logic.data import HASH, key_of
from cumulet.image.logic.images import check_quota, insert
from cumulet.image.logic.limits import UPLOADING
from cumulet.image.models import images, tasks
from cumulet.image.sagas.params import Copy, Import, Locate
from cumulet.image.states import IMAGE, QUEUED
from cumulet.image.states import UPLOADING as STAGED
from cumulet.image.web import WebError
from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, Forbidden, Invalid

_REMOTE = ("glance_region", "glance_image_id")


def new_task(kind: str, caller: Context, image_id: str, told: dict[str, Any]) -> Row:
    """The record of an operation that goes on after its request was answered."""
    now = clock.now()
    return {
        "id": ids.new_uuid(), "type": kind, "status": "pending", "owner": caller.project_id or "",
        "image_id": image_id, "request_id": caller.request_id, "user_id": caller.user_id or "",
        "input": told, "message": "", "result": None, "expires_at": None, "created_at": now, "updated_at": now,
    }  # fmt: skip


def check_state(row: Row, method: str) -> None:
    """Raise Conflict for an image that ``method`` can't fill now."""
    status = row["status"]
    if status == "active" and method != "copy-image":
        raise Conflict("Image with status active cannot be target for import")
    if status != "active" and method == "copy-image":
        raise Conflict("Only images with status active can be targeted for copying")
    if status != QUEUED and method in ("web-download", "glance-download"):
        raise Conflict(f"Image needs to be in 'queued' state to use '{method}' method")
    if method == "glance-direct" and (status != STAGED or row["staged_key"] is None):
        raise Conflict("Image needs to be staged before 'glance-direct' method can be used")
    for name in ("container_format", "disk_format"):
        if not row[name]:
            raise Conflict(f"'{name}' needs to be set before import")


def check_remote(method: dict[str, Any]) -> None:
    """Raise Invalid unless ``method`` names an image of another cloud."""
    for name in _REMOTE:
        if name not in method:
            raise Invalid(f"'{name}' needs to be set for glance-download import method")
    if not isinstance(method["glance_image_id"], str) or not ids.is_uuid(method["glance_image_id"]):
        raise Invalid(f"Remote image id does not look like a UUID: {str(method['glance_image_id'])[:80]}")
    method.setdefault("glance_service_interface", "public")


def _free(row: Row) -> None:
    if row["task_id"] is not None:
        raise Conflict("Image has active task")


async def check_url(image: Image, url: Any, what: str) -> str:
    """A URL that may be fetched; raises Invalid naming ``what`` it was for."""
    if not isinstance(url, str) or len(url) > 2048:
        raise Invalid(f"URI for {what} does not pass filtering: {str(url)[:255]}")
    try:
        await image.web.check(url)
    except WebError:
        raise Invalid(f"URI for {what} does not pass filtering: {url[:255]}") from None
    return url


async def begin_import(
    image: Image, caller: Context, row: Row, asked: dict[str, Any], stores: list[str], must_all: bool
) -> Row:
    """Accept an import by the method that ``asked`` names; a saga carries it out. Returns the task."""
    method: dict[str, Any] = asked["method"]
    _free(row)
    if method["name"] == "web-download":
        await check_url(image, method.get("uri"), "web-download")
    task = new_task(
        "api_image_import", caller, row["id"], {"image_id": row["id"], "import_req": asked, "backend": stores}
    )
    params = Import(
        image_id=row["id"], task_id=task["id"], method=method["name"], stores=stores, must_all=must_all,
        key=key_of(ids.new_uuid()), staged_key=row["staged_key"] or key_of(ids.new_uuid()),
        converted_key=key_of(ids.new_uuid()), url=method.get("uri") or "", region=method.get("glance_region") or "",
        interface=method.get("glance_service_interface") or "", remote_id=method.get("glance_image_id") or "",
    )  # fmt: skip
    limits = await image.limits.of(row["owner"])

    async def body(tx: Transaction) -> None:
        await check_quota(limits, tx, row["owner"], {UPLOADING: 1 if row["status"] == QUEUED else 0})
        await _start(image, tx, row, task, params, "image.import", begins="import", stores=stores)

    await image.database.run(body)
    return task


async def begin_copy(
    image: Image, caller: Context, row: Row, asked: dict[str, Any], stores: list[str], must_all: bool
) -> Row:
    """Accept the copying of an active image into further stores. Returns the task."""
    _free(row)
    task = new_task(
        "api_image_import", caller, row["id"], {"image_id": row["id"], "import_req": asked, "backend": stores}
    )
    params = Copy(row["id"], task["id"], stores, must_all, key_of(ids.new_uuid()))
    await image.database.run(lambda tx: _start(image, tx, row, task, params, "image.copy", stores=stores))
    return task


async def begin_location(image: Image, caller: Context, row: Row, url: str, validation: Mapping[str, str]) -> Row:
    """Accept data that is somewhere else as an image's data. Returns the task.

    Raises Conflict for an image that is not queued, Forbidden where nothing may be
    read from the web, Invalid for a bad URL or digest.
    """
    if row["status"] != QUEUED:
        raise Conflict(f"It's not allowed to add locations if image status is {row['status']}.")
    store = web_store(image)
    if store is None or not url.lower().startswith(("http://", "https://")):
        raise Forbidden("http store must be enabled to use location API by normal user.")
    check_digest(validation)
    await check_url(image, url, "add location")
    _free(row)
    task = new_task(
        "location_import", caller, row["id"],
        {"image_id": row["id"], "loc_url": url, "validation_data": dict(validation)},
    )  # fmt: skip
    algorithm = validation.get("os_hash_algo", HASH)
    params = Locate(
        row["id"], task["id"], store, url, algorithm, validation.get("os_hash_value", "").lower(),
        image.config.hash_locations,
    )  # fmt: skip
    await image.database.run(lambda tx: _start(image, tx, row, task, params, "image.locate", begins="import"))
    return task


def web_store(image: Image) -> str | None:
    """The store whose keys are URLs, if there is one."""
    return next((place.id for place in image.stores.values() if place.kind == "web"), None)


def check_digest(validation: Mapping[str, str]) -> None:
    """Raise Invalid for a digest that its algorithm can't have made."""
    if "os_hash_value" not in validation:
        return
    value, algorithm = validation["os_hash_value"], validation.get("os_hash_algo", HASH)
    try:
        size = len(bytes.fromhex(value))
    except ValueError:
        raise Invalid(f"os_hash_value ({value}) is not a valid hexadecimal value") from None
    wanted = hashlib.new(algorithm, usedforsecurity=False).digest_size
    if size != wanted:
        raise Invalid(
            f"os_hash_value: ({value}) is not the correct size for ({algorithm}) (should be ({wanted}) bytes)"
        )


async def _start(
    image: Image,
    tx: Transaction,
    row: Row,
    task: Row,
    params: msgspec.Struct,
    saga: str,
    *,
    begins: str = "",
    stores: list[str] | None = None,
) -> None:
    """Take the image and write task and saga, in the transaction that is open."""
    values: dict[str, Any] = {"task_id": task["id"]}
    if stores is not None:
        values |= {"importing": ",".join(stores), "failed": ""}
    if begins:
        await IMAGE.begin(tx, begins, row["id"], **values)
    else:
        mine = (images.c.id == row["id"]) & images.c.task_id.is_(None) & (images.c.status == row["status"])
        if not await tx.run(images.update().where(mine).values(**values)):
            raise Conflict(
                f"New operation on image '{row['id']}' is not permitted as prior operation is still in progress"
            )
    await tx.insert(tasks, task)
    await image.engine.start_saga(tx, saga, subject=row["id"], params=params)


async def begin_task(image: Image, caller: Context, wanted: Mapping[str, Any], told: dict[str, Any]) -> Row:
    """Accept a task of the old kind: an image like ``wanted``, filled from the web. Returns the task.

    ``told`` is the task's input as it was sent.
    """
    url = await check_url(image, told["import_from"], "legacy import task")
    now, image_id = clock.now(), ids.new_uuid()
    row: Row = {
        "id": image_id, "name": wanted.get("name"), "status": "importing",
        "visibility": wanted.get("visibility", "shared"), "owner": caller.project_id,
        "protected": wanted.get("protected", False), "os_hidden": wanted.get("os_hidden", False),
        "container_format": wanted.get("container_format", "bare"),
        "disk_format": wanted["disk_format"], "min_disk": wanted.get("min_disk", 0),
        "min_ram": wanted.get("min_ram", 0), "created_at": now, "updated_at": now,
    }  # fmt: skip
    task = new_task("import", caller, image_id, told)
    store = image.default.id
    row |= {"task_id": task["id"], "importing": store, "failed": ""}
    params = Import(
        image_id=image_id, task_id=task["id"], method="web-download", stores=[store], must_all=True,
        key=key_of(ids.new_uuid()), staged_key=key_of(ids.new_uuid()), converted_key=key_of(ids.new_uuid()), url=url,
        ends_image=True,
    )  # fmt: skip
    limits = await image.limits.of(caller.project_id)

    async def body(tx: Transaction) -> None:
        await check_quota(limits, tx, caller.project_id, {"image_count_total": 1, UPLOADING: 1})
        await insert(tx, row, wanted.get("properties", {}), wanted.get("tags", []))
        await tx.insert(tasks, task)
        await image.engine.start_saga(tx, "image.import", subject=image_id, params=params)

    await image.database.run(body)
    return task

# SPDX-License-Identifier: Apache-2.0
"""Image bytes over HTTP: upload, stage, import, download with ranges, and the tasks of imports."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import select

from cumulet.image.api.discovery import IMPORT_METHODS
from cumulet.image.errors import RangeNotSatisfiable
from cumulet.image.logic import STORE_ID, Image
from cumulet.image.logic import data as logic
from cumulet.image.models import tasks as task_table
from cumulet.image.schemas import IMAGE_ID
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Conflict, Forbidden, Invalid, NotFound, UnsupportedMedia
from cumulet.kernel.http import Answer, Request


def _announced(request: Request) -> int | None:
    """The size in bytes that the client says it will send (None: it does not say)."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/octet-stream":
        raise UnsupportedMedia(f"Invalid content type {kind[:80]}")
    text = request.headers.get("x-openstack-image-size")
    if text is not None and not re.fullmatch(r"\d{1,18}", text):
        raise Invalid("Invalid or missing image size in request headers.")
    length = text or request.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _check_store(name: str | None) -> None:
    if name is not None and name != STORE_ID:
        raise Invalid(f"Store for identifier {name} not found")


async def upload(request: Request) -> None:
    announced = _announced(request)
    _check_store(request.headers.get("x-image-meta-store"))
    assert request.stream is not None
    await logic.upload(request.service, request.found, request.stream, announced=announced)


async def stage(request: Request) -> None:
    announced = _announced(request)
    assert request.stream is not None
    await logic.stage(request.service, request.found, request.stream, announced=announced)


async def import_image(request: Request) -> None:
    method = request.body.get("method")
    if not isinstance(method, dict):
        raise Invalid("Import request requires a 'method' field.")
    if "name" not in method:
        raise Invalid("Import request requires a 'name' field.")
    if method["name"] not in IMPORT_METHODS:
        raise Invalid(f"Unknown import method name '{method['name']}'.")
    for name in ("all_stores", "all_stores_must_succeed"):
        if not isinstance(request.body.get(name, True), bool):
            raise Invalid(f"'{name}' must be boolean value only")
    stores = request.body.get("stores", [STORE_ID])
    if not isinstance(stores, list) or any(store != STORE_ID for store in stores):
        raise Conflict("One of the stores is not known to this cloud.")
    await logic.begin_import(request.service, request.context, request.found, request.body)


async def drop_from_store(request: Request) -> None:
    """There is one store, and the last copy may not go while the image lives."""
    if request.params["store_id"] != STORE_ID:
        raise Conflict(f"The selected store {request.params['store_id']} is not available on this node.")
    if request.found["status"] != "active":
        raise Conflict("It's not allowed to remove image data from store if image status is not 'active'")
    raise Forbidden("Cannot delete image data from the only store containing it. Consider deleting the image instead.")


async def download(request: Request) -> Answer:
    image: Image = request.service
    row = request.found
    if row["status"] == "deactivated" and not request.context.is_admin:
        raise Forbidden("The requested image has been deactivated. Image data download is forbidden.")
    request.enforce("download_image", {**row, "project_id": row["owner"]})
    if row["data_key"] is None:
        return Answer(status=204)
    headers = {"Accept-Ranges": "bytes"}
    span = byte_range(request.headers.get("range"), row["size"])
    if row["checksum"]:
        headers["Content-MD5"] = row["checksum"]
    if span is None:
        headers["Content-Length"] = str(row["size"])
        stream = await logic.open_data(image, row) if request.method != "HEAD" else None
        return Answer(headers=headers, stream=stream, content_type="application/octet-stream")
    start, end = span
    headers["Content-Length"] = str(end - start + 1)
    headers["Content-Range"] = f"bytes {start}-{end}/{row['size']}"
    stream = await logic.open_data(image, row, start, end - start + 1)
    return Answer(status=206, headers=headers, stream=stream, content_type="application/octet-stream")


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a Range header (RFC 9110, 14.2); None for the whole. Raises RangeNotSatisfiable."""
    if header is None:
        return None
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", header)
    if match is None:
        if re.fullmatch(r"\s*bytes\s*=.*,.*", header):
            return None  # several ranges at once: the whole is a right answer too
        raise RangeNotSatisfiable(f"Invalid range: {header[:80]}")
    first, last = match[1], match[2]
    if not first:
        if not last or int(last) == 0 or size == 0:
            raise RangeNotSatisfiable(f"Invalid range: {header[:80]}")
        return max(size - int(last), 0), size - 1
    start, end = int(first), min(int(last), size - 1) if last else size - 1
    if start >= size or end < start:
        raise RangeNotSatisfiable(f"Invalid range: {header[:80]}")
    return start, end


# ---- tasks


def task_view(task: Row, *, brief: bool = False) -> dict[str, Any]:
    names = ["id", "type", "status", "owner"]
    if not brief:
        names += ["input", "message", "result", "image_id", "request_id", "user_id"]
    return {
        **{name: task[name] for name in names},
        "created_at": clock.iso_z(task["created_at"]),
        "updated_at": clock.iso_z(task["updated_at"]),
        "self": f"/v2/tasks/{task['id']}",
        "schema": "/v2/schemas/task",
    }


async def tasks_of_image(request: Request) -> dict[str, Any]:
    image: Image = request.service
    mine = select(task_table).where(task_table.c.image_id == request.found["id"]).order_by(task_table.c.created_at)
    return {"tasks": [task_view(task) for task in await image.database.all(mine)]}


async def tasks(request: Request) -> dict[str, Any]:
    image: Image = request.service
    newest = select(task_table).order_by(task_table.c.created_at.desc(), task_table.c.id.desc()).limit(1000)
    rows = await image.database.all(newest)
    return {
        "tasks": [task_view(task, brief=True) for task in rows],
        "first": "/v2/tasks",
        "schema": "/v2/schemas/tasks",
    }


async def task(request: Request) -> dict[str, Any]:
    image: Image = request.service
    task_id = request.params["task_id"]
    row = await image.database.first(select(task_table).where(task_table.c.id == task_id))
    if row is None or not re.match(IMAGE_ID, task_id):
        raise NotFound(f"Task with the given id {task_id} was not found")
    return task_view(row)

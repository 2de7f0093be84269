# SPDX-License-Identifier: Apache-2.0
"""Image bytes over HTTP: upload, stage, import, download with ranges, deletion from a store."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from cumulet.image.errors import RangeNotSatisfiable
from cumulet.image.logic import Image, cache
from cumulet.image.logic import data as logic
from cumulet.image.logic import images as image_logic
from cumulet.image.logic import imports as import_logic
from cumulet.image.logic.limits import SIZE
from cumulet.image.store.model import Place
from cumulet.kernel.errors import Conflict, Forbidden, Invalid, OverQuota, UnsupportedMedia
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


def _place(image: Image, name: str | None) -> Place | None:
    """The store that the client chose; raises Invalid for one that takes nothing."""
    if name is None:
        return None
    if name not in image.writable:
        raise Invalid(f"Store for identifier {name} not found")
    return image.stores[name]


async def upload(request: Request) -> None:
    announced = _announced(request)
    place = _place(request.service, request.headers.get("x-image-meta-store"))
    assert request.stream is not None
    await logic.upload(request.service, request.found, request.stream, announced=announced, place=place)


async def stage(request: Request) -> None:
    announced = _announced(request)
    assert request.stream is not None
    await logic.stage(request.service, request.found, request.stream, announced=announced)


# ---- import


def _method(image: Image, body: dict[str, Any]) -> dict[str, Any]:
    method = body.get("method")
    if not isinstance(method, dict):
        raise Invalid("Import request requires a 'method' field.")
    if "name" not in method:
        raise Invalid("Import request requires a 'name' field.")
    if method["name"] not in image.config.import_methods:
        raise Invalid(f"Unknown import method name '{method['name']}'.")
    for name in ("all_stores_must_succeed", "all_stores"):
        if not isinstance(body.get(name, True), bool):
            raise Invalid(f"'{name}' must be boolean value only")
    return method


def _stores(request: Request) -> list[str]:
    """The stores that the body or the header asks for; raises Invalid and Conflict."""
    image: Image = request.service
    header = request.headers.get("x-image-meta-store")
    if request.body.get("all_stores"):
        if "stores" in request.body or header is not None:
            raise Invalid("All_stores parameter can't be used with x-image-meta-store header or stores parameter")
        return image.writable
    if "stores" in request.body and header is not None:
        raise Invalid("Stores parameter and x-image-meta-store header can't be both specified")
    stores = request.body.get("stores", [header or image.default.id])
    if not isinstance(stores, list) or not stores:
        raise Invalid("'stores' must be a list of store identifiers")
    for store in stores:
        if store not in image.writable:
            raise Conflict(f"Store for identifier {str(store)[:80]} not found")
    return list(dict.fromkeys(stores))


async def import_image(request: Request) -> None:
    image: Image = request.service
    row = request.found
    method = _method(image, request.body)
    await _check_size_quota(request)
    import_logic.check_state(row, method["name"])
    if method["name"] == "glance-download":
        import_logic.check_remote(method)
    copying = method["name"] == "copy-image"
    request.enforce("copy_image" if copying else "modify_image", image_logic.target_of(row))
    stores = _stores(request)
    must_all = request.body.get("all_stores_must_succeed", True)
    if not copying:
        await import_logic.begin_import(image, request.context, row, request.body, stores, must_all)
        return
    held = {one["store"] for one in row["locations"]}
    if request.body.get("all_stores"):
        stores = [store for store in stores if store not in held]
    elif there := [store for store in stores if store in held]:
        raise Invalid(f"Image is already present at store '{there[0]}'")
    if stores:
        await import_logic.begin_copy(image, request.context, row, request.body, stores, must_all)


async def _check_size_quota(request: Request) -> None:
    """Raise OverQuota for a project that has more than it may already."""
    image: Image = request.service
    project = request.context.project_id
    limit = (await image.limits.of(project))[SIZE]
    if project is not None and 0 <= limit < (await image_logic.usage(image.database, project))[SIZE]:
        raise OverQuota(f"Project {project} is over a limit for {SIZE} of {limit}")


async def drop_from_store(request: Request) -> None:
    image: Image = request.service
    store = request.params["store_id"]
    if store not in image.stores:
        raise Conflict(f"The selected store {store} is not available on this node.")
    request.enforce("get_image_location", image_logic.target_of(request.found))
    if request.found["status"] != "active":
        raise Conflict("It's not allowed to remove image data from store if image status is not 'active'")
    await image_logic.drop_from_store(image, request.found, store)


# ---- download


def _preferred(request: Request) -> list[str]:
    """The stores that a download asks for first (``?prefer=a,b``); raises Invalid."""
    image: Image = request.service
    given = dict(parse_qsl(request.query_text)).get("prefer", "")
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in image.stores:
            raise Invalid(f"Store '{name[:80]}' is not configured.")
    return names


async def download(request: Request) -> Answer:
    image: Image = request.service
    row = request.found
    if row["status"] == "deactivated" and not request.context.is_admin:
        raise Forbidden("The requested image has been deactivated. Image data download is forbidden.")
    request.enforce("download_image", {**row, "project_id": row["owner"]})
    if not row["locations"] or row["status"] not in ("active", "deactivated"):
        return Answer(status=204)
    prefer = _preferred(request)
    if prefer:
        request.enforce("download_from_store", {**row, "project_id": row["owner"]})
    headers = {"Accept-Ranges": "bytes"}
    if row["checksum"]:
        headers["Content-MD5"] = row["checksum"]
    status, start, length = 200, 0, None
    if row["size"] is not None:
        span = byte_range(request.headers.get("range"), row["size"])
        headers["Content-Length"] = str(row["size"])
        if span is not None:
            status, start, length = 206, span[0], span[1] - span[0] + 1
            headers["Content-Length"] = str(length)
            headers["Content-Range"] = f"bytes {span[0]}-{span[1]}/{row['size']}"
    stream: Any = None
    if request.method != "HEAD":
        stream = None if prefer else await cache.open_cached(image, row, start, length)
        stream = stream or await logic.open_data(image, row, start, length, prefer=prefer)
    return Answer(status=status, headers=headers, stream=stream, content_type="application/octet-stream")


_BAD_RANGE = "Invalid Range header."


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a Range header (RFC 9110, 14.2); None for the whole. Raises RangeNotSatisfiable."""
    if header is None:
        return None
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", header)
    if match is None:
        if re.fullmatch(r"\s*bytes\s*=.*,.*", header):
            return None  # several ranges at once: the whole is a right answer too
        raise RangeNotSatisfiable(_BAD_RANGE)
    first, last = match[1], match[2]
    if not first:
        if not last or int(last) == 0 or size == 0:
            raise RangeNotSatisfiable(_BAD_RANGE)
        return max(size - int(last), 0), size - 1
    start, end = int(first), min(int(last), size - 1) if last else size - 1
    if start >= size:
        raise RangeNotSatisfiable(
            f"Invalid start position in Range header. Start position MUST be in the inclusive range [0, {size - 1}]."
        )
    if end < start:
        raise RangeNotSatisfiable(_BAD_RANGE)
    return start, end

# SPDX-License-Identifier: Apache-2.0
"""The image service as the others see it: records, verified bytes, new images from a host.

Invariant of `fetch`: a file that it leaves behind is whole, has the digest that
the record names and the format that it declares, and names no other file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from cumulet.client.session import ServiceSession, fault_of_reply
from cumulet.kernel import clock, fences, ids
from cumulet.kernel.disks import Inspection, Refused
from cumulet.kernel.errors import Conflict, Invalid, NotFound, Unavailable
from cumulet.kernel.pools import Pool

_TYPE = "image"
_ADDRESS_SECONDS = 60.0
_TRANSFER = 6 * 3600.0
"""Seconds that one transfer of image data may take in all."""
_ATTRIBUTES = frozenset({
    "id", "name", "status", "visibility", "owner", "disk_format", "container_format", "size", "virtual_size",
    "min_disk", "min_ram", "checksum", "os_hash_algo", "os_hash_value", "protected", "os_hidden", "tags",
    "created_at", "updated_at", "self", "file", "schema", "stores", "direct_url", "locations",
})  # fmt: skip


class ImageRecord(msgspec.Struct, frozen=True):
    """An image as its service describes it. Sizes in bytes, ``min_disk`` in GiB, ``min_ram`` in MiB."""

    id: str
    status: str
    name: str | None = None
    visibility: str = "shared"
    owner: str | None = None
    disk_format: str | None = None
    container_format: str | None = None
    size: int | None = None
    virtual_size: int | None = None
    min_disk: int = 0
    min_ram: int = 0
    checksum: str | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None
    protected: bool = False
    tags: list[str] = []
    created_at: str = ""
    updated_at: str = ""
    properties: dict[str, str] = {}
    """Custom properties."""


class ImageClient:
    """Typed calls of the image API. ``as_service`` sends the service's own token alone."""

    def __init__(self, session: ServiceSession) -> None:
        self._session = session
        self._address: tuple[str, float] | None = None

    async def image(self, image_id: str, *, as_service: bool = False) -> ImageRecord:
        """One image; raises NotFound."""
        path = f"/v2/images/{quote(image_id, safe='')}"
        return _record(await self._session.call(_TYPE, "GET", path, as_service=as_service))

    async def images(self, *, as_service: bool = False, **filters: str) -> list[ImageRecord]:
        """All images that the caller sees and the filters let through, over all pages."""
        path: str | None = f"/v2/images?{urlencode({'limit': '1000', **filters})}"
        found: list[ImageRecord] = []
        while path is not None:
            page = await self._session.call(_TYPE, "GET", path, as_service=as_service)
            found += [_record(one) for one in page["images"]]
            path = page.get("next")
        return found

    async def locations(self, image_id: str) -> list[str]:
        """Where the image's data is, as URLs; asked as a service, whom this is told."""
        path = f"/v2/images/{quote(image_id, safe='')}/locations"
        return [str(one["url"]) for one in await self._session.call(_TYPE, "GET", path, as_service=True)]

    async def download(self, image_id: str, *, as_service: bool = False) -> AsyncIterator[bytes]:
        """The image's bytes in pieces. They are not verified here: see `fetch`. Raises Conflict without data."""
        path = f"/v2/images/{quote(image_id, safe='')}/file"
        headers = {"accept": "application/octet-stream, application/json"}
        reply = await self._session.send(_TYPE, "GET", path, headers=headers, as_service=as_service, timeout=_TRANSFER)
        if reply.status == 204:
            await reply.read()
            raise Conflict(f"Image {image_id} has no data.")
        if reply.status != 200:
            raise fault_of_reply(reply.status, await reply.read())
        async for piece in reply.pieces():
            yield piece

    async def fetch(self, image: ImageRecord, path: Path, pool: Pool, *, as_service: bool = False) -> int | None:
        """Ensure ``path`` holds the image's data, verified and durable; returns its virtual size in bytes.

        Raises Invalid for an image that is not active or whose content is not
        acceptable, Unavailable when bytes were lost on the way.
        """
        if image.status != "active" or image.disk_format is None:
            raise Invalid(f"Image {image.id} is not active.", kind="ImageNotActive")
        part = path.with_name(f".{path.name}.{ids.new_hex()}.part")
        sink = await pool.run(_Sink, part, image)
        try:
            pieces = self.download(image.id, as_service=as_service)
            async for piece in pieces:
                await pool.run(sink.take, piece, timeout=600.0)
            size = await pool.run(sink.finish, path, timeout=600.0)
        except Refused as error:
            raise Invalid(f"Image {image.id} is unacceptable: {error}", kind="ImageUnacceptable") from None
        finally:
            await asyncio.shield(pool.run(sink.drop))
        return size

    async def create_image(self, body: dict[str, Any], *, as_service: bool = False) -> ImageRecord:
        """A new queued image; an ``id`` chosen by the caller makes the call repeatable.

        Raises Conflict for an id that is there, and for one that a service has deleted (`cumulet.kernel.fences`).
        """
        headers = fences.header(fences.making() if "id" in body else None)
        return _record(
            await self._session.call(_TYPE, "POST", "/v2/images", body, headers=headers, as_service=as_service)
        )

    async def change_image(
        self, image_id: str, changes: dict[str, Any], *, as_service: bool = False
    ) -> ImageRecord:  # fmt: skip
        """Set members of an image, attributes and custom properties alike; the same again is success."""
        patch = [{"op": "add", "path": f"/{name}", "value": value} for name, value in changes.items()]
        headers = {"content-type": "application/openstack-images-v2.1-json-patch"}
        path = f"/v2/images/{quote(image_id, safe='')}"
        return _record(await self._session.call(_TYPE, "PATCH", path, patch, headers=headers, as_service=as_service))

    async def address(self) -> str:
        """The public URL of the service, as the catalogue has it or had it a minute ago; NotFound where it has none."""
        if self._address is None or self._address[1] < clock.monotonic():
            self._address = await self._look_up(), clock.monotonic() + _ADDRESS_SECONDS
        return self._address[0]

    async def _look_up(self) -> str:
        services = await self._session.call("identity", "GET", f"/v3/services?type={_TYPE}", as_service=True)
        for one in services["services"]:
            where = f"/v3/endpoints?interface=public&service_id={quote(one['id'], safe='')}"
            found = await self._session.call("identity", "GET", where, as_service=True)
            for endpoint in found["endpoints"]:
                return str(endpoint["url"]).rstrip("/")
        raise NotFound("The catalogue has no image service.")

    async def upload(self, image_id: str, pieces: AsyncIterator[bytes], size: int, *, as_service: bool = False) -> None:
        """Give a queued image its data: ``size`` bytes."""
        path = f"/v2/images/{quote(image_id, safe='')}/file"
        headers = {"content-type": "application/octet-stream", "x-openstack-image-size": str(size)}
        reply = await self._session.send(
            _TYPE, "PUT", path, pieces, headers=headers, as_service=as_service, timeout=_TRANSFER
        )
        data = await reply.read()
        if reply.status != 204:
            raise fault_of_reply(reply.status, data)

    async def delete_image(self, image_id: str, *, as_service: bool = False) -> None:
        """Raises NotFound and Forbidden (protected)."""
        path, headers = f"/v2/images/{quote(image_id, safe='')}", fences.header(fences.LAST if as_service else None)
        await self._session.call(_TYPE, "DELETE", path, headers=headers, as_service=as_service)


class _Sink:
    """A temporary file that is hashed and inspected while it grows; blocking, for a worker thread."""

    def __init__(self, part: Path, image: ImageRecord) -> None:
        self._part, self._image = part, image
        self._hash = hashlib.new(image.os_hash_algo or "sha512")
        self._inspection = Inspection(image.disk_format or "raw")
        self._size = 0
        self._file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb", buffering=0)

    def take(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._inspection.feed(piece)
        self._size += len(piece)
        rest = memoryview(piece)
        while rest:
            rest = rest[self._file.write(rest) :]

    def finish(self, path: Path) -> int | None:
        """Raises Unavailable for other bytes than the record names, Refused for bad content."""
        image = self._image
        if image.size is not None and self._size != image.size:
            raise Unavailable(f"Image {image.id} came with {self._size} bytes instead of {image.size}.")
        if image.os_hash_value and self._hash.hexdigest() != image.os_hash_value:
            raise Unavailable(f"Image {image.id} came with another content than its record names.")
        virtual_size = self._inspection.verdict()
        os.fsync(self._file.fileno())
        self._part.rename(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return virtual_size

    def drop(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


def _record(document: dict[str, Any]) -> ImageRecord:
    extra = {name: value for name, value in document.items() if name not in _ATTRIBUTES}
    return msgspec.convert({**document, "properties": extra}, ImageRecord)

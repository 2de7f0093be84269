# SPDX-License-Identifier: Apache-2.0
"""The host's image cache: each image's bits once, checksummed and format-inspected before any guest sees them.

A file appears under its final name only when it is whole, verified and on disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import weakref
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from cumulet.client.image import Image, ImageClient
from cumulet.kernel.pools import Pool, run_program
from cumulet.kernel.saga import Failed

_DIRECT = {"raw", "qcow2"}
_CONVERT_MEMORY = 1 << 30
_CONVERT_SECONDS = 600.0
_BATCH = 4 << 20


class CachedImage(msgspec.Struct, frozen=True):
    """A verified local copy."""

    path: str
    format: str
    virtual_gib: int
    """Size of the disk that it unpacks to, rounded up to GiB."""


class ImageCache:
    """Images of one host in one directory."""

    def __init__(self, directory: Path, client: ImageClient, files: Pool, gid: int | None) -> None:
        self._directory, self._client, self._files, self._gid = directory, client, files, gid
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def open(self) -> None:
        """Make the directory and drop what a crash left half-loaded."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._gid is not None:
            os.chown(self._directory, -1, self._gid)
            self._directory.chmod(0o2750)
        for partial in self._directory.glob("*.part"):
            partial.unlink(missing_ok=True)

    async def ensure(self, image: Image) -> CachedImage:
        """The local copy of an image, loaded if it is not there. Raises Failed for a bad image."""
        name = f"{image.id}-{(image.os_hash_value or image.checksum or 'unknown')[:16]}"
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            format_ = image.disk_format if image.disk_format in _DIRECT else "raw"
            path = self._directory / f"{name}.{format_}"
            if not path.exists():
                await self._load(image, path)
            size = await self._virtual_size(path, format_)
            return CachedImage(str(path), format_, -(-size // (1 << 30)))

    async def _load(self, image: Image, path: Path) -> None:
        partial = path.with_suffix(".part")
        try:
            await self._download(image, partial)
            if image.disk_format not in _DIRECT:
                converted = path.with_suffix(".converted.part")
                try:
                    await self._convert(image.disk_format or "raw", partial, converted)
                    converted.replace(path)
                finally:
                    converted.unlink(missing_ok=True)
            else:
                partial.replace(path)
        except OSError as error:
            raise Failed(f"The image can't be kept on this host: {os.strerror(error.errno or 0)}.") from None
        finally:
            partial.unlink(missing_ok=True)

    async def _download(self, image: Image, partial: Path) -> None:
        from oslo_utils.imageutils import format_inspector

        digest = hashlib.new(image.os_hash_algo or "sha512")
        inspector = format_inspector.get_inspector(image.disk_format or "raw")()
        with partial.open("wb") as file:
            partial.chmod(0o640)
            pending = bytearray()
            async for piece in self._client.download(image.id):
                pending += piece
                if len(pending) >= _BATCH:
                    await self._files.run(_take, file, bytes(pending), digest, inspector, timeout=120.0)
                    pending.clear()
            await self._files.run(_take, file, bytes(pending), digest, inspector, timeout=120.0)
            await self._files.run(_settle, file, timeout=120.0)
        if image.os_hash_value and digest.hexdigest() != image.os_hash_value:
            raise Failed(f"Image {image.id} is damaged: its {image.os_hash_algo} does not match.")
        try:
            if not inspector.format_match:
                raise Failed(f"Image {image.id} is not of its format {image.disk_format}.")
            inspector.safety_check()
        except format_inspector.SafetyCheckFailed as error:
            raise Failed(f"Image {image.id} is not safe to use: {error}") from None

    async def _convert(self, format_: str, source: Path, target: Path) -> None:
        argv = ["qemu-img", "convert", "-f", format_, "-O", "raw", "-t", "writeback", str(source), str(target)]
        done = await run_program(argv, timeout=_CONVERT_SECONDS)
        if done.status != 0:
            raise Failed(f"The image can't be converted from {format_}.")
        target.chmod(0o640)

    async def _virtual_size(self, path: Path, format_: str) -> int:
        if format_ == "raw":
            return path.stat().st_size
        with path.open("rb") as file:
            header = file.read(32)
        return int.from_bytes(header[24:32], "big")  # qcow2: size, at offset 24


def _take(file: BinaryIO, data: bytes, digest: Any, inspector: Any) -> None:
    file.write(data)
    digest.update(data)
    inspector.eat_chunk(data)


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())

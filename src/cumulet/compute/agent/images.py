# SPDX-License-Identifier: Apache-2.0
"""The host's image cache: each image's bits once, checksummed and format-inspected before any guest sees them.

Invariant: a file appears under its final name only when it is whole, verified
and on disk; what QEMU is given is always raw or qcow2, with its format spelt out.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Collection
from pathlib import Path

import msgspec

from cumulet.client.image import ImageClient, ImageRecord
from cumulet.kernel import clock
from cumulet.kernel.confined import run_confined
from cumulet.kernel.errors import Invalid
from cumulet.kernel.pools import Pool, ProgramFailed
from cumulet.kernel.saga import Failed

_DIRECT = frozenset({"raw", "qcow2"})
_CONVERT_SECONDS = 1800.0
_CONVERT_MEMORY = 2 << 30
_WORDS = {"vhd": "vpc", **dict.fromkeys(("iso", "ami", "ari", "aki"), "raw")}
"""Published format → qemu-img's word for it, where that is another."""
_GIB = 1 << 30


class CachedImage(msgspec.Struct, frozen=True):
    """A verified local copy."""

    path: str
    format: str
    virtual_gib: int
    """Size of the disk that it unpacks to, rounded up to GiB."""


class ImageCache:
    """Images of one host in one directory, readable by the group ``gid`` (QEMU's)."""

    def __init__(self, directory: Path, client: ImageClient, files: Pool, gid: int | None) -> None:
        self._directory, self._client, self._files, self._gid = directory, client, files, gid
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def open(self) -> None:
        """Make the directory and drop what a crash left half-loaded; blocking."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._gid is not None:
            os.chown(self._directory, -1, self._gid)
            self._directory.chmod(0o2750)
        for partial in self._directory.glob("*.part"):
            partial.unlink(missing_ok=True)

    async def ensure(self, image: ImageRecord) -> CachedImage:
        """The local copy of an image, loaded if it is not there.

        Raises Failed for an image that no guest may have, Unavailable for one that did not arrive.
        """
        name = f"{image.id}-{(image.os_hash_value or image.checksum or 'unknown')[:16]}"
        async with self._locks.setdefault(name, asyncio.Lock()):
            format_ = image.disk_format if image.disk_format in _DIRECT else "raw"
            path = self._directory / f"{name}.{format_}"
            if not await self._files.run(_use, path, clock.now()):
                await self._load(image, path)
        size = image.virtual_size or image.size or 0
        return CachedImage(str(path), format_ or "raw", -(-size // _GIB))

    async def evict(self, used: Collection[str], age: float) -> list[str]:
        """Drop the images that nobody asked for within ``age`` seconds and that are not among the paths ``used``.

        Returns their names.
        """
        gone = []
        for path in await self._files.run(lambda: sorted(self._directory.iterdir())):
            if path.suffix == ".part" or str(path) in used:
                continue
            async with self._locks.setdefault(path.stem, asyncio.Lock()):
                if await self._files.run(_drop_old, path, clock.now() - age):
                    gone.append(path.name)
        return gone

    async def _load(self, image: ImageRecord, path: Path) -> None:
        try:
            if image.disk_format in _DIRECT:
                await self._client.fetch(image, path, self._files)
                return
            foreign = path.with_suffix(".foreign.part")
            await self._client.fetch(image, foreign, self._files)
            await self._convert(image.disk_format or "raw", foreign, path)
        except Invalid as error:
            raise Failed(error.message, retryable=False) from None
        except OSError as error:
            raise Failed(f"The image can't be kept on this host: {os.strerror(error.errno or 0)}.") from None

    async def _convert(self, format_: str, source: Path, target: Path) -> None:
        converted = target.with_suffix(".converted.part")
        argv = ["qemu-img", "convert", "-f", _WORDS.get(format_, format_), "-O", "raw", str(source), str(converted)]
        try:
            limits = {"as": _CONVERT_MEMORY}
            await run_confined(argv, read=source, write=converted, timeout=_CONVERT_SECONDS, limits=limits)
            await self._files.run(_publish, converted, target, timeout=600.0)
        except ProgramFailed:
            raise Failed(f"The image can't be converted from {format_}.", retryable=False) from None
        finally:
            await self._files.run(_drop, source, converted)


def _use(path: Path, now: float) -> bool:
    """Whether the file is there; then it is marked as used now."""
    try:
        os.utime(path, (now, now))
    except FileNotFoundError:
        return False
    return True


def _drop_old(path: Path, before: float) -> bool:
    try:
        old = path.stat().st_mtime < before
    except FileNotFoundError:
        return False
    if old:
        path.unlink()
    return old


def _publish(converted: Path, target: Path) -> None:
    converted.chmod(0o640)
    with converted.open("rb") as file:
        os.fsync(file.fileno())
    converted.replace(target)


def _drop(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)

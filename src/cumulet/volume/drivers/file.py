# SPDX-License-Identifier: Apache-2.0
"""Volumes as sparse files in one directory of this host.

A file appears under its final name only when it is whole and durable: written
to a temporary name, fsynced, renamed. It belongs to the group that QEMU runs
with (mode 0660). Formats are always spelt out, never probed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import orjson

from cumulet.kernel import ids
from cumulet.kernel.confined import run_confined
from cumulet.kernel.pools import Pool, ProgramFailed, run_program
from cumulet.volume.drivers.model import BackendError, Capacity, Connection, NoSpace

GIB = 1024**3
_ID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_COPY_SECONDS = 4 * 3600.0
_LIMITS = {"as": 4 * GIB, "cpu": 3600}
"""What a qemu-img that reads hostile content may use: bytes of address space, seconds of CPU."""


class FileBackend:
    """Sparse ``raw`` or ``qcow2`` files named after their volume's or snapshot's id."""

    real = True
    schemes: frozenset[str] = frozenset()

    def __init__(self, folder: Path, pool: Pool, *, host: str, format: str = "raw", gid: int | None = None) -> None:
        self._folder, self._pool, self._host, self._format, self._gid = folder, pool, host, format, gid

    async def open(self) -> None:
        """Make the directory and drop what a crash left half-written."""

        def prepare() -> None:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._gid is not None:
                self._folder.parent.chmod(0o711)  # QEMU goes through it and sees nothing in it
                os.chown(self._folder, -1, self._gid)
                self._folder.chmod(0o2770)
            for part in self._folder.glob(".*.part"):
                part.unlink(missing_ok=True)

        await self._pool.run(prepare)

    async def capacity(self) -> Capacity:
        found = await self._pool.run(os.statvfs, self._folder)
        return Capacity(found.f_blocks * found.f_frsize / GIB, found.f_bavail * found.f_frsize / GIB)

    async def volumes(self) -> list[str]:
        def names() -> list[str]:
            return sorted(entry.name for entry in os.scandir(self._folder) if _ID.match(entry.name))

        return await self._pool.run(names)

    async def ensure_volume(self, volume_id: str, size_gib: int) -> None:
        if await self._there(volume_id, size_gib):
            return
        async with self._new(volume_id) as part:
            await self._create(part, size_gib)

    async def ensure_from_image(self, volume_id: str, size_gib: int, path: str, format: str) -> None:
        if await self._there(volume_id, size_gib):
            return
        async with self._new(volume_id) as part:
            await self._copy(path, format, part, hostile=True)
            await self._resize(part, size_gib)

    async def ensure_from_location(self, volume_id: str, size_gib: int, location: str, format: str) -> bool:
        return False

    async def ensure_clone(self, volume_id: str, size_gib: int, source_id: str) -> None:
        if await self._there(volume_id, size_gib):
            return
        source = self._path(source_id)
        if not await self._pool.run(source.exists):
            raise BackendError("The source is not on this back end.")
        async with self._new(volume_id) as part:
            await self._copy(str(source), self._format, part)
            await self._resize(part, size_gib)

    async def ensure_snapshot(self, snapshot_id: str, volume_id: str) -> None:
        if await self._pool.run(self._path(snapshot_id).exists):
            return
        source = self._path(volume_id)
        if not await self._pool.run(source.exists):
            raise BackendError("The volume is not on this back end.")
        async with self._new(snapshot_id) as part:
            await self._copy(str(source), self._format, part)

    async def ensure_size(self, volume_id: str, size_gib: int) -> None:
        path = self._path(volume_id)
        if not await self._pool.run(path.exists):
            raise BackendError("The volume is not on this back end.")
        if await self._size(path) < size_gib * GIB:
            await self._resize(path, size_gib)

    async def ensure_absent(self, volume_id: str) -> None:
        path = self._path(volume_id)

        def remove() -> None:
            path.unlink(missing_ok=True)
            self._sync_folder()

        await self._pool.run(remove, timeout=600.0)

    async def connect(self, volume_id: str, host: str) -> Connection:
        if host != self._host:
            raise BackendError(f"The volume is a file on {self._host} and can't be opened on another host.")
        path = self._path(volume_id)
        if not await self._pool.run(path.exists):
            raise BackendError("The volume is not on this back end.")
        return Connection("file", str(path), self._format)

    async def disconnect(self, volume_id: str, host: str) -> None:
        self._path(volume_id)

    # ---- inside

    def _path(self, id_: str) -> Path:
        if not _ID.match(id_):
            raise BackendError("That is not the id of a volume.")
        return self._folder / id_

    async def _there(self, volume_id: str, size_gib: int) -> bool:
        path = self._path(volume_id)
        if not await self._pool.run(path.exists):
            return False
        if await self._size(path) != size_gib * GIB:
            raise BackendError("A volume with that id and another size is there already.")
        return True

    async def _size(self, path: Path) -> int:
        """The size in bytes that a guest sees."""
        if self._format == "raw":
            found: os.stat_result = await self._pool.run(path.stat)
            return found.st_size
        done = await self._qemu_img("info", "--output=json", "-f", self._format, "-U", str(path), timeout=60.0)
        size: int = orjson.loads(done)["virtual-size"]
        return size

    @contextlib.asynccontextmanager
    async def _new(self, id_: str) -> AsyncIterator[Path]:
        """A temporary path; what is there in the end becomes the volume, after a failure nothing is left."""
        part = self._folder / f".{id_}.{ids.new_hex()}.part"
        try:
            yield part
            await self._pool.run(self._publish, part, self._path(id_), timeout=600.0)
        except OSError as error:
            raise _refusal(error) from None
        finally:
            await self._pool.run(lambda: part.unlink(missing_ok=True))

    def _publish(self, part: Path, path: Path) -> None:
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BackendError("The new volume is no plain file.")
            if self._gid is not None:
                os.fchown(descriptor, -1, self._gid)
            os.fchmod(descriptor, 0o660)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.rename(path)
        self._sync_folder()

    def _sync_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    async def _create(self, part: Path, size_gib: int) -> None:
        if self._format == "raw":

            def make() -> None:
                descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    os.truncate(descriptor, size_gib * GIB)
                finally:
                    os.close(descriptor)

            await self._pool.run(make)
        else:
            await self._qemu_img("create", "-q", "-f", self._format, str(part), f"{size_gib}G", timeout=60.0)

    async def _copy(self, source: str, format_: str, part: Path, *, hostile: bool = False) -> None:
        """Copy a disk; one that is ``hostile`` came from outside, and who reads it sees nothing else."""
        arguments = ["convert", "-q", "-f", format_, "-O", self._format, source, str(part)]
        confine = (Path(source), part) if hostile else None
        await self._qemu_img(*arguments, timeout=_COPY_SECONDS, confine=confine)

    async def _resize(self, path: Path, size_gib: int) -> None:
        have = await self._size(path)
        if have > size_gib * GIB:
            raise BackendError(f"The content needs {-(-have // GIB)} GiB and the volume has {size_gib} GiB.")
        if self._format == "raw":

            def grow() -> None:
                os.truncate(path, size_gib * GIB)
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

            try:
                await self._pool.run(grow, timeout=600.0)
            except OSError as error:
                raise _refusal(error) from None
        elif have < size_gib * GIB:
            await self._qemu_img("resize", "-q", "-f", self._format, str(path), f"{size_gib}G", timeout=600.0)

    async def _qemu_img(self, *arguments: str, timeout: float, confine: tuple[Path, Path] | None = None) -> bytes:
        """``confine``: the only files that the program may read, and write."""
        argv = ["qemu-img", *arguments]
        try:
            if confine is None:
                done = await run_program(argv, timeout=timeout, limits=_LIMITS)
            else:
                done = await run_confined(argv, read=confine[0], write=confine[1], timeout=timeout, limits=_LIMITS)
        except ProgramFailed as error:
            text = str(error)
            if "No space left" in text or "Disk quota" in text:
                raise NoSpace("The back end is full.") from None
            if "lock" in text:
                raise BackendError("The volume is in use by a guest; its content can't be copied now.") from None
            raise BackendError("The back end can't read or write the volume's data.") from error
        except TimeoutError:
            raise BackendError("Copying the volume's data took too long.") from None
        return done.stdout


def _refusal(error: OSError) -> BackendError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpace("The back end is full.")
    return BackendError(f"The back end failed: {os.strerror(error.errno or 0)}.")

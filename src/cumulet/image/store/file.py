# SPDX-License-Identifier: Apache-2.0
"""Objects as files in one directory: written to a temporary name, fsynced, renamed.

Files have mode 0640 and a name that only our own keys can have.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from cumulet.image.store.model import StoreFull
from cumulet.kernel.pools import Pool

PIECE = 1024 * 1024
"""Bytes that are read at once."""
_PART = ".part"
_PATIENCE = 600.0
"""Seconds that one operation on a slow disk may take."""


class FileStore:
    """A directory; ``pool`` does the blocking work, ``name`` stands for it in locations."""

    def __init__(self, folder: Path, pool: Pool, name: str = "") -> None:
        self._folder, self.pool, self._name = folder, pool, name

    async def open(self) -> None:
        await self.pool.run(lambda: self._folder.mkdir(parents=True, exist_ok=True, mode=0o750))

    async def close(self) -> None:
        """Nothing is held open between calls."""

    async def write(self, key: str) -> FileWriter:
        return await self._open(key, os.O_TRUNC)

    async def resume(self, key: str) -> tuple[FileWriter, int]:
        """Go on with an object that was begun; the bytes of it that are there."""
        writer = await self._open(key, os.O_APPEND)
        return writer, await self.pool.run(writer.written)

    async def _open(self, key: str, how: int) -> FileWriter:
        path = self.path(key)
        part = path.with_name(path.name + _PART)

        def create() -> IO[bytes]:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | how
            return os.fdopen(os.open(part, flags, 0o640), "wb", buffering=0)

        try:
            return FileWriter(await self.pool.run(create), part, path, self.pool)
        except OSError as error:
            raise _translated(error) from None

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> FileReader:
        path = self.path(key)

        def open_at() -> IO[bytes]:
            file = path.open("rb", buffering=0)
            file.seek(offset)
            return file

        return FileReader(await self.pool.run(open_at), length, self.pool)

    async def size(self, key: str) -> int:
        path = self.path(key)
        return await self.pool.run(lambda: path.stat().st_size)

    async def delete(self, key: str) -> None:
        path = self.path(key)

        def remove() -> None:
            path.unlink(missing_ok=True)
            path.with_name(path.name + _PART).unlink(missing_ok=True)

        await self.pool.run(remove, timeout=_PATIENCE)

    async def in_use(self, key: str) -> bool:
        return False

    async def list(self) -> list[str]:
        def names() -> list[str]:
            return sorted({entry.name.removesuffix(_PART) for entry in os.scandir(self._folder)})

        return await self.pool.run(names)

    def url(self, key: str) -> str:
        return f"file://{self._name}/{key}"

    def path(self, key: str) -> Path:
        """Where the object is, or will be."""
        if not key.replace("-", "").isalnum():
            raise ValueError("a store key holds letters, digits and dashes only")
        return self._folder / key


class FileWriter:
    """A file that is not there yet."""

    def __init__(self, file: IO[bytes], part: Path, path: Path, pool: Pool) -> None:
        self._file, self._part, self._path, self.pool = file, part, path, pool

    def written(self) -> int:
        """Bytes that are there; blocking."""
        return os.fstat(self._file.fileno()).st_size

    async def keep(self) -> None:
        """Close and leave what is there, to go on with it later."""
        await self.pool.run(self._file.close, timeout=_PATIENCE)

    def write(self, piece: bytes) -> None:
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise _translated(error) from None

    async def commit(self) -> None:
        def finish() -> None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.rename(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

        try:
            await self.pool.run(finish, timeout=_PATIENCE)
        except OSError as error:
            raise _translated(error) from None

    async def abort(self) -> None:
        def drop() -> None:
            self._file.close()
            self._part.unlink(missing_ok=True)

        await self.pool.run(drop, timeout=_PATIENCE)


class FileReader:
    """An open file, read in pieces; at most one piece is held in memory."""

    def __init__(self, file: IO[bytes], length: int | None, pool: Pool) -> None:
        self._file, self._left, self.pool = file, length, pool

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        size = PIECE if self._left is None else min(PIECE, self._left)
        piece = await self.pool.run(self._file.read, size, timeout=_PATIENCE) if size else b""
        if not piece:
            await self.close()
            raise StopAsyncIteration
        if self._left is not None:
            self._left -= len(piece)
        return piece

    async def close(self) -> None:
        self._file.close()


def _translated(error: OSError) -> OSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFull(error.errno, os.strerror(error.errno))
    return error

# SPDX-License-Identifier: Apache-2.0
"""Objects as images of a Ceph pool (RBD), of which volumes can be cloned without copying.

An object is whole when its image has the protected snapshot ``snap``, as the
published store makes it. Invariant: a pool belongs to one cloud, by a mark in it.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from cumulet.image.config import StoreConfig
from cumulet.image.store.model import StoreBusy, StoreFull, StoreTaken
from cumulet.image.store.owner import own_id
from cumulet.kernel.ceph import SNAP, Ceph, CephError, CephPlace, CephReader, CephWriter
from cumulet.kernel.pools import Pool

_MARK = "cumulet-images"
_LONG = 900.0
"""Seconds that the removal of a large image may take."""


class RbdStore:
    """One pool; ``folder`` keeps the id of this cloud."""

    def __init__(self, config: StoreConfig, folder: Path, pool: Pool) -> None:
        self._config, self._folder, self.pool = config, folder, pool
        self._ceph = Ceph(
            CephPlace(config.pool, config.user, config.conf, config.keyring, config.python, config.seconds)
        )
        self._fsid = ""

    async def open(self) -> None:
        own = await self.pool.run(own_id, self._folder)
        try:
            found = await self._ceph.ask("claim", mark=_MARK, owner=own)
        except CephError as error:
            raise OSError(f"the pool {self._config.pool} can't be used: {error}") from None
        if found["owner"] != own:
            raise StoreTaken(f"the pool of the rbd store {self._config.id} belongs to another cloud")
        self._fsid = found["fsid"]

    async def close(self) -> None:
        self._ceph.close()

    async def write(self, key: str) -> RbdWriter:
        return RbdWriter(await self._ceph.write(key), self.pool)

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> RbdReader:
        try:
            return RbdReader(await self._ceph.read(key, SNAP, offset, length))
        except CephError as error:
            raise _translated(error) from None

    async def size(self, key: str) -> int:
        try:
            found: int = await self._ceph.ask("size", name=key, snap=SNAP)
        except CephError as error:
            raise _translated(error) from None
        return found

    async def delete(self, key: str) -> None:
        try:
            await self._ceph.ask("remove", name=key, within=_LONG)
        except CephError as error:
            raise _translated(error) from None

    async def in_use(self, key: str) -> bool:
        try:
            found: bool = await self._ceph.ask("in_use", name=key)
        except CephError as error:
            raise _translated(error) from None
        return found

    async def list(self) -> list[str]:
        found: list[str] = await self._ceph.ask("names", prefix="data-")
        return found

    def url(self, key: str) -> str:
        if not self._fsid:  # Ceph has not answered yet since the service started
            return f"rbd://{quote(key, safe='')}"
        return "rbd://" + "/".join(quote(part, safe="") for part in (self._fsid, self._config.pool, key, SNAP))


class RbdWriter:
    """An image on its way; its worker removes it unless it is committed."""

    def __init__(self, writer: CephWriter, pool: Pool) -> None:
        self._writer, self.pool = writer, pool

    def write(self, piece: bytes) -> None:
        try:
            self._writer.write(piece)
        except CephError as error:
            raise _translated(error) from None

    async def commit(self) -> None:
        try:
            await self._writer.commit()
        except CephError as error:
            raise _translated(error) from None

    async def abort(self) -> None:
        await self._writer.abort()


class RbdReader:
    """A download."""

    def __init__(self, reader: CephReader) -> None:
        self._reader = reader

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._reader)

    async def close(self) -> None:
        await self._reader.close()


def _translated(error: CephError) -> OSError:
    if error.kind == "absent":
        return FileNotFoundError(errno.ENOENT, "no such image")
    if error.kind == "full":
        return StoreFull(errno.ENOSPC, "the pool is full")
    if error.kind == "busy":
        return StoreBusy(errno.EBUSY, "the image is in use")
    return error

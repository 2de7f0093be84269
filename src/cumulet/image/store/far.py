# SPDX-License-Identifier: Apache-2.0
"""A store on other machines, which may be away: at the start of the service, later, or in the middle of a transfer.

Invariants: the service runs without it and does not wait for it; whatever needs it
fails with words that name it (``StoreDown``); and it is opened, so that its owner is
known, before anything is done there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from cumulet.image.store.model import Reader, Store, StoreBusy, StoreDown, StoreFull, StoreTaken, Writer
from cumulet.kernel import clock

_log = logging.getLogger(__name__)
_PAUSE = 2.0
"""Seconds after a vain try to open the store in which there is no other."""
_START = 5.0
"""Seconds that the service's start waits for it."""
_PLAIN = (FileNotFoundError, StoreFull, StoreBusy, StoreDown)
T = TypeVar("T")


class FarStore:
    """``store`` under the id that it has in the settings."""

    def __init__(self, id_: str, store: Store) -> None:
        self._id, self._store = id_, store
        self._opened = False
        self._opening = asyncio.Lock()
        self._tried, self._gone = -_PAUSE, OSError("not tried yet")

    async def open(self) -> None:
        """Raises only when the store belongs to another cloud."""
        try:
            async with asyncio.timeout(_START):
                await self._open_once()
        except StoreTaken:
            raise
        except OSError:
            _log.error("the image store %s is away; it is used when it answers", self._id)

    async def _ready(self) -> None:
        try:
            await self._open_once()
        except StoreTaken as error:  # it was away at the start
            raise self.down(error) from None

    async def _open_once(self) -> None:
        if not self._opened:
            async with self._opening:
                if not self._opened:
                    await self._open()

    async def _open(self) -> None:
        if clock.monotonic() - self._tried < _PAUSE:  # nobody waits for what somebody waited for in vain
            raise self.down(self._gone)
        try:
            await self._store.open()
        except StoreTaken:
            raise
        except OSError as error:
            self._tried, self._gone = clock.monotonic(), error
            raise self.down(error) from None
        self._opened = True

    def down(self, error: BaseException) -> StoreDown:
        """What clients are told; the cause is logged."""
        _log.error("the image store %s: %s", self._id, error)
        return StoreDown(f"The image store {self._id} does not answer.")

    async def asked(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except _PLAIN:
            raise
        except OSError as error:  # TimeoutError is one of them
            raise self.down(error) from None

    async def close(self) -> None:
        await self._store.close()

    async def write(self, key: str) -> Writer:
        await self._ready()
        return FarWriter(self, await self.asked(self._store.write(key)))

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> Reader:
        await self._ready()
        return FarReader(self, await self.asked(self._store.read(key, offset, length)))

    async def size(self, key: str) -> int:
        await self._ready()
        return await self.asked(self._store.size(key))

    async def delete(self, key: str) -> None:
        await self._ready()
        await self.asked(self._store.delete(key))

    async def in_use(self, key: str) -> bool:
        await self._ready()
        return await self.asked(self._store.in_use(key))

    async def list(self) -> list[str]:
        await self._ready()
        return await self.asked(self._store.list())

    def url(self, key: str) -> str:
        return self._store.url(key)


class FarWriter:
    """A writer whose errors name the store."""

    def __init__(self, store: FarStore, writer: Writer) -> None:
        self._store, self._writer = store, writer
        self.pool = writer.pool

    def write(self, piece: bytes) -> None:
        try:
            self._writer.write(piece)
        except _PLAIN:
            raise
        except OSError as error:
            raise self._store.down(error) from None

    async def commit(self) -> None:
        await self._store.asked(self._writer.commit())

    async def abort(self) -> None:
        """What can't be removed now is found later."""
        try:
            await self._writer.abort()
        except OSError as error:
            self._store.down(error)


class FarReader:
    """A reader, likewise."""

    def __init__(self, store: FarStore, reader: Reader) -> None:
        self._store, self._reader = store, reader
        self._pieces: Any = aiter(reader)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._store.asked(anext(self._pieces))

    async def close(self) -> None:
        await self._reader.close()

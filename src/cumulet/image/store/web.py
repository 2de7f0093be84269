# SPDX-License-Identifier: Apache-2.0
"""The web as a store: read-only, its keys are URLs; every read obeys the same rules as an import from there."""

from __future__ import annotations

from collections.abc import AsyncIterator

from cumulet.image.store.model import Writer
from cumulet.image.web import Fetch, Web, WebError


class WebStore:
    """What others serve."""

    def __init__(self, web: Web) -> None:
        self._web = web

    async def open(self) -> None:
        """Nothing is needed."""

    async def close(self) -> None:
        """Nothing is held."""

    async def write(self, key: str) -> Writer:
        raise OSError("the web is read-only")

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> WebReader:
        try:
            fetch = await self._web.open(key, offset=offset)
        except WebError as error:
            raise FileNotFoundError(str(error)) from None
        return WebReader(fetch, offset - fetch.offset, length)

    async def size(self, key: str) -> int:
        try:
            return await self._web.size(key) or 0
        except WebError as error:
            raise FileNotFoundError(str(error)) from None

    async def delete(self, key: str) -> None:
        """What is on the web stays there."""

    async def in_use(self, key: str) -> bool:
        return False

    async def list(self) -> list[str]:
        return []

    def url(self, key: str) -> str:
        return key


class WebReader:
    """A download, cut to the asked range where the server could not do that."""

    def __init__(self, fetch: Fetch, skip: int, length: int | None) -> None:
        self._fetch, self._skip, self._left = fetch, skip, length
        self._pieces = aiter(fetch)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if self._left == 0:
                await self.close()
                raise StopAsyncIteration
            try:
                piece = await anext(self._pieces)
            except WebError as error:
                raise OSError(str(error)) from None
            if self._skip >= len(piece):
                self._skip -= len(piece)
                continue
            piece = piece[self._skip :]
            self._skip = 0
            if self._left is not None:
                piece = piece[: self._left]
                self._left -= len(piece)
            return piece

    async def close(self) -> None:
        await self._fetch.close()

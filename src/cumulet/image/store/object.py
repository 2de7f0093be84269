# SPDX-License-Identifier: Apache-2.0
"""Objects in a bucket of an S3-compatible server, written in parts with flat memory.

Invariant: a bucket's prefix belongs to one cloud: it is marked with the cloud's
id when it is first used, and another cloud refuses to start on it, since each
cloud deletes there what it does not know.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cumulet.image.config import StoreConfig
from cumulet.image.store.model import StoreFull, StoreTaken
from cumulet.image.store.owner import own_id
from cumulet.image.store.parts import Unfinished
from cumulet.kernel.pools import Pool

T = TypeVar("T")

_PART = 16 * 1024 * 1024
"""Bytes of one part, of which two are under way; at most 10,000 parts make an object."""
_PIECE = 1024 * 1024
_LONG = 6 * 3600.0
"""The longest that a download may take."""
_PATIENCE = 600.0
_FULL = ("QuotaExceeded", "EntityTooLarge", "InsufficientCapacity")
"""What servers call it when there is no more room."""
_MARK = "owner"
_REGION = "us-east-1"


class ObjectStore:
    """One prefix of one bucket; ``folder`` keeps the id of this cloud."""

    def __init__(self, config: StoreConfig, folder: Path, pool: Pool) -> None:
        self._config, self._folder, self.pool = config, folder, pool
        self._reading: Any = None
        self._writing: Any = None
        self._unfinished: Unfinished | None = None

    async def open(self) -> None:
        own = await self.pool.run(own_id, self._folder)
        config = self._config
        self._reading, self._writing = self._client(_LONG), self._client(4 * config.seconds)
        access, secret = _credentials(config)
        if config.endpoint and access:  # other ways of proving who we are: the bucket's own rule removes parts
            self._unfinished = Unfinished(
                config.endpoint, config.bucket, config.prefix, config.region or _REGION, access, secret, config.seconds
            )
        try:
            mark = await self._soon(self._mark(own))
        except Exception as error:
            raise OSError(f"the object store {config.id} can't be used: {_words(error)}") from None
        if mark != own:
            raise StoreTaken(f"the prefix of the object store {config.id} belongs to another cloud")

    async def _mark(self, own: str) -> str:
        """Whose the prefix is; ours from now on if it was nobody's."""
        import obstore

        try:
            answer = await obstore.get_async(self._reading, _MARK)
        except FileNotFoundError:
            await obstore.put_async(self._reading, _MARK, own.encode())
            answer = await obstore.get_async(self._reading, _MARK)
        return bytes(await answer.bytes_async()).decode(errors="replace")

    def _client(self, seconds: float) -> Any:
        """A client whose requests take at most so long; imported here, since it is large."""
        from obstore.store import S3Store

        config = self._config
        given: dict[str, Any] = {"region": config.region or _REGION, "virtual_hosted_style_request": False}
        if config.endpoint:
            given["endpoint"] = config.endpoint
        if config.access_key:
            access, secret = _credentials(config)
            given |= {"access_key_id": access, "secret_access_key": secret}
        patience = timedelta(seconds=config.seconds)
        return S3Store(
            config.bucket,
            prefix=config.prefix or None,
            **given,
            client_options={
                "allow_http": urlsplit(config.endpoint).scheme == "http",
                "connect_timeout": patience,
                "timeout": timedelta(seconds=seconds),
            },
            retry_config={"max_retries": 3, "retry_timeout": patience},
        )

    async def _soon(self, call: Awaitable[T]) -> T:
        """What is quick when the server answers. Raises OSError, FileNotFoundError among them."""
        try:
            async with asyncio.timeout(2 * self._config.seconds):
                return await call
        except OSError:
            raise
        except Exception as error:
            raise OSError(_words(error)) from None

    async def close(self) -> None:
        self._reading = self._writing = None

    async def write(self, key: str) -> ObjectWriter:
        import obstore

        writer = obstore.open_writer(self._writing, key, buffer_size=_PART, max_concurrency=2)
        return ObjectWriter(writer, self.pool, self, key)

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> ObjectReader:
        import obstore

        size = await self.size(key)
        if length == 0 or offset >= size:
            return ObjectReader(None, self._config.seconds)
        wanted: Any = None
        if length is not None:
            wanted = {"range": (offset, min(offset + length, size))}
        elif offset:
            wanted = {"range": {"offset": offset}}
        answer = await self._soon(obstore.get_async(self._reading, key, options=wanted))
        return ObjectReader(answer.stream(min_chunk_size=_PIECE), self._config.seconds)

    async def size(self, key: str) -> int:
        import obstore

        return int((await self._soon(obstore.head_async(self._reading, key)))["size"])

    async def delete(self, key: str) -> None:
        import obstore

        try:
            await self._soon(obstore.delete_async(self._reading, key))
        except FileNotFoundError:
            pass
        await self.drop_parts(key)

    async def in_use(self, key: str) -> bool:
        return False

    async def drop_parts(self, key: str) -> None:
        """Remove the parts of uploads to this key that were not ended."""
        if self._unfinished is not None:
            await self._unfinished.drop(key)

    async def list(self) -> list[str]:
        names = await self._soon(self._names())
        if self._unfinished is not None:
            names |= {key for key, _ in await self._unfinished.find("data-")}
        return sorted(name for name in names if name.startswith("data-"))

    async def _names(self) -> set[str]:
        import obstore

        return {str(one["path"]) async for page in obstore.list(self._reading) for one in page}

    def url(self, key: str) -> str:
        path = "/".join(part for part in (self._config.bucket, self._config.prefix, key) if part)
        return f"s3://{path}"


def _credentials(config: StoreConfig) -> tuple[str, str]:
    """The key's id and secret, from the settings or the environment; empty where there are none."""
    return (
        config.access_key or os.environ.get("AWS_ACCESS_KEY_ID", ""),
        config.secret_key or os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
    )


def _words(error: Exception) -> str:
    """The kind of an error; its text may hold request headers."""
    return type(error).__name__


def _refusal(error: Exception) -> OSError:
    if any(word in str(error) for word in _FULL):
        return StoreFull(errno.ENOSPC, "the object store takes no more")
    return OSError(_words(error))


class ObjectWriter:
    """Parts on their way; nothing is seen under the key before the commit."""

    def __init__(self, writer: Any, pool: Pool, store: ObjectStore, key: str) -> None:
        self._writer, self.pool, self._store, self._key = writer, pool, store, key

    def write(self, piece: bytes) -> None:
        try:
            self._writer.write(piece)
        except Exception as error:
            raise _refusal(error) from None

    async def commit(self) -> None:
        try:
            await self.pool.run(self._writer.close, timeout=_PATIENCE)
        except TimeoutError:
            raise
        except Exception as error:
            raise _refusal(error) from None

    async def abort(self) -> None:
        self._writer = None  # what it was sending ends with it
        await self._store.drop_parts(self._key)


class ObjectReader:
    """A download; None is an empty one. A server may be silent for ``seconds``."""

    def __init__(self, stream: Any, seconds: float) -> None:
        self._stream = aiter(stream) if stream is not None else None
        self._seconds = seconds

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._stream is None:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._seconds):
                return bytes(await anext(self._stream))
        except (StopAsyncIteration, TimeoutError):
            raise
        except Exception as error:
            raise OSError(_words(error)) from None

    async def close(self) -> None:
        self._stream = None

# SPDX-License-Identifier: Apache-2.0
"""Objects in a bucket of an S3-compatible server, written in parts with flat memory.

Invariant: a bucket's prefix belongs to one cloud: it is marked with the cloud's
id when it is first used, and another cloud refuses to start on it, since each
cloud deletes there what it does not know.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cumulet.image.config import StoreConfig
from cumulet.kernel import ids
from cumulet.kernel.pools import Pool

_PART = 16 * 1024 * 1024
"""Bytes of one part, of which two are under way; at most 10,000 parts make an object."""
_PIECE = 1024 * 1024
_PATIENCE = 600.0
_MARK = "owner"


class ObjectStore:
    """One prefix of one bucket; ``folder`` keeps the id of this cloud."""

    def __init__(self, config: StoreConfig, folder: Path, pool: Pool) -> None:
        self._config, self._folder, self._pool = config, folder, pool
        self._made: Any = None

    @property
    def _store(self) -> Any:
        """The client; imported when it is first needed, since it is large."""
        if self._made is None:
            from obstore.store import S3Store

            config = self._config
            given: dict[str, Any] = {"region": config.region, "virtual_hosted_style_request": False}
            if config.endpoint:
                given["endpoint"] = config.endpoint
            if config.access_key:
                given["access_key_id"] = config.access_key
                given["secret_access_key"] = config.secret_key or os.environ.get("AWS_SECRET_ACCESS_KEY", "")
            plain = urlsplit(config.endpoint).scheme == "http"
            self._made = S3Store(
                config.bucket, prefix=config.prefix or None, **given, client_options={"allow_http": plain}
            )
        return self._made

    async def open(self) -> None:
        import obstore

        own = await self._pool.run(_own_id, self._folder)
        try:
            try:
                answer = await obstore.get_async(self._store, _MARK)
                mark = bytes(await answer.bytes_async()).decode(errors="replace")
            except FileNotFoundError:
                await obstore.put_async(self._store, _MARK, own.encode())
                mark = own
        except Exception as error:
            raise OSError(f"the object store {self._config.id} can't be used: {_words(error)}") from None
        if mark != own:
            raise OSError(f"the prefix of the object store {self._config.id} belongs to another cloud")

    async def close(self) -> None:
        self._made = None

    async def write(self, key: str) -> ObjectWriter:
        import obstore

        writer = obstore.open_writer(self._store, key, buffer_size=_PART, max_concurrency=2)
        return ObjectWriter(writer, self._pool)

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> ObjectReader:
        import obstore

        if length == 0 or (offset and offset >= await self.size(key)):
            return ObjectReader(None)
        wanted: Any = None
        if length is not None:
            wanted = {"range": (offset, offset + length)}
        elif offset:
            wanted = {"range": {"offset": offset}}
        try:
            answer = await obstore.get_async(self._store, key, options=wanted)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise OSError(_words(error)) from None
        return ObjectReader(answer.stream(min_chunk_size=_PIECE))

    async def size(self, key: str) -> int:
        import obstore

        try:
            found = await obstore.head_async(self._store, key)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise OSError(_words(error)) from None
        return int(found["size"])

    async def delete(self, key: str) -> None:
        import obstore

        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return
        except Exception as error:
            raise OSError(_words(error)) from None

    async def list(self) -> list[str]:
        import obstore

        try:
            pages = obstore.list(self._store)
            found = [str(one["path"]) async for page in pages for one in page]
        except Exception as error:
            raise OSError(_words(error)) from None
        return sorted(path for path in found if path.startswith("data-"))

    def url(self, key: str) -> str:
        path = "/".join(part for part in (self._config.bucket, self._config.prefix, key) if part)
        return f"s3://{path}"


def _own_id(folder: Path) -> str:
    """The id of this cloud; blocking."""
    path = folder / "cloud-id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(ids.new_uuid())
        return path.read_text().strip()


def _words(error: Exception) -> str:
    """The kind of an error; its text may hold request headers."""
    return type(error).__name__


class ObjectWriter:
    """Parts on their way; nothing is seen under the key before the commit."""

    def __init__(self, writer: Any, pool: Pool) -> None:
        self._writer, self._pool = writer, pool

    def write(self, piece: bytes) -> None:
        try:
            self._writer.write(piece)
        except Exception as error:
            raise OSError(_words(error)) from None

    async def commit(self) -> None:
        try:
            await self._pool.run(self._writer.close, timeout=_PATIENCE)
        except TimeoutError:
            raise
        except Exception as error:
            raise OSError(_words(error)) from None

    async def abort(self) -> None:
        self._writer = None  # parts without an end are never seen; the server's own rule removes them


class ObjectReader:
    """A download; None is an empty one."""

    def __init__(self, stream: Any) -> None:
        self._stream = aiter(stream) if stream is not None else None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._stream is None:
            raise StopAsyncIteration
        try:
            return bytes(await anext(self._stream))
        except StopAsyncIteration:
            raise
        except Exception as error:
            raise OSError(_words(error)) from None

    async def close(self) -> None:
        self._stream = None

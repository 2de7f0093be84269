# SPDX-License-Identifier: Apache-2.0
"""Objects in a container of Swift, or of what speaks as Swift does, written as segments with flat memory.

An object is a static large object, so that it is there whole or not at all: its
manifest has the object's name, its segments are ``NAME/00001`` and so on beside
it, and are found by that when the manifest was never written. Source: Object
Storage API, static large objects.

Invariant: a container's prefix belongs to one cloud, by a mark in it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import orjson

from cumulet.image.config import StoreConfig
from cumulet.image.store.model import StoreFull, StoreTaken
from cumulet.image.store.owner import own_id
from cumulet.image.store.segments import Segment
from cumulet.kernel.pools import Pool

T = TypeVar("T")

_PIECE: Final = 1024 * 1024
_ABSENT, _THERE = 404, 412
_FULL: Final = (413, 507)
_RETRIES, _PAUSE = 1, 0.2
"""How often what can be repeated is, and the pause before that (s)."""
_LONG: Final = 900.0
"""Seconds that the removal of all segments of a large object may take."""
_MARK: Final = "owner"


class SwiftStore:
    """One prefix of one container; ``folder`` keeps the id of this cloud."""

    def __init__(self, config: StoreConfig, folder: Path, pool: Pool) -> None:
        self._config, self._folder, self.pool = config, folder, pool
        self._session: Any = None
        self.patience = 2.0 * config.seconds
        """Seconds that a quick call may take: it may log in first."""

    async def open(self) -> None:
        own = await self.pool.run(own_id, self._folder)
        if self._session is None:
            self._session = await self.pool.run(_session, self._config)
        try:
            mark = await self._soon(self._marked, own)
        except OSError as error:
            raise OSError(f"the container {self._config.container} can't be used: {error}") from None
        if mark != own:
            raise StoreTaken(f"the prefix of the swift store {self._config.id} belongs to another cloud")

    def _marked(self, own: str) -> str:
        """Whose the prefix is; ours from now on if it was nobody's."""
        connection, where = self.connection(), (self._config.container, self.name(_MARK))
        try:
            return str(connection.get_object(*where)[1], "utf-8", "replace")
        except self._faults() as error:
            if _status(error) != _ABSENT:
                raise
        try:
            connection.put_object(*where, own, headers={"If-None-Match": "*"})
        except self._faults() as error:
            if _status(error) != _THERE:  # another process of ours, or of another cloud, was first
                raise
        return str(connection.get_object(*where)[1], "utf-8", "replace")

    async def close(self) -> None:
        self._session = None

    # ---- asking

    def connection(self, retries: int = _RETRIES) -> Any:
        """A client of its own for one call, since clients are not for several threads; they share a login."""
        from swiftclient.client import Connection

        config = self._config
        options = {"region_name": config.region or None, "endpoint_type": config.interface}
        return Connection(
            session=self._session, os_options=options, retries=retries, starting_backoff=_PAUSE,
            timeout=float(config.seconds),
        )  # fmt: skip

    @staticmethod
    def _faults() -> tuple[type[Exception], ...]:
        """What the client raises."""
        from keystoneauth1.exceptions import ClientException as LoginFailed
        from requests import RequestException
        from swiftclient.exceptions import ClientException
        from urllib3.exceptions import HTTPError

        return ClientException, LoginFailed, RequestException, HTTPError

    def told(self, call: Callable[[], T]) -> T:
        """A blocking call whose errors are those of a store, without what was sent."""
        try:
            return call()
        except self._faults() as error:
            status = _status(error)
            if status == _ABSENT:
                raise FileNotFoundError(errno.ENOENT, "no such object") from None
            if status in _FULL:
                raise StoreFull(errno.ENOSPC, "the container takes no more") from None
            raise OSError(f"{type(error).__name__} {status or ''}".rstrip()) from None

    async def _soon(self, call: Callable[..., T], *given: Any) -> T:
        """What is quick when the server answers. Raises OSError, FileNotFoundError among them."""
        return await self.pool.run(self.told, lambda: call(*given), timeout=self.patience)

    def name(self, key: str) -> str:
        return "/".join(part for part in (self._config.prefix.strip("/"), key) if part)

    # ---- the store

    async def write(self, key: str) -> SwiftWriter:
        await self._soon(self._remove, key)  # so a login that aged is renewed before anything streams
        return SwiftWriter(self, self._config, key)

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> SwiftReader:
        size = await self.size(key)
        if length == 0 or offset >= size:
            return SwiftReader(self, None)
        end = size if length is None else min(offset + length, size)
        headers = {"Range": f"bytes={offset}-{end - 1}"} if (offset, end) != (0, size) else {}
        body = await self._soon(self._body, key, headers)
        return SwiftReader(self, body)

    def _body(self, key: str, headers: dict[str, str]) -> Any:
        return self.connection().get_object(
            self._config.container, self.name(key), resp_chunk_size=_PIECE, headers=headers
        )[1]

    async def size(self, key: str) -> int:
        found = await self._soon(lambda: self.connection().head_object(self._config.container, self.name(key)))
        return int(found["content-length"])

    async def delete(self, key: str) -> None:
        await self.pool.run(self.told, lambda: self._remove(key), timeout=_LONG)

    def _remove(self, key: str) -> None:
        """The manifest first, and with it what it names; then whatever segments were never named."""
        connection, container = self.connection(), self._config.container
        for query in ("multipart-manifest=delete", None):
            self._drop(connection, self.name(key), query)
        for one in connection.get_container(container, prefix=f"{self.name(key)}/", full_listing=True)[1]:
            self._drop(connection, one["name"])

    def _drop(self, connection: Any, name: str, query: str | None = None) -> None:
        try:
            connection.delete_object(self._config.container, name, query_string=query)
        except self._faults() as error:
            if _status(error) != _ABSENT:
                raise

    async def in_use(self, key: str) -> bool:
        return False

    def _keys(self) -> list[str]:
        beginning = self.name("data-")
        found = self.connection().get_container(self._config.container, prefix=beginning, full_listing=True)[1]
        above = len(beginning) - len("data-")
        return sorted({str(one["name"])[above:].split("/")[0] for one in found})

    async def list(self) -> list[str]:
        return await self._soon(self._keys)

    def url(self, key: str) -> str:
        return f"swift://{self._config.container}/{self.name(key)}"


class SwiftWriter:
    """Segments on their way; nothing is seen under the key before the commit."""

    def __init__(self, store: SwiftStore, config: StoreConfig, key: str) -> None:
        self._store, self._config, self._key = store, config, key
        self.pool = store.pool
        self._limit = config.segment_mib * 1024 * 1024
        self._segment: Segment | None = None
        self._written: list[dict[str, Any]] = []

    def write(self, piece: bytes) -> None:
        while piece:
            if self._segment is None:
                name = f"{self._store.name(self._key)}/{len(self._written) + 1:05}"
                self._segment = Segment(self._store.connection(retries=0), self._config.container, name)
            room = self._limit - self._segment.size
            self._store.told(partial(self._segment.feed, piece[:room]))
            piece = piece[room:]
            if self._segment.size == self._limit:
                self._end_segment()

    def _end_segment(self) -> None:
        if self._segment is not None:
            segment, self._segment = self._segment, None
            self._written.append(self._store.told(segment.end))

    async def commit(self) -> None:
        await self.pool.run(self._commit, timeout=_LONG)

    def _commit(self) -> None:
        self._end_segment()
        name = self._store.name(self._key)
        manifest = orjson.dumps(self._written).decode() if self._written else ""
        query = "multipart-manifest=put" if self._written else None
        connection = self._store.connection()
        self._store.told(lambda: connection.put_object(self._config.container, name, manifest, query_string=query))

    async def abort(self) -> None:
        if self._segment is not None:
            segment, self._segment = self._segment, None
            await self.pool.run(segment.stop, timeout=_LONG)
        await self._store.delete(self._key)


class SwiftReader:
    """A download; None is an empty one."""

    def __init__(self, store: SwiftStore, body: Any) -> None:
        self._store, self._body = store, body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._body is None:
            raise StopAsyncIteration
        store = self._store
        piece: bytes = await store.pool.run(store.told, lambda: next(self._body, b""), timeout=store.patience)
        if not piece:
            await self.close()
            raise StopAsyncIteration
        return piece

    async def close(self) -> None:
        if self._body is not None:
            body, self._body = self._body, None
            await self._store.pool.run(body.close)


def _status(error: Exception) -> int | None:
    """That of the server's answer; None when there was none."""
    return getattr(error, "http_status", None)


def _session(config: StoreConfig) -> Any:
    """A login at Keystone, or at a server that hands out tokens by itself; nothing is asked yet.

    Source: Identity API v3; Object Storage API, authentication (version 1).
    """
    for chatty in ("swiftclient", "keystoneauth"):  # they tell what they send
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    from keystoneauth1.identity import V3Password
    from keystoneauth1.session import Session
    from swiftclient.authv1 import PasswordPlugin

    password = config.password or os.environ.get("OS_PASSWORD", "")
    auth: Any
    if urlsplit(config.auth_url).path.rstrip("/").rpartition("/")[2].startswith("v1"):
        auth = PasswordPlugin(config.auth_url, config.username, password)
    else:
        auth = V3Password(
            auth_url=config.auth_url, username=config.username, password=password,
            user_domain_name=config.user_domain, project_name=config.project,
            project_domain_name=config.project_domain,
        )  # fmt: skip
    return Session(auth=auth, timeout=float(config.seconds))

# SPDX-License-Identifier: Apache-2.0
"""What the image service asks of a store: the whole of a driver.

Keys are chosen by the service, one per upload and never used twice, so a half
written object can't be taken for another's. An object is there whole or not at
all. A store that others fill (the web) is read-only; its keys are its URLs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from cumulet.kernel.pools import Pool


class StoreFull(OSError):
    """The store has no room."""


class StoreBusy(OSError):
    """Somebody outside builds upon the object, or reads it: it can't be deleted now."""


class StoreDown(OSError):
    """The store does not answer; the text names it and is fit for clients."""


class StoreTaken(OSError):
    """The store belongs to another cloud, which would delete what we put there."""


class Writer(Protocol):
    """One object on its way into the store."""

    @property
    def pool(self) -> Pool:
        """Where ``write`` is to run. Stores that may hang share theirs with no other kind."""

    def write(self, piece: bytes) -> None:
        """Append; blocking, for a worker thread. Raises StoreFull."""

    async def commit(self) -> None:
        """Make the object durable and visible under its key. Raises StoreFull."""

    async def abort(self) -> None:
        """Leave nothing behind."""


class Reader(Protocol):
    """An open object; reading goes on although the object is deleted meanwhile."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def close(self) -> None: ...


class Store(Protocol):
    """Objects of any size by key."""

    async def open(self) -> None:
        """Make it usable; raises OSError when it can't be."""

    async def close(self) -> None: ...

    async def write(self, key: str) -> Writer:
        """Begin an object; what is left of an earlier beginning under the same key is dropped."""

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> Reader:
        """The bytes from ``offset`` on (at most ``length``), in pieces. Raises FileNotFoundError."""

    async def size(self, key: str) -> int:
        """Bytes of an object. Raises FileNotFoundError."""

    async def delete(self, key: str) -> None:
        """Gone already is success. Raises StoreBusy."""

    async def in_use(self, key: str) -> bool:
        """Whether somebody outside builds upon the object (a volume that is a clone of it)."""

    async def list(self) -> list[str]:
        """The keys of all objects of ours, half-written ones among them."""

    def url(self, key: str) -> str:
        """How a location names the object."""


@dataclass(frozen=True)
class Place:
    """A store as clients see it."""

    id: str
    kind: str
    store: Store
    description: str = ""
    weight: int = 0
    """The store with the highest weight is read first."""
    read_only: bool = False
    properties: dict[str, Any] = field(default_factory=dict)

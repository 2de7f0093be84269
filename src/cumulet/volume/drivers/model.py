# SPDX-License-Identifier: Apache-2.0
"""What the volume agent and a volume back end say to each other.

All methods say *ensure* and may be repeated after a crash at any point.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Capacity(msgspec.Struct, frozen=True):
    total_gib: float
    free_gib: float


class Connection(msgspec.Struct, frozen=True):
    """How a compute host opens the volume; travels as ``connection_info.data``."""

    driver_volume_type: str
    """``file`` (a path on this host), ``rbd``, ``nbd`` or ``simulated``."""
    path: str
    """A file, or of rbd ``pool/image``."""
    format: str
    """``raw`` or ``qcow2``; never probed from the content."""
    read_only: bool = False


class BackendError(RuntimeError):
    """The back end refused; the text is fit for a volume's fault (no paths, no secrets)."""


class NoSpace(BackendError):
    """The back end is full."""


class BackendDown(BackendError):
    """The back end does not answer at the moment: the same order is worth another try."""


class VolumeBackend(Protocol):
    """One place where volumes live."""

    real: bool
    """Whether the volumes can be opened by a real guest."""

    schemes: frozenset[str]
    """Kinds of locations of image data that volumes may be made of without copying, e.g. ``rbd``."""

    async def open(self) -> None: ...

    async def capacity(self) -> Capacity: ...

    async def volumes(self) -> list[str]:
        """Ids of all volumes that are there."""

    async def ensure_volume(self, volume_id: str, size_gib: int) -> None:
        """An empty volume of that size; there already with that size is success."""

    async def ensure_from_image(self, volume_id: str, size_gib: int, path: str, format: str) -> None:
        """A volume with an image's content (``path`` of a verified local file), grown to ``size_gib``."""

    async def ensure_from_location(self, volume_id: str, size_gib: int, location: str, format: str) -> bool:
        """A volume that shares the data at an image's ``location`` (a URL of one of `schemes`), grown to ``size_gib``.

        ``format`` is the image's. False: nothing was done, the content must be copied.
        """

    async def ensure_clone(self, volume_id: str, size_gib: int, source_id: str) -> None:
        """The content of another volume or snapshot of this back end; either may go first."""

    async def ensure_snapshot(self, snapshot_id: str, volume_id: str) -> None: ...

    async def ensure_size(self, volume_id: str, size_gib: int) -> None:
        """Grow; never shrinks."""

    async def ensure_absent(self, volume_id: str) -> None:
        """Remove a volume or snapshot; gone already is success."""

    async def connect(self, volume_id: str, host: str) -> Connection:
        """Make the volume reachable from ``host``."""

    async def disconnect(self, volume_id: str, host: str) -> None: ...

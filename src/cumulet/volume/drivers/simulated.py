# SPDX-License-Identifier: Apache-2.0
"""A back end without disks: the same behaviour as the real one, with knobs for time, failure and room.

Its state is a JSON file (written to a temporary name and renamed), so it
survives a restart as real volumes do.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec

from cumulet.kernel import clock
from cumulet.kernel.files import write_whole
from cumulet.volume.drivers.model import BackendError, Capacity, Connection, NoSpace


class Knobs(msgspec.Struct):
    """What a test or a demonstration may set, at any time."""

    latency_seconds: float = 0.0
    """How long every change takes."""
    total_gib: float = 1000.0
    failures: dict[str, str] = {}
    """Method name → the error that its next calls raise."""
    full: bool = False
    """Whether every new byte is one too many."""
    slow: dict[str, float] = {}
    """Method name → seconds that it takes instead."""


class _Thing(msgspec.Struct):
    size_gib: int
    content: str
    """Where the content came from: ``empty``, ``image:<digest>``; copies have their source's."""


class _State(msgspec.Struct):
    things: dict[str, _Thing] = {}
    connections: dict[str, list[str]] = {}


class SimulatedBackend:
    """Volumes as rows of a small JSON document."""

    real = False
    schemes: frozenset[str] = frozenset()

    def __init__(self, path: Path, knobs: Knobs | None = None) -> None:
        self._path = path
        self.knobs = knobs or Knobs()
        self._state = _State()

    async def open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._state = msgspec.json.decode(self._path.read_bytes(), type=_State)

    async def capacity(self) -> Capacity:
        await self._happen("capacity", change=False)
        return Capacity(self.knobs.total_gib, max(self.knobs.total_gib - self._used(), 0.0))

    async def volumes(self) -> list[str]:
        await self._happen("volumes", change=False)
        return sorted(self._state.things)

    async def ensure_volume(self, volume_id: str, size_gib: int) -> None:
        await self._ensure("ensure_volume", volume_id, size_gib, "empty")

    async def ensure_from_image(self, volume_id: str, size_gib: int, path: str, format: str) -> None:
        def digest() -> str:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()

        content = f"image:{await asyncio.to_thread(digest)}"
        await self._ensure("ensure_from_image", volume_id, size_gib, content)

    async def ensure_from_location(self, volume_id: str, size_gib: int, location: str, format: str) -> bool:
        return False

    async def ensure_clone(self, volume_id: str, size_gib: int, source_id: str) -> None:
        source = self._state.things.get(source_id)
        if source is None and volume_id not in self._state.things:
            raise BackendError("The source is not on this back end.")
        if source is not None and source.size_gib > size_gib:
            raise BackendError(f"The content needs {source.size_gib} GiB and the volume has {size_gib} GiB.")
        await self._ensure("ensure_clone", volume_id, size_gib, source.content if source else "")

    async def ensure_snapshot(self, snapshot_id: str, volume_id: str) -> None:
        source = self._state.things.get(volume_id)
        if source is None and snapshot_id not in self._state.things:
            raise BackendError("The volume is not on this back end.")
        size = source.size_gib if source else self._state.things[snapshot_id].size_gib
        await self._ensure("ensure_snapshot", snapshot_id, size, source.content if source else "")

    async def ensure_size(self, volume_id: str, size_gib: int) -> None:
        await self._happen("ensure_size")
        thing = self._state.things.get(volume_id)
        if thing is None:
            raise BackendError("The volume is not on this back end.")
        if thing.size_gib < size_gib:
            self._take(size_gib - thing.size_gib)
            thing.size_gib = size_gib
            self._save()

    async def ensure_absent(self, volume_id: str) -> None:
        await self._happen("ensure_absent")
        self._state.things.pop(volume_id, None)
        self._state.connections.pop(volume_id, None)
        self._save()

    async def connect(self, volume_id: str, host: str) -> Connection:
        await self._happen("connect")
        if volume_id not in self._state.things:
            raise BackendError("The volume is not on this back end.")
        hosts = self._state.connections.setdefault(volume_id, [])
        if host not in hosts:
            hosts.append(host)
            self._save()
        return Connection("simulated", f"/simulated/{volume_id}", "raw")

    async def disconnect(self, volume_id: str, host: str) -> None:
        await self._happen("disconnect")
        hosts = self._state.connections.get(volume_id, [])
        if host in hosts:
            hosts.remove(host)
            self._save()

    # ---- what a test may look at

    def size_of(self, volume_id: str) -> int | None:
        thing = self._state.things.get(volume_id)
        return thing.size_gib if thing else None

    def content_of(self, volume_id: str) -> str | None:
        thing = self._state.things.get(volume_id)
        return thing.content if thing else None

    def hosts_of(self, volume_id: str) -> list[str]:
        return list(self._state.connections.get(volume_id, []))

    # ---- inside

    async def _ensure(self, method: str, id_: str, size_gib: int, content: str) -> None:
        there = self._state.things.get(id_)
        if there is not None:
            if there.size_gib != size_gib:
                raise BackendError("A volume with that id and another size is there already.")
            return
        await self._happen(method)
        self._take(size_gib)
        self._state.things[id_] = _Thing(size_gib, content)
        self._save()

    async def _happen(self, method: str, *, change: bool = True) -> None:
        seconds = self.knobs.slow.get(method, self.knobs.latency_seconds if change else 0.0)
        if seconds:
            await clock.sleep(seconds)
        if method in self.knobs.failures:
            raise BackendError(self.knobs.failures[method])

    def _used(self) -> float:
        return sum(thing.size_gib for thing in self._state.things.values())

    def _take(self, size_gib: int) -> None:
        if self.knobs.full or self._used() + size_gib > self.knobs.total_gib:
            raise NoSpace("The back end is full.")

    def _save(self) -> None:
        write_whole(self._path, msgspec.json.encode(self._state))

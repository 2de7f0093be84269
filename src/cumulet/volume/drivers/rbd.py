# SPDX-License-Identifier: Apache-2.0
"""Volumes as images of a Ceph pool (RBD): clones, snapshots and volumes of images share data until they are written to.

A snapshot is a clone that nobody writes to, so it stands for itself: what it came
from may go first. Invariant: names carry the host whose agent made the volume,
so that each agent sees, and sweeps, its own only.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cumulet.kernel import ids
from cumulet.kernel.ceph import SNAP, Ceph, CephError, CephPlace
from cumulet.kernel.confined import run_confined
from cumulet.kernel.pools import Pool, ProgramFailed
from cumulet.volume.drivers.model import BackendDown, BackendError, Capacity, Connection, NoSpace

GIB = 1024**3
_ID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_COPY_SECONDS = 4 * 3600.0
_LIMITS = {"as": 4 * GIB, "cpu": 3600}
"""What a qemu-img that reads hostile content may use: bytes of address space, seconds of CPU."""


class RbdBackend:
    """One pool; ``folder`` holds a converted image for as long as it is loaded."""

    real = True
    schemes = frozenset({"rbd"})

    def __init__(self, place: CephPlace, folder: Path, pool: Pool, *, host: str) -> None:
        self._place, self._folder, self._pool, self._host = place, folder, pool, host
        self._ceph = Ceph(place)
        self._prefix = f"volume-{re.sub('[^A-Za-z0-9.-]', '_', host)}-"
        self._fsid = ""

    async def open(self) -> None:
        """Drop what a crash left half-written; a cluster that is away is waited for by each operation."""

        def prepare() -> None:
            self._folder.mkdir(parents=True, exist_ok=True)
            for part in self._folder.glob("*.raw"):
                part.unlink(missing_ok=True)

        await self._pool.run(prepare)

    async def capacity(self) -> Capacity:
        found = await self._ask("capacity")
        return Capacity(found["total"] / GIB, found["free"] / GIB)

    async def volumes(self) -> list[str]:
        names = await self._ask("names", prefix=self._prefix)
        return [id_ for id_ in (name.removeprefix(self._prefix) for name in names) if _ID.match(id_)]

    async def ensure_volume(self, volume_id: str, size_gib: int) -> None:
        await self._ask("create", name=self._name(volume_id), size=size_gib * GIB)

    async def ensure_from_image(self, volume_id: str, size_gib: int, path: str, format: str) -> None:
        name, raw = self._name(volume_id), self._folder / f"{ids.new_hex()}.raw"
        try:
            if format != "raw":
                await self._convert(path, format, raw)
            source = str(raw) if format != "raw" else path
            await self._ask("load", name=name, path=source, size=size_gib * GIB, within=_COPY_SECONDS)
        finally:
            await asyncio.shield(self._pool.run(lambda: raw.unlink(missing_ok=True)))

    async def ensure_from_location(self, volume_id: str, size_gib: int, location: str, format: str) -> bool:
        """A copy-on-write clone of a raw image in the same Ceph."""
        name = self._name(volume_id)
        parts = [unquote(part) for part in location.removeprefix("rbd://").split("/")]
        if format != "raw" or not location.startswith("rbd://") or len(parts) != 4 or parts[3] != SNAP:
            return False
        fsid, pool, image, snap = parts
        try:
            self._fsid = self._fsid or await self._ceph.ask("fsid")
            if fsid != self._fsid:
                return False
            await self._ceph.ask("clone", name=name, size=size_gib * GIB, pool=pool, parent=image, snap=snap)
        except CephError as error:
            if error.kind in ("absent", "denied"):  # not there, or not for us: the image service hands it out
                return False
            raise _refusal(error, size_gib) from None
        return True

    async def ensure_clone(self, volume_id: str, size_gib: int, source_id: str) -> None:
        name, source = self._name(volume_id), self._name(source_id)
        await self._ask("derive", name=name, size=size_gib * GIB, source=source, within=_COPY_SECONDS)

    async def ensure_snapshot(self, snapshot_id: str, volume_id: str) -> None:
        name, source = self._name(snapshot_id), self._name(volume_id)
        await self._ask("derive", name=name, size=0, source=source, within=_COPY_SECONDS)

    async def ensure_size(self, volume_id: str, size_gib: int) -> None:
        await self._ask("resize", name=self._name(volume_id), size=size_gib * GIB)

    async def ensure_absent(self, volume_id: str) -> None:
        await self._ask("discard", name=self._name(volume_id), within=_COPY_SECONDS)

    async def connect(self, volume_id: str, host: str) -> Connection:
        """How any host that has the user's key opens the volume."""
        name = self._name(volume_id)
        await self._ask("size", name=name, snap=None)
        return Connection("rbd", f"{self._place.pool}/{name}", "raw")

    async def disconnect(self, volume_id: str, host: str) -> None:
        self._name(volume_id)

    # ---- inside

    def _name(self, id_: str) -> str:
        if not _ID.match(id_):
            raise BackendError("That is not the id of a volume.")
        return f"{self._prefix}{id_}"

    async def _ask(self, do: str, *, within: float = 60.0, **more: Any) -> Any:
        try:
            return await self._ceph.ask(do, within=within, **more)
        except CephError as error:
            raise _refusal(error, more.get("size", 0) // GIB) from error

    async def _convert(self, path: str, format_: str, raw: Path) -> None:
        argv = ["qemu-img", "convert", "-q", "-f", format_, "-O", "raw", path, str(raw)]
        try:
            await run_confined(argv, read=Path(path), write=raw, timeout=_COPY_SECONDS, limits=_LIMITS)
        except ProgramFailed as error:
            if "No space left" in str(error):
                raise NoSpace("The host has no room to convert the image.") from None
            raise BackendError("The back end can't read the image's data.") from error
        except TimeoutError:
            raise BackendError("Copying the volume's data took too long.") from None


def _refusal(error: CephError, size_gib: int) -> BackendError:
    """What a volume's owner is told."""
    if error.kind == "full":
        return NoSpace("The back end is full.")
    if error.kind == "small":
        return BackendError(f"The content needs {-(-int(str(error)) // GIB)} GiB and the volume has {size_gib} GiB.")
    if error.kind == "down":
        return BackendDown("The back end does not answer.")
    known = {
        "absent": "The volume is not on this back end.",
        "exists": "A volume with that id and another size is there already.",
        "busy": "The volume is in use by a guest.",
        "bindings": "The back end's host has no Python bindings of Ceph.",
    }
    return BackendError(known.get(error.kind, "The back end failed."))

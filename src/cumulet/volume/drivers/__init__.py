# SPDX-License-Identifier: Apache-2.0
"""Volume back ends: the Protocol is `model`, the drivers are `file`, `rbd` and `simulated`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cumulet.kernel.pools import Pool
from cumulet.volume.drivers.model import VolumeBackend


def make_backend(
    kind: str,
    folder: Path,
    pool: Pool,
    *,
    host: str,
    format: str,
    gid: int | None,
    knobs: Any,
    ceph: Mapping[str, Any] | None = None,
) -> VolumeBackend:
    """The back end ``kind`` in ``folder``. ``knobs`` are the simulated one's, ``ceph`` the place of rbd's.

    Raises ValueError for an unknown kind.
    """
    if kind == "file":
        from cumulet.volume.drivers.file import FileBackend

        return FileBackend(folder, pool, host=host, format=format, gid=gid)
    if kind == "simulated":
        from cumulet.volume.drivers.simulated import Knobs, SimulatedBackend

        return SimulatedBackend(folder / "simulated.json", knobs or Knobs())
    if kind == "rbd":
        from cumulet.kernel.ceph import CephPlace
        from cumulet.volume.drivers.rbd import RbdBackend

        return RbdBackend(CephPlace(**(ceph or {"pool": "volumes"})), folder, pool, host=host)
    raise ValueError(f"[volume] backend: no such back end: {kind}; known: file, rbd, simulated")

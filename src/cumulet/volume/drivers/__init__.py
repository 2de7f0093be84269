# SPDX-License-Identifier: Apache-2.0
"""Volume back ends: the Protocol is `model`, the drivers are `file` and `simulated`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cumulet.kernel.pools import Pool
from cumulet.volume.drivers.model import VolumeBackend


def make_backend(
    kind: str, folder: Path, pool: Pool, *, host: str, format: str, gid: int | None, knobs: Any
) -> VolumeBackend:
    """The back end ``kind`` in ``folder``. ``knobs`` are the simulated one's. Raises ValueError for an unknown kind."""
    if kind == "file":
        from cumulet.volume.drivers.file import FileBackend

        return FileBackend(folder, pool, host=host, format=format, gid=gid)
    if kind == "simulated":
        from cumulet.volume.drivers.simulated import Knobs, SimulatedBackend

        return SimulatedBackend(folder / "simulated.json", knobs or Knobs())
    raise ValueError(f"[volume] backend: no such back end: {kind}; known: file, simulated")

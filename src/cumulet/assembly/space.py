# SPDX-License-Identifier: Apache-2.0
"""How much room is left where a cloud keeps things, told before there is none.

A full disk breaks nothing, but whoever needs room is refused; nobody is made unready by it, since reading goes on.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

ALMOST_FULL = 5.0
"""Percent of free bytes below which it is told."""
NEEDED = 1 << 20
"""Bytes without which no start is begun."""
_PLACES = ("image", "image/*", "volume", "volume/*", "hosts", "hosts/*", "hosts/*/*")
"""What an operator may have put on a disk of its own, below the data directory."""


def almost_full(data: Path, percent: float = ALMOST_FULL) -> list[str]:
    """A sentence for each file system below ``data`` of which less than ``percent`` % is free; blocking."""
    told, seen = [], set[int]()
    for place in (data, *(found for pattern in _PLACES for found in sorted(data.glob(pattern)))):
        try:
            device = place.stat().st_dev
            if device in seen or not place.is_dir():
                continue
            seen.add(device)
            room = os.statvfs(place)
        except OSError:
            continue  # it went away between the two looks
        share = 100.0 * room.f_bavail / room.f_blocks if room.f_blocks else 100.0
        if share < percent:
            free = room.f_bavail * room.f_frsize
            told.append(f"disk of {place}: {'full' if not free else f'{_size(free)} ({share:.1f} %) free'}")
    return told


def ensure_room(data: Path) -> None:
    """Raise OSError with words when nothing could be written below ``data``: not even why a start failed."""
    data.mkdir(parents=True, exist_ok=True)
    room = os.statvfs(data)
    free = room.f_bavail * room.f_frsize
    if free < NEEDED:
        raise OSError(errno.ENOSPC, f"the disk is full ({_size(free)} free); make room", str(data))


def _size(number: float) -> str:
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1024 and len(units) > 1:
        number /= 1024
        units.pop(0)
    return f"{number:.3g} {units[0]}"

# SPDX-License-Identifier: Apache-2.0
"""Where tests put what nobody keeps: in memory, where the machine has enough of it.

The disk of a rented machine may take a minute to say that one small file is safe, and what this suite starts (two
databases, a broker, a Ceph, clouds by the hundred) asks for that all the time. TMPDIR names another place; /tmp,
where it would be anyway, is none.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ROOM = 8 * 1024**3
"""What a whole run may take (bytes); it was seen to take 1.2 GiB."""
_SHORT = 40


def use_memory() -> None:
    """Let temporary files of this process and its children live in memory, unless TMPDIR names a place of its own."""
    if os.environ.get("TMPDIR", "") in ("", "/tmp") and _fits():
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


def short() -> str:
    """The directory of temporary files, or /tmp where its name is too long: sockets live below it."""
    place = tempfile.gettempdir()
    return place if len(place) <= _SHORT else "/tmp"


def _fits() -> bool:
    """Whether it has room, programs may be run from it, and a disk's block device can be played there."""
    try:
        there = os.statvfs(_MEMORY)
        if there.f_flag & os.ST_NOEXEC or min(there.f_bavail * there.f_frsize, _available()) < _ROOM:
            return False
        with tempfile.NamedTemporaryFile(dir=_MEMORY) as probe:
            os.close(os.open(probe.name, os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    return True


def _available() -> int:
    """The machine's free memory (bytes)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))

# SPDX-License-Identifier: Apache-2.0
"""Lets the worker read its own code, wherever root has put the clone, and nothing else of that place.

A checkout below `/root` can't be entered by another user. The worker, still
root and about to drop its privilege, gets a mount namespace of its own in which
the closed directory is an empty one that holds only the code, read-only.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path

# mount(2), unshare(2)
_NEWNS, _RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 0x20000, 1, 2, 4, 32, 4096, 16384, 1 << 18


def code_paths() -> list[Path]:
    """Where this program and its interpreter are."""
    package = Path(__file__).resolve().parents[2]
    return sorted({Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), package})


def closed_ancestors(paths: list[Path]) -> dict[Path, list[Path]]:
    """The outermost directories that others can't enter, each with the paths that it hides."""
    hidden: dict[Path, list[Path]] = {}
    for path in paths:
        for ancestor in reversed(path.parents):
            if not ancestor.stat().st_mode & 0o001:
                hidden.setdefault(ancestor, []).append(path)
                break
    return hidden


def open_code() -> None:
    """Make the code readable for this process and its children; needs root. Raises OSError."""
    hidden = closed_ancestors(code_paths())
    if not hidden:
        return
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
        words = [None if word is None else word.encode() for word in (source, target, kind)]
        if libc.mount(*words, ctypes.c_ulong(flags), None if data is None else data.encode()) != 0:
            number = ctypes.get_errno()
            raise OSError(
                number, f"the code can't be made readable for an ordinary user: {os.strerror(number)}", target
            )

    if libc.unshare(_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "a mount namespace of its own is not allowed here")
    mount(None, "/", None, _REC | _PRIVATE)
    with tempfile.TemporaryDirectory(dir="/run", prefix="cumulet-code-") as staging:
        for ancestor, paths in hidden.items():
            kept = [path for path in paths if not any(other in path.parents for other in paths)]
            places = []
            for number, path in enumerate(kept):
                place = f"{staging}/{number}"
                os.mkdir(place)
                mount(str(path), place, None, _BIND | _REC)
                places.append(place)
            mount("cumulet", str(ancestor), "tmpfs", _NOSUID | _NODEV, "mode=0711,size=64k")
            for path, place in zip(kept, places, strict=True):
                _make_way(ancestor, path)
                mount(place, str(path), None, _BIND | _REC)
                mount(None, str(path), None, _BIND | _REMOUNT | _RDONLY | _NOSUID)
                libc.umount2(place.encode(), 2)  # MNT_DETACH
                os.rmdir(place)


def _make_way(ancestor: Path, path: Path) -> None:
    """The directories that lead to ``path``, enterable and otherwise empty."""
    for step in [*reversed([one for one in path.parents if ancestor in one.parents]), path]:
        step.mkdir(mode=0o711, exist_ok=True)
        step.chmod(0o711)

# SPDX-License-Identifier: Apache-2.0
"""The data directory: who holds it, who runs there, and what this cloud made outside of it.

Invariant: one cloud per directory, held by a lock that ends with its process.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import orjson

from cumulet.kernel.files import alone, write_whole


class Taken(RuntimeError):
    """Another cloud runs in this data directory; the text names its process."""


class Place:
    """One data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._lock: int | None = None
        self._names: list[int] = []

    def lock(self, *, shared: bool = False) -> None:
        """Take the directory or raise Taken. The lock is inherited by forked children.

        The processes of one spread cloud share it; a whole cloud has it alone.
        """
        handle = os.open(self.data / "lock", os.O_RDWR | os.O_CREAT, 0o640)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            run = self.running() or {}
            raise Taken(f"a cloud runs in {self.data} already (process {run.get('pid', 'unknown')})") from None
        os.set_inheritable(handle, True)
        self._lock = handle

    def release(self) -> None:
        """Give everything back (the end of the process does so too)."""
        for handle in (*self._names, *([self._lock] if self._lock is not None else [])):
            os.close(handle)
        self._names.clear()
        self._lock = None

    def lock_name(self, name: str) -> None:
        """Be the only process that is ``name`` (an agent of a host) in this directory; raises Taken."""
        folder = self.data / "locks"
        folder.mkdir(exist_ok=True)
        handle = os.open(folder / name.replace("/", "_"), os.O_RDWR | os.O_CREAT, 0o640)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise Taken(f"{name} runs in {self.data} already") from None
        os.set_inheritable(handle, True)
        self._names.append(handle)

    def is_locked(self) -> bool:
        """Whether some process holds the directory."""
        try:
            handle = os.open(self.data / "lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except OSError:
            return True
        finally:
            os.close(handle)

    def running(self) -> dict[str, Any] | None:
        """What the running (or last) cloud wrote about itself: pid, started, url, hypervisor …"""
        return self._read("run.json")

    def write_running(self, facts: dict[str, Any]) -> None:
        self._write("run.json", facts)

    def made(self) -> dict[str, Any]:
        """What this cloud made outside of its directory."""
        return self._read("made.json") or {}

    def write_made(self, facts: dict[str, Any]) -> None:
        with alone(self.data / ".made.lock"):
            self._write("made.json", {**self.made(), **facts})

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = orjson.loads((self.data / name).read_bytes())
            return found
        except (OSError, orjson.JSONDecodeError):
            return None

    def _write(self, name: str, facts: dict[str, Any]) -> None:
        write_whole(self.data / name, orjson.dumps(facts, option=orjson.OPT_INDENT_2), mode=0o644)


def process_start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, None when there is none; with the pid it names a process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None

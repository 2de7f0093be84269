# SPDX-License-Identifier: Apache-2.0
"""Small files that several processes read and write: always whole, and changed by one at a time."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, content: bytes | str, *, mode: int = 0o600, durable: bool = False) -> None:
    """Replace a file: who reads meanwhile finds what was or what is, and of several writers the last one wins.

    ``mode`` holds from the moment it is there; ``durable``: the content is on the disk by then. Raises OSError.
    """
    with _draft(path, content, mode, durable) as draft:
        draft.replace(path)


def chosen_once(path: Path, choose: Callable[[], str]) -> str:
    """The line in a file; who asks for it first, of all processes, chooses it. Raises OSError."""
    if not path.exists():
        with _draft(path, choose(), 0o644, durable=True) as draft, suppress(FileExistsError):
            path.hardlink_to(draft)
    return path.read_text().strip()


@contextmanager
def _draft(path: Path, content: bytes | str, mode: int, durable: bool) -> Iterator[Path]:
    """The content in a file of our own beside ``path``, gone at the end if it is still there."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Be the only process in here that names this lock file; waits for the others."""
    handle = os.open(lock, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

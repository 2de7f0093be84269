# SPDX-License-Identifier: Apache-2.0
"""The release before this one: its source, taken from the history.

CUMULET_UPGRADE_FROM names it (any git revision, or a directory that holds the package ``cumulet``); else it is HEAD
for a changed work tree, and HEAD's parent for a clean one. A clone without history has no previous release: then this
one stands in for it (its sagas in flight, its agents), and the run's summary says so in red.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
VARIABLE = "CUMULET_UPGRADE_FROM"


@dataclass(frozen=True)
class Previous:
    """Which release an upgrade starts from."""

    revision: str
    """Empty: there is none in this clone."""
    told: str

    def source(self, folder: Path) -> Path:
        """A directory for PYTHONPATH with its package ``cumulet``; made in ``folder``."""
        if not self.revision:
            return ROOT / "src"
        if Path(self.revision).is_dir():
            return Path(self.revision)
        packed = _git("archive", "--format=tar", self.revision, "src/cumulet")
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        return folder / "src"


def previous() -> Previous:
    """Raises AssertionError for a CUMULET_UPGRADE_FROM that is nothing."""
    asked = os.environ.get(VARIABLE, "")
    if asked and Path(asked).is_dir():
        assert (Path(asked) / "cumulet" / "__init__.py").is_file(), f"{VARIABLE}: {asked} holds no package cumulet"
        return Previous(asked, asked)
    if asked:
        return Previous(asked, _told(asked))
    try:
        dirty = _git("status", "--porcelain", "--", "src")
        # a commit that changed no code (docs, tests) would be compared with itself
        changed = _git("rev-list", "-1", "HEAD", "--", "src/cumulet").decode().strip()
        revision = "HEAD" if dirty else f"{changed}^"
        return Previous(revision, _told(revision))
    except (OSError, subprocess.CalledProcessError):
        return Previous("", "")


def summary() -> tuple[str, bool]:
    """One line for whoever reads a run, and whether an older release was there."""
    found = previous()
    if found.revision:
        return f"upgrades start from {found.told}", True
    return (
        f"NO UPGRADE FROM AN OLDER RELEASE WAS TESTED: this clone has no history "
        f"(git fetch --deepen=1, or {VARIABLE}=REVISION|DIRECTORY)",
        False,
    )


@contextmanager
def running(source: Path) -> Iterator[None]:
    """Processes that are started inside run that release."""
    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(source)
    try:
        yield
    finally:
        if kept is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = kept


def _told(revision: str) -> str:
    return _git("log", "-1", "--format=%h %s", revision, "--").decode(errors="replace").strip()


def _git(*words: str) -> bytes:
    # the clone may be somebody else's
    argv = ["git", "-C", str(ROOT), "-c", "safe.directory=*", *words]
    return subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout

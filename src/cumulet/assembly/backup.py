# SPDX-License-Identifier: Apache-2.0
"""A backup of a living cloud in one file, and the way back from it.

Invariant: all databases are of one moment. SQLite: every writer is held for the
milliseconds in which a read snapshot of each file is pinned and the files
beside them are hard-linked; PostgreSQL: one transaction sees all schemas.
A restored cloud removes nothing that its records do not know until an operator
says that it is settled (see ``RESTORED``).
"""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from cumulet.assembly.table import SERVICES
from cumulet.kernel import clock

FORMAT = 1
RESTORED = "restored"
"""A file in the data directory: the records are older than the hosts; nothing unknown is removed."""
MANIFEST = "manifest.json"
ALWAYS = ("cloud-id", "hosts/*/node")
SECRETS = "secrets.json"
IMAGES = ("image/*/**/*", "image/*/*", "guest.qcow2", "stand-in.raw")
VOLUMES = (
    "volume/*/**/*", "volume/*/*", "hosts/*/guests/**/*", "hosts/*/drives/*", "hosts/*/simulated.json",
    "hosts/*/network.json",
)  # fmt: skip
NEVER = ("image/cache/", "image/staging/", "volume/*.images/")
_TRIES = 10


class BackupError(RuntimeError):
    """What went wrong and what to do, for a person."""


def backup_sqlite(
    data: Path, target: Path, *, images: bool, volumes: bool, secrets: Path | None = None
) -> dict[str, Any]:
    """Write a cloud on SQLite files to ``target``, whether it runs or not; returns the manifest."""
    databases = [data / f"{entry.package}.db" for entry in SERVICES if (data / f"{entry.package}.db").exists()]
    if not databases:
        raise BackupError(f"there is no cloud in {data}")
    patterns = (*ALWAYS, *(IMAGES if images else ()), *(VOLUMES if volumes else ()))
    with tempfile.TemporaryDirectory(dir=data, prefix=".backup-") as scratch:
        kept = Path(scratch)
        with _pinned(databases, lambda: _link(data, kept / "files", patterns)) as (snapshots, pause):
            copies = []
            for path, snapshot in snapshots:
                copy = kept / path.name
                into = sqlite3.connect(copy)
                snapshot.backup(into)
                into.close()
                copies.append((f"databases/{path.name}", copy))
        files = [(str(path.relative_to(kept / "files")), path) for path in sorted((kept / "files").rglob("*"))]
        told = {
            "format": FORMAT, "database": "sqlite", "images": images, "volumes": volumes, "made_at": clock.now(),
            "cloud_id": (data / "cloud-id").read_text().strip(), "pause_ms": round(pause * 1000, 2),
        }  # fmt: skip
        write_archive(target, told, [*copies, (SECRETS, secrets or data / SECRETS), *files])
    return told


def write_archive(target: Path, manifest: dict[str, Any], files: Iterable[tuple[str, Path]]) -> None:
    """One tar file, readable by its owner only, whole or not at all."""
    partial = target.with_name(target.name + ".part")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            told = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
            head = tarfile.TarInfo(MANIFEST)
            head.size, head.mode, head.mtime = len(told), 0o600, int(clock.now())
            archive.addfile(head, io.BytesIO(told))
            for name, path in files:
                if path.is_file() and not path.is_symlink():
                    archive.add(path, name, recursive=False)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(target)


@contextmanager
def _pinned(paths: list[Path], meanwhile: Any) -> Iterator[tuple[list[tuple[Path, sqlite3.Connection]], float]]:
    """Read snapshots of all files at one moment in which nobody writes to any; and how long that took."""
    with ExitStack() as stack:
        readers = [(path, stack.enter_context(_closing(path))) for path in paths]
        for attempt in range(_TRIES):
            begun = time.monotonic()
            try:
                with ExitStack() as held:
                    for path in paths:
                        lock = held.enter_context(_closing(path))
                        lock.execute("BEGIN IMMEDIATE")
                    for _, reader in readers:
                        reader.execute("BEGIN")
                        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
                    meanwhile()
                break
            except sqlite3.OperationalError as error:
                for _, reader in readers:
                    if reader.in_transaction:
                        reader.execute("ROLLBACK")
                if attempt == _TRIES - 1:
                    raise BackupError(f"the databases were too busy: {error}; try again") from None
        yield readers, time.monotonic() - begun


@contextmanager
def _closing(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None, timeout=2.0)
    try:
        yield connection
    finally:
        connection.close()  # which gives back any lock and rolls back


def _link(data: Path, into: Path, patterns: Iterable[str]) -> None:
    """The files that match, by a second name: what is replaced or removed from here on stays as it is now."""
    if into.exists():
        shutil.rmtree(into)
    into.mkdir()
    for pattern in patterns:
        for path in data.glob(pattern):
            name = path.relative_to(data)
            if not path.is_file() or path.is_symlink() or any(name.match(one + "*") for one in NEVER):
                continue
            linked = into / name
            linked.parent.mkdir(parents=True, exist_ok=True)
            if not linked.exists():
                os.link(path, linked)


def read_manifest(source: Path) -> dict[str, Any]:
    """What a backup says of itself; raises BackupError for anything else than a backup."""
    try:
        with tarfile.open(source, mode="r:") as archive:
            first = archive.next()
            content = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
            told: dict[str, Any] = orjson.loads(content.read(1 << 16)) if content is not None else {}
    except (OSError, tarfile.TarError, orjson.JSONDecodeError) as error:
        raise BackupError(f"{source} can't be read as a backup: {error}") from None
    if told.get("format") != FORMAT:
        raise BackupError(f"{source} is no backup of a cloud that this release can read")
    return told


def restore_files(source: Path, data: Path) -> dict[str, Any]:
    """Make ``data`` (empty or missing) the directory of the cloud that was backed up; returns the manifest."""
    manifest = read_manifest(source)
    if data.exists() and any(data.iterdir()):
        raise BackupError(f"{data} is not empty; restore into another directory")
    data.mkdir(parents=True, exist_ok=True)
    with tarfile.open(source, mode="r:") as archive:
        for member in archive:
            if member.name == MANIFEST or member.name.startswith("tables/"):
                continue
            if not member.isfile() or not _is_ours(member.name):
                raise BackupError(f"{source} holds {member.name!r}, which no backup has")
            content = archive.extractfile(member)
            assert content is not None
            _write(data / member.name.removeprefix("databases/"), content, member.mode)
    (data / RESTORED).write_text(f"from a backup of {clock.iso_z(manifest['made_at'])}\n")
    return manifest


def _write(path: Path, content: Any, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    allowed = stat.S_IMODE(mode) & 0o660
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, allowed or 0o600), "wb") as out:
        shutil.copyfileobj(content, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())


def _is_ours(name: str) -> bool:
    """Whether a name may stand in a backup: one of ours, below the data directory."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name:
        return False
    head = path.parts[0]
    if head == "databases":
        return len(path.parts) == 2 and path.suffix == ".db"
    return name in ("cloud-id", SECRETS, "guest.qcow2", "stand-in.raw") or head in ("hosts", "image", "volume")

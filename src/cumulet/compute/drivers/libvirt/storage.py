# SPDX-License-Identifier: Apache-2.0
"""A guest's own files on this host: root disk, console log, sockets, all in one directory per guest.

Invariants: a root disk appears under its final name only when it is complete;
its name carries the attempt, so a disk of an earlier try is never taken for
this one's; QEMU opens everything through the group it shares with us, so
nobody here needs root; and a console log never holds more than a few MiB of disk.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cumulet.compute.drivers.libvirt.connection import reason
from cumulet.compute.drivers.libvirt.domain import FORMATS, Files, domain_uuid
from cumulet.compute.drivers.model import (
    FORMATS_INSIDE,
    GuestLost,
    GuestPlan,
    HypervisorError,
    LocalDisk,
    RootDisk,
)
from cumulet.kernel.pools import ProgramFailed, run_program

KEEP_LOG_BYTES = 2 << 20
"""How much of a console log is kept; older text is cut out of the file."""

_LIMITS = {"as": 1 << 30, "cpu": 30}  # bytes of address space, seconds: an image must not take the host down
_SECONDS = 60.0
_COPY_SECONDS = 3600.0
_GIB = 1 << 30
_PROGRAMS = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_LAZY = ("-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-L")
_MAKERS = {
    "ext2": ("mkfs.ext2", *_LAZY), "ext3": ("mkfs.ext3", *_LAZY), "ext4": ("mkfs.ext4", *_LAZY),
    "vfat": ("mkfs.vfat", "-n"), "swap": ("mkswap", "-L"),
}  # fmt: skip
"""Format → the program that makes it, up to the label."""
_LONGEST_SOCKET = 107  # bytes of sun_path without the final NUL (unix(7))
Work = Callable[[Callable[[], bool]], Awaitable[bool]]
_KEEP_SIZE_PUNCH_HOLE = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE (fallocate(2))


class Storage:
    """The directory ``<state>/guests``; every file below belongs to one guest."""

    def __init__(self, state: Path, gid: int) -> None:
        """``gid`` is the group that this process and QEMU share."""
        self._guests = state / "guests"
        self._gid = gid
        self._libc: ctypes.CDLL | None = None

    def open(self) -> None:
        """Make the directory; raises HypervisorError where it can't be used."""
        sample = self.files(str(uuid.UUID(int=0)))
        if max(len(os.fsencode(name)) for name in (sample.serial, sample.vnc, sample.agent)) > _LONGEST_SOCKET:
            raise HypervisorError("the state directory's path is too long for the sockets of guests")
        try:
            self._ensure_shared(self._guests)
        except OSError as error:
            raise HypervisorError(f"the state directory for guests can't be used: {error.strerror}") from error

    def _ensure_shared(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        if (found := path.stat()).st_gid != self._gid:
            os.chown(path, -1, self._gid)
        if found.st_mode & 0o7777 != 0o2770:
            path.chmod(0o2770)  # files made here get the group

    def directory(self, server_id: str) -> Path:
        return self._guests / domain_uuid(server_id)

    def files(
        self, server_id: str, attempt: int = 0, root: RootDisk | None = None, local: Sequence[LocalDisk] = ()
    ) -> Files:
        """The names of a guest's files; makes nothing."""
        where = self.directory(server_id)
        return Files(
            root=str(where / f"root.{attempt}.qcow2") if root is not None else None,
            base=root.base if root is not None else None,
            console=str(where / "console.log"),
            serial=str(where / "serial"),
            vnc=str(where / "vnc"),
            agent=str(where / "agent"),
            local=tuple(str(where / f"local-{_plain(one.name)}.{attempt}.raw") for one in local),
        )

    def prepare(self, plan: GuestPlan) -> tuple[Files, list[str]]:
        """Make the guest's directory and its empty log, and remove what an earlier attempt left.

        Returns the names, and the paths of the disks that are not there yet.
        """
        files = self.files(plan.server_id, plan.attempt, plan.root, plan.local_disks)
        where = self.directory(plan.server_id)
        self._ensure_shared(where)
        for stale in (*where.glob("root.*"), *where.glob("local-*")):
            if str(stale) not in (files.root, *files.local):
                stale.unlink()
        log = os.open(files.console, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o660)
        try:
            if os.fstat(log).st_uid == os.geteuid():
                os.fchmod(log, 0o660)
        finally:
            os.close(log)
        return files, [path for path in (files.root, *files.local) if path is not None and not os.path.exists(path)]

    async def recall(self, plan: GuestPlan, work: Work) -> GuestPlan:
        """The plan of a guest that was here, with the image that its root disk stands on; raises GuestLost.

        ``work`` runs a piece of file work on a thread.
        """
        files = self.files(plan.server_id, plan.attempt, plan.root, plan.local_disks)
        if not await work(lambda: _are_there(files.root, *files.local)):
            raise GuestLost("its disk is not on the host any more")
        if plan.root is None or files.root is None:
            return plan
        # a QEMU that runs although libvirt does not know it holds the disk's lock: then this fails
        told = json.loads(await _qemu_img("info", "-f", "qcow2", "--output=json", files.root))
        base = told.get("backing-filename")
        if not await work(lambda: _are_there(base)):
            raise GuestLost("the image that its disk stands on is not on the host any more")
        root = msgspec.structs.replace(plan.root, base=base, base_format=told.get("backing-filename-format", ""))
        return msgspec.structs.replace(plan, root=root)

    async def make_disks(self, plan: GuestPlan, files: Files, missing: Sequence[str]) -> None:
        """Make the ``missing`` disks; raises HypervisorError (too small, no space, ...)."""
        if files.root in missing:
            await self._make_root(plan, files)
        for disk, path in zip(plan.local_disks, files.local, strict=True):
            if path in missing:
                await self._make_local(disk, path)

    async def _make_local(self, disk: LocalDisk, path: str) -> None:
        """A sparse file with an empty file system, or swap space, on it."""
        make = _MAKERS.get(disk.format)
        if make is None:
            raise HypervisorError(f"the format of a local disk must be one of {', '.join(FORMATS_INSIDE)}")
        partial = f"{path}.part"
        size = disk.size_mib << 20
        if size > self.space()[1]:
            raise HypervisorError(f"the host has no room for a local disk of {disk.size_mib} MiB")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o660)
        try:
            os.ftruncate(handle, size)
            os.fchmod(handle, 0o660)
        finally:
            os.close(handle)
        program = shutil.which(make[0], path=_PROGRAMS)
        if program is None:
            raise HypervisorError(f"{make[0]} is not on this host")
        await _run(program, *make[1:], _plain(disk.name), partial)
        os.rename(partial, path)

    async def _make_root(self, plan: GuestPlan, files: Files) -> None:
        """Make the root disk as an overlay on its base; raises HypervisorError (too small, no space, ...)."""
        root = plan.root
        assert root is not None
        assert files.root is not None
        if root.base_format not in FORMATS:
            raise HypervisorError(f"the image's format must be one of {', '.join(FORMATS)}")
        size = root.size_gib * _GIB
        if root.base is not None:
            needed = await self._virtual_size(root)
            if 0 < size < needed:
                raise HypervisorError(
                    f"the flavor's root disk of {root.size_gib} GiB is smaller than the image ({needed / _GIB:.2f} GiB)"
                )
            size = size or needed
        if size == 0:
            raise HypervisorError("an empty root disk needs a size")
        partial = f"{files.root}.part"
        # -u: the base's size is known and its content is none of qemu-img's business
        base = [] if root.base is None else ["-u", "-b", root.base, "-F", root.base_format]
        await _qemu_img("create", "-q", "-f", "qcow2", *base, partial, str(size))
        os.chmod(partial, 0o660)
        os.rename(partial, files.root)

    async def _virtual_size(self, root: RootDisk) -> int:
        assert root.base is not None
        text = await _qemu_img("info", "-f", root.base_format, "--output=json", root.base)
        return int(json.loads(text)["virtual-size"])

    async def make_target(self, file: str, root: str) -> None:
        """An empty disk as large as ``root``, for a copy that QEMU makes; raises HypervisorError."""
        described = await self._describe(root)
        await _qemu_img("create", "-q", "-f", "qcow2", file, str(described["virtual-size"]))
        os.chmod(file, 0o660)

    async def copy(self, root: str, base: str | None, file: str) -> None:
        """Write the disk of a guest that is off to ``file``; raises HypervisorError.

        QEMU could write to the disk's header: it must still name the file that it was made on, and no other.
        """
        described = await self._describe(root)
        if described.get("full-backing-filename") != base or described.get("format-specific", {}).get("data", {}).get(
            "data-file"
        ):
            raise HypervisorError("the disk is not what it was made as")
        limits = {"as": 2 << 30, "cpu": int(_COPY_SECONDS)}
        await _run("qemu-img", "convert", "-q", "-f", "qcow2", "-O", "qcow2", root, file,
                   seconds=_COPY_SECONDS, limits=limits)  # fmt: skip

    async def _describe(self, root: str) -> dict[str, Any]:
        """What the header of a disk says; a running QEMU may have it open (-U)."""
        described: dict[str, Any] = json.loads(await _qemu_img("info", "-U", "-f", "qcow2", "--output=json", root))
        return described

    def remove(self, server_id: str) -> None:
        """Remove everything the guest had; gone already is success."""
        shutil.rmtree(self.directory(server_id), ignore_errors=True)
        if self.directory(server_id).exists():
            raise HypervisorError("the guest's files could not be removed")

    def tail(self, server_id: str, max_bytes: int) -> str:
        """The last ``max_bytes`` of the console log, without the cut-out part; empty when there is no log yet."""
        try:
            log = os.open(self.files(server_id).console, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return ""
        try:
            size = os.fstat(log).st_size
            count = max(0, min(max_bytes, size))
            data = os.pread(log, count, size - count)
        finally:
            os.close(log)
        return data.lstrip(b"\0").decode("utf-8", errors="replace")

    def trim_logs(self) -> None:
        """Give back the disk space of old console text. QEMU appends, so its file keeps its length and gets a hole."""
        for log in self._guests.glob("*/console.log"):
            try:
                found = log.stat(follow_symlinks=False)
                if found.st_blocks * 512 > 2 * KEEP_LOG_BYTES:
                    self._cut(log, found.st_size - KEEP_LOG_BYTES)
            except FileNotFoundError:
                continue

    def _cut(self, log: Path, length: int) -> None:
        if self._libc is None:
            self._libc = ctypes.CDLL(None, use_errno=True)
        handle = os.open(log, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            offset, end = ctypes.c_int64(0), ctypes.c_int64(length)
            if self._libc.fallocate64(handle, _KEEP_SIZE_PUNCH_HOLE, offset, end) != 0:
                os.ftruncate(handle, 0)  # no holes on this file system: the old text goes altogether
        finally:
            os.close(handle)

    def space(self) -> tuple[int, int]:
        """(total, free) bytes of the file system that holds the guests."""
        found = os.statvfs(self._guests)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


def _are_there(*paths: str | None) -> bool:
    return all(path is None or os.path.exists(path) for path in paths)


def _plain(name: str) -> str:
    """The name of a local disk, which becomes a file's name and a label."""
    if not (name.isascii() and name.isalnum() and len(name) <= 11):
        raise HypervisorError("the name of a local disk must be letters and digits")
    return name


async def _qemu_img(*arguments: str) -> bytes:
    return await _run("qemu-img", *arguments)


async def _run(program: str, *arguments: str, seconds: float = _SECONDS, limits: Mapping[str, int] = _LIMITS) -> bytes:
    name = os.path.basename(program)
    try:
        done = await run_program([program, *arguments], timeout=seconds, limits=limits)
    except TimeoutError:
        raise HypervisorError(f"{name} did not finish in time") from None
    except ProgramFailed as error:
        raise HypervisorError(f"a disk could not be made by {name}: {reason(error)}") from error
    return done.stdout

# SPDX-License-Identifier: Apache-2.0
"""One operation on a Ceph pool, in a process of its own: run by the Python that has Ceph's bindings.

The first line of standard input is the request; answers and data are frames (4
bytes of length, then the content) on standard output, the first of them JSON.
This file imports nothing of Cumulet, since that Python need not have it.

Invariant: an image under its name is whole when it has the snapshot ``snap``.
A writer whose input ends without the empty frame removes what it wrote.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

SNAP = "snap"
"""The snapshot that makes an image whole; clones are made of it."""
_PIECE = 1024 * 1024
_BLOCK = 4 * 1024 * 1024
"""Bytes that are written at once; blocks of zeros are left out."""
_ZEROS = bytes(_BLOCK)
_LENGTH = struct.Struct(">I")
_GIB = 1024**3
_FEATURES = 1 | 4 | 8 | 16 | 32
"""Of volumes: layering, exclusive-lock, object-map, fast-diff, deep-flatten (what Ceph gives unless told otherwise; a
clone would have its parent's). The last one lets a source go although its clones have snapshots."""
_DEPTH = 5
"""Clones of clones; a longer chain is cut by copying."""
_KINDS = {
    errno.ENOENT: "absent", errno.EEXIST: "exists", errno.EBUSY: "busy", errno.ENOTEMPTY: "busy",
    errno.ENOSPC: "full", errno.EDQUOT: "full", errno.ETIMEDOUT: "down", errno.ENOTCONN: "down",
    errno.ESHUTDOWN: "down", errno.EACCES: "denied", errno.EPERM: "denied", errno.EFBIG: "full",
}  # fmt: skip


class _Refused(Exception):
    """What the operation says itself; ``kind`` as in `_KINDS`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Pool:
    """The operations; ``rbd`` is the bindings' module, ``io`` an open pool."""

    def __init__(self, rados: Any, rbd: Any, cluster: Any, name: str, stdin: BinaryIO, stdout: BinaryIO) -> None:
        self._rados, self._rbd, self._cluster, self._name = rados, rbd, cluster, name
        self._io = cluster.open_ioctx(name)
        self._stdin, self._stdout = stdin, stdout
        self.answered = False
        """Whether the operation has begun to answer: what fails then ends without a word."""

    # ---- the pool

    def claim(self, mark: str, owner: str) -> dict[str, str]:
        """Put ``owner`` into the object ``mark`` unless somebody is there; who is, and the cluster's id."""
        with contextlib.suppress(self._rados.ObjectExists), self._rados.WriteOpCtx() as write:
            write.new(self._rados.LIBRADOS_CREATE_EXCLUSIVE)
            write.write_full(owner.encode())
            self._io.operate_write_op(write, mark)
        return {"owner": self._io.read(mark).decode(errors="replace"), "fsid": self._cluster.get_fsid()}

    def fsid(self) -> str:
        return str(self._cluster.get_fsid())

    def capacity(self) -> dict[str, int]:
        """Bytes that the pool can hold in all, and more."""
        asked = json.dumps({"prefix": "df", "format": "json"})
        code, out, _ = self._cluster.mon_command(asked, b"")
        if code:
            raise _Refused("denied", "the monitor does not tell the pool's room")
        for one in json.loads(out)["pools"]:
            if one["name"] == self._name:
                free = int(one["stats"]["max_avail"])
                return {"total": free + int(one["stats"]["stored"]), "free": free}
        raise _Refused("absent", "the pool is not there")

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self._rbd.RBD().list(self._io) if name.startswith(prefix))

    # ---- images

    def size(self, name: str, snap: str | None) -> int:
        """Bytes of an image, or of its snapshot."""
        with self._open(name, snap, read_only=True) as image:
            return int(image.size())

    def create(self, name: str, size: int) -> None:
        """Ensure an image of exactly that size."""
        try:
            self._rbd.RBD().create(self._io, name, size, old_format=False, features=_FEATURES)
        except self._rbd.ImageExists:
            if self.size(name, None) != size:
                raise

    def resize(self, name: str, size: int) -> None:
        """Ensure at least that size."""
        with self._open(name) as image:
            if image.size() < size:
                image.resize(size)

    def clone(self, name: str, size: int, pool: str, parent: str, snap: str) -> None:
        """Ensure a copy-on-write clone of a protected snapshot of a pool, grown to ``size``."""
        with self._cluster.open_ioctx(pool) as other, contextlib.suppress(self._rbd.ImageExists):
            with self._rbd.Image(other, parent, snapshot=snap, read_only=True) as image:
                if image.size() > size:
                    raise _Refused("small", str(image.size()))
                if not image.is_protected_snap(snap):
                    raise _Refused("absent", "the snapshot is not protected")
            self._rbd.RBD().clone(other, parent, snap, self._io, name, features=_FEATURES)
        self.resize(name, size)

    def derive(self, name: str, size: int, source: str) -> None:
        """Ensure a copy-on-write clone of an image as it is now, grown to ``size`` (0: as large as the source)."""
        if name in self._rbd.RBD().list(self._io):
            self.resize(name, size)
            return
        with self._open(source) as image:
            if size and image.size() > size:
                raise _Refused("small", str(image.size()))
            with contextlib.suppress(self._rbd.ImageExists):
                image.create_snap(name)
            if not image.is_protected_snap(name):
                image.protect_snap(name)
        self._rbd.RBD().clone(self._io, source, name, self._io, name, features=_FEATURES)
        self.resize(name, size)
        if self._depth(name) > _DEPTH:
            with self._open(name) as image:
                image.flatten()

    def _depth(self, name: str) -> int:
        """How many images of this pool stand behind an image."""
        depth = 0
        while depth <= _DEPTH:
            with self._open(name, read_only=True) as image:
                try:
                    pool, name, _ = image.parent_info()
                except self._rbd.ImageNotFound:
                    return depth
            if pool != self._name:
                return depth
            depth += 1
        return depth

    def discard(self, name: str) -> None:
        """Ensure that an image is not there; clones of it become images that stand alone first."""
        parent = None
        self.remove(f"part-{name}")
        try:
            with self._open(name) as image:
                if len(list(image.watchers_list())) > 1:
                    raise _Refused("busy", "somebody has the image open")
                with contextlib.suppress(self._rbd.ImageNotFound):
                    parent = image.parent_info()
                snaps = [one["name"] for one in image.list_snaps()]
            for snap in snaps:
                self._free(name, snap)
        except self._rbd.ImageNotFound:
            return
        self.remove(name)
        if parent is not None and parent[0] == self._name and parent[2] == name:
            with contextlib.suppress(self._rbd.ImageNotFound, self._rbd.ImageBusy), self._open(parent[1]) as image:
                if image.is_protected_snap(name):
                    image.unprotect_snap(name)
                image.remove_snap(name)

    def _free(self, name: str, snap: str) -> None:
        """Copy into the clones of a snapshot what they have of it."""
        with self._open(name, snap) as image:
            children = list(image.list_children())
        for pool, child in children:
            with self._cluster.open_ioctx(pool) as other, self._rbd.Image(other, child) as image:
                image.flatten()

    def in_use(self, name: str) -> bool:
        """Whether clones of the image exist."""
        try:
            with self._open(name, SNAP, read_only=True) as image:
                return bool(list(image.list_children2()))
        except self._rbd.ImageNotFound:
            return False

    def remove(self, name: str) -> None:
        """Ensure that an image is not there; raises busy while it has clones or somebody has it open."""
        try:
            with self._open(name) as image:
                if len(list(image.watchers_list())) > 1:
                    raise _Refused("busy", "somebody has the image open")
                for one in list(image.list_snaps()):
                    if image.is_protected_snap(one["name"]):
                        image.unprotect_snap(one["name"])
                    image.remove_snap(one["name"])
            self._rbd.RBD().remove(self._io, name)
        except self._rbd.ImageNotFound:
            pass

    # ---- data

    def read(self, name: str, snap: str | None, offset: int, length: int | None) -> None:
        """Data frames from ``offset`` on, then an empty one.

        The image is opened so that others see it: nobody removes what is being read.
        """
        with self._open(name, snap) as image:
            end = image.size() if length is None else min(image.size(), offset + length)
            self.frame(json.dumps({"ok": max(end - offset, 0)}).encode())
            self.answered = True
            while offset < end:
                piece = image.read(offset, min(_PIECE, end - offset))
                self.frame(piece)
                offset += len(piece)
        self.frame(b"")

    def write(self, name: str) -> int:
        """A new whole image of the data frames that come; its size. An older beginning is dropped."""
        self.remove(name)
        self._rbd.RBD().create(self._io, name, 0, old_format=False, features=self._rbd.RBD_FEATURE_LAYERING)
        try:
            with self._rbd.Image(self._io, name) as image:
                size = self._fill(image, self._frames(), 0)
                image.resize(size)
                image.flush()
                image.create_snap(SNAP)
                image.protect_snap(SNAP)
            return size
        except BaseException:
            with contextlib.suppress(self._rbd.Error, self._rados.Error):
                self.remove(name)
            raise

    def load(self, name: str, path: str, size: int) -> None:
        """Ensure an image with a local file's content, ``size`` bytes large; half of one never has the name."""
        part = f"part-{name}"
        with contextlib.suppress(self._rbd.ImageNotFound):
            if self.size(name, None) != size:
                raise _Refused("exists", "another size")
            return
        if os.path.getsize(path) > size:
            raise _Refused("small", str(os.path.getsize(path)))
        self.remove(part)
        self.create(part, size)
        with self._rbd.Image(self._io, part) as image:
            self._fill(image, _pieces(path), size)
            image.flush()
        self._rbd.RBD().rename(self._io, part, name)

    # ---- inside

    def _open(self, name: str, snap: str | None = None, *, read_only: bool = False) -> Any:
        return self._rbd.Image(self._io, name, snapshot=snap, read_only=read_only)

    def _fill(self, image: Any, pieces: Iterator[bytes], size: int) -> int:
        """Write what comes, growing the image; the bytes in all."""
        offset, buffer = 0, bytearray()

        def put(block: bytes) -> None:
            nonlocal offset, size
            if offset + len(block) > size:
                size = max(offset + len(block), min(2 * size, size + _GIB))
                image.resize(size)
            if block != _ZEROS[: len(block)]:
                image.write(block, offset)
            offset += len(block)

        for piece in pieces:
            buffer += piece
            while len(buffer) >= _BLOCK:
                put(bytes(buffer[:_BLOCK]))
                del buffer[:_BLOCK]
        if buffer:
            put(bytes(buffer))
        return offset

    def _frames(self) -> Iterator[bytes]:
        while size := _LENGTH.unpack(self._exactly(_LENGTH.size))[0]:
            yield self._exactly(size)

    def _exactly(self, count: int) -> bytes:
        data = self._stdin.read(count)
        if len(data) != count:
            raise _Refused("broken", "the data ended before its end")
        return data

    def frame(self, content: bytes) -> None:
        self._stdout.write(_LENGTH.pack(len(content)))
        self._stdout.write(content)
        self._stdout.flush()


def _pieces(path: str) -> Iterator[bytes]:
    """A local file's content; holes come as zeros."""
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_BLOCK):
            yield piece


def _carry_out(request: dict[str, Any], stdin: BinaryIO, stdout: BinaryIO) -> dict[str, Any] | None:
    """The answer; None when the operation has given its own."""
    try:
        import rados
        import rbd
    except ImportError:
        return {"kind": "bindings", "error": f"{sys.executable} has no Python bindings of Ceph"}
    try:
        cluster = _connected(rados, request)
        pool = Pool(rados, rbd, cluster, request["pool"], stdin, stdout)
    except rados.Error as error:
        return {"kind": "down", "error": f"{type(error).__name__}: {error}"}
    try:
        work: Callable[..., Any] = getattr(pool, request["do"])
        answer = {"ok": work(**request["with"])}
    except _Refused as refused:
        answer = {"kind": refused.kind, "error": str(refused)}
    except (rados.Error, rbd.Error) as error:
        number = abs(getattr(error, "errno", None) or 0)
        answer = {"kind": _KINDS.get(number, "failed"), "error": f"{type(error).__name__}: {error}"}
    except BrokenPipeError:
        return None
    return None if pool.answered else answer


def _connected(rados: Any, request: dict[str, Any]) -> Any:
    waits = ("client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout")
    conf = {"log_to_stderr": "false", "err_to_stderr": "false", "log_file": ""}
    conf |= dict.fromkeys(waits, str(request["seconds"]))
    if request["keyring"]:
        conf["keyring"] = request["keyring"]
    cluster = rados.Rados(conffile=request["conf"], name=f"client.{request['user']}", conf=conf)
    cluster.connect(timeout=request["seconds"])
    return cluster


def main() -> None:
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    request = json.loads(stdin.readline())
    answer = _carry_out(request, stdin, stdout)
    with contextlib.suppress(BrokenPipeError):
        if answer is not None:
            content = json.dumps(answer).encode()
            stdout.write(_LENGTH.pack(len(content)) + content)
        stdout.flush()
    os._exit(0)  # images are closed; a cluster that does not answer can't keep us


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Ceph's block images (RBD), for whoever keeps data there.

Ceph's bindings belong to the system's Python and block for as long as a cluster
does not answer, so each operation is a process of its own (`worker`) that can be
killed. Invariant: nothing here waits longer than it says, and no text has a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from cumulet.kernel.pools import Pool

SNAP = "snap"
"""The snapshot that makes an image whole."""
_LENGTH = struct.Struct(">I")
_LARGEST = 64 * 1024 * 1024
_GRACE = 10.0
"""Seconds that a worker may be late: it starts, and it waits for two answers."""
_TRANSFERS = 16
"""Uploads and downloads at once; each is a process of about 50 MB."""


class CephError(OSError):
    """An operation failed. ``kind``: absent, exists, busy, full, denied, small, broken, down, bindings or failed."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class CephPlace(msgspec.Struct, frozen=True):
    """A pool and how to get at it."""

    pool: str
    user: str = "cumulet"
    """Without ``client.``."""
    conf: str = "/etc/ceph/ceph.conf"
    keyring: str = ""
    """The file with the user's key (empty: where Ceph looks for it)."""
    python: str = "/usr/bin/python3"
    """The Python that has the modules rados and rbd."""
    seconds: int = 30
    """How long Ceph may take to answer."""


class Ceph:
    """Operations on one pool."""

    def __init__(self, place: CephPlace) -> None:
        self.place = place
        self._asking = Pool(f"ceph-{place.pool}", 4)
        self._moving = Pool(f"ceph-{place.pool}-data", _TRANSFERS)
        self._transfers = asyncio.Semaphore(_TRANSFERS)

    async def ask(self, do: str, *, within: float = 0.0, **more: Any) -> Any:
        """One operation of the worker's; its answer. Raises CephError.

        ``within``: seconds that it may take besides those until Ceph answers.
        """
        process = await self._start(self._asking, do, more)
        try:
            patience = self.place.seconds * 2 + _GRACE + within
            return await self._asking.run(process.answer, timeout=patience)
        except TimeoutError:
            raise CephError("down", "Ceph does not answer") from None
        finally:
            process.kill()

    async def read(self, name: str, snap: str | None, offset: int = 0, length: int | None = None) -> CephReader:
        """The bytes of an image. Raises CephError."""
        process = await self._transfer("read", {"name": name, "snap": snap, "offset": offset, "length": length})
        reader = CephReader(process, self._moving, self._transfers, self.place.seconds * 2 + _GRACE)
        await reader.begin()
        return reader

    async def write(self, name: str) -> CephWriter:
        """A new image on its way. Raises CephError."""
        process = await self._transfer("write", {"name": name})
        return CephWriter(process, self._moving, self._transfers, self.place.seconds * 2 + _GRACE)

    def close(self) -> None:
        self._asking.close()
        self._moving.close()

    async def _transfer(self, do: str, more: dict[str, Any]) -> _Process:
        try:
            async with asyncio.timeout(self.place.seconds):
                await self._transfers.acquire()
        except TimeoutError:
            raise CephError("down", "too many transfers are under way") from None
        try:
            return await self._start(self._moving, do, more)
        except BaseException:
            self._transfers.release()
            raise

    async def _start(self, pool: Pool, do: str, more: dict[str, Any]) -> _Process:
        place = msgspec.structs.asdict(self.place)
        try:
            return await pool.run(_Process, place, do, more)
        except TimeoutError:
            raise CephError("down", "too many operations wait for Ceph") from None


class _Process:
    """A worker; blocking, for worker threads."""

    def __init__(self, place: dict[str, Any], do: str, more: dict[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        worker = str(Path(__file__).with_name("worker.py"))
        try:
            self._process = subprocess.Popen(
                [place["python"], "-I", worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._errors.close()
            raise CephError("bindings", f"{place['python']}: {error.strerror}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # what went wrong is in its answer
            self._stdin.write(msgspec.json.encode({**place, "do": do, "with": more}) + b"\n")
            self._stdin.flush()

    def send(self, content: bytes) -> None:
        """A frame; raises CephError when the worker has given up."""
        try:
            self._stdin.write(_LENGTH.pack(len(content)))
            self._stdin.write(content)
            self._stdin.flush()
        except BrokenPipeError:
            self.answer()
            raise CephError("failed", "the worker ended early") from None

    def frame(self) -> bytes:
        """The next frame; raises CephError when the worker ended without it."""
        head = self._stdout.read(_LENGTH.size)
        size = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else None
        content = self._stdout.read(size) if size is not None and size <= _LARGEST else b""
        if size is None or len(content) != size:
            raise CephError("failed", f"the worker ended early. {self._last_words()}".rstrip())
        return content

    def answer(self) -> Any:
        """What the operation says; raises CephError."""
        told = msgspec.json.decode(self.frame())
        if "kind" in told:
            raise CephError(told["kind"], told["error"])
        return told["ok"]

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-300:].decode(errors="replace").strip().rpartition("\n")[2]

    def leave(self) -> None:
        """Let the worker see that nobody listens any more, and wait until it has cleaned up."""
        for end in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                end.close()
        self._process.wait()
        self._errors.close()

    def kill(self) -> None:
        """End it; at once. Waits for nothing: one that hangs in the kernel goes when it can, and holds a thread."""
        self._process.kill()
        threading.Thread(target=self._bury, name="ceph-end", daemon=True).start()

    def _bury(self) -> None:
        self._process.wait()
        for end in (self._stdin, self._stdout, self._errors):
            with contextlib.suppress(OSError):
                end.close()


class _Transfer:
    """Data on its way through a worker; `_end` gives back what it holds, once."""

    def __init__(self, process: _Process, pool: Pool, places: asyncio.Semaphore, patience: float) -> None:
        self._process, self._pool, self._places, self._patience = process, pool, places, patience
        self._ended = False

    async def _end(self) -> None:
        """Let the worker clean up; one that can't is killed, and what it leaves behind is unfinished."""
        if self._ended:
            return
        self._ended = True
        try:
            await self._pool.run(self._process.leave, timeout=self._patience)
        except TimeoutError:
            self._process.kill()
        finally:
            self._places.release()


class CephReader(_Transfer):
    """An image, read in pieces of at most 1 MiB; it can't be removed meanwhile."""

    async def begin(self) -> None:
        """Raises CephError when it can't be read."""
        try:
            await self._next(self._process.answer)
        except BaseException:
            await asyncio.shield(self._end())
            raise

    async def _next(self, what: Any) -> Any:
        try:
            return await self._pool.run(what, timeout=self._patience)
        except TimeoutError:
            self._process.kill()
            raise CephError("down", "Ceph does not answer") from None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece: bytes = b"" if self._ended else await self._next(self._process.frame)
        if not piece:
            await self.close()
            raise StopAsyncIteration
        return piece

    async def close(self) -> None:
        await asyncio.shield(self._end())


class CephWriter(_Transfer):
    """An image that is whole after `commit` and gone after `abort`."""

    def write(self, piece: bytes) -> None:
        """Append; blocking. Raises CephError."""
        if piece:
            self._process.send(piece)

    async def commit(self) -> None:
        """Raises CephError, and then nothing is left."""

        def finish() -> None:
            self._process.send(b"")
            self._process.answer()

        try:
            await self._pool.run(finish, timeout=600.0)
        except TimeoutError:
            raise CephError("down", "Ceph does not answer") from None
        finally:
            await asyncio.shield(self._end())

    async def abort(self) -> None:
        await asyncio.shield(self._end())

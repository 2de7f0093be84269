# SPDX-License-Identifier: Apache-2.0
"""Starts processes of the command, fresh or from a nursery that has imported all code already.

A storm starts a process per kill, and more than half of a start is importing.
So `python -m cumulet.cli.chaos.nursery` imports once and forks a child for each
line that it reads; the child runs the command as a fresh process would.
Invariant: the nursery has no thread and no event loop, so a fork copies nothing
that is at work; when its reader goes away it kills what it started.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pkgutil
import select
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

_LEFT_OUT = ("cumulet.cli.chaos.nursery",)
_WITHIN = 120.0
_FOREIGN = ("aio_pika", "aiohttp", "asyncpg", "uvicorn", "uvloop", "aiosqlite", "alembic.command", "websockets")
"""What the command imports only where it needs it."""


class Child(Protocol):
    """A process that was started."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def send_signal(self, signal: int) -> None: ...

    async def wait(self) -> int: ...


class Launcher(Protocol):
    """Runs `cumulet WORDS…` in a session of its own, its output appended to ``log``."""

    async def launch(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> Child: ...


class Fresh:
    """Every process is a new interpreter."""

    async def launch(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
        with open(log, "ab") as out:  # noqa: ASYNC230 - only the child writes to it
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cumulet.cli", *words, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out,
                env=dict(environment), start_new_session=True,
            )  # fmt: skip


class _Forked:
    """A child of the nursery, which tells when it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    def send_signal(self, signal: int) -> None:
        if not self._ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def end(self, status: int) -> None:
        if not self._ended.done():
            self._ended.set_result(status)


class Nursery:
    """The warm parent; an async context manager."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._children: dict[int, _Forked] = {}
        self._born: list[asyncio.Future[_Forked]] = []
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Nursery:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cumulet.cli.chaos.nursery",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def launch(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
        """Let it fork the command; raises RuntimeError when the nursery is not there."""
        assert self._process is not None
        assert self._process.stdin is not None
        if self._process.returncode is not None:
            raise RuntimeError("the nursery has ended")
        born: asyncio.Future[_Forked] = asyncio.get_running_loop().create_future()
        self._born.append(born)
        wish = {"words": list(words), "environment": dict(environment), "log": str(log)}
        self._process.stdin.write(json.dumps(wish).encode() + b"\n")
        async with asyncio.timeout(_WITHIN):
            return await asyncio.shield(born)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                told: dict[str, int] = json.loads(line)
                if "born" in told:
                    child = self._children[told["born"]] = _Forked(told["born"])
                    self._born.pop(0).set_result(child)
                else:
                    self._children.pop(told["ended"]).end(told["status"])
        finally:  # when we are told to end, too: nobody may wait for what nobody tells any more
            for child in self._children.values():
                child.end(-signal.SIGKILL)  # it takes them with it
            for born in self._born:
                if not born.done():
                    born.set_exception(RuntimeError("the nursery has ended"))


def _import_all() -> None:
    """Import every module of the package, as far as this machine can."""
    import cumulet

    for found in pkgutil.walk_packages(cumulet.__path__, "cumulet.", onerror=lambda _: None):
        if ".migrations" not in found.name and "__main__" not in found.name and found.name not in _LEFT_OUT:
            with suppress(ImportError):
                import_module(found.name)
    for name in _FOREIGN:
        with suppress(ImportError):
            import_module(name)


def _become(wish: dict[str, Any]) -> int:
    """In the child: what a fresh process would be."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing, out = os.open(os.devnull, os.O_RDWR), os.open(wish["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number, file in ((0, nothing), (1, out), (2, out)):
        os.dup2(file, number)
    os.closerange(3, 64)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(wish["environment"])
    from cumulet.cli import main

    try:
        main(args=wish["words"], prog_name="cumulet")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _say(told: dict[str, int]) -> None:
    os.write(1, json.dumps(told).encode() + b"\n")


def _fork(line: bytes) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _become(json.loads(line))
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    return pid


def _serve() -> None:
    """Fork for each line, tell of each end, until nobody reads any more."""
    _import_all()
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()
    heard, hears = os.pipe()
    os.set_blocking(hears, False)
    os.set_blocking(heard, False)
    signal.set_wakeup_fd(hears)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    living: set[int] = set()
    waiting = b""
    try:
        while True:
            readable, _, _ = select.select([0, heard], [], [])
            if heard in readable:
                os.read(heard, 4096)
                while living and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    living.discard(ended[0])
                    _say({"ended": ended[0], "status": os.waitstatus_to_exitcode(ended[1])})
            if 0 in readable:
                if not (data := os.read(0, 65536)):
                    return
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    pid = _fork(line)
                    living.add(pid)
                    _say({"born": pid})
    finally:
        for pid in living:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    _serve()

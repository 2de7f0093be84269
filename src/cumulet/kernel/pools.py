# SPDX-License-Identifier: Apache-2.0
"""Where blocking work goes: bounded named thread pools with deadlines, and programs without a shell.

Invariant: a call that hangs occupies one thread of its own pool and nothing
else. The caller gets ``TimeoutError`` at the deadline (waiting for a free
thread counts), so a stuck libvirtd can never stop a login.
"""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

import msgspec

P = ParamSpec("P")
R = TypeVar("R")

OUTPUT_LIMIT = 16 * 1024 * 1024
"""Bytes of standard output, and of standard error, that ``run_program`` keeps before it kills."""


class _Threads:
    """At most ``limit`` daemon threads: unlike an executor's, one that hangs does not keep the process from ending."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0
        self._starting = threading.Lock()

    def submit(self, fn: Callable[[], R]) -> Future[R]:
        job: Future[R] = Future()
        self._jobs.put((job, fn))
        if not self._idle.acquire(blocking=False):
            with self._starting:
                if self._started < self._limit:
                    self._started += 1
                    threading.Thread(target=self._work, name=f"{self._name}_{self._started}", daemon=True).start()
        return job

    def _work(self) -> None:
        while True:
            try:
                work = self._jobs.get_nowait()
            except queue.Empty:
                self._idle.release()
                work = self._jobs.get()
            if work is None:
                return
            job, fn = work
            if job.set_running_or_notify_cancel():
                try:
                    job.set_result(fn())
                except BaseException as error:
                    job.set_exception(error)
            del work, job, fn

    def shutdown(self) -> None:
        """Cancel what waits and let idle threads end."""
        while True:
            try:
                waiting = self._jobs.get_nowait()
            except queue.Empty:
                break
            if waiting is not None:
                waiting[0].cancel()
        for _ in range(self._started):
            self._jobs.put(None)


class Pool:
    """A named set of at most ``threads`` threads; 0 threads runs inline, for deterministic tests."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.threads = threads
        self.abandoned = 0
        """Calls whose caller gave up while they were still running (each holds a thread until it ends)."""
        self._executor = _Threads(threads, name) if threads else None

    async def run(self, fn: Callable[P, R], *args: P.args, timeout: float = 30.0, **kwargs: P.kwargs) -> R:  # type: ignore[valid-type]
        """Return ``fn(*args, **kwargs)`` computed on a thread of this pool.

        Raises TimeoutError after ``timeout`` seconds and whatever ``fn`` raises.
        A call that has not begun by then never begins.
        """
        call = partial(fn, *args, **kwargs)
        if self._executor is None:
            return call()
        job = self._executor.submit(call)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(job)
        except (TimeoutError, asyncio.CancelledError):
            if not job.cancel() and not job.done():
                self.abandoned += 1
                job.add_done_callback(self._came_back)
            raise

    def _came_back(self, _: object) -> None:
        self.abandoned -= 1

    def close(self) -> None:
        """Let idle threads go; queued calls are cancelled, running ones are not waited for."""
        if self._executor is not None:
            self._executor.shutdown()


class Completed(msgspec.Struct, frozen=True):
    """How a program ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


class ProgramFailed(RuntimeError):
    """A program ended with another status than 0, wrote too much, or could not be started."""


async def run_program(
    argv: Sequence[str],
    *,
    input: bytes | None = None,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    limits: Mapping[str, int] | None = None,
    check: bool = True,
    pass_fds: Sequence[int] = (),
    output_limit: int = OUTPUT_LIMIT,
) -> Completed:
    """Run ``argv`` without a shell and return its status and output.

    The program leads a process group of its own, which is killed when
    ``timeout`` seconds have passed (TimeoutError), when the caller is
    cancelled, or when an output exceeds ``output_limit`` bytes.
    ``limits`` are resource limits by the names of prlimit(1), e.g.
    ``{"as": bytes, "cpu": seconds}``. With ``check`` a status other than 0
    raises ProgramFailed with the program's own words, never its arguments.
    """
    if limits:
        argv = ["prlimit", *(f"--{name}={value}" for name, value in limits.items()), "--", *argv]
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL if input is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except OSError as error:
        raise ProgramFailed(f"{argv[0]}: {error.strerror}") from error
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            stdout = group.create_task(_read(process.stdout, output_limit, process))
            stderr = group.create_task(_read(process.stderr, output_limit, process))
            if input is not None:
                assert process.stdin is not None
                group.create_task(_write(process.stdin, input))
            group.create_task(process.wait())
    except BaseException:
        _kill_group(process)
        await asyncio.shield(process.wait())
        raise
    done = Completed(process.returncode or 0, stdout.result(), stderr.result())
    if max(len(done.stdout), len(done.stderr)) > output_limit:
        raise ProgramFailed(f"{argv[0]} wrote more than {output_limit} bytes")
    if check and done.returncode:
        text = done.stderr.decode(errors="replace").strip()[-2000:]
        raise ProgramFailed(f"{argv[0]} ended with status {done.returncode}: {text}")
    return done


async def _read(stream: asyncio.StreamReader, limit: int, process: asyncio.subprocess.Process) -> bytes:
    data = bytearray()
    while part := await stream.read(65536):
        if len(data) > limit:
            continue  # a program has ended for asyncio only when its output was read to the end
        data += part
        if len(data) > limit:
            _kill_group(process)
    return bytes(data)


def _kill_group(process: asyncio.subprocess.Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


async def _write(stream: asyncio.StreamWriter, data: bytes) -> None:
    try:
        stream.write(data)
        await stream.drain()
        stream.close()
        await stream.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the program may end without reading its input

# SPDX-License-Identifier: Apache-2.0
"""The socket pair between the worker and the privileged side: frames of msgpack, descriptors beside them.

A frame is a header (length of the body, number of descriptors) and a body.
Descriptors travel with the frame's first byte and are matched in order.
Invariant: a frame is written whole or not at all, and an answer that nobody
waits for any more has its descriptors closed.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from cumulet.kernel.host.model import Fds, HostError, Operations, name_of, perform, returns

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R")

_HEADER = struct.Struct("!IH")
_LARGEST = 64 * 1024 * 1024
_MOST_FDS = 16


class _Request(msgspec.Struct, array_like=True):
    id: int
    operation: str
    timeout: float
    params: bytes


class _Answer(msgspec.Struct, array_like=True):
    id: int
    value: bytes | None
    error: str | None


class _Frames:
    """Cuts received bytes into frames and hands each the descriptors that came with it."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, sock: socket.socket) -> bool:
        """Receive once; False at the end of the stream."""
        room = socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize)
        data, ancillary, _, _ = sock.recvmsg(262144, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self._fds.extend(fds)
        self._data += data
        return bool(data)

    def __iter__(self) -> Iterator[tuple[bytes, list[int]]]:
        while len(self._data) >= _HEADER.size:
            length, count = _HEADER.unpack_from(self._data)
            if length > _LARGEST or count > len(self._fds):
                raise ConnectionError("broken frame")
            end = _HEADER.size + length
            if len(self._data) < end:
                return
            body = bytes(self._data[_HEADER.size : end])
            del self._data[:end]
            yield body, [self._fds.popleft() for _ in range(count)]


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def serve(channel: socket.socket, operations: Operations, *, threads: int = 4) -> None:
    """The privileged side: carry out requests from ``channel`` until the other end closes it.

    Requests run on ``threads`` threads; one whose deadline passed while it was
    queued is not begun, because its caller has given up.
    """
    writing = threading.Lock()

    def answer(request: _Request, begun_before: float) -> None:
        if time.monotonic() >= begun_before:
            return
        fds: list[int] = []
        try:
            value, fds = perform(operations, request.operation, request.params)
            reply = _Answer(request.id, value, None)
        except HostError as error:
            reply = _Answer(request.id, None, str(error))
        body = msgspec.msgpack.encode(reply)
        frame = _HEADER.pack(len(body), len(fds)) + body
        try:
            with writing:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                sent = channel.sendmsg([frame], rights)
                channel.sendall(frame[sent:])
        except OSError:
            pass  # the worker is gone; the main loop sees the end of the stream
        finally:
            _close(fds)

    frames = _Frames()
    decoder = msgspec.msgpack.Decoder(_Request)
    with ThreadPoolExecutor(threads, thread_name_prefix="operation") as pool:
        try:
            while frames.feed(channel):
                for body, fds in frames:
                    _close(fds)
                    request = decoder.decode(body)
                    pool.submit(answer, request, time.monotonic() + request.timeout)
        except (OSError, msgspec.DecodeError):
            pass  # a worker that breaks the protocol is a worker that is gone
        pool.shutdown(wait=True, cancel_futures=True)


class ChannelHost:
    """The worker's side of the channel: a ``Host`` that any number of tasks may use at once."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[bytes, list[int]]]] = {}
        self._frames = _Frames()
        self._out = bytearray()
        self._gone = False

    async def call(self, operation: Callable[[P], R], params: P, *, timeout: float = 30.0) -> R:
        value, fds = await self._exchange(name_of(operation), params, timeout)
        _close(fds)
        result: R = msgspec.msgpack.decode(value, type=returns(operation))
        return result

    async def call_fd(self, operation: Callable[[P], Fds], params: P, *, timeout: float = 30.0) -> Fds:
        _, fds = await self._exchange(name_of(operation), params, timeout)
        return Fds(fds)

    def close(self) -> None:
        """Close the channel; the privileged side finishes what it does and ends."""
        self._end()

    async def _exchange(self, name: str, params: msgspec.Struct, timeout: float) -> tuple[bytes, list[int]]:
        loop = asyncio.get_running_loop()
        if self._gone:
            raise HostError("the privileged parent is gone")
        if self._loop is not loop:
            self._loop = loop
            loop.add_reader(self._channel.fileno(), self._readable)
        request = _Request(next(self._ids), name, timeout, msgspec.msgpack.encode(params))
        body = msgspec.msgpack.encode(request)
        if len(body) > _LARGEST:
            raise HostError(f"{name}: the parameters are too large")
        answer: asyncio.Future[tuple[bytes, list[int]]] = loop.create_future()
        self._waiting[request.id] = answer
        try:
            self._out += _HEADER.pack(len(body), 0) + body
            self._writable()
            async with asyncio.timeout(timeout):
                return await answer
        except BaseException:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                _close(answer.result()[1])  # it came in the very moment its caller gave up
            raise
        finally:
            self._waiting.pop(request.id, None)

    def _writable(self) -> None:
        assert self._loop is not None
        try:
            while self._out:
                del self._out[: self._channel.send(self._out)]
        except BlockingIOError:
            self._loop.add_writer(self._channel.fileno(), self._writable)
            return
        except OSError:
            self._end()
            return
        self._loop.remove_writer(self._channel.fileno())

    def _readable(self) -> None:
        try:
            alive = self._frames.feed(self._channel)
            for body, fds in self._frames:
                reply = msgspec.msgpack.decode(body, type=_Answer)
                waiter = self._waiting.get(reply.id)
                if waiter is None or waiter.done():
                    _close(fds)
                elif reply.value is None:
                    waiter.set_exception(HostError(reply.error or "failed"))
                else:
                    waiter.set_result((reply.value, fds))
        except BlockingIOError:
            return
        except (OSError, msgspec.DecodeError):
            alive = False
        if not alive:
            self._end()

    def _end(self) -> None:
        if self._gone:
            return
        self._gone = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(HostError("the privileged parent is gone"))

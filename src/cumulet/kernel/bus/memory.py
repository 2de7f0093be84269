# SPDX-License-Identifier: Apache-2.0
"""The bus of one process: queues in memory, the same bytes as on a broker."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from cumulet.kernel import context, trace
from cumulet.kernel.bus.model import Handlers, Method, decode_reply, encode, handle
from cumulet.kernel.db import outside_transaction
from cumulet.kernel.errors import Unavailable

Q = TypeVar("Q")
R = TypeVar("R")
_log = logging.getLogger(__name__)
_LIMIT = 10_000


class _Consumer:
    """One subscription: at most ``limit`` messages in work, each in a task with a context of its own."""

    def __init__(self, handlers: Handlers, component: str, host: str, gone: Callable[[_Consumer], None]) -> None:
        self._handlers, self._component, self._host, self._gone = handlers, component, host, gone
        self._tasks: set[asyncio.Task[None]] = set()
        self._home = contextvars.copy_context()
        self.stopping = False

    def deliver(self, data: bytes, answer: asyncio.Future[bytes] | None) -> None:
        if len(self._tasks) >= _LIMIT:
            raise Unavailable("The message queue is full; try again later.")
        # a message starts from the receiver's context, never from the sender's
        task = asyncio.get_running_loop().create_task(self._work(data, answer), context=self._home.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, data: bytes, answer: asyncio.Future[bytes] | None) -> None:
        context.use(None)
        trace.use(None)
        try:
            result = await handle(data, self._handlers, self._component, self._host)
        except Exception as error:
            _log.exception("%s failed on a message", self._component)
            if answer is not None and not answer.done():
                answer.set_exception(Unavailable(f"{self._component} failed: {type(error).__name__}"))
            return
        if answer is not None and not answer.done():
            answer.set_result(result)

    async def stop(self) -> None:
        self.stopping = True
        self._gone(self)
        while self._tasks:
            await asyncio.wait(set(self._tasks))


class MemoryBus:
    """Queues by topic and by topic and host; several consumers of a queue take turns."""

    def __init__(self) -> None:
        self._queues: dict[str, list[_Consumer]] = {}
        self._turn = 0

    @staticmethod
    def _queue(topic: str, host: str | None) -> str:
        return f"{topic}@{host}" if host else topic

    async def call(self, method: Method[Q, R], request: Q, *, host: str | None = None, timeout: float = 30.0) -> R:
        outside_transaction(f"rpc {method.name}")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        data = encode(method, request, timeout)
        consumer = self._next(self._queue(method.topic, host))
        if consumer is None:
            raise Unavailable(f"{self._queue(method.topic, host)} does not answer.")
        consumer.deliver(data, answer)
        try:
            async with asyncio.timeout(timeout):
                return decode_reply(await answer, method)
        except TimeoutError:
            raise Unavailable(f"{self._queue(method.topic, host)} did not answer in {timeout:g} s.") from None

    async def cast(self, method: Method[Q, Any], request: Q, *, host: str | None = None) -> None:
        outside_transaction(f"rpc {method.name}")
        consumer = self._next(self._queue(method.topic, host))
        if consumer is not None:
            consumer.deliver(encode(method, request, 60.0), None)

    async def fanout(self, method: Method[Q, Any], request: Q) -> None:
        outside_transaction(f"rpc {method.name}")
        data = encode(method, request, 60.0)
        for name, consumers in self._queues.items():
            if name.split("@")[0] == method.topic:
                for consumer in consumers:
                    consumer.deliver(data, None)

    async def subscribe(
        self, handlers: Handlers, *, component: str, host: str = "", own_host: bool = False
    ) -> _Consumer:
        (topic,) = {method.topic for method in handlers}
        consumers = self._queues.setdefault(self._queue(topic, host if own_host else None), [])
        consumer = _Consumer(handlers, component, host, lambda one: consumers.remove(one))
        consumers.append(consumer)
        return consumer

    def _next(self, queue: str) -> _Consumer | None:
        consumers = self._queues.get(queue)
        if not consumers:
            return None
        self._turn += 1
        return consumers[self._turn % len(consumers)]

    async def close(self) -> None:
        for consumers in list(self._queues.values()):
            for consumer in list(consumers):
                await consumer.stop()

# SPDX-License-Identifier: Apache-2.0
"""The bus of one process: queues in memory, the same bytes as on a broker."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from cumulet.kernel.bus.consumer import Consumer
from cumulet.kernel.bus.model import CAST_SECONDS, POISONS, Handlers, Method, Poison, decode_reply, encode
from cumulet.kernel.db import outside_transaction
from cumulet.kernel.errors import Unavailable

Q = TypeVar("Q")
R = TypeVar("R")
_log = logging.getLogger(__name__)


class _Subscription:
    """One receiver in its queue."""

    def __init__(self, consumer: Consumer, limit: int, gone: Callable[[_Subscription], None]) -> None:
        self._consumer, self._limit, self._gone = consumer, limit, gone

    def deliver(self, data: bytes, answer: asyncio.Future[bytes] | None) -> None:
        if self._consumer.busy >= self._limit:
            raise Unavailable("The message queue is full; try again later.")

        async def done(result: bytes) -> None:
            if answer is not None and not answer.done():
                answer.set_result(result)

        self._consumer.take(data, "", done)

    async def stop(self) -> None:
        self._gone(self)
        await self._consumer.idle()


class MemoryBus:
    """Queues by topic and by topic and host; several receivers of a queue take turns."""

    def __init__(self, *, length: int = 10_000) -> None:
        """``length``: how many messages one receiver may have in work."""
        self._length = length
        self._queues: dict[str, list[_Subscription]] = {}
        self._poison: deque[Poison] = deque(maxlen=POISONS)
        self._turn = 0

    @staticmethod
    def _queue(topic: str, host: str | None) -> str:
        return f"{topic}@{host}" if host else topic

    async def call(self, method: Method[Q, R], request: Q, *, host: str | None = None, timeout: float = 30.0) -> R:
        outside_transaction(f"rpc {method.name}")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        data = encode(method, request, timeout)
        receiver = self._next(self._queue(method.topic, host))
        if receiver is None:
            raise Unavailable(f"{self._queue(method.topic, host)} does not answer.")
        receiver.deliver(data, answer)
        try:
            async with asyncio.timeout(timeout):
                return decode_reply(await answer, method)
        except TimeoutError:
            raise Unavailable(f"{self._queue(method.topic, host)} did not answer in {timeout:g} s.") from None

    async def cast(self, method: Method[Q, Any], request: Q, *, host: str | None = None) -> None:
        outside_transaction(f"rpc {method.name}")
        receiver = self._next(self._queue(method.topic, host))
        if receiver is not None:
            self._tell(receiver, encode(method, request, CAST_SECONDS))

    async def fanout(self, method: Method[Q, Any], request: Q) -> None:
        outside_transaction(f"rpc {method.name}")
        data = encode(method, request, CAST_SECONDS)
        for name, receivers in self._queues.items():
            if name.split("@")[0] == method.topic:
                for receiver in receivers:
                    self._tell(receiver, data)

    @staticmethod
    def _tell(receiver: _Subscription, data: bytes) -> None:
        try:
            receiver.deliver(data, None)
        except Unavailable:
            _log.warning("a message to a full queue is lost")

    async def subscribe(
        self, handlers: Handlers, *, component: str, host: str = "", own_host: bool = False
    ) -> _Subscription:
        (topic,) = {method.topic for method in handlers}
        receivers = self._queues.setdefault(self._queue(topic, host if own_host else None), [])
        consumer = Consumer(handlers, component, host, self._set_aside)
        subscription = _Subscription(consumer, self._length, receivers.remove)
        receivers.append(subscription)
        return subscription

    async def _set_aside(self, poison: Poison) -> None:
        self._poison.append(poison)

    async def poison(self, limit: int = 100) -> list[Poison]:
        return list(self._poison)[-limit:]

    def _next(self, queue: str) -> _Subscription | None:
        receivers = self._queues.get(queue)
        if not receivers:
            return None
        self._turn += 1
        return receivers[self._turn % len(receivers)]

    async def close(self) -> None:
        for receivers in list(self._queues.values()):
            for receiver in list(receivers):
                await receiver.stop()

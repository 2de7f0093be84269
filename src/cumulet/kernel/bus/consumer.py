# SPDX-License-Identifier: Apache-2.0
"""The receiving side that both buses share: messages in work, each in a task and a context of its own.

Invariant: every message that is taken ends in exactly one answer, whatever its
bytes are and whatever its handler does.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable

from cumulet.kernel import context, trace
from cumulet.kernel.bus.model import Handlers, Poison, encode_fault, handle, poison_of, set_sender
from cumulet.kernel.errors import Unavailable
from cumulet.kernel.hostnames import host_of

_log = logging.getLogger(__name__)


class Consumer:
    """Works on one subscription's messages."""

    def __init__(
        self, handlers: Handlers, component: str, host: str, set_aside: Callable[[Poison], Awaitable[None]]
    ) -> None:
        self._handlers, self.component, self._host, self._set_aside = handlers, component, host, set_aside
        self._tasks: set[asyncio.Task[None]] = set()
        self._home = contextvars.copy_context()

    @property
    def busy(self) -> int:
        """How many messages are in work."""
        return len(self._tasks)

    def take(self, data: bytes, user: str, done: Callable[[bytes], Awaitable[None]]) -> None:
        """Begin work on a message of that broker user (empty: of this process); ``done`` gets its answer."""
        # a message starts from the receiver's context, never from the sender's
        task = asyncio.get_running_loop().create_task(self._work(data, user, done), context=self._home.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, data: bytes, user: str, done: Callable[[bytes], Awaitable[None]]) -> None:
        context.use(None)
        trace.use(None)
        set_sender(host_of(user))
        try:
            answer, reason = await handle(data, self._handlers, self.component, self._host)
        except Exception as error:
            _log.exception("%s failed on a message", self.component)
            reason = f"{type(error).__name__}: {error}"
            answer = encode_fault(Unavailable(f"{self.component} failed: {type(error).__name__}"))
        context.use(None)
        trace.use(None)
        if reason:
            await self.put_aside(data, user, reason)
        await done(answer)

    async def put_aside(self, data: bytes, user: str, reason: str) -> None:
        """Keep what an operator needs to know of a message that was not, or not wholly, carried out."""
        poison = poison_of(data, reason, component=self.component, host=self._host, sender=user)
        _log.warning("%s set aside a message %s: %s", self.component, poison.method, poison.reason)
        await self._set_aside(poison)

    async def idle(self) -> None:
        """Wait until nothing is in work."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

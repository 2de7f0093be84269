# SPDX-License-Identifier: Apache-2.0
"""How messages are taken from RabbitMQ: at most once, whatever happens to connections and receivers.

Invariants: a message is acknowledged after its answer went out; one that comes
back is not carried out again; what no host could have sent honestly is set aside.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from cumulet.kernel import clock, ids
from cumulet.kernel.bus import names
from cumulet.kernel.bus.consumer import Consumer
from cumulet.kernel.bus.link import Session, failures
from cumulet.kernel.bus.model import Envelope, encode_fault
from cumulet.kernel.errors import Unavailable
from cumulet.kernel.hostnames import host_of

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

_log = logging.getLogger(__name__)
PREFETCH = 500
"""How many messages one receiver has in work; more wait on the broker, for this or another receiver."""
UNUSED_SECONDS = 60
"""How long a queue waits for its receivers to come back."""
LONGEST_SECONDS = 600
"""How long a message stays in a queue at most; most have a shorter time of their own."""
_KEPT_ANSWER = 16384
"""Bytes: a larger answer is not sent a second time."""
_TOO_LARGE_TO_KEEP = encode_fault(Unavailable("The answer was lost; try again."))

Answer = Callable[[str, str, bytes, float], Awaitable[None]]
"""Send an answer: the asker's queue, the call's number, the answer, seconds to wait for the broker; never raises."""


class RabbitSubscription:
    """One receiver: its turn in a shared queue, and a queue of its own for what everybody is told."""

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        host: str | None,
        *,
        home: str | None,
        length: int,
        answer: Answer,
        gone: Callable[[RabbitSubscription], None],
    ) -> None:
        """``host``: only what is addressed to it; ``home``: the host whose rights this process has (None: all)."""
        self._consumer, self._topic, self._by_role = consumer, topic, host is None
        self._length, self._answer, self._gone = length, answer, gone
        self._shared = names.host_queue(host, topic) if host else names.role_queue(topic)
        self._own = names.private_queue(home, f"all/{topic}", ids.new_secret(9))
        self._session: Session | None = None
        self._attaching = asyncio.Lock()
        self._channel: AbstractChannel | None = None
        self._consuming: list[tuple[AbstractQueue, str]] = []
        self._stopped = False
        self._known: dict[str, bytes | None] = {}
        """Number of a message taken here of late → its answer, None while in work; oldest first."""

    async def attach(self, session: Session) -> None:
        """Declare the queues and begin to take messages, once for each session."""
        async with self._attaching:
            if self._stopped or self._session is session:
                return
            trial = await session.loose_channel()  # a refusal of names or rights ends this channel only
            shared = await trial.declare_queue(self._shared, durable=True, arguments={
                "x-max-length": self._length, "x-overflow": "reject-publish",
                "x-message-ttl": LONGEST_SECONDS * 1000, "x-expires": UNUSED_SECONDS * 1000,
            })  # fmt: skip
            if self._by_role:
                await shared.bind(names.ROLES, self._topic)
            own = await trial.declare_queue(self._own, exclusive=True, auto_delete=True, arguments={
                "x-max-length": self._length, "x-message-ttl": LONGEST_SECONDS * 1000,
            })  # fmt: skip
            await own.bind(names.ALL, self._topic)
            await trial.close()
            channel = await session.channel(confirm=False)
            await channel.set_qos(PREFETCH)
            underlay = await channel.get_underlay_channel()
            # a queue that somebody deletes, or whose node goes, is declared again like everything else
            underlay.on_consumer_cancel_callbacks.add(lambda _: session.fail(f"{self._shared} is gone"))
            self._channel, self._consuming = channel, []
            for name in (self._shared, self._own):
                queue = await channel.get_queue(name, ensure=False)
                self._consuming.append((queue, await queue.consume(self._taken)))
            self._session = session

    async def _taken(self, message: AbstractIncomingMessage) -> None:
        number, user = message.message_id or "", message.user_id or ""
        if number in self._known:
            # it came back because the connection broke; its work was not disturbed, but its answer may be lost
            if (known := self._known[number]) is not None:
                await self._done(message, number, known)
            else:
                await self._acknowledge(message)
            return
        refusal = _refusal(message, number, user)
        if refusal:
            await self._consumer.put_aside(message.body, user, refusal)
            await self._acknowledge(message)
            return
        self._known[number] = None
        while len(self._known) > 4 * PREFETCH:
            self._known.pop(next(iter(self._known)))
        if message.redelivered:
            # its first receiver may have carried it out, or died of it: that must not happen twice
            reason = "its receiver went away while it was in work"
            await self._consumer.put_aside(message.body, user, reason)
            await self._done(message, number, encode_fault(Unavailable(f"{self._consumer.component}: {reason}.")))
            return

        async def done(answer: bytes) -> None:
            if number in self._known:
                self._known[number] = answer if len(answer) <= _KEPT_ANSWER else _TOO_LARGE_TO_KEEP
            await self._done(message, number, answer)

        self._consumer.take(message.body, user, done)

    async def _done(self, message: AbstractIncomingMessage, number: str, answer: bytes) -> None:
        if message.reply_to:
            await self._answer(message.reply_to, number, answer, _remaining(message.body))
        await self._acknowledge(message)

    @staticmethod
    async def _acknowledge(message: AbstractIncomingMessage) -> None:
        try:
            await message.ack()
        except failures():
            _log.debug("the session of a message ended before it was acknowledged")

    async def stop(self) -> None:
        """Take no more messages and wait for those in work; others go on waiting for the next receiver."""
        self._stopped = True
        self._gone(self)
        async with self._attaching:
            try:
                for queue, tag in self._consuming:
                    await queue.cancel(tag)
                await self._consumer.idle()
                if self._channel is not None:
                    self._channel.close_callbacks.clear()
                    await self._channel.close()
            except failures():
                _log.debug("the session of a subscription ended before the subscription")
        await self._consumer.idle()


def _refusal(message: AbstractIncomingMessage, number: str, user: str) -> str:
    """Why a message must not be worked on, if so."""
    if not number:
        return "it has no number"
    if not user:
        return "its sender is not known to the broker"
    host = host_of(user)
    if host is not None and message.reply_to and not names.is_private_to(message.reply_to, host):
        return "it wants its answer in somebody else's queue"
    return ""


def _remaining(data: bytes) -> float:
    """Seconds until nobody waits for the answer to this message, at most a minute."""
    try:
        deadline = msgspec.json.decode(data, type=Envelope).deadline
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 1.0
    return min(max(deadline - clock.now(), 0.1), 60.0)

# SPDX-License-Identifier: Apache-2.0
"""The bus over RabbitMQ, for clouds of more than one process.

Invariants: a message is carried out at most once and never after its deadline;
a call ends in an answer or in Unavailable, at the latest when its time is over;
who sent a message is what the broker says, not what the message says.

Nothing on the broker needs to survive: queues have a length, their messages a
time to live, and unused queues go away by themselves.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from cumulet.kernel import clock, ids
from cumulet.kernel.bus import names
from cumulet.kernel.bus.consumer import Consumer
from cumulet.kernel.bus.link import Link, Session, as_fault, failures
from cumulet.kernel.bus.model import (
    CAST_SECONDS,
    POISONS,
    Envelope,
    Handlers,
    Method,
    Poison,
    decode_reply,
    encode,
    encode_fault,
    poison_of,
)
from cumulet.kernel.bus.names import Address
from cumulet.kernel.db import outside_transaction
from cumulet.kernel.errors import Unavailable

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

Q = TypeVar("Q")
R = TypeVar("R")
_log = logging.getLogger(__name__)
_PREFETCH = 500
"""How many messages one receiver has in work; more wait on the broker, for this or another receiver."""
_UNUSED_SECONDS = 60
"""How long a queue waits for its receivers to come back."""
_LONGEST_SECONDS = 600
_POISON_SECONDS = 7 * 24 * 3600
_CAST_WAIT = 5.0


class RabbitBus:
    """The bus of one process, over one connection that is made again whenever it breaks."""

    def __init__(self, address: Address, *, name: str = "", length: int = 10_000) -> None:
        """``name``: of this process, for the operator's eyes. ``length``: of the queues, in messages.

        Use `connect`.
        """
        self._user = address.user
        self._host = names.host_of(address.user)
        self._length = length
        self._link = Link(address, name or "cumulet", self._prepare, self._lost)
        self._answers = names.private_queue(self._host, "answers", ids.new_secret(18))
        self._pending: dict[str, tuple[asyncio.Future[bytes], str | None]] = {}
        """Number of a call → who waits for its answer, and the host that may give it (None: a role)."""
        self._subscriptions: list[_Subscription] = []

    @classmethod
    async def connect(
        cls, url: str, *, password: str = "", name: str = "", timeout: float = 30.0, length: int = 10_000
    ) -> Self:
        """A bus that is ready for use.

        ``url``: ``amqp[s]://user[:password]@host[:port][,…]/vhost[?cafile=PATH]``. Waits ``timeout``
        seconds for the broker. Raises Invalid (the URL), Unauthorized, Forbidden or Unavailable.
        """
        bus = cls(Address.parse(url, password), name=name, length=length)
        try:
            await bus._link.open(timeout)
        except BaseException:
            await bus.close()
            raise
        return bus

    async def close(self) -> None:
        """Take no more messages, finish those in work, leave the broker."""
        for subscription in list(self._subscriptions):
            await subscription.stop()
        await self._link.close()
        self._lost()

    # ---- sending

    async def call(self, method: Method[Q, R], request: Q, *, host: str | None = None, timeout: float = 30.0) -> R:
        outside_transaction(f"rpc {method.name}")
        number = ids.new_uuid()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        data = encode(method, request, timeout)
        whom = f"{method.topic}@{host}" if host else method.topic
        try:
            async with asyncio.timeout(timeout):
                session = await self._link.session(timeout)
                self._pending[number] = (answer, host)
                await self._ask(session, method.topic, host, data, number, timeout, answer_to=self._answers)
                return decode_reply(await answer, method)
        except TimeoutError:
            raise Unavailable(f"{whom} did not answer in {timeout:g} s.") from None
        except _Unroutable:
            raise Unavailable(f"{whom} does not answer.") from None
        finally:
            self._pending.pop(number, None)

    async def cast(self, method: Method[Q, Any], request: Q, *, host: str | None = None) -> None:
        await self._tell(method, request, host, everybody=False)

    async def fanout(self, method: Method[Q, Any], request: Q) -> None:
        await self._tell(method, request, None, everybody=True)

    async def _tell(self, method: Method[Q, Any], request: Q, host: str | None, *, everybody: bool) -> None:
        outside_transaction(f"rpc {method.name}")
        data = encode(method, request, CAST_SECONDS)
        session = self._link.current
        try:
            if session is None:
                raise Unavailable("The message broker is away.")
            async with asyncio.timeout(_CAST_WAIT):
                await self._ask(session, method.topic, host, data, ids.new_uuid(), CAST_SECONDS, everybody=everybody)
        except _Unroutable:
            _log.debug("nobody is there for %s %s", method.topic, method.name)
        except (TimeoutError, Unavailable) as error:
            _log.warning("%s %s is lost: %s", method.topic, method.name, error or "the broker does not take it")

    async def _ask(
        self,
        session: Session,
        topic: str,
        host: str | None,
        data: bytes,
        number: str,
        seconds: float,
        *,
        answer_to: str | None = None,
        everybody: bool = False,
    ) -> None:
        """Hand a message to the broker; returns when it lies in a queue."""
        import aio_pika
        from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError

        message = aio_pika.Message(
            data,
            content_type="application/json",
            message_id=number,
            correlation_id=number,
            reply_to=answer_to,
            expiration=max(seconds, 0.001),
            user_id=self._user,
        )
        exchange, key = (names.ALL, topic) if everybody else (names.ROLES, topic)
        if host is not None:
            exchange, key = "", names.host_queue(host, topic)
        try:
            channel = await session.asking()
            place = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
            await place.publish(message, key, mandatory=not everybody)
        except PublishError:
            raise _Unroutable from None
        except DeliveryError:
            raise Unavailable("The message queue is full; try again later.") from None
        except ChannelNotFoundEntity as error:
            session.fail("an exchange is gone")
            raise as_fault(error) from None
        except failures() as error:
            raise as_fault(error) from None

    # ---- receiving

    async def subscribe(
        self, handlers: Handlers, *, component: str, host: str = "", own_host: bool = False
    ) -> _Subscription:
        (topic,) = {method.topic for method in handlers}
        consumer = Consumer(handlers, component, host, self._set_aside)
        subscription = _Subscription(self, consumer, topic, host if own_host else None)
        self._subscriptions.append(subscription)
        try:
            async with asyncio.timeout(30.0):
                while not await self._attach(subscription):
                    pass
        except TimeoutError:
            await subscription.stop()
            raise Unavailable("The message broker is away.") from None
        except BaseException:
            await subscription.stop()
            raise
        return subscription

    async def _attach(self, subscription: _Subscription) -> bool:
        """Whether the subscription is served on a session that lives."""
        session = await self._link.session(30.0)
        try:
            await subscription.attach(session)
        except failures() as error:
            fault = as_fault(error)
            if not session.is_closed and not isinstance(fault, Unavailable):
                raise fault from None
            session.fail(fault.message)
            await asyncio.sleep(0)
        return not session.is_closed

    async def poison(self, limit: int = 100) -> list[Poison]:
        session = await self._link.session(10.0)
        found: list[Poison] = []
        try:
            channel = await session.loose_channel()
            try:
                queue = await channel.get_queue(names.POISON, ensure=False)
                while len(found) < POISONS and (message := await queue.get(fail=False)) is not None:
                    found.append(_read_poison(message))
            finally:
                await channel.close()  # which puts everything back in its place
        except failures() as error:
            raise as_fault(error) from None
        return found[-limit:]

    async def _set_aside(self, poison: Poison) -> None:
        await self._publish(names.POISON, "", msgspec.json.encode(poison), ids.new_uuid(), 1.0)

    async def _answer(self, to: str, number: str, data: bytes, seconds: float) -> None:
        """Send an answer, waiting ``seconds`` for the broker at most; nothing is raised."""
        await self._publish(names.ANSWERS if self._host else "", to, data, number, seconds)

    async def _publish(self, exchange: str, key: str, data: bytes, number: str, seconds: float) -> None:
        import aio_pika

        message = aio_pika.Message(data, correlation_id=number, message_id=ids.new_uuid(), user_id=self._user)
        try:
            async with asyncio.timeout(seconds):
                channel = (await self._link.session(seconds)).answering
                place = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
                await place.publish(message, key, mandatory=False)
        except Unavailable:
            _log.warning("an answer is lost: the message broker is away")
        except failures() as error:
            _log.warning("an answer is lost: %s", as_fault(error).message)

    # ---- the session

    async def _prepare(self, session: Session) -> None:
        """Declare everything of this process on a new connection."""
        channel = await session.channel(confirm=False)
        if self._host is None:
            await self._declare_shared(channel)
        queue = await channel.declare_queue(
            self._answers, exclusive=True, auto_delete=True, arguments={"x-max-length": self._length}
        )
        if self._host is None:
            await queue.bind(names.ANSWERS, self._answers)
        await queue.consume(self._answered, no_ack=True)
        for subscription in list(self._subscriptions):
            await subscription.attach(session)

    async def _declare_shared(self, channel: AbstractChannel) -> None:
        for name, kind in (
            (names.ROLES, "topic"), (names.ALL, "topic"), (names.ANSWERS, "direct"), (names.POISON, "fanout")
        ):  # fmt: skip
            await channel.declare_exchange(name, kind, durable=True)
        poison = await channel.declare_queue(
            names.POISON,
            durable=True,
            arguments={"x-max-length": POISONS, "x-message-ttl": _POISON_SECONDS * 1000},
        )
        await poison.bind(names.POISON)

    def _lost(self) -> None:
        """Nobody's answer can come any more: say so at once."""
        for answer, _ in self._pending.values():
            if not answer.done():
                answer.set_exception(Unavailable("The connection to the message broker broke; try again."))
                answer.exception()  # a caller may have gone by itself

    async def _answered(self, message: AbstractIncomingMessage) -> None:
        answer, host = self._pending.get(message.correlation_id or "", (None, None))
        if answer is None or answer.done():
            return
        if self._host is None:
            sender = names.host_of(message.user_id) if message.user_id else ""
            if sender is not None and sender != host:
                _log.warning("%s answered for somebody else", message.user_id)
                return
        answer.set_result(message.body)


class _Unroutable(Exception):
    """No queue takes this message."""


def _read_poison(message: AbstractIncomingMessage) -> Poison:
    try:
        return msgspec.json.decode(message.body, type=Poison)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return poison_of(message.body, "not a report", component="", host="", sender=message.user_id or "")


class _Subscription:
    """One receiver: its turn in a shared queue, and a queue of its own for what everybody is told."""

    def __init__(self, bus: RabbitBus, consumer: Consumer, topic: str, host: str | None) -> None:
        self._bus, self._consumer, self._topic = bus, consumer, topic
        self._shared = names.host_queue(host, topic) if host else names.role_queue(topic)
        self._by_role = host is None
        self._own = names.private_queue(bus._host, f"all/{topic}", ids.new_secret(9))
        self._session: Session | None = None
        self._attaching = asyncio.Lock()
        self._channel: AbstractChannel | None = None
        self._consuming: list[tuple[AbstractQueue, str]] = []
        self._stopped = False
        self._known: dict[str, None] = {}
        """Numbers of the messages taken here of late, oldest first."""

    async def attach(self, session: Session) -> None:
        """Declare the queues and begin to take messages, once for each session."""
        async with self._attaching:
            if self._stopped or self._session is session:
                return
            trial = await session.loose_channel()  # a refusal of names or rights ends this channel only
            shared = await trial.declare_queue(self._shared, durable=True, arguments={
                "x-max-length": self._bus._length, "x-overflow": "reject-publish",
                "x-message-ttl": _LONGEST_SECONDS * 1000, "x-expires": _UNUSED_SECONDS * 1000,
            })  # fmt: skip
            if self._by_role:
                await shared.bind(names.ROLES, self._topic)
            own = await trial.declare_queue(self._own, exclusive=True, auto_delete=True, arguments={
                "x-max-length": self._bus._length, "x-message-ttl": _LONGEST_SECONDS * 1000,
            })  # fmt: skip
            await own.bind(names.ALL, self._topic)
            await trial.close()
            channel = await session.channel(confirm=False)
            await channel.set_qos(_PREFETCH)
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
            await self._acknowledge(message)  # it came back when the connection broke, but its work went on
            return
        refusal = _refusal(message, number, user)
        if refusal:
            await self._consumer.put_aside(message.body, user, refusal)
            await self._acknowledge(message)
            return
        self._known[number] = None
        while len(self._known) > 4 * _PREFETCH:
            self._known.pop(next(iter(self._known)))
        if message.redelivered:
            # its first receiver may have carried it out, or died of it: that must not happen twice
            reason = "its receiver went away while it was in work"
            await self._consumer.put_aside(message.body, user, reason)
            await self._done(message, number, encode_fault(Unavailable(f"{self._consumer.component}: {reason}.")))
            return

        async def done(answer: bytes) -> None:
            await self._done(message, number, answer)

        self._consumer.take(message.body, user, done)

    async def _done(self, message: AbstractIncomingMessage, number: str, answer: bytes) -> None:
        if message.reply_to:
            await self._bus._answer(message.reply_to, number, answer, _remaining(message.body))
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
        if self in self._bus._subscriptions:
            self._bus._subscriptions.remove(self)
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
    host = names.host_of(user)
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

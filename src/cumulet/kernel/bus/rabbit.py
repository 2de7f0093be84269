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

from cumulet.kernel import ids
from cumulet.kernel.bus import names
from cumulet.kernel.bus.consumer import Consumer
from cumulet.kernel.bus.link import Link, Session, as_fault, failures
from cumulet.kernel.bus.model import (
    CAST_SECONDS,
    POISONS,
    Handlers,
    Method,
    Poison,
    decode_reply,
    encode,
    poison_of,
)
from cumulet.kernel.bus.names import Address
from cumulet.kernel.bus.subscription import RabbitSubscription
from cumulet.kernel.db import outside_transaction
from cumulet.kernel.errors import Unavailable
from cumulet.kernel.hostnames import host_of

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

Q = TypeVar("Q")
R = TypeVar("R")
_log = logging.getLogger(__name__)
_POISON_SECONDS = 7 * 24 * 3600
_ATTACHED_AT_ONCE = 16
_CAST_WAIT = 2.0
"""Seconds for the broker to take a message that nobody waits for; one that is short of memory takes none."""


class RabbitBus:
    """The bus of one process, over one connection that is made again whenever it breaks."""

    def __init__(self, address: Address, *, name: str = "", length: int = 10_000) -> None:
        """``name``: of this process, for the operator's eyes. ``length``: of the queues, in messages.

        Use `connect`.
        """
        self._user = address.user
        self._host = host_of(address.user)
        self._length = length
        self._link = Link(address, name or "cumulet", self._prepare, self._lost)
        self._answers = names.private_queue(self._host, "answers", ids.new_secret(18))
        self._pending: dict[str, tuple[asyncio.Future[bytes], str | None]] = {}
        """Number of a call → who waits for its answer, and the host that may give it (None: a role)."""
        self._subscriptions: list[RabbitSubscription] = []

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
        if self._link.current is None:
            await self._link.close()  # who is answered now can't hear it
        for subscription in list(self._subscriptions):
            await subscription.stop()
        await self._link.close()
        self._lost()

    @property
    def problem(self) -> str | None:
        """Why the bus carries nothing at this moment, if so."""
        return None if self._link.current is not None else "the message broker can't be reached"

    # ---- sending

    async def call(self, method: Method[Q, R], request: Q, *, host: str | None = None, timeout: float = 30.0) -> R:
        outside_transaction(f"rpc {method.name}")
        number = ids.new_uuid()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        data = encode(method, request, timeout)
        whom = f"{method.topic}@{host}" if host else method.topic
        end = asyncio.get_running_loop().time() + timeout
        session = await self._link.session(timeout)
        try:
            async with asyncio.timeout_at(end):
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
        from aio_pika.exceptions import DeliveryError, PublishError

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
        except failures() as error:
            fault = as_fault(error)
            if isinstance(fault, Unavailable):  # the connection, or an exchange, is gone
                session.fail(fault.message)
            raise fault from None

    # ---- receiving

    async def subscribe(
        self, handlers: Handlers, *, component: str, host: str = "", own_host: bool = False
    ) -> RabbitSubscription:
        (topic,) = {method.topic for method in handlers}
        consumer = Consumer(handlers, component, host, self._set_aside)
        subscription = RabbitSubscription(
            consumer, topic, host if own_host else None,
            home=self._host, length=self._length, answer=self._answer, gone=self._forget,
        )  # fmt: skip
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

    def _forget(self, subscription: RabbitSubscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    async def _attach(self, subscription: RabbitSubscription) -> bool:
        """Whether the subscription is served on a session that lives."""
        session = await self._link.session(30.0)
        try:
            await subscription.attach(session)
        except failures() as error:
            fault = as_fault(error)
            if not session.is_closed and not isinstance(fault, Unavailable):
                raise fault from None
            session.fail(fault.message)
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
        waiting = list(self._subscriptions)
        while waiting:  # several at a time: a process of many hosts has hundreds
            await asyncio.gather(*(one.attach(session) for one in waiting[:_ATTACHED_AT_ONCE]))
            del waiting[:_ATTACHED_AT_ONCE]

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
            sender = host_of(message.user_id) if message.user_id else ""
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

# SPDX-License-Identifier: Apache-2.0
"""The connection to a RabbitMQ broker, kept up for as long as the process lives.

Invariant: a `Session` is whole or closed. Whatever breaks (socket, heartbeat,
a channel, a queue that somebody deleted) ends the session; the supervisor then
makes a new one, on which everything is declared again. So there is one way to
recover, and it is used on every start.

aio-pika is imported here only, when the first link is opened. Its own robust
connection is not used: it mends channels one by one and gives up on some errors.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from cumulet.kernel import ids
from cumulet.kernel.bus.names import Address
from cumulet.kernel.errors import Conflict, Fault, Forbidden, Invalid, Unauthorized, Unavailable

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection

_log = logging.getLogger(__name__)
HEARTBEAT = 3
"""Seconds. The broker drops a peer that was silent for two of them, and so do we after four seconds."""
_CONNECT_SECONDS = 10.0
_PREPARE_SECONDS = 60.0
"""A process of many hosts has much to declare; a broker that falls silent meanwhile is noticed by the heartbeat."""
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


class Session:
    """One connection with the channels that all of the process shares."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._closed = asyncio.Event()
        self._opening = asyncio.Lock()
        self._asking: AbstractChannel | None = None
        self.answering: AbstractChannel
        """Publishes without waiting for the broker's word."""
        self.why = ""
        self.replaced = asyncio.Event()
        """Set when whoever asks for a session does not get this one any more."""
        connection.close_callbacks.add(lambda _, error: self.fail(_brief(error)))

    async def open(self) -> None:
        self.answering = await self.channel(confirm=False)

    async def channel(self, *, confirm: bool) -> AbstractChannel:
        """A channel whose unexpected end ends the session."""
        channel = await self._connection.channel(publisher_confirms=confirm)
        channel.close_callbacks.add(lambda _, error: self.fail(_brief(error)))
        return channel

    async def loose_channel(self) -> AbstractChannel:
        """A channel on which something may be refused."""
        return await self._connection.channel(publisher_confirms=False)

    async def asking(self) -> AbstractChannel:
        """The channel for messages whose delivery to a queue the broker confirms; made anew after a refusal."""
        async with self._opening:
            if self._asking is None or self._asking.is_closed:
                self._asking = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            return self._asking

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def fail(self, why: str) -> None:
        """End the session."""
        if not self._closed.is_set():
            self.why = why
            self._closed.set()

    async def ended(self) -> None:
        await self._closed.wait()

    async def close(self) -> None:
        self.fail("closed")
        try:
            async with asyncio.timeout(2.0):
                await self._connection.close()
        except failures():
            _log.debug("the connection did not close in order", exc_info=True)
            await self._connection.close()  # has nothing left to close, and counts as closed then


class Link:
    """Keeps a session up: ``prepare`` makes a new one ready for use, ``lost`` hears of each one's end."""

    def __init__(
        self,
        address: Address,
        name: str,
        prepare: Callable[[Session], Awaitable[None]],
        lost: Callable[[], None],
    ) -> None:
        self._address, self._name, self._prepare, self._lost = address, name, prepare, lost
        self._up: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._tls = _tls(address.ca_file) if address.tls else None

    async def open(self, timeout: float) -> None:
        """Connect for the first time, within ``timeout`` seconds. Raises Unauthorized, Forbidden or Unavailable."""
        _keep_quiet()
        self._task = asyncio.get_running_loop().create_task(self._supervise(), name="bus")
        await self.session(timeout)

    @property
    def current(self) -> Session | None:
        """The session, when there is one at this moment."""
        if not self._up.done() or self._up.cancelled() or self._up.exception() is not None:
            return None
        session = self._up.result()
        return None if session.is_closed else session

    async def session(self, timeout: float) -> Session:
        """The session, waiting for it at most ``timeout`` seconds; raises Unavailable."""
        try:
            async with asyncio.timeout(timeout):
                while (session := await asyncio.shield(self._up)).is_closed:
                    await session.replaced.wait()
                return session
        except TimeoutError:
            raise Unavailable(f"The message broker {self._address} can't be reached.") from None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if not self._up.done():
            self._up.set_exception(Unavailable("The bus is closed."))
            self._up.exception()  # nobody may be waiting

    async def _supervise(self) -> None:
        wait, turn, before = _FIRST_WAIT, 0, ""
        while True:
            session = None
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    session = await self._connect(turn)
                async with asyncio.timeout(_PREPARE_SECONDS):
                    await self._prepare(session)
            except Exception as error:
                if session is not None:
                    await session.close()
                fault = as_fault(error)
                if turn == 0 and not isinstance(fault, Unavailable):
                    self._up.set_exception(fault)
                    return
                if fault.message != before:
                    _log.warning("the message broker %s can't be used: %s", self._address, fault.message)
                    before = fault.message
                turn += 1
                await asyncio.sleep(ids.choose(wait / 2, wait))
                wait = min(wait * 2, _LONGEST_WAIT)
                continue
            except BaseException:
                if session is not None:
                    await session.close()
                raise
            _log.info("connected to the message broker %s", self._address)
            wait, turn, before = _FIRST_WAIT, turn or 1, ""
            self._up.set_result(session)
            try:
                await session.ended()
            finally:
                self._up = asyncio.get_running_loop().create_future()
                session.replaced.set()
                self._lost()
                await session.close()
            _log.warning("lost the message broker %s: %s", self._address, session.why)

    async def _connect(self, turn: int) -> Session:
        import aio_pika
        import aiormq

        # the library waits three times as long for a silent peer as we want to
        aiormq.Connection.HEARTBEAT_GRACE_MULTIPLIER = 1
        host, port = self._address.hosts[turn % len(self._address.hosts)]
        url = aio_pika.connection.make_url(
            host=host,
            port=port,
            login=self._address.user,
            password=self._address.password,
            virtualhost=self._address.vhost,
            ssl=self._address.tls,
            heartbeat=HEARTBEAT,
        )
        connection = aio_pika.Connection(url, ssl_context=self._tls, client_properties={"connection_name": self._name})
        session = Session(connection)
        try:
            await connection.connect()
            await session.open()
        except BaseException:  # left to the collector, the library would close it from there
            await session.close()
            raise
        return session


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise Invalid(f"The CA file of the message broker can't be read: {ca_file}") from error


def _keep_quiet() -> None:
    """The libraries' debug lines show frames, the first of which hold the password; what breaks is told here, once."""
    for name in ("aiormq", "aio_pika", "pamqp"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def failures() -> tuple[type[Exception], ...]:
    """What the library raises when a broker, a channel or the network fails or is slow (TimeoutError is an OSError)."""
    from aio_pika.exceptions import CONNECTION_EXCEPTIONS

    return CONNECTION_EXCEPTIONS


def as_fault(error: BaseException) -> Fault:
    """A failure of the library as a fault that callers know."""
    from aiormq.exceptions import (
        AuthenticationError,
        ChannelAccessRefused,
        ChannelPreconditionFailed,
        ProbableAuthenticationError,
    )

    if isinstance(error, Fault):
        return error
    if isinstance(error, ChannelAccessRefused):
        return Forbidden(f"The message broker refuses this: {_brief(error)}")
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        return Unauthorized("The message broker refuses this user or password.")
    if isinstance(error, ChannelPreconditionFailed):
        return Conflict(f"Something of this name is on the message broker already: {_brief(error)}")
    return Unavailable(f"The message broker failed: {_brief(error)}")


def _brief(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"[:300] if error is not None else "closed"

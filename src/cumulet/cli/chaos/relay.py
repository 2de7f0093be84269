# SPDX-License-Identifier: Apache-2.0
"""A TCP relay between one process and the broker or the database, which can be cut without root or a firewall.

Two ways to be cut off: ``refuse`` (connections end, and each new one at once, as
when a server is gone) and ``silence`` (nothing passes and nothing is said, as
behind a cable that was pulled; what was under way arrives when it is mended).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import cast
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from cumulet.kernel.bus.names import Address

Target = tuple[str, int] | str
"""Host and port, or the path of a unix socket."""
HERE = "127.0.0.1"


class Relay:
    """One relay; an async context manager that listens on ``port`` of the loopback."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ends: set[_End] = set()
        self._server: asyncio.Server | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self.port = 0
        self.refuses = self.is_silent = False
        self.carried = 0
        """Connections so far."""

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _End(self), HERE, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connecting:
            task.cancel()
        self.reset()

    async def __aenter__(self) -> Relay:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def refuse(self) -> None:
        """End all connections, and each new one at once."""
        self.refuses = True
        self.reset()

    def silence(self) -> None:
        """Let no byte through any more, in either direction."""
        self.is_silent = True
        for end in self._ends:
            end.pause()

    def mend(self) -> None:
        """Carry everything again."""
        self.refuses = self.is_silent = False
        for end in list(self._ends):
            end.go_on()

    def reset(self) -> None:
        """End all connections; new ones are carried."""
        for end in list(self._ends):
            end.abort()

    def accepted(self, near: _End) -> None:
        """A process has connected."""
        self.carried += 1
        task = asyncio.ensure_future(self._reach(near))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _reach(self, near: _End) -> None:
        loop = asyncio.get_running_loop()
        far = _End(self, near)
        try:
            if isinstance(self._target, str):
                await loop.create_unix_connection(lambda: far, self._target)
            else:
                await loop.create_connection(lambda: far, *self._target)
        except OSError:
            near.abort()


class _End(asyncio.Protocol):
    """One of the two sockets of a carried connection; ``near`` is given to the far one."""

    def __init__(self, relay: Relay, near: _End | None = None) -> None:
        self._relay, self._other, self._is_far = relay, near, near is not None
        self._transport: asyncio.Transport | None = None
        self._full = self._gone = False
        """The other side takes no more for now; the connection is over."""
        self._kept = bytearray()
        """What came while it could not be passed on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._relay.refuses:
            self.abort()
            return
        self._relay._ends.add(self)
        self.pause()
        if not self._is_far:
            self._relay.accepted(self)
        elif self._other is not None:
            self._other._other = self
            if self._other._gone:
                self.abort()
            for end in (self, self._other):
                end.go_on()

    def data_received(self, data: bytes) -> None:
        if self._other is None or self._other._transport is None or self._relay.is_silent:
            self._kept += data  # a loop may read once more after it was told to pause
            self.pause()
        else:
            self._other._transport.write(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._relay._ends.discard(self)
        if self._other is not None and self._other._transport is not None:
            self._other._transport.close()

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other._full = True
            self._other.pause()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other._full = False
            self._other.go_on()

    def pause(self) -> None:
        """Read no more for now."""
        if self._transport is not None:
            with suppress(RuntimeError):
                self._transport.pause_reading()

    def go_on(self) -> None:
        """Read again, unless something still speaks against it."""
        if self._transport is not None and self._other is not None and not (self._full or self._relay.is_silent):
            if self._kept and self._other._transport is not None:
                self._other._transport.write(bytes(self._kept))
                self._kept.clear()
            with suppress(RuntimeError):
                self._transport.resume_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def database_of(dsn: str) -> Target:
    """Where a DSN leads; raises ValueError for several servers."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    host = query.get("host", [parts.hostname or "localhost"])[0]
    if "," in parts.netloc.rpartition("@")[2] or "," in host:
        raise ValueError("the database must be one server")
    port = int(query.get("port", [parts.port or 5432])[0])
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def dsn_through(dsn: str, port: int) -> str:
    """The same database through a relay; a local socket that asks for no password gets one that it does not read."""
    parts = urlsplit(dsn)
    login = parts.netloc.rpartition("@")[0]
    if login and ":" not in login:
        login += ":unread"  # over TCP settings must name one
    query = {key: one for key, (one, *_) in parse_qs(parts.query).items() if key not in ("host", "port")}
    place = f"{login}@{HERE}:{port}" if login else f"{HERE}:{port}"
    return parts._replace(netloc=place, query=urlencode(query)).geturl()


def broker_of(url: str) -> Target:
    """Where a bus leads; raises Invalid for no such URL and ValueError for one that a relay can't stand in for."""
    address = Address.parse(url)
    if address.tls or len(address.hosts) > 1:
        raise ValueError("the bus must be one broker, without TLS")
    return address.hosts[0]


def bus_through(url: str, port: int) -> str:
    """The same bus through a relay."""
    address = Address.parse(url)
    user, password, vhost = (quote(one, safe="") for one in (address.user, address.password, address.vhost))
    return f"amqp://{user}:{password}@{HERE}:{port}/{vhost}"

# SPDX-License-Identifier: Apache-2.0
"""Fetching from the web what a user named, without becoming his hand inside our networks.

Invariant: a connection is made only to an address that was checked, and the name
is resolved once: what was checked is what is connected to. Every hop of a
redirect is checked like the first URL. Only addresses that are routed on the
Internet, or lie in ranges that the operator allowed, are reached.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from cumulet.image.config import ImageConfig

_log = logging.getLogger(__name__)
_REDIRECTS = 5
_CONNECT = 20.0
_SILENCE = 60.0
"""Seconds for a connection, and without a byte, before a server counts as dead."""
PIECE = 1024 * 1024
_TUNNELS = [ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32")]
"""IPv6 addresses that stand for IPv4 ones, which nobody checked."""


class WebError(Exception):
    """The fetch can't be done; the text is fit for the user. ``final``: trying again does not help."""

    def __init__(self, message: str, *, final: bool = True, no_head: bool = False) -> None:
        self.final, self.no_head = final, no_head
        super().__init__(message)


@dataclass(frozen=True)
class Target:
    """A URL that was checked, and the one address that its host has for us."""

    url: str
    host: str
    port: int
    address: str


class Web:
    """The rules of one cloud, and fetching by them."""

    def __init__(self, config: ImageConfig) -> None:
        self._schemes, self._ports = config.web_schemes, config.web_ports
        self._hosts = [host.lower().rstrip(".") for host in config.web_hosts]
        self._networks = [ipaddress.ip_network(text, strict=False) for text in config.web_networks]

    async def check(self, url: str) -> Target:
        """The checked target of a URL; raises WebError."""
        refused = WebError(f"does not pass filtering: {url[:255]}")
        try:
            parts = urlsplit(url)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        except ValueError:
            raise refused from None
        host = (parts.hostname or "").lower().rstrip(".")
        if parts.scheme not in self._schemes or not host or parts.username or parts.password:
            raise refused
        if port not in self._ports and 0 not in self._ports:
            raise refused
        if self._hosts and host not in self._hosts:
            raise refused
        try:
            async with asyncio.timeout(_CONNECT):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise WebError(f"does not pass filtering: the host of {url[:255]} has no address") from None
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses or not all(self._reachable(address) for address in addresses):
            raise refused
        return Target(url, host, port, addresses[0])

    def _reachable(self, text: str) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])
        inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
        if inner is not None:
            address = inner
        if any(address in network for network in self._networks if network.version == address.version):
            return True
        if address.version == 6 and any(address in tunnel for tunnel in _TUNNELS):
            return False
        return address.is_global and not address.is_multicast and not address.is_reserved

    async def open(self, url: str, *, offset: int = 0, validator: str | None = None, head: bool = False) -> Fetch:
        """Begin a download at ``offset``, following redirects. Raises WebError.

        With ``validator`` (an earlier answer's) a server whose file changed meanwhile
        starts again: look at `Fetch.offset`.
        """
        import aiohttp

        for _ in range(_REDIRECTS + 1):
            target = await self.check(url)
            connector = aiohttp.TCPConnector(resolver=_pinned(target), limit=1, force_close=True)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE)
            session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
            headers = {"Accept-Encoding": "identity", "User-Agent": "cumulet"}
            if offset:
                headers["Range"] = f"bytes={offset}-"
                if validator is not None:
                    headers["If-Range"] = validator
            try:
                method = session.head if head else session.get
                response = await method(url.partition("#")[0], headers=headers, allow_redirects=False)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                await session.close()
                raise WebError(f"{target.host} can't be reached: {type(error).__name__}", final=False) from None
            if response.status in (301, 302, 303, 307, 308):
                url = urljoin(url, response.headers.get("Location", ""))
                await session.close()
                continue
            if response.status not in (200, 206):
                await session.close()
                status = response.status
                final = status < 500 and status not in (408, 429)
                raise WebError(f"{target.host} answered {status}", final=final, no_head=head and status in (405, 501))
            return Fetch(session, response, offset if response.status == 206 else 0)
        raise WebError("too many redirects")

    async def size(self, url: str) -> int | None:
        """Bytes of what is behind a URL (None: its server does not say). Raises WebError."""
        try:
            fetch = await self.open(url, head=True)
        except WebError as error:
            if not error.no_head:
                raise
            fetch = await self.open(url)
        await fetch.close()
        return fetch.size


class Fetch:
    """A download that began; ``offset`` is where its bytes begin, ``size`` the whole (None: not known)."""

    def __init__(self, session: Any, response: Any, offset: int) -> None:
        self._session, self._response, self.offset = session, response, offset
        length = response.headers.get("Content-Length", "")
        self.size = int(length) + offset if length.isdigit() else None
        tag = response.headers.get("ETag", "")
        self.validator: str | None = tag if tag.startswith('"') else response.headers.get("Last-Modified")

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        """The bytes; raises WebError when the server stops before the end."""
        import aiohttp

        seen = self.offset
        try:
            async for piece in self._response.content.iter_chunked(PIECE):
                seen += len(piece)
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise WebError(f"the download broke: {type(error).__name__}", final=False) from None
        finally:
            await self.close()
        if self.size is not None and seen != self.size:
            raise WebError(f"the download broke after {seen} of {self.size} bytes", final=False)

    async def close(self) -> None:
        self._response.close()
        await self._session.close()


def _pinned(target: Target) -> Any:
    """A resolver that knows one host: the name was resolved, and its address checked, before."""
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Pinned(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
            if host.lower().rstrip(".") != target.host:
                raise OSError(f"{host} was not checked")
            kind = socket.AF_INET6 if ":" in target.address else socket.AF_INET
            flags = {"proto": 0, "flags": socket.AI_NUMERICHOST}
            return [{"hostname": host, "host": target.address, "port": target.port, "family": kind, **flags}]  # type: ignore[typeddict-item]

        async def close(self) -> None:
            """Nothing is held."""

    return Pinned()

# SPDX-License-Identifier: Apache-2.0
"""Users and rights on a RabbitMQ broker, through its management API.

The API is used, not the broker's own command, because that one must run on the
broker's machine with its cookie. Every function is an ensure. A password leaves
this process only as a salted hash.
"""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from cumulet.kernel.bus.names import CONTROLLER, Rights, rights_of, user_of
from cumulet.kernel.errors import Invalid, Unavailable

_SECONDS = 15.0


class Broker:
    """One virtual host of a broker, seen by an administrator."""

    def __init__(self, url: str, vhost: str, *, password: str = "", ca: str | None = None) -> None:
        """``url``: ``http[s]://administrator[:password]@host:15672``; ``password`` goes before one in the URL.

        ``ca``: certificates (PEM) by which the API is trusted; None: the system's.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.username:
            raise Invalid("The broker's management API is http[s]://administrator@host:port.")
        self._base = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "/api", "", ""))
        login = f"{unquote(parts.username)}:{password or unquote(parts.password or '')}"
        self._headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
        self._ca = ca
        self._name, self._vhost = vhost, quote(vhost, safe="")

    async def ensure_vhost(self) -> None:
        """The virtual host itself, for an operator who leaves that to us."""
        await self._send([("PUT", f"/vhosts/{self._vhost}", {"description": "cumulet"})])

    async def ensure_controller(self, user: str, password: str) -> None:
        """The user of the controllers: everything of this cloud, nothing else."""
        await self._ensure(user, password, CONTROLLER)

    async def ensure_host(self, host: str, password: str, *, calls: Iterable[str], serves: Iterable[str]) -> str:
        """The user of a host, with this password from now on; returns its name.

        ``calls``: topics of roles that a host's agents ask; ``serves``: topics that its agents serve.
        """
        user = user_of(host, self._name)
        await self._ensure(user, password, rights_of(host, calls=calls, serves=serves))
        return user

    async def drop_host(self, host: str) -> None:
        """Remove a host's user; the broker then cuts its connections."""
        await self._send([("DELETE", f"/users/{quote(user_of(host, self._name), safe='')}", None)])

    async def _ensure(self, user: str, password: str, rights: Rights) -> None:
        salt = os.urandom(4)
        digest = hashlib.sha256(salt + password.encode()).digest()
        name = quote(user, safe="")
        topics = f"/topic-permissions/{self._vhost}/{name}"
        await self._send(
            [
                (
                    "PUT",
                    f"/users/{name}",
                    {
                        "password_hash": base64.b64encode(salt + digest).decode(),
                        "hashing_algorithm": "rabbit_password_hashing_sha256",
                        "tags": "",
                    },
                ),
                # first what is forbidden: without a row a topic exchange is open
                *(
                    ("PUT", topics, {"exchange": exchange, "write": write, "read": read})
                    for exchange, (write, read) in rights.topics.items()
                ),
                (
                    "PUT",
                    f"/permissions/{self._vhost}/{name}",
                    {"configure": rights.configure, "write": rights.write, "read": rights.read},
                ),
            ]
        )

    async def _send(self, requests: list[tuple[str, str, dict[str, Any] | None]]) -> None:
        import aiohttp
        from yarl import URL

        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        secure = self._ca is not None and self._base.startswith("https:")
        trusted = ssl.create_default_context(cadata=self._ca) if secure else True
        try:
            connector = aiohttp.TCPConnector(ssl=trusted)
            async with aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=connector) as session:
                for method, path, body in requests:
                    url = URL(self._base + path, encoded=True)
                    async with session.request(method, url, json=body, allow_redirects=False) as answer:
                        gone = method == "DELETE" and answer.status == 404
                        if answer.status >= 300 and not gone:
                            raise Unavailable(f"The message broker's management API says {answer.status} to {method}.")
        except (OSError, aiohttp.ClientError) as error:
            raise Unavailable(f"The message broker's management API failed: {type(error).__name__}.") from None

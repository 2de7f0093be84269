# SPDX-License-Identifier: Apache-2.0
"""A user of the cloud under test: REST only, several requests at once, failures as values."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

_VERSIONS = {"openstack-api-version": "compute 2.90, volume 3.60"}
_DOMAIN = {"id": "default"}


@dataclass
class Reply:
    """An answer; ``status`` 0 means that none came."""

    status: int
    json: Any = None
    text: str = ""
    """The body of one that is not good."""

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300


@dataclass
class User:
    """One user with a token that is issued anew when it is refused."""

    url: Callable[[], str]
    data: Path
    name: str
    _token: str | None = None
    _http: Any = None
    _password: str = ""
    _issuing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def __aenter__(self) -> User:
        import aiohttp

        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90))
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.close()

    async def ask(self, method: str, path: str, json: Any = None) -> Reply:
        """One request; never raises for what a killed cloud does."""
        for _ in range(2):
            if self._token is None and not await self._log_in():
                return Reply(0)
            reply = await self._send(method, path, json, {"x-auth-token": self._token or "", **_VERSIONS})
            if reply.status != 401:
                return reply
            self._token = None
        return reply

    async def _send(self, method: str, path: str, json: Any, headers: dict[str, str]) -> Reply:
        import aiohttp

        try:
            async with self._http.request(method, self.url() + path, json=json, headers=headers) as answer:
                data = await answer.read()
                if "x-subject-token" in answer.headers:
                    self._token = answer.headers["x-subject-token"]
                is_json = data and "json" in answer.headers.get("content-type", "")
                text = data.decode(errors="replace") if answer.status >= 300 else ""
                return Reply(answer.status, await answer.json(content_type=None) if is_json else None, text)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Reply(0)

    async def _log_in(self) -> bool:
        async with self._issuing:
            if self._token is None:
                user = {"name": self.name, "domain": _DOMAIN, "password": self._secret()}
                identity = {"methods": ["password"], "password": {"user": user}}
                auth = {"identity": identity, "scope": {"project": {"name": self.name, "domain": _DOMAIN}}}
                await self._send("POST", "/identity/v3/auth/tokens", {"auth": auth}, {})
        return self._token is not None

    def _secret(self) -> str:
        """The password in the ``clouds.yaml`` that the cloud wrote."""
        import yaml

        clouds = yaml.safe_load((self.data / "clouds.yaml").read_text())["clouds"]
        mine: str = next(one["auth"]["password"] for one in clouds.values() if one["auth"]["username"] == self.name)
        return mine

    # ---- what several scenarios need

    async def need(self, method: str, path: str, json: Any = None) -> Any:
        """One request that must succeed."""
        reply = await self.ask(method, path, json)
        if not reply.good:
            raise RuntimeError(f"{method} {path} answered {reply.status}: {reply.json}")
        return reply.json

    async def listed(self, path: str, key: str) -> list[dict[str, Any]]:
        """A list, asked for until it is answered."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            reply = await self.ask("GET", path)
            if reply.good:
                found: list[dict[str, Any]] = reply.json[key]
                return found
            await asyncio.sleep(0.1)
        raise RuntimeError(f"GET {path} is not answered: {reply.status} {reply.json}")

    async def servers(self) -> list[dict[str, Any]]:
        return await self.listed("/compute/v2.1/servers/detail?limit=1000", "servers")

    async def volumes(self) -> list[dict[str, Any]]:
        return await self.listed("/volume/v3/volumes/detail?limit=1000", "volumes")

    async def when(self, asked: Callable[[], Awaitable[Any]], seconds: float = 60.0) -> bool:
        """Ask until the answer is true; False when it is not by then."""
        until = time.monotonic() + seconds
        while not await asked():
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.1)
        return True

    async def until(self, path: str, key: str, wanted: Iterable[str], seconds: float = 60.0) -> str:
        """The ``status`` of a thing once it is one of ``wanted``; ``gone`` when there is no such thing."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            reply = await self.ask("GET", path)
            status = "gone" if reply.status == 404 else reply.json[key]["status"] if reply.good else ""
            if status in wanted:
                return str(status)
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{path} did not become {', '.join(wanted)}: {reply.json}")

# SPDX-License-Identifier: Apache-2.0
"""The identity service as the others see it: whom does this token belong to?

Answers are cached; a follower of identity's revocation feed empties the cache
as soon as anything is revoked, and a feed that falls silent turns it off.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import msgspec
import orjson

from cumulet.client.session import ServiceSession
from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.errors import Unauthorized, Unavailable
from cumulet.kernel.http.api import Verified

_SIZE = 10_000
_SILENCE = 2.0


class TokenAuthenticator:
    """Validates tokens by `GET /v3/auth/tokens`; one for all services of a process."""

    def __init__(self, session: ServiceSession) -> None:
        self._session = session
        self._cache: dict[bytes, Verified] = {}
        self._feed_at = 0.0
        self._sequence = 0
        self._generation = 0
        self._follower: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._follower = asyncio.get_running_loop().create_task(self._follow(), name="revocation feed")

    async def stop(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    async def verify(self, token: str, *, allow_expired: bool = False) -> Verified:
        if not token.isascii() or len(token) > 4096:
            raise Unauthorized
        key = hashlib.blake2b(token.encode(), digest_size=16).digest()
        known = self._cache.get(key) if clock.monotonic() - self._feed_at < _SILENCE else None
        if known is not None and (allow_expired or known.expires_at > clock.now()):
            return msgspec.structs.replace(known, cached=True)
        generation = self._generation
        verified = await self._ask(token, allow_expired)
        if generation == self._generation:  # nothing was revoked while we asked
            if len(self._cache) >= _SIZE:
                self._cache.clear()
            self._cache[key] = verified
        return verified

    async def _ask(self, token: str, allow_expired: bool) -> Verified:
        path = "/v3/auth/tokens?nocatalog" + ("&allow_expired=1" if allow_expired else "")
        reply = await self._session.send("identity", "GET", path, headers={"x-subject-token": token}, as_service=True)
        data = await reply.read()
        if reply.status in (401, 404):
            raise Unauthorized
        if reply.status != 200:
            raise Unavailable(f"Identity answered {reply.status} to a token validation.")
        return read_token(orjson.loads(data)["token"])

    async def _follow(self) -> None:
        while True:
            try:
                path = f"/v3/cumulet/revocations?after={self._sequence}&wait=1"
                told = await self._session.call("identity", "GET", path, as_service=True)
                if told["sequence"] != self._sequence:
                    self._generation += 1
                    self._cache.clear()
                    self._sequence = told["sequence"]
                self._feed_at = clock.monotonic()
            except Exception:
                await clock.sleep(0.5)
            await clock.sleep(ids.choose(0, 0.02))


def read_token(token: dict[str, Any]) -> Verified:
    """The caller that a token document describes."""
    user = token["user"]
    project = token.get("project") or {}
    scope = Context(
        request_id="",
        user_id=user["id"],
        user_name=user["name"],
        user_domain_id=(user.get("domain") or {}).get("id"),
        project_id=project.get("id"),
        project_name=project.get("name"),
        project_domain_id=(project.get("domain") or {}).get("id"),
        domain_id=(token.get("domain") or {}).get("id"),
        system=bool(token.get("system")),
        roles=[role["name"] for role in token.get("roles", [])],
        audit_id=(token.get("audit_ids") or [None])[0],
        trust_id=(token.get("OS-TRUST:trust") or {}).get("id"),
    )
    return Verified(context=scope, expires_at=clock.parse_iso(token["expires_at"]))

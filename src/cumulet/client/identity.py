# SPDX-License-Identifier: Apache-2.0
"""The identity service as the others see it: whom does this token belong to?

Answers are cached; a follower of identity's revocation feed empties the cache
as soon as anything is revoked, and a feed that falls silent turns it off.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import orjson

from cumulet.client.session import ServiceSession
from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.errors import Unauthorized, Unavailable
from cumulet.kernel.http.access import AccessRule
from cumulet.kernel.http.api import Verified

_SIZE = 10_000
_SILENCE = 2.0
_PAGE = 500


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
        headers = {"x-subject-token": token, "openstack-identity-access-rules": "1.0"}
        reply = await self._session.send("identity", "GET", path, headers=headers, as_service=True)
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
    rules = (token.get("application_credential") or {}).get("access_rules")
    return Verified(
        context=scope,
        expires_at=clock.parse_iso(token["expires_at"]),
        access_rules=None if rules is None else msgspec.convert(rules, list[AccessRule]),
    )


class Project(msgspec.Struct, frozen=True):
    """A project as others need it."""

    id: str
    name: str
    domain_id: str | None
    parent_id: str | None
    enabled: bool
    is_domain: bool = False
    tags: list[str] = []


class User(msgspec.Struct, frozen=True):
    """A user as others need it."""

    id: str
    name: str
    domain_id: str
    enabled: bool
    default_project_id: str | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """An endpoint at the address that the caller used."""

    id: str
    service_id: str
    interface: str
    region_id: str | None
    url: str
    enabled: bool


class IdentityClient:
    """Reads of the identity service for the other services."""

    def __init__(self, session: ServiceSession) -> None:
        self._session = session

    async def project(self, project_id: str, *, as_service: bool = False) -> Project:
        """One project; raises NotFound."""
        return msgspec.convert(await self._one(f"projects/{_segment(project_id)}", as_service), Project)

    async def projects(self, *, name: str | None = None, as_service: bool = False) -> list[Project]:
        """All projects, or those of one name."""
        return msgspec.convert(await self._many("projects", as_service, name=name), list[Project])

    async def user(self, user_id: str, *, as_service: bool = False) -> User:
        """One user; raises NotFound."""
        return msgspec.convert(await self._one(f"users/{_segment(user_id)}", as_service), User)

    async def users(self, *, name: str | None = None, as_service: bool = False) -> list[User]:
        """All users, or those of one name."""
        return msgspec.convert(await self._many("users", as_service, name=name), list[User])

    async def endpoints(self, *, interface: str | None = None, as_service: bool = False) -> list[Endpoint]:
        """The endpoints of all services, or those of one interface."""
        return msgspec.convert(await self._many("endpoints", as_service, interface=interface), list[Endpoint])

    async def _one(self, path: str, as_service: bool) -> Any:
        answer = await self._session.call("identity", "GET", f"/v3/{path}", as_service=as_service)
        return next(iter(answer.values()))

    async def _many(self, collection: str, as_service: bool, **filters: str | None) -> list[Any]:
        """All things of a collection, page after page."""
        query = {name: value for name, value in filters.items() if value is not None} | {"limit": str(_PAGE)}
        found: list[Any] = []
        while True:
            path = f"/v3/{collection}?{urlencode(query)}"
            answer = await self._session.call("identity", "GET", path, as_service=as_service)
            found += answer[collection]
            if answer["links"]["next"] is None:
                return found
            query["marker"] = found[-1]["id"]


def _segment(text: str) -> str:
    return quote(text, safe="")

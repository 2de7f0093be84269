# SPDX-License-Identifier: Apache-2.0
"""Tokens: made, looked at, and made void.

Invariant: an answer about a token holds for the newest committed change. The
number of that change is read first, at every validation; the cache belongs to
one number and is empty for the next. A token is void when one of the rows it
stands on was voided after the number under which its owner proved who he is.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import bindparam, select

from cumulet.identity.config import IdentitySettings
from cumulet.identity.logic import roles
from cumulet.identity.logic.claims import Claims, Sealer, pack
from cumulet.identity.logic.feed import Feed
from cumulet.identity.models import ACCESS_RULES, APPLICATION_CREDENTIALS, CHANGES, PROJECTS, USERS
from cumulet.kernel import clock
from cumulet.kernel.context import Context
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import NotFound, Unauthorized
from cumulet.kernel.http.api import Verified

_SIZE = 10_000
_USER = select(USERS).where(USERS.c.id == bindparam("wanted"))
_PROJECT = select(PROJECTS).where(PROJECTS.c.id == bindparam("wanted"))
_CREDENTIAL = select(APPLICATION_CREDENTIALS).where(APPLICATION_CREDENTIALS.c.id == bindparam("wanted"))
_VOID = select(CHANGES.c.sequence).where(CHANGES.c.audit_id == bindparam("audit"))


@dataclass(frozen=True)
class Seen:
    """What a token says now."""

    claims: Claims
    document: dict[str, Any]
    """The published token without its catalogue."""
    verified: Verified
    restricted_to_rules: bool
    """It came from an application credential with access rules."""


class Void(NotFound):
    """Failed to validate token"""


class Tokens:
    """All that is known about tokens; the `Authenticator` of identity's own API."""

    def __init__(self, database: Database, feed: Feed, sealer: Sealer, settings: IdentitySettings) -> None:
        self._database, self._feed, self._sealer, self._settings = database, feed, sealer, settings
        self._at = -1
        self._seen: OrderedDict[bytes, Seen] = OrderedDict()
        self._graph: roles.RoleGraph | None = None

    # ---- looking

    async def verify(self, token: str, *, allow_expired: bool = False) -> Verified:
        """Whom the token belongs to; raises Unauthorized. Tokens bound to access rules are refused here."""
        try:
            seen, cached = await self._look(token, allow_expired)
        except NotFound:
            raise Unauthorized from None
        if seen.restricted_to_rules:
            raise Unauthorized
        return msgspec.structs.replace(seen.verified, cached=cached)

    async def read(self, token: str, *, allow_expired: bool = False) -> Seen:
        """What the token says now; raises NotFound for one that is not ours, ended or void."""
        return (await self._look(token, allow_expired))[0]

    async def _look(self, token: str, allow_expired: bool) -> tuple[Seen, bool]:
        sequence = await self._turn()
        key = _key(token)
        seen = self._seen.get(key)
        cached = seen is not None
        if seen is None:
            claims = self._sealer.open(token)
            if claims is None:
                raise NotFound("Could not recognize Fernet token")
            self._refuse_ended(claims, allow_expired)
            if await self._database.first(_VOID, {"audit": claims.audit_ids[0]}) is not None:
                raise Void
            seen = await self.resolve(claims)
            self._keep(key, seen, sequence)
        else:
            self._refuse_ended(seen.claims, allow_expired)
            self._seen.move_to_end(key)
        return seen, cached

    def _refuse_ended(self, claims: Claims, allow_expired: bool) -> None:
        window = self._settings.expired_window if allow_expired else 0
        if claims.expires + window <= clock.now():
            raise Void

    async def _turn(self) -> int:
        """The number of the newest change; a new one empties the cache."""
        sequence = await self._feed.sequence()
        if sequence != self._at:
            self._seen.clear()
            self._graph = None
            self._at = sequence
        return sequence

    def _keep(self, key: bytes, seen: Seen, sequence: int) -> None:
        if sequence != self._at:
            return  # something changed while we looked; the next look decides
        self._seen[key] = seen
        if len(self._seen) > _SIZE:
            self._seen.popitem(last=False)

    async def graph(self) -> roles.RoleGraph:
        """All roles and what they imply, as of the newest change."""
        sequence = await self._turn()
        graph = self._graph
        if graph is None:
            graph = await roles.load_graph(self._database)
            if sequence == self._at:
                self._graph = graph
        return graph

    # ---- making

    async def issue(self, claims: Claims) -> tuple[str, Seen]:
        """Seal a token for the claims; raises Unauthorized when they stand for nothing."""
        sequence = await self._turn()
        try:
            seen = await self.resolve(claims)
        except NotFound as fault:
            raise Unauthorized(fault.message) from None
        token = self._sealer.seal(claims)
        self._keep(_key(token), seen, sequence)
        return token, seen

    async def revoke(self, token: str) -> None:
        """Make the token void; raises NotFound for one that is not valid."""
        claims = (await self.read(token)).claims

        async def body(tx: Transaction) -> None:
            await self._feed.changed(tx, void=True, audit_id=claims.audit_ids[0], user_id=claims.user_id)

        await self._database.run(body)

    async def resolve(self, claims: Claims) -> Seen:
        """Look up everything that the claims stand on; raises NotFound when something of it is not so any more."""
        user = await self._standing(_USER, claims.user_id, claims)
        user_domain = await self._standing(_PROJECT, user["domain_id"], claims)
        document: dict[str, Any] = {
            "methods": claims.method_names[::-1],
            "user": {
                "domain": _named(user_domain),
                "id": user["id"],
                "name": user["name"],
                "password_expires_at": None,
            },
            "audit_ids": claims.audit_ids,
            "expires_at": clock.iso_micro_z(claims.expires),
            "issued_at": clock.iso_micro_z(claims.issued),
        }
        project: Row | None = None
        project_domain: Row | None = None
        domain: Row | None = None
        assigned: list[str] = []
        if claims.scope == "p":
            project = await self._standing(_PROJECT, claims.scope_id, claims)
            above = await self._above(project)
            project_domain = await self._standing(_PROJECT, project["domain_id"], claims)
            assigned = await roles.held(self._database, user["id"], "project", project["id"], above)
            document["project"] = {"domain": _named(project_domain), **_named(project)}
            document["is_domain"] = project["is_domain"]
        elif claims.scope == "d":
            domain = await self._standing(_PROJECT, claims.scope_id, claims)
            assigned = await roles.held(self._database, user["id"], "domain", domain["id"], [])
            document["domain"] = _named(domain)
        elif claims.scope == "s":
            assigned = await roles.held(self._database, user["id"], "system", "system", [])
            document["system"] = {"all": True}
        held = (await self.graph()).expand_global(assigned)
        credential = await self._credential(claims)
        if credential is not None:
            allowed = set(credential["role_ids"])
            held = [role for role in held if role["id"] in allowed]
            document["application_credential"] = await self._shown(credential)
        if claims.scope:
            if not held:
                raise Void
            document["roles"] = [_named(role) for role in held]
        caller = Context(
            request_id="",
            user_id=user["id"],
            user_name=user["name"],
            user_domain_id=user["domain_id"],
            project_id=project["id"] if project else None,
            project_name=project["name"] if project else None,
            project_domain_id=project_domain["id"] if project_domain else None,
            domain_id=domain["id"] if domain else None,
            system=claims.scope == "s",
            roles=[role["name"] for role in held],
            audit_id=claims.audit_ids[0],
        )
        bound = credential is not None and credential["access_rule_ids"] is not None
        return Seen(claims, document, Verified(context=caller, expires_at=claims.expires), bound)

    async def _standing(self, statement: Any, id: str, claims: Claims) -> Row:
        """The row, which must be there, enabled, and not voided since the proof of identity."""
        row = await self._database.first(statement, {"wanted": id})
        if row is None or not row["enabled"] or row["voided"] > claims.sequence:
            raise Void
        return row

    async def _above(self, project: Row) -> list[str]:
        """The ids of the projects over a project, its domain last."""
        above: list[str] = []
        parent = project["parent_id"]
        while parent and parent not in above:
            above.append(parent)
            if parent == project["domain_id"]:
                break
            row = await self._database.first(_PROJECT, {"wanted": parent})
            parent = row["parent_id"] if row is not None else ""
        return above

    async def _credential(self, claims: Claims) -> Row | None:
        if claims.credential_id is None:
            return None
        row = await self._database.first(_CREDENTIAL, {"wanted": claims.credential_id})
        if row is None or (row["expires_at"] is not None and row["expires_at"] <= clock.now()):
            raise Void
        return row

    async def _shown(self, credential: Row) -> dict[str, Any]:
        shown = {"id": credential["id"], "name": credential["name"], "restricted": not credential["unrestricted"]}
        if credential["access_rule_ids"]:
            wanted = ACCESS_RULES.c.id.in_(credential["access_rule_ids"])
            rows = await self._database.all(select(ACCESS_RULES).where(wanted), point=True)
            shown["access_rules"] = [{name: row[name] for name in ("id", "service", "path", "method")} for row in rows]
        return shown


def scoped(claims: Claims, scope: str, scope_id: str) -> Claims:
    """The same claims on a scope: ``p``, ``d``, ``s`` or empty."""
    return msgspec.structs.replace(claims, scope=scope, scope_of=pack(scope_id))


def _key(token: str) -> bytes:
    return hashlib.blake2b(token.encode(errors="replace"), digest_size=16).digest()


def _named(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "name": row["name"]}

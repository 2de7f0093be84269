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
from sqlalchemy import bindparam, or_, select

from cumulet.identity.config import IdentitySettings
from cumulet.identity.logic import roles, trusts
from cumulet.identity.logic.claims import Claims, Sealer, pack
from cumulet.identity.logic.feed import Feed
from cumulet.identity.models import ACCESS_RULES, ACCESS_TOKENS, APPLICATION_CREDENTIALS, CHANGES, PROJECTS, USERS
from cumulet.kernel import clock
from cumulet.kernel.context import Context
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Forbidden, NotFound, Unauthorized
from cumulet.kernel.http.access import AccessRule
from cumulet.kernel.http.api import Verified

_SIZE = 10_000
_USER = select(USERS).where(USERS.c.id == bindparam("wanted"))
_PROJECT = select(PROJECTS).where(PROJECTS.c.id == bindparam("wanted"))
_CREDENTIAL = select(APPLICATION_CREDENTIALS).where(APPLICATION_CREDENTIALS.c.id == bindparam("wanted"))
_ACCESS = select(ACCESS_TOKENS).where(ACCESS_TOKENS.c.id == bindparam("wanted"))
_VOID = select(CHANGES.c.sequence).where(
    or_(CHANGES.c.audit_id == bindparam("audit"), CHANGES.c.audit_chain_id == bindparam("chain"))
)


@dataclass(frozen=True)
class Seen:
    """What a token says now."""

    claims: Claims
    document: dict[str, Any]
    """The published token without its catalogue."""
    verified: Verified

    @property
    def delegated(self) -> bool:
        """Whether it was made with a trust or with something else that a user handed out."""
        return self.claims.delegated or self.claims.trust_id is not None


class Void(NotFound):
    """Failed to validate token"""


class Undelegated(Void):
    """What was handed out is not worth anything to who has it."""


class Tokens:
    """All that is known about tokens; the `Authenticator` of identity's own API."""

    def __init__(self, database: Database, feed: Feed, sealer: Sealer, settings: IdentitySettings) -> None:
        self._database, self._feed, self._sealer, self._settings = database, feed, sealer, settings
        self._at = -1
        self._seen: OrderedDict[bytes, Seen] = OrderedDict()
        self._graph: roles.RoleGraph | None = None

    # ---- looking

    async def verify(self, token: str, *, allow_expired: bool = False) -> Verified:
        """Whom the token belongs to; raises Unauthorized."""
        try:
            seen, cached = await self._look(token, allow_expired)
        except NotFound:
            raise Unauthorized from None
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
            audit, chain = claims.audit_ids[0], claims.audit_ids[-1]
            if await self._database.first(_VOID, {"audit": audit, "chain": chain}) is not None:
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
        """The number of the newest change; a new one empties the cache and brings the newest keys."""
        sequence = await self._feed.sequence()
        if sequence != self._at:
            await self._sealer.keys.refresh(self._database)
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
        except Undelegated as fault:
            raise Forbidden(fault.message) from None
        except NotFound as fault:
            raise Unauthorized(fault.message) from None
        token = self._sealer.seal(claims)
        self._keep(_key(token), seen, sequence)
        return token, seen

    async def revoke(self, token: str, *, cascade: bool = True) -> None:
        """Make the token void, and with ``cascade`` those that were made from it; raises NotFound for no valid one."""
        claims = (await self.read(token)).claims
        audit = claims.audit_ids[0]

        async def body(tx: Transaction) -> None:
            chain = audit if cascade else None
            await self._feed.changed(tx, void=True, audit_id=audit, audit_chain_id=chain, user_id=claims.user_id)

        await self._database.run(body)

    async def rotate(self) -> int:
        """Seal tokens with a new key from now on; returns how many keys are good."""
        return await self._sealer.keys.rotate(self._database, self._feed)

    async def resolve(self, claims: Claims) -> Seen:
        """Look up everything that the claims stand on; raises NotFound when something of it is not so any more."""
        user = await self._standing(_USER, claims.user_id, claims)
        trust: Row | None = None
        grantor = user
        if claims.trust_id is not None:
            trust, grantor, first = await self._trust(claims, user)
        shown = grantor if trust is not None and trust["impersonation"] else user
        shown_domain = await self._standing(_PROJECT, shown["domain_id"], claims)
        document: dict[str, Any] = {
            "methods": claims.method_names[::-1],
            "user": {
                "domain": _named(shown_domain),
                "id": shown["id"],
                "name": shown["name"],
                "password_expires_at": _local(shown["password_expires_at"]),
            },
            "audit_ids": claims.audit_ids,
            "expires_at": clock.iso_micro_z(claims.expires),
            "issued_at": clock.iso_micro_z(claims.issued),
        }
        project: Row | None = None
        project_domain: Row | None = None
        domain: Row | None = None
        assigned: list[str] = []
        holder_id = user["id"] if trust is None else first
        if claims.scope == "p":
            project = await self._standing(_PROJECT, claims.scope_id, claims)
            above = await self._above(project)
            project_domain = await self._standing(_PROJECT, project["domain_id"], claims)
            assigned = await roles.held(self._database, holder_id, "project", project["id"], above)
            document["project"] = {"domain": _named(project_domain), **_named(project)}
            document["is_domain"] = project["is_domain"]
        elif claims.scope == "d":
            domain = await self._standing(_PROJECT, claims.scope_id, claims)
            assigned = await roles.held(self._database, holder_id, "domain", domain["id"], [])
            document["domain"] = _named(domain)
        elif claims.scope == "s":
            assigned = await roles.held(self._database, holder_id, "system", "system", [])
            document["system"] = {"all": True}
        graph = await self.graph()
        credential = await self._credential(claims)
        access = await self._access(claims)
        held = graph.expand_global(assigned)
        if trust is not None:
            document["OS-TRUST:trust"] = _trust_view(trust)
            lent = graph.expand(trust["role_ids"])
            if not set(lent) <= set(graph.expand(assigned)):
                raise Undelegated("Trustee has no delegated roles.")
            held = graph.expand_global(lent)
        if access is not None:
            lent = graph.expand(access["role_ids"])
            held = [role for role in held if role["id"] in lent]
            document["OS-OAUTH1"] = {"access_token_id": access["id"], "consumer_id": access["consumer_id"]}
        rules: list[AccessRule] | None = None
        if credential is not None:
            allowed = set(credential["role_ids"])
            held = [role for role in held if role["id"] in allowed]
            view = document["application_credential"] = await self._shown(credential)
            if "access_rules" in view:
                rules = msgspec.convert(view["access_rules"], list[AccessRule])
        if claims.scope:
            if not held:
                raise Void
            document["roles"] = [_named(role) for role in held]
        caller = Context(
            request_id="",
            user_id=shown["id"],
            user_name=shown["name"],
            user_domain_id=shown["domain_id"],
            project_id=project["id"] if project else None,
            project_name=project["name"] if project else None,
            project_domain_id=project_domain["id"] if project_domain else None,
            domain_id=domain["id"] if domain else None,
            system=claims.scope == "s",
            roles=[role["name"] for role in held],
            audit_id=claims.audit_ids[0],
            trust_id=claims.trust_id,
        )
        return Seen(claims, document, Verified(context=caller, expires_at=claims.expires, access_rules=rules))

    async def _trust(self, claims: Claims, trustee: Row) -> tuple[Row, Row, str]:
        """The trust, its trustor, and the id of the first trustor of its chain; all in it must still be in order."""
        assert claims.trust_id is not None
        links = await trusts.chain(self._database, claims.trust_id)
        trust, now = links[0], clock.now()
        if any(link["expires_at"] is not None and link["expires_at"] <= now for link in links):
            raise Void
        if trust["trustee_user_id"] != trustee["id"]:
            raise Undelegated("User is not a trustee.")
        trustor = await self._standing(_USER, trust["trustor_user_id"], claims)
        await self._standing(_PROJECT, trustor["domain_id"], claims)
        for link in links[1:]:
            for agent in ("trustor_user_id", "trustee_user_id"):
                await self._standing(_USER, link[agent], claims)
        first: str = links[-1]["trustor_user_id"]
        return trust, trustor, first

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

    async def _access(self, claims: Claims) -> Row | None:
        if claims.access_id is None:
            return None
        row = await self._database.first(_ACCESS, {"wanted": claims.access_id})
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


def _local(moment: float | None) -> str | None:
    return None if moment is None else clock.iso_micro(moment)


def _trust_view(trust: Row) -> dict[str, Any]:
    return {
        "id": trust["id"],
        "impersonation": trust["impersonation"],
        "trustor_user": {"id": trust["trustor_user_id"]},
        "trustee_user": {"id": trust["trustee_user_id"]},
    }


def _named(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "name": row["name"]}

# SPDX-License-Identifier: Apache-2.0
"""From proofs to a token: who it is that asks, and on what he wants to act.

Invariant: the number of the newest change is read before anything that the
proof rests on; a change made meanwhile (a new password) voids the token.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cumulet.identity.config import IdentitySettings
from cumulet.identity.errors import AuthenticationFailed, expecting
from cumulet.identity.logic import trusts
from cumulet.identity.logic.claims import LOGIN, Claims, method_bits, new_audit, pack
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.methods import Asked, Methods, Proof
from cumulet.identity.logic.naming import Naming
from cumulet.identity.logic.receipts import Receipts, is_enough
from cumulet.identity.logic.tokens import Seen, Tokens, scoped
from cumulet.kernel import clock, trace
from cumulet.kernel.db import Database, Row
from cumulet.kernel.errors import Invalid, NotFound, Unauthorized

_SCOPES = ("system", "project", "domain", "unscoped", "OS-TRUST:trust")
_TRUST = "OS-TRUST:trust"
_NOBODY = Asked()


class Authentication:
    """Answers `POST /v3/auth/tokens`."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        tokens: Tokens,
        methods: Methods,
        naming: Naming,
        receipts: Receipts,
        settings: IdentitySettings,
    ) -> None:
        self._database, self._feed, self._tokens = database, feed, tokens
        self._methods, self._naming, self._receipts, self._settings = methods, naming, receipts, settings

    async def authenticate(self, auth: dict[str, Any], asked: Asked = _NOBODY) -> tuple[str, Seen]:
        """The token for a checked ``auth`` document, and what it says.

        Raises Invalid, Unauthorized, TooMany, or MoreNeeded for a user that must prove itself by more methods.
        """
        started, tick = clock.now(), clock.monotonic()
        sequence = await self._feed.sequence()
        identity = auth["identity"]
        _check_methods(identity)
        scope, scope_id, trust = await self._scope(auth)
        proof = Proof(asked, scope)
        for method in dict.fromkeys(identity["methods"]):
            await self._methods.prove(method, identity[method], proof)
        user = await self._proved(proof, sequence)
        claims = self._claims(user["id"], proof, sequence)
        proved = clock.monotonic()
        if trust is not None:
            token, seen = await self._by_trust(claims, trust)
        elif proof.credential is not None:
            token, seen = await self._tokens.issue(scoped(claims, "p", proof.credential["project_id"]))
        elif proof.access is not None:
            token, seen = await self._tokens.issue(scoped(claims, "p", proof.access["project_id"]))
        elif scope is not None:
            token, seen = await self._tokens.issue(scoped(claims, scope, scope_id))
        else:
            token, seen = await self._by_default(claims, user["default_project_id"])
        self._trace(seen, started, (proved - tick) * 1000, (clock.monotonic() - proved) * 1000)
        return token, seen

    async def _proved(self, proof: Proof, sequence: int) -> Row:
        """The user, when enough methods (of this request, and of a receipt) say that it is it."""
        user = await self._naming.user_of(proof.user_id) if proof.user_id is not None else None
        if user is None:
            raise Unauthorized
        if proof.asked.receipt is not None:
            proof.methods += self._receipts.methods(proof.asked.receipt, user)
        if not is_enough(user, set(proof.methods)):
            domain = await self._naming.domain({"id": user["domain_id"]})
            if domain is None or not user["enabled"]:
                raise Unauthorized
            raise self._receipts.demand(user, domain, set(proof.methods), sequence)
        return user

    def _claims(self, user_id: str, proof: Proof, sequence: int) -> Claims:
        now = int(clock.now())
        return Claims(
            version=1,
            methods=method_bits(proof.methods),
            user=pack(user_id),
            scope="",
            scope_of=b"",
            issued=now,
            expires=proof.expires if proof.expires is not None else now + self._settings.token_lifetime,
            sequence=sequence,
            audit=new_audit(),
            parent=proof.parent,
            credential=pack(proof.credential["id"]) if proof.credential else b"",
            access=pack(proof.access["id"]) if proof.access else b"",
        )

    async def _by_trust(self, claims: Claims, trust: Row) -> tuple[str, Seen]:
        """The trustee's token on a trust, which is used once by it."""
        if trust["expires_at"] is not None:
            claims = msgspec.structs.replace(claims, expires=min(claims.expires, int(trust["expires_at"])))
        project_id = trust["project_id"]
        claims = scoped(claims, "p" if project_id else "", project_id or "")
        token, seen = await self._tokens.issue(msgspec.structs.replace(claims, trust=pack(trust["id"])))
        await trusts.consume(self._database, trust)
        return token, seen

    async def issue_for_key(self, user_id: str, project_id: str, content: dict[str, Any]) -> tuple[str, Seen]:
        """A token for the owner of an EC2 key; ``content`` may bind it to what the key was made under."""
        sequence = await self._feed.sequence()
        proof = Proof(_NOBODY, "p", user_id, ["ec2credential"])
        claims = scoped(self._claims(user_id, proof, sequence), "p", project_id)
        if content.get("trust_id") or content.get("app_cred_id") or content.get("access_token_id"):
            # no key is made under such a token any more; one from elsewhere is not to be worth more than its maker
            raise Unauthorized
        return await self._tokens.issue(claims)

    async def _by_default(self, claims: Claims, project_id: str | None) -> tuple[str, Seen]:
        """A token on the user's default project where that is possible, else an unscoped one."""
        if project_id:
            try:
                return await self._tokens.issue(scoped(claims, "p", project_id))
            except Unauthorized:
                pass
        return await self._tokens.issue(claims)

    def _trace(self, seen: Seen, started: float, proof_ms: float, token_ms: float) -> None:
        caller = seen.verified.context
        detail = {"user_id": caller.user_id, "methods": seen.document["methods"]}
        trace.record("auth.request", started=started, duration_ms=proof_ms, detail=detail, subject=caller.audit_id)
        trace.record(
            "auth.token",
            started=started + proof_ms / 1000,
            duration_ms=token_ms,
            detail={"project_id": caller.project_id, "roles": caller.roles},
            subject=caller.audit_id,
        )

    async def _scope(self, auth: dict[str, Any]) -> tuple[str | None, str, Row | None]:
        """The wished scope, its id, and the trust where it is one; None where nothing was said."""
        credential = "application_credential" in auth["identity"]["methods"]
        if "scope" not in auth:
            return None, "", None
        if credential:
            detail = "Application credentials cannot request a scope."
            raise AuthenticationFailed(f"Error authenticating with application credential: {detail}")
        scope = {auth["scope"]: {}} if isinstance(auth["scope"], str) else auth["scope"]
        wished = [name for name in _SCOPES if name in scope]
        if len(wished) != 1:
            raise expecting("system, project, domain, OS-TRUST:trust or unscoped", "scope")
        if wished == ["system"]:
            return "s", "", None
        if wished == ["unscoped"]:
            return "", "", None
        if wished == ["domain"]:
            domain = await self._naming.domain(scope["domain"])
            if domain is None:
                raise Unauthorized
            return "d", domain["id"], None
        if wished == [_TRUST]:
            return await self._trust(scope[_TRUST])
        return "p", await self._naming.project(scope["project"]), None

    async def _trust(self, named: Any) -> tuple[str | None, str, Row | None]:
        if not isinstance(named, dict) or not named.get("id"):
            raise expecting("trust_id", "trust")
        try:
            trust = await trusts.show_trust(self._database, str(named["id"]))
        except NotFound:
            raise Unauthorized from None
        if trust["project_id"] is None:
            return "", "", trust
        return "p", await self._naming.project({"id": trust["project_id"]}), trust


def _check_methods(identity: dict[str, Any]) -> None:
    for method in identity["methods"]:
        if method not in identity:
            raise expecting(method, "identity")
    for method in identity["methods"]:
        if method not in LOGIN:
            raise AuthenticationFailed(
                "Attempted to authenticate with an unsupported method.", identity={"methods": list(LOGIN)}
            )
        if not isinstance(identity[method], dict):
            raise Invalid(f"Invalid input for field identity/{method}: an object is expected.")

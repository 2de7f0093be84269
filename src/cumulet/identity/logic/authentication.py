# SPDX-License-Identifier: Apache-2.0
"""From credentials to a token: who proves to be whom, and on what he wants to act.

Invariant: the number of the newest change is read before anything that the
proof rests on; a change made meanwhile (a new password) voids the token.
Why a proof failed is never told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, select

from cumulet.identity.config import IdentitySettings
from cumulet.identity.errors import AuthenticationFailed, expecting, forbidden_action, missing
from cumulet.identity.logic.claims import METHODS, Claims, method_bits, new_audit, pack
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.passwords import Passwords
from cumulet.identity.logic.tokens import Seen, Tokens, scoped
from cumulet.identity.models import APPLICATION_CREDENTIALS, PROJECTS, USERS
from cumulet.kernel import clock, trace
from cumulet.kernel.db import Database, Row
from cumulet.kernel.errors import Invalid, Unauthorized

_WANTED: Any = bindparam("wanted")
_USER = select(USERS).where(USERS.c.id == _WANTED)
_USER_NAMED = select(USERS).where(USERS.c.domain_id == bindparam("domain"), USERS.c.name == _WANTED)
_DOMAINS = select(PROJECTS).where(PROJECTS.c.is_domain.is_(True), PROJECTS.c.enabled.is_(True))
_DOMAIN, _DOMAIN_NAMED = _DOMAINS.where(PROJECTS.c.id == _WANTED), _DOMAINS.where(PROJECTS.c.name == _WANTED)
_PROJECTS = select(PROJECTS).where(PROJECTS.c.is_domain.is_(False))
_PROJECT = _PROJECTS.where(PROJECTS.c.id == _WANTED)
_PROJECT_NAMED = _PROJECTS.where(PROJECTS.c.domain_id == bindparam("domain"), PROJECTS.c.name == _WANTED)
_CREDENTIAL = select(APPLICATION_CREDENTIALS).where(APPLICATION_CREDENTIALS.c.id == _WANTED)
_SCOPES = ("system", "project", "domain", "unscoped")


@dataclass
class Proof:
    """What the methods of one request proved together."""

    user_id: str | None = None
    methods: list[str] = field(default_factory=list)
    parent: bytes = b""
    expires: int | None = None
    credential: Row | None = None

    def says(self, user_id: str) -> None:
        """A method proved that this is the user; all methods must agree."""
        if self.user_id not in (None, user_id):
            raise Unauthorized
        self.user_id = user_id


class Authentication:
    """Answers `POST /v3/auth/tokens`."""

    def __init__(
        self, database: Database, feed: Feed, tokens: Tokens, passwords: Passwords, settings: IdentitySettings
    ) -> None:
        self._database, self._feed, self._tokens = database, feed, tokens
        self._passwords, self._settings = passwords, settings

    async def authenticate(self, auth: dict[str, Any]) -> tuple[str, Seen]:
        """The token for a checked ``auth`` document, and what it says. Raises Invalid or Unauthorized."""
        started, tick = clock.now(), clock.monotonic()
        sequence = await self._feed.sequence()
        identity = auth["identity"]
        _check_methods(identity)
        scope, scope_id = await self._scope(auth)
        proof = Proof()
        for method in dict.fromkeys(identity["methods"]):
            await getattr(self, f"_by_{method}")(identity[method], proof)
        if proof.user_id is None:
            raise Unauthorized
        user = await self._database.first(_USER, {"wanted": proof.user_id})
        if user is None or not _enough_methods(user, proof.methods):
            raise Unauthorized
        now = int(clock.now())
        claims = Claims(
            version=1,
            methods=method_bits(proof.methods),
            user=pack(user["id"]),
            scope="",
            scope_of=b"",
            issued=now,
            expires=proof.expires if proof.expires is not None else now + self._settings.token_lifetime,
            sequence=sequence,
            audit=new_audit(),
            parent=proof.parent,
            credential=pack(proof.credential["id"]) if proof.credential else b"",
        )
        proved = clock.monotonic()
        if proof.credential is not None:
            token, seen = await self._tokens.issue(scoped(claims, "p", proof.credential["project_id"]))
        elif scope is not None:
            token, seen = await self._tokens.issue(scoped(claims, scope, scope_id))
        else:
            token, seen = await self._by_default(claims, user["default_project_id"])
        self._trace(seen, started, (proved - tick) * 1000, (clock.monotonic() - proved) * 1000)
        return token, seen

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

    # ---- the methods

    async def _by_password(self, sent: dict[str, Any], proof: Proof) -> None:
        if "user" not in sent:
            raise expecting("user", "password")
        named = sent["user"]
        user = await self._user(named)
        known = user["password_hash"] if user is not None else None
        matches = await self._passwords.matches(named.get("password") or "", known)
        if user is None or not matches or not user["enabled"]:
            raise Unauthorized
        proof.methods.append("password")
        proof.says(user["id"])

    async def _by_token(self, sent: dict[str, Any], proof: Proof) -> None:
        claims = (await self._tokens.read(sent.get("id", ""))).claims
        if claims.credential_id is not None:
            raise forbidden_action("Using a delegated token to create another token is not allowed.")
        proof.methods += ["token", *claims.method_names]
        proof.parent = claims.parent or claims.audit
        proof.expires = claims.expires
        proof.says(claims.user_id)

    async def _by_application_credential(self, sent: dict[str, Any], proof: Proof) -> None:
        table = APPLICATION_CREDENTIALS
        if sent.get("id"):
            row = await self._database.first(_CREDENTIAL, {"wanted": sent["id"]})
            if row is None:
                raise missing("Application Credential", sent["id"])
        else:
            if not sent.get("name"):
                raise expecting("name or ID", "application credential")
            if not sent.get("user"):
                raise expecting("user", "application credential")
            user = await self._user(sent["user"])
            named = (table.c.user_id == (user["id"] if user else "")) & (table.c.name == sent["name"])
            row = await self._database.first(select(table).where(named))
        matches = await self._passwords.matches(sent.get("secret") or "", row["secret_hash"] if row else None)
        if row is None or not matches:
            raise Unauthorized
        if row["expires_at"] is not None:
            if row["expires_at"] <= clock.now():
                raise Unauthorized
            proof.expires = min(int(row["expires_at"]), int(clock.now()) + self._settings.token_lifetime)
        proof.methods.append("application_credential")
        proof.credential = row
        proof.says(row["user_id"])

    # ---- naming things

    async def _user(self, named: dict[str, Any]) -> Row | None:
        """The user of an ``id``, or of a ``name`` in an enabled ``domain``."""
        if "id" in named:
            return await self._database.first(_USER, {"wanted": named["id"]})
        if "domain" not in named:
            raise expecting("domain", "user")
        domain = await self._domain(named["domain"])
        if domain is None:
            return None
        return await self._database.first(_USER_NAMED, {"domain": domain["id"], "wanted": named["name"]})

    async def _domain(self, named: dict[str, Any]) -> Row | None:
        """The enabled domain of an ``id`` or ``name``."""
        by_id = "id" in named
        return await self._database.first(
            _DOMAIN if by_id else _DOMAIN_NAMED, {"wanted": named["id"] if by_id else named["name"]}
        )

    async def _scope(self, auth: dict[str, Any]) -> tuple[str | None, str]:
        """The wished scope and its id; None where nothing was said."""
        credential = "application_credential" in auth["identity"]["methods"]
        if "scope" not in auth:
            return None, ""
        if credential:
            detail = "Application credentials cannot request a scope."
            raise AuthenticationFailed(f"Error authenticating with application credential: {detail}")
        scope = {auth["scope"]: {}} if isinstance(auth["scope"], str) else auth["scope"]
        wished = [name for name in _SCOPES if name in scope]
        if len(wished) != 1:
            raise expecting("system, project, domain, OS-TRUST:trust or unscoped", "scope")
        if wished == ["system"]:
            return "s", ""
        if wished == ["unscoped"]:
            return "", ""
        if wished == ["domain"]:
            domain = await self._domain(scope["domain"])
            if domain is None:
                raise Unauthorized
            return "d", domain["id"]
        return "p", await self._project(scope["project"])

    async def _project(self, named: dict[str, Any]) -> str:
        if "name" in named:
            if "domain" not in named:
                raise expecting("domain", "project")
            domain = await self._domain(named["domain"])
            params = {"domain": domain["id"] if domain else "", "wanted": named["name"]}
            row = await self._database.first(_PROJECT_NAMED, params)
        else:
            row = await self._database.first(_PROJECT, {"wanted": named["id"]})
        if row is None:
            raise Unauthorized
        project_id: str = row["id"]
        return project_id


def _check_methods(identity: dict[str, Any]) -> None:
    for method in identity["methods"]:
        if method not in identity:
            raise expecting(method, "identity")
    for method in identity["methods"]:
        if method not in METHODS:
            raise AuthenticationFailed(
                "Attempted to authenticate with an unsupported method.", identity={"methods": list(METHODS)}
            )
        if not isinstance(identity[method], dict):
            raise Invalid(f"Invalid input for field identity/{method}: an object is expected.")


def _enough_methods(user: Row, used: list[str]) -> bool:
    """Whether the user's rules about several methods are kept; rules of methods that we lack don't count."""
    options = user["options"]
    if not options.get("multi_factor_auth_enabled", True):
        return True
    rules = [set(rule) & set(METHODS) for rule in options.get("multi_factor_auth_rules") or []]
    rules = [rule for rule in rules if rule]
    return not rules or any(rule <= set(used) for rule in rules)

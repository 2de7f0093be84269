# SPDX-License-Identifier: Apache-2.0
"""The ways to prove who one is: password, token, passcode, application credential, OAuth1.

Invariants: why a proof failed is never told, but to whom had the right
password; a wrong one costs as much time whether or not there is such a user;
failures are counted before the answer goes out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, select

from cumulet.identity.errors import expecting, forbidden_action, missing
from cumulet.identity.logic import compliance, totp
from cumulet.identity.logic.directories import Directories
from cumulet.identity.logic.naming import Naming, guess_key
from cumulet.identity.logic.oauth1 import OAuth1
from cumulet.identity.logic.passwords import Passwords
from cumulet.identity.logic.sealed_credentials import TOTP, SealedCredentials
from cumulet.identity.logic.throttle import Throttle
from cumulet.identity.logic.tokens import Tokens
from cumulet.identity.models import APPLICATION_CREDENTIALS, USERS
from cumulet.kernel import clock
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Unauthorized

_CREDENTIAL = select(APPLICATION_CREDENTIALS).where(APPLICATION_CREDENTIALS.c.id == bindparam("wanted"))


@dataclass(frozen=True)
class Asked:
    """What a request for a token says besides its document."""

    address: str = ""
    receipt: str | None = None
    authorization: str = ""
    url: str = ""
    query: str = ""


@dataclass
class Proof:
    """What the methods of one request proved together."""

    asked: Asked
    scope: str | None = None
    """The kind of scope that is wished, as `Claims.scope`."""
    user_id: str | None = None
    methods: list[str] = field(default_factory=list)
    parent: bytes = b""
    expires: int | None = None
    credential: Row | None = None
    access: Row | None = None

    def says(self, user_id: str) -> None:
        """A method proved that this is the user; all methods must agree."""
        if self.user_id not in (None, user_id):
            raise Unauthorized
        self.user_id = user_id

    def ends(self, moment: float) -> None:
        """What was proved is good until then at most."""
        self.expires = min(int(moment), self.expires) if self.expires is not None else int(moment)


class Methods:
    """One method each of the same name as in the document."""

    def __init__(
        self,
        database: Database,
        tokens: Tokens,
        passwords: Passwords,
        credentials: SealedCredentials,
        oauth1: OAuth1,
        naming: Naming,
        directories: Directories,
    ) -> None:
        self._database, self._tokens, self._passwords, self._naming = database, tokens, passwords, naming
        self._credentials, self._oauth1, self._directories = credentials, oauth1, directories
        self._settings = passwords.settings
        self._throttle = Throttle(self._settings.login_failures_per_minute)

    async def prove(self, method: str, sent: dict[str, Any], proof: Proof) -> None:
        """Carry out one method of `LOGIN`; raises Unauthorized unless it proves something."""
        await getattr(self, f"_by_{method}")(sent, proof)

    async def _by_password(self, sent: dict[str, Any], proof: Proof) -> None:
        if "user" not in sent:
            raise expecting("user", "password")
        named = sent["user"]
        user = await self.right_password(named, named.get("password") or "", proof.asked.address)
        compliance.refuse_expired(user)
        proof.methods.append("password")
        proof.says(user["id"])

    async def right_password(self, named: dict[str, Any], password: str, address: str) -> Row:
        """The enabled user with that password; raises Unauthorized, or TooMany for too many wrong ones."""
        key = guess_key(named)
        self._throttle.check(key, address)
        user = await self._naming.user(named)
        key = self._counted(user, key, address)
        if user is not None and "dn" in user:
            return await self._by_directory(user, password, key, address)
        known = user["password_hash"] if user is not None else None
        matches = await self._passwords.matches(password, known)
        locked = user is not None and compliance.is_locked(self._settings, user)
        if user is None or known is None or not matches or locked:
            self._throttle.failed(key, address)
            if user is not None and not locked:
                await compliance.record_failure(self._database, self._settings, user)
            raise Unauthorized
        self._throttle.passed(key, address)
        if not user["enabled"] or compliance.is_inactive(self._settings, user):
            raise Unauthorized
        await compliance.record_success(self._database, self._settings, user)
        if self._passwords.outdated(known):
            await self._renew(user["id"], known, password)
        return user

    async def _by_directory(self, user: Row, password: str, key: str, address: str) -> Row:
        """`right_password` for a user of a directory, which has rules of its own about passwords and locks."""
        if not await self._directories.check(user, password):
            self._throttle.failed(key, address)
            raise Unauthorized
        self._throttle.passed(key, address)
        if not user["enabled"]:
            raise Unauthorized
        return user

    def _counted(self, user: Row | None, key: str, address: str, kind: str = "") -> str:
        """By what guesses at a user are counted who turned out to be meant; raises TooMany.

        That is one count however the user is named (a directory tells no case
        apart); ``key`` is the one of a name that nobody has.
        """
        if user is None:
            return key
        key = f"{kind}{user['id']}"
        self._throttle.check(key, address)
        return key

    async def _renew(self, user_id: str, known: str, password: str) -> None:
        """Replace another maker's hash by ours, unless the password was changed meanwhile."""
        hashed = await self._passwords.hash(password)

        async def body(tx: Transaction) -> None:
            same = (USERS.c.id == user_id) & (USERS.c.password_hash == known)
            await tx.run(USERS.update().where(same).values(password_hash=hashed))

        await self._database.run(body)

    async def _by_totp(self, sent: dict[str, Any], proof: Proof) -> None:
        if "user" not in sent:
            raise expecting("user", "totp")
        named, address = sent["user"], proof.asked.address
        key = f"totp {guess_key(named)}"
        self._throttle.check(key, address)
        user = await self._naming.user(named)
        key = self._counted(user, key, address, "totp ")
        passcode = str(named.get("passcode") or "")
        seeds = [row["blob"] for row in await self._credentials.of_user(user["id"], TOTP)] if user is not None else []
        right = [totp.is_passcode(seed, passcode, self._settings.totp_windows) for seed in seeds]
        if user is None or not user["enabled"] or not any(right):
            self._throttle.failed(key, address)
            raise Unauthorized
        proof.methods.append("totp")
        proof.says(user["id"])

    async def _by_token(self, sent: dict[str, Any], proof: Proof) -> None:
        claims = (await self._tokens.read(sent.get("id", ""))).claims
        if claims.access_id is not None:
            raise forbidden_action(
                "Using OAuth-scoped token to create another token. Create a new OAuth-scoped token instead"
            )
        if claims.trust_id is not None:
            raise forbidden_action(
                "Using trust-scoped token to create another token. Create a new trust-scoped token instead"
            )
        if claims.scope == "s" and proof.scope in ("p", "d"):
            raise forbidden_action(
                "Using a system-scoped token to create a project-scoped or domain-scoped token is not allowed."
            )
        if claims.delegated:
            raise forbidden_action("Using a delegated token to create another token is not allowed.")
        if claims.scope and not self._settings.rescope_scoped_tokens:
            raise forbidden_action("rescope a scoped token")
        proof.methods += ["token", *claims.method_names]
        proof.parent = claims.parent or claims.audit
        proof.ends(claims.expires)
        proof.says(claims.user_id)

    async def _by_application_credential(self, sent: dict[str, Any], proof: Proof) -> None:
        table, address = APPLICATION_CREDENTIALS, proof.asked.address
        if sent.get("id"):
            key = str(sent["id"])
            row = await self._database.first(_CREDENTIAL, {"wanted": sent["id"]})
            if row is None:
                raise missing("Application Credential", sent["id"])
        else:
            if not sent.get("name"):
                raise expecting("name or ID", "application credential")
            if not sent.get("user"):
                raise expecting("user", "application credential")
            user = await self._naming.user(sent["user"])
            key = f"{guess_key(sent['user'])} {sent['name']}"
            named = (table.c.user_id == (user["id"] if user else "")) & (table.c.name == sent["name"])
            row = await self._database.first(select(table).where(named))
        key = f"credential {row['id'] if row is not None else key}"[:300]  # one count however it is named
        self._throttle.check(key, address)
        matches = await self._passwords.matches(sent.get("secret") or "", row["secret_hash"] if row else None)
        if row is None or not matches:
            self._throttle.failed(key, address)
            raise Unauthorized
        if row["expires_at"] is not None:
            if row["expires_at"] <= clock.now():
                raise Unauthorized
            proof.ends(min(row["expires_at"], clock.now() + self._settings.token_lifetime))
        proof.methods.append("application_credential")
        proof.credential = row
        proof.says(row["user_id"])

    async def _by_oauth1(self, sent: dict[str, Any], proof: Proof) -> None:
        asked = proof.asked
        row = await self._oauth1.proved(asked.url, asked.query, asked.authorization)
        if row["expires_at"] is not None:
            proof.ends(min(row["expires_at"], clock.now() + self._settings.token_lifetime))
        proof.methods.append("oauth1")
        proof.access = row
        proof.says(row["user_id"])

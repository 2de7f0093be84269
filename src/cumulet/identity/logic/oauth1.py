# SPDX-License-Identifier: Apache-2.0
"""OAuth 1.0a: a user lets a consumer (a program with a key of its own) act with some of its roles on a project.

Three steps: the consumer asks for a request token, the user authorizes it, the
consumer changes it for an access token; with that it signs its requests for
tokens. Invariant: secrets are kept encrypted, and a request token is good once.
"""

from __future__ import annotations

import hmac
import secrets
import string
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from sqlalchemy import select

from cumulet.identity.config import IdentitySettings
from cumulet.identity.errors import expecting, missing
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.keyring import Keyring
from cumulet.identity.logic.listing import Page, fetch, one, split
from cumulet.identity.logic.roles import RoleGraph
from cumulet.identity.logic.trusts import held_on, role_named
from cumulet.identity.models import ACCESS_TOKENS, CONSUMERS, PROJECTS, REQUEST_TOKENS
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Invalid, NotFound, Unauthorized

_VERIFIER = "".join(sorted({*string.ascii_letters, *string.digits} - {*"jiIl1oO0"}))
"""Without the letters that people take for one another: a verifier may be typed."""
_VERIFIER_LENGTH = 8
_SIGN = {
    "HMAC-SHA1": "sign_hmac_sha1_with_client",
    "HMAC-SHA256": "sign_hmac_sha256_with_client",
    "HMAC-SHA512": "sign_hmac_sha512_with_client",
    "PLAINTEXT": "sign_plaintext_with_client",
}
"""Method of a signature → the library's function for it."""
_NEEDED = ("oauth_signature", "oauth_consumer_key", "oauth_nonce", "oauth_timestamp", "oauth_signature_method")
_LIFETIME = 600
"""Seconds by which a signed request may be older, or newer, than our clock."""
_TIMESTAMP = 10
"""Digits of a moment in seconds."""


def header_members(authorization: str) -> dict[str, str]:
    """The ``oauth_…`` members of an Authorization header; raises Invalid for none."""
    kind, _, rest = authorization.partition(" ")
    if kind.lower() != "oauth":
        raise Invalid("Error retrieving OAuth headers: Missing authorization header.")
    members: dict[str, str] = {}
    for part in rest.split(","):
        name, equals, value = part.strip().partition("=")
        if equals:
            members[unquote(name)] = unquote(value.strip('"'))
    return members


def _refuse_odd(members: dict[str, str]) -> None:
    """Raise Invalid for a signed request that is incomplete, of no method that is known here, or too old."""
    when = members.get("oauth_timestamp", "")
    for odd, kind, told in (
        (not all(members.get(name) for name in _NEEDED), "request", "Missing mandatory OAuth parameters."),
        (members.get("oauth_signature_method") not in _SIGN, "signature_method", "Unknown signature method."),
        (members.get("oauth_version", "1.0") != "1.0", "request", "Invalid OAuth version."),
        (len(when) != _TIMESTAMP, "request", "Invalid timestamp size"),
        (not (when.isascii() and when.isdigit()), "request", "Timestamp must be an integer."),
    ):
        if odd:
            raise _odd(told, kind)
    if abs(clock.now() - int(when)) > _LIFETIME:
        raise _odd(f"Timestamp given is invalid, differ from allowed by over {_LIFETIME} seconds.")


def _odd(told: str, kind: str = "request") -> Invalid:
    return Invalid(f"Validation failed with errors: invalid_{kind}, detail message is: {told}.")


@dataclass(frozen=True)
class _Keys:
    """Both secrets of a signature, under the names that the library looks for."""

    client_secret: str
    resource_owner_secret: str


class OAuth1:
    """Consumers, request tokens and access tokens."""

    def __init__(self, database: Database, feed: Feed, keys: Keyring, settings: IdentitySettings) -> None:
        self._database, self._feed, self._keys, self._settings = database, feed, keys, settings

    def _secret(self, row: Row) -> str:
        opened = self._keys.open(row["sealed"])
        if opened is None:
            raise Unauthorized
        return opened.decode()

    def _check(
        self, method: str, url: str, members: dict[str, str], consumer: Row, token: Row | None, query: str = ""
    ) -> None:
        """Raise Unauthorized unless the request is signed with the secrets of the consumer and of the token."""
        from oauthlib.oauth1.rfc5849 import signature

        sign = getattr(signature, _SIGN[members["oauth_signature_method"]])
        signed = [(name, value) for name, value in members.items() if name not in ("oauth_signature", "realm")]
        try:
            signed += signature.collect_parameters(uri_query=query, exclude_oauth_signature=True)
            text = signature.signature_base_string(
                method, signature.base_string_uri(url), signature.normalize_parameters(signed)
            )
        except ValueError:
            raise Unauthorized from None
        made = sign(text, _Keys(self._secret(consumer), self._secret(token) if token is not None else ""))
        if not hmac.compare_digest(made.encode(), members["oauth_signature"].encode()):
            raise Unauthorized

    # ---- consumers

    async def list_consumers(self, page: Page) -> tuple[list[Row], bool]:
        return await fetch(self._database, select(CONSUMERS), CONSUMERS, page)

    async def show_consumer(self, consumer_id: str) -> Row:
        return await _one(self._database, CONSUMERS, consumer_id, "Consumer not found")

    async def create_consumer(self, sent: dict[str, Any]) -> tuple[Row, str]:
        """Make a consumer; returns it and, this once, its secret."""
        values, extra = split(sent, ("description", "secret"))
        secret = secrets.token_hex(16)
        row = {
            "id": ids.new_hex(),
            "description": values.get("description"),
            "sealed": self._keys.seal(secret.encode()),
            "extra": extra,
        }

        async def body(tx: Transaction) -> None:
            await tx.insert(CONSUMERS, row)

        await self._database.run(body)
        return row, secret

    async def update_consumer(self, consumer_id: str, sent: dict[str, Any]) -> Row:
        values, extra = split(sent, ("description",))

        async def body(tx: Transaction) -> Row:
            row = await _one(tx, CONSUMERS, consumer_id, "Consumer not found")
            new = {**row, **values, "extra": {**row["extra"], **extra}}
            await tx.run(CONSUMERS.update().where(CONSUMERS.c.id == consumer_id).values(new))
            return new

        return await self._database.run(body)

    async def delete_consumer(self, consumer_id: str) -> None:
        """Delete a consumer with all its tokens."""

        async def body(tx: Transaction) -> None:
            await _one(tx, CONSUMERS, consumer_id, "Consumer not found")
            await tx.run(CONSUMERS.delete().where(CONSUMERS.c.id == consumer_id))
            await self._feed.changed(tx)

        await self._database.run(body)

    # ---- request tokens

    async def request(self, url: str, query: str, authorization: str, project_id: str | None) -> tuple[Row, str]:
        """A new request token and its secret, for a signed request."""
        members = header_members(authorization)
        consumer_id = members.get("oauth_consumer_key")
        if not consumer_id:
            raise expecting("oauth_consumer_key", "request")
        if not project_id:
            raise expecting("Requested-Project-Id", "request")
        await one(self._database, PROJECTS, project_id, "project")
        consumer = await self.show_consumer(consumer_id)
        _refuse_odd(members)
        if not members.get("oauth_callback"):
            raise _odd("Missing callback URI.")
        self._check("POST", url, members, consumer, None, query)
        secret = secrets.token_hex(16)
        row = {
            "id": ids.new_hex(),
            "consumer_id": consumer_id,
            "project_id": project_id,
            "user_id": None,
            "sealed": self._keys.seal(secret.encode()),
            "verifier": None,
            "role_ids": None,
            "expires_at": _end(self._settings.request_token_lifetime),
        }

        async def body(tx: Transaction) -> None:
            await tx.insert(REQUEST_TOKENS, row)

        await self._database.run(body)
        return row, secret

    async def authorize(self, token_id: str, user_id: str, named: list[dict[str, str]], graph: RoleGraph) -> str:
        """The user lets the consumer of a request token have these roles; returns the verifier for the consumer."""
        row = await self._live(REQUEST_TOKENS, token_id, "Request token")
        role_ids = sorted({role_named(graph, role) for role in named})
        if not set(role_ids) <= set(graph.expand(await held_on(self._database, user_id, row["project_id"]))):
            raise Unauthorized
        verifier = "".join(secrets.choice(_VERIFIER) for _ in range(_VERIFIER_LENGTH))
        values = {"user_id": user_id, "verifier": verifier, "role_ids": role_ids}

        async def body(tx: Transaction) -> None:
            await tx.run(REQUEST_TOKENS.update().where(REQUEST_TOKENS.c.id == token_id).values(values))

        await self._database.run(body)
        return verifier

    # ---- access tokens

    async def exchange(self, url: str, query: str, authorization: str) -> tuple[Row, str]:
        """An access token and its secret for an authorized request token, which is good no more."""
        members = header_members(authorization)
        for name in ("oauth_consumer_key", "oauth_token", "oauth_verifier"):
            if not members.get(name):
                raise expecting(name, "request")
        row = await self._live(REQUEST_TOKENS, members["oauth_token"], "Request token")
        _refuse_odd(members)
        verifier = members["oauth_verifier"]
        if len(verifier) != _VERIFIER_LENGTH or not (verifier.isascii() and verifier.isalnum()):
            raise _odd("Invalid verifier format.")
        if row["consumer_id"] != members["oauth_consumer_key"] or row["user_id"] is None:
            raise Unauthorized
        if not hmac.compare_digest((row["verifier"] or "").encode(), verifier.encode()):
            raise Unauthorized
        self._check("POST", url, members, await self.show_consumer(row["consumer_id"]), row, query)
        secret = secrets.token_hex(16)
        made = {
            "id": ids.new_hex(),
            **{name: row[name] for name in ("consumer_id", "project_id", "user_id", "role_ids")},
            "sealed": self._keys.seal(secret.encode()),
            "expires_at": _end(self._settings.access_token_lifetime),
        }

        async def body(tx: Transaction) -> None:
            if not await tx.run(REQUEST_TOKENS.delete().where(REQUEST_TOKENS.c.id == row["id"])):
                raise Unauthorized
            await tx.insert(ACCESS_TOKENS, made)

        await self._database.run(body)
        return made, secret

    async def proved(self, url: str, query: str, authorization: str) -> Row:
        """The access token with which a request for a token is signed."""
        members = header_members(authorization)
        if not members.get("oauth_token"):
            raise expecting("oauth_token", "request")
        row = await self._live(ACCESS_TOKENS, members["oauth_token"], "Access token")
        try:
            _refuse_odd(members)
        except Invalid:
            raise Unauthorized from None
        if members.get("oauth_consumer_key") != row["consumer_id"]:
            raise Unauthorized
        self._check("POST", url, members, await self.show_consumer(row["consumer_id"]), row, query)
        return row

    async def _live(self, table: Any, token_id: str, noun: str) -> Row:
        row = await _one(self._database, table, token_id, f"{noun} not found")
        if row["expires_at"] is not None and row["expires_at"] <= clock.now():
            raise Unauthorized(f"{noun} is expired")
        return row

    async def list_access(self, user_id: str, page: Page) -> tuple[list[Row], bool]:
        statement = select(ACCESS_TOKENS).where(ACCESS_TOKENS.c.user_id == user_id)
        return await fetch(self._database, statement, ACCESS_TOKENS, page)

    async def show_access(self, user_id: str, token_id: str) -> Row:
        row = await _one(self._database, ACCESS_TOKENS, token_id, "Access token not found")
        if row["user_id"] != user_id:
            raise NotFound("Could not find, neither route nor resource.")
        return row

    async def show_role(self, user_id: str, token_id: str, role_id: str, graph: RoleGraph) -> Row:
        """One role of an access token; another user's is 401, as published."""
        row = await _one(self._database, ACCESS_TOKENS, token_id, "Access token not found")
        if row["user_id"] != user_id:
            raise Unauthorized("User IDs do not match")
        if role_id not in row["role_ids"] or role_id not in graph.by_id:
            raise missing("role", role_id)
        return graph.by_id[role_id]

    async def delete_access(self, user_id: str, token_id: str) -> None:
        """Take an access token back; the tokens made with it are void at once."""

        async def body(tx: Transaction) -> None:
            row = await _one(tx, ACCESS_TOKENS, token_id, "Access token not found")
            if row["user_id"] != user_id:
                raise Unauthorized("User IDs do not match")
            await tx.run(ACCESS_TOKENS.delete().where(ACCESS_TOKENS.c.id == token_id))
            await self._feed.changed(tx, user_id=user_id)

        await self._database.run(body)


def _end(seconds: int) -> float | None:
    return clock.now() + seconds if seconds else None


async def _one(reader: Database | Transaction, table: Any, id: str, told: str) -> Row:
    row = await reader.first(select(table).where(table.c.id == id))
    if row is None:
        raise NotFound(told)
    return row

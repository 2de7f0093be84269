# SPDX-License-Identifier: Apache-2.0
"""The inside of a token: a compact record under Fernet. Nothing that can change is in it, only ids.

Invariant: what a token says is looked up at its validation; the record fixes
who, where, until when, and which change was the newest when it was made.
"""

from __future__ import annotations

import base64
import os
import re

import msgspec

from cumulet.identity.logic.keyring import TOKENS, Keyring
from cumulet.kernel.secrets import SecretFile

METHODS = ("password", "token", "application_credential", "totp", "oauth1", "ec2credential", "mapped")
"""Their order is part of every token: new ones go to the end."""
LOGIN = ("password", "token", "application_credential", "totp", "oauth1")
"""The methods that a request for a token may name."""
PRIMARY = frozenset({"password", "token", "totp", "mapped"})
"""Methods by which a user proves who he is; a token of any other was made with something he handed out."""
LONGEST = 1024
"""Characters of the longest text that is looked at as a token."""
_HEX = re.compile(r"^[0-9a-f]{32}$")


class Claims(msgspec.Struct, array_like=True, frozen=True):
    """Who a token was made for. Times are whole seconds since the epoch."""

    version: int
    methods: int
    """Bits in the order of `METHODS`."""
    user: bytes
    scope: str
    """``p``roject, ``d``omain, ``s``ystem, or empty."""
    scope_of: bytes
    issued: int
    expires: int
    sequence: int
    """The number of the newest change before the proof of identity was looked at."""
    audit: bytes
    parent: bytes
    """The audit id of the first token of the chain, or empty."""
    credential: bytes = b""
    """The application credential, or empty."""
    trust: bytes = b""
    """The trust that the (trustee's) token is for, or empty."""
    access: bytes = b""
    """The OAuth1 access token, or empty."""

    @property
    def user_id(self) -> str:
        return unpack(self.user)

    @property
    def scope_id(self) -> str:
        return unpack(self.scope_of)

    @property
    def credential_id(self) -> str | None:
        return unpack(self.credential) or None

    @property
    def trust_id(self) -> str | None:
        return unpack(self.trust) or None

    @property
    def access_id(self) -> str | None:
        return unpack(self.access) or None

    @property
    def delegated(self) -> bool:
        """Whether the token was made with something that its user handed out, and not by the user's own proof."""
        return not self.methods or not PRIMARY.issuperset(self.method_names)

    @property
    def method_names(self) -> list[str]:
        return [name for bit, name in enumerate(METHODS) if self.methods >> bit & 1]

    @property
    def audit_ids(self) -> list[str]:
        """This token's audit id, and that of the first one of its chain."""
        return [audit_text(audit) for audit in (self.audit, self.parent) if audit]


def method_bits(names: list[str]) -> int:
    return sum(1 << METHODS.index(name) for name in set(names))


def pack(id: str) -> bytes:
    """The id, in half its size where it is of the common form; nothing stays nothing."""
    if not id:
        return b""
    return b"#" + bytes.fromhex(id) if _HEX.match(id) else b"=" + id.encode()


def unpack(packed: bytes) -> str:
    return packed[1:].hex() if packed[:1] == b"#" else packed[1:].decode()


def audit_text(audit: bytes) -> str:
    return base64.urlsafe_b64encode(audit).decode().rstrip("=")


def new_audit() -> bytes:
    return os.urandom(16)


class Sealer:
    """Turns claims into tokens and back."""

    def __init__(self, secrets: SecretFile) -> None:
        self.keys = Keyring(secrets, TOKENS)

    def seal(self, claims: Claims) -> str:
        return self.keys.seal(msgspec.msgpack.encode(claims))

    def open(self, token: str) -> Claims | None:
        """The claims, or None for anything that we did not make."""
        if len(token) > LONGEST or not token.isascii():
            return None
        sealed = self.keys.open(token)
        if sealed is None:
            return None
        try:
            claims = msgspec.msgpack.decode(sealed, type=Claims)
        except msgspec.DecodeError:
            return None
        return claims if claims.version == 1 else None

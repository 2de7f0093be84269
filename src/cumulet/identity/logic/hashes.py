# SPDX-License-Identifier: Apache-2.0
"""Password hashes of other makers: what an operator brings from an existing Keystone goes on working.

They are verified, never made: a login replaces one by our own. A hash that is
not understood, or whose cost is beyond reason, matches nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

_BCRYPT_BYTES = 72
_LIMIT = 512 * 1024 * 1024
"""Bytes of memory that a foreign scrypt hash may cost."""


def _plain(text: str) -> bytes:
    """Base64 as these hashes write it: without padding, sometimes with ``.`` for ``+``."""
    return base64.b64decode(text.replace(".", "+") + "=" * (-len(text) % 4), validate=True)


def _options(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(","))


def _bcrypt(password: bytes, known: str) -> bool:
    import bcrypt

    return bcrypt.checkpw(password[:_BCRYPT_BYTES], known.encode())


def _bcrypt_sha256(password: bytes, known: str) -> bool:
    _, _, options, salt, digest = known.split("$")
    chosen = _options(options)
    mixed = base64.b64encode(hmac.digest(salt.encode(), password, "sha256"))
    return _bcrypt(mixed, f"${chosen['t']}${int(chosen['r']):02d}${salt}{digest}")


def _scrypt(password: bytes, known: str) -> bool:
    _, _, options, salt, digest = known.split("$")
    chosen = {name: int(value) for name, value in _options(options).items()}
    cost = {"n": 1 << chosen["ln"], "r": chosen["r"], "p": chosen["p"]}
    made = hashlib.scrypt(password, salt=_plain(salt), maxmem=_LIMIT, dklen=32, **cost)
    return hmac.compare_digest(made, _plain(digest))


def _pbkdf2(password: bytes, known: str) -> bool:
    _, _, rounds, salt, digest = known.split("$")
    made = hashlib.pbkdf2_hmac("sha512", password, _plain(salt), int(rounds), 64)
    return hmac.compare_digest(made, _plain(digest))


_KINDS: dict[str, Callable[[bytes, str], bool]] = {
    "2": _bcrypt, "2a": _bcrypt, "2b": _bcrypt, "2x": _bcrypt, "2y": _bcrypt,
    "bcrypt-sha256": _bcrypt_sha256, "scrypt": _scrypt, "pbkdf2-sha512": _pbkdf2,
}  # fmt: skip


def matches(password: str, known: str) -> bool:
    """Whether the password is that of a foreign hash. Slow by intention."""
    kind = known.split("$", 2)[1:2]
    check = _KINDS.get(kind[0]) if kind else None
    if check is None:
        return False
    try:
        return check(password.encode(), known)
    except (ValueError, KeyError, OverflowError, MemoryError):
        return False

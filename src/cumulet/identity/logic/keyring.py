# SPDX-License-Identifier: Apache-2.0
"""Keys that seal what identity gives away or keeps: the newest one seals, all kept ones open.

Invariant: a rotation needs no restart. Every process looks whether the file of
secrets changed before it seals, and again before it calls a text not its own.
"""

from __future__ import annotations

import base64
import os

from cumulet.kernel import clock
from cumulet.kernel.secrets import SecretFile

TOKENS, RECEIPTS, CREDENTIALS = "identity:token-keys", "identity:receipt-keys", "identity:credential-keys"
KEPT = 3
"""Keys that stay readable: what was sealed outlives two rotations."""


class Keyring:
    """The keys of one purpose under their name in the file of secrets."""

    def __init__(self, secrets: SecretFile, name: str) -> None:
        self._secrets, self._name = secrets, name
        self._load()

    def _load(self) -> None:
        from cryptography.fernet import Fernet, MultiFernet

        self._fernet = MultiFernet([Fernet(key + "=") for key in self._secrets.get(self._name).split(",")])

    def seal(self, data: bytes) -> str:
        if self._secrets.refresh():
            self._load()
        return self._fernet.encrypt_at_time(data, int(clock.now())).decode().rstrip("=")

    def open(self, sealed: str) -> bytes | None:
        """What was sealed, or None for anything that these keys did not seal."""
        found = self._open(sealed)
        if found is None and self._secrets.refresh():
            self._load()
            found = self._open(sealed)
        return found

    def _open(self, sealed: str) -> bytes | None:
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(sealed + "=" * (-len(sealed) % 4))
        except InvalidToken:
            return None


def rotate(secrets: SecretFile, name: str = TOKENS, *, kept: int = KEPT) -> int:
    """Put a new key in front; running processes take it up. Returns how many keys open from now on."""
    secrets.refresh()
    keys = [base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("="), *secrets.get(name).split(",")][:kept]
    secrets.put(name, ",".join(keys))
    return len(keys)

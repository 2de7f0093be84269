# SPDX-License-Identifier: Apache-2.0
"""Passwords: Argon2id in a bounded pool, and the same work whether or not the user exists.

Invariant: no password is ever kept, logged or compared in any other way.
"""

from __future__ import annotations

import os

from cumulet.identity.config import IdentitySettings
from cumulet.identity.logic import hashes
from cumulet.kernel.pools import Pool

LONGEST = 4096
"""Bytes of the longest password that is hashed at all."""
_GENERATED = (8, 1)
"""Memory (KiB) and passes for secrets with 256 bits of entropy: nobody can guess those at any speed."""


class Passwords:
    """Makes and checks password hashes; one thread per core, so a flood of logins delays logins only."""

    def __init__(self, settings: IdentitySettings, *, threads: int | None = None) -> None:
        self.settings = settings
        self._strong = (settings.hash_memory_kib, settings.hash_passes)
        self._ours = tuple(f"$argon2id$v=19$m={m},t={t},p=1$" for m, t in (self._strong, _GENERATED))
        self._pool = Pool("hash", (os.cpu_count() or 1) if threads is None else threads)
        self._nobody: str | None = None

    async def hash(self, password: str, *, generated: bool = False) -> str:
        """The hash of a password in PHC form; ``generated`` says that it is a random secret of ours."""
        memory, passes = _GENERATED if generated else self._strong
        return await self._pool.run(_hash, password, memory, passes)

    async def matches(self, password: str, known: str | None) -> bool:
        """Whether the password is the hashed one; takes as long without a hash (``None``: no such user)."""
        if known is None:
            if self._nobody is None:
                self._nobody = await self.hash("")
            await self._pool.run(_matches, password, self._nobody)
            return False
        return await self._pool.run(_matches, password, known)

    def outdated(self, known: str) -> bool:
        """Whether the hash is another maker's or made with other parameters than those of now."""
        return not known.startswith(self._ours)

    def close(self) -> None:
        self._pool.close()


def _hash(password: str, memory: int, passes: int) -> str:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    salt = os.urandom(16)
    made = Argon2id(salt=salt, length=32, iterations=passes, lanes=1, memory_cost=memory)
    return made.derive_phc_encoded(password.encode())


def _matches(password: str, known: str) -> bool:
    from cryptography.exceptions import InvalidKey
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    if len(password) > LONGEST:
        password = ""  # no such password was ever taken
    if not known.startswith("$argon2"):
        return hashes.matches(password, known)
    try:
        Argon2id.verify_phc_encoded(password.encode(), known)
    except InvalidKey:
        return False
    return True

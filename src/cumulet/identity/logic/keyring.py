# SPDX-License-Identifier: Apache-2.0
"""Keys that seal what identity gives away or keeps: the newest one seals, all kept ones open.

The first key of each purpose is in the file of secrets; rotations put newer
ones for tokens into the database, themselves sealed by a secret of that file.
Invariant: a rotation is a change as any other, so every process takes up the
new key before it looks at, or makes, the next token; nothing is restarted.
"""

from __future__ import annotations

import base64
import os

from sqlalchemy import func, select

from cumulet.identity.logic.feed import Feed
from cumulet.identity.models import TOKEN_KEYS
from cumulet.kernel import clock
from cumulet.kernel.db import Database, Transaction
from cumulet.kernel.secrets import Seal, SecretFile

TOKENS, RECEIPTS, CREDENTIALS = "identity:token-keys", "identity:receipt-keys", "identity:credential-keys"
KEPT = 3
"""Keys that stay readable: what was sealed outlives two rotations."""


class Keyring:
    """The keys of one purpose under their name in the file of secrets."""

    def __init__(self, secrets: SecretFile, name: str) -> None:
        self._first = secrets.get(name).split(",")
        self._seal = Seal(secrets.get("seal"))
        self._newer: list[str] = []
        self._load()

    def _load(self) -> None:
        from cryptography.fernet import Fernet, MultiFernet

        keys = [*self._newer, *self._first][:KEPT]
        self._fernet = MultiFernet([Fernet(key + "=") for key in keys])

    async def refresh(self, database: Database) -> None:
        """Take up the keys that rotations have made."""
        newest = select(TOKEN_KEYS.c.sealed).order_by(TOKEN_KEYS.c.number.desc()).limit(KEPT)
        sealed = [row["sealed"] for row in await database.all(newest, point=True)]
        newer = [key for one in sealed if (key := self._seal.open(one)) is not None]
        if newer != self._newer:
            self._newer = newer
            self._load()

    async def rotate(self, database: Database, feed: Feed) -> int:
        """Put a new key in front. Returns how many keys open from then on."""
        sealed = self._seal.close(base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("="))
        table = TOKEN_KEYS

        async def body(tx: Transaction) -> int:
            row = await tx.first(select(func.max(table.c.number).label("number")))
            number = (row["number"] or 0 if row is not None else 0) + 1
            await tx.insert(table, {"number": number, "sealed": sealed, "made_at": clock.now()})
            await tx.run(table.delete().where(table.c.number <= number - KEPT))
            await feed.changed(tx)
            return min(KEPT, number + len(self._first))

        return await database.run(body)

    def seal(self, data: bytes) -> str:
        return self._fernet.encrypt_at_time(data, int(clock.now())).decode().rstrip("=")

    def open(self, sealed: str) -> bytes | None:
        """What was sealed, or None for anything that these keys did not seal."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(sealed + "=" * (-len(sealed) % 4))
        except InvalidToken:
            return None

# SPDX-License-Identifier: Apache-2.0
"""Credentials that users keep here: EC2 keys, TOTP seeds, and whatever else they call by a type.

Invariant: the credential itself is in the database only encrypted; its key is
in the file of secrets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import orjson
from sqlalchemy import select

from cumulet.identity.errors import expecting, taken
from cumulet.identity.logic.keyring import Keyring
from cumulet.identity.logic.listing import Page, fetch, one, split
from cumulet.identity.models import CREDENTIALS
from cumulet.kernel import ids
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Invalid

Reader = Database | Transaction
EC2, TOTP = "ec2", "totp"
_BOUND = ("trust_id", "app_cred_id", "access_token_id", "access_id")
"""What an EC2 credential was made under, which never changes."""
_SENT = ("blob", "type", "user_id", "project_id")


def access_id(access: str) -> str:
    """The id of the EC2 credential with an access key."""
    return hashlib.sha256(access.encode()).hexdigest()


class SealedCredentials:
    """The table of credentials; rows that it gives have their content as ``blob``."""

    def __init__(self, database: Database, keys: Keyring) -> None:
        self._database, self._keys = database, keys

    def _opened(self, row: Row) -> Row:
        sealed = self._keys.open(row["sealed"])
        # sealed under a key that is gone: the credential is known, but good for nothing
        return {**row, "blob": sealed.decode() if sealed is not None else ""}

    async def list(self, page: Page) -> tuple[list[Row], bool]:
        rows, more = await fetch(self._database, select(CREDENTIALS), CREDENTIALS, page)
        return [self._opened(row) for row in rows], more

    async def of_user(self, user_id: str, type: str) -> Iterable[Row]:
        table = CREDENTIALS.c
        rows = await self._database.all(select(CREDENTIALS).where(table.user_id == user_id, table.type == type))
        return [self._opened(row) for row in rows]

    async def show(self, credential_id: str) -> Row:
        return self._opened(await one(self._database, CREDENTIALS, credential_id, "credential"))

    async def create(self, sent: dict[str, Any]) -> Row:
        """Keep a credential; an EC2 one gets the id of its access key. Raises Conflict for one that is there."""
        values, extra = split(sent, _SENT)
        row = {
            "id": ids.new_hex(),
            "user_id": values["user_id"],
            "project_id": values.get("project_id"),
            "type": values["type"],
            "sealed": self._keys.seal(values["blob"].encode()),
            "extra": extra,
        }
        if values["type"].lower() == EC2:
            row["id"] = access_id(ec2_content(values["blob"])["access"])

        async def body(tx: Transaction) -> None:
            await tx.insert(CREDENTIALS, row)

        try:
            await self._database.run(body)
        except Duplicate:
            raise taken("credential", f"Duplicate entry found with ID {row['id']}") from None
        return {**row, "blob": values["blob"]}

    async def update(self, credential_id: str, blob: str) -> Row:
        """Replace the content; what an EC2 credential was made under stays."""
        row = await self.show(credential_id)
        if row["type"].lower() == EC2:
            new, old = ec2_content(blob), ec2_content(row["blob"])
            for name in _BOUND:
                if new.get(name) != old.get(name):
                    raise Invalid(f"{name} can not be updated for credential")
        sealed = self._keys.seal(blob.encode())

        async def body(tx: Transaction) -> None:
            await one(tx, CREDENTIALS, credential_id, "credential")
            await tx.run(CREDENTIALS.update().where(CREDENTIALS.c.id == credential_id).values(sealed=sealed))

        await self._database.run(body)
        return {**row, "blob": blob}

    async def delete(self, credential_id: str) -> None:
        async def body(tx: Transaction) -> None:
            await one(tx, CREDENTIALS, credential_id, "credential")
            await tx.run(CREDENTIALS.delete().where(CREDENTIALS.c.id == credential_id))

        await self._database.run(body)


async def forget(tx: Transaction, *, users: Any = None, project_id: str | None = None) -> None:
    """Delete the credentials of users (a list of ids, or a statement for them) or of a project that goes away."""
    table = CREDENTIALS
    wanted = table.c.user_id.in_(users) if users is not None else table.c.project_id == project_id
    await tx.run(table.delete().where(wanted))


def ec2_content(blob: str) -> dict[str, Any]:
    """The access key and secret in the content of an EC2 credential; raises Invalid for anything else."""
    try:
        content = orjson.loads(blob)
    except orjson.JSONDecodeError:
        raise Invalid("Invalid blob in credential") from None
    if not content or not isinstance(content, dict):
        raise expecting("blob", "credential")
    if not isinstance(content.get("access"), str):
        raise expecting("access", "credential")
    return content

# SPDX-License-Identifier: Apache-2.0
"""Which of our users foreign identity providers know, and by what name.

Invariant: what one provider calls by one name in one protocol is one user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, select

from cumulet.identity.errors import taken
from cumulet.identity.models import FEDERATED_USERS, IDENTITY_PROVIDERS, PROTOCOLS, USERS
from cumulet.kernel.db import Database, Duplicate, Transaction
from cumulet.kernel.errors import Invalid

Reader = Database | Transaction
Names = list[dict[str, Any]]
"""As published: for each provider its ``idp_id`` and ``protocols``, each a ``protocol_id`` and ``unique_id``."""
FILTERS = ("idp_id", "protocol_id", "unique_id")


async def names_of(reader: Reader, user_id: str) -> Names:
    """The names of one user."""
    table = FEDERATED_USERS.c
    rows = await reader.all(
        select(FEDERATED_USERS)
        .where(table.user_id == user_id)
        .order_by(table.idp_id, table.protocol_id, table.unique_id)
    )
    by_provider: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        name = {"protocol_id": row["protocol_id"], "unique_id": row["unique_id"]}
        by_provider.setdefault(row["idp_id"], []).append(name)
    return [{"idp_id": idp_id, "protocols": protocols} for idp_id, protocols in by_provider.items()]


async def rename(tx: Transaction, user_id: str, names: Names) -> None:
    """Give a user these names instead of those that he had; none changes nothing, as published.

    Raises Invalid for a provider or protocol that is not there, and Conflict for a name of somebody else.
    """
    if not names:
        return
    await tx.run(FEDERATED_USERS.delete().where(FEDERATED_USERS.c.user_id == user_id))
    for provider in names:
        idp_id = provider["idp_id"]
        if await tx.first(select(IDENTITY_PROVIDERS.c.id).where(IDENTITY_PROVIDERS.c.id == idp_id)) is None:
            raise Invalid(f"Could not find Identity Provider: {idp_id}")
        for protocol in provider["protocols"]:
            known = (PROTOCOLS.c.idp_id == idp_id) & (PROTOCOLS.c.id == protocol["protocol_id"])
            if await tx.first(select(PROTOCOLS.c.id).where(known)) is None:
                raise Invalid(
                    f"Could not find federated protocol {protocol['protocol_id']} for Identity Provider: {idp_id}."
                )
            row = {"idp_id": idp_id, "user_id": user_id, **protocol}
            try:
                await tx.insert(FEDERATED_USERS, row)
            except Duplicate:
                raise taken("federated_user", "Duplicate entry") from None


def known_by(statement: Select[Any], wished: Mapping[str, str]) -> Select[Any]:
    """The users of ``statement`` that have a name with these parts (some of `FILTERS`)."""
    if not wished:
        return statement
    named = select(FEDERATED_USERS.c.user_id)
    for part, value in wished.items():
        named = named.where(FEDERATED_USERS.c[part] == value)
    return statement.where(USERS.c.id.in_(named))

# SPDX-License-Identifier: Apache-2.0
"""A user changes its own password, also one that has expired."""

from __future__ import annotations

from typing import Any

from cumulet.identity.logic import compliance
from cumulet.identity.logic.directories import refuse_write
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.methods import Methods
from cumulet.identity.logic.passwords import Passwords
from cumulet.identity.logic.users import show_user
from cumulet.identity.models import USERS
from cumulet.kernel.db import Database, Transaction
from cumulet.kernel.errors import Invalid, Unauthorized


async def change_password(
    database: Database,
    feed: Feed,
    passwords: Passwords,
    methods: Methods,
    user_id: str,
    sent: dict[str, Any],
    address: str,
) -> None:
    """A user changes its own password; raises Unauthorized unless ``original_password`` is right (expired is fine)."""
    original, new, settings = sent["original_password"], sent["password"], passwords.settings
    row = await methods.right_password({"id": user_id}, original, address)
    if "dn" in row:
        raise refuse_write()
    compliance.require_strength(settings, new)
    if row["options"].get("lock_password"):
        raise Invalid(
            "You cannot change your password at this time due to password policy disallowing password changes."
            " Please contact your administrator to reset your password."
        )
    compliance.require_age(settings, row)
    row = await show_user(database, user_id)  # its hash may have been renewed just now
    await compliance.require_unused(database, passwords, row, new)
    values = {"password_hash": await passwords.hash(new), **compliance.fresh(settings, row["options"], own=True)}

    async def body(tx: Transaction) -> None:
        sequence = await feed.changed(tx, void=True, user_id=user_id)
        same = (USERS.c.id == user_id) & (USERS.c.password_hash == row["password_hash"])
        await compliance.remember(tx, settings, row)
        if not await tx.run(USERS.update().where(same).values(voided=sequence, **values)):
            raise Unauthorized  # another change came first: the original is not right any more

    await database.run(body)

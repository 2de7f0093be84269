# SPDX-License-Identifier: Apache-2.0
"""The operator's rules about passwords and accounts: strength, age, history, lockout, inactivity.

Each rule is off until its setting says otherwise; a user's own options take
single users out of some of them.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import func, select

from cumulet.identity.config import IdentitySettings
from cumulet.identity.errors import AuthenticationTold
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.passwords import Passwords
from cumulet.identity.models import DIRECTORY_IDS, OLD_PASSWORDS, USERS
from cumulet.kernel import clock
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Invalid

DAY = 86_400.0


def require_strength(settings: IdentitySettings, password: str | None) -> None:
    """Raise Invalid for a password that the operator's pattern does not match."""
    pattern = settings.password_regex
    if password is not None and pattern and not re.match(pattern, password):
        told = settings.password_regex_description
        raise Invalid(f"The password does not match the requirements: {told}.")


def fresh(settings: IdentitySettings, options: dict[str, Any], *, own: bool) -> dict[str, Any]:
    """The columns of a new password; ``own``: the user chose it itself."""
    now = clock.now()
    expires: float | None = None
    if settings.password_expires_days and not options.get("ignore_password_expiry"):
        expires = float(int(now + settings.password_expires_days * DAY))
    exempt = options.get("ignore_change_password_upon_first_use")
    if not own and settings.change_password_upon_first_use and not exempt:
        expires = now
    return {"password_changed_at": now, "password_expires_at": expires, "password_own": own}


def is_expired(user: Row) -> bool:
    expires = user["password_expires_at"]
    return expires is not None and expires <= clock.now() and not user["options"].get("ignore_password_expiry")


def refuse_expired(user: Row) -> None:
    if is_expired(user):
        raise AuthenticationTold(f"The password is expired and needs to be changed for user: {user['id']}.")


def require_age(settings: IdentitySettings, user: Row) -> None:
    """Raise Invalid when the user chose its password so lately that it may not choose again."""
    days = settings.minimum_password_age
    if not days or not user["password_own"] or user["password_changed_at"] is None:
        return
    left = user["password_changed_at"] + days * DAY - clock.now()
    if left > 0:
        raise Invalid(
            "You cannot change your password at this time due to the minimum password age. Once you change your"
            f" password, it must be used for {days} day(s) before it can be changed. Please try again in"
            f" {int(left // DAY)} day(s) or contact your administrator to reset your password."
        )


async def require_unused(database: Database, passwords: Passwords, user: Row, password: str) -> None:
    """Raise Invalid for one of the user's last passwords."""
    count = passwords.settings.unique_last_password_count
    if not count:
        return
    table = OLD_PASSWORDS.c
    kept = select(table.password_hash).where(table.user_id == user["id"]).order_by(table.made_at.desc())
    known = [user["password_hash"], *(row["password_hash"] for row in await database.all(kept.limit(count - 1)))]
    for one in known:
        if one is not None and await passwords.matches(password, one):
            raise Invalid(
                "The new password cannot be identical to a previous password. The total number which includes the new"
                f" password must be unique is {count}."
            )


async def remember(tx: Transaction, settings: IdentitySettings, user: Row) -> None:
    """Keep the password that is about to be replaced, as far as the history reaches."""
    table, count = OLD_PASSWORDS, settings.unique_last_password_count
    mine = table.c.user_id == user["id"]
    rows = await tx.all(select(table.c.made_at).where(mine).order_by(table.c.made_at.desc()))
    times: list[float] = [row["made_at"] for row in rows]
    if count and user["password_hash"] is not None:
        times.insert(
            0, max([clock.now(), *(time + 0.001 for time in times[:1])])
        )  # two changes at once keep their order
        row = {"user_id": user["id"], "made_at": times[0], "password_hash": user["password_hash"]}
        await tx.insert(table, row)
    for time in times[max(count - 1, 0) :]:
        await tx.run(table.delete().where(mine, table.c.made_at == time))


# ---- accounts


def is_locked(settings: IdentitySettings, user: Row) -> bool:
    """Whether too many wrong passwords came lately."""
    limit = settings.lockout_failure_attempts
    if not limit or (user["failures"] or 0) < limit or user["options"].get("ignore_lockout_failure_attempts"):
        return False
    return not settings.lockout_duration or (user["failed_at"] or 0.0) + settings.lockout_duration > clock.now()


async def record_failure(database: Database, settings: IdentitySettings, user: Row) -> None:
    """Count a wrong password; the first one after a lockout has ended counts as one again."""
    if not settings.lockout_failure_attempts:
        return
    ended = (user["failures"] or 0) >= settings.lockout_failure_attempts
    count = 1 if ended else func.coalesce(USERS.c.failures, 0) + 1

    async def body(tx: Transaction) -> None:
        await tx.run(USERS.update().where(USERS.c.id == user["id"]).values(failures=count, failed_at=clock.now()))

    await database.run(body, durable=False)


async def record_success(database: Database, settings: IdentitySettings, user: Row) -> None:
    """Forget wrong passwords, and remember the day where inactivity counts."""
    values: dict[str, Any] = {}
    if user["failures"]:
        values |= {"failures": 0, "failed_at": None}
    if settings.disable_user_account_days_inactive and (user["last_active_at"] or 0.0) // DAY != clock.now() // DAY:
        values["last_active_at"] = clock.now()
    if not values:
        return

    async def body(tx: Transaction) -> None:
        await tx.run(USERS.update().where(USERS.c.id == user["id"]).values(values))

    await database.run(body, durable=False)


def is_inactive(settings: IdentitySettings, user: Row) -> bool:
    """Whether the account has not been used for so long that it counts as disabled."""
    days = settings.disable_user_account_days_inactive
    if not days or user["options"].get("ignore_user_inactivity"):
        return False
    last: float = user["last_active_at"] or user["created_at"]
    return clock.now() // DAY - last // DAY >= days


async def disable_inactive(database: Database, feed: Feed, settings: IdentitySettings) -> None:
    """Disable every account that nobody used for as long as the operator allows."""
    if not settings.disable_user_account_days_inactive:
        return
    own = USERS.c.id.not_in(select(DIRECTORY_IDS.c.id))  # a directory says itself who is enabled
    for user in await database.all(select(USERS).where(USERS.c.enabled.is_(True), own)):
        if is_inactive(settings, user):
            await _disable(database, feed, user["id"])


async def _disable(database: Database, feed: Feed, user_id: str) -> None:
    async def body(tx: Transaction) -> None:
        sequence = await feed.changed(tx, void=True, user_id=user_id)
        await tx.run(USERS.update().where(USERS.c.id == user_id).values(enabled=False, voided=sequence))

    await database.run(body)

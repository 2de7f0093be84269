# SPDX-License-Identifier: Apache-2.0
"""The operator's rules about passwords and accounts, each alone, with time in the test's hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cumulet.identity.bootstrap import bootstrap
from cumulet.identity.config import IdentitySettings
from cumulet.identity.logic import Identity, own_password, users
from cumulet.identity.logic.compliance import DAY
from cumulet.identity.logic.methods import Asked
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Fault, Invalid, TooMany, Unauthorized
from tests.services.identity.conftest import make_identity, password_auth

Make = Callable[..., Awaitable[Identity]]


@pytest.fixture
def time() -> clock.FakeClock:
    fake = clock.FakeClock()
    clock.use(fake)
    return fake


@pytest.fixture
async def make(tmp_path: Path, time: clock.FakeClock) -> AsyncIterator[Make]:
    """Makes an identity with the named settings and the user ``ann`` with the password ``first1``."""
    made: list[tuple[Identity, Any]] = []

    async def build(options: dict[str, Any] | None = None, **settings: Any) -> Identity:
        chosen = IdentitySettings(hash_memory_kib=8, hash_passes=1, **settings)
        identity, database = await make_identity(tmp_path, chosen)
        made.append((identity, database))
        await bootstrap(identity, password="pw", service_passwords={}, region="RegionOne")
        sent = {"name": "ann", "domain_id": "default", "password": "first1", "options": options or {}}
        await users.create_user(identity.database, identity.passwords, sent)
        return identity

    yield build
    for identity, database in made:
        identity.passwords.close()
        await database.close()


async def _ann(identity: Identity) -> Row:
    row = await identity.methods._naming.user({"name": "ann", "domain": {"id": "default"}})
    assert row is not None
    return row


async def _login(identity: Identity, password: str, address: str = "") -> str | None:
    """None for success, else what was told."""
    try:
        await identity.authentication.authenticate(password_auth("ann", password=password), Asked(address=address))
    except Fault as fault:
        return fault.message
    return None


async def _set(identity: Identity, **sent: Any) -> None:
    """As an admin does."""
    user_id = (await _ann(identity))["id"]
    await users.update_user(identity.database, identity.feed, identity.passwords, user_id, sent)


async def _change(identity: Identity, original: str, new: str) -> None:
    """As the user itself does."""
    user_id, sent = (await _ann(identity))["id"], {"original_password": original, "password": new}
    parts = identity.database, identity.feed, identity.passwords, identity.methods
    await own_password.change_password(*parts, user_id, sent, "")


_REFUSED = "The request you have made requires authentication."


async def test_an_account_is_locked_and_opens_again(make: Make, time: clock.FakeClock) -> None:
    identity = await make(lockout_failure_attempts=3, lockout_duration=600)
    for _ in range(2):
        assert await _login(identity, "wrong") == _REFUSED
    assert await _login(identity, "first1") is None  # a right one starts the count anew
    for _ in range(3):
        assert await _login(identity, "wrong") == _REFUSED
    assert await _login(identity, "first1") == _REFUSED  # it is not told that this one was right
    with pytest.raises(Unauthorized):
        await _change(identity, "first1", "second2")
    await time.advance(590)
    assert await _login(identity, "first1") == _REFUSED
    await time.advance(11)
    assert await _login(identity, "wrong") == _REFUSED  # the first of a new count
    assert await _login(identity, "first1") is None


async def test_a_lock_without_end_is_opened_by_an_admin(make: Make, time: clock.FakeClock) -> None:
    identity = await make(lockout_failure_attempts=1, lockout_duration=0)
    await _login(identity, "wrong")
    await time.advance(10 * DAY)
    assert await _login(identity, "first1") == _REFUSED
    await _set(identity, enabled=True)
    assert await _login(identity, "first1") is None


async def test_who_ignores_lockouts_is_never_locked(make: Make) -> None:
    identity = await make({"ignore_lockout_failure_attempts": True}, lockout_failure_attempts=1)
    await _login(identity, "wrong")
    assert await _login(identity, "first1") is None


async def test_a_password_ends_and_its_user_may_only_change_it(make: Make, time: clock.FakeClock) -> None:
    identity = await make(password_expires_days=30)
    ann = await _ann(identity)
    assert ann["password_expires_at"] == int(time.now() + 30 * DAY)
    assert await _login(identity, "first1") is None
    await time.advance(30 * DAY)
    expired = f"The password is expired and needs to be changed for user: {ann['id']}."
    assert await _login(identity, "first1") == expired
    assert await _login(identity, "wrong") == _REFUSED
    await _change(identity, "first1", "second2")
    assert await _login(identity, "second2") is None
    await time.advance(30 * DAY)
    await _set(identity, options={"ignore_password_expiry": True})
    assert await _login(identity, "second2") is None


async def test_an_admins_password_is_for_the_first_use_only(make: Make) -> None:
    identity = await make(change_password_upon_first_use=True)
    assert "is expired and needs to be changed" in str(await _login(identity, "first1"))
    await _change(identity, "first1", "second2")
    assert await _login(identity, "second2") is None
    await _set(identity, password="third3")
    assert await _login(identity, "third3") not in (None, _REFUSED)
    await _set(identity, password="fourth4", options={"ignore_change_password_upon_first_use": True})
    assert await _login(identity, "fourth4") is None


async def test_the_last_passwords_are_not_chosen_again(make: Make) -> None:
    identity = await make(unique_last_password_count=3)
    for number, new in enumerate(("p2", "p3", "p4")):
        old = ("first1", "p2", "p3")[number]
        with pytest.raises(Invalid, match=r"cannot be identical to a previous password.* must be unique is 3\."):
            await _change(identity, old, old)
        await _change(identity, old, new)
    for used in ("p2", "p3", "p4"):
        with pytest.raises(Invalid):
            await _change(identity, "p4", used)
    await _change(identity, "p4", "first1")
    await _set(identity, password="p4")  # an admin may
    assert await _login(identity, "p4") is None


async def test_a_chosen_password_stays_a_while(make: Make, time: clock.FakeClock) -> None:
    identity = await make(minimum_password_age=2)
    await _change(identity, "first1", "second2")  # an admin's password may go at once
    await time.advance(1)
    with pytest.raises(Invalid, match=r"it must be used for 2 day\(s\) .* try again in 1 day\(s\)"):
        await _change(identity, "second2", "third3")
    await time.advance(2 * DAY)
    await _change(identity, "second2", "third3")


async def test_a_weak_password_is_told_what_it_lacks(make: Make) -> None:
    identity = await make(password_regex=r"^(?=.*\d)(?=.*[a-z]).{6,}$", password_regex_description="six with a digit")
    told = r"The password does not match the requirements: six with a digit\."
    with pytest.raises(Invalid, match=told):
        await _change(identity, "first1", "weak")
    with pytest.raises(Invalid, match=told):
        await _set(identity, password="weak")
    sent = {"name": "bob", "domain_id": "default", "password": "weak"}
    with pytest.raises(Invalid, match=told):
        await users.create_user(identity.database, identity.passwords, sent)
    await _change(identity, "first1", "strong1")


async def test_a_locked_password_stays(make: Make) -> None:
    identity = await make({"lock_password": True})
    with pytest.raises(Invalid, match="You cannot change your password at this time due to password policy"):
        await _change(identity, "first1", "second2")


async def test_an_account_that_nobody_uses_is_disabled(make: Make, time: clock.FakeClock) -> None:
    identity = await make(disable_user_account_days_inactive=10)
    await time.advance(9 * DAY)
    assert await _login(identity, "first1") is None
    await time.advance(9 * DAY)
    assert await _login(identity, "first1") is None  # the last login counts
    token, _ = await identity.authentication.authenticate(password_auth("ann", password="first1"))
    await time.advance(10 * DAY)
    assert await _login(identity, "first1") == _REFUSED
    await identity.inactivity_loop().run_once()
    assert (await _ann(identity))["enabled"] is False
    with pytest.raises(Unauthorized):
        await identity.tokens.verify(token)
    await _set(identity, enabled=True)
    assert await _login(identity, "first1") is None
    await _set(identity, options={"ignore_user_inactivity": True})
    await time.advance(99 * DAY)
    await identity.inactivity_loop().run_once()
    assert await _login(identity, "first1") is None


# ---- throttling


async def test_guessing_has_to_wait_and_nobody_else_has_to(make: Make, time: clock.FakeClock) -> None:
    identity = await make(login_failures_per_minute=3)
    for _ in range(3):
        assert await _login(identity, "wrong", "10.0.0.1") == _REFUSED
    with pytest.raises(TooMany) as caught:
        await identity.authentication.authenticate(password_auth("ann", password="first1"), Asked(address="10.0.0.1"))
    assert caught.value.headers["Retry-After"] == "61"
    assert await _login(identity, "first1", "10.0.0.2") is None  # the same user from elsewhere
    await identity.authentication.authenticate(password_auth("demo"), Asked(address="10.0.0.1"))  # another user
    await time.advance(61)
    assert await _login(identity, "first1", "10.0.0.1") is None
    for _ in range(3):
        await _login_or_raise(identity, password_auth("nobody-there"), "10.0.0.3")
    with pytest.raises(TooMany):
        await _login_or_raise(identity, password_auth("nobody-there"), "10.0.0.3")  # an unknown user alike


async def _login_or_raise(identity: Identity, auth: dict[str, Any], address: str) -> None:
    try:
        await identity.authentication.authenticate(auth, Asked(address=address))
    except Unauthorized:
        pass


async def test_a_user_guessed_at_from_everywhere_still_gets_in_from_where_he_was(make: Make) -> None:
    identity = await make(login_failures_per_minute=1)
    assert await _login(identity, "first1", "home") is None
    for number in range(5):
        assert await _login(identity, "wrong", f"elsewhere-{number}") == _REFUSED
    assert await _login(identity, "first1", "new") == "Too many failed logins; try again later."
    assert await _login(identity, "first1", "home") is None


async def test_an_address_that_guesses_at_many_has_to_wait(make: Make) -> None:
    identity = await make(login_failures_per_minute=1)
    for number in range(15):
        await _login_or_raise(identity, password_auth(f"user-{number}"), "10.0.0.1")
    assert await _login(identity, "first1", "10.0.0.1") == "Too many failed logins; try again later."
    assert await _login(identity, "first1", "10.0.0.2") is None

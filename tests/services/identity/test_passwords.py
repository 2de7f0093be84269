# SPDX-License-Identifier: Apache-2.0
"""Password hashing: published parameters, equal work for users who don't exist, nothing on the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cumulet.identity.config import IdentitySettings
from cumulet.identity.logic import Identity, passwords
from cumulet.identity.logic.passwords import Passwords
from cumulet.kernel.errors import Unauthorized
from tests.services.identity.conftest import CHEAP, password_auth


async def test_a_hash_is_argon2id_with_the_set_parameters() -> None:
    made = Passwords(IdentitySettings())
    known = await made.hash("pw")
    assert known.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert known != await made.hash("pw")
    assert await made.matches("pw", known)
    assert not await made.matches("pW", known)
    assert not await made.matches("", known)
    made.close()


async def test_a_generated_secret_is_hashed_cheaply_and_checked_alike() -> None:
    made = Passwords(IdentitySettings())
    known = await made.hash("random", generated=True)
    assert known.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert await made.matches("random", known)
    assert not await made.matches("other", known)
    made.close()


async def test_a_password_longer_than_the_longest_is_never_right() -> None:
    made = Passwords(CHEAP)
    assert not await made.matches("x" * (passwords.LONGEST + 1), await made.hash(""[:0] + "y"))
    made.close()


@pytest.mark.parametrize("user", ["demo", "nobody-there"])
async def test_the_same_work_is_done_for_every_name(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    await identity.passwords.matches("warm", None)
    checked: list[str] = []
    real = passwords._matches

    def counting(password: str, known: str) -> bool:
        checked.append(known.rsplit("$", 2)[0])
        assert threading.current_thread() is not threading.main_thread()
        return real(password, known)

    monkeypatch.setattr(passwords, "_matches", counting)
    with pytest.raises(Unauthorized):
        await identity.authentication.authenticate(password_auth(user, password="wrong"))
    assert checked == ["$argon2id$v=19$m=8,t=1,p=1"]


async def test_a_flood_of_logins_leaves_the_loop_free(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long hashes take, other requests go on: here they take until the loop has turned many times."""
    go_on, real = threading.Event(), passwords._matches

    def slow(password: str, known: str) -> bool:
        assert go_on.wait(20)
        return real(password, known)

    monkeypatch.setattr(passwords, "_matches", slow)
    logins = asyncio.gather(*(identity.authentication.authenticate(password_auth("demo")) for _ in range(20)))
    for _ in range(1000):
        await asyncio.sleep(0)
        assert not logins.done()
    go_on.set()
    assert len(await logins) == 20

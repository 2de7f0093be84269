# SPDX-License-Identifier: Apache-2.0
"""Hashes that an operator brings from an existing Keystone: verified, and replaced by ours at the first login."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from cumulet.identity.logic import Identity, hashes
from cumulet.identity.models import USERS
from cumulet.kernel.db import Transaction
from cumulet.kernel.errors import Unauthorized
from tests.services.identity.conftest import password_auth

# each is the hash of "correct horse", made by Keystone 30's own functions with small costs
KNOWN = {
    "bcrypt": "$2b$04$jMIfiZJBj5OfysqJGUGktOzz8.RLps/Rh27Ax2/NVnxa97Oan1EXy",
    "bcrypt_sha256": "$bcrypt-sha256$v=2,t=2b,r=4$fbFEt1l4FK/XRszHB9fSQu$HO8JPNA0p4cxnL9XCI.VaTtx9EGOvJC",
    "scrypt": "$scrypt$ln=4,r=8,p=1$q3EJJ8zpOnFsRfwjsMbozA$BqzPj7+FdWm3og3BKO9ZSVa30mKD1sOa3tEeaWbz56w",
    "pbkdf2_sha512": "$pbkdf2-sha512$100$WKo8aRUr7TIoYzEZJo/uxw$4L0gTDkYh1p9atO1O5ocwJ2HiVFV"
    "8Ab6ROFZcfc5/2XWA4h3zbDBy7NsqGLQ+42Fz2ueKMas8jzkul923z3IVw",
}


@pytest.mark.parametrize("kind", KNOWN)
def test_a_known_hash_matches_its_password_only(kind: str) -> None:
    assert hashes.matches("correct horse", KNOWN[kind])
    assert not hashes.matches("correct horsf", KNOWN[kind])
    assert not hashes.matches("", KNOWN[kind])
    assert not hashes.matches("correct horse", KNOWN[kind][:-4])


@pytest.mark.parametrize(
    "known",
    [
        "", "plain", "$", "$9$x", "$2b$12$", "$2b$99$" + "a" * 53, "$scrypt$ln=30,r=64,p=1$AAAA$AAAA", "$scrypt$x$y$z",
        "$scrypt$ln=4,r=8,p=1$AAAA$", "$pbkdf2-sha512$x$AAAA$AAAA", "$pbkdf2-sha512$0$AAAA$AAAA",
        "$bcrypt-sha256$v=2$s$d",
    ],
)  # fmt: skip
def test_what_is_no_hash_matches_nothing(known: str) -> None:
    assert not hashes.matches("", known)
    assert not hashes.matches("x", known)


@pytest.mark.parametrize("kind", KNOWN)
async def test_a_login_replaces_it_and_voids_nothing(identity: Identity, kind: str) -> None:
    demo = USERS.c.name == "demo"

    async def bring(tx: Transaction) -> None:
        await tx.run(USERS.update().where(demo).values(password_hash=KNOWN[kind]))

    await identity.database.run(bring)
    token, _ = await _login(identity, "correct horse")
    row = await identity.database.first(select(USERS).where(demo))
    assert row is not None
    assert row["password_hash"].startswith("$argon2id$v=19$m=8,t=1,p=1$")
    await identity.tokens.verify(token)
    again, _ = await _login(identity, "correct horse")
    assert (await identity.database.first(select(USERS).where(demo))) == row  # once is enough
    await identity.tokens.verify(again)
    with pytest.raises(Unauthorized):
        await _login(identity, "wrong")


async def _login(identity: Identity, password: str) -> Any:
    return await identity.authentication.authenticate(password_auth("demo", "demo", password=password))

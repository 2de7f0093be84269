# SPDX-License-Identifier: Apache-2.0
"""A token is worth what its owner is worth now: after every kind of change, at once, from every process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cumulet.identity.logic import Identity, assignments, claims, keyring, own_password, projects, roles, users
from cumulet.identity.logic.assignments import Grant
from cumulet.identity.logic.tokens import Tokens
from cumulet.identity.models import ASSIGNMENTS, CHANGES, PROJECTS, USERS
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.errors import NotFound, Unauthorized
from cumulet.kernel.secrets import SecretFile
from tests.services.identity.conftest import make_identity, password_auth

Change = Callable[[Identity, dict[str, Row]], Awaitable[Any]]


async def _rows(identity: Identity) -> dict[str, Row]:
    user = await identity.database.first(select(USERS).where(USERS.c.name == "demo"))
    project = await identity.database.first(select(PROJECTS).where(PROJECTS.c.name == "demo"))
    assert user is not None
    assert project is not None
    grant = await identity.database.first(select(ASSIGNMENTS).where(ASSIGNMENTS.c.actor_id == user["id"]))
    assert grant is not None
    return {"user": user, "project": project, "grant": grant}


async def _user(identity: Identity, rows: dict[str, Row], **sent: Any) -> None:
    await users.update_user(identity.database, identity.feed, identity.passwords, rows["user"]["id"], sent)


async def _project(identity: Identity, rows: dict[str, Row], **sent: Any) -> None:
    await projects.update_project(identity.database, identity.feed, rows["project"]["id"], sent)


async def _domain(identity: Identity, rows: dict[str, Row], **sent: Any) -> None:
    await projects.update_project(identity.database, identity.feed, "default", sent, domain=True)


async def _own_password(identity: Identity, rows: dict[str, Row]) -> None:
    await own_password.change_password(
        identity.database,
        identity.feed,
        identity.passwords,
        identity.methods,
        rows["user"]["id"],
        {"original_password": "pw", "password": "another"},
        "",
    )


async def _grant_taken(identity: Identity, rows: dict[str, Row]) -> None:
    await assignments.drop_grant(identity.database, identity.feed, Grant(**rows["grant"]))


async def _role_deleted(identity: Identity, rows: dict[str, Row]) -> None:
    role_id = rows["grant"]["role_id"]
    await roles.update_role(identity.database, identity.feed, role_id, {"options": {"immutable": False}})
    await roles.delete_role(identity.database, identity.feed, role_id)


VOIDING: dict[str, Change] = {
    "the user changes its password": _own_password,
    "an admin sets the password": lambda i, rows: _user(i, rows, password="another"),
    "the password is taken away": lambda i, rows: _user(i, rows, password=None),
    "the user is disabled": lambda i, rows: _user(i, rows, enabled=False),
    "the user is deleted": lambda i, rows: users.delete_user(i.database, i.feed, rows["user"]["id"]),
    "the project is disabled": lambda i, rows: _project(i, rows, enabled=False),
    "the project is deleted": lambda i, rows: projects.delete_project(i.database, i.feed, rows["project"]["id"]),
    "the domain is disabled": lambda i, rows: _domain(i, rows, enabled=False),
    "the role is taken": _grant_taken,
    "the role is deleted": _role_deleted,
}


@pytest.mark.parametrize("change", VOIDING.values(), ids=VOIDING.keys())
async def test_a_token_is_void_at_once(identity: Identity, tmp_path: Path, change: Change) -> None:
    """In the process that made the change, and in another one on the same database, both with warm caches."""
    other, database = await make_identity(tmp_path)
    rows = await _rows(identity)
    token, _ = await identity.authentication.authenticate(password_auth("demo", "demo"))
    for tokens in (identity.tokens, other.tokens):
        await tokens.verify(token)
        assert (await tokens.verify(token)).cached
    await change(identity, rows)
    for tokens in (identity.tokens, other.tokens):
        with pytest.raises(Unauthorized):
            await tokens.verify(token)
        with pytest.raises(NotFound):
            await tokens.read(token)
        with pytest.raises(Unauthorized):  # nor is it good with a service's word for it
            await tokens.verify(token, allow_expired=True)
    other.passwords.close()
    await database.close()


@pytest.mark.parametrize("change", [_user, _project, _domain])
async def test_enabling_again_does_not_bring_old_tokens_back(identity: Identity, change: Any) -> None:
    rows = await _rows(identity)
    token, _ = await identity.authentication.authenticate(password_auth("demo", "demo"))
    await change(identity, rows, enabled=False)
    await change(identity, rows, enabled=True)
    with pytest.raises(Unauthorized):
        await identity.tokens.verify(token)
    again, _ = await identity.authentication.authenticate(password_auth("demo", "demo"))
    await identity.tokens.verify(again)


async def test_other_changes_leave_tokens_valid(identity: Identity) -> None:
    rows = await _rows(identity)
    token, _ = await identity.authentication.authenticate(password_auth("demo", "demo"))
    await _user(identity, rows, name="renamed")
    await _project(identity, rows, name="renamed too")
    caller = (await identity.tokens.verify(token)).context
    assert (caller.user_name, caller.project_name) == ("renamed", "renamed too")
    assert caller.roles == ["member", "reader"]


async def test_the_token_is_void_when_the_password_changes_while_it_is_checked(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof was right when it was looked at; a change that is committed before the token is made voids it."""
    rows = await _rows(identity)
    matches = identity.passwords.matches

    async def slow(password: str, known: str | None) -> bool:
        found = await matches(password, known)
        monkeypatch.setattr(identity.passwords, "matches", matches)
        await _own_password(identity, rows)
        return found

    monkeypatch.setattr(identity.passwords, "matches", slow)
    with pytest.raises(Unauthorized):
        await identity.authentication.authenticate(password_auth("demo", "demo"))


async def test_an_answer_from_before_a_change_is_not_kept(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role is taken between the reading of the rows and the end of the validation: the next look sees it."""
    rows = await _rows(identity)
    token, _ = await identity.authentication.authenticate(password_auth("demo", "demo"))
    fresh = Tokens(identity.database, identity.feed, claims.Sealer(_secrets(identity)), identity.settings)
    resolve = fresh.resolve

    async def late(made: claims.Claims) -> Any:
        seen = await resolve(made)
        await _grant_taken(identity, rows)
        return seen

    monkeypatch.setattr(fresh, "resolve", late)
    await fresh.verify(token)
    monkeypatch.setattr(fresh, "resolve", resolve)
    with pytest.raises(Unauthorized):
        await fresh.verify(token)


def _secrets(identity: Identity) -> SecretFile:
    return SecretFile(Path(identity.database._path).with_name("secrets.json"))  # type: ignore[attr-defined]


async def test_a_revoked_token_is_void_and_no_other(identity: Identity) -> None:
    token, _ = await identity.authentication.authenticate(password_auth("demo", "demo"))
    other, _ = await identity.authentication.authenticate(password_auth("demo", "demo"))
    await identity.tokens.revoke(token)
    with pytest.raises(Unauthorized):
        await identity.tokens.verify(token)
    await identity.tokens.verify(other)


async def test_an_ended_token_is_good_for_services_a_while_longer(identity: Identity) -> None:
    fake = clock.FakeClock(clock.now())
    clock.use(fake)
    try:
        token, seen = await identity.authentication.authenticate(password_auth("demo", "demo"))
        await fake.advance(identity.settings.token_lifetime - 1)
        await identity.tokens.verify(token)
        await fake.advance(2)
        for _ in range(2):  # with and without a warm cache
            with pytest.raises(Unauthorized):
                await identity.tokens.verify(token)
            await identity.tokens.verify(token, allow_expired=True)
        await fake.advance(identity.settings.expired_window)
        with pytest.raises(Unauthorized):
            await identity.tokens.verify(token, allow_expired=True)
        assert seen.claims.expires - seen.claims.issued == identity.settings.token_lifetime
    finally:
        clock.use(clock.SystemClock())


async def test_what_is_not_ours_is_refused(identity: Identity) -> None:
    token, _ = await identity.authentication.authenticate(password_auth("demo", "demo"))
    for wrong in ("", "x", "gAAAA", token[:-1], token[:-8] + "AAAAAAAA", token + "A", "ü" * 40, "A" * 5000, "a\nb"):
        with pytest.raises(Unauthorized):
            await identity.tokens.verify(wrong)


def test_claims_come_back_as_they_went_in(tmp_path: Path) -> None:
    sealer = claims.Sealer(SecretFile(tmp_path / "s.json"))
    for user, scope in (("0123456789abcdef" * 2, "default"), ("a-name", ""), ("x" * 16, "y" * 17)):
        made = claims.Claims(
            1,
            claims.method_bits(["token", "password"]),
            claims.pack(user),
            "p",
            claims.pack(scope),
            10,
            20,
            7,
            b"a" * 16,
            b"",
        )
        token = sealer.seal(made)
        opened = sealer.open(token)
        assert opened == made
        assert (made.user_id, made.scope_id, made.credential_id) == (user, scope, None)
        assert made.method_names == ["password", "token"]
        assert len(token) < 256
        assert token == token.strip("=")


async def test_keys_rotate_under_living_tokens(identity: Identity, tmp_path: Path) -> None:
    """In the process that rotates, and at once in another one, which has the same file of secrets and database."""
    other, database = await make_identity(tmp_path)
    first, _ = await identity.authentication.authenticate(password_auth("demo", "demo"))
    await other.tokens.verify(first)
    for turn in range(keyring.KEPT - 1):
        assert await identity.tokens.rotate() == min(turn + 2, keyring.KEPT)
        newer, _ = await identity.authentication.authenticate(password_auth("demo", "demo"))
        for tokens in (identity.tokens, other.tokens):
            await tokens.verify(first)
            await tokens.verify(newer)
        back, _ = await other.authentication.authenticate(password_auth("demo", "demo"))
        await identity.tokens.verify(back)
    assert await identity.tokens.rotate() == keyring.KEPT
    for tokens in (identity.tokens, other.tokens):
        with pytest.raises(Unauthorized):
            await tokens.verify(first)
        await tokens.verify(newer)
    again, later = await make_identity(tmp_path)  # as after a restart
    await again.tokens.verify(newer)
    for made, opened in ((other, database), (again, later)):
        made.passwords.close()
        await opened.close()


async def test_old_changes_are_forgotten_and_the_number_is_not(identity: Identity) -> None:
    token, _ = await identity.authentication.authenticate(password_auth("demo", "demo"))
    await identity.tokens.revoke(token)
    before = await identity.feed.sequence()
    await identity.purge_loop().run_once()
    assert await identity.database.all(select(CHANGES))
    await identity.feed.purge(clock.now() + 1)
    assert not await identity.database.all(select(CHANGES))
    assert await identity.feed.sequence() == before

# SPDX-License-Identifier: Apache-2.0
"""The first start: complete, repeatable, and it never undoes what the operator did."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table, func, select

from cumulet.identity.bootstrap import bootstrap
from cumulet.identity.logic import Identity, users
from cumulet.identity.logic.authentication import Authentication
from cumulet.identity.models import METADATA, USERS
from tests.services.identity.conftest import password_auth


async def _counts(identity: Identity) -> dict[str, int]:
    async def count(table: Table) -> int:
        row = await identity.database.first(select(func.count().label("n")).select_from(table))
        assert row is not None
        number: int = row["n"]
        return number

    return {table.name: await count(table) for table in METADATA.sorted_tables if table.name != "changes"}


async def _again(identity: Identity) -> dict[str, Any]:
    return await bootstrap(identity, password="pw", service_passwords={"compute": "secret"}, region="RegionOne")


async def test_again_changes_nothing(identity: Identity) -> None:
    before = await _counts(identity)
    first = await _again(identity)
    assert await _again(identity) == first
    assert await _counts(identity) == before
    assert set(first["projects"]) == {"admin", "demo", "alt_demo", "service"}
    assert set(first["roles"]) == {"admin", "manager", "member", "reader", "service"}


async def _roles(authentication: Authentication, auth: dict[str, Any]) -> list[str]:
    return (await authentication.authenticate(auth))[1].verified.context.roles


async def test_everybody_may_what_he_should(identity: Identity) -> None:
    ask = identity.authentication
    chain = ["admin", "manager", "member", "reader"]
    assert await _roles(ask, password_auth("admin", "admin")) == chain
    assert await _roles(ask, {**password_auth("admin"), "scope": {"system": {"all": True}}}) == chain
    assert await _roles(ask, password_auth("demo", "demo")) == ["member", "reader"]
    assert await _roles(ask, password_auth("alt_demo", "alt_demo")) == ["member", "reader"]
    service = await _roles(ask, password_auth("compute", "service", password="secret"))
    assert set(service) == {*chain, "service"}


async def test_what_the_operator_changed_stays(identity: Identity) -> None:
    row = await identity.database.first(select(USERS).where(USERS.c.name == "admin"))
    assert row is not None
    await users.update_user(
        identity.database, identity.feed, identity.passwords, row["id"], {"password": "own", "description": "d"}
    )
    await _again(identity)
    kept = await identity.database.first(select(USERS).where(USERS.c.name == "admin"))
    assert kept is not None
    assert kept["extra"] == {"description": "d"}
    await identity.authentication.authenticate(password_auth("admin", "admin", password="own"))

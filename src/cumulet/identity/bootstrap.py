# SPDX-License-Identifier: Apache-2.0
"""What a new cloud has: a domain, roles, projects, users, and the catalogue of its own services.

Everything is an *ensure* in one transaction and nothing that exists is changed,
so it runs at each start and keeps what the operator made of it. Passwords are
hashed before, and only those of users that are not there yet.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table, select

from cumulet.identity.logic import Identity
from cumulet.identity.logic.catalogue import BASE, INTERFACES
from cumulet.identity.models import (
    ASSIGNMENTS,
    ENDPOINTS,
    IMPLIED_ROLES,
    PROJECTS,
    REGIONS,
    ROLES,
    SERVICES,
    USERS,
)
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Row, Transaction

DOMAIN = "default"
CHAIN = ("admin", "manager", "member", "reader")
"""Each of these roles implies the next."""
PROJECT_NAMES = ("admin", "demo", "alt_demo", "service")
PEOPLE = (
    ("admin", "admin", ("admin",)),
    ("demo", "demo", ("member",)),
    ("alt_demo", "alt_demo", ("member",)),
)
"""user, its project, its roles there"""
SERVICE_ROLES = ("admin", "service")


async def bootstrap(
    identity: Identity, *, password: str, service_passwords: Mapping[str, str], region: str
) -> dict[str, Any]:
    """Ensure all of it; returns ``projects`` and ``roles``, each name → id."""
    database, passwords = identity.database, identity.passwords
    wished = {name: (password, False) for name, _, _ in PEOPLE}
    wished |= {name: (secret, True) for name, secret in service_passwords.items()}
    known = await database.all(select(USERS.c.name).where(USERS.c.domain_id == DOMAIN, USERS.c.name.in_(list(wished))))
    absent = [name for name in wished if name not in {row["name"] for row in known}]
    hashed = await asyncio.gather(*(passwords.hash(wished[name][0], generated=wished[name][1]) for name in absent))
    hashes = dict(zip(absent, hashed, strict=True))

    async def body(tx: Transaction) -> dict[str, Any]:
        await _ensure(tx, PROJECTS, _project("Default", "", is_domain=True, id=DOMAIN), "id")
        roles = {name: await _ensure(tx, ROLES, _role(name)) for name in (*CHAIN, "service")}
        for prior, implied in itertools.pairwise(CHAIN):
            await _ensure_link(tx, IMPLIED_ROLES, {"prior_id": roles[prior], "implied_id": roles[implied]})
        projects = {name: await _ensure(tx, PROJECTS, _project(name, DOMAIN)) for name in PROJECT_NAMES}
        service_people = tuple((name, "service", SERVICE_ROLES) for name in service_passwords)
        for name, project, held in (*PEOPLE, *service_people):
            if name in hashes:
                # a user who was there before (or was deleted on purpose since) keeps what he has
                user = await _ensure(tx, USERS, _user(name, hashes[name]))
                for role in held:
                    await _assign(tx, user, roles[role], "project", projects[project])
                if name == "admin":
                    await _assign(tx, user, roles["admin"], "system", "system")
        await _ensure_catalogue(tx, identity.own_endpoints, region)
        await identity.feed.changed(tx)
        return {"projects": projects, "roles": roles}

    return await database.run(body)


def _project(name: str, domain_id: str, *, is_domain: bool = False, id: str | None = None) -> Row:
    return {
        "id": id or ids.new_hex(),
        "domain_id": domain_id,
        "parent_id": domain_id,
        "is_domain": is_domain,
        "name": name,
        "description": "",
        "enabled": True,
        "options": {},
        "extra": {},
        "voided": 0,
    }


def _role(name: str) -> Row:
    options = {"immutable": True}
    return {
        "id": ids.new_hex(), "domain_id": "", "name": name, "description": None, "options": options, "extra": {}
    }  # fmt: skip


def _user(name: str, password_hash: str) -> Row:
    return {
        "id": ids.new_hex(),
        "domain_id": DOMAIN,
        "name": name,
        "enabled": True,
        "default_project_id": None,
        "password_hash": password_hash,
        "options": {},
        "extra": {},
        "voided": 0,
        "created_at": clock.now(),
    }


async def _ensure(tx: Transaction, table: Table, row: Row, *keys: str) -> str:
    """The id of the row with these ``keys`` (default: domain and name), inserted when it is missing."""
    statement = select(table.c.id)
    for key in keys or ("domain_id", "name"):
        statement = statement.where(table.c[key] == row[key])
    found = await tx.first(statement)
    if found is None:
        await tx.insert(table, row)
    known: str = (found or row)["id"]
    return known


async def _ensure_link(tx: Transaction, table: Table, row: Row) -> None:
    statement = select(*table.primary_key.columns)
    for key, value in row.items():
        statement = statement.where(table.c[key] == value)
    if await tx.first(statement) is None:
        await tx.insert(table, row)


async def _assign(tx: Transaction, user_id: str, role_id: str, target_type: str, target_id: str) -> None:
    row = {"actor_type": "user", "actor_id": user_id, "target_type": target_type, "target_id": target_id}
    await _ensure_link(tx, ASSIGNMENTS, {**row, "role_id": role_id, "inherited": False})


async def _ensure_catalogue(tx: Transaction, own: list[tuple[str, str, str, str]], region: str) -> None:
    """The region, and for each of our services its row and an endpoint for each interface."""
    row: Row = {"id": region, "description": "", "parent_region_id": None, "extra": {}}
    await _ensure(tx, REGIONS, row, "id")
    for type_, name, mount, endpoint in own:
        service = {"id": ids.new_hex(), "type": type_, "name": name, "enabled": True, "extra": {}}
        service_id = await _ensure(tx, SERVICES, service, "type", "name")
        for interface in INTERFACES:
            values = {
                "id": ids.new_hex(),
                "service_id": service_id,
                "interface": interface,
                "region_id": region,
                "url": f"{BASE}{mount}{endpoint}",
                "enabled": True,
                "extra": {},
            }
            await _ensure(tx, ENDPOINTS, values, "service_id", "interface", "region_id")

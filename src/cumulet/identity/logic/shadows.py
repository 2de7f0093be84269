# SPDX-License-Identifier: Apache-2.0
"""What was last seen of people and groups of directories: rows beside those that are our own.

Everything that is about a user (roles, tokens, trusts, credentials) needs a row;
somebody of a directory gets one at its first use, under the published id (a hash
of domain, kind and local id), so the id is the same in every process and for
ever. Invariants: a row says what the directory said last, and a change of it is
a change of the feed; nobody takes the name of one of our own users; whoever is
gone or disabled leaves no valid token behind.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from sqlalchemy import select

from cumulet.identity.drivers import Person, Team
from cumulet.identity.errors import missing
from cumulet.identity.logic.feed import Feed
from cumulet.identity.models import DIRECTORY_IDS, GROUPS, MEMBERSHIPS, USERS
from cumulet.kernel import clock
from cumulet.kernel.db import Database, Duplicate, Row, Transaction

T = TypeVar("T")
_log = logging.getLogger(__name__)
_SOME = 500
_ID_LENGTH = 64
_TABLES = {"user": USERS, "group": GROUPS}


def public_id(domain_id: str, kind: str, local_id: str) -> str:
    """The id by which the cloud names somebody of a directory, as published: 64 hexadecimal digits."""
    return hashlib.sha256(f"{domain_id}{kind}{local_id}".encode()).hexdigest()


def user_row(domain_id: str, person: Person) -> Row:
    """The row of a user as it would be written."""
    return {
        "id": public_id(domain_id, "user", person.local_id),
        "domain_id": domain_id,
        "name": person.name,
        "enabled": person.enabled,
        "default_project_id": person.default_project_id,
        "password_hash": None,
        "options": {},
        "extra": person.extra,
        "voided": 0,
        "created_at": clock.now(),
        "password_changed_at": None,
        "password_expires_at": None,
        "password_own": None,
    }


def group_row(domain_id: str, team: Team) -> Row:
    return {
        "id": public_id(domain_id, "group", team.local_id),
        "domain_id": domain_id,
        "name": team.name,
        "description": team.description,
        "extra": team.extra,
    }


class Shadows:
    """Reads and writes those rows."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database, self._feed = database, feed

    async def known(self, id: str) -> Row | None:
        """Whom of a directory an id means, if it means one."""
        if len(id) != _ID_LENGTH:
            return None
        return await self._database.first(select(DIRECTORY_IDS).where(DIRECTORY_IDS.c.id == id))

    async def remember(self, domain_id: str, kind: str, local_ids: Iterable[str]) -> None:
        """Keep what the ids of these mean."""
        wanted = {public_id(domain_id, kind, local_id): local_id for local_id in local_ids}
        ordered = sorted(wanted)
        table = DIRECTORY_IDS.c
        for start in range(0, len(ordered), _SOME):
            part = ordered[start : start + _SOME]

            async def body(tx: Transaction, part: list[str] = part) -> None:
                here = {row["id"] for row in await tx.all(select(table.id).where(table.id.in_(part)))}
                for one in part:
                    if one not in here:
                        await tx.insert(DIRECTORY_IDS, _meaning(one, domain_id, kind, wanted[one]))

            rows = await self._database.all(select(table.id).where(table.id.in_(part)))
            if len(rows) < len(part):
                await self._twice(body)

    async def user(self, domain_id: str, person: Person, group_ids: set[str] | None = None) -> Row:
        """The row of a user, as the directory says now; ``group_ids`` are all groups of it where they were asked.

        Raises NotFound for a name that one of our own users of the domain has.
        """
        row = user_row(domain_id, person)

        async def body(tx: Transaction) -> Row:
            kept = await self._put(tx, "user", row, person.local_id)
            if group_ids is not None:
                await self._join(tx, kept["id"], group_ids)
            return kept

        return await self._twice(body)

    async def group(self, domain_id: str, team: Team, people: list[Person] | None = None) -> Row:
        """The row of a group, and ``people``, where they were asked, as all its members."""
        row = group_row(domain_id, team)

        async def body(tx: Transaction) -> Row:
            kept = await self._put(tx, "group", row, team.local_id)
            if people is not None:
                members = [await self._member(tx, domain_id, person) for person in people]
                await self._fill(tx, kept["id"], {member for member in members if member is not None})
            return kept

        return await self._twice(body)

    async def gone(self, kind: str, id: str) -> None:
        """The directory does not know it any more: no token of it is valid, nobody is in it."""

        async def body(tx: Transaction) -> None:
            table = DIRECTORY_IDS.c
            if not await tx.run(DIRECTORY_IDS.update().where(table.id == id, table.gone.is_(False)).values(gone=True)):
                return
            if kind == "user":
                sequence = await self._feed.changed(tx, void=True, user_id=id)
                await tx.run(USERS.update().where(USERS.c.id == id).values(enabled=False, voided=sequence))
            else:
                await self._fill(tx, id, set())

        await self._database.run(body)

    async def domains(self) -> list[str]:
        """The domains of which something was ever seen in a directory."""
        rows = await self._database.all(select(DIRECTORY_IDS.c.domain_id).distinct())
        return sorted(row["domain_id"] for row in rows)

    async def used(self, domain_id: str, kind: str) -> list[Row]:
        """Whoever of a domain has a row of its own and was there when it was last looked for."""
        table = DIRECTORY_IDS.c
        mine = select(DIRECTORY_IDS).where(table.domain_id == domain_id, table.kind == kind, table.gone.is_(False))
        return await self._database.all(mine.where(table.id.in_(select(_TABLES[kind].c.id))))

    async def own(self, domain_id: str, kind: str) -> list[Row]:
        """Those of a domain that are in no directory."""
        table = _TABLES[kind]
        theirs = select(DIRECTORY_IDS.c.id).where(DIRECTORY_IDS.c.domain_id == domain_id)
        mine = select(table).where(table.c.domain_id == domain_id, table.c.id.not_in(theirs))
        return await self._database.all(mine)

    async def existing_groups(self, ids: list[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(ids), _SOME):
            rows = await self._database.all(select(GROUPS.c.id).where(GROUPS.c.id.in_(ids[start : start + _SOME])))
            found |= {row["id"] for row in rows}
        return found

    # ---- inside of a transaction

    async def _twice(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Another process may see the same for the first time in the same moment."""
        try:
            return await self._database.run(body)
        except Duplicate:
            return await self._database.run(body)

    async def _put(self, tx: Transaction, kind: str, row: Row, local_id: str) -> Row:
        """Write what the directory says where that is something new; returns the whole row."""
        table, row_id = _TABLES[kind], row["id"]
        known = await tx.first(select(table).where(table.c.id == row_id))
        meaning = await tx.first(select(DIRECTORY_IDS).where(DIRECTORY_IDS.c.id == row_id))
        if meaning is None:
            await tx.insert(DIRECTORY_IDS, _meaning(row_id, row["domain_id"], kind, local_id))
        elif meaning["gone"]:
            await tx.run(DIRECTORY_IDS.update().where(DIRECTORY_IDS.c.id == row_id).values(gone=False))
        if known is None or known["name"] != row["name"]:
            await self._free_name(tx, kind, row)
        if known is None:
            await tx.insert(table, row)
            return row
        told = ("name", "enabled", "default_project_id", "extra", "description")
        new = {name: row[name] for name in told if name in row and row[name] != known[name]}
        if not new:
            return known
        if kind == "user" and new.keys() & {"name", "enabled"}:
            void = new.get("enabled") is False
            sequence = await self._feed.changed(tx, void=void, user_id=row_id)
            new |= {"voided": sequence} if void else {}
        await tx.run(table.update().where(table.c.id == row_id).values(new))
        return {**known, **new}

    async def _free_name(self, tx: Transaction, kind: str, row: Row) -> None:
        """Who had the name before in the directory has another one now, and is asked about it at its next use."""
        table = _TABLES[kind]
        same = (table.c.domain_id == row["domain_id"]) & (table.c.name == row["name"]) & (table.c.id != row["id"])
        other = await tx.first(select(table.c.id).where(same))
        if other is None:
            return
        if await tx.first(select(DIRECTORY_IDS.c.id).where(DIRECTORY_IDS.c.id == other["id"])) is None:
            _log.warning(
                "the directory of domain %s has a %s with the name of our own %s", row["domain_id"], kind, other["id"]
            )
            raise missing(kind, row["name"])
        await tx.run(table.update().where(table.c.id == other["id"]).values(name=other["id"]))
        await self._feed.changed(tx, user_id=other["id"] if kind == "user" else None)

    async def _member(self, tx: Transaction, domain_id: str, person: Person) -> str | None:
        row = user_row(domain_id, person)
        table = USERS.c
        same = (table.domain_id == domain_id) & (table.name == person.name) & (table.id != row["id"])
        other = await tx.first(select(table.id).where(same))
        if other is not None:
            ours = await tx.first(select(DIRECTORY_IDS.c.id).where(DIRECTORY_IDS.c.id == other["id"])) is None
            if ours:
                return None
        user_id: str = (await self._put(tx, "user", row, person.local_id))["id"]
        return user_id

    async def _join(self, tx: Transaction, user_id: str, group_ids: set[str]) -> None:
        """Make these the groups of a user."""
        if await _pair(tx, {"user_id": user_id}, "group_id", group_ids):
            await self._feed.changed(tx, user_id=user_id)

    async def _fill(self, tx: Transaction, group_id: str, user_ids: set[str]) -> None:
        """Make these the members of a group."""
        for user_id in await _pair(tx, {"group_id": group_id}, "user_id", user_ids):
            await self._feed.changed(tx, user_id=user_id)


async def _pair(tx: Transaction, one: dict[str, str], other: str, wanted: set[str]) -> set[str]:
    """Let the memberships of ``one`` (a column and its value) be those with ``wanted`` ids of ``other``.

    Returns the ids that came or went.
    """
    ((column, value),) = one.items()
    mine, theirs = MEMBERSHIPS.c[column] == value, MEMBERSHIPS.c[other]
    now = {row[other] for row in await tx.all(select(theirs).where(mine))}
    for gone in now - wanted:
        await tx.run(MEMBERSHIPS.delete().where(mine, theirs == gone))
    for new in wanted - now:
        await tx.insert(MEMBERSHIPS, {**one, other: new})
    return now ^ wanted


def _meaning(id: str, domain_id: str, kind: str, local_id: str) -> Row:
    return {"id": id, "domain_id": domain_id, "kind": kind, "local_id": local_id, "gone": False}

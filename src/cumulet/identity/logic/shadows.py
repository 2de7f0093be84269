# SPDX-License-Identifier: Apache-2.0
"""What was last seen of people and groups of directories: rows beside those that are our own.

Everything that is about a user (roles, tokens, trusts, credentials) needs a row;
somebody of a directory gets one at its first use, under the published id (a hash
of domain, kind and local id), so the id is the same in every process and for
ever. Invariants: a row says what the directory said last, and a change of it is
a change of the feed; nobody takes the name of one of our own users; whoever is
gone or disabled leaves no valid token behind, and whoever is gone no name. What
is as it was is only read, in bulk and outside of transactions; what is not is
written a few rows at a time, so that nobody waits for a large group. Of several
with one name in a directory one has it here; the others go by their ids.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar

from sqlalchemy import select

from cumulet.identity.drivers import Person, Team
from cumulet.identity.logic.feed import Feed
from cumulet.identity.models import ASSIGNMENTS, DIRECTORY_IDS, GROUPS, MEMBERSHIPS, USERS
from cumulet.kernel import clock
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Conflict

T = TypeVar("T")
_log = logging.getLogger(__name__)
_SOME = 500
"""Rows that one statement asks for."""
_FEW = 50
"""Rows that one transaction writes."""
_ID = re.compile(r"[0-9a-f]{64}")
_TABLES = {"user": USERS, "group": GROUPS}
_TOLD = ("name", "enabled", "default_project_id", "extra", "description")
_SEEN_BY_TOKENS = {"name", "enabled"}
Ask = Callable[[list[str]], Awaitable[list[Any]]]
"""What a directory says now of these local ids; those that it does not know are left out."""


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


@dataclass(frozen=True)
class _Kept:
    """What is kept of some users or groups of a directory, and of who has the names that they should have."""

    rows: dict[str, Row]
    meanings: dict[str, Row]
    holders: dict[str, Row]
    """By name: id, and local_id and gone, which are None for one of our own."""

    @classmethod
    async def read(cls, reader: Database | Transaction, kind: str, rows: Mapping[str, Row]) -> _Kept:
        table, meant = _TABLES[kind], DIRECTORY_IDS.c
        ids, names = sorted(rows), sorted({row["name"] for row in rows.values()})
        domains = {row["domain_id"] for row in rows.values()}
        both = table.outerjoin(DIRECTORY_IDS, table.c.id == meant.id)
        holding = select(table.c.name, table.c.id, meant.local_id, meant.gone).select_from(both)
        holding = holding.where(table.c.domain_id.in_(sorted(domains)), table.c.name.in_(names))
        return cls(
            {row["id"]: row for row in await reader.all(select(table).where(table.c.id.in_(ids)))},
            {row["id"]: row for row in await reader.all(select(DIRECTORY_IDS).where(meant.id.in_(ids)))},
            {row["name"]: row for row in await reader.all(holding)},
        )


@dataclass(frozen=True)
class _Step:
    """What is to be written of one user or group; nothing of one that is as it was."""

    row: Row
    """As it should be, under the name that it may have."""
    meaning: Literal["new", "back", ""]
    new: dict[str, Any] | None
    """What of the row changed; None for one that is not there yet."""
    ousted: str | None
    """The id of who has another name now, or is gone, and still has this one."""

    @property
    def idle(self) -> bool:
        return not self.meaning and self.new == {}


def _steps(rows: Mapping[str, Row], names: Mapping[str, str], kept: _Kept) -> Iterator[_Step]:
    """What makes ``kept`` what ``rows`` say; left out are those whose name is one of our own.

    ``names`` says by id which names the directory gives to whom, of all that were asked.
    """
    taken: dict[str, str] = {}
    done: set[str] = set()
    for row_id, told in rows.items():
        name, ousted = told["name"], None
        holder = kept.holders.get(name)
        if holder is not None and holder["id"] != row_id and holder["id"] not in done:
            if holder["local_id"] is None:
                continue
            if holder["gone"] or names.get(holder["id"], name) != name:
                ousted = holder["id"]
            else:
                name = row_id
        if taken.setdefault(name, row_id) != row_id:
            name, ousted = row_id, None
        done.add(row_id)
        row, known, meaning = {**told, "name": name}, kept.rows.get(row_id), kept.meanings.get(row_id)
        new = None
        if known is not None:
            new = {column: row[column] for column in _TOLD if column in row and row[column] != known[column]}
        yield _Step(row, "new" if meaning is None else "back" if meaning["gone"] else "", new, ousted)


class Shadows:
    """Reads and writes those rows."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database, self._feed = database, feed

    async def known(self, id: str) -> Row | None:
        """Whom of a directory an id means, if it means one."""
        if not _ID.fullmatch(id):
            return None
        return await self._database.first(select(DIRECTORY_IDS).where(DIRECTORY_IDS.c.id == id))

    async def remember(self, domain_id: str, kind: str, local_ids: Iterable[str]) -> None:
        """Keep what the ids of these mean."""
        wanted = {public_id(domain_id, kind, local_id): local_id for local_id in local_ids}
        table = DIRECTORY_IDS.c
        for part in _parts(sorted(wanted), _SOME):
            here = {row["id"] for row in await self._database.all(select(table.id).where(table.id.in_(part)))}
            for few in _parts([one for one in part if one not in here], _FEW):

                async def body(tx: Transaction, few: list[str] = few) -> None:
                    here = {row["id"] for row in await tx.all(select(table.id).where(table.id.in_(few)))}
                    for one in few:
                        if one not in here:
                            await tx.insert(DIRECTORY_IDS, _meaning(one, domain_id, kind, wanted[one]))

                await self._twice(body)

    async def keep(self, domain_id: str, kind: str, found: Collection[Any], ask: Ask) -> dict[str, Row]:
        """The rows, by id, of users or groups as the directory says now; those with a name of our own have none.

        ``ask`` is asked about others who have one of their names; their rows may be among the returned.
        """
        kept: dict[str, Row] = {}
        make: Callable[[str, Any], Row] = user_row if kind == "user" else group_row
        local = {public_id(domain_id, kind, one.local_id): one.local_id for one in found}
        rows = {(row := make(domain_id, one))["id"]: row for one in found}
        names = {one: row["name"] for one, row in rows.items()}
        for ids in _parts(rows, _SOME):
            part = {one: rows[one] for one in ids}
            view = await _Kept.read(self._database, kind, part)
            holders = [row for row in view.holders.values() if row["id"] not in names]
            if others := {row["id"]: row["local_id"] for row in holders if row["local_id"] and not row["gone"]}:
                for told in await ask(sorted(others.values())):
                    row = make(domain_id, told)
                    part[row["id"]], names[row["id"]], local[row["id"]] = row, row["name"], told.local_id
                for one in others.keys() - part.keys():
                    await self.gone(kind, one)
                view = await _Kept.read(self._database, kind, part)
            steps = {step.row["id"]: step for step in _steps(part, names, view)}
            kept |= {one: view.rows[one] for one, step in steps.items() if step.idle}
            for few in _parts([one for one, step in steps.items() if not step.idle], _FEW):
                kept |= await self._write(kind, {one: part[one] for one in few}, names, local)
        return kept

    async def join(self, user_id: str, group_ids: set[str]) -> None:
        """Make these the groups of a user."""
        await self._align("user_id", user_id, "group_id", group_ids)

    async def fill(self, group_id: str, user_ids: set[str]) -> None:
        """Make these the members of a group."""
        await self._align("group_id", group_id, "user_id", user_ids)

    async def gone(self, kind: str, id: str) -> None:
        """The directory does not know it any more: no token of it is valid, nobody is in it, its name is free."""
        table, meant = _TABLES[kind], DIRECTORY_IDS.c
        if kind == "group":
            await self.fill(id, set())

        async def body(tx: Transaction) -> None:
            if not await tx.run(DIRECTORY_IDS.update().where(meant.id == id, meant.gone.is_(False)).values(gone=True)):
                return
            if kind == "user":
                sequence = await self._feed.changed(tx, void=True, user_id=id)
                await tx.run(USERS.update().where(USERS.c.id == id).values(enabled=False, voided=sequence))
            try:
                await tx.run(table.update().where(table.c.id == id).values(name=id))
            except Duplicate:
                _log.warning("one of our own has the id of %s %s for a name", kind, id)

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
        for part in _parts(ids, _SOME):
            rows = await self._database.all(select(GROUPS.c.id).where(GROUPS.c.id.in_(part)))
            found |= {row["id"] for row in rows}
        return found

    async def with_roles(self, group_ids: Iterable[str]) -> set[str]:
        """Those of these groups that have a role anywhere: somebody's tokens depend on who is in them."""
        table, found = ASSIGNMENTS.c, set()
        for part in _parts(group_ids, _SOME):
            mine = select(table.actor_id).where(table.actor_type == "group", table.actor_id.in_(part)).distinct()
            found |= {row["actor_id"] for row in await self._database.all(mine)}
        return found

    # ---- writing, a few at a time

    async def _twice(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Another process may see the same for the first time in the same moment."""
        try:
            return await self._database.run(body)
        except Duplicate:
            pass
        try:
            return await self._database.run(body)
        except Duplicate as error:
            raise Conflict(f"What the directory says cannot be kept: {error}") from None

    async def _write(
        self, kind: str, rows: Mapping[str, Row], names: Mapping[str, str], local: Mapping[str, str]
    ) -> dict[str, Row]:
        """Write what the directory says where that is something new; returns the whole rows by id."""
        table = _TABLES[kind]

        async def body(tx: Transaction) -> dict[str, Row]:
            view = await _Kept.read(tx, kind, rows)
            return {step.row["id"]: await apply(tx, step, view) for step in _steps(rows, names, view)}

        async def apply(tx: Transaction, step: _Step, view: _Kept) -> Row:
            row, row_id, new = step.row, step.row["id"], step.new
            if step.meaning == "new":
                await tx.insert(DIRECTORY_IDS, _meaning(row_id, row["domain_id"], kind, local[row_id]))
            elif step.meaning == "back":
                await tx.run(DIRECTORY_IDS.update().where(DIRECTORY_IDS.c.id == row_id).values(gone=False))
            if step.ousted is not None:
                await tx.run(table.update().where(table.c.id == step.ousted).values(name=step.ousted))
                if kind == "user":
                    await self._feed.changed(tx, user_id=step.ousted)
            if new is None:
                await tx.insert(table, row)
                return row
            if kind == "user" and new.keys() & _SEEN_BY_TOKENS:
                void = new.get("enabled") is False
                sequence = await self._feed.changed(tx, void=void, user_id=row_id)
                new = {**new, "voided": sequence} if void else new
            if new:
                await tx.run(table.update().where(table.c.id == row_id).values(new))
            return {**view.rows[row_id], **new}

        return await self._twice(body)

    async def _align(self, column: str, id: str, other: str, wanted: set[str]) -> None:
        """Make ``wanted`` all that the memberships of ``id`` (in ``column``) name in the column ``other``."""
        table = MEMBERSHIPS.c
        mine = select(table[other]).where(table[column] == id)
        now = {row[other] for row in await self._database.all(mine)}
        for few in _parts(sorted(now ^ wanted), _FEW):

            async def body(tx: Transaction, few: list[str] = few) -> None:
                here = {row[other] for row in await tx.all(mine.where(table[other].in_(few)))}
                new = [one for one in few if one in wanted and one not in here]
                old = [one for one in few if one not in wanted and one in here]
                for one in new:
                    await tx.insert(MEMBERSHIPS, {column: id, other: one})
                if old:
                    await tx.run(MEMBERSHIPS.delete().where(table[column] == id, table[other].in_(old)))
                if new or old:
                    await self._feed.changed(tx, user_id=id if column == "user_id" else None)

            await self._twice(body)


def _parts(values: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


def _meaning(id: str, domain_id: str, kind: str, local_id: str) -> Row:
    return {"id": id, "domain_id": domain_id, "kind": kind, "local_id": local_id, "gone": False}

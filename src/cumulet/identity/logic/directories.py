# SPDX-License-Identifier: Apache-2.0
"""Domains whose users and groups are in a directory: who asks it, when, and what is made of the answers.

Invariants: a directory that does not answer holds up its own domain and no other
(threads of its own, a deadline, and after a failure a pause in which nobody
waits), and what needs it answers 503 naming the domain; nothing is ever written
to it; tokens that were given out stand on what was seen last, which `refresh`
looks at again and again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from sqlalchemy import select

from cumulet.identity.config import IdentitySettings
from cumulet.identity.drivers import Directory, DirectoryDown, DirectoryFailed, Person, Team
from cumulet.identity.drivers.ldap import Ldap
from cumulet.identity.drivers.options import Options, make_options
from cumulet.identity.errors import missing
from cumulet.identity.logic.domain_options import DomainOptions
from cumulet.identity.logic.listing import Page, cut
from cumulet.identity.logic.shadows import Shadows, group_row, public_id, user_row
from cumulet.identity.models import PROJECTS
from cumulet.kernel import clock
from cumulet.kernel.db import Database, Row
from cumulet.kernel.errors import Fault, Forbidden, NotFound, Unavailable
from cumulet.kernel.pools import Pool

T = TypeVar("T")
_log = logging.getLogger(__name__)
PAUSE = 3.0
"""Seconds after a failure to reach a directory in which it is not tried again."""
_THREADS = 8
_WHOLE = 60.0
"""Seconds that a question of several answers (a list in pages) may take."""
_SOME = 100


@dataclass
class Answering:
    """One domain's directory and the threads that ask it."""

    domain_id: str
    name: str
    fingerprint: bytes
    directory: Directory
    pool: Pool
    down_until: float = 0.0
    reason: str = ""

    async def ask(self, question: Callable[[], T]) -> T:
        """The answer; raises Unavailable with the domain's name."""
        if self.down_until > clock.monotonic():
            raise unavailable(self.name, self.reason)
        try:
            return await self.pool.run(question, timeout=_WHOLE)
        except (DirectoryDown, TimeoutError) as error:
            self.reason = str(error) or "no answer in time"
            self.down_until = clock.monotonic() + PAUSE
            raise unavailable(self.name, self.reason, getattr(error, "detail", "")) from None
        except DirectoryFailed as error:
            raise unavailable(self.name, str(error), error.detail) from None

    async def who(self, kind: str, local_ids: list[str]) -> list[Any]:
        """Whom it knows of these users or groups; raises Unavailable."""
        ask: Callable[..., list[Any]] = self.directory.people if kind == "user" else self.directory.teams
        return await self.ask(lambda: ask(ids=local_ids))

    def close(self) -> None:
        self.pool.close()
        self.directory.close()


def unavailable(name: str, reason: str, detail: str = "") -> Unavailable:
    _log.warning("the directory of domain %s gives no answer: %s", name, f"{reason} {detail}".strip())
    return Unavailable(f"The directory of domain {name} gives no answer: {reason}.")


def refuse_write() -> Forbidden:
    """The published refusal of every change of what is in a directory."""
    return Forbidden("LDAP does not support write operations")


class Directories:
    """All domains' directories."""

    def __init__(
        self,
        database: Database,
        options: DomainOptions,
        shadows: Shadows,
        settings: IdentitySettings,
        make: Callable[[Options], Directory] = Ldap,
    ) -> None:
        self._database, self._options, self._shadows, self._make = database, options, shadows, make
        self._files = settings.directories
        self._open: dict[str, Answering] = {}

    async def of(self, domain_id: str | None) -> Answering | None:
        """The directory of a domain, if it has one; raises Unavailable for a configuration that cannot be."""
        config = await self._config(domain_id) if domain_id else None
        if domain_id is None or config is None:
            if domain_id in self._open:
                self._open.pop(domain_id).close()
            return None
        name, given = config
        fingerprint = hashlib.sha256(msgspec.json.encode(given)).digest()
        known = self._open.get(domain_id)
        if known is not None and known.fingerprint == fingerprint:
            known.name = name
            return known
        try:
            options = make_options(given)
            directory = self._make(options)
        except DirectoryFailed as error:
            raise unavailable(name, str(error)) from None
        if known is not None:
            known.close()
        pool = Pool("directory", min(options.pool_size, _THREADS))
        made = self._open[domain_id] = Answering(domain_id, name, fingerprint, directory, pool)
        return made

    async def _config(self, domain_id: str) -> tuple[str, dict[str, Any]] | None:
        """The domain's name and its options, if it says that it has a directory."""
        config = await self._options.whole(domain_id)
        if not config and not self._files:
            return None
        domain = await self._database.first(
            select(PROJECTS.c.name).where(PROJECTS.c.id == domain_id, PROJECTS.c.is_domain.is_(True))
        )
        if domain is None:
            return None
        file = self._files.get(domain["name"])
        driver = config.get("identity", {}).get("driver", "ldap" if file is not None else "sql")
        if driver != "ldap":
            return None
        return domain["name"], {**(file or {}), **config.get("ldap", {})}

    def close(self) -> None:
        for one in self._open.values():
            one.close()
        self._open.clear()

    # ---- single ones

    async def refuse_new(self, domain_id: str) -> None:
        """Raise Forbidden where a user or group would have to be written into a directory."""
        if await self.of(domain_id) is not None:
            raise refuse_write()

    async def meet(self, kind: str, id: str) -> bool:
        """Whether an id is somebody's of a directory, whose row then says what is so now.

        Raises NotFound for one that the directory does not know any more, Unavailable.
        """
        known = await self._shadows.known(id)
        if known is None:
            return False
        if kind != known["kind"]:
            raise missing(kind, id)
        if kind == "user":
            await self._user(known)
        else:
            at, team = await self._team(known)
            await self._row(at, "group", team)
        return True

    async def expand(self, group_id: str) -> None:
        """Look now who is in a group of a directory, before a role depends on it; raises NotFound, Unavailable."""
        known = await self._shadows.known(group_id)
        if known is not None:
            at, team = await self._team(known)
            await self._row(at, "group", team)
            await self._fill(at, team)

    async def _entry(self, known: Row) -> tuple[Answering, Person | Team]:
        """Who is meant now; whoever is not there any more is marked so and is NotFound."""
        at = await self.of(known["domain_id"])
        found = await at.who(known["kind"], [known["local_id"]]) if at is not None else []
        if at is None or not found:
            if not known["gone"]:
                await self._shadows.gone(known["kind"], known["id"])
            raise missing(known["kind"], known["id"])
        return at, found[0]

    async def _team(self, known: Row) -> tuple[Answering, Team]:
        at, team = await self._entry(known)
        assert isinstance(team, Team)
        return at, team

    async def _user(self, known: Row) -> tuple[Row, Person]:
        at, person = await self._entry(known)
        assert isinstance(person, Person)
        return await self._seen(at, person), person

    async def _row(self, at: Answering, kind: str, one: Person | Team) -> Row:
        """The row of a user or group as the directory says now; raises NotFound for the name of one of our own."""
        kept = await self._shadows.keep(at.domain_id, kind, [one], partial(at.who, kind))
        row = kept.get(public_id(at.domain_id, kind, one.local_id))
        if row is None:
            _log.warning("the directory of domain %s has a %s with the name of our own %s", at.name, kind, one.name)
            raise missing(kind, one.name)
        return row

    async def _seen(self, at: Answering, person: Person) -> Row:
        """The row of a user, and those of its groups that roles may depend on."""
        teams = await at.ask(lambda: at.directory.teams(of=person))
        ids = [public_id(at.domain_id, "group", team.local_id) for team in teams]
        row = await self._row(at, "user", person)
        await self._shadows.join(row["id"], await self._shadows.existing_groups(ids))
        return row

    async def _fill(self, at: Answering, team: Team) -> None:
        """Make a group's members those that the directory says."""
        people = await at.ask(lambda: at.directory.members(team))
        kept = await self._shadows.keep(at.domain_id, "user", people, partial(at.who, "user"))
        members = {public_id(at.domain_id, "user", one.local_id) for one in people}
        await self._shadows.fill(public_id(at.domain_id, "group", team.local_id), members & kept.keys())

    async def knows(self, id: str) -> bool:
        """Whether an id is somebody's of a directory, there or not."""
        return await self._shadows.known(id) is not None

    async def refuse_change(self, id: str) -> None:
        """Raise Forbidden for somebody of a directory, as long as the domain has one."""
        known = await self._shadows.known(id)
        if known is not None:
            await self.refuse_new(known["domain_id"])

    # ---- logins

    async def user_named(self, domain_id: str, name: str) -> tuple[bool, Row | None]:
        """Whether a domain has a directory, and its one user of that name (with its ``dn``)."""
        at = await self.of(domain_id)
        if at is None:
            return False, None
        people = await at.ask(lambda: at.directory.people(name=name))
        if len(people) != 1:
            return True, None
        try:
            return True, {**await self._seen(at, people[0]), "dn": people[0].dn}
        except NotFound:
            return True, None

    async def user_of(self, user_id: str) -> tuple[bool, Row | None]:
        """Whether an id is one of a directory, and the user as it is there now (with its ``dn``)."""
        known = await self._shadows.known(user_id)
        if known is None:
            return False, None
        try:
            row, person = await self._user(known)
        except NotFound:
            return True, None
        return True, {**row, "dn": person.dn}

    async def check(self, user: Row, password: str) -> bool:
        """Whether the password is that of a user with a ``dn``; the directory says so."""
        at = await self.of(user["domain_id"])
        return at is not None and await at.ask(lambda: at.directory.check(user["dn"], password))

    # ---- lists

    async def users(self, domain_id: str | None, page: Page) -> tuple[list[Row], bool] | None:
        """A page of a directory's users; None for a domain without one."""
        at = await self.of(domain_id)
        if at is None:
            return None
        names = [wish.value for wish in page.filters if wish.column == "name" and wish.comparator == "equals"]
        people = await at.ask(lambda: at.directory.people(name=names[0] if names else None))
        return await self._page(at, "user", people, user_row, page, await self._shadows.own(at.domain_id, "user"))

    async def groups(self, domain_id: str | None, page: Page) -> tuple[list[Row], bool] | None:
        at = await self.of(domain_id)
        if at is None:
            return None
        names = [wish.value for wish in page.filters if wish.column == "name" and wish.comparator == "equals"]
        teams = await at.ask(lambda: at.directory.teams(name=names[0] if names else None))
        return await self._page(at, "group", teams, group_row, page, await self._shadows.own(at.domain_id, "group"))

    async def members_of(self, group_id: str, page: Page) -> tuple[list[Row], bool] | None:
        """A page of the users of a directory's group; None for a group of our own."""
        known = await self._shadows.known(group_id)
        if known is None:
            return None
        at, team = await self._team(known)
        people = await at.ask(lambda: at.directory.members(team))
        return await self._page(at, "user", people, user_row, page)

    async def groups_of(self, user_id: str, page: Page) -> tuple[list[Row], bool] | None:
        """A page of the groups of a directory's user; None for a user of our own."""
        known = await self._shadows.known(user_id)
        if known is None:
            return None
        at, person = await self._entry(known)
        assert isinstance(person, Person)
        teams = await at.ask(lambda: at.directory.teams(of=person))
        return await self._page(at, "group", teams, group_row, page)

    async def _page(
        self,
        at: Answering,
        kind: str,
        found: list[Any],
        row_of: Callable[[str, Any], Row],
        page: Page,
        own: Sequence[Row] = (),
    ) -> tuple[list[Row], bool]:
        """A page of what was found, and of those of our ``own``; what the shown ids mean is kept."""
        rows = {(row := row_of(at.domain_id, one))["id"]: row for one in found}
        local = {public_id(at.domain_id, kind, one.local_id): one.local_id for one in found}
        shown, more = cut([*own, *rows.values()], page)
        await self._shadows.remember(at.domain_id, kind, [local[row["id"]] for row in shown if row["id"] in local])
        return shown, more

    # ---- what was seen before

    async def refresh(self) -> None:
        """Look again at everybody who is used here; a directory without an answer leaves all as it was."""
        for domain_id in await self._shadows.domains():
            try:
                await self._refresh(domain_id)
            except Fault as fault:
                _log.warning("the directory of domain %s was not looked at: %s", domain_id, fault.message)

    async def _refresh(self, domain_id: str) -> None:
        at = await self.of(domain_id)
        for kind in ("user", "group"):
            used = await self._shadows.used(domain_id, kind)
            for start in range(0, len(used), _SOME):
                part = {row["local_id"]: row["id"] for row in used[start : start + _SOME]}
                found = await at.who(kind, list(part)) if at is not None else []
                there: dict[str, Row] = {}
                if at is not None:
                    there = await self._shadows.keep(domain_id, kind, found, partial(at.who, kind))
                for gone in sorted(set(part.values()) - there.keys()):
                    await self._shadows.gone(kind, gone)
                if at is not None and kind == "group":
                    await self._refill(at, [one for one in found if part[one.local_id] in there])

    async def _refill(self, at: Answering, teams: list[Team]) -> None:
        """Who is in these groups now, where a role depends on it; one that cannot be told stops no other."""
        by_id = {public_id(at.domain_id, "group", team.local_id): team for team in teams}
        for group_id in sorted(await self._shadows.with_roles(by_id)):
            try:
                await self._fill(at, by_id[group_id])
            except Fault as fault:
                if at.down_until > clock.monotonic():
                    raise
                _log.warning("the members of group %s in the directory are not known: %s", group_id, fault.message)

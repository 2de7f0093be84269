# SPDX-License-Identifier: Apache-2.0
"""An LDAP server, or Active Directory, as a directory of people; python-ldap speaks the protocol.

Invariants: a password is only ever given to a connection of its own, and an
empty one to none (a server would take it for an anonymous bind and say yes);
nothing is ever written; every answer has a deadline.
"""

from __future__ import annotations

import queue
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from cumulet.identity.drivers import DirectoryDown, DirectoryFailed, Person, Team
from cumulet.identity.drivers.ldap_entries import (
    NESTED,
    Entry,
    any_of,
    escaped,
    first_part,
    group_attributes,
    person,
    same,
    team,
    user_attributes,
)
from cumulet.identity.drivers.options import Options
from cumulet.kernel import clock

T = TypeVar("T")
Known = TypeVar("Known", Person, Team)
MOST = 100_000
"""Entries that one list may have."""
_AT_ONCE = 100
_LONGEST_PASSWORD = 4096
_REFUSALS = (
    "INVALID_CREDENTIALS", "INAPPROPRIATE_AUTH", "NO_SUCH_OBJECT", "CONSTRAINT_VIOLATION", "UNWILLING_TO_PERFORM",
    "INVALID_DN_SYNTAX", "INSUFFICIENT_ACCESS",
)  # fmt: skip
_DOWN = ("SERVER_DOWN", "CONNECT_ERROR", "TIMEOUT", "UNAVAILABLE", "BUSY", "TIMELIMIT_EXCEEDED")


def _library() -> Any:
    try:
        import ldap
    except ImportError:
        raise DirectoryFailed("the Python package python-ldap is not installed (extra ldap)") from None
    return ldap


class Ldap:
    """One server (or several that say the same) as its options describe it; see `Directory`."""

    def __init__(self, options: Options) -> None:
        self._ldap = _library()
        self._options = options
        self._idle: queue.LifoQueue[tuple[Any, float]] = queue.LifoQueue(options.pool_size)

    # ---- connections

    def _open(self, who: str | None, password: str | None) -> Any:
        """A bound connection."""
        ldap, options = self._ldap, self._options
        urls = options.urls
        if options.randomize_urls:
            urls = random.sample(urls, len(urls))
        connection = ldap.initialize(" ".join(urls))
        connection.protocol_version = ldap.VERSION3
        connection.set_option(ldap.OPT_REFERRALS, int(bool(options.chase_referrals)))
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, options.timeout)
        connection.set_option(ldap.OPT_TIMEOUT, options.timeout)
        connection.timeout = options.timeout
        if options.alias_dereferencing != "default":
            connection.set_option(ldap.OPT_DEREF, getattr(ldap, f"DEREF_{options.alias_dereferencing.upper()}"))
        if options.use_tls or any(url.lower().startswith("ldaps:") for url in urls):
            required = getattr(ldap, f"OPT_X_TLS_{options.tls_req_cert.upper()}")
            connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, required)
            if options.tls_cacertfile:
                connection.set_option(ldap.OPT_X_TLS_CACERTFILE, options.tls_cacertfile)
            if options.tls_cacertdir:
                connection.set_option(ldap.OPT_X_TLS_CACERTDIR, options.tls_cacertdir)
            connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        try:
            if options.use_tls:
                connection.start_tls_s()
            connection.simple_bind_s(who or "", password or "")
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def _drop(self, connection: Any) -> None:
        try:
            connection.unbind_ext_s()
        except self._ldap.LDAPError:
            pass

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The library's errors in our words."""
        ldap = self._ldap
        try:
            yield
        except ldap.SIZELIMIT_EXCEEDED:
            raise DirectoryFailed("it has more entries than it lists at once; set page_size") from None
        except ldap.LDAPError as error:
            name = type(error).__name__
            detail = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
            said = str(detail.get("desc") or name)
            raise (DirectoryDown if name in _DOWN else DirectoryFailed)(said, str(detail.get("info") or "")) from None

    def _with(self, work: Callable[[Any], T]) -> T:
        """The work on a connection of our own account; one that broke while it was idle is replaced once."""
        with self._told():
            while True:
                try:
                    connection, opened = self._idle.get_nowait()
                except queue.Empty:
                    connection, opened = self._open(self._options.user, self._options.password), clock.monotonic()
                    fresh = True
                else:
                    fresh = False
                try:
                    result = work(connection)
                except self._ldap.SERVER_DOWN:
                    self._drop(connection)
                    if fresh:
                        raise
                    continue
                except BaseException:
                    self._drop(connection)
                    raise
                self._keep(connection, opened)
                return result

    def _keep(self, connection: Any, opened: float) -> None:
        if clock.monotonic() - opened < self._options.pool_connection_lifetime:
            try:
                self._idle.put_nowait((connection, opened))
                return
            except queue.Full:
                pass
        self._drop(connection)

    def close(self) -> None:
        while True:
            try:
                self._drop(self._idle.get_nowait()[0])
            except queue.Empty:
                return

    def check(self, dn: str, password: str) -> bool:
        if not dn or not password or len(password) > _LONGEST_PASSWORD:
            return False
        with self._told():
            try:
                connection = self._open(dn, password)
            except self._ldap.LDAPError as error:
                if type(error).__name__ in _REFUSALS:
                    return False
                raise
            self._drop(connection)
            return True

    # ---- searches

    def _search(self, base: str, filter: str, attributes: list[str], *, just_base: bool = False) -> list[Entry]:
        ldap, size = self._ldap, self._options.page_size
        scope = ldap.SCOPE_SUBTREE if self._options.query_scope == "sub" else ldap.SCOPE_ONELEVEL
        scope = ldap.SCOPE_BASE if just_base else scope

        def work(connection: Any) -> list[Entry]:
            found: list[Entry] = []
            control = ldap.controls.SimplePagedResultsControl(True, size=size, cookie="") if size else None
            while True:
                number = connection.search_ext(
                    base, scope, filter, attributes, serverctrls=[control] if control else None,
                    timeout=self._options.timeout, sizelimit=0 if control else MOST,
                )  # fmt: skip
                try:
                    _, data, _, controls = connection.result3(number, timeout=self._options.timeout)
                except ldap.NO_SUCH_OBJECT:
                    return []
                found += [(dn, values) for dn, values in data if dn is not None]  # None: a referral
                if len(found) > MOST:
                    raise DirectoryFailed(f"it has more than {MOST} entries")
                cookies = [one.cookie for one in controls if one.controlType == ldap.CONTROL_PAGEDRESULTS]
                if control is None or not cookies or not cookies[0]:
                    return found
                control.cookie = cookies[0]

        return self._with(work)

    def _people(self, condition: str) -> list[Person]:
        options = self._options
        text = f"(&{options.user_filter or ''}(objectClass={options.user_objectclass}){condition})"
        entries = self._search(options.user_base, text, user_attributes(options))
        enabled = self._emulated() if entries and options.user_enabled_emulation else None
        found = []
        for entry in entries:
            said = None if enabled is None else (same(entry[0]) in enabled) != options.user_enabled_invert
            if (one := person(options, entry, said)) is not None:
                found.append(one)
        return found

    def _emulated(self) -> set[Any]:
        """The names of those who are in the group that stands for being enabled."""
        options = self._options
        base = options.user_enabled_emulation_dn or f"cn=enabled_users,{options.user_base}"
        own = options.user_enabled_emulation_use_group_config
        kind = options.group_objectclass if own else "groupOfNames"
        member = options.group_member_attribute if own else "member"
        entries = self._search(base, f"(objectClass={kind})", [member], just_base=True)
        names = [
            value.decode(errors="replace")
            for _, values in entries
            for name, listed in values.items()
            if name.lower() == member.lower()
            for value in listed
        ]
        return {known for name in names if (known := same(name)) is not None}

    def people(self, *, name: str | None = None, ids: Iterable[str] | None = None) -> list[Person]:
        options = self._options
        if ids is not None:
            return _of(set(ids), options.user_id_attribute, self._people)
        if name is not None:
            return self._people(f"({options.user_name_attribute}={escaped(name)})")
        return self._people(f"({options.user_id_attribute}=*)")

    def _teams(self, condition: str) -> list[Team]:
        options = self._options
        text = f"(&{options.group_filter or ''}(objectClass={options.group_objectclass}){condition})"
        entries = self._search(options.group_base, text, group_attributes(options))
        return [one for entry in entries if (one := team(options, entry)) is not None]

    def teams(
        self, *, name: str | None = None, ids: Iterable[str] | None = None, of: Person | None = None
    ) -> list[Team]:
        options = self._options
        if ids is not None:
            return _of(set(ids), options.group_id_attribute, self._teams)
        if of is not None:
            value = escaped(of.local_id if options.group_members_are_ids else of.dn)
            return self._teams(f"({options.group_member_attribute}{self._rule()}={value})")
        if name is not None:
            return self._teams(f"({options.group_name_attribute}={escaped(name)})")
        return self._teams(f"({options.group_id_attribute}=*)")

    def _rule(self) -> str:
        return f":{NESTED}:" if self._options.group_ad_nesting else ""

    def members(self, team: Team) -> list[Person]:
        if self._options.group_ad_nesting:
            return self._people(f"(memberOf:{NESTED}:={escaped(team.dn)})")
        if self._options.group_members_are_ids:
            return self.people(ids=team.members)
        wanted = {known for dn in team.members if (known := same(dn)) is not None}
        parts = {part for dn in team.members if (part := first_part(dn)) is not None}
        found: dict[str, Person] = {}
        for some in _parts(parts):
            condition = "(|" + "".join(f"({name}={escaped(value)})" for name, value in some) + ")"
            found |= {one.dn: one for one in self._people(condition) if same(one.dn) in wanted}
        return list(found.values())


def _of(wanted: set[str], attribute: str, ask: Callable[[str], list[Known]]) -> list[Known]:
    """Those with these local ids, to the letter: a server may tell no case apart."""
    found = [one for part in _parts(wanted) for one in ask(any_of(attribute, part))]
    return [one for one in found if one.local_id in wanted]


def _parts(values: Iterable[T]) -> Iterator[list[T]]:
    """The values, some at a time."""
    rest = iter(sorted(values))  # type: ignore[type-var]
    while part := list(islice(rest, _AT_ONCE)):
        yield part

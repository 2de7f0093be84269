# SPDX-License-Identifier: Apache-2.0
"""Who and what is meant by the ``id`` or by the names in a request for a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, select

from cumulet.identity.errors import expecting
from cumulet.identity.logic.directories import Directories
from cumulet.identity.models import PROJECTS, USERS
from cumulet.kernel.db import Database, Row
from cumulet.kernel.errors import Unauthorized

_WANTED: Any = bindparam("wanted")
_USER = select(USERS).where(USERS.c.id == _WANTED)
_USER_NAMED = select(USERS).where(USERS.c.domain_id == bindparam("domain"), USERS.c.name == _WANTED)
_DOMAINS = select(PROJECTS).where(PROJECTS.c.is_domain.is_(True), PROJECTS.c.enabled.is_(True))
_DOMAIN, _DOMAIN_NAMED = _DOMAINS.where(PROJECTS.c.id == _WANTED), _DOMAINS.where(PROJECTS.c.name == _WANTED)
_PROJECTS = select(PROJECTS).where(PROJECTS.c.is_domain.is_(False))
_PROJECT = _PROJECTS.where(PROJECTS.c.id == _WANTED)
_PROJECT_NAMED = _PROJECTS.where(PROJECTS.c.domain_id == bindparam("domain"), PROJECTS.c.name == _WANTED)


class Naming:
    """Looks up users, domains and projects as authentication documents name them."""

    def __init__(self, database: Database, directories: Directories) -> None:
        self._database, self._directories = database, directories

    async def _first(self, statement: Any, params: Mapping[str, str]) -> Row | None:
        """The row of a name or id; nobody has one with a NUL, which PostgreSQL would not even take to look for."""
        if any("\0" in value for value in params.values()):
            return None
        return await self._database.first(statement, params)

    async def user_of(self, user_id: str) -> Row | None:
        return await self._first(_USER, {"wanted": user_id})

    async def user(self, named: dict[str, Any]) -> Row | None:
        """The user of an ``id``, or of a ``name`` in an enabled ``domain``; one of a directory has a ``dn``.

        Of two of one name in a domain with a directory, our own one is meant.
        """
        if "id" in named:
            theirs, row = await self._directories.user_of(named["id"])
            return row if theirs else await self.user_of(named["id"])
        if "domain" not in named:
            raise expecting("domain", "user")
        domain = await self.domain(named["domain"])
        if domain is None:
            return None
        own = await self._first(_USER_NAMED, {"domain": domain["id"], "wanted": named["name"]})
        if own is not None and not await self._directories.knows(own["id"]):
            return own
        return (await self._directories.user_named(domain["id"], named["name"]))[1]

    async def domain(self, named: dict[str, Any]) -> Row | None:
        """The enabled domain of an ``id`` or ``name``."""
        by_id = "id" in named
        return await self._first(
            _DOMAIN if by_id else _DOMAIN_NAMED, {"wanted": named["id"] if by_id else named["name"]}
        )

    async def project(self, named: dict[str, Any]) -> str:
        """The id of a project; raises Unauthorized for none."""
        if "name" in named:
            if "domain" not in named:
                raise expecting("domain", "project")
            domain = await self.domain(named["domain"])
            params = {"domain": domain["id"] if domain else "", "wanted": named["name"]}
            row = await self._first(_PROJECT_NAMED, params)
        else:
            row = await self._first(_PROJECT, {"wanted": named["id"]})
        if row is None:
            raise Unauthorized
        project_id: str = row["id"]
        return project_id


def guess_key(named: dict[str, Any]) -> str:
    """By what guesses at one user are counted, whether or not there is such a user."""
    domain = named.get("domain") or {}
    return str(named.get("id") or f"{domain.get('id') or domain.get('name')}/{named.get('name')}")[:300]

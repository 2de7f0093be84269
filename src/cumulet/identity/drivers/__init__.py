# SPDX-License-Identifier: Apache-2.0
"""Directories of people that are somebody else's: what one says, and how it is asked.

A directory is read only, and everything here may block: `logic.directories` asks
in threads of each domain's own. Invariant: what a directory says is data; names
and identifiers reach it escaped, and no password leaves this package.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol


class DirectoryFailed(Exception):
    """The directory gives no answer; the text says why, without secrets, and ``detail`` more for operators."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


class DirectoryDown(DirectoryFailed):
    """Nobody answers: the next request need not wait for that again at once."""


@dataclass(frozen=True)
class Person:
    """One user of a directory."""

    local_id: str
    name: str
    dn: str
    enabled: bool
    default_project_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Team:
    """One group of a directory; ``members`` are as the directory writes them."""

    local_id: str
    name: str
    dn: str
    description: str
    members: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


class Directory(Protocol):
    """What a driver does; every method may block and raises DirectoryFailed."""

    def people(self, *, name: str | None = None, ids: Iterable[str] | None = None) -> list[Person]:
        """All users, or those of a name, or of some local ids."""
        ...

    def teams(
        self, *, name: str | None = None, ids: Iterable[str] | None = None, of: Person | None = None
    ) -> list[Team]:
        """All groups, or those of a name, of some local ids, or that a user is in."""
        ...

    def members(self, team: Team) -> list[Person]:
        """The users who are in a group."""
        ...

    def check(self, dn: str, password: str) -> bool:
        """Whether this is the password of who is named; an empty one is nobody's."""
        ...

    def close(self) -> None: ...

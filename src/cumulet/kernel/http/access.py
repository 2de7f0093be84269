# SPDX-License-Identifier: Apache-2.0
"""Access rules: what a token that was made for a few operations may be used for.

Invariant: a request that no rule names is refused before anything is looked at,
in every service, since this is the pipeline's own check and not a service's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

import msgspec

_PARTS = re.compile(r"(?P<any>\*\*)|(?P<one>\{[^}]*\}|\*)|(?P<text>[^{*]+|.)")
_LONGEST = 4096
"""Characters of the longest path that a rule can name."""


class AccessRule(msgspec.Struct, frozen=True):
    """One operation that a token is good for; ``path`` may hold ``{name}``, ``*`` (one segment) and ``**``."""

    service: str
    method: str
    path: str


def permits(rules: Iterable[AccessRule], types: Iterable[str], method: str, mount: str, path: str) -> bool:
    """Whether any rule names this request.

    ``types`` are the service's catalogue types; ``path`` stands below its
    ``mount``, and a rule may name it with or without that. Anybody may validate
    a token that he has.
    """
    if method == "GET" and path == "/v3/auth/tokens" and "identity" in types:
        return True
    if len(path) > _LONGEST:
        return False
    return any(
        rule.method == method
        and rule.service in types
        and (_matches(_parts(rule.path), path) or _matches(_parts(rule.path), mount + path))
        for rule in rules
    )


@functools.lru_cache(maxsize=4096)
def _parts(pattern: str) -> tuple[str | None, ...]:
    """The pattern as literal texts, empty for one segment and None for anything."""
    return tuple(match["text"] or ("" if match["one"] else None) for match in _PARTS.finditer(pattern))


def _matches(parts: tuple[str | None, ...], path: str) -> bool:
    """Whether the parts cover the whole path; the work grows with both lengths only, whatever a user wrote."""
    places = {0}
    for part in parts:
        if not places:
            return False
        if part is None:
            places = set(range(min(places), len(path) + 1))
        elif part:
            places = {place + len(part) for place in places if path.startswith(part, place)}
        else:
            reached, inside = set(), False
            for end in range(min(places) + 1, len(path) + 1):
                inside = (inside or end - 1 in places) and path[end - 1] != "/"
                if inside:
                    reached.add(end)
            places = reached
    return len(path) in places

# SPDX-License-Identifier: Apache-2.0
"""The feed by which other services learn at once that a token says something else (our own addition)."""

from __future__ import annotations

from typing import Any

from cumulet.identity.api.answers import identity_of
from cumulet.identity.logic.feed import told
from cumulet.kernel.http import Query, Request, Route
from cumulet.kernel.http.fields import COUNT, Param

LONGEST = 20
"""Seconds that a request waits for the next change at most."""


async def follow(request: Request) -> dict[str, Any]:
    """The changes after a number, as soon as there are any: within ``wait`` seconds an empty answer."""
    feed, after = identity_of(request).feed, request.query.get("after", 0)
    await feed.wait(after, min(request.query.get("wait", LONGEST), LONGEST))
    sequence, rows = await feed.since(after)
    return {"sequence": sequence, "revoked": [told(row) for row in rows]}


ROUTES = [
    Route(
        "GET /cumulet/revocations", follow, policy="identity:list_revoke_events",
        query=Query(Param("after", COUNT), Param("wait", COUNT)),
    ),
]  # fmt: skip

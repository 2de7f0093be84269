# SPDX-License-Identifier: Apache-2.0
"""What made tokens void (OS-REVOKE), and what is left of tokens signed by certificates (OS-SIMPLE-CERT): a refusal."""

from __future__ import annotations

from typing import Any

from cumulet.identity.api.answers import identity_of, url
from cumulet.identity.schemas import TEXT
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Gone, Invalid
from cumulet.kernel.http import Param, Query, Request, Route

_NAMES = ("audit_id", "audit_chain_id", "user_id", "project_id", "domain_id", "role_id")


def _events(row: Row) -> list[dict[str, Any]]:
    """The events of a change: the members of one event hold together, so a token and its chain are two."""
    times = {"issued_before": clock.iso_micro_z(row["issued_before"]), "revoked_at": clock.iso_micro_z(row["made_at"])}
    if row["audit_id"] is not None:
        return [{name: row[name], **times} for name in ("audit_id", "audit_chain_id") if row[name] is not None]
    return [{**{name: row[name] for name in _NAMES if row[name] is not None}, **times}]


async def list_events(request: Request) -> dict[str, Any]:
    since: float | None = None
    if request.query.get("since"):
        try:
            since = clock.parse_iso(request.query["since"])
        except ValueError:
            raise Invalid("invalid date format") from None
    rows = await identity_of(request).feed.voided(since)
    links = {"next": None, "self": url(request, "OS-REVOKE/events"), "previous": None}
    return {"events": [event for row in rows for event in _events(row)], "links": links}


async def gone(request: Request) -> None:
    raise Gone("This API is no longer available due to the removal of support for PKI tokens.")


ROUTES = [
    Route(
        "GET /OS-REVOKE/events", list_events, policy="identity:list_revoke_events", query=Query(Param("since", TEXT))
    ),
    Route("GET /OS-SIMPLE-CERT/ca", gone, public=True),
    Route("GET /OS-SIMPLE-CERT/certificates", gone, public=True),
]

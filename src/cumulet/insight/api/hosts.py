# SPDX-License-Identifier: Apache-2.0
"""Hosts over HTTP: tokens that let one join, joining itself, maintenance, removal.

``POST /join`` and ``POST /join/standing`` need no token of identity: a machine
that joins has none yet, and one that was removed has none any more. What
proves them is in the body.
"""

from __future__ import annotations

from typing import Any, Final

from cumulet.insight import policy
from cumulet.insight.logic import Insight
from cumulet.kernel import clock
from cumulet.kernel.http import Body, Request, Route
from cumulet.kernel.http.fields import Schema

_NAME: Final[Schema] = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"}
_SECRET: Final[Schema] = {"type": "string", "pattern": r"^[A-Za-z0-9_-]{32,128}$"}
_CLOUD: Final[Schema] = {"type": "string", "pattern": r"^[A-Za-z0-9_-]{1,128}$"}
_REASON: Final[Schema] = {"type": ["string", "null"], "minLength": 1, "maxLength": 255}
_DEFAULT, _LONGEST = 900, 7 * 86_400


def _body(required: list[str], **properties: Schema) -> Body:
    return Body(
        None,
        raw={"type": "object", "properties": properties, "required": required, "additionalProperties": False},
    )


async def new_token(request: Request) -> dict[str, Any]:
    insight: Insight = request.service
    given = request.body
    made = await insight.hosts.new_token(
        host=given.get("host"), seconds=given.get("seconds", _DEFAULT), by=request.context.user_id
    )
    return {**made, "expires_at": clock.iso_micro_z(made["expires_at"])}


async def join(request: Request) -> dict[str, Any]:
    insight: Insight = request.service
    given = request.body
    return await insight.hosts.join(
        token=given["token"], host=given["host"], claim=given["claim"], remote=request.remote, cloud=given.get("cloud")
    )


async def standing(request: Request) -> dict[str, Any]:
    insight: Insight = request.service
    given = request.body
    state = await insight.hosts.standing(host=given["host"], claim=given["claim"], remote=request.remote)
    return {"host": given["host"], "state": state}


async def index(request: Request) -> dict[str, Any]:
    insight: Insight = request.service
    return {"hosts": await insight.hosts.listed()}


async def update(request: Request) -> dict[str, Any]:
    insight: Insight = request.service
    given = request.body
    reason = given.get("reason") if given["maintenance"] else None
    return {"host": await insight.hosts.maintain(request.params["name"], on=given["maintenance"], reason=reason)}


async def remove(request: Request) -> None:
    insight: Insight = request.service
    await insight.hosts.remove(request.params["name"])


ROUTES: Final = [
    Route(
        "POST /join-tokens", new_token, policy=policy.JOIN_TOKENS, ok=201,
        body=_body([], host=_NAME, seconds={"type": "integer", "minimum": 1, "maximum": _LONGEST}),
    ),
    Route(
        "POST /join", join, public=True, ok=201,
        body=_body(["token", "host", "claim"], token=_SECRET, host=_NAME, claim=_SECRET, cloud=_CLOUD),
    ),
    Route(
        "POST /join/standing", standing, public=True, body=_body(["host", "claim"], host=_NAME, claim=_SECRET),
    ),
    Route("GET /hosts", index, policy=policy.HOSTS),
    Route(
        "PATCH /hosts/{name}", update, policy=policy.MAINTAIN,
        body=_body(["maintenance"], maintenance={"type": "boolean"}, reason=_REASON),
    ),
    Route("DELETE /hosts/{name}", remove, policy=policy.REMOVE, ok=204),
]  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""The Cumulet API, version 1: the flow of a server, why it has its host, the state of the cloud, and its hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import orjson

from cumulet.insight import policy
from cumulet.insight.api import hosts
from cumulet.insight.check import checker
from cumulet.insight.flow import STEPS, Row, without_hosts_why
from cumulet.insight.logic import Insight
from cumulet.kernel import clock, ids
from cumulet.kernel.bus.model import POISONS
from cumulet.kernel.errors import Fault, Invalid, NotFound, Unauthorized, Unavailable
from cumulet.kernel.http import Answer, Body, Param, Query, Request, Route
from cumulet.kernel.http.route import under
from cumulet.kernel.policy import Target

_LONGEST_NUMBER = 18


# ---- versions


async def list_versions(request: Request) -> dict[str, Any]:
    return {"versions": [_version(request)]}


async def show_version(request: Request) -> dict[str, Any]:
    return {"version": _version(request)}


def _version(request: Request) -> dict[str, Any]:
    return {"id": "v1", "status": "CURRENT", "links": [{"rel": "self", "href": f"{request.base}/v1"}]}


async def list_steps(request: Request) -> dict[str, Any]:
    """What the steps are, for whoever draws a flow that is not there yet."""
    return {
        "steps": [
            {"step": step.published, "name": step.name, "between": step.between, "transport": step.transport}
            for step in STEPS
        ]
    }


# ---- servers


async def find_server(request: Request) -> Target:
    """The server's project: compute's word, or what we remember of a server that is gone.

    Raises NotFound unless the caller could see the server.
    """
    insight: Insight = request.service
    server_id = request.params["server_id"]
    missing = NotFound(f"Server {server_id[:64]} could not be found.")
    if not ids.is_uuid(server_id):
        raise missing
    try:
        server = await insight.server(server_id)
        return {"project_id": server["tenant_id"], "user_id": server.get("user_id")}
    except (NotFound, Unavailable) as fault:
        project = await insight.project_of(server_id)
        target = {"project_id": project}
        if project is not None and request.allows(policy.FLOW, target):
            return target
        raise (missing if project is not None else fault) from None


async def show_flow(request: Request) -> dict[str, Any]:
    insight: Insight = request.service
    server_id = request.params["server_id"]
    flow = await insight.flow(server_id, hosts=request.allows(policy.FLOW_HOSTS))
    return {
        "server": server_id,
        "finished": flow.finished,
        "events": [row.document() for row in flow.rows],
        "beside": [row.document() for row in flow.beside],
    }


async def stream_flow(request: Request) -> Answer:
    """The same rows one by one, as server-sent events; the id is the number to go on from."""
    offered = request.headers.get("last-event-id", "").strip() or "0"
    if not (offered.isascii() and offered.isdigit() and len(offered) <= _LONGEST_NUMBER):
        raise Invalid("Last-Event-ID must be the id of an event of this stream.")
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return Answer(stream=_stream(request, int(offered)), headers=headers, content_type="text/event-stream")


async def _stream(request: Request, after: int) -> AsyncIterator[bytes]:
    insight: Insight = request.service
    assert request.watch is not None
    hosts = request.allows(policy.FLOW_HOSTS)
    gone: asyncio.Future[None] = asyncio.ensure_future(request.watch.lost())
    try:
        yield b"retry: 1000\n\n"
        async for rows in insight.follow(request.params["server_id"], after, gone, hosts=hosts):
            if rows:
                yield b"".join(_sse(row) for row in rows)
            elif await _still_valid(request):
                yield b": alive\n\n"
            else:
                return
    finally:
        gone.cancel()


def _sse(row: Row) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (row.sequence, orjson.dumps(row.document()))


async def _still_valid(request: Request) -> bool:
    """Whether the token that opened the stream would open it again."""
    try:
        await request.service.authenticator.verify(request.context.token or "")
    except Unauthorized:
        return False
    except Fault:
        pass  # identity can't be asked now: not a word about the token
    return True


async def show_why(request: Request) -> dict[str, Any]:
    insight: Insight = request.service
    told = await insight.why(request.params["server_id"])
    return told if request.allows(policy.WHY_HOSTS) else without_hosts_why(told)


# ---- the whole cloud


async def check(request: Request) -> dict[str, Any]:
    """Every invariant of the cloud: what is broken, in sentences, and what would mend it."""
    insight: Insight = request.service
    found = await checker.check(insight.session, insight.config.check_again_seconds)
    verdict: dict[str, Any] = msgspec.to_builtins(found)
    return verdict


async def repair(request: Request) -> dict[str, Any]:
    """Mend the named findings that are still there."""
    wanted = {(one["rule"], one["id"]) for one in request.body["findings"]}
    insight: Insight = request.service
    done = await checker.repair(insight.session, wanted, insight.config.check_again_seconds)
    return {"repaired": msgspec.to_builtins(done)}


async def list_roles(request: Request) -> dict[str, Any]:
    """The processes of the cloud: what each runs, where, since when, and whether it lives."""
    insight: Insight = request.service
    shown = []
    for row in await insight.processes():
        times = {name: clock.iso_micro_z(row[name]) for name in ("started_at", "seen_at")}
        shown.append({name: value for name, value in row.items() if name != "every"} | times)
    return {"processes": shown}


async def list_messages(request: Request) -> dict[str, Any]:
    """The newest messages between processes that were set aside because of what they are, oldest first."""
    insight: Insight = request.service
    found = await insight.bus.poison(request.query.get("limit", 100))
    return {"messages": [{**msgspec.to_builtins(one), "at": clock.iso_micro_z(one.at)} for one in found]}


_FINDING = {
    "type": "object",
    "properties": {"rule": {"type": "string"}, "id": {"type": "string"}},
    "required": ["rule", "id"],
}
_REPAIR = Body(
    None,
    raw={
        "type": "object",
        "properties": {"findings": {"type": "array", "maxItems": 10_000, "items": _FINDING}},
        "required": ["findings"],
        "additionalProperties": False,
    },
)

_MESSAGES = Query(Param("limit", {"type": "integer", "minimum": 1, "maximum": POISONS}), strict_since=None)

ROUTES = [
    Route("GET /", list_versions, public=True),
    Route("GET /v1", show_version, public=True),
    *under(
        "/v1",
        [
            Route("GET /steps", list_steps, policy=policy.STEPS),
            Route("GET /check", check, policy=policy.CHECK),
            Route("GET /roles", list_roles, policy=policy.ROLES),
            Route("GET /messages", list_messages, policy=policy.MESSAGES, query=_MESSAGES),
            Route("POST /check/repair", repair, policy=policy.REPAIR, body=_REPAIR),
            Route("GET /servers/{server_id}/flow", show_flow, policy=policy.FLOW, target=find_server),
            Route("GET /servers/{server_id}/flow/stream", stream_flow, policy=policy.FLOW, target=find_server),
            Route("GET /servers/{server_id}/why", show_why, policy=policy.WHY, target=find_server),
            *hosts.ROUTES,
        ],
    ),
]

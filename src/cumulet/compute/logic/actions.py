# SPDX-License-Identifier: Apache-2.0
"""The log of what was asked of a server (instance actions) and how each part of it went.

Clients find an action again by the request id of the call that asked for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import and_, or_, select

from cumulet.compute.errors import marker_missing
from cumulet.compute.logic import Compute
from cumulet.compute.models import ACTION_EVENTS, ACTIONS
from cumulet.kernel import clock, context, ids
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import NotFound


async def record(tx: Transaction, server_id: str, action: str, project_id: str) -> str:
    """Write that the running request asked for ``action``; returns the action's id."""
    caller, now = context.current(), clock.now()
    values = {
        "id": ids.new_uuid(),
        "server_id": server_id,
        "action": action,
        "request_id": caller.request_id if caller else "",
        "user_id": (caller.user_id if caller else None) or "",
        "project_id": (caller.project_id if caller else None) or project_id,
        "message": None,
        "started_at": now,
        "updated_at": now,
    }
    await tx.insert(ACTIONS, values)
    return str(values["id"])


async def newest(tx: Transaction, server_id: str, action: str) -> Row | None:
    """The last action of that name on a server: the one that a saga works for."""
    a = ACTIONS
    statement = select(a).where(a.c.server_id == server_id, a.c.action == action)
    return await tx.first(statement.order_by(a.c.started_at.desc()).limit(1))


async def end_event(
    tx: Transaction,
    server_id: str,
    action: str,
    event: str,
    *,
    started_at: float,
    host: str | None = None,
    error: str | None = None,
) -> None:
    """Record one finished part of the newest ``action``; with ``error`` the action shows "Error" as published."""
    row = await newest(tx, server_id, action)
    if row is None:
        return
    now = clock.now()
    values = {
        "id": ids.new_uuid(), "action_id": row["id"], "event": event, "started_at": started_at, "finished_at": now,
        "result": "Error" if error else "Success", "traceback": None, "host": host,
        "details": error[:255] if error else None,
    }  # fmt: skip
    await tx.insert(ACTION_EVENTS, values)
    changes: dict[str, Any] = {"updated_at": now}
    if error:
        changes["message"] = "Error"
    await tx.run(ACTIONS.update().where(ACTIONS.c.id == row["id"]).values(**changes))


async def list_of(compute: Compute, server_id: str, query: Mapping[str, Any], limit: int | None) -> list[Row]:
    """A server's actions, newest first; ``query`` may hold changes-since, changes-before and marker."""
    a = ACTIONS
    statement = select(a).where(a.c.server_id == server_id)
    if (since := query.get("changes-since")) is not None:
        statement = statement.where(a.c.updated_at >= since)
    if (before := query.get("changes-before")) is not None:
        statement = statement.where(a.c.updated_at <= before)
    if (marker := query.get("marker")) is not None:
        last = await compute.db.first(select(a).where(a.c.server_id == server_id, a.c.request_id == marker))
        if last is None:
            raise marker_missing(marker)
        same = and_(a.c.started_at == last["started_at"], a.c.id < last["id"])
        statement = statement.where(or_(a.c.started_at < last["started_at"], same))
    statement = statement.order_by(a.c.started_at.desc(), a.c.id.desc())
    return await compute.db.all(statement if limit is None else statement.limit(limit))


async def show(compute: Compute, server_id: str, request_id: str) -> tuple[Row, list[Row]]:
    """One action by its request id, with its events, newest first; raises NotFound."""
    a, e = ACTIONS, ACTION_EVENTS
    row = await compute.db.first(select(a).where(a.c.server_id == server_id, a.c.request_id == request_id))
    if row is None:
        raise NotFound(f"Action {request_id} not found")
    events = await compute.db.all(select(e).where(e.c.action_id == row["id"]).order_by(e.c.started_at.desc()))
    return row, events

# SPDX-License-Identifier: Apache-2.0
"""The log of what was asked of a server (instance actions) and how each part of it went.

Clients find an action again by the request id of the call that asked for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import and_, or_, select

from cumulet.compute.errors import marker_missing
from cumulet.compute.logic import Compute
from cumulet.compute.models import ACTIONS, SAGAS
from cumulet.kernel import clock, context, ids
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import NotFound

EVENTS: Final = {
    "create": "compute__do_build_and_run_instance",
    "delete": "compute_terminate_instance",
    "start": "compute_start_instance",
    "stop": "compute_stop_instance",
    "reboot": "compute_reboot_instance",
    "attach_volume": "compute_attach_volume",
    "detach_volume": "compute_detach_volume",
    "attach_interface": "compute_attach_interface",
    "detach_interface": "compute_detach_interface",
}
"""action → the event that clients wait for."""


async def record(
    tx: Transaction, server_id: str, action: str, project_id: str, saga_id: str | None = None
) -> None:  # fmt: skip
    """Write that the running request asked for ``action``, which that saga does (None: it is done)."""
    caller, now = context.current(), clock.now()
    values = {
        "id": ids.new_uuid(),
        "server_id": server_id,
        "action": action,
        "request_id": caller.request_id if caller else "",
        "user_id": (caller.user_id if caller else None) or "",
        "project_id": (caller.project_id if caller else None) or project_id,
        "message": None,
        "saga_id": saga_id,
        "started_at": now,
        "updated_at": now,
    }
    await tx.insert(ACTIONS, values)


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


async def show(compute: Compute, server_id: str, request_id: str) -> tuple[Row, list[dict[str, Any]]]:
    """One action by its request id, with what became of it; raises NotFound."""
    a = ACTIONS
    statement = select(a).where(a.c.server_id == server_id, a.c.request_id == request_id)
    row = await compute.db.first(statement.order_by(a.c.started_at.desc()).limit(1))
    if row is None:
        raise NotFound(f"Action {request_id} not found")
    event: dict[str, Any] = {
        "event": EVENTS.get(row["action"], f"api_{row['action']}"), "started_at": row["started_at"],
        "finished_at": row["started_at"], "result": "Success", "traceback": None, "host": None, "details": None,
    }  # fmt: skip
    if row["saga_id"] is None:
        return row, [event]
    saga = await compute.db.first(select(SAGAS).where(SAGAS.c.id == row["saga_id"]))
    if saga is None:
        return row, []
    over = saga["state"] != "ready"
    event |= {"host": (saga["outputs"].get("host") or {}).get("host"), "result": None, "finished_at": None}
    if over:
        event |= {"finished_at": saga["updated_at"], "result": "Success" if saga["state"] == "done" else "Error"}
    if over and saga["state"] != "done":
        event["details"] = str((saga["error"] or {}).get("message") or "")[:255] or None
        row = {**row, "message": "Error"}
    return {**row, "updated_at": max(row["updated_at"], saga["updated_at"])}, [event]

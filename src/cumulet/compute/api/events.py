# SPDX-License-Identifier: Apache-2.0
"""External events: what the network and volume services tell about a server. Source: "Create external events"."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import select

from cumulet.compute import rpc
from cumulet.compute.logic import Compute
from cumulet.compute.models import SERVERS
from cumulet.compute.schemas import UUID
from cumulet.kernel.http import Answer, Body, Field, Request, Route
from cumulet.kernel.http.fields import Schema, array, record, text

NEEDS_TAG: Final = frozenset({"volume-extended", "power-update", "accelerator-request-bound"})
_NAMES = ["network-changed", "network-vif-plugged", "network-vif-unplugged", "network-vif-deleted"]


async def create(request: Request) -> Answer:
    """Hand each event on to the conductor; one about a server without a host is told so (207).

    A joined host knows of the servers on it and of no others.
    """
    compute: Compute = request.service
    events = request.body["events"]
    wanted = sorted({event["server_uuid"] for event in events})
    s = SERVERS.c
    rows = await compute.db.all(select(s.id, s.host).where(s.id.in_(wanted), s.deleted_at.is_(None)))
    hosts = {row["id"]: row["host"] for row in rows if request.context.host in (None, row["host"])}
    status, told = 200, []
    for event in events:
        code = _judge(event, hosts)
        if code == 200:
            carried = rpc.ServerEvent(
                event["server_uuid"], event["name"], status=event.get("status", "completed"), tag=event.get("tag")
            )
            await compute.bus.cast(rpc.EVENT, carried)
        else:
            status = 207
        told.append({**event, "status": "completed" if code == 200 else "failed", "code": code})
    return Answer({"events": told}, status=status)


def _judge(event: dict[str, Any], hosts: dict[str, str | None]) -> int:
    if event["server_uuid"] not in hosts:
        return 404
    if event["name"] in NEEDS_TAG and event.get("tag") is None:
        return 400
    return 200 if hosts[event["server_uuid"]] else 422


def _events(*more: str) -> Schema:
    item = record(
        {
            "name": {"enum": [*_NAMES, *more]}, "server_uuid": UUID,
            "status": {"enum": ["failed", "completed", "in-progress"]}, "tag": text(0, 255),
        },
        ("name", "server_uuid"),
    )  # fmt: skip
    return array(item, minItems=1)


_EXTENDED, _POWER, _BOUND = "volume-extended", "power-update", "accelerator-request-bound"
CREATE: Final = Body(
    None,
    Field("events", _events(), until="2.50"),
    Field("events", _events(_EXTENDED), since="2.51", until="2.75"),
    Field("events", _events(_EXTENDED, _POWER), since="2.76", until="2.81"),
    Field("events", _events(_EXTENDED, _POWER, _BOUND), since="2.82", until="2.92"),
    Field("events", _events(_EXTENDED, _POWER, _BOUND, "volume-reimaged"), since="2.93"),
)
ROUTES: Final = [
    Route(
        "POST /os-server-external-events", create, body=CREATE,
        policy="os_compute_api:os-server-external-events:create",
    ),
]  # fmt: skip

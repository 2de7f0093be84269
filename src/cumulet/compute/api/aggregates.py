# SPDX-License-Identifier: Apache-2.0
"""Host aggregates. Source: Compute API reference, "Host aggregates"."""

from __future__ import annotations

from typing import Any, Final

from cumulet.compute.logic import aggregates
from cumulet.compute.schemas import FQDN, LOOSE_NAME, NAME, STRICT_ALL, ZONE_NAME
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.http import Body, Field, Out, Query, Request, Route, View
from cumulet.kernel.http.fields import Schema, nullable, text

_ALWAYS = (
    Out("id", "number"), Out("uuid", "id", since="2.41"), Out("name"), Out("availability_zone", "zone"),
    Out("created_at", "created"), Out("updated_at", "updated"), Out("deleted", lambda row: False),
    Out("deleted_at", lambda row: None),
)  # fmt: skip
CREATED: Final = View(*_ALWAYS)
AGGREGATE: Final = View(*_ALWAYS, Out("hosts"), Out("metadata"))


def _shown(row: Row) -> dict[str, Any]:
    updated = row["updated_at"]
    return {
        **row, "zone": row["metadata"].get("availability_zone"), "created": clock.iso_micro(row["created_at"]),
        "updated": None if updated is None else clock.iso_micro(updated),
    }  # fmt: skip


def _answer(request: Request, row: Row, table: View = AGGREGATE) -> dict[str, Any]:
    return {"aggregate": request.render(table, _shown(row))}


async def index(request: Request) -> dict[str, Any]:
    rows = await aggregates.find(request.service)
    return {"aggregates": [request.render(AGGREGATE, _shown(row)) for row in rows]}


async def create(request: Request) -> dict[str, Any]:
    body = request.body
    row = await aggregates.create(request.service, body["name"], body.get("availability_zone"))
    return _answer(request, row, CREATED)


async def show(request: Request) -> dict[str, Any]:
    return _answer(request, await aggregates.load(request.service, request.params["aggregate_id"]))


async def update(request: Request) -> dict[str, Any]:
    changes = {**request.body, **({"name": request.body["name"].strip()} if "name" in request.body else {})}
    return _answer(request, await aggregates.update(request.service, request.params["aggregate_id"], changes))


async def delete(request: Request) -> None:
    await aggregates.delete(request.service, request.params["aggregate_id"])


async def add_host(request: Request) -> dict[str, Any]:
    host = request.body["host"]
    return _answer(request, await aggregates.add_host(request.service, request.params["aggregate_id"], host))


async def remove_host(request: Request) -> dict[str, Any]:
    host = request.body["host"]
    return _answer(request, await aggregates.remove_host(request.service, request.params["aggregate_id"], host))


async def set_metadata(request: Request) -> dict[str, Any]:
    changes = request.body["metadata"]
    return _answer(request, await aggregates.set_metadata(request.service, request.params["aggregate_id"], changes))


_METADATA: Final[Schema] = {
    "type": "object",
    "patternProperties": {r"^[a-zA-Z0-9\-_:. ]{1,255}$": nullable(text(0, 255))},
    "additionalProperties": False,
}
CREATE: Final = Body(
    "aggregate", Field("name", NAME), Field("availability_zone", nullable(ZONE_NAME), optional=True)
)  # fmt: skip
UPDATE: Final = Body(
    "aggregate", Field("name", LOOSE_NAME), Field("availability_zone", nullable(ZONE_NAME)), verb="put",
    at_least_one=True,
)  # fmt: skip
PLAIN: Final = Query(strict_since=STRICT_ALL)
_RULES, _AT = "os_compute_api:os-aggregates:", "/os-aggregates/{aggregate_id}"
ROUTES: Final = [
    Route("GET /os-aggregates", index, policy=_RULES + "index", query=PLAIN),
    Route("POST /os-aggregates", create, body=CREATE, policy=_RULES + "create"),
    Route(f"GET {_AT}", show, policy=_RULES + "show", query=PLAIN),
    Route(f"PUT {_AT}", update, body=UPDATE, policy=_RULES + "update"),
    Route(f"DELETE {_AT}", delete, policy=_RULES + "delete"),
    Route(
        f"POST {_AT}/action#add_host", add_host, body=Body("add_host", Field("host", FQDN)),
        policy=_RULES + "add_host",
    ),
    Route(
        f"POST {_AT}/action#remove_host", remove_host, body=Body("remove_host", Field("host", FQDN)),
        policy=_RULES + "remove_host",
    ),
    Route(
        f"POST {_AT}/action#set_metadata", set_metadata, body=Body("set_metadata", Field("metadata", _METADATA)),
        policy=_RULES + "set_metadata",
    ),
]  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""Key pairs. Source: Compute API reference, "Keypairs"."""

from __future__ import annotations

from typing import Any, Final

from cumulet.compute.api.links import next_links, page_size
from cumulet.compute.api.targets import key_owner
from cumulet.compute.logic import keypairs
from cumulet.compute.schemas import PAGE_LIMIT, STRICT, WORD
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.http import Body, Field, Out, Param, Query, Request, Route, View
from cumulet.kernel.http.fields import text

_BRIEF = (Out("name"), Out("public_key"), Out("fingerprint"), Out("type", since="2.2"))
BRIEF: Final = View(*_BRIEF)
CREATED: Final = View(*_BRIEF, Out("user_id"), Out("private_key"))
KEY: Final = View(
    *_BRIEF, Out("user_id"), Out("id", "number"), Out("created_at", "created"), Out("deleted", lambda row: False),
    Out("deleted_at", lambda row: None), Out("updated_at", lambda row: None),
)  # fmt: skip


def _shown(row: Row) -> dict[str, Any]:
    return {**row, "created": clock.iso_micro(row["created_at"])}


async def index(request: Request) -> dict[str, Any]:
    paging = request.since("2.35")
    limit = page_size(request) if paging else None
    marker = request.query.get("marker") if paging else None
    rows = await keypairs.find(request.service, request.found, limit, marker)
    answer: dict[str, Any] = {"keypairs": [{"keypair": request.render(BRIEF, row)} for row in rows]}
    if paging and (links := next_links(request, rows, "os-keypairs", lambda row: str(row["name"]))):
        answer["keypairs_links"] = links
    return answer


async def show(request: Request) -> dict[str, Any]:
    row = await keypairs.load(request.service, request.found, request.params["name"])
    return {"keypair": request.render(KEY, _shown(row))}


async def create(request: Request) -> dict[str, Any]:
    body = request.body
    row = await keypairs.create(
        request.service, request.found, body["name"], body.get("type", "ssh"), body.get("public_key")
    )  # fmt: skip
    return {"keypair": request.render(CREATED, row)}


async def delete(request: Request) -> None:
    await keypairs.delete(request.service, request.found, request.params["name"])


_OLD = text(1, 255, pattern=r"^[_\-a-zA-Z0-9]([_\- a-zA-Z0-9]*[_\-a-zA-Z0-9])?$")
_NEW = text(1, 255, pattern=r"^[_\-@.a-zA-Z0-9]([_\-@. a-zA-Z0-9]*[_\-@.a-zA-Z0-9])?$")
CREATE: Final = Body(
    "keypair",
    Field("name", _OLD, until="2.91"),
    Field("name", _NEW, since="2.92"),
    Field("type", {"enum": ["ssh", "x509"]}, since="2.2", optional=True),
    Field("public_key", WORD, until="2.91", optional=True),
    Field("public_key", WORD, since="2.92"),
    Field("user_id", WORD, since="2.10", optional=True),
)
_OWNER = Param("user_id", WORD, since="2.10")
LIST: Final = Query(
    _OWNER, Param("limit", PAGE_LIMIT, since="2.35"), Param("marker", WORD, since="2.35"), strict_since=STRICT
)
ONE: Final = Query(_OWNER, strict_since=STRICT)

_RULES, _AT = "os_compute_api:os-keypairs:", "/os-keypairs"
ROUTES: Final = [
    Route(f"GET {_AT}", index, policy=_RULES + "index", target=key_owner, query=LIST),
    Route(f"POST {_AT}", create, until="2.1", body=CREATE, policy=_RULES + "create", target=key_owner),
    Route(f"POST {_AT}", create, since="2.2", body=CREATE, policy=_RULES + "create", target=key_owner, ok=201),
    Route(f"GET {_AT}/{{name}}", show, policy=_RULES + "show", target=key_owner, query=ONE),
    Route(f"DELETE {_AT}/{{name}}", delete, until="2.1", policy=_RULES + "delete", target=key_owner, query=ONE, ok=202),
    Route(f"DELETE {_AT}/{{name}}", delete, since="2.2", policy=_RULES + "delete", target=key_owner, query=ONE, ok=204),
]

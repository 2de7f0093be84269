# SPDX-License-Identifier: Apache-2.0
"""Snapshots and their metadata over HTTP."""

from __future__ import annotations

from typing import Any

from cumulet.kernel.db import Row
from cumulet.kernel.errors import Forbidden, Invalid, NotFound
from cumulet.kernel.http import Request, View
from cumulet.volume.api.paging import next_link, page_of
from cumulet.volume.logic import Volume, words
from cumulet.volume.logic import lists as lists_logic
from cumulet.volume.logic import snapshots as logic
from cumulet.volume.logic import volumes as volumes_logic
from cumulet.volume.models import SNAPSHOTS
from cumulet.volume.schemas import SNAPSHOT, SNAPSHOT_DETAIL, SNAPSHOT_FILTERS, SNAPSHOT_SUMMARY


async def target(request: Request) -> dict[str, Any]:
    """Load the snapshot of the path; it must be one that the caller may see."""
    request.found = await logic.load(request.service, request.context, request.params["snapshot_id"])
    return {"project_id": request.found["project_id"]}


def _view(request: Request, view: View, row: Row) -> dict[str, Any]:
    return request.render(view, row, {"project_id": row["project_id"]})


async def create(request: Request) -> dict[str, Any]:
    volume: Volume = request.service
    if request.body.get("id") and not request.context.is_service:
        raise Forbidden("Only a service may choose the id of a snapshot.")
    source = await volumes_logic.load(volume, request.context, str(request.body["volume_id"]))
    request.enforce("volume:create_snapshot", {"project_id": source["project_id"]})
    force = request.body.get("force")
    if request.since("3.66"):
        if force is False:
            raise Invalid(
                "Since microversion 3.66 the 'force' flag is invalid for this request. For backward compatability, "
                "however, when the 'force' flag is passed with a value evaluating to True, it is silently ignored."
            )
        force = True
    row = await logic.create(volume, request.context, source, request.body, in_use=bool(force))
    return {"snapshot": _view(request, SNAPSHOT, row)}


async def show(request: Request) -> dict[str, Any]:
    return {"snapshot": _view(request, SNAPSHOT_DETAIL, request.found)}


async def index(request: Request) -> dict[str, Any]:
    return await _list(request, SNAPSHOT_SUMMARY)


async def detail(request: Request) -> dict[str, Any]:
    return await _list(request, SNAPSHOT_DETAIL)


async def _list(request: Request, view: View) -> dict[str, Any]:
    volume: Volume = request.service
    page = page_of(request, SNAPSHOT_FILTERS)
    rows, total = await lists_logic.list_rows(volume, request.context, SNAPSHOTS, page)
    await logic.decorate(volume, rows)
    answer: dict[str, Any] = {"snapshots": [_view(request, view, row) for row in rows]}
    if following := next_link(request, rows, page):
        answer["snapshots_links"] = following
    if total is not None:
        answer["count"] = total
    return answer


async def update(request: Request) -> dict[str, Any]:
    row = await logic.update(request.service, request.context, request.found, request.body)
    return {"snapshot": _view(request, SNAPSHOT, row)}


async def delete(request: Request) -> None:
    await logic.remove(request.service, request.found)


# ---- metadata


async def metadata(request: Request) -> dict[str, Any]:
    return {"metadata": request.found["metadata"]}


async def metadata_item(request: Request) -> dict[str, Any]:
    key = request.params["key"]
    if key not in request.found["metadata"]:
        raise NotFound(f"Snapshot {request.found['id']} has no metadata with key {key}.")
    return {"meta": {key: request.found["metadata"][key]}}


async def add_metadata(request: Request) -> dict[str, Any]:
    return await _lay(request, {**request.found["metadata"], **request.body["metadata"]})


async def replace_metadata(request: Request) -> dict[str, Any]:
    return await _lay(request, request.body["metadata"])


async def set_metadata_item(request: Request) -> dict[str, Any]:
    key, meta = request.params["key"], request.body["meta"]
    if set(meta) != {key}:
        raise Invalid("Request body and URI mismatch")
    await _lay(request, {**request.found["metadata"], **meta})
    return {"meta": meta}


async def delete_metadata_item(request: Request) -> None:
    volume: Volume = request.service
    key, snapshot_id = request.params["key"], request.found["id"]
    if not await volume.database.run(lambda tx: words.drop(tx, snapshot_id, words.SNAPSHOT, key)):
        raise NotFound(f"Snapshot {snapshot_id} has no metadata with key {key}.")


async def _lay(request: Request, pairs: dict[str, str]) -> dict[str, Any]:
    volume: Volume = request.service
    snapshot_id = request.found["id"]
    await volume.database.run(lambda tx: words.lay(tx, snapshot_id, words.SNAPSHOT, pairs, replace=True))
    return {"metadata": pairs}

# SPDX-License-Identifier: Apache-2.0
"""Volumes and their metadata over HTTP."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Forbidden, Invalid, NotFound
from cumulet.kernel.http import Request
from cumulet.kernel.http.fields import truth
from cumulet.volume.api.paging import filters_of, links_of, next_link, page_of
from cumulet.volume.logic import Volume, words
from cumulet.volume.logic import lists as lists_logic
from cumulet.volume.logic import volumes as logic
from cumulet.volume.models import SERVICES, VOLUMES
from cumulet.volume.schemas import VOLUME, VOLUME_DETAIL, VOLUME_FILTERS, moment
from cumulet.volume.states import ATTACHED


async def target(request: Request) -> dict[str, Any]:
    """Load the volume of the path; it must be one that the caller may see."""
    volume: Volume = request.service
    request.found = await logic.load(volume, request.context, request.params["volume_id"])
    return {"project_id": request.found["project_id"]}


def _document(request: Request, row: Row) -> dict[str, Any]:
    """A volume's row in the words of the views."""
    held = row["words"]
    document = {
        **row,
        "metadata": held.get(words.USER, {}),
        "links": links_of(request, "volumes", row["id"]),
        "attachments": [_attached(request, one) for one in row["attachments"] if one["status"] == ATTACHED],
    }
    if row["readonly"]:
        document["metadata"] = {**document["metadata"], "readonly": "True"}
    if held.get(words.IMAGE):
        document["volume_image_metadata"] = held[words.IMAGE]
    return document


def _attached(request: Request, one: Row) -> dict[str, Any]:
    caller = request.context
    return {
        "id": one["volume_id"],
        "attachment_id": one["id"],
        "volume_id": one["volume_id"],
        "server_id": one["instance_uuid"],
        "host_name": one["host_name"] if caller.is_admin or caller.is_service else None,
        "device": one["mountpoint"],
        "attached_at": moment(one["attached_at"]),
    }


def _target(row: Row) -> dict[str, Any]:
    return {"project_id": row["project_id"]}


async def create(request: Request) -> dict[str, Any]:
    body = request.body
    request.enforce("volume:create_from_image" if body.get("imageRef") else "volume:create")
    if truth(body.get("multiattach") or False):
        raise Invalid(
            "multiattach parameter has been removed. The default behavior is to use multiattach enabled volume types. "
            "Contact your administrator to create a multiattach enabled volume type and use it to create multiattach "
            "volumes."
        )
    for name, noun in (("consistencygroup_id", "Group"), ("group_id", "Group"), ("backup_id", "Backup")):
        if body.get(name):
            raise NotFound(f"{noun} {body[name]} could not be found.")
    owner = [name for name in ("project_id", "user_id") if body.get(name)]
    if owner and "service" not in request.context.roles:
        raise Invalid(f"Only a service may say {' and '.join(owner)}.")
    if body.get("id") and not request.context.is_service:
        raise Forbidden("Only a service may choose the id of a volume.")
    row = await logic.create(request.service, request.context, body)
    return {"volume": request.render(VOLUME, _document(request, row), _target(row))}


async def show(request: Request) -> dict[str, Any]:
    row = request.found
    return {"volume": request.render(VOLUME_DETAIL, _document(request, row), _target(row))}


async def why(request: Request) -> dict[str, Any]:
    """Our own addition: why a volume is in error, with the back ends' names for administrators only."""
    reason = request.found["fault"] or ""
    if not request.context.is_admin:
        volume: Volume = request.service
        names = {row["host"] for row in await volume.database.all(select(SERVICES.c.host))}
        for name in sorted(names, key=len, reverse=True):
            reason = reason.replace(name, "a back end")
    return {"status": request.found["status"], "reason": reason}


async def index(request: Request) -> dict[str, Any]:
    return await _list(request, detail=False)


async def detail(request: Request) -> dict[str, Any]:
    return await _list(request, detail=True)


async def _list(request: Request, *, detail: bool) -> dict[str, Any]:
    volume: Volume = request.service
    page = page_of(request, VOLUME_FILTERS)
    rows, total = await lists_logic.list_rows(volume, request.context, VOLUMES, page)
    if detail:
        await logic.decorate(volume, rows)
        shown = [request.render(VOLUME_DETAIL, _document(request, row), _target(row)) for row in rows]
    else:
        shown = [
            {"id": row["id"], "name": row["name"], "links": links_of(request, "volumes", row["id"])} for row in rows
        ]
    answer: dict[str, Any] = {"volumes": shown}
    if following := next_link(request, rows, page):
        answer["volumes_links"] = following
    if total is not None:
        answer["count"] = total
    return answer


async def summary(request: Request) -> dict[str, Any]:
    found = await lists_logic.summary(request.service, request.context, filters_of(request, VOLUME_FILTERS))
    if not request.since("3.36"):
        del found["metadata"]
    return {"volume-summary": found}


async def update(request: Request) -> dict[str, Any]:
    row = await logic.update(request.service, request.context, request.found, request.body)
    return {"volume": request.render(VOLUME, _document(request, row), _target(row))}


async def delete(request: Request) -> None:
    force = bool(request.query.get("force"))
    if force:
        request.enforce("volume:force_delete", _target(request.found))
    cascade = bool(request.query.get("cascade"))
    await logic.remove(request.service, request.context, request.found, cascade=cascade, force=force)


# ---- metadata


def _words(request: Request) -> dict[str, str]:
    found: dict[str, str] = request.found["words"].get(words.USER, {})
    return found


async def metadata(request: Request) -> dict[str, Any]:
    return {"metadata": _words(request)}


async def metadata_item(request: Request) -> dict[str, Any]:
    key = request.params["key"]
    if key not in _words(request):
        raise _no_word(request, key)
    return {"meta": {key: _words(request)[key]}}


async def add_metadata(request: Request) -> dict[str, Any]:
    await _lay(request, request.body["metadata"], replace=False)
    return {"metadata": {**_words(request), **request.body["metadata"]}}


async def replace_metadata(request: Request) -> dict[str, Any]:
    await _lay(request, request.body["metadata"], replace=True)
    return {"metadata": request.body["metadata"]}


async def set_metadata_item(request: Request) -> dict[str, Any]:
    key, meta = request.params["key"], request.body["meta"]
    if key not in meta:
        raise Invalid("Request body and URI mismatch")
    if len(meta) > 1:
        raise Invalid("Request body contains too many items")
    await _lay(request, meta, replace=False)
    return {"meta": meta}


async def delete_metadata_item(request: Request) -> None:
    volume: Volume = request.service
    key, volume_id = request.params["key"], request.found["id"]
    if not await volume.database.run(lambda tx: words.drop(tx, volume_id, words.USER, key)):
        raise _no_word(request, key)


def _no_word(request: Request, key: str) -> NotFound:
    return NotFound(f"Volume {request.found['id']} has no metadata with key {key}.")


async def _lay(request: Request, pairs: dict[str, str], *, replace: bool, kind: str = words.USER) -> None:
    volume: Volume = request.service
    volume_id = request.found["id"]

    async def body(tx: Any) -> None:
        await words.lay(tx, volume_id, kind, pairs, replace=replace)
        await tx.run(VOLUMES.update().where(VOLUMES.c.id == volume_id).values(updated_at=clock.now()))

    await volume.database.run(body)


async def set_image_metadata(request: Request) -> dict[str, Any]:
    pairs = request.body["metadata"]
    await _lay(request, pairs, replace=False, kind=words.IMAGE)
    return {"metadata": {**request.found["words"].get(words.IMAGE, {}), **pairs}}


async def show_image_metadata(request: Request) -> dict[str, Any]:
    return {"metadata": request.found["words"].get(words.IMAGE, {})}


async def unset_image_metadata(request: Request) -> None:
    volume: Volume = request.service
    key, volume_id = request.body["key"], request.found["id"]
    if not await volume.database.run(lambda tx: words.drop(tx, volume_id, words.IMAGE, key)):
        raise NotFound(f"Volume {volume_id} has no image metadata with key {key}.")

# SPDX-License-Identifier: Apache-2.0
"""Tasks over HTTP: what imports say of themselves, and the older way of starting one.

Source: the Image API reference, "Tasks".
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode

from sqlalchemy import select

from cumulet.image.logic import Image
from cumulet.image.logic import imports as logic
from cumulet.image.models import tasks as table
from cumulet.image.schemas import CREATE, NEW_TASK, READ_ONLY, SETTABLE
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Row
from cumulet.kernel.db.pages import beyond, ordering
from cumulet.kernel.errors import Invalid, MethodNotAllowed, NotFound
from cumulet.kernel.http import Answer, Request

_LINKS = ("self", "schema")
STATUSES = ("pending", "processing", "success", "failure")
_SORT_KEYS = ("id", "type", "status", "created_at", "updated_at", "expires_at")


def view(task: Row, *, brief: bool = False) -> dict[str, Any]:
    names = ["id", "type", "status", "owner"]
    if not brief:
        names += ["input", "message", "result", "image_id", "request_id", "user_id"]
    document = {name: task[name] for name in names}
    for name in ("created_at", "updated_at", "expires_at"):
        if task[name] is not None:
            document[name] = clock.iso_z(task[name])
    return {**document, "self": f"/v2/tasks/{task['id']}", "schema": "/v2/schemas/task"}


async def of_image(request: Request) -> dict[str, Any]:
    image: Image = request.service
    mine = select(table).where(table.c.image_id == request.found["id"]).order_by(table.c.created_at)
    # published without links, and with what a record that is never deleted says of its deletion
    shown = [{**view(task), "deleted": False, "deleted_at": None} for task in await image.database.all(mine)]
    return {"tasks": [{name: one for name, one in task.items() if name not in _LINKS} for task in shown]}


async def create(request: Request) -> Answer:
    for name in ("type", "input"):
        if name not in request.body:
            raise Invalid(f"Task '{name}' is required")
    body = NEW_TASK.lift(request.body, None, lambda rule: True)
    if body["type"] != "import":
        raise Invalid(f"Tasks of the type {body['type']} are not started by this way.")
    told: dict[str, Any] = dict(body["input"] or {})
    if told.get("import_from") is None:
        raise Invalid("Invalid location: None")
    await logic.check_url(request.service, told["import_from"], "legacy import task")
    for name in ("import_from_format", "image_properties"):
        if name not in told:
            raise Invalid(f"Input does not contain '{name}' field")
    properties = told["image_properties"]
    if not isinstance(properties, dict) or set(properties) & READ_ONLY:
        raise Invalid("'image_properties' must hold what a client may set")
    if not isinstance(told["import_from_format"], str):
        raise Invalid("'import_from_format' must be a disk format")
    checked = CREATE.lift({"disk_format": told["import_from_format"], **properties}, None, lambda rule: True)
    rule = {"public": "publicize_image", "community": "communitize_image"}.get(checked.get("visibility", ""))
    if rule is not None:
        own = request.context.project_id
        request.enforce(rule, {"project_id": own, "owner": own, "visibility": checked["visibility"]})
    wanted = {name: value for name, value in checked.items() if name in SETTABLE}
    wanted["properties"] = {name: value for name, value in checked.items() if name not in {*SETTABLE, "locations"}}
    task = await logic.begin_task(request.service, request.context, wanted, told)
    document = view(task)
    return Answer(document, headers={"Location": request.base + document["self"]})


async def index(request: Request) -> dict[str, Any]:
    image: Image = request.service
    given = dict(parse_qsl(request.query_text, keep_blank_values=True))
    condition: Any = table.c.id.is_not(None)
    if given.get("status"):
        if given["status"] not in STATUSES:
            raise Invalid(f"Invalid status value: {given['status']}")
        condition &= table.c.status == given["status"]
    if given.get("type"):
        if given["type"] not in ("import", "api_image_import", "location_import"):
            raise Invalid(f"Invalid type value: {given['type']}")
        condition &= table.c.type == given["type"]
    for name in ("owner", "image_id"):
        if given.get(name):
            condition &= table.c[name] == given[name]
    key, direction = given.get("sort_key", "created_at"), given.get("sort_dir", "desc")
    if direction not in ("asc", "desc"):
        raise Invalid(f"Invalid sort direction: {direction}")
    if key not in _SORT_KEYS:
        raise Invalid("Sort key supplied was not valid.")
    keys = [(table.c[key], direction == "desc"), (table.c.id, direction == "desc")]
    if marker := given.get("marker"):
        if not ids.is_uuid(marker):
            raise Invalid("Invalid marker format")
        row = await image.database.first(select(table).where(table.c.id == marker))
        if row is None:
            raise Invalid(f"Task {marker} could not be found.")
        condition &= beyond(keys, row)
    limit = _limit(image, given.get("limit"))
    rows = await image.database.all(select(table).where(condition).order_by(*ordering(keys)).limit(limit))
    rest = [(name, value) for name, value in given.items() if name != "marker"]
    answer: dict[str, Any] = {
        "tasks": [view(row, brief=True) for row in rows],
        "first": "/v2/tasks" + (f"?{urlencode(rest)}" if rest else ""),
        "schema": "/v2/schemas/tasks",
    }
    if rows and len(rows) == limit:
        answer["next"] = f"/v2/tasks?{urlencode([*rest, ('marker', rows[-1]['id'])])}"
    return answer


def _limit(image: Image, text: str | None) -> int:
    if text is None:
        return min(image.config.page, image.config.page_max)
    if not text.strip().lstrip("+-").isdigit():
        raise Invalid("limit param must be an integer")
    if int(text) < 0:
        raise Invalid("limit param must be positive")
    return min(int(text), image.config.page_max)


async def show(request: Request) -> dict[str, Any]:
    image: Image = request.service
    task_id = request.params["task_id"]
    row = await image.database.first(select(table).where(table.c.id == task_id))
    if row is None:
        raise NotFound(f"Task with the given id {task_id} was not found")
    return view(row)


async def delete(request: Request) -> None:
    fault = MethodNotAllowed(
        "This operation is currently not permitted on Glance Tasks. They are auto deleted after reaching the time "
        "based on their expires_at property."
    )
    fault.headers["Allow"] = "GET"
    raise fault

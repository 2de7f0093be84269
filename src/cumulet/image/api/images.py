# SPDX-License-Identifier: Apache-2.0
"""Images over HTTP: records, JSON patch, tags, deactivation."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from copy import deepcopy
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson

from cumulet.image.api import locations
from cumulet.image.logic import Image
from cumulet.image.logic import images as logic
from cumulet.image.logic.lists import SORT_KEYS, list_images
from cumulet.image.schemas import CHECKED, CREATE, NEVER_SENT, READ_ONLY, RESERVED, RESERVED_PREFIX, SETTABLE
from cumulet.image.states import DEACTIVATED
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Conflict, Forbidden, Invalid, NotFound, TooLarge, UnsupportedMedia
from cumulet.kernel.http import Answer, Body, Request

_SHOWN = (
    "name", "disk_format", "container_format", "visibility", "size", "virtual_size", "status", "checksum",
    "protected", "min_ram", "min_disk", "owner", "os_hidden", "os_hash_algo", "os_hash_value", "id",
)  # fmt: skip
_WORK = {
    "os_glance_import_task": "task_id",
    "os_glance_importing_to_stores": "importing",
    "os_glance_failed_import": "failed",
}
"""How the document tells of an import in work → the record's column."""
PATCH_TYPES = {
    "application/openstack-images-v2.0-json-patch": 4,
    "application/openstack-images-v2.1-json-patch": 10,
}
"""Media types of a PATCH → the JSON patch draft that they mean."""
_PATCH_LIMIT = 1024 * 1024
_PARTIAL = Body(None, raw=CHECKED)


def view(image: Image, row: Row, *, admin: bool = False) -> dict[str, Any]:
    """The published document of an image; where the data of a deactivated one is is told to an ``admin`` only."""
    path = f"/v2/images/{row['id']}"
    document = {**row["properties"], **{name: row[name] for name in _SHOWN}}
    document |= {
        "created_at": clock.iso_z(row["created_at"]),
        "updated_at": clock.iso_z(row["updated_at"]),
        "tags": row["tags"],
        "self": path,
        "file": f"{path}/file",
        "schema": "/v2/schemas/image",
    }
    for name, column in _WORK.items():
        if row[column] is not None:
            document[name] = row[column]
    held = logic.best_first(image, row)
    if image.config.show_locations:
        document["locations"] = [locations.view(image, one) for one in row["locations"]]
        if held:
            document["direct_url"] = locations.url_of(image, held[0])
    if held and (admin or row["status"] != DEACTIVATED):
        document["stores"] = ",".join(dict.fromkeys(one["store"] for one in held))
    return document


def _seen(words: str) -> Callable[[Request], Awaitable[dict[str, Any]]]:
    """Loads the image of the path; ``words`` refuse one that the caller may not see, as each operation has it."""

    async def target(request: Request) -> dict[str, Any]:
        image_id = request.params["image_id"]
        try:
            request.found = await logic.load(request.service, request.context, image_id)
        except NotFound:
            raise NotFound(words.format(image_id)) from None
        return logic.target_of(request.found)

    return target


target = _seen("No image found with ID {}")
deletable = _seen("Failed to find image {} to delete")
named = _seen("Image {} not found.")
stored = _seen("Failed to find image {}")


def _check_key(name: str) -> None:
    """Raise Forbidden for a name that is not the client's to set."""
    if name in RESERVED or name.startswith(RESERVED_PREFIX):
        raise Forbidden(f"Attribute '{name}' is reserved.")


def check_visibility(request: Request, visibility: Any, target: dict[str, Any]) -> None:
    """Some visibilities have a rule of their own."""
    rule = {"public": "publicize_image", "community": "communitize_image"}.get(visibility)
    if rule is not None:
        request.enforce(rule, target)


async def create(request: Request) -> Answer:
    image: Image = request.service
    body = dict(request.body)
    for name in body:
        if name in NEVER_SENT or (name in READ_ONLY and name != "id"):
            raise Forbidden(f"Attribute '{name}' is read-only.")
        if len(name) > 255:
            raise Invalid("Custom property should not be greater than 255 characters.")
        _check_key(name)
    if "locations" in body and not image.config.show_locations:
        raise Forbidden("Attribute 'locations' is reserved.")
    if body.pop("locations", None):
        raise Forbidden("It's not allowed to set locations when an image is created; add them afterwards.")
    wanted = {name: body.pop(name) for name in list(body) if name in SETTABLE or name == "id"}
    owner = wanted.get("owner", request.context.project_id)
    proposed = {"project_id": owner, "owner": owner, "visibility": wanted.get("visibility", "shared")}
    if not request.allows("add_image", proposed) and owner != request.context.project_id:
        raise Forbidden(f"You are not permitted to create images owned by '{owner}'")
    request.enforce("add_image", proposed)
    check_visibility(request, proposed["visibility"], proposed)
    row = await logic.create(image, request.context, {**wanted, "properties": body})
    document = view(image, row)
    headers = {
        "Location": f"{request.base}{document['self']}",
        "OpenStack-image-import-methods": ",".join(image.config.import_methods),
        "OpenStack-image-store-ids": ",".join(image.stores),
    }
    return Answer(document, headers=headers)


async def show(request: Request) -> dict[str, Any]:
    return view(request.service, request.found, admin=request.context.is_admin)


# ---- lists


async def index(request: Request) -> dict[str, Any]:
    image: Image = request.service
    pairs = parse_qsl(request.query_text, keep_blank_values=True)
    given = dict(pairs)
    filters = dict(pairs)
    for name in ("limit", "marker", "member_status", "tag", "sort", "sort_key", "sort_dir"):
        filters.pop(name, None)
    _check_filters(filters)
    filters.setdefault("os_hidden", "false")
    member_status = given.get("member_status", "accepted")
    if member_status not in ("pending", "accepted", "rejected", "all"):
        raise Invalid(f"Invalid status: {member_status}")
    rows, more = await list_images(
        image,
        request.context,
        filters,
        words=[value.strip() for name, value in pairs if name == "tag"],
        member_status=member_status,
        sort=_sorting(pairs),
        limit=_limit(image, given.get("limit")),
        marker=given.get("marker"),
    )
    rest = [(name, value) for name, value in pairs if name != "marker"]
    first = "/v2/images" + (f"?{urlencode(rest)}" if rest else "")
    answer: dict[str, Any] = {
        "images": [view(image, row, admin=request.context.is_admin) for row in rows],
        "first": first,
        "schema": "/v2/schemas/images",
    }
    if more:
        answer["next"] = f"/v2/images?{urlencode([*rest, ('marker', rows[-1]['id'])])}"
    return answer


def _check_filters(filters: dict[str, str]) -> None:
    visibility = filters.get("visibility", "all")
    if visibility not in ("community", "public", "private", "shared", "all"):
        raise Invalid(f"Invalid visibility value: {visibility}")
    if "changes-since" in filters:
        raise Invalid('The "changes-since" filter is no longer available on v2.')


def _limit(image: Image, text: str | None) -> int:
    if text is None:
        return min(image.config.page, image.config.page_max)
    if not re.fullmatch(r"[+-]?\d{1,18}", text.strip()):
        raise Invalid("limit param must be an integer")
    if int(text) < 0:
        raise Invalid("limit param must be positive")
    return min(int(text), image.config.page_max)


def _sorting(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Both syntaxes of sorting, as (key, direction); raises Invalid."""
    keys = [value.strip() for name, value in pairs if name == "sort_key"]
    directions = [value.strip() for name, value in pairs if name == "sort_dir"]
    modern = [value for name, value in pairs if name == "sort"]
    if modern:
        if keys or directions:
            raise Invalid("Old and new sorting syntax cannot be combined")
        parts = [part.partition(":") for part in modern[-1].strip().split(",")]
        keys = [key.strip() for key, _, _ in parts]
        directions = [direction.strip() or "desc" for _, _, direction in parts]
    for key in keys:
        if key not in SORT_KEYS:
            raise Invalid(f"Invalid sort key: {key}. It must be one of the following: {', '.join(SORT_KEYS)}.")
    for direction in directions:
        if direction not in ("asc", "desc"):
            raise Invalid(f"Invalid sort direction: {direction}")
    keys = keys or ["created_at"]
    directions = directions or ["desc"]
    if len(directions) > 1 and len(directions) != len(keys):
        raise Invalid("Number of sort dirs does not match the number of sort keys")
    if len(directions) == 1:
        directions *= len(keys)
    return list(dict(zip(keys, directions, strict=True)).items())


# ---- changes


async def update(request: Request) -> dict[str, Any]:
    """Apply a JSON patch, all of it or nothing."""
    image: Image = request.service
    before = request.found
    after = deepcopy(before)
    changes = await _changes(request)
    for operation, path, value, draft in changes:
        name = path[0]
        if name == "locations":
            await locations.change(request, after, operation, path, value)
            continue
        if name == "visibility" and operation != "remove":
            check_visibility(request, value, logic.target_of(before))
        request.enforce("modify_image", logic.target_of(before))
        if name == "owner" and operation != "remove" and not request.context.is_admin:
            raise Forbidden("Owner can't be updated by non admin.")
        _apply(after, operation, name, value, draft)
    if not changes:
        request.enforce("modify_image", logic.target_of(before))
        return view(image, before, admin=request.context.is_admin)
    return view(image, await logic.update(image, before, after), admin=request.context.is_admin)


def _apply(row: Row, operation: str, name: str, value: Any, draft: int) -> None:
    held = row["properties"]
    if operation == "remove":
        if name in SETTABLE:
            raise Forbidden(f"Property {name} may not be removed.")
        if name not in held:
            raise Conflict(f"Property {name} does not exist.")
        del held[name]
        return
    if name in SETTABLE:
        if operation == "add" and draft == 4:
            raise Conflict(f"Property {name} already present.")
        if name in ("disk_format", "container_format") and row["status"] not in ("queued", "importing"):
            raise Forbidden(f"Attribute {name} can be only replaced for a queued image.")
        row[name] = sorted(set(value)) if name == "tags" else value
        return
    if operation == "replace" and name not in held:
        raise Conflict(f"Property {name} does not exist.")
    if operation == "add" and name in held and draft == 4:
        raise Conflict(f"Property {name} already present.")
    if len(name) > 255:
        raise Invalid("Custom property should not be greater than 255 characters.")
    held[name] = value


async def _changes(request: Request) -> list[tuple[str, list[str], Any, int]]:
    """The patch as (operation, path, value, draft); raises what is published for each mistake."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in PATCH_TYPES:
        allowed = ", ".join(sorted(PATCH_TYPES))
        fault = UnsupportedMedia(f"Image PATCH expects Content-Type one of: {allowed}")
        fault.headers["Accept-Patch"] = allowed
        raise fault
    draft = PATCH_TYPES[kind]
    assert request.stream is not None
    data = await request.stream.read(_PATCH_LIMIT + 1)
    if len(data) > _PATCH_LIMIT:
        raise TooLarge
    try:
        sent = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Invalid("Malformed JSON in request body.") from None
    if not isinstance(sent, list):
        raise Invalid("Request body must be a JSON array of operation objects.")
    changes = []
    for raw in sent:
        if not isinstance(raw, dict):
            raise Invalid("Operations must be JSON objects.")
        operation, pointer = _operation(raw, draft)
        path = _path(pointer, operation)
        name, value = path[0], None
        if operation != "remove":
            if "value" not in raw:
                raise Invalid(f'Operation "{operation}" requires a member named "value".')
            value = raw["value"]
        if name in READ_ONLY or name in NEVER_SENT:
            raise Forbidden(f"Attribute '{name}' is read-only.")
        _check_key(name)
        if operation != "remove":
            _PARTIAL.lift({name: value if len(path) == 1 else [value]}, None, lambda rule: True)
        changes.append((operation, path, value, draft))
    return changes


def _operation(raw: dict[str, Any], draft: int) -> tuple[str, Any]:
    known = ("add", "remove", "replace")
    if draft == 10:
        operation = raw.get("op")
        if operation is None:
            raise Invalid(f"Unable to find `op` in JSON Schema change. It must be one of the following: "
                          f"{', '.join(known)}.")  # fmt: skip
        if operation not in known:
            raise Invalid(f"Invalid operation: `{operation}`. It must be one of the following: {', '.join(known)}.")
        if "path" not in raw:
            raise Invalid("Unable to find 'path' in JSON Schema change")
        return operation, raw["path"]
    named = [name for name in known if name in raw]
    if len(named) != 1:
        raise Invalid('Operation objects must contain exactly one member named "add", "remove", or "replace".')
    return named[0], raw[named[0]]


def _path(pointer: Any, operation: str) -> list[str]:
    """The attribute that a JSON pointer names, and the place in it where it has places."""
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        raise Invalid(f'Pointer `{pointer}` does not start with "/".')
    if re.search(r"/\s*?/", pointer[1:]):
        raise Invalid(f'Pointer `{pointer}` contains adjacent "/".')
    if len(pointer) > 1 and pointer.endswith("/"):
        raise Invalid(f'Pointer `{pointer}` end with "/".')
    if re.search("~[^01]", pointer) or pointer.endswith("~"):
        raise Invalid(f'Pointer `{pointer}` contains "~" not part of a recognized escape sequence.')
    parts = [part.replace("~1", "/").replace("~0", "~").strip() for part in pointer.lstrip("/").split("/")]
    deep = 2 if parts[0] == "locations" and operation != "replace" else 1
    if len(parts) != deep or not parts[0]:
        raise Invalid(f"Invalid JSON pointer for this resource: '/{'/'.join(parts)}'")
    return parts


async def delete(request: Request) -> None:
    await logic.remove(request.service, request.found)


async def add_tag(request: Request) -> None:
    CREATE.lift({"tags": [request.params["tag"]]}, None, lambda rule: True)
    await logic.add_tag(request.service, request.found, request.params["tag"])


async def remove_tag(request: Request) -> None:
    await logic.remove_tag(request.service, request.found, request.params["tag"])


async def deactivate(request: Request) -> None:
    await logic.switch(request.service, request.found, "deactivate")


async def reactivate(request: Request) -> None:
    await logic.switch(request.service, request.found, "reactivate")

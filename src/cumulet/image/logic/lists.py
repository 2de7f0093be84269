# SPDX-License-Identifier: Apache-2.0
"""Which images a list holds: what the caller may see, filters, order, pages.

Any query key that is no attribute filters by a custom property of that name.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

from sqlalchemy import exists, or_, select
from sqlalchemy.sql import ColumnElement

from cumulet.image.logic import Image
from cumulet.image.logic.images import decorate, target_of
from cumulet.image.models import images, members, properties, tags
from cumulet.image.states import DELETED
from cumulet.kernel import clock
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row
from cumulet.kernel.db.pages import beyond, ordering
from cumulet.kernel.errors import Invalid

SORT_KEYS = ("name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at")
_LISTS = ("name", "id", "status", "container_format", "disk_format")
_TIMES = ("created_at", "updated_at")
_RANGES = ("size_min", "size_max", "min_disk_min", "min_disk_max", "min_ram_min", "min_ram_max")
_NUMBERS = ("size", "virtual_size", "min_disk", "min_ram")
_EXACT = ("owner", "checksum", "os_hash_value", "os_hash_algo")


async def list_images(
    image: Image,
    caller: Context,
    filters: Mapping[str, str],
    *,
    words: list[str],
    member_status: str,
    sort: list[tuple[str, str]],
    limit: int,
    marker: str | None,
) -> tuple[list[Row], bool]:
    """One page and whether there may be more. Raises Invalid for a filter or marker that makes no sense."""
    condition = images.c.status != DELETED
    for one in _visible(caller, filters.get("visibility"), member_status):
        condition &= one
    for name, value in filters.items():
        if name != "visibility":
            condition &= _filter(name, value)
    for word in words:
        condition &= exists().where(tags.c.image_id == images.c.id, tags.c.tag == word)
    named = [key for key, _ in sort]
    rest = [(key, sort[0][1]) for key in ("created_at", "id") if key not in named]
    keys = [(images.c[key], direction == "desc") for key, direction in [*sort, *rest]]
    if marker is not None:
        row = await image.database.first(select(images).where(images.c.id == marker, images.c.status != DELETED))
        if row is None:
            raise Invalid(f"No image found with ID {marker}")
        condition &= beyond(keys, row)
    rows = await image.database.all(select(images).where(condition).order_by(*ordering(keys)).limit(limit))
    full = len(rows) == limit
    for row in rows:
        row["member_id"] = caller.project_id if row["visibility"] == "shared" else None
    rows = [row for row in rows if image.policy.allows("get_image", caller, target_of(row))]
    await decorate(image, image.database, rows)
    return rows, full and bool(rows)


def _visible(caller: Context, visibility: str | None, member_status: str) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    mine = images.c.owner == caller.project_id
    if not caller.is_admin:
        member = (members.c.image_id == images.c.id) & (members.c.member_id == caller.project_id)
        if member_status != "all":
            member &= members.c.status == member_status
        shared = (images.c.visibility == "shared") & exists().where(member)
        conditions.append(or_(images.c.visibility.in_(["public", "community"]), mine, shared))
    if visibility is None:
        # what others offer to everybody is shown only when it is asked for
        conditions.append(or_(mine, images.c.visibility != "community"))
    elif visibility != "all":
        conditions.append(images.c.visibility == visibility)
    return conditions


def _filter(name: str, value: str) -> ColumnElement[bool]:
    if name in ("os_hidden", "protected"):
        if value.lower() not in ("true", "false"):
            raise Invalid(f"Invalid value '{value}' for '{name}' filter. Valid values are 'true' or 'false'.")
        return images.c[name].is_(value.lower() == "true")
    if name in _RANGES:
        number = _integer(value, "Unable to filter on a range with a non-numeric value.")
        column = images.c[name[:-4]]
        return column >= number if name.endswith("_min") else column <= number
    if name in _TIMES:
        return _time(name, value)
    if name in _LISTS:
        operator, rest = _operator(value)
        if operator == "in":
            return images.c[name].in_(next(csv.reader([rest]), []))
        if operator != "eq":
            raise Invalid(f"Unable to filter by unknown operator '{operator}'.")
        return images.c[name] == rest
    if name in _NUMBERS:
        return images.c[name] == _integer(value, f"Unable to filter {name} by a non-numeric value.")
    if name in _EXACT:
        return images.c[name] == value
    return exists().where(properties.c.image_id == images.c.id, properties.c.name == name, properties.c.value == value)


def _operator(value: str) -> tuple[str, str]:
    """``in:a,b`` as ('in', 'a,b'); a value without an operator is compared for equality."""
    head, colon, rest = value.partition(":")
    if colon and head in ("in", "eq", "neq", "gt", "gte", "lt", "lte"):
        return head, rest
    return "eq", value


def _time(name: str, value: str) -> ColumnElement[bool]:
    operator, rest = _operator(value)
    try:
        moment = clock.parse_iso(rest)
    except ValueError:
        raise Invalid(f'Bad "{name}" query filter format. Use ISO 8601 DateTime notation.') from None
    column: Any = images.c[name]
    # clients know whole seconds only: a stored moment lies in [moment, moment + 1)
    choices: dict[str, ColumnElement[bool]] = {
        "eq": (column >= moment) & (column < moment + 1),
        "neq": (column < moment) | (column >= moment + 1),
        "gt": column >= moment + 1,
        "gte": column >= moment,
        "lt": column < moment,
        "lte": column < moment + 1,
    }
    if operator not in choices:
        raise Invalid("Unable to filter on a unknown operator.")
    return choices[operator]


def _integer(value: str, message: str) -> int:
    if not value.lstrip("-").isdigit() or len(value) > 18:
        raise Invalid(message)
    return int(value)

# SPDX-License-Identifier: Apache-2.0
"""Lists of volumes, snapshots and attachments: filters, order, pages, counts.

A marker that does not exist is 404 here. What a user may not filter by is
ignored, from 3.31 on refused.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Table, exists, func, select
from sqlalchemy.sql import ColumnElement

from cumulet.kernel import clock
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row
from cumulet.kernel.db.pages import beyond, ordering
from cumulet.kernel.errors import Invalid, NotFound
from cumulet.kernel.http.fields import truth
from cumulet.volume.errors import InvalidInput
from cumulet.volume.logic import Volume, words
from cumulet.volume.models import ATTACHMENTS, SNAPSHOTS, VOLUMES, WORDS
from cumulet.volume.states import DELETED


@dataclass
class Page:
    """What part of which rows is wanted."""

    filters: Mapping[str, str]
    limit: int
    marker: str | None = None
    offset: int = 0
    sort: list[tuple[str, str]] = field(default_factory=list)
    count: bool = False


SORT_KEYS = {
    VOLUMES: ("id", "status", "size", "availability_zone", "name", "bootable", "created_at", "updated_at", "host"),
    SNAPSHOTS: ("id", "status", "size", "name", "created_at", "updated_at", "volume_id"),
    ATTACHMENTS: ("id", "status", "created_at", "updated_at", "volume_id", "instance_uuid"),
}
_KIND = {VOLUMES: words.USER, SNAPSHOTS: words.SNAPSHOT}


async def list_rows(volume: Volume, caller: Context, table: Table, page: Page) -> tuple[list[Row], int | None]:
    """The rows of a page, and how many there are in all when that was asked."""
    condition = _conditions(caller, table, page.filters)
    total = None
    if page.count:
        counted = await volume.database.all(select(func.count().label("n")).select_from(table).where(condition))
        total = counted[0]["n"]
    keys = _keys(table, page.sort)
    if page.marker is not None:
        row = await volume.database.first(select(table).where(table.c.id == page.marker))
        if row is None or not (caller.is_admin or row["project_id"] == caller.project_id):
            noun = {VOLUMES: "Volume", SNAPSHOTS: "Snapshot"}.get(table, "Volume attachment")
            raise NotFound(f"{noun} {page.marker} could not be found.")
        condition &= beyond(keys, row)
    if page.limit == 0:
        return [], total
    statement = select(table).where(condition).order_by(*ordering(keys)).limit(page.limit).offset(page.offset)
    return await volume.database.all(statement), total


async def summary(volume: Volume, caller: Context, filters: Mapping[str, str]) -> dict[str, Any]:
    """How many volumes, how many GiB, and which metadata they have."""
    condition = _conditions(caller, VOLUMES, filters)
    size = func.coalesce(func.sum(VOLUMES.c.size), 0).label("gib")
    rows = await volume.database.all(select(func.count().label("n"), size).where(condition))
    pairs = select(WORDS.c.key, WORDS.c.value).join(VOLUMES, VOLUMES.c.id == WORDS.c.owner_id)
    metadata: dict[str, list[str]] = {}
    for row in await volume.database.all(pairs.where(condition, WORDS.c.kind == words.USER).distinct()):
        metadata.setdefault(row["key"], []).append(row["value"])
    return {"total_count": rows[0]["n"], "total_size": int(rows[0]["gib"]), "metadata": metadata}


def _keys(table: Table, sort: list[tuple[str, str]]) -> list[tuple[Any, bool]]:
    known = SORT_KEYS[table]
    for key, direction in sort:
        if key not in known:
            raise InvalidInput(f"Sort key supplied is invalid: {key}")
        if direction not in ("asc", "desc"):
            raise InvalidInput(f"Unknown sort direction, must be one of: asc, desc, not {direction}")
    wanted = list(dict(sort or [("created_at", "desc")]).items())
    last = wanted[-1][1]
    wanted += [(key, last) for key in ("created_at", "id") if key not in dict(wanted)]
    return [(table.c[key], direction == "desc") for key, direction in wanted]


def _conditions(caller: Context, table: Table, filters: Mapping[str, str]) -> Any:
    condition: Any = table.c.status != DELETED
    everybody = caller.is_admin and truth(filters.get("all_tenants", "0"))
    if caller.is_admin and "project_id" in filters and everybody:
        condition &= table.c.project_id == filters["project_id"]
    elif not everybody:
        condition &= table.c.project_id == caller.project_id
    for name, value in filters.items():
        if name not in ("all_tenants", "project_id"):
            condition &= _filter(table, name, value)
    return condition


def _filter(table: Table, name: str, value: str) -> ColumnElement[bool]:
    if name.endswith("~"):
        plain = name[:-1]
        if plain not in ("name", "status", "description") or plain not in table.c:
            raise Invalid(f"Invalid filter {name}.")
        return table.c[plain].contains(value, autoescape=True)
    if name in ("metadata", "glance_metadata"):
        return _with_words(table, words.IMAGE if name == "glance_metadata" else _KIND[table], value)
    if name in ("created_at", "updated_at"):
        return _times(table.c[name], name, value)
    if name == "bootable":
        if value.lower() not in ("true", "false", "0", "1"):
            raise InvalidInput(f"Invalid value '{value}' for 'bootable' filter.")
        return table.c.bootable.is_(truth(value))
    if name == "size":
        return table.c.size == (int(value) if value.isdigit() and len(value) < 10 else -1)
    if name in ("migration_status", "group_id"):
        return table.c.id.is_(None)  # no volume has one
    if name == "consumes_quota":
        return table.c.id.is_not(None) if truth(value) else table.c.id.is_(None)
    if name == "availability_zone" and table is SNAPSHOTS:
        here = VOLUMES.c.availability_zone == value
        return exists().where(VOLUMES.c.id == SNAPSHOTS.c.volume_id, here)
    column = {"instance_id": "instance_uuid", "attach_status": "status"}.get(name, name)
    return table.c[column] == value


def _with_words(table: Table, kind: str, text: str) -> ColumnElement[bool]:
    """Rows that have all pairs of a dict, written as JSON or as a Python literal."""
    try:
        wanted = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            wanted = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise InvalidInput(f"metadata filter {text[:80]} is not a dictionary") from None
    if not isinstance(wanted, dict) or len(wanted) > 16:
        raise InvalidInput(f"metadata filter {text[:80]} is not a dictionary")
    condition: Any = table.c.id.is_not(None)
    for key, value in wanted.items():
        mine = (WORDS.c.owner_id == table.c.id) & (WORDS.c.kind == kind)
        condition &= exists().where(mine, WORDS.c.key == str(key), WORDS.c.value == str(value))
    found: ColumnElement[bool] = condition
    return found


def _times(column: Any, name: str, text: str) -> ColumnElement[bool]:
    """``gt:2026-01-02T03:04:05,lt:…``"""
    condition: Any = column.is_not(None)
    for part in text.split(","):
        operator, colon, rest = part.partition(":")
        if not colon:
            raise Invalid(f"Invalid {name} value")
        try:
            moment = clock.parse_iso(rest)
        except ValueError:
            raise Invalid(f"Invalid {rest} value") from None
        # clients know microseconds: what is stored within half of one is the same moment
        low, high = moment - 5e-7, moment + 5e-7
        choices = {
            "gt": column > high, "gte": column >= low, "lt": column < low, "lte": column <= high,
            "eq": column.between(low, high), "neq": ~column.between(low, high),
        }  # fmt: skip
        if operator not in choices:
            raise Invalid(f"Invalid {operator} operator")
        condition &= choices[operator]
    found: ColumnElement[bool] = condition
    return found

# SPDX-License-Identifier: Apache-2.0
"""The lists of servers: filters, order and pages, in one statement.

Published filters are regular expressions over names. What SQL can match
(`.`, `.*`, `^`, `$`, `|`, escapes) becomes part of the statement; any other is
run over the rows by an engine whose time is linear, for clients are hostile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, String, and_, case, cast, false, func, literal, or_, select

from cumulet.compute.errors import marker_missing
from cumulet.compute.logic import Compute
from cumulet.compute.models import BLOCK_DEVICES, SERVERS
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid

_S = SERVERS.c
_CHUNK: Final = 500


def _flag(column: Any) -> ColumnElement[int]:
    """A boolean that can be compared: 1 or 0."""
    return case((column, 1), else_=0)


SORT: Final[dict[str, ColumnElement[Any]]] = {
    "access_ip_v4": func.coalesce(_S.access_ip_v4, ""), "access_ip_v6": func.coalesce(_S.access_ip_v6, ""),
    "auto_disk_config": _S.disk_config, "availability_zone": func.coalesce(_S.availability_zone, ""),
    "config_drive": _flag(_S.config_drive), "created_at": _S.created_at,
    "display_description": func.coalesce(_S.description, ""), "display_name": _S.name,
    "host": func.coalesce(_S.host, ""), "hostname": _S.hostname, "image_ref": func.coalesce(_S.image_id, ""),
    "instance_type_id": cast(_S.flavor, String), "kernel_id": literal(""), "key_name": func.coalesce(_S.key_name, ""),
    "launch_index": _S.launch_index, "launched_at": func.coalesce(_S.launched_at, 0.0), "locked": _flag(_S.locked),
    "locked_by": func.coalesce(_S.locked_by, ""), "node": func.coalesce(_S.node, ""), "power_state": _S.power_state,
    "progress": _S.progress, "project_id": _S.project_id, "ramdisk_id": literal(""),
    "root_device_name": func.coalesce(_S.root_device_name, ""), "task_state": func.coalesce(_S.task_state, ""),
    "terminated_at": func.coalesce(_S.terminated_at, 0.0), "updated_at": _S.updated_at, "user_id": _S.user_id,
    "uuid": _S.id, "vm_state": _S.vm_state,
}  # fmt: skip
"""Published sort key → what is compared (never null, so that pages are exact)."""

VOLUMES: Final = (
    select(
        func.aggregate_strings(
            BLOCK_DEVICES.c.volume_id + case((BLOCK_DEVICES.c.delete_on_termination, "+"), else_="-"), ","
        )
    )
    .where(BLOCK_DEVICES.c.server_id == _S.id, BLOCK_DEVICES.c.volume_id.is_not(None))
    .scalar_subquery()
    .label("volumes")
)
"""A server's volumes as ``id±,id±``; plus means deleted with the server."""


@dataclass
class Wanted:
    """What a list should hold; None and empty mean: not asked for."""

    project_id: str | None = None
    user_id: str | None = None
    deleted: bool | None = False
    """None: tombstones too."""
    vm_states: set[str] | None = None
    task_states: set[str] | None = None
    exact: Mapping[str, Any] = field(default_factory=dict)
    """Column name → value."""
    like: Mapping[str, str] = field(default_factory=dict)
    """Column name → the client's expression."""
    changes_since: float | None = None
    changes_before: float | None = None
    flavor: str | None = None
    addresses: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    tags_any: list[str] = field(default_factory=list)
    not_tags: list[str] = field(default_factory=list)
    not_tags_any: list[str] = field(default_factory=list)
    sort: list[tuple[str, str]] = field(default_factory=list)
    """(published key, asc or desc)."""
    limit: int = 1000
    marker: str | None = None


async def find(compute: Compute, wanted: Wanted, *, brief: bool = False) -> list[Row]:
    """A page of servers; each row also holds ``volumes``, or with ``brief`` only id and name.

    Raises Invalid for a marker that is not there.
    """
    conditions = _conditions(wanted)
    order = [(SORT[key], way) for key, way in wanted.sort] or [(_S.created_at, "desc")]
    order.append((_S.id, order[-1][1]))
    if wanted.marker is not None:
        conditions.append(await _beyond(compute, wanted.marker, order))
    if wanted.limit == 0:
        return []
    tests = [(name, Expression(text)) for name, text in wanted.like.items() if not in_sql(text)]
    columns = {"id", "name", *(name for name, _ in tests)}
    shown = [SERVERS.c[name] for name in sorted(columns)] if brief else [*SERVERS.c, VOLUMES]
    statement = select(*shown).where(*conditions)
    statement = statement.order_by(*(one.asc() if way == "asc" else one.desc() for one, way in order))
    if not tests:
        return await compute.db.all(statement.limit(wanted.limit))
    found: list[Row] = []
    offset = 0
    while len(found) < wanted.limit:
        rows = await compute.db.all(statement.limit(_CHUNK).offset(offset))
        found += [row for row in rows if all(test.matches(row[name]) for name, test in tests)]
        if len(rows) < _CHUNK:
            break
        offset += _CHUNK
    return found[: wanted.limit]


async def _beyond(compute: Compute, marker: str, order: list[tuple[ColumnElement[Any], str]]) -> ColumnElement[bool]:
    """The condition that a row comes after the marker's in this order."""
    columns = [one.label(f"k{i}") for i, (one, _) in enumerate(order)]
    last = await compute.db.first(select(*columns).where(_S.id == marker))
    if last is None:
        raise marker_missing(marker)
    options: list[ColumnElement[bool]] = []
    same: list[ColumnElement[bool]] = []
    for i, (one, way) in enumerate(order):
        value = last[f"k{i}"]
        options.append(and_(*same, one > value if way == "asc" else one < value))
        same.append(one == value)
    return or_(*options)


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.project_id is not None:
        found.append(_S.project_id == wanted.project_id)
    if wanted.user_id is not None:
        found.append(_S.user_id == wanted.user_id)
    if wanted.deleted is not None:
        found.append(_S.deleted_at.is_not(None) if wanted.deleted else _S.deleted_at.is_(None))
    if wanted.vm_states is not None:
        found.append(_S.vm_state.in_(sorted(wanted.vm_states)))
    if wanted.task_states is not None:
        found.append(_S.task_state.in_(sorted(wanted.task_states)))
    if wanted.changes_since is not None:
        found.append(_S.updated_at >= wanted.changes_since)
    if wanted.changes_before is not None:
        found.append(_S.updated_at <= wanted.changes_before)
    found += [SERVERS.c[name] == value for name, value in wanted.exact.items()]
    found += [matches(SERVERS.c[name], text) for name, text in wanted.like.items() if in_sql(text)]
    if wanted.flavor is not None:
        found.append(_json_has(_S.flavor, "id", wanted.flavor))
    found += [_text(_S.network_cache).like(f'%"addr":"%{_escape(one)}%', escape="\\") for one in wanted.addresses]
    found += _tag_conditions(wanted)
    return found


def _tag_conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    found = [_tagged(tag) for tag in wanted.tags]
    if wanted.tags_any:
        found.append(or_(*(_tagged(tag) for tag in wanted.tags_any)))
    if wanted.not_tags:
        found.append(~and_(*(_tagged(tag) for tag in wanted.not_tags)))
    if wanted.not_tags_any:
        found.append(~or_(*(_tagged(tag) for tag in wanted.not_tags_any)))
    return found


def _tagged(tag: str) -> ColumnElement[bool]:
    return _text(_S.tags).like("%" + _escape(_json(tag)) + "%", escape="\\")


def _json_has(column: Any, key: str, value: str) -> ColumnElement[bool]:
    return _text(column).like("%" + _escape(f'"{key}":{_json(value)}') + "%", escape="\\")


def _json(value: str) -> str:
    import orjson

    return orjson.dumps(value).decode()


def _text(column: Any) -> ColumnElement[str]:
    """A JSON column as the text that it is stored as."""
    return cast(column, String)


def _escape(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)


def matches(column: Any, expression: str) -> ColumnElement[bool]:
    """A client's expression as SQL patterns; without case, as published databases compare."""
    if not expression:
        known: ColumnElement[bool] = column.is_not(None)
        return known
    parts = expression.split("|") if "(" not in expression else [expression]
    return or_(*(column.ilike(pattern_of(part), escape="\\") for part in parts)) if parts else false()


def in_sql(expression: str) -> bool:
    """Whether SQL patterns say the same as the expression."""
    bare = re.sub(r"\\[^A-Za-z0-9]|\.[*+]", "", expression)
    return re.search(r"[\[\](){}*+?\\]|.\^|\$.", bare) is None


class Expression:
    """A client's regular expression, run in time linear in the text."""

    def __init__(self, expression: str) -> None:
        import jsonschema_rs

        try:
            schema = {"type": "string", "pattern": expression}
            self._engine = jsonschema_rs.Draft7Validator(schema, pattern_options=jsonschema_rs.RegexOptions())
        except ValueError:
            raise Invalid(f"The expression {expression[:80]!r} can't be matched.") from None

    def matches(self, text: str | None) -> bool:
        return text is not None and self._engine.is_valid(text)


def pattern_of(expression: str) -> str:
    """``^web.*1$`` as the SQL pattern ``web%1``; what SQL can't say is taken literally."""
    head, tail = expression.startswith("^"), expression.endswith("$") and not expression.endswith("\\$")
    rest = expression[1 if head else 0 : -1 if tail else None]
    pieces: list[str] = []
    for match in re.finditer(r"\.\*|\.\+|\\.|.", rest, re.DOTALL):
        piece = match[0]
        if piece in (".*", ".+"):
            pieces.append("%" if piece == ".*" else "_%")
        elif piece == ".":
            pieces.append("_")
        else:
            pieces.append(_escape(piece[1] if len(piece) == 2 else piece))
    inner = "".join(pieces)
    return ("" if head else "%") + inner + ("" if tail else "%")


def volumes_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The volumes of a listed row."""
    return [{"id": one[:-1], "delete_on_termination": one[-1] == "+"} for one in _split(row["volumes"])]


def _split(text: str | None) -> Iterable[str]:
    return text.split(",") if text else ()

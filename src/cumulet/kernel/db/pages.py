# SPDX-License-Identifier: Apache-2.0
"""Keyset paging: a page begins after the marker's own values, so pages neither skip nor repeat rows.

Null sorts as the empty value of its column (0 or ''), the same on both databases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import String, Text, and_, func, or_
from sqlalchemy.sql import ColumnElement

Keys = Sequence[tuple[Any, bool]]
"""(column, descending) in order of weight; the last must be unique."""


def ordering(keys: Keys) -> list[ColumnElement[Any]]:
    """The ORDER BY of ``keys``."""
    return [_plain(column).desc() if descending else _plain(column).asc() for column, descending in keys]


def beyond(keys: Keys, marker: Mapping[str, Any]) -> ColumnElement[bool]:
    """The rows that come after the row ``marker`` in the order of ``keys``."""
    options: list[ColumnElement[bool]] = []
    equal: list[ColumnElement[bool]] = []
    for column, descending in keys:
        value = marker[column.name]
        if value is None:
            value = _empty(column)
        side = _plain(column) < value if descending else _plain(column) > value
        options.append(and_(*equal, side))
        equal.append(_plain(column) == value)
    return or_(*options)


def _plain(column: Any) -> Any:
    return func.coalesce(column, _empty(column)) if column.nullable else column


def _empty(column: Any) -> Any:
    return "" if isinstance(column.type, String | Text) else 0

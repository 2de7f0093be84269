# SPDX-License-Identifier: Apache-2.0
"""Lists: filters with comparators, sorting, and pages by marker, for every resource the same.

A page continues after the marker's row in the sort order, so rows that come or
go between two pages neither repeat nor hide others.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Boolean, FromClause, Select, String, and_, func, or_, select, true

from cumulet.identity.errors import missing
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import NotFound

ORDERS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "eq": operator.eq, "neq": operator.ne, "lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge
}  # fmt: skip


@dataclass(frozen=True)
class Filter:
    """One wished value of a column.

    Texts by ``equals``, ``contains``, ``startswith`` or ``endswith``; quantities
    also by ``eq``, ``neq``, ``lt``, ``lte``, ``gt`` and ``gte``.
    """

    column: str
    value: Any
    comparator: str = "equals"
    case_sensitive: bool = True


@dataclass(frozen=True)
class Page:
    """What part of a list is wanted."""

    filters: tuple[Filter, ...] = ()
    limit: int | None = None
    marker: str | None = None
    sort: str = "id"
    descending: bool = False


def _condition(table: FromClause, wish: Filter) -> Any:
    column: Any = table.c[wish.column]
    if (compare := ORDERS.get(wish.comparator)) is not None:
        return compare(column, wish.value)
    if wish.comparator == "equals" and wish.case_sensitive:
        return column.is_(wish.value) if isinstance(column.type, Boolean) else column == wish.value
    value = str(wish.value)
    if not isinstance(column.type, String):  # which Text is too: nothing else is compared in part
        return true()
    if not wish.case_sensitive:
        column, value = func.lower(column), value.lower()
    if wish.comparator == "equals":
        return column == value
    # LIKE ignores the case of ASCII on one of the databases, so places are compared instead
    if wish.comparator == "startswith":
        return func.substr(column, 1, len(value)) == value
    if wish.comparator == "endswith":
        start = func.length(column) - len(value) + 1
        return and_(start > 0, func.substr(column, start) == value)
    return func.length(func.replace(column, value, "")) < func.length(column) if value else column.is_not(None)


async def fetch(
    database: Database, statement: Select[Any], table: FromClause, page: Page, *, key: str = "id"
) -> tuple[list[Row], bool]:
    """The rows of the page, and whether more follow. Raises NotFound for an unknown marker."""
    for wish in page.filters:
        statement = statement.where(_condition(table, wish))
    identity, order = table.c[key], table.c[page.sort if page.sort in table.c else key]
    if page.marker is not None:
        mark = await database.first(select(identity, order).where(identity == page.marker))
        if mark is None:
            raise NotFound(f"Marker {page.marker} could not be found.")
        value, last = mark[order.key], mark[identity.key]
        beyond = order < value if page.descending else order > value
        tie = identity < last if page.descending else identity > last
        statement = statement.where(or_(beyond, and_(order == value, tie)))
    orders = [order, identity] if order is not identity else [identity]
    statement = statement.order_by(*(one.desc() if page.descending else one.asc() for one in orders))
    if page.limit is None:
        return await database.all(statement), False
    rows = await database.all(statement.limit(page.limit + 1))
    return rows[: page.limit], len(rows) > page.limit


async def one(reader: Database | Transaction, table: FromClause, id: str, noun: str) -> Row:
    """The row with that id; raises NotFound in the published wording."""
    row = await reader.first(select(table).where(table.c.id == id))
    if row is None:
        raise missing(noun, id)
    return row


def split(sent: dict[str, Any], columns: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was sent, parted into our columns and the extras that are kept as they are."""
    known = set(columns)
    values = {name: value for name, value in sent.items() if name in known}
    extra = {
        name.replace(":", "_").replace("-", "_"): value
        for name, value in sent.items()
        if name not in known and name not in ("id", "links")
    }
    return values, extra


# ---- lists that are not in the database


def _satisfies(row: Row, wish: Filter) -> bool:
    """`_condition` of one row."""
    value, wanted = row.get(wish.column), wish.value
    if (compare := ORDERS.get(wish.comparator)) is not None:
        return value is not None and bool(compare(value, wanted))
    if not isinstance(value, str):
        return wish.comparator != "equals" or value == wanted
    wanted = str(wanted)
    if not wish.case_sensitive or wish.comparator == "equals":  # directories do not tell case apart in names
        value, wanted = value.lower(), wanted.lower()
    tests: dict[str, Callable[[], bool]] = {
        "equals": lambda: value == wanted,
        "startswith": lambda: value.startswith(wanted),
        "endswith": lambda: value.endswith(wanted),
        "contains": lambda: wanted in value,
    }
    return tests[wish.comparator]()


def cut(rows: list[Row], page: Page, *, key: str = "id") -> tuple[list[Row], bool]:
    """What `fetch` would make of these rows. Raises NotFound for an unknown marker."""
    chosen = [row for row in rows if all(_satisfies(row, wish) for wish in page.filters)]
    sort = page.sort if all(isinstance(row.get(page.sort), str) for row in chosen) else key
    chosen.sort(key=lambda row: (row[sort], row[key]), reverse=page.descending)
    if page.marker is not None:
        places = [place for place, row in enumerate(chosen) if row[key] == page.marker]
        if not places:
            raise NotFound(f"Marker {page.marker} could not be found.")
        chosen = chosen[places[0] + 1 :]
    return (chosen, False) if page.limit is None else (chosen[: page.limit], len(chosen) > page.limit)

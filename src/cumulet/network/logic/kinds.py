# SPDX-License-Identifier: Apache-2.0
"""One generic life for all resources: list, show, create, update, delete, driven by a `Kind`.

Authorization and the change are one transaction: what a policy saw is what is
changed. The caller passes `authorize`, so this module knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Table, and_, false, or_, select

from cumulet.kernel.context import Context
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Fault
from cumulet.network import models as m
from cumulet.network.errors import missing, revision_mismatch
from cumulet.network.logic import Committed, Document, Network, Reader, Values, Work

Authorize = Callable[[Document, Values], None]
"""Raises unless the caller may do it to the document with these values."""
Clause = Any


@dataclass(frozen=True)
class Kind:
    """One resource type: where it is kept and what makes, changes and removes it."""

    name: str
    plural: str
    table: Table
    missing: Callable[[str], Fault]
    documents: Callable[[Network, Reader, list[Row]], Awaitable[list[Document]]]
    create: Callable[[Work, Values], Awaitable[str]] | None = None
    update: Callable[[Work, Document, Values], Awaitable[None]] | None = None
    delete: Callable[[Work, Document], Awaitable[None]] | None = None
    parent: Callable[[Work, Values], Awaitable[Values]] | None = None
    """What policy rules about a new one may ask of its parent; raises NotFound for a missing one."""
    also_visible: Callable[[Context], Clause] | None = None
    """Which resources of other projects a caller may perhaps see."""
    filters: Mapping[str, Callable[[list[str]], Clause]] = field(default_factory=dict)
    """List filters beyond the plain columns."""
    revised: bool = True


@dataclass
class Page:
    """What of a list is wanted."""

    where: list[Clause] = field(default_factory=list)
    sorts: list[tuple[str, bool]] = field(default_factory=list)
    """(column, ascending) pairs."""
    limit: int | None = None
    marker: str | None = None
    reverse: bool = False


def not_found(kind: str, noun: str, tail: str = " could not be found.") -> Callable[[str], Fault]:
    return lambda key: missing(kind, f"{noun} {key}{tail}")


def scope(kind: Kind, caller: Context) -> list[Clause]:
    """What narrows a list to what the caller can hope to see; policy decides about each document."""
    if caller.is_admin or "service" in caller.roles or "project_id" not in kind.table.c:
        return []
    options = [kind.table.c.project_id == (caller.project_id or "")]
    if kind.also_visible is not None:
        options.append(kind.also_visible(caller))
    return [or_(*options)]


async def read(net: Network, caller: Context, kind: Kind, key: str, reader: Reader | None = None) -> Document:
    """One resource that the caller can hope to see; raises its NotFound."""
    reader = reader or Committed(net.database)
    rows = await reader.all(select(kind.table).where(kind.table.c.id == key, *scope(kind, caller)))
    if not rows:
        raise kind.missing(key)
    return (await kind.documents(net, reader, rows))[0]


async def listing(net: Network, caller: Context, kind: Kind, page: Page) -> list[Document]:
    """The wanted page in its published order; raises the kind's NotFound for an unknown marker."""
    t = kind.table
    sorts = [*page.sorts]
    if not any(name == "id" for name, _ in sorts):
        sorts.append(("id", True))
    if page.reverse:
        sorts = [(name, not ascending) for name, ascending in sorts]
    statement = select(t).where(*scope(kind, caller), *page.where)
    if page.marker:
        marks = await net.database.all(select(t).where(t.c.id == page.marker), point=True)
        if not marks:
            raise kind.missing(page.marker)
        statement = statement.where(_after(t, sorts, marks[0]))
    order = (t.c[name].asc().nulls_first() if up else t.c[name].desc().nulls_last() for name, up in sorts)
    statement = statement.order_by(*order)
    if page.limit:
        statement = statement.limit(page.limit)
    rows = await net.database.all(statement)
    if page.reverse:
        rows.reverse()
    return await kind.documents(net, net.database, rows) if rows else []


def _after(t: Table, sorts: Sequence[tuple[str, bool]], mark: Row) -> Clause:
    """Rows that come after ``mark`` in the order of ``sorts`` (null values stand before all others)."""
    options = []
    equal: list[Clause] = []
    for name, up in sorts:
        column, value = t.c[name], mark[name]
        if value is None:
            further: Clause = column.is_not(None) if up else false()
        else:
            further = column > value if up else or_(column < value, column.is_(None))
        options.append(and_(*equal, further))
        equal.append(column.is_not_distinct_from(value))
    return or_(*options)


async def create(net: Network, caller: Context, kind: Kind, wanted: list[tuple[Values, Authorize]]) -> list[Document]:
    """Make them all or none; returns them as they are after the commit."""
    make = kind.create
    assert make is not None

    async def body(work: Work) -> list[Document]:
        made = []
        for sent, authorize in wanted:
            values = dict(sent)
            around = await kind.parent(work, values) if kind.parent is not None else {}
            authorize({**values, "*": around}, values)
            made.append(await make(work, values))
            await set_tags(work, made[-1], values.get("tags", []))
        return [await _load(work, kind, key) for key in made]

    documents: list[Document] = await net.change(caller, body)
    return documents


async def update(
    net: Network, caller: Context, kind: Kind, key: str, values: Values, authorize: Authorize, revision: int | None
) -> Document:
    """Change one; ``revision`` is the only revision at which the caller wants it changed."""
    alter = kind.update
    assert alter is not None

    async def body(work: Work) -> Document:
        before = await read(net, caller, kind, key, work.tx)
        authorize(before, values)
        check_revision(before, revision)
        await alter(work, before, dict(values))
        if kind.revised:
            await work.bump(kind.table, key)
        return await _load(work, kind, key)

    document: Document = await net.change(caller, body)
    return document


async def delete(
    net: Network, caller: Context, kind: Kind, key: str, authorize: Authorize, revision: int | None
) -> None:
    remove = kind.delete
    assert remove is not None

    async def body(work: Work) -> None:
        before = await read(net, caller, kind, key, work.tx)
        authorize(before, {})
        check_revision(before, revision)
        await remove(work, before)
        await work.tx.run(m.TAGS.delete().where(m.TAGS.c.resource_id == key))

    await net.change(caller, body)


def check_revision(before: Document, expected: int | None) -> None:
    if expected is not None and expected != before.get("revision_number"):
        raise revision_mismatch(expected, before.get("revision_number", 0))


async def _load(work: Work, kind: Kind, key: str) -> Document:
    rows = await work.tx.all(select(kind.table).where(kind.table.c.id == key))
    if not rows:
        raise kind.missing(key)
    return (await kind.documents(work.net, work.tx, rows))[0]


async def set_tags(work: Work, key: str, tags: list[str]) -> None:
    """Make ``tags`` the tags of a resource that has none."""
    for tag in tags:
        await work.tx.insert(m.TAGS, {"resource_id": key, "tag": tag})


async def first(reader: Reader, table: Table, key: str, missing: Callable[[str], Fault]) -> Row:
    """The row of that id; raises ``missing``."""
    rows = await reader.all(select(table).where(table.c.id == key))
    if not rows:
        raise missing(key)
    return rows[0]


async def change(work: Work, table: Table, key: str, **values: Any) -> None:
    """Write columns of a row (its revision is bumped by whoever changes the resource)."""
    if values:
        await work.tx.run(table.update().where(table.c.id == key).values(**values))

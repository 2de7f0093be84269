# SPDX-License-Identifier: Apache-2.0
"""Metadata definitions: a catalogue of the words that resources may carry, in namespaces.

Objects, properties and tags are one table: what they have in common (a name that is
unique in its namespace, protection by the namespace) is written once. A namespace
that the caller may not see does not exist for him.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import and_, delete, exists, select, update
from sqlalchemy.sql import ColumnElement

from cumulet.image.logic import Image
from cumulet.image.models import associations, definitions, namespaces, resource_types
from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Duplicate, Row, Transaction
from cumulet.kernel.db.pages import beyond, ordering
from cumulet.kernel.errors import Conflict, Forbidden, Invalid, NotFound

OBJECT, PROPERTY, TAG = "object", "property", "tag"
_NOUNS = {OBJECT: "object", PROPERTY: "property", TAG: "tag"}
NAMESPACE_SORT_KEYS = ("namespace", "display_name", "created_at", "updated_at", "id", "visibility", "owner")
DEFINITION_SORT_KEYS = ("name", "created_at", "updated_at")


# ---- namespaces


def _visible(caller: Context) -> ColumnElement[bool]:
    mine = namespaces.c.owner.is_(None) | (namespaces.c.visibility == "public")
    if caller.is_admin:
        return namespaces.c.id.is_not(None)
    return mine | (namespaces.c.owner == caller.project_id)


async def load(image: Image, caller: Context, name: str) -> Row:
    """A namespace that the caller may see; raises NotFound."""
    row = await image.database.first(select(namespaces).where(namespaces.c.namespace == name, _visible(caller)))
    if row is None:
        raise NotFound(f"Namespace {name} not found")
    return row


def target_of(namespace: Row | None, caller: Context) -> dict[str, Any]:
    """What policy rules may ask about a namespace (None: about the caller's own)."""
    if namespace is None:
        return {"project_id": caller.project_id, "owner": caller.project_id, "visibility": "private"}
    return {"project_id": namespace["owner"], "owner": namespace["owner"], "visibility": namespace["visibility"]}


async def list_namespaces(
    image: Image,
    caller: Context,
    *,
    visibility: str | None,
    types: list[str] | None,
    sort: tuple[str, str],
    limit: int,
    marker: str | None,
) -> list[Row]:
    """One page, each with its ``resource_type_associations``. Raises NotFound for an unknown marker."""
    condition = _visible(caller)
    if visibility is not None:
        condition &= namespaces.c.visibility == visibility
    if types:
        condition &= exists().where(
            associations.c.namespace_id == namespaces.c.id, associations.c.resource_type.in_(types)
        )
    key, direction = sort
    if key not in NAMESPACE_SORT_KEYS:
        raise Invalid(f"Invalid sort key: {key}")
    keys = [(namespaces.c[key], direction == "desc"), (namespaces.c.id, direction == "desc")]
    if marker is not None:
        condition &= beyond(keys, await load(image, caller, marker))
    rows = await image.database.all(select(namespaces).where(condition).order_by(*ordering(keys)).limit(limit))
    known = {row["id"]: row for row in rows}
    for row in rows:
        row["associations"] = []
    ties = select(associations).where(associations.c.namespace_id.in_(list(known)))
    for one in await image.database.all(ties.order_by(associations.c.resource_type)):
        known[one["namespace_id"]]["associations"].append(one)
    return rows


async def contents(image: Image, namespace: Row) -> dict[str, list[Row]]:
    """Everything in a namespace, by kind; ``associations`` too."""
    inside: dict[str, list[Row]] = {OBJECT: [], PROPERTY: [], TAG: []}
    mine = select(definitions).where(definitions.c.namespace_id == namespace["id"]).order_by(definitions.c.name)
    for row in await image.database.all(mine):
        inside[row["kind"]].append(row)
    inside["associations"] = await list_associations(image, namespace)
    return inside


async def create(
    image: Image,
    wanted: Mapping[str, Any],
    inside: Iterable[tuple[str, str, dict[str, Any]]],
    ties: Iterable[Mapping[str, Any]],
) -> Row:
    """A namespace with its contents, in one transaction. Raises Conflict for a name that is there already."""
    now = clock.now()
    row: Row = {
        "id": ids.new_uuid(), "namespace": wanted["namespace"], "display_name": wanted.get("display_name"),
        "description": wanted.get("description"), "visibility": wanted.get("visibility") or "private",
        "protected": wanted.get("protected", False), "owner": wanted.get("owner"), "created_at": now,
        "updated_at": now,
    }  # fmt: skip

    async def body(tx: Transaction) -> None:
        await _insert_namespace(tx, row)
        for tie in ties:
            await _tie(tx, row, tie, now)
        for kind, name, content in inside:
            await _insert(tx, row, kind, name, content, now)

    await image.database.run(body)
    return row


async def _insert_namespace(tx: Transaction, row: Row) -> None:
    try:
        await tx.insert(namespaces, row)
    except Duplicate:
        raise Conflict(f"The metadata definition namespace={row['namespace']} already exists.") from None


async def change(image: Image, namespace: Row, wanted: Mapping[str, Any]) -> Row:
    """Replace a namespace's own attributes. Raises Conflict for a name that another one has."""
    values = {name: wanted[name] for name in wanted} | {"updated_at": clock.now()}

    async def body(tx: Transaction) -> None:
        try:
            await tx.run(update(namespaces).where(namespaces.c.id == namespace["id"]).values(**values))
        except Duplicate:
            raise Conflict(f"The metadata definition namespace={values['namespace']} already exists.") from None

    await image.database.run(body)
    return {**namespace, **values}


def check_unprotected(namespace: Row, noun: str = "", name: str = "") -> None:
    """Raise Forbidden for what a protected namespace holds, or for itself."""
    if namespace["protected"]:
        what = f"{noun} {name}" if noun else f"namespace {namespace['namespace']}"
        raise Forbidden(f"Metadata definition {what} is protected and cannot be deleted.")


async def remove(image: Image, namespace: Row) -> None:
    """Delete a namespace with all that it holds; raises Forbidden when it is protected."""
    check_unprotected(namespace)
    await image.database.run(lambda tx: tx.run(delete(namespaces).where(namespaces.c.id == namespace["id"])))


# ---- objects, properties and tags


def _absent(kind: str, name: str, namespace: Row) -> NotFound:
    return NotFound(f"Could not find {'' if kind == PROPERTY else 'metadata '}{_NOUNS[kind]} {name}")


def _taken(kind: str, name: str, namespace: Row) -> Conflict:
    if kind == TAG:
        return Conflict(f"A metadata tag with name={name} already exists in namespace={namespace['namespace']}. "
                        "(Please note that metadata tag names are case insensitive).")  # fmt: skip
    return Conflict(f"A metadata definition {_NOUNS[kind]} with name={name} already exists in "
                    f"namespace={namespace['namespace']}.")  # fmt: skip


async def list_definitions(
    image: Image,
    namespace: Row,
    kind: str,
    *,
    sort: tuple[str, str] = ("name", "asc"),
    limit: int | None = None,
    marker: str | None = None,
) -> list[Row]:
    """What a namespace holds of one kind. Raises NotFound for an unknown marker."""
    key, direction = sort
    if key not in DEFINITION_SORT_KEYS:
        raise Invalid(f"Invalid sort key: {key}")
    condition = (definitions.c.namespace_id == namespace["id"]) & (definitions.c.kind == kind)
    keys = [(definitions.c[key], direction == "desc"), (definitions.c.name, direction == "desc")]
    if marker is not None:
        condition &= beyond(keys, await definition(image, namespace, kind, marker))
    return await image.database.all(select(definitions).where(condition).order_by(*ordering(keys)).limit(limit))


def _key(namespace: Row, kind: str, name: str) -> ColumnElement[bool]:
    c = definitions.c
    return and_(c.namespace_id == namespace["id"], c.kind == kind, c.name == name)


async def definition(image: Image, namespace: Row, kind: str, name: str) -> Row:
    """One object, property or tag; raises NotFound."""
    row = await image.database.first(select(definitions).where(_key(namespace, kind, name)))
    if row is None:
        raise _absent(kind, name, namespace)
    return row


async def define(image: Image, namespace: Row, kind: str, items: Mapping[str, dict[str, Any]]) -> list[Row]:
    """Add definitions by name, all or none; raises Conflict for a name that is there already."""
    now = clock.now()

    async def body(tx: Transaction) -> list[Row]:
        return [await _insert(tx, namespace, kind, name, content, now) for name, content in items.items()]

    return await image.database.run(body)


async def replace_tags(image: Image, namespace: Row, names: list[str], *, append: bool) -> None:
    """Give a namespace these tags instead of (or besides) those that it has; raises Conflict for a repeated one."""
    now = clock.now()

    async def body(tx: Transaction) -> None:
        if not append:
            c = definitions.c
            await tx.run(delete(definitions).where(c.namespace_id == namespace["id"], c.kind == TAG))
        for name in names:
            await _insert(tx, namespace, TAG, name, {}, now)

    await image.database.run(body)


async def _insert(tx: Transaction, namespace: Row, kind: str, name: str, content: Any, now: float) -> Row:
    row = {"namespace_id": namespace["id"], "kind": kind, "name": name, "body": content,
           "created_at": now, "updated_at": now}  # fmt: skip
    try:
        await tx.insert(definitions, row)
    except Duplicate:
        raise _taken(kind, name, namespace) from None
    return row


async def redefine(image: Image, namespace: Row, row: Row, name: str, content: dict[str, Any]) -> Row:
    """Replace a definition, perhaps under another name; raises Conflict for a name that is there already."""
    values = {"name": name, "body": content, "updated_at": clock.now()}
    same = _key(namespace, row["kind"], row["name"])

    async def body(tx: Transaction) -> None:
        try:
            await tx.run(update(definitions).where(same).values(**values))
        except Duplicate:
            raise _taken(row["kind"], name, namespace) from None

    await image.database.run(body)
    return {**row, **values}


async def undefine(image: Image, namespace: Row, kind: str, name: str) -> None:
    """Delete one definition. Raises NotFound, or Forbidden in a protected namespace."""
    await definition(image, namespace, kind, name)
    check_unprotected(namespace, _NOUNS[kind], name)
    await image.database.run(lambda tx: tx.run(delete(definitions).where(_key(namespace, kind, name))))


async def undefine_all(image: Image, namespace: Row, kind: str) -> None:
    """Delete all definitions of a kind; raises Forbidden in a protected namespace."""
    check_unprotected(namespace)
    mine = (definitions.c.namespace_id == namespace["id"]) & (definitions.c.kind == kind)
    await image.database.run(lambda tx: tx.run(delete(definitions).where(mine)))


# ---- resource types


async def list_types(image: Image) -> list[Row]:
    return await image.database.all(select(resource_types).order_by(resource_types.c.name))


async def list_associations(image: Image, namespace: Row) -> list[Row]:
    mine = select(associations).where(associations.c.namespace_id == namespace["id"])
    return await image.database.all(mine.order_by(associations.c.resource_type))


async def associate(image: Image, namespace: Row, wanted: Mapping[str, Any]) -> Row:
    """Say that a namespace is meant for a resource type; raises Conflict when that was said before."""
    return await image.database.run(lambda tx: _tie(tx, namespace, wanted, clock.now()))


async def _tie(tx: Transaction, namespace: Row, wanted: Mapping[str, Any], now: float) -> Row:
    name = wanted["name"]
    if await tx.first(select(resource_types).where(resource_types.c.name == name)) is None:
        await tx.insert(resource_types, {"name": name, "created_at": now, "updated_at": now})
    row = {
        "namespace_id": namespace["id"], "resource_type": name, "prefix": wanted.get("prefix"),
        "properties_target": wanted.get("properties_target"), "created_at": now, "updated_at": now,
    }  # fmt: skip
    try:
        await tx.insert(associations, row)
    except Duplicate:
        raise Conflict(
            f"The metadata definition resource-type association of resource-type={name} to "
            f"namespace={namespace['namespace']} already exists."
        ) from None
    return row


async def dissociate(image: Image, namespace: Row, name: str) -> None:
    """Raises NotFound, or Forbidden in a protected namespace."""
    known = {row["resource_type"] for row in await list_associations(image, namespace)}
    if name not in known:
        raise NotFound(f"Failed to find resource type {name} to delete")
    check_unprotected(namespace, "resource-type-association", name)
    c = associations.c
    mine = (c.namespace_id == namespace["id"]) & (c.resource_type == name)
    await image.database.run(lambda tx: tx.run(delete(associations).where(mine)))


async def prefix_of(image: Image, namespace: Row, resource_type: str) -> str | None:
    """The prefix that a namespace's properties have on a resource type; None without an association."""
    for row in await list_associations(image, namespace):
        if row["resource_type"] == resource_type:
            return row["prefix"] or ""
    return None


# ---- the published set


async def load_published(image: Image, published: list[dict[str, Any]]) -> None:
    """Load the definitions that a new cloud has, once: what an administrator changes or deletes stays so."""
    now = clock.now()

    async def body(tx: Transaction) -> None:
        if await tx.first(select(resource_types).limit(1)) is not None:
            return
        for one in published:
            row: Row = {
                "id": ids.new_uuid(), "namespace": one["namespace"], "display_name": one["display_name"],
                "description": None, "visibility": "public", "protected": one["protected"], "owner": None,
                "created_at": now, "updated_at": now,
            }  # fmt: skip
            await tx.insert(namespaces, row)
            for tie in one["types"]:
                await _tie(tx, row, tie, now)
            for kind, name, content in one["inside"]:
                await _insert(tx, row, kind, name, content, now)

    await image.database.run(body)

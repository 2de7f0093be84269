# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a project gets to see: single ones, and those that a group's filters choose.

Invariant: what a project is associated with decides its catalogue from the next
token on, since every change here is a change of the feed.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.identity.errors import taken
from cumulet.identity.logic.catalogue import chosen, show_endpoint
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.listing import Page, fetch, one
from cumulet.identity.logic.projects import show_project, with_tags
from cumulet.identity.models import ENDPOINT_GROUPS, ENDPOINTS, PROJECT_ENDPOINT_GROUPS, PROJECT_ENDPOINTS, PROJECTS
from cumulet.kernel import ids
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import NotFound

Reader = Database | Transaction
FILTERS = ("service_id", "region_id", "interface")
"""What a group may choose endpoints by."""


# ---- groups


async def list_groups(database: Database, page: Page) -> tuple[list[Row], bool]:
    return await fetch(database, select(ENDPOINT_GROUPS), ENDPOINT_GROUPS, page)


async def show_group(reader: Reader, group_id: str) -> Row:
    return await one(reader, ENDPOINT_GROUPS, group_id, "Endpoint Group")


async def create_group(database: Database, sent: dict[str, Any]) -> Row:
    row: Row = {
        "id": ids.new_hex(), "name": sent["name"], "description": sent.get("description"), "filters": sent["filters"]
    }  # fmt: skip

    async def body(tx: Transaction) -> None:
        await tx.insert(ENDPOINT_GROUPS, row)

    await database.run(body)
    return row


async def update_group(database: Database, feed: Feed, group_id: str, sent: dict[str, Any]) -> Row:
    values: Row = {name: sent[name] for name in ("name", "filters") if sent.get(name) is not None}
    if "description" in sent:
        values["description"] = sent["description"]

    async def body(tx: Transaction) -> Row:
        row = await show_group(tx, group_id)
        new: Row = row | values
        await tx.run(ENDPOINT_GROUPS.update().where(ENDPOINT_GROUPS.c.id == group_id).values(new))
        await feed.changed(tx)
        return new

    return await database.run(body)


async def drop_group(database: Database, feed: Feed, group_id: str) -> None:
    async def body(tx: Transaction) -> None:
        await show_group(tx, group_id)
        await tx.run(ENDPOINT_GROUPS.delete().where(ENDPOINT_GROUPS.c.id == group_id))
        await feed.changed(tx)

    await database.run(body)


async def endpoints_of_group(reader: Reader, group_id: str) -> list[Row]:
    filters = (await show_group(reader, group_id))["filters"]
    return chosen(await reader.all(select(ENDPOINTS).order_by(ENDPOINTS.c.id)), filters)


async def projects_of_group(reader: Reader, group_id: str) -> list[Row]:
    table = PROJECT_ENDPOINT_GROUPS.c
    return await _projects(reader, select(table.project_id).where(table.endpoint_group_id == group_id))


async def groups_of_project(reader: Reader, project_id: str) -> list[Row]:
    await show_project(reader, project_id)
    table = PROJECT_ENDPOINT_GROUPS.c
    joined = select(table.endpoint_group_id).where(table.project_id == project_id)
    return await reader.all(select(ENDPOINT_GROUPS).where(ENDPOINT_GROUPS.c.id.in_(joined)).order_by("id"))


# ---- associations


async def check_endpoint(reader: Reader, project_id: str, endpoint_id: str) -> None:
    """Raise NotFound unless the endpoint itself is associated with the project."""
    await _both(reader, project_id, endpoint_id)
    if await reader.first(select(PROJECT_ENDPOINTS).where(_single(project_id, endpoint_id))) is None:
        raise _not_associated(project_id, endpoint_id)


async def add_endpoint(database: Database, feed: Feed, project_id: str, endpoint_id: str) -> None:
    async def body(tx: Transaction) -> None:
        await _both(tx, project_id, endpoint_id)
        await tx.insert(PROJECT_ENDPOINTS, {"project_id": project_id, "endpoint_id": endpoint_id})
        await feed.changed(tx)

    try:
        await database.run(body)
    except Duplicate:
        raise taken("project_endpoint", "Duplicate entry") from None


async def drop_endpoint(database: Database, feed: Feed, project_id: str, endpoint_id: str) -> None:
    async def body(tx: Transaction) -> None:
        if not await tx.run(PROJECT_ENDPOINTS.delete().where(_single(project_id, endpoint_id))):
            raise _not_associated(project_id, endpoint_id)
        await feed.changed(tx)

    await database.run(body)


async def check_group(reader: Reader, group_id: str, project_id: str) -> None:
    """Raise NotFound unless the group is associated with the project."""
    await show_project(reader, project_id)
    await show_group(reader, group_id)
    if await reader.first(select(PROJECT_ENDPOINT_GROUPS).where(_grouped(group_id, project_id))) is None:
        raise NotFound("Endpoint Group Project Association not found")


async def add_group(database: Database, feed: Feed, group_id: str, project_id: str) -> None:
    async def body(tx: Transaction) -> None:
        await show_project(tx, project_id)
        await show_group(tx, group_id)
        await tx.insert(PROJECT_ENDPOINT_GROUPS, {"project_id": project_id, "endpoint_group_id": group_id})
        await feed.changed(tx)

    try:
        await database.run(body)
    except Duplicate:
        raise taken("project_endpoint_group", "Duplicate entry") from None


async def drop_group_of(database: Database, feed: Feed, group_id: str, project_id: str) -> None:
    async def body(tx: Transaction) -> None:
        await check_group(tx, group_id, project_id)
        await tx.run(PROJECT_ENDPOINT_GROUPS.delete().where(_grouped(group_id, project_id)))
        await feed.changed(tx)

    await database.run(body)


async def endpoints_of_project(reader: Reader, project_id: str) -> list[Row]:
    """The endpoints associated with a project, by themselves or by a group."""
    groups = await groups_of_project(reader, project_id)
    table = PROJECT_ENDPOINTS.c
    single = {
        row["endpoint_id"] for row in await reader.all(select(table.endpoint_id).where(table.project_id == project_id))
    }
    rows = await reader.all(select(ENDPOINTS).order_by(ENDPOINTS.c.id))
    ids_ = single.union(*({row["id"] for row in chosen(rows, group["filters"])} for group in groups))
    return [row for row in rows if row["id"] in ids_]


async def projects_of_endpoint(reader: Reader, endpoint_id: str) -> list[Row]:
    await show_endpoint(reader, endpoint_id)
    table = PROJECT_ENDPOINTS.c
    return await _projects(reader, select(table.project_id).where(table.endpoint_id == endpoint_id))


async def _projects(reader: Reader, wanted: Any) -> list[Row]:
    rows = await reader.all(select(PROJECTS).where(PROJECTS.c.id.in_(wanted)).order_by(PROJECTS.c.id))
    return await with_tags(reader, rows)


async def _both(reader: Reader, project_id: str, endpoint_id: str) -> None:
    await show_endpoint(reader, endpoint_id)
    await show_project(reader, project_id)


def _single(project_id: str, endpoint_id: str) -> Any:
    return (PROJECT_ENDPOINTS.c.project_id == project_id) & (PROJECT_ENDPOINTS.c.endpoint_id == endpoint_id)


def _grouped(group_id: str, project_id: str) -> Any:
    table = PROJECT_ENDPOINT_GROUPS.c
    return (table.project_id == project_id) & (table.endpoint_group_id == group_id)


def _not_associated(project_id: str, endpoint_id: str) -> NotFound:
    return NotFound(f"Endpoint {endpoint_id} not found in project {project_id}")

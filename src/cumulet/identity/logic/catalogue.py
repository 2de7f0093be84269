# SPDX-License-Identifier: Apache-2.0
"""Services, endpoints and regions, and the catalogue that clients find everything by.

Invariant: a URL of the cloud's own services is never stored. Their rows hold
``$(base)s/compute/v2.1``, rendered at the edge from the address by which this
client reached us; so one cloud has as many addresses as there are ways to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select

from cumulet.identity.config import IdentitySettings
from cumulet.identity.errors import expecting, taken
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.listing import Page, fetch, one, split
from cumulet.identity.models import (
    ENDPOINT_GROUPS,
    ENDPOINTS,
    POLICY_ASSOCIATIONS,
    PROJECT_ENDPOINT_GROUPS,
    PROJECT_ENDPOINTS,
    REGIONS,
    SERVICE_PROVIDERS,
    SERVICES,
)
from cumulet.kernel import ids
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Forbidden, Invalid

Reader = Database | Transaction
SERVICE = ("type", "name", "enabled")
ENDPOINT = ("service_id", "interface", "region_id", "region", "url", "enabled")
REGION = ("id", "description", "parent_region_id")
BASE = "$(base)s"
INTERFACES = ("public", "internal", "admin")
_PLACE = re.compile(r"[$%]\(([a-z_]+)\)s")
_PLACES = frozenset({"base", "project_id", "tenant_id", "user_id", "public_bind_host", "admin_bind_host"})


def front_base(base: str, mount: str, port: int | None) -> str:
    """scheme://host of the front door, for a client that reached us at ``base``.

    Below a ``mount`` the client is at the front door already; without one it came
    to the service's own traditional port, beside which the front door is at ``port``.
    """
    if mount or port is None:
        return base
    parts = urlsplit(base)
    host = parts.netloc.rpartition(":")[0] if re.search(r":\d+$", parts.netloc) else parts.netloc
    return f"{parts.scheme}://{host}:{port}{parts.path}"


def render(template: str, values: Mapping[str, str | None]) -> str | None:
    """The URL of a template such as ``$(base)s/volume/v3/%(project_id)s``; None where a value is missing."""
    gone = False

    def fill(match: re.Match[str]) -> str:
        nonlocal gone
        value = values.get(match[1])
        gone |= value is None
        return value or ""

    url = _PLACE.sub(fill, template)
    return None if gone else url


def chosen(endpoints: list[Row], filters: Mapping[str, Any]) -> list[Row]:
    """The endpoints that an endpoint group with these filters has."""
    return [row for row in endpoints if all(row[name] == value for name, value in filters.items())]


@dataclass(frozen=True)
class _Loaded:
    """Everything that catalogues are made of, as it was at one number of the feed."""

    services: list[tuple[Row, list[Row]]] = field(default_factory=list)
    """The enabled services, each with its enabled endpoints."""
    of_projects: dict[str, set[str]] = field(default_factory=dict)
    """The ids of the endpoints of each project that any are associated with, disabled ones included."""
    trusted: list[Row] = field(default_factory=list)
    """The enabled service providers."""


class Catalogue:
    """The enabled endpoints, kept in memory for as long as nothing changes."""

    def __init__(self, database: Database, feed: Feed, settings: IdentitySettings) -> None:
        self._database, self._feed = database, feed
        self._whole = settings.whole_catalogue_without_filter
        self._at = -1
        self._loaded = _Loaded()

    async def entries(self, base: str, *, project_id: str | None, user_id: str | None) -> list[dict[str, Any]]:
        """The published catalogue for one caller at one address; endpoints that need a project are only for those.

        A project with associated endpoints has those alone, and of the services those that have one.
        """
        values = {"base": base, "project_id": project_id, "tenant_id": project_id, "user_id": user_id}
        loaded = await self._load()
        own = loaded.of_projects.get(project_id or "")
        if not own and not self._whole:
            return []
        catalogue = []
        for service, endpoints in loaded.services:
            shown = []
            for endpoint in endpoints:
                if own and endpoint["id"] not in own:
                    continue
                url = render(endpoint["url"], values)
                if url is not None:
                    region = endpoint["region_id"]
                    shown.append(
                        {
                            "id": endpoint["id"],
                            "interface": endpoint["interface"],
                            "region_id": region,
                            "url": url,
                            "region": region,
                        }
                    )
            if shown or not own:
                catalogue.append(
                    {"endpoints": shown, "id": service["id"], "type": service["type"], "name": service["name"]}
                )
        return catalogue

    async def service_providers(self) -> list[dict[str, Any]]:
        """The enabled service providers, as every token tells of them."""
        return (await self._load()).trusted

    async def _load(self) -> _Loaded:
        sequence = await self._feed.sequence()
        if sequence == self._at:
            return self._loaded
        services = await self._database.all(
            select(SERVICES).where(SERVICES.c.enabled.is_(True)).order_by(SERVICES.c.type, SERVICES.c.id)
        )
        endpoints = await self._database.all(select(ENDPOINTS).order_by(ENDPOINTS.c.interface, ENDPOINTS.c.id))
        loaded: dict[str, tuple[Row, list[Row]]] = {service["id"]: (service, []) for service in services}
        for endpoint in endpoints:
            if endpoint["enabled"] and endpoint["service_id"] in loaded:
                loaded[endpoint["service_id"]][1].append(endpoint)
        table = SERVICE_PROVIDERS.c
        trusted = select(table.auth_url, table.id, table.sp_url).where(table.enabled.is_(True)).order_by(table.id)
        of_projects = await self._of_projects(endpoints)
        self._loaded = _Loaded(list(loaded.values()), of_projects, await self._database.all(trusted))
        self._at = sequence
        return self._loaded

    async def _of_projects(self, endpoints: list[Row]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for row in await self._database.all(select(PROJECT_ENDPOINTS)):
            found.setdefault(row["project_id"], set()).add(row["endpoint_id"])
        groups = await self._database.all(select(ENDPOINT_GROUPS))
        members = {group["id"]: {row["id"] for row in chosen(endpoints, group["filters"])} for group in groups}
        for row in await self._database.all(select(PROJECT_ENDPOINT_GROUPS)):
            found.setdefault(row["project_id"], set()).update(members[row["endpoint_group_id"]])
        return found


async def _forget_policies(tx: Transaction, places: Any) -> None:
    """What goes away has no policy any more."""
    await tx.run(POLICY_ASSOCIATIONS.delete().where(places))


# ---- services


async def list_services(database: Database, page: Page) -> tuple[list[Row], bool]:
    return await fetch(database, select(SERVICES), SERVICES, page)


async def show_service(reader: Reader, service_id: str) -> Row:
    return await one(reader, SERVICES, service_id, "service")


async def create_service(database: Database, feed: Feed, sent: dict[str, Any]) -> Row:
    values, extra = split(sent, SERVICE)
    row = {"id": ids.new_hex(), "name": "", "enabled": True, **values, "extra": extra}

    async def body(tx: Transaction) -> None:
        await tx.insert(SERVICES, row)
        await feed.changed(tx)

    await database.run(body)
    return row


async def update_service(database: Database, feed: Feed, service_id: str, sent: dict[str, Any]) -> Row:
    values, extra = split(sent, SERVICE)

    async def body(tx: Transaction) -> Row:
        row = await show_service(tx, service_id)
        new = {**row, **values, "extra": {**row["extra"], **extra}}
        await tx.run(SERVICES.update().where(SERVICES.c.id == service_id).values(new))
        await feed.changed(tx)
        return new

    return await database.run(body)


async def delete_service(database: Database, feed: Feed, service_id: str) -> None:
    """Delete a service with its endpoints."""

    async def body(tx: Transaction) -> None:
        await show_service(tx, service_id)
        await _forget_policies(tx, POLICY_ASSOCIATIONS.c.service_id == service_id)
        endpoints = select(ENDPOINTS.c.id).where(ENDPOINTS.c.service_id == service_id)
        await _forget_policies(tx, POLICY_ASSOCIATIONS.c.endpoint_id.in_(endpoints))
        await tx.run(SERVICES.delete().where(SERVICES.c.id == service_id))
        await feed.changed(tx)

    await database.run(body)


# ---- endpoints


async def list_endpoints(database: Database, page: Page) -> tuple[list[Row], bool]:
    return await fetch(database, select(ENDPOINTS), ENDPOINTS, page)


async def show_endpoint(reader: Reader, endpoint_id: str) -> Row:
    return await one(reader, ENDPOINTS, endpoint_id, "endpoint")


def _endpoint_values(sent: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The columns and extras; the old member ``region`` names a region that is made when it is missing."""
    values, extra = split(sent, ENDPOINT)
    if "url" in values and (set(_PLACE.findall(values["url"])) - _PLACES or _stray(values["url"])):
        raise Invalid(f"Cannot create an endpoint with an invalid URL: {values['url']}.")
    return values, extra


def _stray(url: str) -> bool:
    """Whether a place in the template is not written to its end."""
    rest = _PLACE.sub("", url)
    return "$(" in rest or "%(" in rest


async def _check_endpoint(tx: Transaction, values: dict[str, Any]) -> None:
    service_id = values.get("service_id")
    if service_id is not None and await tx.first(select(SERVICES.c.id).where(SERVICES.c.id == service_id)) is None:
        raise expecting("endpoint service_id", "service table")
    named = values.pop("region", None)
    if values.get("region_id") is not None:
        if await tx.first(select(REGIONS.c.id).where(REGIONS.c.id == values["region_id"])) is None:
            raise expecting("endpoint region_id", "region table")
    elif named is not None:
        if await tx.first(select(REGIONS.c.id).where(REGIONS.c.id == named)) is None:
            await tx.insert(REGIONS, {"id": named, "description": "", "parent_region_id": None, "extra": {}})
        values["region_id"] = named


async def create_endpoint(database: Database, feed: Feed, sent: dict[str, Any]) -> Row:
    values, extra = _endpoint_values(sent)
    endpoint_id = ids.new_hex()

    async def body(tx: Transaction) -> Row:
        wished = dict(values)
        await _check_endpoint(tx, wished)
        row = {"id": endpoint_id, "region_id": None, "enabled": True, **wished, "extra": extra}
        await tx.insert(ENDPOINTS, row)
        await feed.changed(tx)
        return row

    return await database.run(body)


async def update_endpoint(database: Database, feed: Feed, endpoint_id: str, sent: dict[str, Any]) -> Row:
    values, extra = _endpoint_values(sent)

    async def body(tx: Transaction) -> Row:
        row = await show_endpoint(tx, endpoint_id)
        wished = dict(values)
        await _check_endpoint(tx, wished)
        new = {**row, **wished, "extra": {**row["extra"], **extra}}
        await tx.run(ENDPOINTS.update().where(ENDPOINTS.c.id == endpoint_id).values(new))
        await feed.changed(tx)
        return new

    return await database.run(body)


async def delete_endpoint(database: Database, feed: Feed, endpoint_id: str) -> None:
    async def body(tx: Transaction) -> None:
        await show_endpoint(tx, endpoint_id)
        await _forget_policies(tx, POLICY_ASSOCIATIONS.c.endpoint_id == endpoint_id)
        await tx.run(ENDPOINTS.delete().where(ENDPOINTS.c.id == endpoint_id))
        await feed.changed(tx)

    await database.run(body)


# ---- regions


async def list_regions(database: Database, page: Page) -> tuple[list[Row], bool]:
    return await fetch(database, select(REGIONS), REGIONS, page)


async def show_region(reader: Reader, region_id: str) -> Row:
    return await one(reader, REGIONS, region_id, "region")


async def create_region(database: Database, sent: dict[str, Any]) -> Row:
    """Create a region, under the id that was sent if any."""
    values, extra = split(sent, REGION)
    row: Row = {
        "id": sent.get("id") or ids.new_hex(),
        "description": values.get("description") or "",
        "parent_region_id": values.get("parent_region_id"),
        "extra": extra,
    }

    async def body(tx: Transaction) -> None:
        if row["parent_region_id"] is not None:
            await show_region(tx, row["parent_region_id"])
        await tx.insert(REGIONS, row)

    try:
        await database.run(body)
    except Duplicate:
        raise taken("region", f"Duplicate ID, {row['id']}.") from None
    return row


async def update_region(database: Database, region_id: str, sent: dict[str, Any]) -> Row:
    values, extra = split(sent, REGION)
    values.pop("id", None)

    async def body(tx: Transaction) -> Row:
        row = await show_region(tx, region_id)
        parent = values.get("parent_region_id")
        above = parent
        while above is not None:
            if above == region_id:
                raise Invalid(f"The specified parent region {above} would create a circular region hierarchy.")
            above = (await show_region(tx, above))["parent_region_id"]
        new = {**row, **values, "extra": {**row["extra"], **extra}}
        new["description"] = new["description"] or ""
        await tx.run(REGIONS.update().where(REGIONS.c.id == region_id).values(new))
        return new

    return await database.run(body)


async def delete_region(database: Database, region_id: str) -> None:
    """Delete a region with those below it; refused while any of them has endpoints."""

    async def body(tx: Transaction) -> None:
        await show_region(tx, region_id)
        tree = [region_id]
        for above in tree:
            rows = await tx.all(select(REGIONS.c.id).where(REGIONS.c.parent_region_id == above))
            tree += [row["id"] for row in rows]
        if await tx.first(select(ENDPOINTS.c.id).where(ENDPOINTS.c.region_id.in_(tree))) is not None:
            raise Forbidden(
                f"Unable to delete region {region_id} because it or its child regions have associated endpoints."
            )
        await _forget_policies(tx, POLICY_ASSOCIATIONS.c.region_id.in_(tree))
        await tx.run(REGIONS.delete().where(REGIONS.c.id.in_(tree)))

    await database.run(body)

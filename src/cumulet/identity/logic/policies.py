# SPDX-License-Identifier: Apache-2.0
"""Policies that are kept for services, and which endpoints each is for.

Invariant: an endpoint has at most one policy. The nearest association decides:
its own, then its service's in its region or a region above, then its service's.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.identity.logic.catalogue import show_endpoint, show_region, show_service
from cumulet.identity.logic.listing import Page, fetch, one, split
from cumulet.identity.models import ENDPOINTS, POLICIES, POLICY_ASSOCIATIONS, REGIONS
from cumulet.kernel import ids
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import NotFound

Reader = Database | Transaction
POLICY = ("type", "blob")
_LOADERS = {"endpoint_id": show_endpoint, "service_id": show_service, "region_id": show_region}


async def list_policies(database: Database, page: Page) -> tuple[list[Row], bool]:
    return await fetch(database, select(POLICIES), POLICIES, page)


async def show_policy(reader: Reader, policy_id: str) -> Row:
    return await one(reader, POLICIES, policy_id, "policy")


async def create_policy(database: Database, sent: dict[str, Any]) -> Row:
    values, extra = split(sent, POLICY)
    row = {"id": ids.new_hex(), **values, "extra": extra}

    async def body(tx: Transaction) -> None:
        await tx.insert(POLICIES, row)

    await database.run(body)
    return row


async def update_policy(database: Database, policy_id: str, sent: dict[str, Any]) -> Row:
    values, extra = split(sent, POLICY)

    async def body(tx: Transaction) -> Row:
        row = await show_policy(tx, policy_id)
        new = {**row, **values, "extra": {**row["extra"], **extra}}
        await tx.run(POLICIES.update().where(POLICIES.c.id == policy_id).values(new))
        return new

    return await database.run(body)


async def drop_policy(database: Database, policy_id: str) -> None:
    """Delete a policy with its associations."""

    async def body(tx: Transaction) -> None:
        await show_policy(tx, policy_id)
        await tx.run(POLICIES.delete().where(POLICIES.c.id == policy_id))

    await database.run(body)


# ---- associations


def _key(place: dict[str, str]) -> dict[str, str]:
    return {name: place.get(name, "") for name in _LOADERS}


def _at(place: dict[str, str]) -> Any:
    condition: Any = None
    for name, value in _key(place).items():
        part = POLICY_ASSOCIATIONS.c[name] == value
        condition = part if condition is None else condition & part
    return condition


async def _check(reader: Reader, policy_id: str, place: dict[str, str]) -> None:
    """The policy and everything that ``place`` names are there."""
    await show_policy(reader, policy_id)
    for name, wanted in place.items():
        await _LOADERS[name](reader, wanted)


async def check_association(reader: Reader, policy_id: str, place: dict[str, str]) -> None:
    """Raise NotFound unless the policy is for exactly this ``place`` (some of endpoint_id, service_id, region_id)."""
    await _check(reader, policy_id, place)
    wanted = _at(place) & (POLICY_ASSOCIATIONS.c.policy_id == policy_id)
    if await reader.first(select(POLICY_ASSOCIATIONS).where(wanted)) is None:
        raise NotFound("Could not find policy association.")


async def associate(database: Database, policy_id: str, place: dict[str, str]) -> None:
    """Make the policy the one of this place, instead of any other."""

    async def body(tx: Transaction) -> None:
        await _check(tx, policy_id, place)
        if not await tx.run(POLICY_ASSOCIATIONS.update().where(_at(place)).values(policy_id=policy_id)):
            await tx.insert(POLICY_ASSOCIATIONS, {**_key(place), "policy_id": policy_id})

    await database.run(body)


async def dissociate(database: Database, policy_id: str, place: dict[str, str]) -> None:
    """End the association; one that is not there is fine, as published."""

    async def body(tx: Transaction) -> None:
        await _check(tx, policy_id, place)
        await tx.run(POLICY_ASSOCIATIONS.delete().where(_at(place) & (POLICY_ASSOCIATIONS.c.policy_id == policy_id)))

    await database.run(body)


async def endpoints_of_policy(reader: Reader, policy_id: str) -> list[Row]:
    """The endpoints that the policy's associations cover."""
    await show_policy(reader, policy_id)
    endpoints = await reader.all(select(ENDPOINTS).order_by(ENDPOINTS.c.id))
    parents = await _parents(reader)
    places = await reader.all(select(POLICY_ASSOCIATIONS).where(POLICY_ASSOCIATIONS.c.policy_id == policy_id))
    return [row for row in endpoints if any(_covers(place, row, parents) for place in places)]


def _covers(place: Row, endpoint: Row, parents: dict[str, str | None]) -> bool:
    if place["endpoint_id"]:
        return bool(place["endpoint_id"] == endpoint["id"])
    if place["service_id"] != endpoint["service_id"]:
        return False
    return not place["region_id"] or place["region_id"] in _upwards(endpoint["region_id"], parents)


async def _parents(reader: Reader) -> dict[str, str | None]:
    rows = await reader.all(select(REGIONS.c.id, REGIONS.c.parent_region_id))
    return {row["id"]: row["parent_region_id"] for row in rows}


def _upwards(region_id: str | None, parents: dict[str, str | None]) -> list[str]:
    """The region and those above it, nearest first."""
    chain: list[str] = []
    while region_id is not None and region_id not in chain:
        chain.append(region_id)
        region_id = parents.get(region_id)
    return chain


async def policy_of_endpoint(reader: Reader, endpoint_id: str) -> Row:
    """The one policy that is effective for an endpoint; raises NotFound when there is none."""
    endpoint = await show_endpoint(reader, endpoint_id)
    service = {"service_id": endpoint["service_id"]}
    regions = _upwards(endpoint["region_id"], await _parents(reader))
    places = [{"endpoint_id": endpoint_id}, *({**service, "region_id": region} for region in regions), service]
    for place in places:
        found = await reader.first(select(POLICY_ASSOCIATIONS.c.policy_id).where(_at(place)))
        if found is not None:
            return await show_policy(reader, found["policy_id"])
    raise NotFound(f"No policy is associated with endpoint {endpoint_id}.")

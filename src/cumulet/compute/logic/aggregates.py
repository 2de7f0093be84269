# SPDX-License-Identifier: Apache-2.0
"""Host aggregates: named sets of hosts with metadata, one key of which makes an availability zone.

A host is in one zone at most; its row follows every change here in the same
transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from cumulet.compute.logic import Compute
from cumulet.compute.logic.hosts import COMPUTE, tell_schedulers, zone_of
from cumulet.compute.models import AGGREGATES, HOSTS, SERVERS, next_number
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, Invalid, NotFound

ZONE = "availability_zone"


def missing(number: str) -> NotFound:
    return NotFound(f"Aggregate {number} could not be found.", kind="AggregateNotFound")


def _key(number: str) -> int:
    if not number.removeprefix("-").isdigit():
        raise Invalid(f"Invalid input received: id must be an integer, not {number[:40]!r}")
    return int(number)


async def _load(tx: Transaction, number: str) -> Row:
    row = await tx.first(select(AGGREGATES).where(AGGREGATES.c.number == _key(number)))
    if row is None:
        raise missing(number)
    return row


async def _save(compute: Compute, tx: Transaction, row: Row, touched: set[str], **changes: Any) -> Row:
    """Write an aggregate and bring the zones of ``touched`` up to date."""
    changes["updated_at"] = clock.now()
    await tx.run(AGGREGATES.update().where(AGGREGATES.c.id == row["id"]).values(**changes))
    for host in sorted(touched):
        zone = await zone_of(tx, host, COMPUTE, compute.settings.default_zone)
        where = (HOSTS.c.host == host) & (HOSTS.c.binary == COMPUTE)
        await tx.run(HOSTS.update().where(where).values(zone=zone, updated_at=changes["updated_at"]))
    return {**row, **changes}


async def _check_zone(tx: Transaction, row: Row, host: str, zone: str | None) -> None:
    """Refuse a host in two zones, or out of a zone that its servers were promised."""
    if zone is None:
        return
    for other in await tx.all(select(AGGREGATES).where(AGGREGATES.c.id != row["id"])):
        elsewhere = other["metadata"].get(ZONE)
        if host in other["hosts"] and elsewhere and elsewhere != zone:
            raise Conflict(
                f"Cannot add host to aggregate {row['number']}. Reason: One or more hosts already in availability "
                f"zone(s) {[elsewhere]}."
            )


async def find(compute: Compute) -> list[Row]:
    return await compute.db.all(select(AGGREGATES).order_by(AGGREGATES.c.number))


async def load(compute: Compute, number: str) -> Row:
    row = await compute.db.first(select(AGGREGATES).where(AGGREGATES.c.number == _key(number)))
    if row is None:
        raise missing(number)
    return row


async def create(compute: Compute, name: str, zone: str | None) -> Row:
    async def body(tx: Transaction) -> Row:
        if await tx.first(select(AGGREGATES.c.id).where(AGGREGATES.c.name == name)):
            raise Conflict(f"Aggregate {name} already exists.", kind="AggregateNameExists")
        row = {
            "id": ids.new_uuid(), "number": await next_number(tx, AGGREGATES), "name": name, "hosts": [],
            "metadata": {ZONE: zone} if zone else {}, "created_at": clock.now(), "updated_at": None,
        }  # fmt: skip
        await tx.insert(AGGREGATES, row)
        return row

    return await compute.db.run(body)


async def update(compute: Compute, number: str, changes: Mapping[str, Any]) -> Row:
    """Rename an aggregate, or put its hosts into another zone (None: out of it)."""

    async def body(tx: Transaction) -> Row:
        row = await _load(tx, number)
        values: dict[str, Any] = {}
        if "name" in changes:
            taken = select(AGGREGATES.c.id).where(AGGREGATES.c.name == changes["name"], AGGREGATES.c.id != row["id"])
            if await tx.first(taken):
                raise Conflict(f"Aggregate {changes['name']} already exists.", kind="AggregateNameExists")
            values["name"] = changes["name"]
        if ZONE in changes:
            values["metadata"] = await _merged(tx, row, {ZONE: changes[ZONE]})
        return await _save(compute, tx, row, set(row["hosts"]), **values)

    row = await compute.db.run(body)
    await tell_schedulers(compute, row["hosts"])
    return row


async def _merged(tx: Transaction, row: Row, changes: Mapping[str, str | None]) -> dict[str, str]:
    """The metadata after a change; null takes a key away."""
    if ZONE in changes and changes[ZONE] != row["metadata"].get(ZONE):
        for host in row["hosts"]:
            await _check_zone(tx, row, host, changes[ZONE])
            occupied = select(SERVERS.c.id).where(SERVERS.c.host == host, SERVERS.c.deleted_at.is_(None)).limit(1)
            if await tx.first(occupied):
                raise Invalid(
                    f"Cannot update aggregate {row['number']}. Reason: One or more hosts contain instances in this zone"
                )
    merged = {**row["metadata"], **changes}
    return {key: value for key, value in merged.items() if value is not None}


async def set_metadata(compute: Compute, number: str, changes: Mapping[str, str | None]) -> Row:
    async def body(tx: Transaction) -> Row:
        row = await _load(tx, number)
        return await _save(compute, tx, row, set(row["hosts"]), metadata=await _merged(tx, row, changes))

    row = await compute.db.run(body)
    await tell_schedulers(compute, row["hosts"])
    return row


async def delete(compute: Compute, number: str) -> None:
    async def body(tx: Transaction) -> None:
        row = await _load(tx, number)
        if row["hosts"]:
            raise Invalid(f"Cannot delete aggregate {number}. Reason: Host aggregate is not empty.")
        await tx.run(AGGREGATES.delete().where(AGGREGATES.c.id == row["id"]))

    await compute.db.run(body)


async def add_host(compute: Compute, number: str, host: str) -> Row:
    async def body(tx: Transaction) -> Row:
        row = await _load(tx, number)
        if await tx.first(select(HOSTS.c.id).where(HOSTS.c.host == host, HOSTS.c.binary == COMPUTE)) is None:
            raise NotFound(f"Compute host {host} could not be found.", kind="ComputeHostNotFound")
        if host in row["hosts"]:
            raise Conflict(f"Aggregate {number} already has host {host}.", kind="AggregateHostExists")
        await _check_zone(tx, row, host, row["metadata"].get(ZONE))
        return await _save(compute, tx, row, {host}, hosts=[*row["hosts"], host])

    row = await compute.db.run(body)
    await tell_schedulers(compute, [host])
    return row


async def remove_host(compute: Compute, number: str, host: str) -> Row:
    async def body(tx: Transaction) -> Row:
        row = await _load(tx, number)
        if host not in row["hosts"]:
            raise NotFound(f"Cannot remove host {host} in aggregate {number}")
        return await _save(compute, tx, row, {host}, hosts=[one for one in row["hosts"] if one != host])

    row = await compute.db.run(body)
    await tell_schedulers(compute, [host])
    return row

# SPDX-License-Identifier: Apache-2.0
"""Hosts and the services on them, the zones they are in, and what each hypervisor reports.

A service is up while it gives a sign of life and nobody forced it down. A
host's zone follows from the aggregates it is in and is kept in its row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import func, select

from cumulet.compute.errors import marker_missing
from cumulet.compute.logic import Compute
from cumulet.compute.models import AGGREGATES, HOSTS, SERVERS, next_number
from cumulet.compute.scheduler.rpc import REPORT, HostReport
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, Invalid, NotFound, Unavailable

_log = logging.getLogger(__name__)
COMPUTE: Final = "nova-compute"
INTERNAL: Final = "internal"
"""The zone of the services that run no guests."""


def is_up(compute: Compute, row: Mapping[str, Any]) -> bool:
    fresh: bool = row["last_seen"] >= clock.now() - compute.settings.service_down_after
    return fresh and not row["forced_down"]


def status_of(compute: Compute, row: Mapping[str, Any] | None) -> str:
    """host_status as published: UP, DOWN, UNKNOWN, MAINTENANCE, or '' without a host."""
    if row is None:
        return ""
    if row["forced_down"]:
        return "DOWN"
    if row["status"] == "disabled":
        return "MAINTENANCE"
    return "UP" if is_up(compute, row) else "UNKNOWN"


async def zone_of(reader: Transaction, host: str, binary: str, default: str) -> str:
    """The availability zone of a service: that of its host's aggregates, else the default one."""
    if binary != COMPUTE:
        return INTERNAL
    for row in await reader.all(select(AGGREGATES).order_by(AGGREGATES.c.number)):
        if host in row["hosts"] and (zone := row["metadata"].get("availability_zone")):
            return str(zone)
    return default


async def seen(tx: Transaction, *, host: str, binary: str) -> None:
    """Write the sign of life of a service that runs no guests; one that was never seen is made known."""
    now = clock.now()
    where = (HOSTS.c.host == host) & (HOSTS.c.binary == binary)
    if await tx.run(HOSTS.update().where(where).values(last_seen=now)):
        return
    row = {
        "id": ids.new_uuid(), "number": await next_number(tx, HOSTS), "host": host, "binary": binary,
        "zone": INTERNAL, "last_seen": now, "created_at": now,
    }  # fmt: skip
    await tx.insert(HOSTS, row)


# ---- what schedulers know


def host_report(row: Row) -> HostReport:
    """A host's row as the scheduler takes it."""
    have = row["resources"]
    return HostReport(
        host=row["host"],
        node=row["node"],
        up=not row["forced_down"],
        enabled=row["status"] == "enabled",
        zone=row["zone"],
        hypervisor_hostname=have.get("hypervisor_hostname", row["host"]),
        hypervisor_type=have.get("hypervisor_type", ""),
        free_vcpus=have["vcpus"] - have["vcpus_used"],
        free_memory_mib=have["memory_mib"] - have["memory_mib_used"],
        free_disk_gib=have["disk_gib_free"],
        reported_at=row["last_seen"],
        changed_at=row["updated_at"] or row["created_at"],
    )


async def tell_schedulers(compute: Compute, names: Iterable[str]) -> None:
    """Have what an operator changed of hosts count for the next server, not from their next reports on."""
    for row in await compute.db.all(select(HOSTS).where(HOSTS.c.host.in_(list(names)), HOSTS.c.binary == COMPUTE)):
        try:
            await compute.bus.fanout(REPORT, host_report(row))
        except Unavailable as fault:  # they ask for all hosts when the bus is back
            _log.warning("schedulers were not told of a change of host %s: %s", row["host"], fault.message)


# ---- services


async def services(compute: Compute, *, host: str | None = None, binary: str | None = None) -> list[Row]:
    statement = select(HOSTS)
    if host:
        statement = statement.where(HOSTS.c.host == host)
    if binary:
        statement = statement.where(HOSTS.c.binary == binary)
    return await compute.db.all(statement.order_by(HOSTS.c.number))


async def change_service(compute: Compute, where: Any, missing: NotFound, **changes: Any) -> Row:
    """Change one service; raises ``missing``, or Invalid for one that can't be changed."""

    async def body(tx: Transaction) -> Row:
        row = await tx.first(select(HOSTS).where(where))
        if row is None:
            raise missing
        if row["binary"] != COMPUTE:
            raise Invalid(
                f"Updating a {row['binary']} service is not supported. Only nova-compute services can be updated."
            )
        await tx.run(HOSTS.update().where(HOSTS.c.id == row["id"]).values(**changes, updated_at=clock.now()))
        return {**row, **changes}

    row = await compute.db.run(body)
    await tell_schedulers(compute, [row["host"]])
    return row


async def delete_service(compute: Compute, where: Any, given: str) -> None:
    """Forget a service; a host that still has servers is refused."""

    async def body(tx: Transaction) -> None:
        row = await tx.first(select(HOSTS).where(where))
        if row is None:
            raise NotFound(f"Service {given} not found.")
        if row["binary"] == COMPUTE:
            on_it = select(func.count().label("n")).where(SERVERS.c.host == row["host"], SERVERS.c.deleted_at.is_(None))
            counted = await tx.first(on_it)
            if counted is not None and counted["n"]:
                raise Conflict(
                    "Unable to delete compute service that is hosting instances. Migrate or delete the instances first."
                )
            for aggregate in await tx.all(select(AGGREGATES)):
                if row["host"] in aggregate["hosts"]:
                    rest = [one for one in aggregate["hosts"] if one != row["host"]]
                    await tx.run(AGGREGATES.update().where(AGGREGATES.c.id == aggregate["id"]).values(hosts=rest))
        await tx.run(HOSTS.delete().where(HOSTS.c.id == row["id"]))

    await compute.db.run(body)


# ---- hypervisors


async def hypervisors(
    compute: Compute, *, pattern: str | None = None, limit: int | None = None, marker: str | None = None,
    by_number: bool = False,
) -> list[Row]:  # fmt: skip
    """Hosts that run guests, oldest first; ``marker`` is a node's id (before 2.53 its number)."""
    h = HOSTS.c
    statement = select(HOSTS).where(h.binary == COMPUTE, h.node.is_not(None)).order_by(h.number)
    if marker is not None:
        same = h.number == int(marker) if by_number and marker.isdigit() else h.node == marker
        last = await compute.db.first(select(HOSTS).where(same, h.binary == COMPUTE))
        if last is None:
            raise marker_missing(marker)
        statement = statement.where(h.number > last["number"])
    rows = await compute.db.all(statement if limit is None else statement.limit(limit))
    if pattern is not None:
        rows = [row for row in rows if pattern.lower() in hostname_of(row).lower()]
        if not rows:
            raise NotFound(f"No hypervisor matching '{pattern}' could be found.")
    return rows


async def hypervisor(compute: Compute, given: str, *, by_number: bool) -> Row:
    """One host by its node's id (before 2.53 its number); raises NotFound."""
    missing = NotFound(f"Hypervisor with ID '{given}' could not be found.")
    if by_number:
        if not given.isdigit():
            raise missing
        where = HOSTS.c.number == int(given)
    else:
        if not ids.is_uuid(given):
            raise Invalid(f"Invalid uuid {given}")
        where = HOSTS.c.node == given
    row = await compute.db.first(select(HOSTS).where(where, HOSTS.c.binary == COMPUTE))
    if row is None or row["node"] is None:
        raise missing
    return row


def hostname_of(row: Mapping[str, Any]) -> str:
    return str(row["resources"].get("hypervisor_hostname") or row["host"])


async def servers_on(compute: Compute, hosts: list[str]) -> dict[str, list[Row]]:
    """host → its servers (id, name, number)."""
    s = SERVERS.c
    statement = select(s.id, s.name, s.number, s.host).where(s.host.in_(hosts), s.deleted_at.is_(None))
    found: dict[str, list[Row]] = {host: [] for host in hosts}
    for row in await compute.db.all(statement.order_by(s.number)):
        found[row["host"]].append(row)
    return found


# ---- zones


async def zones(compute: Compute, *, internal: bool = False) -> tuple[list[str], list[str]]:
    """(available zones, zones all of whose services are disabled)."""
    rows = await compute.db.all(select(HOSTS.c.zone, HOSTS.c.status, HOSTS.c.binary).order_by(HOSTS.c.number))
    seen_: dict[str, bool] = {}
    for row in rows:
        if row["zone"] == INTERNAL and not internal:
            continue
        seen_[row["zone"]] = seen_.get(row["zone"], False) or row["status"] == "enabled"
    return [zone for zone, on in seen_.items() if on], [zone for zone, on in seen_.items() if not on]

# SPDX-License-Identifier: Apache-2.0
"""What network does, one file per resource, on one shape of its resources: documents with the published names.

`Network` is the service's own object. Every change is one transaction in a
`Work`, which also collects the hosts to poke once it is committed.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import select

from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.outbox import Outbox
from cumulet.kernel.quota import Quota
from cumulet.kernel.saga import SagaEngine
from cumulet.network import models as m
from cumulet.network.config import NetworkConfig

Document = dict[str, Any]
"""A resource with its published names; under ``*`` what policy rules may ask of its parent."""
Values = dict[str, Any]


class Reader(Protocol):
    """A transaction, or the database's committed state."""

    async def all(self, statement: Any) -> list[Row]: ...


class Committed:
    """Small indexed reads of the committed state, answered on the loop."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self, statement: Any) -> list[Row]:
        return await self._database.all(statement, point=True)


@dataclass
class Network:
    """The network service: its database and how its agents and compute are told."""

    config: NetworkConfig
    database: Database
    quota: Quota
    outbox: Outbox
    sagas: SagaEngine
    pokes: Pokes
    wake_duties: Callable[[], None] = lambda: None
    """Lets the loop that places DHCP and routers look now."""

    async def change(self, caller: Context, body: Callable[[Work], Awaitable[Any]]) -> Any:
        """Run ``body`` in one transaction and poke the hosts that it concerns after the commit."""

        async def run(tx: Transaction) -> Any:
            work = Work(self, tx, caller)
            result = await body(work)
            hosts, everyone = frozenset(work.hosts), work.everyone
            if hosts or everyone:
                tx.after_commit(lambda: self.pokes.add(hosts, everyone))
            if work.duties:
                tx.after_commit(self.wake_duties)
            return result

        return await self.database.run(run)


@dataclass
class Work:
    """One transaction of one caller."""

    net: Network
    tx: Transaction
    caller: Context
    hosts: set[str] = field(default_factory=set)
    everyone: bool = False
    duties: bool = False
    now: float = field(default_factory=clock.now)

    async def touch_network(self, network_id: str) -> None:
        """Every host that has this network must look again."""
        ports = m.PORTS
        statement = select(ports.c.binding_host).where(ports.c.network_id == network_id, ports.c.binding_host != "")
        self.hosts.update(row["binding_host"] for row in await self.tx.all(statement.distinct()))

    async def touch_router(self, router_id: str) -> None:
        """The host that carries this router must look again."""
        duties = m.DUTIES
        statement = select(duties.c.host).where(duties.c.kind == "router", duties.c.object_id == router_id)
        self.hosts.update(row["host"] for row in await self.tx.all(statement))

    async def touch_groups(self, groups: Iterable[str]) -> None:
        """Every host with a port whose rules name one of these groups as the far side must look again."""
        known = list(groups)
        if not known:
            return
        statement = (
            select(m.PORTS.c.binding_host)
            .join(m.PORT_GROUPS, m.PORT_GROUPS.c.port_id == m.PORTS.c.id)
            .join(m.RULES, m.RULES.c.security_group_id == m.PORT_GROUPS.c.security_group_id)
            .where(m.RULES.c.remote_group_id.in_(known), m.PORTS.c.binding_host != "")
            .distinct()
        )
        self.hosts.update(row["binding_host"] for row in await self.tx.all(statement))

    async def touch_members(self, group_id: str) -> None:
        """Every host with a port of this group must look again."""
        statement = (
            select(m.PORTS.c.binding_host)
            .join(m.PORT_GROUPS, m.PORT_GROUPS.c.port_id == m.PORTS.c.id)
            .where(m.PORT_GROUPS.c.security_group_id == group_id, m.PORTS.c.binding_host != "")
            .distinct()
        )
        self.hosts.update(row["binding_host"] for row in await self.tx.all(statement))

    async def bump(self, table: Any, id: str) -> None:
        """A part of the resource changed: it has a new revision."""
        statement = table.update().where(table.c.id == id)
        await self.tx.run(statement.values(revision_number=table.c.revision_number + 1, updated_at=self.now))

    async def tell_compute(self, name: str, server_id: str, tag: str, status: str = "completed") -> None:
        """Let compute know, once this is committed, that something of its server's network changed."""
        event = {"name": name, "server_uuid": server_id, "tag": tag, "status": status}
        await self.net.outbox.add(self.tx, name, event)

    def standard(self, values: Values) -> Values:
        """The columns that every new resource has."""
        return {
            "id": values.get("id") or ids.new_uuid(),
            "project_id": values.get("project_id") or "",
            "name": values.get("name", ""),
            "description": values.get("description", ""),
            "created_at": self.now,
            "updated_at": self.now,
            "revision_number": 1,
        }


class Pokes:
    """Casts pokes to agents; those of one turn of the loop become one message per host."""

    def __init__(self, one: Callable[[str], Awaitable[None]], everyone: Callable[[], Awaitable[None]]) -> None:
        self._one, self._everyone = one, everyone
        self._hosts: set[str] = set()
        self._all = False
        self._task: asyncio.Task[None] | None = None
        # a poke belongs to no request: it starts from the context in which the service was built
        self._home = contextvars.copy_context()

    def add(self, hosts: Iterable[str], everyone: bool = False) -> None:
        self._hosts.update(hosts)
        self._all |= everyone
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send(), context=self._home.copy())

    async def _send(self) -> None:
        while self._hosts or self._all:
            hosts, everyone = self._hosts, self._all
            self._hosts, self._all = set(), False
            if everyone:
                await self._everyone()
                continue
            for host in hosts:
                await self._one(host)


def chosen(values: Values, before: Document, name: str) -> Any:
    """What a member will be: as asked for, or as it is."""
    return values[name] if name in values else before[name]


def by_key(rows: Iterable[Row], key: str) -> dict[str, list[Row]]:
    """Rows grouped by the value of a column, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


async def tags_of(reader: Reader, rows: list[Row]) -> dict[str, list[str]]:
    """Resource id → its tags."""
    statement = select(m.TAGS).where(m.TAGS.c.resource_id.in_([row["id"] for row in rows])).order_by(m.TAGS.c.tag)
    return {
        key: [row["tag"] for row in found] for key, found in by_key(await reader.all(statement), "resource_id").items()
    }


def standard_document(row: Row, tags: dict[str, list[str]] | None) -> Document:
    """The members that every resource shows (``tags`` None: it has none)."""
    document: Document = {
        "id": row["id"],
        "name": row["name"],
        "tenant_id": row["project_id"],
        "project_id": row["project_id"],
        "description": row["description"],
        "created_at": clock.iso_z(row["created_at"]),
        "updated_at": clock.iso_z(row["updated_at"]),
        "revision_number": row["revision_number"],
    }
    if tags is not None:
        document["tags"] = tags.get(row["id"], [])
    return document

# SPDX-License-Identifier: Apache-2.0
"""What insight does: files events, tells the flow of a server now and as it goes on, asks compute why.

Invariant: whoever sees a flow may see the server in compute, or could while it
was there. Whether that is so, compute is asked with the caller's own token alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson
from sqlalchemy import delete, select

from cumulet.client.session import ServiceSession
from cumulet.insight import flow as flows
from cumulet.insight.config import Config
from cumulet.insight.flow import Flow, Row, Stored
from cumulet.insight.logic.hosts import Hosts
from cumulet.insight.models import EVENTS, PROCESSES
from cumulet.insight.rpc import Alive
from cumulet.kernel import clock, context, errors
from cumulet.kernel.bus import Bus
from cumulet.kernel.db import Database, Transaction
from cumulet.kernel.errors import NotFound, Unavailable
from cumulet.kernel.http.api import Authenticator
from cumulet.kernel.registry import Transport
from cumulet.kernel.trace import Event

_DAY = 86_400.0
_PURGED_AT_ONCE = 5_000
_MISSED = 3
"""A process that did not speak for so many of its intervals counts as dead."""
_MOST_EVENTS = 20_000
"""More events than any flow has; a bound on what one request reads."""


@dataclass
class Insight:
    """The insight service."""

    database: Database
    compute: Callable[[], Transport]
    session: ServiceSession
    """For what only a service is told; used after the caller was found to be allowed."""
    authenticator: Authenticator
    hosts: Hosts
    bus: Bus
    config: Config = field(default_factory=Config)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the service ends: streams end then."""
    listeners: dict[str, set[asyncio.Event]] = field(default_factory=dict)
    """Who waits for news of a subject."""
    look: float | None = None
    """Seconds between looks for events that another process filed; None: there is no other."""
    stored: int = 0
    """Events filed by this process."""

    # ---- what comes in

    async def store(self, events: list[Event]) -> None:
        """File a batch in one transaction and wake who listens."""
        filed = [event for event in events if event.subject]
        received = clock.now()

        async def body(tx: Transaction) -> None:
            for event in filed:
                await tx.insert(
                    EVENTS,
                    {
                        "subject": event.subject, "name": event.name, "component": event.component,
                        "host": event.host, "attempt": event.attempt, "started_at": event.started_at,
                        "duration_ms": event.duration_ms, "request_id": event.request_id, "detail": event.detail,
                        "skipped": event.skipped, "error": event.error, "received_at": received,
                    },
                )  # fmt: skip

        # a power cut may take the last events; it took the flow's processes, too
        await self.database.run(body, durable=False)
        self.stored += len(filed)
        for subject in {event.subject for event in filed}:
            for waiting in self.listeners.get(subject, ()):
                waiting.set()

    async def note(self, alive: Alive) -> None:
        """Keep what a process says of itself, and when it said so by this process's clock."""
        values = {**msgspec.structs.asdict(alive), "seen_at": clock.now()}

        async def body(tx: Transaction) -> None:
            if not await tx.run(PROCESSES.update().where(PROCESSES.c.id == alive.id).values(values)):
                await tx.insert(PROCESSES, values)

        await self.database.run(body, durable=False)

    async def processes(self) -> list[dict[str, Any]]:
        """Every process that was heard of lately, each with ``alive``: whether it still speaks."""
        rows = await self.database.all(select(PROCESSES).order_by(PROCESSES.c.host, PROCESSES.c.started_at))
        now = clock.now()
        return [{**row, "alive": row["seen_at"] > now - _MISSED * row["every"]} for row in rows]

    async def purge(self) -> None:
        """Forget what is older than ``keep_days``, in pieces that hold up nobody."""
        oldest = clock.now() - self.config.keep_days * _DAY
        some = select(EVENTS.c.id).where(EVENTS.c.received_at < oldest).limit(_PURGED_AT_ONCE)

        async def body(tx: Transaction) -> int:
            return await tx.run(delete(EVENTS).where(EVENTS.c.id.in_(some.scalar_subquery())))

        while await self.database.run(body, durable=False) == _PURGED_AT_ONCE:
            pass

        async def forget(tx: Transaction) -> None:
            await tx.run(delete(PROCESSES).where(PROCESSES.c.seen_at < clock.now() - _DAY))

        await self.database.run(forget, durable=False)

    # ---- what goes out

    async def flow(self, server_id: str, *, hosts: bool = True) -> Flow:
        """The flow of a server as far as it is known; without ``hosts`` no name of a host is in it."""
        events = await self._events(server_id)
        token = flows.audit_id_of(events)
        flow = flows.assemble(events, await self._events(token) if token else [], clock.now())
        return flow if hosts else flows.without_hosts(flow)

    async def project_of(self, server_id: str) -> str | None:
        """The project that a server was recorded for, as its events tell."""
        return flows.project_of(await self._events(server_id))

    async def _events(self, subject: str) -> list[Stored]:
        query = select(EVENTS).where(EVENTS.c.subject == subject).order_by(EVENTS.c.id).limit(_MOST_EVENTS)
        return [_stored(row) for row in await self.database.all(query)]

    async def follow(
        self, server_id: str, after: int, gone: asyncio.Future[None], *, hosts: bool = True
    ) -> AsyncIterator[list[Row]]:
        """The rows that changed after the event numbered ``after``, and then whatever changes, as it happens.

        Without ``hosts`` no name of a host is told. An empty list is a sign of life.
        Ends when ``gone`` is done or the service ends.
        """
        news = asyncio.Event()
        self.listeners.setdefault(server_id, set()).add(news)
        try:
            told_at = 0.0
            # what of each row was told: on PostgreSQL an event with a smaller number may come later
            known: dict[tuple[int, str], Any] | None = None
            while not gone.done() and not self.closing.is_set():
                news.clear()
                told = await self.flow(server_id, hosts=hosts)
                shown = {(row.attempt, row.name): row.document() for row in told.rows if row.sequence}
                if known is None:
                    known = {(row.attempt, row.name): row.document() for row in told.rows if row.sequence <= after}
                fresh = {key for key, document in shown.items() if known.get(key) != document}
                changed = [row for row in told.rows if (row.attempt, row.name) in fresh]
                known = shown
                changed.sort(key=lambda row: row.sequence)
                heartbeat = self.config.heartbeat_seconds
                if changed or clock.monotonic() - told_at >= heartbeat:
                    yield changed
                    told_at = clock.monotonic()
                await self._wait(news, gone, min(self.look or heartbeat, heartbeat))
        finally:
            self.listeners[server_id].discard(news)
            if not self.listeners[server_id]:
                del self.listeners[server_id]

    async def _wait(self, news: asyncio.Event, gone: asyncio.Future[None], seconds: float) -> None:
        """Until there is news, the listener is gone, the service ends, or ``seconds`` are over."""
        timers: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(waiting) for waiting in (news.wait(), self.closing.wait(), clock.sleep(seconds))
        ]
        try:
            await asyncio.wait({*timers, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for timer in timers:
                timer.cancel()

    # ---- compute

    async def server(self, server_id: str) -> dict[str, Any]:
        """The server as compute shows it to the caller; raises NotFound, and Unavailable without compute."""
        caller = context.current()
        assert caller is not None
        # no session: what the caller's token can't do must not be done with ours instead
        headers = {
            "x-auth-token": caller.token or "",
            "x-openstack-request-id": caller.trace_id,
            "accept": "application/json",
        }
        reply = await self.compute().send("GET", f"/v2.1/servers/{server_id}", headers)
        data = await reply.read()
        if reply.status == 200:
            shown: dict[str, Any] = orjson.loads(data)["server"]
            return shown
        if reply.status == 404:
            raise NotFound(f"Server {server_id} could not be found.")
        if reply.status >= 500:
            raise Unavailable(f"The compute service answered {reply.status}.")
        raise errors.of_status(reply.status, f"The compute service refused to show the server ({reply.status}).")

    async def why(self, server_id: str) -> dict[str, Any]:
        """How the scheduler decided on the server, and its fault, hosts named; not for every caller's eyes."""
        path = f"/v2.1/cumulet/servers/{server_id}/why"
        told: dict[str, Any] = await self.session.call("compute", "GET", path, as_service=True)
        return told


def _stored(row: dict[str, Any]) -> Stored:
    return Stored(
        row["id"],
        Event(
            subject=row["subject"], name=row["name"], component=row["component"], host=row["host"],
            attempt=row["attempt"], started_at=row["started_at"], duration_ms=row["duration_ms"],
            request_id=row["request_id"], detail=row["detail"], skipped=row["skipped"], error=row["error"],
        ),
    )  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""What the assembly reads: one role that files events, forgets old ones and serves the API."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cumulet.client.session import ServiceSession
from cumulet.insight.api import ROUTES
from cumulet.insight.config import Config
from cumulet.insight.errors import InsightDialect
from cumulet.insight.logic import Insight
from cumulet.insight.logic.credentials import DERIVING, Credentials, Joining
from cumulet.insight.logic.hosts import Hosts
from cumulet.insight.logic.records import Records
from cumulet.insight.models import METADATA
from cumulet.insight.policy import RULES
from cumulet.insight.rpc import ALIVE, EVENTS, Events
from cumulet.kernel.bus import Bus, Handlers, Subscription
from cumulet.kernel.http import Api
from cumulet.kernel.loops import Loop
from cumulet.kernel.policy import Policy
from cumulet.kernel.registry import Parts, Role, Runnable, Service

_PURGE_SECONDS = 3600.0
_SWEEP_SECONDS = 30.0
_LOOK = 1.0


class Receiver:
    """Takes the batches of all processes from the bus."""

    def __init__(self, insight: Insight, bus: Bus, host: str) -> None:
        self._insight, self._bus, self._host = insight, bus, host
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        async def receive(batch: Events) -> None:
            await self._insight.store(batch.events)

        handlers: Handlers = {EVENTS: receive, ALIVE: self._insight.note}
        self._subscription = await self._bus.subscribe(handlers, component="insight", host=self._host)

    async def stop(self) -> None:
        self._insight.closing.set()
        if self._subscription is not None:
            await self._subscription.stop()
            self._subscription = None


async def build(parts: Parts, roles: set[str]) -> Service:
    """Build the role ``insight``."""
    config = parts.settings.section("insight", Config)
    database = await parts.open_database("insight", METADATA, Path(__file__).parent / "migrations")
    session = ServiceSession(parts.transport, "insight", parts.secrets.get("service:insight"))
    parts.secrets.get(DERIVING)  # made now, not at the first join: by then the file was copied to other machines
    joining = msgspec.convert(parts.options.get("joining", {}), Joining)
    hosts = Hosts(database, Credentials(joining, session, parts.secrets), Records(session))
    insight = Insight(
        database, lambda: parts.transport("compute"), session, parts.authenticator, hosts, parts.bus, config
    )
    insight.look = None if parts.options.get("sole", True) else _LOOK
    api = Api(
        "insight",
        ROUTES,
        dialect=InsightDialect(),
        policy=Policy(RULES),
        service=insight,
        authenticator=parts.authenticator,
        component="insight",
        host=parts.host,
        types=("cumulet",),
    )
    tasks: list[Runnable] = [
        Receiver(insight, parts.bus, parts.host),
        Loop("old flow events", _PURGE_SECONDS, insight.purge),
        Loop("hosts that came or went half-way", _SWEEP_SECONDS, hosts.sweep),
    ]

    async def close() -> None:
        insight.closing.set()

    return Service(
        name="insight",
        type="cumulet",
        mount="/cumulet",
        endpoint="/v1",
        port=8790,
        roles=[Role("insight", app=api, tasks=tasks)],
        close=close,
        drain=insight.closing.set,
    )

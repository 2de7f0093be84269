# SPDX-License-Identifier: Apache-2.0
"""One look at what every service holds, with the joins that the rules ask for.

Invariant: nothing is judged that something works on. A thing is *busy* when a
saga that is not over concerns it or the server that it belongs to.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from cumulet.client.session import ServiceSession
from cumulet.kernel.errors import Fault

Thing = dict[str, Any]
SOURCES = {
    "placement": "/cumulet/owned", "image": "/v2/cumulet/owned", "compute": "/v2.1/cumulet/owned",
    "network": "/v2.0/cumulet/owned", "block-storage": "/v3/cumulet/owned",
}  # fmt: skip
"""Catalogue type → where it says what it holds."""
WITH_GUEST = frozenset({"active", "paused", "suspended", "stopped", "rescued"})
"""Server states in which its host has its guest, running or not."""


@dataclass
class Facts:
    """All things by ``service.kind``."""

    things: dict[str, list[Thing]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """Services that did not answer → why. What depends on them is not judged."""

    def of(self, kind: str) -> list[Thing]:
        return self.things.get(kind, [])

    def has(self, *services: str) -> bool:
        """Whether all of these services were read."""
        return not any(one in self.unread for one in services)

    # ---- joins

    @cached_property
    def servers(self) -> dict[str, Thing]:
        return _by_id(self.of("compute.server"))

    @cached_property
    def sagas(self) -> list[Thing]:
        return [one for kind, found in self.things.items() if kind.endswith(".saga") for one in found]

    @cached_property
    def busy(self) -> set[str]:
        """Subjects of sagas, and the volumes of servers among them."""
        found = {one["subject"] for one in self.sagas}
        found |= {one["volume_id"] for one in self.attachments if one["instance_uuid"] in found}
        return found | {one["volume_id"] for one in self.of("compute.device") if one["server_id"] in found}

    @cached_property
    def guests(self) -> list[Thing]:
        """Every guest of every host that answers, with its ``host``."""
        return [{**one, "host": host["id"]} for host in self.of("compute.host") for one in host["guests"]]

    @cached_property
    def guests_of(self) -> dict[str, list[Thing]]:
        return _by(self.guests, "server_id")

    @cached_property
    def guests_at_rest(self) -> list[tuple[Thing, Thing]]:
        """(server, its guest on the host that its record names), of servers that nothing works on."""
        pairs = [(self.at_rest(guest["server_id"]), guest) for guest in self.guests]
        return [(server, guest) for server, guest in pairs if server is not None and server["host"] == guest["host"]]

    @cached_property
    def hosts(self) -> set[str]:
        """Hosts that answer."""
        return {one["id"] for one in self.of("compute.host") if one["answers"]}

    @cached_property
    def consumers(self) -> dict[str, Thing]:
        return _by_id(one for one in self.of("placement.consumer") if one["allocations"])

    @cached_property
    def attachments(self) -> list[Thing]:
        return self.of("block-storage.attachment")

    @cached_property
    def attachments_of(self) -> dict[str, list[Thing]]:
        """By volume."""
        return _by(self.attachments, "volume_id")

    @cached_property
    def volumes(self) -> dict[str, Thing]:
        return _by_id(self.of("block-storage.volume"))

    @cached_property
    def stored(self) -> dict[str, Thing]:
        """Volumes and snapshots that are in the records."""
        return {**self.volumes, **_by_id(self.of("block-storage.snapshot"))}

    @cached_property
    def ports(self) -> dict[str, Thing]:
        return _by_id(self.of("network.port"))

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many things of each kind were looked at."""
        return {kind: len(found) for kind, found in sorted(self.things.items())}

    def at_rest(self, server_id: str) -> Thing | None:
        """A server that is there and that nothing works on."""
        return None if server_id in self.busy else self.servers.get(server_id)

    def nobody(self, server_id: str) -> bool:
        """Whether no server has this id, and none that is just being deleted had it."""
        return server_id not in self.servers and server_id not in self.busy


def repeated(values: Iterable[Any]) -> list[tuple[Any, int]]:
    """Values that are there more than once, with how often."""
    return [(value, times) for value, times in Counter(values).items() if times > 1]


def _by_id(things: Iterable[Thing]) -> dict[str, Thing]:
    return {one["id"]: one for one in things}


def _by(things: Iterable[Thing], key: str) -> dict[str, list[Thing]]:
    found: dict[str, list[Thing]] = defaultdict(list)
    for one in things:
        found[one[key]].append(one)
    return found


async def gather(session: ServiceSession) -> Facts:
    """Ask every service, all at once."""
    facts = Facts()

    async def ask(service: str, path: str) -> None:
        try:
            told = await session.call(service, "GET", path, as_service=True)
            for kind in told["kinds"]:
                facts.things[f"{service}.{kind}"] = await _all(session, service, path, kind)
        except Fault as fault:
            facts.unread[service] = fault.message

    await asyncio.gather(*(ask(*source) for source in SOURCES.items()))
    return facts


async def _all(session: ServiceSession, service: str, path: str, kind: str) -> list[Thing]:
    found: list[Thing] = []
    query = {"kind": kind}
    while True:
        told = await session.call(service, "GET", f"{path}?{urlencode(query)}", as_service=True)
        found += told["owned"]
        if told["next"] is None:
            return found
        query["after"] = told["next"]

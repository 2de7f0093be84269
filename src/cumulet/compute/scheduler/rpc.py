# SPDX-License-Identifier: Apache-2.0
"""rpc with the scheduler. All methods are repeatable: a claim or release done before is found done."""

from __future__ import annotations

from typing import Any

import msgspec

from cumulet.compute.scheduler.model import GroupWish, HostReport, Request
from cumulet.kernel.bus import Method

TOPIC = "compute.scheduler"
CONDUCTOR = "compute.conductor"

SelectHost = Request


class Alternate(msgspec.Struct, frozen=True):
    """A host that would also do."""

    host: str
    node: str


class Selection(msgspec.Struct, frozen=True):
    """The claimed host; ``host`` None: there is none, and ``reason`` and ``why`` say so."""

    host: str | None
    node: str | None
    alternates: list[Alternate] = []
    reason: str = ""
    why: dict[str, Any] = {}
    """A `model.Why` as a document."""


class ReleaseHost(msgspec.Struct, frozen=True):
    """Give back what the server holds; a claim with a lower ``fence`` comes too late after that."""

    server_id: str
    fence: int | None = None


class Done(msgspec.Struct, frozen=True):
    """An answer that only says: done."""


class AskHosts(msgspec.Struct, frozen=True):
    """A scheduler asks the conductor for all hosts, and shows so that it lives."""

    host: str = ""
    """Where the scheduler runs."""


class Hosts(msgspec.Struct, frozen=True):
    hosts: list[HostReport] = []


SELECT_AND_CLAIM = Method(TOPIC, "select_and_claim", SelectHost, Selection)
RELEASE = Method(TOPIC, "release", ReleaseHost, Done)
REPORT = Method(TOPIC, "report", HostReport, Done)
"""Fanned out to all schedulers after each report of an agent."""
HOSTS = Method(CONDUCTOR, "hosts", AskHosts, Hosts)
"""Served by the conductor."""

__all__ = [
    "HOSTS", "RELEASE", "REPORT", "SELECT_AND_CLAIM", "Alternate", "AskHosts", "Done", "GroupWish", "HostReport",
    "Hosts", "ReleaseHost", "SelectHost", "Selection",
]  # fmt: skip

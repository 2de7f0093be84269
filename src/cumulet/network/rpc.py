# SPDX-License-Identifier: Apache-2.0
"""What the network API and the agents of the hosts say to each other.

A poke carries no data: the agent asks for its desired state, makes it true and
reports. A report names what is true on that host; it changes nothing about a
port that is bound elsewhere meanwhile.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cumulet.kernel.bus import Method
from cumulet.network.drivers.model import (
    DhcpHost,
    FloatingPlan,
    GroupPlan,
    NetworkPlan,
    PortPlan,
    RouterInterface,
    RouterPlan,
    RulePlan,
    SubnetPlan,
)

__all__ = [
    "CARRIED", "DESIRED", "FOUND", "POKE", "REPORT", "Alive", "Ask", "Carried", "Desired", "DhcpHost", "Done",
    "FloatingDone", "FloatingPlan", "Found", "GroupPlan", "Look", "NetworkPlan", "PortPlan", "Report",
    "RouterInterface", "RouterPlan", "RulePlan", "SubnetPlan",
]  # fmt: skip

API_TOPIC = "network.api"
AGENT_TOPIC = "network.agent"


class Alive(msgspec.Struct):
    """An agent says that it lives, who it is, and which state it has."""

    host: str
    started_at: float
    tunnel_address: str = ""
    configurations: dict[str, Any] = {}
    version: str = ""
    """Version of the desired state that the agent has; the same one is not sent again."""


class Desired(msgspec.Struct):
    """Everything that must be on one host; nothing else of ours may be there."""

    version: str
    unchanged: bool = False
    groups: list[GroupPlan] = []
    networks: list[NetworkPlan] = []
    ports: list[PortPlan] = []
    routers: list[RouterPlan] = []
    awaited: list[str] = []
    """Ids of ports, and floating addresses, of which a report is still missing."""


class FloatingDone(msgspec.Struct, frozen=True):
    """A floating IP that a router now carries, and where it leads."""

    router_id: str
    floating: str
    fixed: str
    generation: int


class Ask(msgspec.Struct, frozen=True):
    """Look at the desired state, then say what is true of one floating address on one router."""

    router_id: str
    floating: str
    generation: int
    """Of the association that is asked about."""
    hoped: bool = True
    """Whether it should be carried: if it is already, no look is needed."""


class Carried(msgspec.Struct, frozen=True):
    """The answer, given when address, translation and neighbours are as desired (or can't be)."""

    generation: int
    """Of the association that this host carries for the address; 0: none."""
    settled: bool = True
    """Whether the router is on this host as it is desired."""
    error: str = ""


class Report(msgspec.Struct):
    """What of the awaited is true, or could not be made true, on a host."""

    host: str
    up: list[str] = []
    """Ids of ports (of guests, DHCP and routers) that carry traffic."""
    failed: dict[str, str] = {}
    """Port id → why it could not be wired."""
    floating: list[FloatingDone] = []


class Look(msgspec.Struct):
    """What is there?"""


class Found(msgspec.Struct):
    """What is really on a host, by id: networks (with their namespace and DHCP), ports (tap and filters), routers."""

    networks: list[str] = []
    ports: list[str] = []
    routers: list[str] = []


class Done(msgspec.Struct):
    """Nothing more to say."""


DESIRED = Method(API_TOPIC, "desired", Alive, Desired)
REPORT = Method(API_TOPIC, "report", Report, Done)
POKE = Method(AGENT_TOPIC, "poke", Done, Done)
FOUND = Method(AGENT_TOPIC, "found", Look, Found)
CARRIED = Method(AGENT_TOPIC, "carried", Ask, Carried)

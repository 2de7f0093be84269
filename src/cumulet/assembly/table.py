# SPDX-License-Identifier: Apache-2.0
"""All services, their catalogue rows and their roles, as one table. Alone and spread are rows, not modes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One service: where its code lives, how clients find it, what it can run as."""

    package: str
    type: str
    name: str
    mount: str
    endpoint: str
    port: int
    roles: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    upstream: str = ""
    """What it stands in for."""


SERVICES = (
    Entry("identity", "identity", "identity", "/identity", "/v3", 5000, ("identity-api",), upstream="Keystone"),
    Entry("image", "image", "image", "/image", "", 9292, ("image-api",), upstream="Glance"),
    Entry("placement", "placement", "placement", "/placement", "", 8778, ("placement-api",), upstream="Placement"),
    Entry(
        "network", "network", "network", "/network", "", 9696, ("network-api", "network-agent"), upstream="Neutron",
    ),
    Entry(
        "volume", "block-storage", "volume", "/volume", "/v3", 8776,
        ("volume-api", "volume-scheduler", "volume-agent"), aliases=("volumev3",), upstream="Cinder",
    ),
    Entry(
        "compute", "compute", "compute", "/compute", "/v2.1", 8774,
        ("compute-api", "scheduler", "conductor", "compute-agent"), upstream="Nova",
    ),
    Entry("insight", "cumulet", "insight", "/cumulet", "/v1", 8790, ("insight",), upstream="our own"),
)  # fmt: skip

ALL_ROLES = frozenset(role for entry in SERVICES for role in entry.roles)
FRONT = "front"
"""The role of a process that serves all of the cloud at one address and has no part of it."""
HOST_ROLES = frozenset({"compute-agent", "network-agent", "volume-agent"})
"""Roles of which a host has one each."""
AGENTS = HOST_ROLES | {FRONT}
"""Roles that know no database."""
HOSTS_ASK = ("compute.conductor", "insight.events", "network.api", "volume.scheduler")
"""Topics that the agents of a host ask."""
HOSTS_SERVE = ("compute.agent", "network.agent", "volume.agent")
"""Topics that they serve."""
NEED_BUS = frozenset({"network", "volume", "compute"})
"""Services whose roles speak to each other over the bus."""


def entry_of(role: str) -> Entry:
    """The service that a role belongs to."""
    return next(entry for entry in SERVICES if role in entry.roles)


def catalogue() -> list[tuple[str, str, str, str]]:
    """(type, name, mount, endpoint) of every row that identity publishes."""
    return [
        (type_, entry.name, entry.mount, entry.endpoint) for entry in SERVICES for type_ in (entry.type, *entry.aliases)
    ]

# SPDX-License-Identifier: Apache-2.0
"""What the scheduler is asked, and what it answers.

A request is complete: whatever depends on other servers (the hosts of a group,
of a hint's servers) comes with it, so that selecting needs nothing but a snapshot.
"""

from __future__ import annotations

from typing import Any

import msgspec

VCPU, MEMORY_MB, DISK_GB = "VCPU", "MEMORY_MB", "DISK_GB"


class GroupWish(msgspec.Struct, frozen=True):
    """The server group that the server belongs to."""

    policy: str
    """affinity, anti-affinity, soft-affinity or soft-anti-affinity."""
    hosts: dict[str, int] = {}
    """host → how many other members are there."""
    max_server_per_host: int = 1
    """For anti-affinity."""


class Request(msgspec.Struct, frozen=True):
    """Which host for this server? The flavor's resources and everybody's wishes."""

    server_id: str
    project_id: str
    user_id: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    """Local disk in GiB; 0 when the server boots from a volume."""
    attempt: int = 1
    exclude: list[str] = []
    """Hosts that failed to build it."""
    force_host: str | None = None
    force_node: str | None = None
    destination: str | None = None
    """The only host that will do (2.74); unlike a forced one it must pass every filter."""
    availability_zone: str | None = None
    hints: dict[str, Any] = {}
    """The user's scheduler hints; ``same_host`` and ``different_host`` name servers."""
    hosts_of: dict[str, str] = {}
    """server → its host, for the servers that the hints name."""
    group: GroupWish | None = None
    extra_specs: dict[str, str] = {}
    """The flavor's: ``resources:CLASS``, ``trait:NAME``, ``capabilities:…``."""
    image_properties: dict[str, str] = {}

    def resources(self) -> dict[str, int]:
        """Units by resource class; a flavor's ``resources:CLASS`` replaces what its columns say."""
        amounts = {VCPU: self.vcpus, MEMORY_MB: self.memory_mib, DISK_GB: self.disk_gib}
        for key, value in self.extra_specs.items():
            kind, _, name = key.partition(":")
            if kind == "resources" and name and value.isdigit():
                amounts[name] = int(value)
        return {name: amount for name, amount in amounts.items() if amount > 0}

    def traits(self) -> tuple[set[str], set[str]]:
        """(required, forbidden), by flavor and image."""
        required: set[str] = set()
        forbidden: set[str] = set()
        for key, value in (*self.extra_specs.items(), *self.image_properties.items()):
            kind, _, name = key.partition(":")
            if kind == "trait" and name:
                (forbidden if value == "forbidden" else required).add(name)
        return required, forbidden


class HostReport(msgspec.Struct, frozen=True):
    """What is known of one host besides its claims; from its agent, through the conductor."""

    host: str
    node: str
    """The host's root resource provider."""
    up: bool = True
    """False: declared down. A host whose report is too old counts as down by itself."""
    enabled: bool = True
    zone: str = "nova"
    hypervisor_hostname: str = ""
    hypervisor_type: str = ""
    free_vcpus: int = 0
    free_memory_mib: int = 0
    free_disk_gib: int = 0
    reported_at: float = 0.0
    """Seconds since the epoch of the last sign of life."""
    changed_at: float = 0.0
    """Seconds since the epoch of an operator's last change (0: none): status, declared down, or zone."""
    attributes: dict[str, Any] = {}
    """Further facts that flavors may ask for (``capabilities:NAME``)."""


class Rejected(msgspec.Struct, frozen=True):
    """One host that a filter left out: what was wanted, what was found."""

    host: str
    found: Any = None


class FilterResult(msgspec.Struct, frozen=True):
    """What one filter did."""

    name: str
    hosts_in: int
    hosts_out: int
    wanted: Any = None
    rejected: list[Rejected] = []
    """At most twenty of those left out, those with most free memory first."""


class Weighed(msgspec.Struct, frozen=True):
    """One host that passed, with its weight and what it is made of."""

    host: str
    node: str
    weight: float
    parts: dict[str, float] = {}


class Tried(msgspec.Struct, frozen=True):
    """What placement said of one host."""

    host: str
    outcome: str
    """claimed, found (an earlier try had claimed it), no candidate, or refused."""
    reason: str = ""


class Why(msgspec.Struct):
    """Why this host, or why none; kept with the server and shown to its user."""

    hosts: int
    filters: list[FilterResult]
    best: list[Weighed]
    """At most twenty."""
    tried: list[Tried] = []
    rounds: int = 1
    """2: the snapshot was refreshed because the first round found none."""

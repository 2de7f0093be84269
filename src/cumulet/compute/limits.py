# SPDX-License-Identifier: Apache-2.0
"""What compute counts against a project, and the published default limits.

The one place that says what a server costs: the transaction that makes a
server takes it, the one that ends it gives the same back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cumulet.kernel.quota import UNLIMITED, Exceeded

DEFAULTS: dict[str, int] = {
    "instances": 10,
    "cores": 20,
    "ram": 50 * 1024,
    "metadata_items": 128,
    "injected_files": 5,
    "injected_file_content_bytes": 10 * 1024,
    "injected_file_path_bytes": 255,
    "key_pairs": 100,
    "server_groups": 10,
    "server_group_members": 10,
    "fixed_ips": UNLIMITED,
    "floating_ips": UNLIMITED,
    "security_groups": UNLIMITED,
    "security_group_rules": UNLIMITED,
}

NETWORK = ("fixed_ips", "floating_ips", "security_groups", "security_group_rules")
"""Limits of the network service that compute publishes until 2.35."""

INJECTED = ("injected_files", "injected_file_content_bytes", "injected_file_path_bytes")
"""Limits of files in guests, published until 2.56."""


def cost_of(flavor: Mapping[str, Any]) -> dict[str, int]:
    """What one server of a flavor takes: instances, cores, ram in MiB."""
    return {"instances": 1, "cores": int(flavor["vcpus"]), "ram": int(flavor["ram"])}


def fits(asked: Mapping[str, int], used: Mapping[str, int], limits: Mapping[str, int], most: int) -> int:
    """How many servers of cost ``asked`` fit, at most ``most``."""
    for resource, each in asked.items():
        limit = limits.get(resource, UNLIMITED)
        if limit != UNLIMITED and each > 0:
            most = min(most, max(0, (limit - used.get(resource, 0)) // each))
    return most


def exceeded(asked: Mapping[str, int], used: Mapping[str, int], limits: Mapping[str, int]) -> list[Exceeded]:
    """What of ``asked`` does not fit."""
    return [
        Exceeded(resource, amount, used.get(resource, 0), limits[resource])
        for resource, amount in asked.items()
        if limits.get(resource, UNLIMITED) != UNLIMITED and used.get(resource, 0) + amount > limits[resource]
    ]


def message_of(over: Sequence[Exceeded]) -> str:
    """The published sentence: what, how much was asked, how much is used of how much."""
    names = ", ".join(one.resource for one in over)
    asked = ", ".join(str(one.asked) for one in over)
    used = ", ".join(str(one.used) for one in over)
    allowed = ", ".join(str(one.limit) for one in over)
    return f"Quota exceeded for {names}: Requested {asked}, but already used {used} of {allowed} {names}"

# SPDX-License-Identifier: Apache-2.0
"""The section ``[compute]`` of the settings."""

from __future__ import annotations

import msgspec


class ComputeConfig(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator may choose about the compute service."""

    max_limit: int = 1000
    """Most entries of one page of a list."""
    max_servers_at_once: int = 1000
    """Most servers that one request makes, however much quota there is."""
    default_zone: str = "nova"
    """The availability zone of hosts that no aggregate puts into another."""
    service_down_after: float = 60.0
    """Seconds without a sign of life after which a service counts as down."""
    dhcp_domain: str = "novalocal"
    """The domain that the metadata service adds to a guest's host name; empty: none."""
    metadata_port: int = 8775
    """The loopback port of the metadata API; 0: none of its own."""
    attach_interface_wait: float = 60.0
    """Seconds that attaching an interface may take before the caller is told so."""
    image_unused: float = 86_400.0
    """Seconds after which an image that no guest uses any more leaves a host's cache."""
    image_sweep: float = 2_400.0
    """Seconds between two looks of a host for such images."""
    keep_deleted: float = 30 * 86_400.0
    """Seconds after which the record of a deleted server is purged."""

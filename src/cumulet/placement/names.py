# SPDX-License-Identifier: Apache-2.0
"""Standard names: the published traits and resource classes, the same in every cloud.

They live in the code and not in the database, so they are there from the first
request on and a new release brings its own; the database holds custom ones only.
Source: the lists published as os-traits 3.9 and os-resource-classes 1.1.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

CUSTOM = "CUSTOM_"
SHARING = "MISC_SHARES_VIA_AGGREGATE"
"""The trait of a provider whose inventory serves all trees in its aggregates."""

RESOURCE_CLASSES = (
    "VCPU", "MEMORY_MB", "DISK_GB", "PCI_DEVICE", "SRIOV_NET_VF", "NUMA_SOCKET", "NUMA_CORE", "NUMA_THREAD",
    "NUMA_MEMORY_MB", "IPV4_ADDRESS", "VGPU", "VGPU_DISPLAY_HEAD", "NET_BW_EGR_KILOBIT_PER_SEC",
    "NET_BW_IGR_KILOBIT_PER_SEC", "PCPU", "MEM_ENCRYPTION_CONTEXT", "FPGA", "PGPU",
    "NET_PACKET_RATE_KILOPACKET_PER_SEC", "NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC",
    "NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC",
)  # fmt: skip


@cache
def standard_traits() -> frozenset[str]:
    return frozenset(Path(__file__).with_name("traits.txt").read_text().split())

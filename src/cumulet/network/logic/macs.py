# SPDX-License-Identifier: Apache-2.0
"""MAC addresses: ours begin with the published base; the table's key keeps one from being used twice on a network."""

from __future__ import annotations

from cumulet.kernel import ids

BASE = "fa:16:3e"


def new_mac() -> str:
    """A random address below our base."""
    value = int(ids.choose(0, 2**24))
    return f"{BASE}:{value >> 16 & 255:02x}:{value >> 8 & 255:02x}:{value & 255:02x}"

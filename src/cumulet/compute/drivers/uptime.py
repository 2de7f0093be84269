# SPDX-License-Identifier: Apache-2.0
"""Since when a host runs: which boot this is, and its uptime in the published form, which clients take apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cumulet.kernel import clock


def boot_id() -> str:
    """The kernel's name for the time since this host booted."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def uptime_text(seconds: float, load: Sequence[float] = (0.0, 0.0, 0.0)) -> str:
    """Of a host that has been up for ``seconds``; ``load`` is its load over 1, 5 and 15 minutes."""
    minutes = int(seconds // 60)
    days, hours = divmod(minutes // 60, 24)
    ran = f"{hours}:{minutes % 60:02}" if hours else f"{minutes % 60} min"
    if days:
        ran = f"{days} day{'s' if days > 1 else ''}, {ran}"
    loads = ", ".join(f"{one:.2f}" for one in load)
    return f" {clock.moment(clock.now()):%H:%M:%S} up {ran},  0 users,  load average: {loads}"

# SPDX-License-Identifier: Apache-2.0
"""The taps that guests are plugged into: the network agent makes them, and after a boot it may be later than we."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from cumulet.compute.drivers.model import HypervisorError
from cumulet.kernel import clock

_SECONDS = 30.0


async def present(taps: Iterable[str]) -> None:
    """Wait until all of these links are on this host; raises HypervisorError."""
    until = clock.monotonic() + _SECONDS
    for tap in taps:
        while not _is_link(tap):
            if clock.monotonic() > until:
                raise HypervisorError("the guest's network is not on the host")
            await clock.sleep(0.1)


def _is_link(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False

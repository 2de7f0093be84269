# SPDX-License-Identifier: Apache-2.0
"""What servers of our own need on this machine: ports of the loopback, and processes that may outlive who started them.

Invariant: the ports lie below those that outgoing connections are given, so a
server that is killed finds its own free when it comes back.
"""

from __future__ import annotations

import random
import socket
import subprocess
from contextlib import ExitStack

_FROM, _TO = 12_000, 32_000


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody uses at this moment."""
    dice = random.SystemRandom()
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = dice.randrange(_FROM, _TO)
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
        return ports


def let_go(process: subprocess.Popen[bytes]) -> int:
    """Nobody waits for it through this object any more, so its end is not missed when we end first. Returns its pid."""
    process.returncode = 0
    return process.pid

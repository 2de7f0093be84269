# SPDX-License-Identifier: Apache-2.0
"""What a joined host may do that calls by itself, with no user behind it: bind guests' ports to itself, and no more.

So a host that fell to somebody neither takes the traffic of other hosts' guests
nor passes for the one that serves a network.
"""

from __future__ import annotations

from cumulet.kernel.errors import Forbidden
from cumulet.network.logic import Document, Work


def ensure_own(work: Work, host: str, owner: str, before: Document | None = None) -> None:
    """Raise Forbidden where a host that calls by itself reaches for what is not its own.

    It binds guests' ports to itself, that no other host has.
    """
    own = work.caller.host
    if own is None:
        return
    held = before["binding:host_id"] if before is not None else ""
    if host not in ("", own) or held not in ("", own) or not (owner == "" or owner.startswith("compute:")):
        raise Forbidden(f"Host {own} can't change ports of another host or of the network itself.")

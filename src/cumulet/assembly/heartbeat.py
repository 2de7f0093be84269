# SPDX-License-Identifier: Apache-2.0
"""Each process tells insight that it lives, what it runs and what is wrong with it; `cumulet roles` shows it.

One that falls silent is shown as such: nobody can say of himself that he is dead.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cumulet import __version__
from cumulet.insight.rpc import ALIVE, Alive
from cumulet.kernel import clock, ids
from cumulet.kernel.loops import Loop

if TYPE_CHECKING:
    from cumulet.assembly.build import Cloud


def heartbeat(cloud: Cloud) -> Loop:
    """The loop that says so."""
    number, started = ids.new_uuid(), clock.now()

    async def tell() -> None:
        health = await cloud.health.look()
        alive = Alive(
            id=number, host=cloud.parts.host, roles=health["roles"], pid=os.getpid(), address=cloud.address,
            version=__version__, state=health["state"], problems=[*health["problems"], *health["warnings"]],
            started_at=started, every=cloud.config.heartbeat_seconds,
        )  # fmt: skip
        await cloud.bus.cast(ALIVE, alive)

    return Loop("heartbeat", cloud.config.heartbeat_seconds, tell)

# SPDX-License-Identifier: Apache-2.0
"""A joined host that the broker does not let in any more asks what became of it, so that it need not try for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from cumulet.assembly.join import CLAIM
from cumulet.kernel.loops import Loop

if TYPE_CHECKING:
    from cumulet.assembly.build import Cloud
    from cumulet.kernel.registry import Transport
    from cumulet.kernel.secrets import SecretFile

EVERY = 5.0


async def was_removed(host: str, secrets: SecretFile, transport: Callable[[str], Transport]) -> bool:
    """Whether the cloud says that this host was removed. Raises Unavailable when it says nothing."""
    if not secrets.known(CLAIM):
        return False
    body = orjson.dumps({"host": host, "claim": secrets.get(CLAIM)})
    reply = await transport("cumulet").send("POST", "/v1/join/standing", {"content-type": "application/json"}, body)
    data = await reply.read()
    if reply.status != 200:
        return False
    told: Any = orjson.loads(data)
    return isinstance(told, dict) and told.get("state") == "removed"


def said(host: str) -> str:
    """What is said to the operator of a host that was removed."""
    return (
        f"host {host} was removed from the cloud, so its agents end here. To have it back: cumulet join URL TOKEN; to "
        "leave nothing of the cloud on it: cumulet down --purge"
    )


def standing(cloud: Cloud) -> Loop:
    """The loop that asks when the bus is away, and ends the process of a host that was removed."""

    async def look() -> None:
        if getattr(cloud.bus, "problem", None) is None:
            return
        if await was_removed(cloud.parts.host, cloud.parts.secrets, cloud.parts.transport):
            cloud.dismissed.set()

    return Loop("standing in the cloud", EVERY, look)

# SPDX-License-Identifier: Apache-2.0
"""Hosts that leave the cloud: what is still on their back ends, and that they are forgotten."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, or_, select

from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict
from cumulet.volume.logic import Volume
from cumulet.volume.models import SERVICES, SNAPSHOTS, VOLUMES
from cumulet.volume.sagas.world import AGENT_BINARY
from cumulet.volume.states import DELETED

_SHOWN = 11


def _on(column: Any, host: str) -> Any:
    """Whether a column names a back end (``host@backend`` or ``host@backend#pool``) of this host."""
    return or_(column == host, column.startswith(f"{host}@", autoescape=True))


def _there(table: Any, host: str) -> Select[Any]:
    living = (table.c.status != DELETED) & _on(table.c.host, host)
    return select(table.c.id, table.c.name, table.c.project_id).where(living).order_by(table.c.id).limit(_SHOWN)


async def on_host(volume: Volume, host: str) -> dict[str, list[Row]]:
    """``volumes`` and ``snapshots`` that are on the host (id, name, project_id), eleven of each at most."""
    return {
        "volumes": await volume.database.all(_there(VOLUMES, host)),
        "snapshots": await volume.database.all(_there(SNAPSHOTS, host)),
    }


async def forget(volume: Volume, host: str) -> None:
    """The host has no back end here any more; raises Conflict while something is on it."""

    async def body(tx: Transaction) -> None:
        if held := [*await tx.all(_there(VOLUMES, host)), *await tx.all(_there(SNAPSHOTS, host))]:
            named = ", ".join(str(row["id"]) for row in held)
            raise Conflict(f"Host {host} has volumes or snapshots: {named}.")
        await tx.run(SERVICES.delete().where(SERVICES.c.binary == AGENT_BINARY, _on(SERVICES.c.host, host)))

    await volume.database.run(body)

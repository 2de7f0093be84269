# SPDX-License-Identifier: Apache-2.0
"""The sagas of floating IPs: associate and disassociate.

The request's transaction writes the record and starts the saga, which sees to
it that the router's host does what the record says. Invariants: a host only
ever carries what it reads from the records, so an old saga that wakes up can
wire nothing; every association has a generation of its own, and a saga changes
no record of another one. What a lost host can't do now it does when it looks at
its desired state again: then the saga ends and leaves the rest to that.
"""

from __future__ import annotations

import msgspec

from cumulet.kernel.db import Transaction
from cumulet.kernel.saga import Failed, Run, Saga, Step, Wait
from cumulet.network import models as m
from cumulet.network.rpc import Ask
from cumulet.network.sagas.world import ACTIVE, ERROR, World, take_away

_SOON = 0.2
"""Seconds until the next look for a router that nobody carries yet."""
_PATIENCE = 180.0
"""Seconds that a living host may take; longer than a dead one counts as living."""


class Associate(msgspec.Struct):
    floatingip_id: str
    address: str
    """The floating address."""
    router_id: str
    generation: int
    """Of the association that the request wrote."""


class Disassociate(msgspec.Struct):
    floatingip_id: str
    address: str
    router_id: str
    generation: int
    """Of the association that ended."""


async def forget(run: Run) -> None:
    """The router's host no longer carries this association (it reads the record, which is cleared already)."""
    world: World = run.world
    params: Associate | Disassociate = run.params
    host, alive = await world.host_of(params.router_id)
    if not (host and alive):
        return
    told = await world.carried(host, Ask(params.router_id, params.address, params.generation, hoped=False))
    if told.generation == params.generation or not told.settled:
        raise RuntimeError(told.error or f"{host} still carries {params.address}")


async def record(run: Run) -> None:
    """The record still is the one that the request wrote; a newer one has a saga of its own."""
    params: Associate = run.params
    if await run.world.floatingip(params.floatingip_id, params.generation) is None:
        raise Failed(f"Floating IP {params.address} does not lead there any more.")


async def withdraw(run: Run) -> None:
    """Clear the record, then have the host, which follows the record, forget."""
    world: World = run.world
    params: Associate = run.params

    async def body(tx: Transaction) -> None:
        f = m.FLOATINGIPS
        own = f.select().where(f.c.id == params.floatingip_id, f.c.generation == params.generation)
        row = await tx.first(own)
        if row is not None and row["port_id"] is not None:
            await take_away(tx, world.outbox, row, revision_number=row["revision_number"] + 1)

    await world.database.run(body)
    await forget(run)


async def carry(run: Run) -> bool:
    """The host has address, translation and neighbours in place; False: nobody lives who could, it is done later."""
    world: World = run.world
    params: Associate = run.params
    await record(run)
    where, alive = await world.host_of(params.router_id)
    if not alive:
        return False
    if not where:
        raise Wait(_SOON)
    told = await world.carried(where, Ask(params.router_id, params.address, params.generation))
    if told.generation != params.generation:
        raise RuntimeError(told.error or f"{where} does not carry {params.address} yet")
    return True


async def activate(run: Run) -> None:
    params: Associate = run.params

    async def body(tx: Transaction) -> None:
        f = m.FLOATINGIPS
        own = (f.c.id == params.floatingip_id) & (f.c.generation == params.generation)
        await tx.run(f.update().where(own, f.c.port_id.is_not(None)).values(status=ACTIVE))

    if run.outputs["carry"]:
        run.commit(body)


async def associate_failed(run: Run, failed: Failed) -> None:
    """The address leads nowhere and says that something went wrong, unless somebody used it since."""
    params: Associate = run.params

    async def body(tx: Transaction) -> None:
        f = m.FLOATINGIPS
        own = (f.c.id == params.floatingip_id) & (f.c.generation == params.generation)
        await tx.run(f.update().where(own).values(status=ERROR))

    run.commit(body)


ASSOCIATE = Saga(
    "network.associate_floatingip",
    Associate,
    (
        Step("record", record, withdraw),
        Step("carry", carry, within=_PATIENCE),
        Step("active", activate),
    ),
    on_failed=associate_failed,
)

DISASSOCIATE = Saga("network.disassociate_floatingip", Disassociate, (Step("forget", forget, within=_PATIENCE),))

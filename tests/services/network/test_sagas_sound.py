# SPDX-License-Identifier: Apache-2.0
"""Associating a floating IP is sound: the record and the host agree, whatever breaks, whenever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from cumulet.kernel import clock
from cumulet.kernel.saga import SagaEngine
from cumulet.kernel.saga.engine import Hooks
from cumulet.kernel.saga.soundness import World as SoundWorld
from cumulet.kernel.saga.soundness import assert_sound
from cumulet.kernel.secrets import Seal
from cumulet.network import models as m
from cumulet.network.drivers.model import NetworkError, RouterPlan
from cumulet.network.sagas import ALL, ASSOCIATE, DISASSOCIATE
from tests.services.network.test_agent import Site, running, until

Shown = tuple[str | None, str]
NOWHERE = ((None, "DOWN"), (None, "ERROR"))
"""What may be left of an association that was undone: cancelled, or failed."""


class Stage:
    """A router with a way out and a bound port behind it; the service's saga engine is in the test's hands."""

    def __init__(self, site: Site) -> None:
        self.site, self.net, self.inner = site, site.net, site.lone.inner

    async def build(self) -> Stage:
        self.external = await self.net.external("198.51.100.0/24")
        self.network, self.subnet = await self.net.network("10.1.0.0/24")
        self.router = (await self.net.make("/routers", external_gateway_info={"network_id": self.external}))["id"]
        await self.net.put(f"/routers/{self.router}/add_router_interface", {"subnet_id": self.subnet})
        self.port = (await self.site.port(self.network, device="server-1"))["id"]
        await until(lambda: self.router in self.site.driver.plans.routers)
        await self.inner.sagas.stop()
        self.new_engine(None)
        return self

    def new_engine(self, hooks: Hooks | None) -> SagaEngine:
        """As a new process would make it; the API uses it from here on."""
        old = self.inner.sagas
        self.inner.sagas = SagaEngine(
            old.journal.database, m.SAGAS, ALL, world=old.world, seal=Seal("test"), component="network-api",
            sole=True, hooks=hooks,
        )  # fmt: skip
        return self.inner.sagas  # type: ignore[no-any-return]

    async def floatingip(self) -> str:
        return str((await self.net.make("/floatingips", floating_network_id=self.external))["id"])

    async def lead(self, floating: str, port: str | None) -> None:
        reply = await self.net.put(f"/floatingips/{floating}", {"floatingip": {"port_id": port}})
        assert reply.status == 200, reply.data
        assert reply.json["floatingip"]["port_id"] == port  # the answer shows it at once
        assert reply.json["floatingip"]["status"] == "DOWN"

    async def saga(self, floating: str, name: str) -> dict[str, Any]:
        """The newest saga of that name about the floating IP."""
        t = m.SAGAS
        rows = await self.inner.database.all(select(t).where(t.c.subject == floating, t.c.name == name))
        return dict(max(rows, key=lambda row: row["params"]["generation"]))

    async def shown(self, floating: str) -> Shown:
        document = await self.net.show(f"/floatingips/{floating}")
        assert (
            (document["fixed_ip_address"] is None) == (document["port_id"] is None) == (document["router_id"] is None)
        )
        return document["port_id"], document["status"]

    def carried(self) -> list[tuple[str, str]]:
        """(floating, fixed) pairs that are in force on the host."""
        return [(one.floating, one.fixed) for one in self.site.driver.plans.routers[self.router].floating]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with running(tmp_path) as site:
        yield await Stage(site).build()


class Associate:
    """A floating IP that is to lead to the port."""

    saga = ASSOCIATE

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.floating = ""

    def engine(self, hooks: Hooks) -> SagaEngine:
        return self.stage.new_engine(hooks)

    async def begin(self, engine: SagaEngine) -> str:
        self.floating = await self.stage.floatingip()
        await self.stage.lead(self.floating, self.stage.port)
        return str((await self.stage.saga(self.floating, self.saga.name))["id"])

    async def cancel(self, engine: SagaEngine, saga_id: str) -> None:
        """As a user does it."""
        await self.stage.lead(self.floating, None)

    async def assert_finished(self) -> None:
        assert await self.stage.shown(self.floating) == (self.stage.port, "ACTIVE")
        document = await self.stage.net.show(f"/floatingips/{self.floating}")
        assert self.stage.carried() == [(document["floating_ip_address"], document["fixed_ip_address"])]

    async def assert_clean(self) -> None:
        assert await self.stage.shown(self.floating) in NOWHERE
        assert self.stage.carried() == []

    async def over(self) -> None:
        assert (await self.stage.net.delete(f"/floatingips/{self.floating}")).status == 204
        await self.stage.new_engine(None).settle()
        assert self.stage.carried() == []
        t = m.SAGAS
        assert await self.stage.inner.database.all(select(t.c.name).where(t.c.state.in_(["ready", "stuck"]))) == []


class Disassociate(Associate):
    """A floating IP that leads to the port and shall no longer."""

    saga = DISASSOCIATE

    async def begin(self, engine: SagaEngine) -> str:
        hooks, engine._hooks = engine._hooks, None
        self.floating = await self.stage.floatingip()
        await self.stage.lead(self.floating, self.stage.port)
        await engine.settle()
        assert await self.stage.shown(self.floating) == (self.stage.port, "ACTIVE")
        engine._hooks = hooks
        await self.stage.lead(self.floating, None)
        return str((await self.stage.saga(self.floating, self.saga.name))["id"])

    async def assert_finished(self) -> None:
        await self.assert_clean()


def _worlds(make: Callable[[], Associate]) -> Any:
    @asynccontextmanager
    async def world() -> AsyncIterator[SoundWorld]:
        one = make()
        yield one
        await one.over()

    return world


async def test_associate_is_sound(stage: Stage) -> None:
    titles = await assert_sound(ASSOCIATE, _worlds(lambda: Associate(stage)), real_time=True)
    assert len(titles) > 30
    changed = {"name": "network-changed", "server_uuid": "server-1", "tag": stage.port, "status": "completed"}
    await until(lambda: changed in stage.site.told.events)


async def test_disassociate_is_sound(stage: Stage) -> None:
    await assert_sound(DISASSOCIATE, _worlds(lambda: Disassociate(stage)), real_time=True, undoable=False)


async def test_the_newer_association_counts(stage: Stage) -> None:
    """Two ports in a row before any saga began, and one that wakes up late: only the last one holds."""
    other = (await stage.site.port(stage.network, device="server-2"))["id"]
    floating = await stage.floatingip()
    await stage.lead(floating, stage.port)
    first = await stage.saga(floating, ASSOCIATE.name)
    await stage.lead(floating, other)
    await stage.inner.sagas.settle()
    assert await stage.shown(floating) == (other, "ACTIVE")
    assert (await stage.saga(floating, ASSOCIATE.name))["state"] == "done"

    async def rise(tx: Any) -> None:
        again = {"state": "ready", "cursor": 2, "floor": None, "cancel": False, "wake_at": 0.0, "error": None}
        await tx.run(update(m.SAGAS).where(m.SAGAS.c.id == first["id"]).values(**again))

    await stage.inner.database.run(rise)
    await stage.inner.sagas.settle()
    assert await stage.shown(floating) == (other, "ACTIVE")
    (pair,) = stage.carried()
    assert pair[1] == (await stage.net.show(f"/ports/{other}"))["fixed_ips"][0]["ip_address"]


@pytest.fixture
def time() -> Iterator[clock.FakeClock]:
    fake = clock.FakeClock()
    clock.use(fake)
    yield fake
    clock.use(clock.SystemClock())


async def _run(stage: Stage, time: clock.FakeClock, floating: str, name: str) -> str:
    """Let time pass until the saga is over; returns its state."""
    for _ in range(200):
        await stage.inner.sagas.settle()
        row = await stage.saga(floating, name)
        if row["state"] != "ready":
            return str(row["state"])
        await time.advance(max(row["wake_at"] - clock.now(), 0.05))
    raise AssertionError("the saga did not end")


async def test_what_a_host_refuses_is_undone_and_told(tmp_path: Path, time: clock.FakeClock) -> None:
    async with running(tmp_path) as site:
        stage = await Stage(site).build()
        ensure = site.driver.ensure_router

        async def refuse(plan: RouterPlan) -> None:
            if plan.floating:
                raise NetworkError("no room for addresses")
            await ensure(plan)

        site.driver.ensure_router = refuse  # type: ignore[method-assign]
        floating = await stage.floatingip()
        await stage.lead(floating, stage.port)
        assert await _run(stage, time, floating, ASSOCIATE.name) == "failed"
        assert await stage.shown(floating) == (None, "ERROR")
        assert stage.carried() == []
        assert "no room for addresses" in (await stage.saga(floating, ASSOCIATE.name))["error"]["message"]
        site.driver.ensure_router = ensure  # type: ignore[method-assign]
        await stage.lead(floating, stage.port)
        assert await _run(stage, time, floating, ASSOCIATE.name) == "done"
        assert await stage.shown(floating) == (stage.port, "ACTIVE")


async def test_a_lost_host_does_it_when_it_is_back(tmp_path: Path, time: clock.FakeClock) -> None:
    """The saga ends, the intention stays: the host's reconciler finishes it."""
    async with running(tmp_path) as site:
        stage = await Stage(site).build()
        (agent,) = next(role for role in site.lone.service.roles if role.name == "network-agent").tasks
        await agent.stop()
        floating = await stage.floatingip()
        await stage.lead(floating, stage.port)
        assert await _run(stage, time, floating, ASSOCIATE.name) == "done"
        assert await stage.shown(floating) == (stage.port, "DOWN")
        await agent.start()
        await stage.net.eventually(f"/floatingips/{floating}", status="ACTIVE")
        await agent.stop()
        await stage.lead(floating, None)
        assert await _run(stage, time, floating, DISASSOCIATE.name) == "done"
        await agent.start()
        await until(lambda: stage.carried() == [])

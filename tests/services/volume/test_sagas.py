# SPDX-License-Identifier: Apache-2.0
"""The sagas of volumes and snapshots are sound: finished or clean, whatever breaks, whenever."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cumulet.kernel import clock, context, ids
from cumulet.kernel.bus import Handlers, MemoryBus
from cumulet.kernel.clock import FakeClock
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.pools import Pool
from cumulet.kernel.quota import Quota
from cumulet.kernel.saga import SagaEngine
from cumulet.kernel.saga.engine import Hooks
from cumulet.kernel.saga.soundness import assert_sound
from cumulet.kernel.secrets import Seal
from cumulet.volume.agent import VolumeAgent
from cumulet.volume.config import VolumeConfig
from cumulet.volume.drivers.simulated import Knobs, SimulatedBackend
from cumulet.volume.limits import defaults, snapshot_costs, volume_costs
from cumulet.volume.logic.types import DEFAULT, ensure_default
from cumulet.volume.models import METADATA, QUOTA_LIMITS, QUOTA_USAGE, SAGAS, SERVICES, SNAPSHOTS, TYPES, VOLUMES
from cumulet.volume.rpc import DROP, GROW, MAKE, SNAP
from cumulet.volume.sagas import ALL, CREATE_SNAPSHOT, CREATE_VOLUME, DELETE_SNAPSHOT, DELETE_VOLUME, EXTEND_VOLUME
from cumulet.volume.sagas.params import CreateSnapshot, CreateVolume, DeleteSnapshot, DeleteVolume, ExtendVolume
from cumulet.volume.sagas.world import World

HOST = "node-1@simulated#simulated"
CALLER = Context(request_id="req-1", user_id="u", project_id="p", roles=["member"])


class Stage:
    """A database, an agent with a simulated back end, and one saga to run on them."""

    def __init__(self, database: SqliteDatabase, bus: MemoryBus, backend: SimulatedBackend) -> None:
        self.database, self.bus, self.backend = database, bus, backend
        self.config = VolumeConfig()
        self.quota = Quota(QUOTA_USAGE, QUOTA_LIMITS, defaults(self.config))
        self.world = World(database, bus, self.quota, self.config)
        self.volume_id, self.snapshot_id = ids.new_uuid(), ids.new_uuid()
        self.name, self.subject = "", ""
        self.params: Any = None
        self.finished: Callable[[], Any] = lambda: None
        self.clean: Callable[[], Any] = lambda: None

    async def prepare(self, **more: Any) -> None:
        """A volume's record (available, with its data, unless told otherwise) and its quota."""
        await ensure_default(self.database)
        kind = await self.database.first(select(TYPES))
        assert kind is not None
        row = {
            "id": self.volume_id, "status": "available", "size": 2, "project_id": "p", "user_id": "u",
            "availability_zone": "nova", "host": HOST, "type_id": kind["id"], "multiattach": False,
            "bootable": False, "readonly": False, "created_at": clock.now(), **more,
        }  # fmt: skip
        service = {
            "host": "node-1@simulated", "binary": "cinder-volume", "zone": "nova", "disabled": False,
            "total_gib": 100.0, "free_gib": 100.0, "protocol": "simulated", "created_at": clock.now(),
            "seen_at": clock.now() + 1_000_000,
        }  # fmt: skip

        async def body(tx: Transaction) -> None:
            await tx.insert(VOLUMES, row)
            await tx.insert(SERVICES, service)
            await self.quota.take(tx, "p", volume_costs(2, DEFAULT))

        await self.database.run(body)
        if row["host"] is not None:
            await self.backend.ensure_volume(self.volume_id, 2)

    async def add_snapshot(self, status: str) -> None:
        kind = await self.database.first(select(TYPES))
        assert kind is not None
        row = {
            "id": self.snapshot_id, "volume_id": self.volume_id, "status": status, "size": 2, "project_id": "p",
            "user_id": "u", "type_id": kind["id"], "host": HOST, "progress": "0%", "created_at": clock.now(),
        }  # fmt: skip

        async def body(tx: Transaction) -> None:
            await tx.insert(SNAPSHOTS, row)
            await self.quota.take(tx, "p", snapshot_costs(2, DEFAULT))

        await self.database.run(body)
        if status != "creating":
            await self.backend.ensure_snapshot(self.snapshot_id, self.volume_id)

    async def volume(self) -> Row:
        row = await self.database.first(select(VOLUMES).where(VOLUMES.c.id == self.volume_id))
        assert row is not None
        return row

    async def snapshot(self) -> Row:
        row = await self.database.first(select(SNAPSHOTS).where(SNAPSHOTS.c.id == self.snapshot_id))
        assert row is not None
        return row

    async def used(self) -> tuple[int, int, int]:
        used = await self.quota.used_of(self.database, "p")
        return used["volumes"], used["snapshots"], used["gigabytes"]

    # ---- what the harness asks

    def engine(self, hooks: Hooks) -> SagaEngine:
        return SagaEngine(
            self.database, SAGAS, ALL, world=self.world, seal=Seal("k"), component="volume-scheduler", sole=True,
            hooks=hooks,
        )  # fmt: skip

    async def begin(self, engine: SagaEngine) -> str:
        assert self.params is not None
        return await self.database.run(
            lambda tx: engine.start_saga(tx, self.name, subject=self.subject, params=self.params)
        )

    async def cancel(self, engine: SagaEngine, saga_id: str) -> None:
        await self.database.run(lambda tx: engine.cancel(tx, saga_id))

    async def assert_finished(self) -> None:
        await self.finished()

    async def assert_clean(self) -> None:
        await self.clean()


def stages(folder: Path, setting: Callable[[Stage], Any]) -> Callable[[], AbstractAsyncContextManager[Stage]]:
    counter = itertools.count()

    @asynccontextmanager
    async def make() -> AsyncIterator[Stage]:
        number = next(counter)
        database = SqliteDatabase(folder / f"{number}.db", inline=True)
        await ensure_schema(database, METADATA, None)
        bus, pool = MemoryBus(), Pool("t", 0)
        backend = SimulatedBackend(folder / f"{number}.json", Knobs())
        await backend.open()
        agent = VolumeAgent(
            bus, backend, host="node-1", name="simulated", config=VolumeConfig(), image=None,  # type: ignore[arg-type]
            folder=folder / "images", pool=pool,
        )  # fmt: skip
        orders: Handlers = {MAKE: agent.make, DROP: agent.drop, GROW: agent.grow, SNAP: agent.snap}
        await bus.subscribe(orders, component="volume-agent", host="node-1", own_host=True)
        stage = Stage(database, bus, backend)
        context.use(CALLER)
        await setting(stage)
        yield stage
        await bus.close()
        await database.close()

    return make


async def _created(stage: Stage) -> None:
    await stage.prepare(status="creating", host=None)
    stage.name, stage.subject = CREATE_VOLUME.name, stage.volume_id
    stage.params = CreateVolume(stage.volume_id, 2, "empty")

    async def finished() -> None:
        row = await stage.volume()
        assert (row["status"], row["host"]) == ("available", HOST)
        assert stage.backend.size_of(stage.volume_id) == 2

    async def clean() -> None:
        row = await stage.volume()
        assert (row["status"], row["host"]) == ("error", None)
        assert row["fault"]
        assert await stage.backend.volumes() == []
        assert await stage.used() == (1, 0, 2)  # the record is there and counts until it is deleted

    stage.finished, stage.clean = finished, clean


async def test_create_volume_is_sound(tmp_path: Path) -> None:
    titles = await assert_sound(CREATE_VOLUME, stages(tmp_path, _created))
    assert len(titles) > 30


async def _deleted(stage: Stage) -> None:
    await stage.prepare()
    await stage.add_snapshot("available")
    stage.name, stage.subject = DELETE_VOLUME.name, stage.volume_id
    stage.params = DeleteVolume(stage.volume_id, [stage.snapshot_id])

    async def finished() -> None:
        assert (await stage.volume())["status"] == "deleted"
        assert (await stage.snapshot())["status"] == "deleted"
        assert await stage.backend.volumes() == []
        assert await stage.used() == (0, 0, 0)

    stage.finished = finished


async def test_delete_volume_is_sound(tmp_path: Path) -> None:
    await assert_sound(DELETE_VOLUME, stages(tmp_path, _deleted), undoable=False)


async def _extended(stage: Stage) -> None:
    await stage.prepare(status="extending")
    await stage.database.run(lambda tx: stage.quota.take(tx, "p", {"gigabytes": 3}))
    stage.name, stage.subject = EXTEND_VOLUME.name, stage.volume_id
    stage.params = ExtendVolume(stage.volume_id, 2, 5)

    async def finished() -> None:
        row = await stage.volume()
        assert (row["status"], row["size"]) == ("available", 5)
        assert stage.backend.size_of(stage.volume_id) == 5
        assert await stage.used() == (1, 0, 5)

    async def clean() -> None:
        row = await stage.volume()
        assert (row["status"], row["size"]) == ("error_extending", 2)
        assert await stage.used() == (1, 0, 2)

    stage.finished, stage.clean = finished, clean


async def test_extend_volume_is_sound(tmp_path: Path) -> None:
    await assert_sound(EXTEND_VOLUME, stages(tmp_path, _extended))


async def _snapped(stage: Stage) -> None:
    await stage.prepare()
    await stage.add_snapshot("creating")
    stage.name, stage.subject = CREATE_SNAPSHOT.name, stage.snapshot_id
    stage.params = CreateSnapshot(stage.snapshot_id, stage.volume_id)

    async def finished() -> None:
        assert (await stage.snapshot())["status"] == "available"
        assert sorted(await stage.backend.volumes()) == sorted([stage.volume_id, stage.snapshot_id])

    async def clean() -> None:
        assert (await stage.snapshot())["status"] == "error"
        assert await stage.backend.volumes() == [stage.volume_id]

    stage.finished, stage.clean = finished, clean


async def test_create_snapshot_is_sound(tmp_path: Path) -> None:
    await assert_sound(CREATE_SNAPSHOT, stages(tmp_path, _snapped))


async def _unsnapped(stage: Stage) -> None:
    await stage.prepare()
    await stage.add_snapshot("deleting")
    stage.name, stage.subject = DELETE_SNAPSHOT.name, stage.snapshot_id
    stage.params = DeleteSnapshot(stage.snapshot_id)

    async def finished() -> None:
        assert (await stage.snapshot())["status"] == "deleted"
        assert await stage.backend.volumes() == [stage.volume_id]
        assert await stage.used() == (1, 0, 2)

    stage.finished = finished


async def test_delete_snapshot_is_sound(tmp_path: Path) -> None:
    await assert_sound(DELETE_SNAPSHOT, stages(tmp_path, _unsnapped), undoable=False)


@pytest.mark.parametrize("full", ["node-1", "node-2"])
async def test_a_full_back_end_gives_way_to_another(tmp_path: Path, full: str) -> None:
    """Two agents, one full: the volume goes to the other, and nothing is left on the full one."""
    async with stages(tmp_path, _created)() as stage:
        other = SimulatedBackend(tmp_path / "other.json", Knobs())
        await other.open()
        agent = VolumeAgent(
            stage.bus, other, host="node-2", name="simulated", config=VolumeConfig(), image=None,  # type: ignore[arg-type]
            folder=tmp_path / "images", pool=Pool("t", 0),
        )  # fmt: skip
        await stage.bus.subscribe(
            {MAKE: agent.make, DROP: agent.drop}, component="volume-agent", host="node-2", own_host=True
        )
        seen = clock.now() + 1000
        service = {
            "host": "node-2@simulated", "binary": "cinder-volume", "zone": "nova", "disabled": False,
            "total_gib": 100.0, "free_gib": 100.0, "protocol": "simulated", "created_at": seen, "seen_at": seen,
        }  # fmt: skip
        await stage.database.run(lambda tx: tx.insert(SERVICES, service))
        (stage.backend if full == "node-1" else other).knobs.full = True
        engine = stage.engine(None)  # type: ignore[arg-type]
        await stage.begin(engine)
        await engine.settle()
        row = await stage.volume()
        assert row["status"] == "available"
        assert row["host"].startswith("node-2" if full == "node-1" else "node-1")
        assert len(await other.volumes()) + len(await stage.backend.volumes()) == 1


@pytest.mark.parametrize("comes", [True, False])
async def test_agents_not_heard_since_a_restart_are_waited_for(tmp_path: Path, comes: bool) -> None:
    """All processes start together: the volume's saga must not be the first to look and the last to give up."""
    time = FakeClock()
    clock.use(time)
    try:
        async with stages(tmp_path, _created)() as stage:
            silent = SERVICES.update().values(seen_at=clock.now() - 1000)
            await stage.database.run(lambda tx: tx.run(silent))
            engine = stage.engine(None)  # type: ignore[arg-type]
            await stage.begin(engine)
            await engine.settle()
            assert (await stage.volume())["status"] == "creating"
            if comes:
                await stage.database.run(lambda tx: tx.run(SERVICES.update().values(seen_at=clock.now() + 1000)))
            for _ in range(40):
                await time.advance(1.0)
                await engine.settle()
            row = await stage.volume()
            assert row["status"] == ("available" if comes else "error")
            assert comes or "node-1@simulated is down" in row["fault"]
    finally:
        clock.use(clock.SystemClock())

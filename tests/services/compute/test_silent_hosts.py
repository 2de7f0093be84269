# SPDX-License-Identifier: Apache-2.0
"""What becomes of servers whose host is silent: nothing is used twice, nothing is waited for without end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Boolean, Float, Integer, String, Table

from cumulet.compute import rpc
from cumulet.compute.conductor import Conductor
from cumulet.compute.loops import loops
from cumulet.compute.models import BLOCK_DEVICES, HOSTS, METADATA, SERVER_GROUPS, SERVERS
from cumulet.compute.sagas import volumes
from cumulet.compute.sagas.create import _group_allows, attachment_of, build, claim_host, drop_devices
from cumulet.compute.sagas.params import CreateServer, DetachVolume
from cumulet.compute.sagas.power import mark_failed
from cumulet.compute.sagas.world import World
from cumulet.compute.scheduler.rpc import Selection
from cumulet.compute.states import SERVER
from cumulet.kernel import clock
from cumulet.kernel.clock import FakeClock
from cumulet.kernel.db import Transaction
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.errors import NotFound, Unavailable
from cumulet.kernel.saga import Failed, RetryFrom, Run, Wait
from cumulet.kernel.secrets import Seal

S = "11111111-1111-4111-8111-111111111111"


class SilentBus:
    """Nobody answers; what is cast lies in a queue."""

    async def call(self, method: Any, request: Any, **_: Any) -> Any:
        raise Unavailable("no answer")

    async def cast(self, method: Any, request: Any, **_: Any) -> None: ...


class VolumeCalls:
    """The volume service's edge: what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        async def call(subject: str, *others: Any, **_: Any) -> None:
            self.calls.append((name, subject))
            if name == "roll_detaching" and subject == "gone":
                raise NotFound("gone")

        return call


def filled(table: Table, **values: Any) -> dict[str, Any]:
    """A row with something in every column that must have it."""
    plain = ((Boolean, False), (Integer, 0), (Float, clock.now()), (String, ""))
    for column in table.columns:
        if column.name not in values and not column.nullable:
            values[column.name] = next((one for kind, one in plain if isinstance(column.type, kind)), {})
    return values


class Bench:
    def __init__(self, database: SqliteDatabase, time: FakeClock, folder: Path) -> None:
        self.database, self.time, self.volume = database, time, VolumeCalls()
        nothing: Any = None
        self.world = World(database, SilentBus(), nothing, nothing, self.volume, nothing, nothing)  # type: ignore[arg-type]
        self.marker = folder / "restored"
        self.conductor = Conductor(self.world, nothing, "c", Seal("k"), self.marker)

    async def add(self, table: Table, **values: Any) -> None:
        await self.database.run(lambda tx: tx.insert(table, filled(table, **values)))

    async def change(self, table: Table, **values: Any) -> None:
        await self.database.run(lambda tx: tx.run(table.update().values(**values)))

    async def server(self, **values: Any) -> None:
        await self.add(SERVERS, **{"id": S, "vm_state": "active", "host": "a", "attempt": 1, **values})

    async def host(self, name: str = "a", *, silent: float = 0.0, down: bool = False) -> None:
        seen = clock.now() - silent
        await self.add(HOSTS, id=name, host=name, binary="nova-compute", last_seen=seen, forced_down=down)

    async def shown(self) -> Any:
        return await self.database.first(SERVERS.select())

    def run(self, params: Any = None, **more: Any) -> Run:
        return Run("saga", "test", S, params, self.world, 1, 1, since=clock.now(), **more)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    time = FakeClock()
    clock.use(time)
    database = SqliteDatabase(tmp_path / "x.db", inline=True)
    await ensure_schema(database, METADATA, None)
    yield Bench(database, time, tmp_path)
    await database.close()
    clock.use(clock.SystemClock())


# ---- a guest that an earlier attempt left


@pytest.mark.parametrize(
    ("row", "goes"),
    [
        ({"host": "b", "attempt": 2}, True),
        ({"host": None, "vm_state": "error"}, True),
        ({"host": "b", "attempt": 2, "task_state": "spawning", "vm_state": "building"}, True),
        ({"host": "a"}, False),
        ({"host": "b", "attempt": 0}, False),
        ({"host": "b", "vm_state": "resized"}, False),
        ({"host": "b", "task_state": "migrating"}, False),
    ],
)
async def test_a_stale_guest_goes_when_its_host_is_back(bench: Bench, row: dict[str, Any], goes: bool) -> None:
    await bench.server(**row)
    told = rpc.Report(
        host="a", node="n", zone="", hypervisor_hostname="", hypervisor_type="", hypervisor_version=1, cpu_info="",
        host_ip="", vcpus=1, memory_mib=1, disk_gib=1, vcpus_used=0, memory_mib_used=0, disk_gib_used=0,
        disk_gib_free=1, running=1, guests=[rpc.GuestReport(S, 1, 1)], started_at=clock.now(),
    )  # fmt: skip
    verdict = await bench.conductor._compare(told)
    assert (verdict.remove, verdict.attempts) == (([S], {S: 1}) if goes else ([], {}))
    bench.marker.write_text("from a backup\n")
    assert (await bench.conductor._compare(told)).remove == []


# ---- a server that is asked for before any host has reported


class NoHostBus(SilentBus):
    """A scheduler that knows so many hosts and would take none."""

    def __init__(self, hosts: int) -> None:
        self.hosts = hosts

    async def call(self, method: Any, request: Any, **_: Any) -> Any:
        return Selection(None, None, reason="none fits", why={"hosts": self.hosts})


@pytest.mark.parametrize(
    ("known", "host", "seconds"),
    [
        (0, None, 30),  # no host has ever reported
        (0, {}, 30),  # one has, but placement does not know it yet
        (1, {"silent": 90}, 30),  # the whole cloud was away
        (1, {}, 0),
        (1, {"down": True}, 0),
    ],
)
async def test_the_first_host_is_waited_for(
    bench: Bench, known: int, host: dict[str, Any] | None, seconds: int
) -> None:
    bench.world.bus = NoHostBus(known)  # type: ignore[assignment]
    await bench.server(vm_state="building", host=None, flavor={"vcpus": 1, "ram": 64, "disk": 0})
    if host is not None:
        await bench.host(**host)
    run, began = bench.run(CreateServer(S)), clock.now()

    async def claimed() -> None:
        while True:
            try:
                await claim_host(run)
            except Wait as wait:
                await bench.time.advance(wait.seconds)

    with pytest.raises(Failed, match=r"No valid host was found\. none fits"):
        await claimed()
    assert clock.now() - began == pytest.approx(seconds, abs=1)


# ---- a host that dies while it builds


async def _build(bench: Bench, run: Run, seconds: float) -> BaseException:
    end = clock.now() + seconds
    while clock.now() < end:
        try:
            await build(run)
        except Wait as wait:
            await bench.time.advance(wait.seconds)
        except RetryFrom as retry:
            return retry
    return Wait(0)


def _building(bench: Bench, **notes: Any) -> Run:
    return bench.run(outputs={"host": {"host": "a"}}, notes=notes)


async def test_a_host_that_is_silent_while_it_builds_is_given_up(bench: Bench) -> None:
    await bench.server(vm_state="building")
    await bench.host(silent=1000)  # as for the whole cloud after it was down: it gets its time
    run = _building(bench)
    assert isinstance(await _build(bench, run, 50), Wait)
    await bench.change(HOSTS, last_seen=clock.now())
    assert isinstance(await _build(bench, run, 100), Wait)
    retry = await _build(bench, run, 200)
    assert isinstance(retry, RetryFrom)
    assert (retry.step, retry.notes["tried"], retry.notes["failures"]) == ("host", ["a"], 1)


async def test_a_host_that_is_declared_down_is_given_up_at_once(bench: Bench) -> None:
    await bench.server(vm_state="building")
    await bench.host(down=True)
    assert isinstance(await _build(bench, _building(bench), 1), RetryFrom)
    assert isinstance(await _build(bench, _building(bench, failures=2), 300), Wait)  # no attempt is left


async def test_silence_does_not_take_a_users_volume_elsewhere(bench: Bench) -> None:
    await bench.server(vm_state="building")
    await bench.host(silent=1000)
    await bench.add(BLOCK_DEVICES, id="d", server_id=S, destination_type="volume", volume_id="v")
    assert isinstance(await _build(bench, _building(bench), 300), Wait)
    await bench.change(HOSTS, forced_down=True)
    assert isinstance(await _build(bench, _building(bench), 1), RetryFrom)


# ---- a host that is silent while something is taken out of its guest


async def test_a_volume_stays_attached_while_the_host_is_silent(bench: Bench) -> None:
    await bench.server()
    await bench.host(silent=90)
    run = bench.run(DetachVolume(S, "v", "a1", "d1"))
    with pytest.raises(Unavailable):
        await volumes.unplug_alone(run)
    assert bench.volume.calls == [("begin_detaching", "v")]
    with pytest.raises(Wait):
        await volumes.unplug_again(run)
    await volumes.detach_failed(run, Failed("no answer"))
    assert bench.volume.calls[-1] == ("roll_detaching", "v")
    await bench.change(SERVERS, task_state="deleting")
    await volumes.unplug_again(run)
    await bench.change(SERVERS, task_state=None)
    await bench.change(HOSTS, forced_down=True)
    await volumes.unplug_alone(run)


async def test_a_failed_detach_of_a_volume_that_is_gone_has_its_end(bench: Bench) -> None:
    await volumes.detach_failed(bench.run(DetachVolume(S, "gone", "a1", "d1")), Failed("no"))


# ---- what else belongs to attempts


async def test_attachments_of_every_attempt_are_dropped(bench: Bench) -> None:
    await bench.server(attempt=5)
    await bench.add(BLOCK_DEVICES, id="d", server_id=S, destination_type="volume", volume_id="v")
    await drop_devices(bench.world, S, 5)
    dropped = {subject for name, subject in bench.volume.calls if name == "delete_attachment"}
    assert dropped == {attachment_of(S, "d", attempt) for attempt in range(1, 6)}


@pytest.mark.parametrize(
    ("policy", "member", "fits"),
    [
        ("affinity", "a", True), ("affinity", "b", False), ("affinity", None, True),
        ("anti-affinity", "a", False), ("anti-affinity", "b", True),
        ("soft-affinity", "b", True),
    ],
)  # fmt: skip
async def test_policies_of_groups_are_decided_with_the_claim(
    bench: Bench, policy: str, member: str | None, fits: bool
) -> None:
    await bench.add(SERVER_GROUPS, id="g", policy=policy)
    await bench.server(id="other", host=member, server_group_id="g")

    async def body(tx: Transaction) -> bool:
        return await _group_allows(tx, {"id": S, "server_group_id": "g"}, "a")

    assert await bench.database.run(body) is fits


# ---- the mark of a delete


@pytest.mark.parametrize("action", ["create", "start", "reboot_hard"])
async def test_what_ends_during_a_delete_does_not_end_the_delete(bench: Bench, action: str) -> None:
    await bench.server(vm_state="building", task_state="deleting")
    assert not await bench.database.run(lambda tx: SERVER.finish(tx, action, S, power_state=1))
    run = bench.run()
    await mark_failed(run, Failed("no"))
    for body in run._commits:
        await bench.database.run(body)
    row = await bench.shown()
    assert (row["vm_state"], row["task_state"]) == ("building", "deleting")
    assert await bench.database.run(lambda tx: SERVER.finish(tx, "delete", S))
    assert (await bench.shown())["vm_state"] == "deleted"


async def test_a_server_that_can_not_be_refreshed_holds_up_no_other(bench: Bench) -> None:
    await bench.server()
    await bench.server(id="2" * 36, number=2)
    asked: list[str] = []

    async def refresh(server_id: str) -> None:
        asked.append(server_id)
        if server_id == S:
            raise Unavailable("network is away")

    compute, conductor = SimpleNamespace(db=bench.database), SimpleNamespace(refresh=refresh)
    (heal,) = [one for one in loops(compute, conductor) if one.name == "heal addresses"]  # type: ignore[arg-type]
    with suppress(Unavailable):
        await heal.run_once()
    await heal.run_once()
    assert asked == [S, "2" * 36]

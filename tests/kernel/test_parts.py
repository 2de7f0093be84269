# SPDX-License-Identifier: Apache-2.0
"""The small mechanisms: bus, loops, states, quota, outbox, trace, settings, secrets, ids, clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Column, MetaData, String, Table, select

from cumulet.kernel import clock, context, ids, log, trace
from cumulet.kernel.bus import MemoryBus, Method
from cumulet.kernel.context import Context
from cumulet.kernel.db import Database, Time, Transaction
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.errors import Conflict, NotFound, OverQuota, Unavailable
from cumulet.kernel.loops import Loop
from cumulet.kernel.outbox import Outbox, outbox_table
from cumulet.kernel.quota import Quota, quota_tables
from cumulet.kernel.secrets import Seal, SecretFile, mask
from cumulet.kernel.settings import Settings, SettingsError
from cumulet.kernel.states import ANY, Action, Life

METADATA = MetaData()
THINGS = Table(
    "things", METADATA, Column("id", String(8), primary_key=True), Column("vm_state", String(16)),
    Column("task_state", String(16)), Column("updated_at", Time),
)  # fmt: skip
USAGE, LIMITS = quota_tables(METADATA)
OUTBOX = outbox_table(METADATA)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = SqliteDatabase(tmp_path / "x.db", inline=True)
    await ensure_schema(opened, METADATA, None)
    yield opened
    await opened.close()


# ---- bus


class Ask(msgspec.Struct):
    word: str


ASK = Method("toy.worker", "ask", Ask, dict[str, Any])


async def test_a_call_carries_who_asks_and_for_what() -> None:
    bus = MemoryBus()

    async def answer(ask: Ask) -> dict[str, Any]:
        caller, flow = context.current(), trace.current()
        assert caller is not None
        assert flow is not None
        return {"word": ask.word, "user": caller.user_id, "token": caller.token, "subject": flow.subject}

    await bus.subscribe({ASK: answer}, component="worker")
    context.use(Context("req-1", user_id="u", token="t"))
    trace.resume("api", "h", {"subject": "server-1"})
    assert await bus.call(ASK, Ask("w")) == {"word": "w", "user": "u", "token": None, "subject": "server-1"}


async def test_faults_cross_the_bus_and_silence_is_unavailable() -> None:
    bus = MemoryBus()
    with pytest.raises(Unavailable, match=r"toy\.worker"):
        await bus.call(ASK, Ask("w"))

    async def refuse(ask: Ask) -> dict[str, Any]:
        if ask.word == "hang":
            await asyncio.Event().wait()
        if ask.word == "bug":
            raise ZeroDivisionError
        raise NotFound(f"no {ask.word}", kind="ThingNotFound")

    await bus.subscribe({ASK: refuse}, component="worker")
    with pytest.raises(NotFound, match="no w") as caught:
        await bus.call(ASK, Ask("w"))
    assert caught.value.kind == "ThingNotFound"
    for word in ("hang", "bug"):
        with pytest.raises(Unavailable):
            await bus.call(ASK, Ask(word), timeout=0.05)


async def test_hosts_have_queues_of_their_own_and_fanout_reaches_all() -> None:
    bus = MemoryBus()
    heard: list[str] = []

    def listener(name: str) -> Any:
        async def hear(ask: Ask) -> dict[str, Any]:
            heard.append(f"{name}:{ask.word}")
            return {}

        return hear

    for host in ("a", "b"):
        await bus.subscribe({ASK: listener(host)}, component="agent", host=host, own_host=True)
    await bus.call(ASK, Ask("1"), host="b")
    assert heard == ["b:1"]
    await bus.fanout(ASK, Ask("2"))
    await bus.close()
    assert sorted(heard[1:]) == ["a:2", "b:2"]


# ---- loops


async def test_a_loop_runs_at_its_pokes_and_survives_its_errors() -> None:
    runs: list[int] = []
    ran = asyncio.Event()

    async def work() -> None:
        runs.append(1)
        ran.set()
        if len(runs) == 1:
            raise RuntimeError("first")

    loop = Loop("test", 3600, work)
    await loop.start()
    await ran.wait()
    ran.clear()
    loop.poke()
    loop.poke()
    await ran.wait()
    await loop.stop()
    assert len(runs) in (2, 3)
    assert loop.last_error is None


# ---- states


LIFE = Life(
    "thing", THINGS,
    {
        "stop": Action(frozenset({"active"}), "stopping", "stopped"),
        "delete": Action(ANY, "deleting", "deleted", while_busy=ANY),
    },
    state_column="vm_state", busy_column="task_state",
)  # fmt: skip


async def test_begin_is_a_compare_and_swap(database: Database) -> None:
    async def setup(tx: Transaction) -> None:
        await tx.insert(THINGS, {"id": "t", "vm_state": "active"})

    await database.run(setup)
    await database.run(lambda tx: LIFE.begin(tx, "stop", "t"))
    with pytest.raises(Conflict, match="while it is in task_state stopping"):
        await database.run(lambda tx: LIFE.begin(tx, "stop", "t"))
    await database.run(lambda tx: LIFE.finish(tx, "stop", "t"))
    with pytest.raises(Conflict, match="while it is in vm_state stopped"):
        await database.run(lambda tx: LIFE.begin(tx, "stop", "t"))
    await database.run(lambda tx: LIFE.begin(tx, "delete", "t"))
    await database.run(lambda tx: LIFE.begin(tx, "delete", "t"))
    row = await database.first(select(THINGS).where(THINGS.c.id == "t"))
    assert row is not None
    assert (row["vm_state"], row["task_state"]) == ("stopped", "deleting")
    assert "any --> deleted: delete" in LIFE.diagram()


# ---- quota


async def test_quota_counts_what_exists_and_says_what_does_not_fit(database: Database) -> None:
    quota = Quota(USAGE, LIMITS, {"instances": 2, "cores": 8, "disk": -1})
    await database.run(lambda tx: quota.take(tx, "p", {"instances": 1, "cores": 4, "disk": 10_000}))
    with pytest.raises(OverQuota) as caught:
        await database.run(lambda tx: quota.take(tx, "p", {"instances": 1, "cores": 5}))
    (exceeded,) = caught.value.details["exceeded"]
    assert (exceeded.resource, exceeded.asked, exceeded.used, exceeded.limit) == ("cores", 5, 4, 8)
    assert (await quota.used_of(database, "p"))["instances"] == 1
    await database.run(lambda tx: quota.give(tx, "p", {"instances": 1, "cores": 4}))
    assert await quota.used_of(database, "p") == {"instances": 0, "cores": 0, "disk": 10_000}


# ---- outbox


async def test_the_outbox_sends_what_was_committed_and_keeps_what_was_not_sent(database: Database) -> None:
    sent: list[str] = []
    broken = [True]

    async def send(row: dict[str, Any]) -> None:
        if broken[0]:
            raise Unavailable
        sent.append(row["event_type"])

    outbox = Outbox(database, OUTBOX, send)
    await database.run(lambda tx: outbox.add(tx, "thing.made", {}))
    with pytest.raises(Unavailable):
        await outbox.deliver()
    broken[0] = False
    await outbox.deliver()
    await outbox.deliver()
    assert sent == ["thing.made"]


# ---- trace


async def test_events_wait_for_their_subject_and_a_full_buffer_drops_the_oldest() -> None:
    buffer = trace.Buffer(size=3)
    trace.use_buffer(buffer)
    flow = trace.resume("api", "h", {})
    trace.record("a")
    with pytest.raises(LookupError), trace.step("b"):
        raise LookupError("why")
    got: list[trace.Event] = []

    async def keep(events: list[trace.Event]) -> None:
        got.extend(events)

    await buffer.flush(keep)
    assert got == []
    flow.bind("server-1")
    trace.record("c")
    trace.record("d")
    await buffer.flush(keep)
    assert [(event.name, event.subject, event.error) for event in got] == [
        ("b", "server-1", "why"), ("c", "server-1", None), ("d", "server-1", None),
    ]  # fmt: skip
    assert buffer.dropped == 1


# ---- settings, secrets, log


class Section(msgspec.Struct):
    port: int = 80
    name: str = "x"


def test_wrong_settings_name_their_key() -> None:
    assert Settings({"a": {"port": 81}}, {"CUMULET_A_NAME": "y"}).section("a", Section) == Section(81, "y")
    with pytest.raises(SettingsError, match=r"\[a\] prot: no such setting; known: name, port"):
        Settings({"a": {"prot": 1}}, {}).section("a", Section)
    with pytest.raises(SettingsError, match="port"):
        Settings({"a": {"port": "many"}}, {}).section("a", Section)
    with pytest.raises(SettingsError, match=r"\[b\]: no such section"):
        Settings({"b": {}}, {}).check_all_asked()


def test_secrets_are_kept_closed_and_masked(tmp_path: Path) -> None:
    file = SecretFile(tmp_path / "s.json")
    secret = file.get("admin")
    assert (tmp_path / "s.json").stat().st_mode & 0o777 == 0o600
    assert SecretFile(tmp_path / "s.json").get("admin") == secret
    assert Seal("k").open(Seal("k").close("token")) == "token"
    assert Seal("other").open(Seal("k").close("token")) is None
    assert (
        mask('{"adminPass": "hunter2", "a": 1} X-Auth-Token: gAAAAABabc')
        == '{"adminPass": "***", "a": 1} X-Auth-Token: ***'
    )


def test_log_lines_carry_the_request_and_no_secret() -> None:
    stream = StringIO()
    before = logging.getLogger().handlers[:]
    try:
        log.configure(json=True, stream=stream)
        context.use(Context("req-7"))
        logging.getLogger("t").info('password: "hunter2"', extra={"server_id": "s"})
    finally:
        logging.getLogger().handlers[:] = before
        context.use(None)
    line = stream.getvalue()
    assert '"request_id":"req-7"' in line
    assert '"server_id":"s"' in line
    assert "hunter2" not in line


def test_seeded_ids_repeat_and_secrets_never_do() -> None:
    ids.use_seed(7)
    first = (ids.new_uuid(), ids.new_secret())
    ids.use_seed(7)
    second = (ids.new_uuid(), ids.new_secret())
    ids.use_seed(None)
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert ids.is_uuid(first[0])
    assert not any(ids.is_uuid(bad) for bad in ("", "x", "{" + first[0] + "}", first[0][:-1], None, 7))


async def test_the_fake_clock_wakes_sleepers_in_order() -> None:
    fake = clock.FakeClock(100.0)
    clock.use(fake)
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(f"{name}@{clock.now():g}")

    tasks = [asyncio.create_task(sleeper(name, seconds)) for name, seconds in (("b", 5), ("a", 2), ("c", 60))]
    await fake.advance(10)
    assert woken == ["a@102", "b@105"]
    tasks[2].cancel()
    clock.use(clock.SystemClock())

# SPDX-License-Identifier: Apache-2.0
"""The sagas of images are sound: finished or clean, whatever breaks, whenever; and no file is left in any store."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from cumulet.client.session import ServiceSession
from cumulet.image import loops
from cumulet.image.config import ImageConfig, StoreConfig
from cumulet.image.convert import ConvertError, convert
from cumulet.image.logic import Image
from cumulet.image.logic import images as image_logic
from cumulet.image.logic.imports import new_task
from cumulet.image.logic.limits import Limits
from cumulet.image.models import METADATA, images, sagas, tasks
from cumulet.image.policy import RULES
from cumulet.image.sagas import ALL, COPY, IMPORT, LOCATE
from cumulet.image.sagas.params import Copy, Import, Locate
from cumulet.image.sagas.work import Tracked
from cumulet.image.store import make_stores
from cumulet.image.store.file import FileStore
from cumulet.image.web import Web
from cumulet.kernel import clock, context, ids
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.policy import Policy
from cumulet.kernel.pools import Pool
from cumulet.kernel.saga import Failed, Run, Saga, SagaEngine
from cumulet.kernel.saga.engine import Hooks
from cumulet.kernel.saga.soundness import assert_sound
from cumulet.kernel.secrets import Seal
from tests.contract.image.lone import PlayedIdentity
from tests.services.image.web import LOOPBACK, Site, site

CALLER = Context(request_id="req-1", user_id="u", project_id="p", roles=["admin", "member"])
DATA = b"disk" * 50_000
DIGEST = hashlib.sha512(DATA).hexdigest()


class Stage:
    """An image service without its API, an image, and one saga to run on it."""

    def __init__(self, image: Image, web: Site) -> None:
        self.image, self.web = image, web
        self.image_id = ids.new_uuid()
        self.saga: Saga = IMPORT
        self.params: Any = None
        self.status = "queued"
        """What a clean world shows of the image."""
        self.files_before: list[str] = []

    async def prepare(self, status: str, task_type: str, **more: Any) -> str:
        """The image's record and the task that works on it; returns the task's id."""
        now = clock.now()
        task = new_task(task_type, CALLER, self.image_id, {})
        row = {
            "id": self.image_id, "name": "n", "status": status, "visibility": "shared", "owner": "p",
            "protected": False, "os_hidden": False, "container_format": "bare", "disk_format": "raw", "min_disk": 0,
            "min_ram": 0, "created_at": now, "updated_at": now, "task_id": task["id"], **more,
        }  # fmt: skip

        async def body(tx: Transaction) -> None:
            await tx.insert(images, row)
            await tx.insert(tasks, task)

        await self.image.database.run(body)
        self.task_id = str(task["id"])
        return self.task_id

    async def put(self, store: Any, key: str) -> None:
        writer = await store.write(key)
        writer.write(DATA)
        await writer.commit()

    async def record(self) -> Row:
        row = await self.image.database.first(select(images).where(images.c.id == self.image_id))
        assert row is not None
        await image_logic.decorate(self.image, self.image.database, [row])
        return row

    async def files(self) -> list[str]:
        stores = {"staging": self.image.staging, **{p.id: p.store for p in self.image.stores.values()}}
        return [f"{name}/{key}" for name, store in stores.items() for key in await store.list()]

    async def task(self) -> Row:
        row = await self.image.database.first(select(tasks).where(tasks.c.id == self.task_id))
        assert row is not None
        return row

    # ---- what the harness asks

    def engine(self, hooks: Hooks) -> SagaEngine:
        self.image.engine = SagaEngine(
            self.image.database, sagas, ALL, world=self.image, seal=Seal("k"), component="image-api", sole=True,
            hooks=hooks,
        )  # fmt: skip
        return self.image.engine

    async def begin(self, engine: SagaEngine) -> str:
        return await self.image.database.run(
            lambda tx: engine.start_saga(tx, self.saga.name, subject=self.image_id, params=self.params)
        )

    async def cancel(self, engine: SagaEngine, saga_id: str) -> None:
        await image_logic.remove(self.image, await self.record())

    async def assert_finished(self) -> None:
        row, task = await self.record(), await self.task()
        assert (row["status"], row["task_id"], task["status"]) == ("active", None, "success"), (row, task)
        assert (row["size"], row["os_hash_value"]) == (len(DATA), DIGEST)
        own = [one for one in row["locations"] if one["store"] != "web"]
        assert await self.files() == sorted(f"{one['store']}/{one['key']}" for one in own)
        for one in own:
            reader = await self.image.stores[one["store"]].store.read(one["key"])
            assert b"".join([piece async for piece in reader]) == DATA
        assert len(row["locations"]) == {IMPORT.name: 2, COPY.name: 2, LOCATE.name: 1}[self.saga.name]

    async def assert_clean(self) -> None:
        row, task = await self.record(), await self.task()
        assert task["status"] == "failure", task
        assert row["task_id"] is None
        assert row["status"] in (self.status, "deleted")
        await loops.drop_orphans(self.image)
        kept = self.files_before if row["status"] == "active" else []
        assert await self.files() == kept


def stages(
    folder: Path, web: Site, setting: Callable[[Stage], Awaitable[None]], **settings: Any
) -> Callable[[], AbstractAsyncContextManager[Stage]]:
    counter = itertools.count()

    @asynccontextmanager
    async def make() -> AsyncIterator[Stage]:
        home = folder / str(next(counter))
        home.mkdir()
        database, pool = SqliteDatabase(home / "image.db", inline=True), Pool("t", 0)
        await ensure_schema(database, METADATA, None)
        stores = [StoreConfig("a"), StoreConfig("b"), StoreConfig("web", "web")]
        config = msgspec.convert({**LOOPBACK, **settings}, ImageConfig)
        config.stores = stores
        rules = Web(config)
        identity = PlayedIdentity()
        session = ServiceSession(lambda type_: identity, "image", "")
        image = Image(
            database=database, config=config, policy=Policy(RULES), stores=make_stores(config, home, pool, pool, rules),
            staging=FileStore(home / "staging", pool), cached=FileStore(home / "cache", pool), pool=pool, web=rules,
            session=session, limits=Limits(session, config),
        )  # fmt: skip
        for store in (image.staging, image.cached, *(place.store for place in image.stores.values())):
            await store.open()
        stage = Stage(image, web)
        context.use(CALLER)
        await setting(stage)
        stage.files_before = await stage.files()
        yield stage
        await database.close()

    return make


def _import(stage: Stage, task_id: str, method: str, staged_key: str, **more: Any) -> Import:
    return Import(
        image_id=stage.image_id, task_id=task_id, method=method, stores=["a", "b"], must_all=True,
        key=f"data-{ids.new_uuid()}", staged_key=staged_key, converted_key=f"data-{ids.new_uuid()}", **more,
    )  # fmt: skip


async def _staged(stage: Stage) -> None:
    key = f"data-{ids.new_uuid()}"
    await stage.put(stage.image.staging, key)
    task_id = await stage.prepare("importing", "api_image_import", staged_key=key)
    stage.params = _import(stage, task_id, "glance-direct", key)


async def _web(stage: Stage) -> None:
    stage.web.files["/disk"] = DATA
    task_id = await stage.prepare("importing", "api_image_import")
    stage.params = _import(stage, task_id, "web-download", f"data-{ids.new_uuid()}", url=f"{stage.web.url}/disk")


async def _old_task(stage: Stage) -> None:
    await _web(stage)
    stage.params = msgspec.structs.replace(stage.params, ends_image=True)
    stage.status = "deleted"


async def _copied(stage: Stage) -> None:
    key = f"data-{ids.new_uuid()}"
    await stage.put(stage.image.stores["a"].store, key)
    facts = {"size": len(DATA), "os_hash_algo": "sha512", "os_hash_value": DIGEST}
    task_id = await stage.prepare("active", "api_image_import", **facts)
    located = [{"store": "a", "key": key, "details": {}}]
    await stage.image.database.run(lambda tx: image_logic.write_locations(tx, stage.image_id, located))
    stage.saga, stage.status = COPY, "active"
    stage.params = Copy(stage.image_id, task_id, ["b"], True, f"data-{ids.new_uuid()}")


def _located(digest: str) -> Callable[[Stage], Awaitable[None]]:
    async def setting(stage: Stage) -> None:
        stage.web.files["/disk"] = DATA
        task_id = await stage.prepare("importing", "location_import")
        stage.saga = LOCATE
        stage.params = Locate(stage.image_id, task_id, "web", f"{stage.web.url}/disk", "sha512", digest, True)

    return setting


@pytest.mark.parametrize(
    ("saga", "setting"),
    [(IMPORT, _web), (COPY, _copied), (LOCATE, _located(DIGEST))],
    ids=["import", "copy", "location"],
)
async def test_sound(tmp_path: Path, saga: Saga, setting: Callable[[Stage], Awaitable[None]]) -> None:
    async with site() as web:
        titles = await assert_sound(saga, stages(tmp_path, web, setting))
    assert len(titles) > 8 * len(saga.steps)


class Quiet:
    """Hooks that do nothing."""

    async def before(self, *_: Any) -> None: ...

    worked = committed = before


async def _run(stage: Stage) -> None:
    """Drive the stage's saga to its end, moving a fake clock over its waits."""
    fake = clock.FakeClock()
    clock.use(fake)
    try:
        engine = stage.engine(Quiet())
        await stage.begin(engine)
        for _ in range(100):
            await engine.settle()
            row = await stage.image.database.first(select(sagas))
            assert row is not None
            if row["state"] != "ready":
                return
            await fake.advance(max(row["wake_at"] - fake.now(), 0.05))
        raise AssertionError("the saga did not end")
    finally:
        clock.use(clock.SystemClock())


async def test_a_broken_download_is_gone_on_with(tmp_path: Path) -> None:
    async with site() as web, stages(tmp_path, web, _web)() as stage:
        web.break_after = [0, 70_000, 30_000]  # the first is the look
        await _run(stage)
        await stage.assert_finished()
        ranges = [wanted for _, wanted in web.asked]
        assert ranges == [None, None, "bytes=70000-", "bytes=100000-"]


async def test_a_file_that_changed_meanwhile_is_fetched_anew(tmp_path: Path) -> None:
    async with site() as web, stages(tmp_path, web, _web)() as stage:

        class Changing(list[int]):
            def pop(self, index: Any = -1) -> int:
                if len(self) == 1:
                    web.etag = '"2"'
                return super().pop(index)

        web.break_after = Changing([0, 70_000])
        await _run(stage)
        await stage.assert_finished()
        assert [wanted for _, wanted in web.asked] == [None, None, "bytes=70000-"]


async def test_a_download_that_breaks_for_ever_fails(tmp_path: Path) -> None:
    async with site() as web, stages(tmp_path, web, _web)() as stage:
        web.break_after = [0] * 50
        await _run(stage)
        await stage.assert_clean()
        assert "could not be fetched" in (await stage.task())["message"]


async def test_content_that_is_not_what_was_declared_fails(tmp_path: Path) -> None:
    async with site() as web, stages(tmp_path, web, _web)() as stage:
        await stage.image.database.run(lambda tx: tx.run(images.update().values(disk_format="qcow2")))
        await _run(stage)
        await stage.assert_clean()
        assert "does not match" in (await stage.task())["message"]
        assert (await stage.record())["failed"] == "a,b"


async def test_a_store_may_fail_when_not_all_must_succeed(tmp_path: Path) -> None:
    async with site() as web, stages(tmp_path, web, _web)() as stage:
        stage.params = msgspec.structs.replace(stage.params, must_all=False)
        (tmp_path / "0" / "store-a").rmdir()
        await _run(stage)
        row = await stage.record()
        assert (row["status"], row["failed"]) == ("active", "a")
        assert [one["store"] for one in row["locations"]] == ["b"]


async def test_too_much_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    async with site() as web, stages(tmp_path, web, _web, size_cap_bytes=1000)() as stage:
        await _run(stage)
        await stage.assert_clean()
        assert "too large" in (await stage.task())["message"]
        assert len(web.asked) == 1


async def test_orphans_are_found_and_what_is_held_is_kept(tmp_path: Path) -> None:
    async with site() as web, stages(tmp_path, web, _copied)() as stage:
        held = await stage.files()
        for store in (stage.image.staging, stage.image.stores["a"].store, stage.image.stores["b"].store):
            await stage.put(store, f"data-{ids.new_uuid()}")
        await loops.drop_orphans(stage.image)
        assert await stage.files() == held


@pytest.mark.parametrize("setting", [_staged, _old_task, _located("")], ids=["staged", "old-task", "location-learnt"])
async def test_the_other_ways(tmp_path: Path, setting: Callable[[Stage], Awaitable[None]]) -> None:
    async with site() as web, stages(tmp_path, web, setting)() as stage:
        await _run(stage)
        await stage.assert_finished()


@pytest.mark.parametrize("setting", [_staged, _old_task], ids=["staged", "old-task"])
async def test_the_other_ways_fail(tmp_path: Path, setting: Callable[[Stage], Awaitable[None]]) -> None:
    async with site() as web, stages(tmp_path, web, setting)() as stage:
        await stage.image.database.run(lambda tx: tx.run(images.update().values(disk_format="vmdk")))
        await _run(stage)
        await stage.assert_clean()
        assert (await stage.record())["status"] == stage.status


async def test_data_that_can_not_be_read_later_leaves_an_image_without_digests(tmp_path: Path) -> None:
    async with site() as web, stages(tmp_path, web, _located(""))() as stage:
        web.break_after = [10]
        await _run(stage)
        row = await stage.record()
        assert (row["status"], row["os_hash_algo"], row["os_hash_value"]) == ("active", None, None)
        assert (await stage.task())["status"] == "success"


@pytest.mark.parametrize(("declared", "target"), [("qcow2", "raw"), ("raw", "qcow2")])
async def test_conversion(tmp_path: Path, declared: str, target: str) -> None:
    async with site() as web, stages(tmp_path, web, _web, convert_to=target)() as stage:
        raw, disk = tmp_path / "raw", tmp_path / "disk"
        raw.write_bytes(DATA.ljust(1024 * 1024, b"\0"))
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", declared, str(raw), str(disk)], check=True)
        web.files["/disk"] = disk.read_bytes()
        await stage.image.database.run(lambda tx: tx.run(images.update().values(disk_format=declared)))
        await _run(stage)
        row = await stage.record()
        assert (row["status"], row["disk_format"], row["virtual_size"]) == ("active", target, 1024 * 1024)
        reader = await stage.image.stores["b"].store.read(row["locations"][1]["key"])
        stored = tmp_path / "stored"
        stored.write_bytes(b"".join([piece async for piece in reader]))
        assert row["os_hash_value"] == hashlib.sha512(stored.read_bytes()).hexdigest()
        back = tmp_path / "back"
        subprocess.run(["qemu-img", "convert", "-f", target, "-O", "raw", str(stored), str(back)], check=True)
        assert back.read_bytes() == raw.read_bytes()
        assert await stage.files() == [f"{name}/{row['locations'][0]['key']}" for name in ("a", "b")]


async def test_a_conversion_is_held_short(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(os.urandom(4 * 1024 * 1024))
    bounds: dict[str, Any] = {"memory_bytes": 1024**3, "seconds": 60.0, "size_cap_bytes": 1024**3}
    for short in ({"size_cap_bytes": 1024 * 1024}, {"memory_bytes": 4 * 1024 * 1024}, {"seconds": 0.001}):
        with pytest.raises(ConvertError):
            await convert(source, "raw", target, "qcow2", **{**bounds, **short})
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    base, backed = tmp_path / "base", tmp_path / "backed"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "1M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(backed)], check=True)
    with pytest.raises(ConvertError, match="another file"):
        await convert(backed, "qcow2", target, "raw", **bounds)
    await convert(source, "raw", target, "qcow2", **bounds)
    assert target.read_bytes()[:4] == b"QFI\xfb"


async def test_the_progress_is_told_and_a_deleted_image_ends_it(tmp_path: Path) -> None:
    class Zeros:
        async def read(self, size: int = -1) -> bytes:
            return bytes(1024 * 1024)

    async with site() as web, stages(tmp_path, web, _web)() as stage:
        run = Run("s", "image.import", stage.image_id, stage.params, stage.image, 1, 1)
        fake = clock.FakeClock()
        clock.use(fake)
        try:
            source = Tracked(run, Zeros())
            for _ in range(3):
                await source.read()
            assert (await stage.task())["message"] == ""
            await fake.advance(2.0)
            await source.read()
            task = await stage.task()
            assert (task["status"], task["message"]) == ("processing", "Copied 4 MiB")
            stage.engine(Quiet())
            await image_logic.remove(stage.image, await stage.record())
            await fake.advance(2.0)
            with pytest.raises(Failed, match="deleted"):
                await source.read()
        finally:
            clock.use(clock.SystemClock())

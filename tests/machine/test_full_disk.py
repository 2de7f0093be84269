# SPDX-License-Identifier: Apache-2.0
"""A disk that is really full (ENOSPC), under each place where a cloud keeps something.

Invariant: whoever needs room is told so in words (503, 413 or ERROR), whoever does not goes on, nothing is corrupt or
left over, and all goes on by itself once there is room.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, LargeBinary, MetaData, Table, func, select

from cumulet.assembly.machine import check_machine
from cumulet.cli.chaos.loopback import free_ports
from cumulet.kernel.db import Transaction
from cumulet.kernel.db.schema import ensure_schema
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.errors import Unavailable
from tests.cloud import Reply, TestCloud, running_cloud

pytestmark = [
    pytest.mark.machine,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system"),
]
MIB = 1 << 20
WITHIN = 120.0


class Disk:
    """A small file system."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave not a byte."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (MIB, 4096):
                with pytest.raises(OSError, match="No space left on device"):  # noqa: PT012 - one of many writes
                    while True:
                        file.write(bytes(size))

    def make_room(self) -> None:
        self._ballast.unlink()


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Disk]:
    """A file system of ``mib`` MiB over ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "cumulet-test", str(folder)], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class User:
    """Somebody who is in the way of a full disk."""

    def __init__(self, cloud: TestCloud, token: str, admin: str) -> None:
        self.cloud, self.token, self.admin = cloud, token, admin

    async def ask(self, method: str, path: str, document: Any = None, **more: Any) -> Reply:
        return await self.cloud.request(method, path, document, token=self.token, **more)

    async def until(self, path: str, member: str, *wanted: str) -> dict[str, Any]:
        """A resource once it has one of these states."""
        deadline = time.monotonic() + WITHIN
        while True:
            reply = await self.ask("GET", path)
            assert reply.status == 200, reply.data
            shown: dict[str, Any] = reply.json[member] if member else reply.json
            if shown["status"] in wanted:
                return shown
            assert time.monotonic() < deadline, shown
            await asyncio.sleep(0.05)

    async def image(self, mib: int) -> tuple[str, Reply]:
        """A raw image of that size, and what became of its upload."""
        body = {"name": "big", "disk_format": "raw", "container_format": "bare"}
        made = (await self.ask("POST", "/image/v2/images", body)).json
        reply = await self.upload(made["id"], mib)
        return made["id"], reply

    async def upload(self, image_id: str, mib: int) -> Reply:
        headers = {"content-type": "application/octet-stream"}
        return await self.ask("PUT", f"/image/v2/images/{image_id}/file", headers=headers, body=bytes(mib * MIB))

    async def server(self, image_id: str) -> str:
        body = {"name": "s", "imageRef": image_id, "flavorRef": "42", "networks": "none"}
        headers = {"openstack-api-version": "compute 2.90"}
        reply = await self.ask("POST", "/compute/v2.1/servers", {"server": body}, headers=headers)
        assert reply.status == 202, reply.data
        return f"/compute/v2.1/servers/{reply.json['server']['id']}"

    async def clean(self) -> None:
        """What `cumulet check` says, after the reconcilers had a while."""
        deadline = time.monotonic() + WITHIN
        while True:
            verdict = (await self.cloud.request("GET", "/cumulet/v1/check", token=self.admin)).json
            if verdict["clean"]:
                return
            assert time.monotonic() < deadline, verdict
            await asyncio.sleep(0.5)


@asynccontextmanager
async def cloud_in(data: Path, **settings: Any) -> AsyncIterator[User]:
    async with running_cloud(data, settings=settings, options={"volume_driver": "file"}) as cloud:
        yield User(cloud, await cloud.login("demo"), await cloud.login("admin"))


async def first_refused(ask: Callable[[int], Awaitable[Reply]]) -> Reply:
    """Go on until the disk is really needed: what is there already is written over first."""
    for number in range(2000):
        reply = await ask(number)
        if reply.status >= 400:
            return reply
    raise AssertionError("the disk was never full")


async def test_all_that_share_a_commit_are_told(tmp_path: Path) -> None:
    """Each of a group of transactions fails when their one commit does, none is half there, readers go on."""
    metadata = MetaData()
    rows = Table("rows", metadata, Column("id", Integer, primary_key=True), Column("data", LargeBinary))
    with small_disk(tmp_path / "disk", 8) as disk:
        database = SqliteDatabase(tmp_path / "disk" / "x.db")
        await ensure_schema(database, metadata, None)

        async def add(number: int) -> None:
            async def body(tx: Transaction) -> None:
                await tx.insert(rows, {"id": number, "data": bytes(20_000)})

            await database.run(body)

        async def count() -> int:
            found = await database.first(select(func.count().label("n")).select_from(rows))
            return int(found["n"]) if found else 0

        await add(0)
        disk.fill()
        told = await asyncio.gather(*(add(number) for number in range(1, 200)), return_exceptions=True)
        kept = 1 + told.count(None)
        refused = [one for one in told if one is not None]
        assert len(refused) > 100
        assert all(isinstance(one, Unavailable) for one in refused), refused[:3]
        assert str(refused[0]) == "The database can't take the change: database or disk is full."
        assert await count() == kept, "who was told that it is kept, is kept, and nobody else"
        disk.make_room()
        await add(1000)
        assert await count() == kept + 1
        await database.close()
        with sqlite3.connect(tmp_path / "disk" / "x.db") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_databases(tmp_path: Path) -> None:
    """Reads go on, changes answer 503 with the reason, a saga in flight waits; then all goes on."""
    data = tmp_path / "data"
    with small_disk(data, 64) as disk:
        async with cloud_in(data) as user:
            image, uploaded = await user.image(1)
            assert uploaded.status == 204
            disk.fill()

            async def name_key(number: int) -> Reply:
                return await user.ask("POST", "/compute/v2.1/os-keypairs", {"keypair": {"name": f"k{number}"}})

            reply = await first_refused(name_key)
            assert reply.status == 503, reply.data
            assert "The database can't take the change: database or disk is full." in reply.data.decode()
            for path in ("/compute/v2.1/os-keypairs", "/image/v2/images", "/network/v2.0/networks", "/identity/v3/"):
                assert (await user.ask("GET", path)).status == 200, path

            async def boot(number: int) -> Reply:
                body = {"name": "s", "imageRef": image, "flavorRef": "42", "networks": "none"}
                headers = {"openstack-api-version": "compute 2.90"}
                return await user.ask("POST", "/compute/v2.1/servers", {"server": body}, headers=headers)

            reply = await first_refused(boot)
            assert reply.status == 503, reply.data
            user.cloud.cloud.health.forget()
            status, told = await user.cloud.cloud.health.answer("/readyz")
            assert (status, told["warnings"]) == (200, [f"disk of {data}: full"]), "who reads is served"
            assert [check.problem for check in check_machine(data) if check.name == "disk space"] == [
                f"0.0 GiB free in {data}, at least 2 GiB are needed"
            ]
            disk.make_room()
            servers = (await user.ask("GET", "/compute/v2.1/servers")).json["servers"]
            where = await user.server(image)
            for one in [where, *(f"/compute/v2.1/servers/{server['id']}" for server in servers)]:
                await user.until(one, "server", "ACTIVE")
            await user.clean()
            user.cloud.cloud.health.forget()
            status, told = await user.cloud.cloud.health.answer("/readyz")
            assert (status, told["warnings"]) == (200, [])
        for file in data.glob("*.db"):
            with sqlite3.connect(file) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), file


async def test_image_store(tmp_path: Path) -> None:
    """An upload that does not fit is refused as published; the image waits for another try and nothing is left."""
    data = tmp_path / "data"
    with small_disk(data / "image", 8):
        async with cloud_in(data) as user:
            image, reply = await user.image(16)
            assert (reply.status, "Image storage media is full" in reply.data.decode()) == (413, True)
            shown = (await user.ask("GET", f"/image/v2/images/{image}")).json
            assert (shown["status"], shown["size"]) == ("queued", None)
            assert [path for path in (data / "image").rglob("*") if path.is_file()] == []
            assert (await user.upload(image, 2)).status == 204
            assert (await user.ask("GET", f"/image/v2/images/{image}")).json["status"] == "active"
            await user.clean()


async def test_image_cache(tmp_path: Path) -> None:
    """A host that can't keep the image says so in the server's fault; once there is room, it can."""
    data = tmp_path / "data"
    with small_disk(data / "hosts" / "node-1" / "images", 8) as disk:
        async with cloud_in(data) as user:
            image, reply = await user.image(4)
            assert reply.status == 204
            disk.fill()
            where = await user.server(image)
            fault = (await user.until(where, "server", "ERROR"))["fault"]
            assert "The image can't be kept on this host: No space left on device." in fault["message"], fault
            assert sorted(path.name for path in (data / "hosts" / "node-1" / "images").iterdir()) == ["ballast"]
            await user.clean()
            disk.make_room()
            await user.until(await user.server(image), "server", "ACTIVE")
            assert (await user.ask("DELETE", where)).status == 204
            await user.clean()


async def test_volume_back_end(tmp_path: Path) -> None:
    """A volume that finds no room ends in error, and why is told; the next one is made when there is some."""
    data = tmp_path / "data"
    with small_disk(data / "volume" / "node-1", 8) as disk:
        async with cloud_in(
            data, volume={"over_subscription": 10_000.0, "report_seconds": 0.3, "quota_volumes": -1}
        ) as user:
            image = data / "full.raw"
            image.write_bytes(os.urandom(4 * MIB))
            body = {"name": "noise", "disk_format": "raw", "container_format": "bare"}
            made = (await user.ask("POST", "/image/v2/images", body)).json["id"]
            headers = {"content-type": "application/octet-stream"}
            path = f"/image/v2/images/{made}/file"
            reply = await user.ask("PUT", path, headers=headers, body=image.read_bytes())
            assert reply.status == 204

            async def volume() -> str:
                body = {"volume": {"size": 1, "imageRef": made}}
                reply = await user.ask("POST", "/volume/v3/volumes", body)
                assert reply.status == 202, reply.data
                return f"/volume/v3/volumes/{reply.json['volume']['id']}"

            async def reason(where: str, token: str) -> str:
                path = f"/volume/v3/cumulet/volumes/{where.rpartition('/')[2]}/why"
                told: str = (await user.cloud.request("GET", path, token=token)).json["reason"]
                return told

            disk.fill()
            where = await volume()
            await user.until(where, "volume", "error")
            told = await reason(where, user.admin)
            # the agent found out, or had reported it already
            assert "node-1@file: The back end is full." in told or "node-1@file has" in told, told
            told = await reason(where, user.token)
            assert "node-1" not in told, "hosts have no names for users"
            assert "a back end" in told
            assert [path.name for path in (data / "volume" / "node-1").iterdir()] == ["ballast"]
            await user.clean()
            disk.make_room()
            deadline = time.monotonic() + WITHIN
            while (await user.until(await volume(), "volume", "available", "error"))["status"] == "error":
                assert time.monotonic() < deadline, "no report told of the room"
                await asyncio.sleep(0.1)
            assert (await user.ask("DELETE", where)).status == 202
            await user.clean()


def test_a_whole_process(tmp_path: Path) -> None:
    """Start, log and stop with a full disk; a start that needs room says so and leaves nothing broken."""
    data = tmp_path / "data"
    with small_disk(data, 64) as disk:

        def cumulet(*words: str) -> subprocess.CompletedProcess[str]:
            argv = [sys.executable, "-m", "cumulet.cli", words[0], "--data", str(data), *words[1:]]
            return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)

        start = ("up", "--hypervisor", "simulated", "--port", str(free_ports(1)[0]), "--name", "node-1", "--detach")
        disk.fill()
        refused = cumulet(*start)
        assert refused.returncode == 1, refused
        assert "the disk is full (0 B free); make room" in refused.stderr
        assert "Traceback" not in refused.stderr
        disk.make_room()
        try:
            assert (started := cumulet(*start)).returncode == 0, started.stderr
            log = data / "cumulet.log"
            assert cumulet("check", "--wait", "60").returncode == 0
            disk.fill()
            assert (shown := cumulet("status")).returncode == 0, shown
            told = cumulet("check", "--json")
            assert told.returncode == 0, told.stdout
            disk.make_room()
            written = log.stat().st_size
            assert cumulet("check").returncode == 0
            assert log.stat().st_size > written, "the log goes on"
            assert cumulet("down").returncode == 0
            disk.fill()
            assert cumulet(*start).returncode == 1
            disk.make_room()
            assert cumulet(*start).returncode == 0
            assert cumulet("check", "--wait", "30").returncode == 0
        finally:
            cumulet("down")

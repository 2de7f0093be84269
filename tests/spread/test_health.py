# SPDX-License-Identifier: Apache-2.0
"""What is wrong is said in words that name the thing, and a database that comes back is used again."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from cumulet.assembly.build import build
from cumulet.assembly.health import READY
from cumulet.assembly.space import almost_full
from cumulet.cli.chaos.loopback import free_ports
from cumulet.kernel.settings import Settings
from tests.cloud import new_database


class PlayedBus:
    """A bus that lost its broker."""

    problem: str | None = "the message broker can't be reached"


async def test_other_services_and_the_bus(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    settings = {"cloud": {"endpoints": {"identity": f"{nobody}/identity", "image": [f"{nobody}/image"]}}}
    cloud = await build(
        Settings(settings, environ={}), tmp_path, host="h", roles=["placement-api"], packages=["placement"]
    )
    try:
        status, told = await cloud.health.answer("/readyz")
        assert (status, told["problems"][0], told["roles"]) == (503, "starting", ["placement-api"])
        cloud.health.state = READY
        status, told = await cloud.health.answer("/readyz")
        assert status == 503, "nothing can be done without identity"
        assert told["problems"][0].startswith("identity: The identity service is not available: Cannot connect")
        assert told["warnings"][0].startswith("image: The image service is not available")
        assert (await cloud.health.answer("/healthz"))[0] == 200, "it lives, whoever else does not"
        whole, cloud.bus = cloud.bus, PlayedBus()  # type: ignore[assignment]
        cloud.health.forget()
        assert "bus: the message broker can't be reached" in (await cloud.health.look())["problems"]
        cloud.bus = whole
    finally:
        await cloud.stop()


async def test_a_disk_that_hangs_is_waited_for_beside_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other service answers only once the disk is looked at, and the disk only once the service was asked."""
    asked, looked = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def disk(*_: object) -> list[str]:
        loop.call_soon_threadsafe(looked.set)
        return [] if asked.wait(30) else ["disk: nobody asked meanwhile"]

    async def answer(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.wait_for(looked.wait(), 120)
        return web.Response(text="{}")

    monkeypatch.setattr("cumulet.assembly.health._PATIENCE", 60.0)
    monkeypatch.setattr("cumulet.assembly.health.almost_full", disk)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = {"cloud": {"endpoints": {"image": f"http://127.0.0.1:{runner.addresses[0][1]}/image"}}}
    cloud = await build(Settings(settings, environ={}), tmp_path, host="h", packages=["identity"])
    try:
        assert (await cloud.health.look())["warnings"] == []
    finally:
        await cloud.stop()
        await runner.cleanup()


@pytest.mark.postgres
async def test_a_database_that_goes_and_comes_back(tmp_path: Path, postgres: str) -> None:
    async with new_database(postgres) as dsn:
        cloud = await build(
            Settings({"cloud": {"database": dsn}}, environ={}), tmp_path, host="h", roles=["placement-api"],
            packages=["placement"],
        )  # fmt: skip
        cloud.health.state = READY
        admin = await asyncpg.connect(postgres)
        name = dsn.split("?")[0].rpartition("/")[2]
        try:
            assert (await cloud.health.answer("/readyz"))[0] == 200
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            await asyncio.sleep(0)
            cloud.health.forget()
            status, told = await cloud.health.answer("/readyz")
            assert status == 503
            assert told["problems"][0].startswith("database of placement: The database can't be reached")
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            deadline = time.monotonic() + 60
            while (await cloud.health.answer("/readyz"))[0] != 200:
                assert time.monotonic() < deadline
                cloud.health.forget()
        finally:
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await admin.close()
            await cloud.stop()


def test_a_disk_that_is_almost_full_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "image" / "cache").mkdir(parents=True)
    assert almost_full(tmp_path, 0.0) == []
    (told,) = almost_full(tmp_path, 101.0)
    assert re.fullmatch(rf"disk of {re.escape(str(tmp_path))}: [0-9.e+]+ [KMGT]?i?B \([0-9.]+ %\) free", told)

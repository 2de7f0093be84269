# SPDX-License-Identifier: Apache-2.0
"""A whole simulated cloud behind a real socket, in a thread of its own: what the command talks to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cumulet.assembly.build import Cloud
from cumulet.cli import main
from cumulet.cli.clouds import write_clouds
from cumulet.cli.session import Place, Session
from cumulet.compute.drivers.simulated import Knobs
from tests.cloud import PASSWORD, running_cloud
from tests.contract.insight.serving import served

# long enough to be watched; too small for the largest flavor
MACHINE = Knobs(memory_mib=8192, latency={"ensure_running": 0.4})
PACKAGES = ["image", "placement", "network", "compute", "insight"]


@dataclass
class Served:
    """The cloud as a user has it: a data directory with clouds.yaml, and the command."""

    data: Path
    url: str
    cloud: Cloud
    loop: asyncio.AbstractEventLoop
    """Where it runs, in a thread of its own."""
    sessions: list[Session] = field(default_factory=list)

    def run(self, *words: str, cloud: str = "cumulet", env: dict[str, str] | None = None) -> Result:
        """``cumulet WORDS`` on this cloud, in 100 columns."""
        settings = {"CUMULET_DATA": str(self.data), "OS_CLOUD": cloud, "COLUMNS": "100", **(env or {})}
        return CliRunner().invoke(main, list(words), env=settings, prog_name="cumulet")

    def said(self, *words: str, **more: Any) -> str:
        """What the command said; it must have succeeded."""
        result = self.run(*words, **more)
        assert result.exit_code == 0, result.output
        return result.stdout

    def session(self, cloud: str = "cumulet") -> Session:
        self.sessions.append(Session(Place(self.data, cloud)))
        return self.sessions[-1]


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("cloud")
    ready: list[str] = []
    clouds: list[Cloud] = []
    begun = threading.Event()
    life: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def live() -> None:
        stop = asyncio.Event()
        life.append((asyncio.get_running_loop(), stop))
        options = {"simulated_knobs": MACHINE}
        async with (
            running_cloud(data, packages=PACKAGES, options=options) as running,
            served(running.cloud.front) as url,
        ):
            write_clouds(data, f"{url}/identity", PASSWORD)
            clouds.append(running.cloud)
            ready.append(url)
            begun.set()
            await stop.wait()

    def work() -> None:
        try:
            asyncio.run(live())
        finally:
            begun.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    assert ready, "the cloud did not start"
    cloud = Served(data, ready[0], clouds[0], life[0][0])
    try:
        yield cloud
    finally:
        for session in cloud.sessions:
            session.close()
        loop, stop = life[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)


@pytest.fixture(scope="package")
def image_id(cloud: Served, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image, brought in by the command itself."""
    path = tmp_path_factory.mktemp("images") / "tiny.img"
    path.write_bytes(b"\0" * 300_000)
    result = cloud.run("image", "import", str(path), "--json")
    assert result.exit_code == 0, result.output
    import json

    told: str = json.loads(result.stdout)["id"]
    return told


@dataclass
class Servers:
    """Makes servers as a user would."""

    cloud: Served
    image_id: str

    def create(self, name: str, flavor: str = "m1.nano", *, wait: bool = True) -> str:
        session = self.cloud.session()
        flavors = session.call("compute", "GET", "/flavors")["flavors"]
        networks = session.call("network", "GET", "/v2.0/networks?name=private")["networks"]
        body = {
            "name": name,
            "imageRef": self.image_id,
            "flavorRef": next(one["id"] for one in flavors if one["name"] == flavor),
            "networks": [{"uuid": networks[0]["id"]}],
        }
        server_id: str = session.call("compute", "POST", "/servers", {"server": body})["server"]["id"]
        while wait and self.status(server_id, session) == "BUILD":
            threading.Event().wait(0.05)
        return server_id

    def status(self, server_id: str, session: Session) -> str:
        told: str = session.call("compute", "GET", f"/servers/{server_id}")["server"]["status"]
        return told


@pytest.fixture(scope="package")
def servers(cloud: Served, image_id: str) -> Servers:
    return Servers(cloud, image_id)

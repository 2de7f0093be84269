# SPDX-License-Identifier: Apache-2.0
"""Machines that become hosts of a spread cloud by `cumulet join`, with no credential but their own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from click.testing import CliRunner

from cumulet.cli import main
from tests.spread.processes import Spread

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit, pytest.mark.asyncio(loop_scope="session")]
WITHIN = 60.0
"""Seconds, generous: what is promised is measured by `make bench`, not on a machine that tests share."""


async def command(cloud: Spread, *words: str) -> Any:
    """What a `cumulet` command tells as JSON."""
    argv = [*words, "--data", str(cloud.folder / "control"), "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, main, argv)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


async def told(cloud: Spread, *words: str) -> str:
    """What a `cumulet` command says when it is refused."""
    argv = [*words, "--data", str(cloud.folder / "control")]
    result = await asyncio.to_thread(CliRunner().invoke, main, argv)
    assert result.exit_code == 1, result.output
    return result.output


async def eventually(ask: Any, wanted: Any = None) -> Any:
    """What a question answers once it is true (or what is wanted)."""
    deadline = time.monotonic() + WITHIN
    while not ((found := await ask()) == wanted if wanted is not None else (found := await ask())):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)
    return found


async def rows(cloud: Spread, path: str, member: str) -> list[dict[str, Any]]:
    reply = await cloud.request("GET", path)
    assert reply.status == 200, reply.data
    found: list[dict[str, Any]] = reply.json[member]
    return found


async def hypervisor(cloud: Spread, name: str) -> dict[str, Any] | None:
    found = await rows(cloud, "/compute/v2.1/os-hypervisors/detail", "hypervisors")
    return next((one for one in found if one["service"]["host"] == name), None)


async def agent(cloud: Spread, name: str) -> dict[str, Any] | None:
    return next(iter(await rows(cloud, f"/network/v2.0/agents?host={name}", "agents")), None)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hosts(spread: Spread) -> AsyncIterator[tuple[str, str]]:
    """Two machines that joined."""
    names = ("joined-1", "joined-2")
    for name in names:
        made = await command(spread, "host", "token")
        spread.join(made["url"], made["token"], name=name)
    for process in spread.processes:
        if process.name in names:
            await process.ready()
    yield names


async def test_a_machine_becomes_a_host(spread: Spread, hosts: tuple[str, str]) -> None:
    for name in hosts:
        shown = await eventually(lambda name=name: hypervisor(spread, name))
        assert shown["state"] == "up"
        assert (await eventually(lambda name=name: agent(spread, name)))["alive"]
    providers = await rows(spread, f"/placement/resource_providers?name={hosts[0]}", "resource_providers")
    assert providers


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def image_of(cloud: Spread, visibility: str = "private") -> str:
    document = {"name": "blank", "disk_format": "raw", "container_format": "bare", "visibility": visibility}
    made = (await cloud.request("POST", "/image/v2/images", document)).json
    octets = {"content-type": "application/octet-stream"}
    reply = await cloud.request("PUT", f"/image/v2/images/{made['id']}/file", body=bytes(1 << 20), headers=octets)
    assert reply.status == 204, reply.data
    identity: str = made["id"]
    return identity


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(spread: Spread, hosts: tuple[str, str]) -> AsyncIterator[dict[str, Any]]:
    """A server on the first joined host, with a network of its own and a volume."""
    flavors = await rows(spread, "/compute/v2.1/flavors", "flavors")
    network = (await spread.request("POST", "/network/v2.0/networks", {"network": {"name": "j"}})).json["network"]
    subnet = {"network_id": network["id"], "cidr": "10.78.0.0/24", "ip_version": 4}
    assert (await spread.request("POST", "/network/v2.0/subnets", {"subnet": subnet})).status == 201
    wanted = {
        "name": "on-joined", "imageRef": await image_of(spread), "networks": [{"uuid": network["id"]}],
        "flavorRef": next(one["id"] for one in flavors if one["name"] == "m1.nano"),
        "availability_zone": f"nova:{hosts[0]}",
    }  # fmt: skip
    reply = await spread.request("POST", "/compute/v2.1/servers", {"server": wanted})
    assert reply.status == 202, reply.data
    yield await spread.settle(f"/compute/v2.1/servers/{reply.json['server']['id']}", "server", ["ACTIVE"])


async def test_a_server_is_built_there(spread: Spread, server: dict[str, Any], hosts: tuple[str, str]) -> None:
    assert server["OS-EXT-SRV-ATTR:host"] == hosts[0]

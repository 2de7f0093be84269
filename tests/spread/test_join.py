# SPDX-License-Identifier: Apache-2.0
"""Machines that become hosts of a spread cloud by `cumulet join`, with no credential but their own."""

from __future__ import annotations

import asyncio
import json
import time
import tomllib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from click.testing import CliRunner

from cumulet.cli import main
from cumulet.compute.rpc import FETCH, HOLDING, Ask, Fetch
from cumulet.kernel.bus import RabbitBus
from cumulet.kernel.errors import Forbidden
from tests.spread.processes import READY_WITHIN, Spread

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit, pytest.mark.asyncio(loop_scope="session")]
WITHIN = 60.0
"""Seconds, generous: what is promised is measured by `make bench`, not on a machine that tests share."""
_BINARY = {"binary": "nova-compute"}


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
    for one in await command(spread, "host", "list"):
        if one["name"] in names:  # the last test here removes them, but may not be among those that ran: a run is split
            await command(spread, "host", "maintenance", one["name"])


async def test_a_machine_becomes_a_host(spread: Spread, hosts: tuple[str, str]) -> None:
    for name in hosts:
        shown = await eventually(lambda name=name: hypervisor(spread, name))
        assert shown["state"] == "up"
        assert (await eventually(lambda name=name: agent(spread, name)))["alive"]
    providers = await rows(spread, f"/placement/resource_providers?name={hosts[0]}", "resource_providers")
    assert providers


async def image_of(cloud: Spread, visibility: str = "private") -> str:
    document = {"name": "blank", "disk_format": "raw", "container_format": "bare", "visibility": visibility}
    made = (await cloud.request("POST", "/image/v2/images", document)).json
    octets = {"content-type": "application/octet-stream"}
    reply = await cloud.request("PUT", f"/image/v2/images/{made['id']}/file", body=bytes(1 << 20), headers=octets)
    assert reply.status == 204, reply.data
    identity: str = made["id"]
    return identity


async def asked(cloud: Spread, **more: Any) -> str:
    """The path of a new server, without a network unless one is named; nobody waited for it."""
    flavors = await rows(cloud, "/compute/v2.1/flavors", "flavors")
    wanted = {
        "name": "on-joined", "imageRef": await image_of(cloud), "networks": "none",
        "flavorRef": next(one["id"] for one in flavors if one["name"] == "m1.nano"), **more,
    }  # fmt: skip
    version = {"openstack-api-version": "compute 2.37"}
    reply = await cloud.request("POST", "/compute/v2.1/servers", {"server": wanted}, headers=version)
    assert reply.status == 202, reply.data
    return f"/compute/v2.1/servers/{reply.json['server']['id']}"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(spread: Spread, hosts: tuple[str, str]) -> AsyncIterator[dict[str, Any]]:
    """A server on the first joined host, with a network of its own and a volume."""
    network = (await spread.request("POST", "/network/v2.0/networks", {"network": {"name": "j"}})).json["network"]
    subnet = {"network_id": network["id"], "cidr": "10.78.0.0/24", "ip_version": 4}
    assert (await spread.request("POST", "/network/v2.0/subnets", {"subnet": subnet})).status == 201
    where = await asked(spread, networks=[{"uuid": network["id"]}], availability_zone=f"nova:{hosts[0]}")
    yield await spread.settle(where, "server", ["ACTIVE"])


async def test_a_server_is_built_there(spread: Spread, server: dict[str, Any], hosts: tuple[str, str]) -> None:
    assert server["OS-EXT-SRV-ATTR:host"] == hosts[0]


async def test_its_volumes_too(spread: Spread, server: dict[str, Any], hosts: tuple[str, str]) -> None:
    """A volume from a private image, made by the host's own credentials; plugged in and out while the server runs."""
    for name in ("host-0", hosts[1]):  # so that it can only be the one
        await command(spread, "host", "maintenance", name)
    try:
        wanted = {"size": 1, "name": "v", "imageRef": await image_of(spread)}
        made = (await spread.request("POST", "/volume/v3/volumes", {"volume": wanted})).json["volume"]
        where = f"/volume/v3/volumes/{made['id']}"
        await spread.settle(where, "volume", ["available"])
    finally:
        for name in ("host-0", hosts[1]):
            await command(spread, "host", "maintenance", name, "--off")
    plugged = f"/compute/v2.1/servers/{server['id']}/os-volume_attachments"
    attached = await spread.request("POST", plugged, {"volumeAttachment": {"volumeId": made["id"]}})
    assert attached.status == 200, attached.data
    await spread.settle(where, "volume", ["in-use"])
    refused = await told(spread, "host", "remove", hosts[0])
    assert server["id"] in refused
    assert made["id"] in refused
    assert (await spread.request("DELETE", f"{plugged}/{made['id']}")).status == 202
    await spread.settle(where, "volume", ["available"])
    assert (await spread.request("DELETE", where)).status == 202
    await spread.gone(where)


async def test_it_holds_no_secret_but_its_own(spread: Spread, server: dict[str, Any], hosts: tuple[str, str]) -> None:
    """Not in its files, which nobody else may read, nor in what the process was started with or logged."""
    own = json.loads((spread.folder / "secrets.json").read_text())
    bus = spread.settings.read_text().split("amqp://")[1].split("@")[0].split(":")[1]
    secrets = {name: value.encode() for name, value in own.items() if name != "cloud_id"}
    secrets |= {"password of the controllers on the bus": bus.encode(), "database": spread.database.encode()}
    assert {"seal", "metadata", "admin_password", "service:compute", "bus_management", "hosts"} <= set(secrets)
    for name in hosts:
        process = next(one for one in spread.processes if one.name == name)
        held = {str(path): path.read_bytes() for path in (spread.folder / name).rglob("*") if path.is_file()}
        held["log"] = process.log.read_bytes()
        held |= {one: Path(f"/proc/{process.popen.pid}/{one}").read_bytes() for one in ("cmdline", "environ")}
        assert {Path(path).name for path in held} >= {"host.toml", "secrets.json"}
        found = [(path, secret) for path, data in held.items() for secret, value in secrets.items() if value in data]
        assert found == []
        for file in ("host.toml", "secrets.json"):
            assert (spread.folder / name / file).stat().st_mode & 0o777 == 0o600
    one, other = (json.loads((spread.folder / name / "secrets.json").read_text()) for name in hosts)
    assert {key for key in one if one[key] == other[key]} == {"cloud_id"}


async def test_its_broker_user_reaches_no_other_host(spread: Spread, hosts: tuple[str, str]) -> None:
    url = tomllib.loads((spread.folder / hosts[0] / "host.toml").read_text())["cloud"]["bus"]
    password = json.loads((spread.folder / hosts[0] / "secrets.json").read_text())["bus"]
    bus = await RabbitBus.connect(url, password=password, timeout=30)

    async def listen(_: Ask) -> None:
        raise AssertionError

    try:
        for other in (hosts[1], "host-0"):
            with pytest.raises(Forbidden):
                await bus.call(HOLDING, Ask(), host=other, timeout=20)
        with pytest.raises(Forbidden, match="can't speak for"):
            await bus.call(FETCH, Fetch("s", 1, hosts[1]), timeout=20)
        with pytest.raises(Forbidden):
            await bus.subscribe({HOLDING: listen}, component="spy", host=hosts[1], own_host=True)
    finally:
        await bus.close()


async def test_a_token_is_good_once(spread: Spread, hosts: tuple[str, str]) -> None:
    made = await command(spread, "host", "token")
    first = spread.join(made["url"], made["token"], "--no-run", name="once")
    assert await first.ended(READY_WITHIN) == 0, first.said()
    second = spread.join(made["url"], made["token"], "--no-run", name="twice")
    assert await second.ended(READY_WITHIN) == 1
    assert "not good here" in second.said()
    assert not (spread.folder / "twice" / "host.toml").exists()
    taken = spread.join(made["url"], (await command(spread, "host", "token"))["token"], "--no-run", name=hosts[0])
    assert await taken.ended(READY_WITHIN) == 1
    await command(spread, "host", "remove", "once")


async def test_it_starts_again_without_a_token(spread: Spread, hosts: tuple[str, str]) -> None:
    process = next(one for one in spread.processes if one.name == hosts[1])
    process.popen.kill()
    await process.ended()
    killed = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    spread.processes.remove(process)
    again = spread.join(name=hosts[1])
    await again.ready()

    async def heard() -> bool:
        shown = await agent(spread, hosts[1])
        return shown is not None and shown["alive"] and shown["heartbeat_timestamp"] > killed

    await eventually(heard)


async def test_nothing_new_is_put_on_a_host_that_rests(spread: Spread, hosts: tuple[str, str]) -> None:
    """With all hosts resting no server finds a place; with one that rests no more, it is there."""

    async def ended(where: str) -> str:
        status: str = (await spread.request("GET", where)).json["server"]["status"]
        return "" if status == "BUILD" else status

    everywhere = [one["name"] for one in await command(spread, "host", "list")]
    assert {"host-0", *hosts} <= set(everywhere)
    for name in everywhere:
        await command(spread, "host", "maintenance", name)
    try:
        nowhere = await asked(spread)
        assert await eventually(lambda: ended(nowhere)) == "ERROR"
        shown = (await spread.request("GET", nowhere)).json["server"]
        assert (shown["OS-EXT-SRV-ATTR:host"], shown["fault"]["message"][:13]) == (None, "No valid host")
        await command(spread, "host", "maintenance", hosts[1], "--off")
        there = await asked(spread)
        assert await eventually(lambda: ended(there)) == "ACTIVE"
        assert (await spread.request("GET", there)).json["server"]["OS-EXT-SRV-ATTR:host"] == hosts[1]
        for where in (nowhere, there):
            assert (await spread.request("DELETE", where)).status == 204
            await spread.gone(where)
    finally:
        for name in everywhere:
            await command(spread, "host", "maintenance", name, "--off")


async def test_maintenance_is_the_published_one(spread: Spread, hosts: tuple[str, str]) -> None:
    shown = await command(spread, "host", "maintenance", hosts[1], "--reason", "new fans")
    assert (shown["maintenance"], shown["reason"]) == (True, "new fans")
    path = f"/compute/v2.1/os-services?host={hosts[1]}"
    (service,) = await rows(spread, path, "services")
    assert (service["status"], service["disabled_reason"]) == ("disabled", "new fans")
    assert (
        await spread.request("PUT", "/compute/v2.1/os-services/enable", {**_BINARY, "host": hosts[1]})
    ).status == 200
    listed = {one["name"]: one for one in await command(spread, "host", "list")}
    assert (listed[hosts[1]]["maintenance"], listed[hosts[1]]["credentials"]) == (False, "own")
    assert listed["host-0"]["credentials"] == "shared"
    assert (await command(spread, "host", "maintenance", hosts[1], "--off"))["maintenance"] is False


async def test_a_host_is_removed(spread: Spread, server: dict[str, Any], hosts: tuple[str, str]) -> None:
    """It is refused while a server is there; then nothing of it is left, its agents end, and the cloud is whole."""
    refused = await told(spread, "host", "remove", hosts[0])
    assert server["id"] in refused
    shown = await hypervisor(spread, hosts[0])
    assert shown is not None
    assert shown["status"] == "enabled"
    where = f"/compute/v2.1/servers/{server['id']}"
    assert (await spread.request("DELETE", where)).status == 204
    await spread.gone(where)
    for name in hosts:
        process = next(one for one in spread.processes if one.name == name)
        await command(spread, "host", "remove", name)
        assert await process.ended(READY_WITHIN) == 1
        assert f"host {name} was removed from the cloud" in process.said()
        assert await hypervisor(spread, name) is None
        assert await agent(spread, name) is None
        assert await rows(spread, f"/placement/resource_providers?name={name}", "resource_providers") == []
        assert await rows(spread, f"/identity/v3/users?name=cumulet-host%2B{name}", "users") == []
        assert await rows(spread, f"/volume/v3/os-services?host={name}", "services") == []
    late = spread.join(name=hosts[0])
    assert await late.ended(READY_WITHIN) == 1
    assert f"host {hosts[0]} was removed from the cloud" in late.said()
    assert {one["name"] for one in await command(spread, "host", "list")} == {"host-0"}
    verdict = (await spread.request("GET", "/cumulet/v1/check")).json
    assert not [one for one in verdict["findings"] if any(name in str(one) for name in hosts)]

# SPDX-License-Identifier: Apache-2.0
"""This release goes on where the one before it was killed, and works with agents that are not upgraded yet."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cumulet.cli.chaos.process import CloudProcess
from cumulet.cli.chaos.scenarios import SCENARIOS, Item, Scenario, Site
from cumulet.cli.chaos.sweep import Swept, clear, judge
from cumulet.cli.chaos.user import User
from cumulet.compute.sagas.create import CREATE_SERVER
from cumulet.compute.sagas.delete import DELETE_SERVER
from cumulet.compute.sagas.volumes import ATTACH_VOLUME
from cumulet.kernel.saga import Saga
from cumulet.network.sagas import ASSOCIATE
from cumulet.volume.sagas import CREATE_VOLUME
from tests.spread import shapes
from tests.spread.previous import ROOT, Previous, previous, running
from tests.spread.processes import AGENTS, Spread
from tests.spread.test_thread import image_of, make

IN_FLIGHT: tuple[tuple[str, Saga], ...] = (
    ("create", CREATE_SERVER),
    ("delete", DELETE_SERVER),
    ("attach", ATTACH_VOLUME),
    ("associate", ASSOCIATE),
    ("make-volume", CREATE_VOLUME),
)
WITHIN = 60.0


@pytest.fixture(scope="module")
def old() -> Previous:
    return previous()


@pytest.fixture(scope="module")
def source(old: Previous, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return old.source(tmp_path_factory.mktemp("previous"))


def points_of(saga: Saga) -> list[str]:
    """Each step before it, and between its work and its commit."""
    return [f"{saga.name} {step.name} do: {phase}" for step in saga.steps for phase in ("before", "worked")]


async def hold(process: CloudProcess, site: Site) -> list[asyncio.Future[Any]]:
    """Begin operations until one stands still at each point of each saga."""
    chosen: list[tuple[Scenario, Item]] = []
    for name, saga in IN_FLIGHT:
        scenario = SCENARIOS[name]
        chosen += [(scenario, await scenario.prepare(site)) for _ in points_of(saga)]
    already = len(process.lines("held"))
    points = [point for _, saga in IN_FLIGHT for point in points_of(saga)]
    process.hold(points)
    acting: list[asyncio.Future[Any]] = [asyncio.ensure_future(scenario.act(site, item)) for scenario, item in chosen]
    still, held = time.monotonic(), 0
    while held < len(points) and time.monotonic() < still + 10:
        await asyncio.sleep(0.05)
        if (now := len(process.lines("held", already))) > held:
            held, still = now, time.monotonic()
    assert held >= 0.8 * len(points), process.lines("held", already)
    return acting


async def test_sagas_of_the_previous_release_end_in_this_one(tmp_path: Path, source: Path) -> None:
    """It is killed with sagas at every step; this one takes over its data directory and ends them all."""
    process = CloudProcess(tmp_path / "cloud", halts=True)
    demo, admin = (User(lambda: process.url, process.data, name) for name in ("demo", "admin"))
    try:
        with running(source):
            await process.start()
        async with demo, admin:
            site = Site(demo, admin)
            await site.open()
            acting = await hold(process, site)
            await process.kill()
            process.hold([])
            await asyncio.gather(*acting, return_exceptions=True)
            with running(ROOT / "src"):
                await process.start()
            found = Swept("upgrade", [])
            await judge(site, found)
            assert (found.unexplained, found.findings) == ([], [])
            assert found.outcomes.get("ERROR", 0) == 0, found.faults
            assert found.outcomes["ACTIVE"] >= len(points_of(CREATE_SERVER)), "what was accepted is there"
            await clear(site, found)
            assert (found.findings, found.leftovers) == ([], [])
    finally:
        await process.kill()


@pytest.mark.postgres
@pytest.mark.rabbit
@pytest.mark.asyncio(loop_scope="session")
async def test_an_agent_of_the_previous_release_on_this_controller(spread: Spread, source: Path) -> None:
    """Its host joins, and a server with a network, a volume and a console is made there and goes again."""
    with running(source):
        agent = spread.run(*AGENTS, name="old-1", data="old-1")
    await agent.ready()
    image = await image_of(spread)
    flavors = (await spread.request("GET", "/compute/v2.1/flavors")).json["flavors"]
    flavor = next(one["id"] for one in flavors if one["name"] == "m1.nano")
    network = await make(spread, "/network/v2.0/networks", "network", {"name": "upgrade"})
    await make(
        spread, "/network/v2.0/subnets", "subnet",
        {"network_id": network["id"], "cidr": "10.78.0.0/24", "ip_version": 4},
    )  # fmt: skip
    deadline = time.monotonic() + WITHIN
    while not await services_of(spread, "old-1"):
        assert time.monotonic() < deadline, agent.said()[-3000:]
        await asyncio.sleep(0.1)
    server = await make(
        spread, "/compute/v2.1/servers", "server",
        {"name": "s", "imageRef": image, "flavorRef": flavor, "networks": [{"uuid": network["id"]}],
         "availability_zone": "nova:old-1"},
    )  # fmt: skip
    where = f"/compute/v2.1/servers/{server['id']}"
    assert (await spread.settle(where, "server", ["ACTIVE"]))["OS-EXT-SRV-ATTR:host"] == "old-1"
    volume = await make(spread, "/volume/v3/volumes", "volume", {"size": 1})
    await spread.settle(f"/volume/v3/volumes/{volume['id']}", "volume", ["available"])
    attached = await spread.request(
        "POST", f"{where}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume["id"]}}
    )
    assert attached.status == 200, attached.data
    await spread.settle(f"/volume/v3/volumes/{volume['id']}", "volume", ["in-use"])
    console = await spread.request("POST", f"{where}/action", {"os-getConsoleOutput": {}})
    assert console.status == 200, console.data
    for action, status in (("os-stop", "SHUTOFF"), ("os-start", "ACTIVE")):
        assert (await spread.request("POST", f"{where}/action", {action: None})).status == 202
        await spread.settle(where, "server", [status])
    assert (await spread.request("DELETE", f"{where}/os-volume_attachments/{volume['id']}")).status == 202
    await spread.settle(f"/volume/v3/volumes/{volume['id']}", "volume", ["available"])
    assert (await spread.request("DELETE", where)).status == 204
    await spread.gone(where)
    assert (await spread.request("DELETE", f"/volume/v3/volumes/{volume['id']}")).status == 202
    await spread.gone(f"/volume/v3/volumes/{volume['id']}")
    # the next tests have this cloud, too, and expect one host
    for service in await services_of(spread, "old-1"):
        body = {"status": "disabled"}
        headers = {"openstack-api-version": "compute 2.53"}
        reply = await spread.request("PUT", f"/compute/v2.1/os-services/{service['id']}", body, headers=headers)
        assert reply.status == 200, reply.data
    body = {"binary": "cinder-volume", "host": "old-1@simulated"}
    assert (await spread.request("PUT", "/volume/v3/os-services/disable", body)).status == 200


async def services_of(cloud: Spread, host: str) -> list[dict[str, Any]]:
    headers = {"openstack-api-version": "compute 2.53"}
    reply = await cloud.request("GET", "/compute/v2.1/os-services?binary=nova-compute", headers=headers)
    return [one for one in reply.json["services"] if one["host"] == host and one["state"] == "up"]


# ---- what may change between two releases


def broken_fields(where: str, before: dict[str, Any] | None, now: dict[str, Any] | None) -> list[str]:
    """What one of two releases can't read of the other's: a field that must be there and is not known there."""
    if before is None or now is None:
        return []
    told = [
        f"{where}.{name}: new, so it needs a default"
        for name, (needed, _) in now.items()
        if needed and name not in before
    ] + [
        f"{where}.{name}: the previous release needs it"
        for name, (needed, _) in before.items()
        if needed and name not in now
    ]
    for name in before.keys() & now.keys():
        told += broken_fields(f"{where}.{name}", before[name][1], now[name][1])
    return told


def broken(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Everything that keeps two releases from working beside each other."""
    told = []
    for name, (request, reply) in before["methods"].items():
        if name not in now["methods"]:
            told.append(f"message {name}: the previous release sends it")
            continue
        told += broken_fields(f"message {name}", request, now["methods"][name][0])
        told += broken_fields(f"answer to {name}", reply, now["methods"][name][1])
    for name, (steps, params) in before["sagas"].items():
        if name not in now["sagas"]:
            told.append(f"saga {name}: may be in flight; keep it beside its new version")
            continue
        if now["sagas"][name][0] != steps:
            told.append(f"saga {name}: its journal names steps by number; other steps need a new version")
        told += [
            one for one in broken_fields(f"saga {name}", params, now["sagas"][name][1]) if one.endswith("a default")
        ]
    return told


def test_what_releases_say_to_each_other(old: Previous, source: Path) -> None:
    """New fields have defaults, needed ones stay, a saga's steps change with its version only."""
    with running(source):
        argv = [sys.executable, shapes.__file__]
        before = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=120).stdout)
    now = shapes.shapes()
    assert len(before["methods"]) > 30
    assert broken(before, now) == [], f"against {old.told or 'itself'}"


def test_a_change_that_breaks_is_named() -> None:
    inner = {"a": [True, None], "b": [False, None]}
    before = {
        "methods": {"m": [inner, None]},
        "sagas": {"s version 1": [["x", "y"], inner], "t version 1": [["x"], {}]},
    }
    assert broken(before, before) == []
    now = {
        "methods": {"m": [{"b": [False, None], "c": [True, None], "d": [False, None]}, None]},
        "sagas": {"s version 1": [["y"], {**inner, "c": [True, None]}], "t version 2": [["x"], {}]},
    }
    assert broken(before, now) == [
        "message m.c: new, so it needs a default",
        "message m.a: the previous release needs it",
        "saga s version 1: its journal names steps by number; other steps need a new version",
        "saga s version 1.c: new, so it needs a default",
        "saga t version 1: may be in flight; keep it beside its new version",
    ]

# SPDX-License-Identifier: Apache-2.0
"""Join tokens, joining, maintenance and removal over HTTP: a whole cloud, and a played management API of a broker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from cumulet.insight.logic import hosts as logic
from cumulet.insight.logic.throttle import Throttle
from cumulet.insight.models import HOSTS, JOIN_TOKENS
from cumulet.kernel import clock
from tests.cloud import Reply, running_cloud
from tests.contract.insight.joining import BASE, CLAIM, SECTION, World, joinable_cloud

pytestmark = pytest.mark.asyncio(loop_scope="session")


def hosts_of(world: World) -> logic.Hosts:
    hosts: logic.Hosts = world.cloud.cloud.services["insight"].roles[0].app.service.hosts
    return hosts


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with joinable_cloud(tmp_path_factory.mktemp("hosts")) as made:
        yield made


async def test_what_a_host_is_told(world: World) -> None:
    made = await world.call("POST", "/join-tokens", {"seconds": 60})
    assert made.status == 201
    assert set(made.json) == {"token", "host", "expires_at"}
    assert made.json["token"].startswith("join-"), "it stands on a command line, where a dash makes an option"
    reply = await world.join(made.json["token"], "told")
    assert reply.status == 201, reply.data
    told = reply.json
    cloud = told["settings"]["cloud"]
    assert cloud["bus"] == "amqps://cumulet-host%2Btold%2Bcloud@mq1.test:5671,mq2.test:5671/cloud"
    assert (cloud["endpoints"], cloud["region"]) == ({"identity": ["http://c.test/identity"]}, "R")
    assert told["settings"]["network"] == SECTION["network"]
    assert (told["host"], told["bus_ca"]) == ("told", "PEM")
    assert set(told["secrets"]) == {"cloud_id", "host", "bus", "metadata:host"}
    assert world.broker.rights["cumulet-host+told+cloud"]["configure"] == "^cumulet/host/told/"
    assert told["secrets"]["bus"] not in json.dumps(world.broker.users), "a password reaches the broker as a hash only"


async def test_it_has_the_role_of_services_and_no_other(world: World) -> None:
    told = (await world.join(await world.token(), "plain")).json
    reply = await world.login("plain", told["secrets"]["host"])
    assert reply.status == 201, reply.data
    assert [role["name"] for role in reply.json["token"]["roles"]] == ["service"]
    token = reply.headers["x-subject-token"]
    assert (await world.call("GET", "/hosts", token=token)).status == 403
    assert (await world.call("POST", "/join-tokens", {}, token=token)).status == 403
    assert (await world.cloud.request("GET", "/identity/v3/users", token=token)).status == 403


async def test_nothing_of_the_cloud_s_own_is_told(world: World) -> None:
    reply = await world.join(await world.token(), "nosy")
    own = json.loads((world.cloud.cloud.data / "secrets.json").read_text())
    leaked = [name for name, value in own.items() if name != "cloud_id" and value.encode() in reply.data]
    assert leaked == []
    assert {"service:compute", "metadata", "seal", "hosts"} <= set(own)


async def test_only_hashes_are_kept(world: World) -> None:
    token, database = await world.token(), hosts_of(world).database
    told = (await world.join(token, "hashed")).json
    rows = [row for table in (HOSTS, JOIN_TOKENS) for row in await database.all(select(table))]
    kept = {str(value) for row in rows for value in row.values()}
    assert kept >= {"hashed", logic.digest(token), logic.digest(CLAIM)}
    for secret in (token, CLAIM, told["secrets"]["host"], told["secrets"]["bus"]):
        assert not [value for value in kept if secret in value]


# ---- tokens


async def test_a_token_is_good_once(world: World) -> None:
    token = await world.token()
    assert (await world.join(token, "first")).status == 201
    again = await world.join(token, "second", "d" * 43)
    unknown = await world.join("u" * 43, "second")
    assert (again.status, again.json) == (403, unknown.json), "nobody learns which tokens there are"
    assert await world.users("second") == []


async def test_the_same_host_may_ask_again(world: World) -> None:
    """Its first answer may be lost: it is told the same; nobody else is."""
    token = await world.token()
    first = await world.join(token, "again")
    assert (await world.join(token, "again")).json == first.json
    assert (await world.join(token, "again", "x" * 43)).status == 403
    assert (await world.join(token, "other")).status == 403


async def test_a_token_expires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token, now = await world.token(seconds=60), clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + 61)
    assert (await world.join(token, "late")).status == 403
    monkeypatch.undo()
    assert (await world.join(token, "late")).status == 201


async def test_a_token_for_one_host(world: World) -> None:
    token = await world.token(host="mine")
    assert (await world.join(token, "yours")).status == 403
    assert (await world.join(token, "mine")).status == 201


async def test_no_token_gives_the_place_of_another(world: World) -> None:
    """Neither of a host that joined nor of one with shared credentials; a token for that very host does."""
    first = (await world.join(await world.token(), "taken")).json
    for name in ("taken", "node-1"):
        token = await world.token()
        reply = await world.join(token, name, "e" * 43)
        assert reply.status == 409, reply.data
        assert f"cumulet host token --for {name}" in reply.json["error"]["message"]
        assert (await world.join(token, f"free-{name}", "e" * 43)).status == 201, "the token was not used up"
    anew = (await world.join(await world.token(host="taken"), "taken", "e" * 43)).json
    assert anew["secrets"]["host"] != first["secrets"]["host"]
    assert (await world.login("taken", first["secrets"]["host"])).status == 401


async def test_two_at_once_do_not_share_a_token(world: World) -> None:
    token = await world.token()
    replies = await asyncio.gather(*(world.join(token, f"race-{n}", str(n) * 43) for n in range(6)))
    assert sorted(reply.status for reply in replies) == [201] + [403] * 5


async def test_two_at_once_do_not_share_a_name(world: World) -> None:
    """Two machines that both have the name of their image: one is the host, with passwords that work."""
    asked = [(await world.token(), str(n) * 43) for n in range(3)]
    replies = await asyncio.gather(*(world.join(token, "twin", claim) for token, claim in asked))
    assert sorted(reply.status for reply in replies) == [201, 409, 409]
    for (token, claim), reply in zip(asked, replies, strict=True):
        if reply.status == 201:
            assert (await world.login("twin", reply.json["secrets"]["host"])).status == 201
        else:
            assert "cumulet host token --for twin" in reply.json["error"]["message"]
            assert (await world.join(token, f"twin-{claim[0]}", claim)).status == 201, "the token was not used up"


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-a", ".*", "a\n", "ä", "a" * 129, "a+b", "x$(y)"])
async def test_hostile_names(world: World, name: str) -> None:
    token = await world.token()
    assert (await world.join(token, name)).status == 400
    assert (await world.call("POST", "/join-tokens", {"host": name})).status == 400
    assert (await world.join(token, f"good-{time.monotonic_ns()}")).status == 201


async def test_who_guesses_is_slowed_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    throttle = Throttle(3)
    monkeypatch.setattr(hosts_of(world), "throttle", throttle)
    statuses = [(await world.join("g" * 43, "guess")).status for _ in range(5)]
    assert statuses == [403, 403, 403, 429, 429]
    reply = await world.join(await world.token(), "guess")
    assert (reply.status, int(reply.headers["retry-after"]) > 0) == (429, True)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/join-tokens", {}), ("GET", "/hosts", None), ("PATCH", "/hosts/node-1", {"maintenance": True}),
        ("DELETE", "/hosts/node-1", None),
    ],
)  # fmt: skip
async def test_hosts_are_for_administrators(world: World, method: str, path: str, body: Any) -> None:
    assert (await world.call(method, path, body, token=await world.cloud.login("demo"))).status == 403
    assert (await world.cloud.request(method, BASE + path, body)).status == 401


# ---- what goes wrong on the way


async def test_a_join_that_broke_is_repeated(world: World) -> None:
    token = await world.token()
    world.broker.broken = True
    try:
        assert (await world.join(token, "broken")).status == 503
    finally:
        world.broker.broken = False
    told = await world.join(token, "broken")
    assert told.status == 201
    assert (await world.login("broken", told.json["secrets"]["host"])).status == 201


async def test_a_join_that_nobody_finishes_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = hosts_of(world)
    token = await world.token(seconds=60)
    world.broker.broken = True
    assert (await world.join(token, "half")).status == 503
    world.broker.broken = False
    assert await world.users("half")
    await hosts.sweep()
    assert await world.users("half"), "its token may still be used"
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + 61)
    await hosts.sweep()
    assert await world.users("half") == []
    assert "half" not in {one["name"] for one in await hosts.listed()}


async def test_a_host_that_came_while_its_end_was_near(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep saw a join that nobody finished; before it undoes that, the host joins."""
    hosts = hosts_of(world)
    world.broker.broken = True
    assert (await world.join(await world.token(seconds=60), "late-comer")).status == 503
    world.broker.broken = False
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + 61)
    token = await world.token(host="late-comer", seconds=600)
    told: list[Reply] = []
    is_known = hosts.records.is_known

    async def meanwhile(host: str) -> bool:
        if host == "late-comer" and not told:
            told.append(await world.join(token, host, "l" * 43))
        return await is_known(host)

    monkeypatch.setattr(hosts.records, "is_known", meanwhile)
    await hosts.sweep()
    assert [reply.status for reply in told] == [201]
    assert (await world.login("late-comer", told[0].json["secrets"]["host"])).status == 201
    shown = await listed(world, "late-comer")
    assert shown is not None
    assert shown["state"] == "joined"


async def test_a_join_that_a_removal_overtook_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = hosts_of(world)
    ensure = hosts.credentials.ensure

    async def late(host: str, claim: str) -> dict[str, Any]:
        monkeypatch.undo()
        assert (await world.call("DELETE", "/hosts/overtaken")).status == 204
        return await ensure(host, claim)

    monkeypatch.setattr(hosts.credentials, "ensure", late)
    reply = await world.join(await world.token(), "overtaken")
    assert (reply.status, "was removed" in reply.json["error"]["message"]) == (409, True)
    assert await world.users("overtaken") == []
    assert "cumulet-host+overtaken+cloud" not in world.broker.users


# ---- maintenance and removal


async def listed(world: World, name: str) -> dict[str, Any] | None:
    found = (await world.call("GET", "/hosts")).json["hosts"]
    return next((one for one in found if one["name"] == name), None)


async def until(ask: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(120):
        while not (found := await ask()):
            await asyncio.sleep(0.02)
    return found


async def test_maintenance_is_the_published_one(world: World) -> None:
    await until(lambda: listed(world, "node-1"))
    reply = await world.call("PATCH", "/hosts/node-1", {"maintenance": True, "reason": "new disks"})
    assert reply.status == 200, reply.data
    assert (reply.json["host"]["maintenance"], reply.json["host"]["reason"]) == (True, "new disks")
    path = "/compute/v2.1/os-services?binary=nova-compute"
    (service,) = (await world.cloud.request("GET", path, token=world.admin)).json["services"]
    assert (service["status"], service["disabled_reason"]) == ("disabled", "new disks")
    volumes = await world.cloud.request("GET", "/volume/v3/os-services?host=node-1", token=world.admin)
    states = {one["binary"]: one["status"] for one in volumes.json["services"]}
    assert states["cinder-volume"] == "disabled"
    (agent,) = (await world.cloud.request("GET", "/network/v2.0/agents?host=node-1", token=world.admin)).json["agents"]
    assert agent["admin_state_up"] is False
    assert (await world.call("PATCH", "/hosts/node-1", {"maintenance": False})).json["host"]["maintenance"] is False
    (service,) = (await world.cloud.request("GET", path, token=world.admin)).json["services"]
    assert service["status"] == "enabled"
    assert (await world.call("PATCH", "/hosts/nowhere", {"maintenance": True})).status == 404


async def test_a_living_host_with_shared_credentials_can_t_be_cut_off(world: World) -> None:
    await until(lambda: listed(world, "node-1"))
    reply = await world.call("DELETE", "/hosts/node-1")
    assert (reply.status, "end its agents first" in reply.json["error"]["message"]) == (409, True)
    shown = await listed(world, "node-1")
    assert shown is not None
    assert (shown["credentials"], shown["maintenance"]) == ("shared", False)


async def test_removal(world: World) -> None:
    told = (await world.join(await world.token(), "gone")).json
    mine = {"host": "gone", "claim": CLAIM}
    assert (await world.call("POST", "/join/standing", mine, token="")).json["state"] == "joined"
    assert (await world.call("POST", "/join/standing", {**mine, "claim": "n" * 43}, token="")).status == 403
    shown = await listed(world, "gone")
    assert shown is not None
    assert (shown["state"], shown["credentials"], shown["alive"]) == ("joined", "own", False)
    reply = await world.call("DELETE", "/hosts/gone")
    assert reply.status == 204, reply.data
    assert await listed(world, "gone") is None
    assert await world.users("gone") == []
    assert "cumulet-host+gone+cloud" not in world.broker.users
    assert (await world.login("gone", told["secrets"]["host"])).status == 401
    assert (await world.call("POST", "/join/standing", mine, token="")).json["state"] == "removed"
    assert (await world.call("DELETE", "/hosts/gone")).status == 404
    assert (await world.join(await world.token(), "gone", "r" * 43)).status == 201, "the name is free again"


async def test_a_removal_that_broke_is_finished(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.join(await world.token(), "stuck")
    world.broker.broken = True
    assert (await world.call("DELETE", "/hosts/stuck")).status == 503
    world.broker.broken = False
    shown = await listed(world, "stuck")
    assert shown is not None
    assert shown["state"] == "removing"
    hosts = hosts_of(world)
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + 61)
    await hosts.sweep()
    assert await listed(world, "stuck") is None
    assert await world.users("stuck") == []


async def test_a_removal_that_a_join_overtook(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator meant the machine that was there."""
    await world.join(await world.token(), "replaced")
    token = await world.token(host="replaced")
    told: list[Reply] = []
    hosts = hosts_of(world)
    node = hosts.records.node

    async def meanwhile(host: str) -> str | None:
        told.append(await world.join(token, host, "w" * 43))
        return await node(host)

    monkeypatch.setattr(hosts.records, "node", meanwhile)
    reply = await world.call("DELETE", "/hosts/replaced")
    assert (reply.status, "joined again" in reply.json["error"]["message"]) == (409, True)
    assert [one.status for one in told] == [201]
    assert (await world.login("replaced", told[0].json["secrets"]["host"])).status == 201


async def test_a_removal_is_given_up_when_something_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off half-way, then a volume is there: the host stays, can be used, and can be removed later."""
    async with joinable_cloud(tmp_path / "cloud") as world:
        hosts = hosts_of(world)
        await until(lambda: listed(world, "node-1"))
        told = (await world.join(await world.token(host="node-1"), "node-1")).json
        world.broker.broken = True
        assert (await world.call("DELETE", "/hosts/node-1")).status == 503
        world.broker.broken = False
        backends = (await world.cloud.request("GET", "/volume/v3/os-services", token=world.admin)).json["services"]
        for one in backends:
            if one["binary"] == "cinder-volume":
                named = {"host": one["host"], "binary": one["binary"]}
                enabled = await world.cloud.request("PUT", "/volume/v3/os-services/enable", named, token=world.admin)
                assert enabled.status == 200
        made = await world.cloud.request("POST", "/volume/v3/volumes", {"volume": {"size": 1}}, token=world.admin)
        where = f"/volume/v3/volumes/{made.json['volume']['id']}"

        async def available() -> bool:
            shown = await world.cloud.request("GET", where, token=world.admin)
            return bool(shown.json["volume"]["status"] == "available")

        await until(available)
        now = clock.now()
        with monkeypatch.context() as later:
            later.setattr(clock, "now", lambda: now + 61)
            await hosts.sweep()
        shown = await listed(world, "node-1")
        assert shown is not None
        assert shown["state"] == "joined"
        assert (await world.login("node-1", told["secrets"]["host"])).status == 201
        mine = {"host": "node-1", "claim": CLAIM}
        assert (await world.call("POST", "/join/standing", mine, token="")).json["state"] == "joined"
        refused = await world.call("DELETE", "/hosts/node-1")
        assert (refused.status, made.json["volume"]["id"] in refused.json["error"]["message"]) == (409, True)


async def test_a_cloud_of_one_process_has_no_other_hosts(tmp_path: Path) -> None:
    async with running_cloud(tmp_path, packages=["insight"]) as cloud:
        reply = await cloud.request("POST", f"{BASE}/join-tokens", {}, token=await cloud.login("admin"))
        assert (reply.status, "runs in one process" in reply.json["error"]["message"]) == (409, True)
        body = {"token": "t" * 43, "host": "h", "claim": CLAIM}
        assert (await cloud.request("POST", f"{BASE}/join", body)).status == 409
        kept = json.loads((tmp_path / "secrets.json").read_text())
        assert "hosts" in kept, "it is there before operators copy the file to other machines"

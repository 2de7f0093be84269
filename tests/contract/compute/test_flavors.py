# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from cumulet.compute.logic.flavors import SORT
from tests.contract.compute.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")
BODY = {"name": "big", "ram": 1024, "vcpus": 2, "disk": 10}


@pytest_asyncio.fixture(loop_scope="session")
async def private(world: World) -> AsyncIterator[str]:
    body = {**BODY, "name": "hidden", "id": "hidden", "os-flavor-access:is_public": False}
    assert (await world.admin.post("/flavors", {"flavor": body})).status == 200
    yield "hidden"
    await world.admin.delete("/flavors/hidden")


async def test_the_traditional_flavors_are_there(world: World) -> None:
    listed = (await world.demo.get("/flavors/detail")).json["flavors"]
    assert {"m1.nano", "m1.tiny", "m1.small"} <= {one["name"] for one in listed}
    nano = (await world.demo.get("/flavors/42")).json["flavor"]
    assert (nano["vcpus"], nano["ram"], nano["disk"]) == (1, 128, 1)


@pytest.mark.parametrize(
    ("version", "members"),
    [
        ("2.1", {"swap": "", "rxtx_factor": 1.0, "OS-FLV-DISABLED:disabled": False}),
        ("2.55", {"description": None, "swap": ""}),
        ("2.61", {"extra_specs": {}}),
        ("2.75", {"swap": 0, "rxtx_factor": 1.0}),
        ("2.102", {"swap": 0, "os-flavor-access:is_public": True, "OS-FLV-EXT-DATA:ephemeral": 0}),
    ],
)
async def test_members_by_version(world: World, version: str, members: dict[str, Any]) -> None:
    flavor = (await world.demo.at(version).get("/flavors/42")).json["flavor"]
    assert {name: flavor[name] for name in members} == members
    later = {"description": 55, "extra_specs": 61}
    minor = int(version.split(".")[1])
    assert {name for name in later if name in flavor} == {name for name, since in later.items() if minor >= since}
    assert ("rxtx_factor" in flavor) == (minor < 102)


async def test_an_admin_makes_changes_and_deletes(world: World) -> None:
    admin = world.admin
    made = await admin.post("/flavors", {"flavor": {**BODY, "id": "b1", "swap": 512, "description": "d"}})
    assert made.status == 200
    assert (made.json["flavor"]["id"], made.json["flavor"]["swap"]) == ("b1", 512)
    same_name = await admin.post("/flavors", {"flavor": {**BODY, "id": "b2"}})
    assert same_name.json["conflictingRequest"]["message"] == "Flavor with name big already exists."
    same_id = await admin.post("/flavors", {"flavor": {**BODY, "name": "other", "id": "b1"}})
    assert same_id.json["conflictingRequest"]["message"] == "Flavor with ID b1 already exists."
    changed = await admin.put("/flavors/b1", {"flavor": {"description": "new"}})
    assert changed.json["flavor"]["description"] == "new"
    assert (await admin.at("2.54").put("/flavors/b1", {"flavor": {"description": "x"}})).status == 404
    deleted = await admin.delete("/flavors/b1")
    assert (deleted.status, deleted.data) == (202, b"")
    missing = await admin.get("/flavors/b1")
    assert (missing.status, missing.json["itemNotFound"]["message"]) == (404, "Flavor b1 could not be found.")


async def test_an_id_is_made_when_none_is_given(world: World) -> None:
    made = (await world.admin.post("/flavors", {"flavor": {**BODY, "name": "anonymous", "id": None}})).json["flavor"]
    assert len(made["id"]) == 36
    await world.admin.delete(f"/flavors/{made['id']}")


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""}, {"ram": 0}, {"ram": "x"}, {"vcpus": 0}, {"disk": -1}, {"id": "a/b"}, {"id": " a"},
        {"colour": 1}, {"rxtx_factor": 1.0}, {"ram": 1 << 31},
    ],
)  # fmt: skip
async def test_bodies_that_are_refused(world: World, change: dict[str, Any]) -> None:
    assert (await world.admin.post("/flavors", {"flavor": {**BODY, **change}})).status == 400


async def test_only_admins_manage(world: World) -> None:
    for caller in (world.demo, world.reader):
        assert (await caller.post("/flavors", {"flavor": BODY})).status == 403
        assert (await caller.delete("/flavors/42")).status == 403


@pytest.mark.parametrize(
    ("query", "status", "found"),
    [
        ("?minRam=8000", 200, ["4", "5"]),
        ("?minDisk=80&sort_key=root_gb&sort_dir=desc", 200, ["5", "4"]),
        ("?name=m1.nano", 200, ["42"]),
        ("?limit=1&sort_key=memory_mb", 200, ["42"]),
        ("?minRam=many", 400, None),
        ("?sort_key=colour", 400, None),
        ("?marker=none", 400, None),
        ("?sort_key=rxtx_factor", 400, None),
    ],
)
async def test_lists(world: World, query: str, status: int, found: list[str] | None) -> None:
    reply = await world.demo.get(f"/flavors{query}")
    assert reply.status == status, reply.data
    if found is not None:
        assert [one["id"] for one in reply.json["flavors"]] == found


async def test_pages(world: World) -> None:
    first = (await world.demo.get("/flavors?limit=2&sort_key=memory_mb")).json
    assert [one["name"] for one in first["flavors"]] == ["m1.nano", "m1.micro"]
    href = first["flavors_links"][0]["href"].partition("/compute/v2.1")[2]
    assert [one["name"] for one in (await world.demo.get(href)).json["flavors"]] == ["m1.tiny", "m1.small"]


@pytest.mark.parametrize("key", sorted(set(SORT) - {"rxtx_factor"}))
async def test_pages_by_any_key_lose_and_repeat_nothing(world: World, key: str) -> None:
    query = f"/flavors?sort_key={key}&sort_dir=desc"
    whole = [one["id"] for one in (await world.demo.get(query)).json["flavors"]]
    walked: list[str] = []
    marker = ""
    while page := (await world.demo.get(f"{query}&limit=2{marker}")).json["flavors"]:
        walked += [one["id"] for one in page]
        marker = f"&marker={page[-1]['id']}"
    assert walked == whole


async def test_a_private_flavor_is_there_for_those_it_was_given_to(world: World, private: str) -> None:
    path, project = f"/flavors/{private}", world.demo.project_id
    assert (await world.demo.get(path)).status == 404
    create = await world.demo.post("/servers", world.body(flavorRef=private))
    assert create.json["badRequest"]["message"] == "Flavor hidden could not be found."
    granted = await world.admin.post(f"{path}/action", {"addTenantAccess": {"tenant": project}})
    assert granted.json == {"flavor_access": [{"flavor_id": private, "tenant_id": project}]}
    assert (await world.admin.post(f"{path}/action", {"addTenantAccess": {"tenant": project}})).status == 409
    assert (await world.demo.get(path)).status == 200
    assert (await world.admin.get(f"{path}/os-flavor-access")).json == granted.json
    assert "hidden" in {one["id"] for one in (await world.admin.get("/flavors?is_public=None")).json["flavors"]}
    assert "hidden" not in {one["id"] for one in (await world.admin.get("/flavors")).json["flavors"]}
    revoked = await world.admin.post(f"{path}/action", {"removeTenantAccess": {"tenant": project}})
    assert revoked.json == {"flavor_access": []}
    assert (await world.admin.post(f"{path}/action", {"removeTenantAccess": {"tenant": project}})).status == 404
    assert (await world.admin.get("/flavors/42/os-flavor-access")).status == 404
    public = await world.admin.post("/flavors/42/action", {"addTenantAccess": {"tenant": project}})
    assert public.json["conflictingRequest"]["message"] == "Can not add access to a public flavor."
    assert (await world.demo.post(f"{path}/action", {"addTenantAccess": {"tenant": project}})).status == 403


async def test_extra_specs(world: World, private: str) -> None:
    admin, path = world.admin, f"/flavors/{private}/os-extra_specs"
    made = await admin.post(path, {"extra_specs": {"hw:cpu_policy": "shared", "note": 5}})
    assert (made.status, made.json) == (200, {"extra_specs": {"hw:cpu_policy": "shared", "note": 5}})
    assert (await admin.get(path)).json == {"extra_specs": {"hw:cpu_policy": "shared", "note": "5"}}
    assert (await admin.put(f"{path}/note", {"note": "6"})).json == {"note": "6"}
    assert (await admin.put(f"{path}/note", {"other": "6"})).status == 400
    assert (await admin.get(f"{path}/note")).json == {"note": "6"}
    assert (await admin.delete(f"{path}/note")).status == 200
    missing = await admin.get(f"{path}/note")
    assert missing.json["itemNotFound"]["message"] == "Flavor hidden has no extra specs with key note."
    assert (await admin.post(path, {"extra_specs": {"hw:cpu_policy": "sometimes"}})).status == 400
    assert (await admin.at("2.85").post(path, {"extra_specs": {"hw:cpu_policy": "sometimes"}})).status == 200
    assert (await admin.post(path, {"extra_specs": {"hw:unheard_of": "1"}})).status == 400
    assert (await admin.post(path, {"extra_specs": {"key/slash": "1"}})).status == 400
    assert (await world.demo.post(path, {"extra_specs": {"a": "b"}})).status == 403
    assert (await world.demo.get("/flavors/42/os-extra_specs")).json == {"extra_specs": {}}

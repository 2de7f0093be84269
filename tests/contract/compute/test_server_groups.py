# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from tests.contract.compute.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_group_and_its_members(world: World) -> None:
    demo = world.demo
    made = await demo.post("/os-server-groups", {"server_group": {"name": "pair", "policy": "soft-affinity"}})
    assert made.status == 200
    group = made.json["server_group"]
    assert group == {
        "id": group["id"], "name": "pair", "policy": "soft-affinity", "rules": {}, "members": [],
        "project_id": demo.project_id, "user_id": demo.user_id,
    }  # fmt: skip
    body = {**world.body(name="member", networks="none"), "os:scheduler_hints": {"group": group["id"]}}
    reply = await demo.post("/servers", body)
    assert reply.status == 202, reply.data
    server = await demo.until(reply.json["server"]["id"], "ACTIVE")
    assert server["server_groups"] == [group["id"]]
    assert server["scheduler_hints"] == {"group": group["id"]}
    assert (await demo.get(f"/os-server-groups/{group['id']}")).json["server_group"]["members"] == [server["id"]]
    old = (await demo.at("2.63").get(f"/os-server-groups/{group['id']}")).json["server_group"]
    assert (old["policies"], old["metadata"]) == (["soft-affinity"], {})
    assert "project_id" not in (await demo.at("2.12").get(f"/os-server-groups/{group['id']}")).json["server_group"]
    await demo.gone(server["id"])
    assert (await demo.get(f"/os-server-groups/{group['id']}")).json["server_group"]["members"] == []
    assert (await demo.delete(f"/os-server-groups/{group['id']}")).status == 204
    missing = await demo.get(f"/os-server-groups/{group['id']}")
    assert missing.json["itemNotFound"]["message"] == f"Instance group {group['id']} could not be found."


@pytest.mark.parametrize(
    ("version", "body"),
    [
        ("2.104", {"name": "g", "policies": ["affinity"]}),
        ("2.63", {"name": "g", "policy": "affinity"}),
        ("2.14", {"name": "g", "policies": ["soft-affinity"]}),
        ("2.63", {"name": "g", "policies": ["affinity", "anti-affinity"]}),
        ("2.104", {"name": "g", "policy": "together"}),
        ("2.104", {"name": "g", "policy": "affinity", "rules": {"max_server_per_host": 2}}),
        ("2.104", {"name": "g", "policy": "anti-affinity", "rules": {"max_server_per_host": 0}}),
        ("2.104", {"policy": "affinity"}),
    ],
)
async def test_bodies_that_are_refused(world: World, version: str, body: dict[str, Any]) -> None:
    reply = await world.demo.at(version).post("/os-server-groups", {"server_group": body})
    assert reply.status == 400, reply.data


async def test_groups_are_a_projects_own(world: World) -> None:
    body = {"server_group": {"name": "own", "policy": "anti-affinity", "rules": {"max_server_per_host": 2}}}
    group = (await world.demo.post("/os-server-groups", body)).json["server_group"]
    assert (await world.other.get(f"/os-server-groups/{group['id']}")).status == 404
    assert (await world.other.get("/os-server-groups")).json == {"server_groups": []}
    listed = (await world.admin.get("/os-server-groups?all_projects=True")).json["server_groups"]
    assert group["id"] in {one["id"] for one in listed}
    hint = {"os:scheduler_hints": {"group": "11111111-1111-4111-8111-111111111111"}}
    reply = await world.demo.post("/servers", {**world.body(), **hint})
    assert reply.status == 400
    assert "Instance group 11111111" in reply.json["badRequest"]["message"]
    assert (await world.reader.delete(f"/os-server-groups/{group['id']}")).status == 403
    await world.demo.delete(f"/os-server-groups/{group['id']}")


async def test_the_number_of_groups_is_limited(world: World) -> None:
    await world.admin.put(f"/os-quota-sets/{world.other.project_id}", {"quota_set": {"server_groups": 0}})
    body = {"server_group": {"name": "one-too-many", "policy": "affinity"}}
    reply = await world.other.post("/os-server-groups", body)
    assert (reply.status, reply.json["forbidden"]["message"]) == (403, "Quota exceeded, too many server groups.")
    await world.admin.delete(f"/os-quota-sets/{world.other.project_id}")


async def test_servers_that_must_be_apart_do_not_share_the_only_host(world: World) -> None:
    body = {"server_group": {"name": "apart", "policy": "anti-affinity"}}
    group = (await world.demo.post("/os-server-groups", body)).json["server_group"]["id"]

    async def member(name: str) -> str:
        hinted = {**world.body(name=name, networks="none"), "OS-SCH-HNT:scheduler_hints": {"group": group}}
        return str((await world.demo.post("/servers", hinted)).json["server"]["id"])

    first = await member("one")
    await world.demo.until(first, "ACTIVE")
    second = await world.demo.until(await member("two"), "ERROR")
    assert second["fault"]["message"].startswith("No valid host was found.")
    for server_id in (first, second["id"]):
        await world.demo.gone(server_id)
    await world.demo.delete(f"/os-server-groups/{group}")

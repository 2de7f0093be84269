# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import pytest

from tests.contract.compute.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_root_lists_both_versions_without_a_token(world: World) -> None:
    reply = await world.cloud.request("GET", "/compute/")
    assert reply.status == 200
    old, current = reply.json["versions"]
    assert (old["id"], old["version"]) == ("v2.0", "")
    assert (current["id"], current["status"]) == ("v2.1", "CURRENT")
    assert (current["min_version"], current["version"]) == ("2.1", "2.104")
    assert current["links"] == [{"rel": "self", "href": "http://localhost/compute/v2.1/"}]


@pytest.mark.parametrize("path", ["/compute/v2.1", "/compute/v2.1/", "/compute/v2/"])
async def test_a_version_shows_itself_by_the_address_of_the_client(world: World, path: str) -> None:
    reply = await world.cloud.request("GET", path, headers={"host": "cloud.example:8080", "x-forwarded-proto": "https"})
    assert reply.status == 200
    version = reply.json["version"]
    mine = path.rstrip("/").rsplit("/", 1)[-1]
    assert version["links"][0] == {"rel": "self", "href": f"https://cloud.example:8080/compute/{mine}/"}
    assert version["media-types"][0]["base"] == "application/json"


@pytest.mark.parametrize(
    ("asked", "answered"), [(None, "2.1"), ("2.1", "2.1"), ("2.47", "2.47"), ("latest", "2.104"), ("2.104", "2.104")]
)
async def test_the_version_used_comes_back_in_both_headers(world: World, asked: str | None, answered: str) -> None:
    reply = await world.demo.at(asked).get("/flavors")
    assert reply.status == 200
    assert reply.headers["openstack-api-version"] == f"compute {answered}"
    assert reply.headers["x-openstack-nova-api-version"] == answered
    assert "OpenStack-API-Version" in reply.headers["vary"]


async def test_the_old_header_is_understood(world: World) -> None:
    reply = await world.demo.at(None).send("GET", "/flavors", headers={"x-openstack-nova-api-version": "2.55"})
    assert reply.headers["openstack-api-version"] == "compute 2.55"
    assert "description" in reply.json["flavors"][0]


async def test_a_version_out_of_range_is_406(world: World) -> None:
    reply = await world.demo.at("2.105").get("/flavors")
    assert reply.status == 406
    assert reply.json["computeFault"] == {
        "code": 406,
        "message": "Version 2.105 is not supported by the API. Minimum is 2.1 and maximum is 2.104.",
    }


async def test_a_malformed_version_is_400(world: World) -> None:
    reply = await world.demo.at("2.x").get("/flavors")
    assert reply.status == 400
    assert "is of invalid format" in reply.json["badRequest"]["message"]


async def test_without_a_token_it_is_the_middlewares_401(world: World) -> None:
    reply = await world.nobody.get("/servers")
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == 'Keystone uri="http://localhost/identity"'
    assert reply.json == {
        "error": {
            "code": 401,
            "title": "Unauthorized",
            "message": "The request you have made requires authentication.",
        }
    }


async def test_every_answer_names_its_request_twice(world: World) -> None:
    reply = await world.demo.get("/nowhere")
    assert reply.status == 404
    assert re.fullmatch(r"req-[0-9a-f-]{36}", reply.headers["x-openstack-request-id"])
    assert reply.headers["x-compute-request-id"] == reply.headers["x-openstack-request-id"]


async def test_the_project_may_stand_in_the_path(world: World) -> None:
    plain, named = await world.demo.get("/flavors"), await world.demo.get(f"/{world.demo.project_id}/flavors")
    assert plain.json == named.json


async def test_extensions_are_the_published_ones(world: World) -> None:
    listed = (await world.demo.get("/extensions")).json["extensions"]
    assert {"os-keypairs", "os-hypervisors", "OS-EXT-STS"} <= {one["alias"] for one in listed}
    shown = (await world.demo.get("/extensions/os-keypairs")).json["extension"]
    assert (shown["name"], shown["links"]) == ("Keypairs", [])
    assert (await world.demo.get("/extensions/os-nothing")).status == 404

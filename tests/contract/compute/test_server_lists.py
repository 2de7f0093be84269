# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from cumulet.compute.logic.listing import SORT
from tests.contract.compute.conftest import Caller, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def three(world: World) -> AsyncIterator[list[dict[str, Any]]]:
    """Three servers, oldest first; the last is stopped."""
    made = [
        await world.active(name=f"list-{i}", networks="none", tags=["all", f"t{i}"], metadata={"n": str(i)})
        for i in range(3)
    ]
    await world.demo.act(made[2]["id"], "os-stop")
    await world.demo.until(made[2]["id"], "SHUTOFF")
    yield made
    for server in made:
        await world.demo.gone(server["id"])


async def names(caller: Caller, query: str) -> list[str]:
    reply = await caller.get(f"/servers{query}")
    assert reply.status == 200, reply.data
    return [one["name"] for one in reply.json["servers"] if one["name"].startswith("list-")]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["list-2", "list-1", "list-0"]),
        ("?name=list-1", ["list-1"]),
        ("?name=" + quote("^list-[01]$"), ["list-1", "list-0"]),
        ("?name=" + quote("list-.*"), ["list-2", "list-1", "list-0"]),
        ("?name=" + quote("list-1|list-2"), ["list-2", "list-1"]),
        ("?name=" + quote("%"), []),
        ("?status=SHUTOFF", ["list-2"]),
        ("?status=shutoff&status=ACTIVE", ["list-2", "list-1", "list-0"]),
        ("?status=ACTIVE&name=list", ["list-1", "list-0"]),
        ("?flavor=42&name=list", ["list-2", "list-1", "list-0"]),
        ("?flavor=4", []),
        ("?image=11111111-1111-4111-8111-111111111111", []),
        ("?tags=all,t1", ["list-1"]),
        ("?tags-any=t0,t1", ["list-1", "list-0"]),
        ("?not-tags=all,t1&name=list", ["list-2", "list-0"]),
        ("?not-tags-any=t0,t1&name=list", ["list-2"]),
        ("?locked=true", []),
        ("?power_state=4", ["list-2"]),
        ("?vm_state=stopped", ["list-2"]),
        ("?config_drive=true&name=list", []),
        ("?sort_key=display_name&sort_dir=asc&name=list", ["list-0", "list-1", "list-2"]),
        (
            "?sort_key=vm_state&sort_dir=desc&sort_key=display_name&sort_dir=desc&name=list",
            ["list-2", "list-1", "list-0"],
        ),
        ("?host=node-1&name=list-0", ["list-0"]),
    ],
)
async def test_filters(world: World, three: list[dict[str, Any]], query: str, found: list[str]) -> None:
    assert await names(world.demo, query) == found


async def test_pages_link_to_the_next(world: World, three: list[dict[str, Any]]) -> None:
    first = (await world.demo.get("/servers?limit=2&name=list&sort_key=display_name&sort_dir=asc")).json
    assert [one["name"] for one in first["servers"]] == ["list-0", "list-1"]
    (link,) = first["servers_links"]
    assert link["rel"] == "next"
    assert f"marker={three[1]['id']}" in link["href"]
    path = link["href"].partition("/compute/v2.1")[2]
    second = (await world.demo.get(path)).json
    assert [one["name"] for one in second["servers"]] == ["list-2"]
    assert "servers_links" not in second


async def test_pages_of_an_expression_that_sql_cannot_say(world: World, three: list[dict[str, Any]]) -> None:
    query = "?limit=1&sort_key=display_name&sort_dir=asc&name=" + quote("list-[0-9]+$")
    assert await names(world.demo, query) == ["list-0"]
    assert await names(world.demo, query + f"&marker={three[0]['id']}") == ["list-1"]


@pytest.mark.parametrize("key", sorted(SORT))
@pytest.mark.parametrize("way", ["asc", "desc"])
async def test_pages_by_any_key_lose_and_repeat_nothing(
    world: World, three: list[dict[str, Any]], key: str, way: str
) -> None:
    query = f"/servers?sort_key={key}&sort_dir={way}&name=list"
    whole = [one["id"] for one in (await world.admin.get(f"{query}&all_tenants=1")).json["servers"]]
    walked: list[str] = []
    marker = ""
    while True:
        page = (await world.admin.get(f"{query}&all_tenants=1&limit=1{marker}")).json["servers"]
        if not page:
            break
        walked.append(page[0]["id"])
        marker = f"&marker={page[0]['id']}"
    assert walked == whole
    assert len(whole) == 3


async def test_an_address_is_found_by_its_beginning(world: World, kept: dict[str, Any]) -> None:
    address = kept["addresses"]["private"][0]["addr"]
    found = (await world.demo.get(f"/servers?ip={address}")).json["servers"]
    assert [one["id"] for one in found] == [kept["id"]]


@pytest.mark.parametrize(
    ("version", "query", "status", "text"),
    [
        ("2.37", "?status=nonsense", 200, '"servers":[]'),
        ("2.38", "?status=nonsense", 400, "Invalid status value"),
        ("2.74", "?colour=red", 200, "servers"),
        ("2.75", "?colour=red", 400, "Additional properties are not allowed ('colour' was unexpected)"),
        ("2.104", "?limit=-1", 400, "limit"),
        ("2.104", "?limit=x", 400, "limit"),
        ("2.104", "?marker=nothing", 400, "marker [nothing] not found"),
        ("2.104", "?changes-since=yesterday", 400, "changes-since"),
        ("2.104", "?changes-since=2021-01-01T00:00:00Z&changes-before=2020-01-01T00:00:00Z", 400, "less than or equal"),
        ("2.104", "?metadata=x", 400, "Invalid filter field: metadata."),
        ("2.104", "?sort_key=colour", 400, "sort_key"),
        ("2.74", "?sort_key=memory_mb", 200, "servers"),
        ("2.75", "?sort_key=memory_mb", 400, "sort_key"),
        ("2.104", "?sort_key=host", 403, "Only administrators can sort servers by host"),
        ("2.104", "?name=" + quote("("), 400, "name"),
        ("2.104", "?status=deleted", 403, "Only administrators may list deleted instances"),
        ("2.104", "?all_tenants=1", 403, "os_compute_api:servers:index:get_all_tenants"),
        ("2.104", "?all_tenants=maybe", 400, "all_tenants"),
    ],
)
async def test_queries_that_are_refused(world: World, version: str, query: str, status: int, text: str) -> None:
    reply = await world.demo.at(version).get(f"/servers{query}")
    assert (reply.status, text in reply.data.decode()) == (status, True), reply.data


async def test_an_admin_sees_all_projects_only_when_asking(world: World, three: list[dict[str, Any]]) -> None:
    assert await names(world.admin, "") == []
    assert "list-0" in await names(world.admin, "?all_tenants=1")
    mine = await names(world.admin, f"?all_tenants=1&project_id={world.demo.project_id}&name=list-0")
    assert mine == ["list-0"]


async def test_detail_is_the_same_document_as_show(world: World, kept: dict[str, Any]) -> None:
    (listed,) = (await world.admin.get("/servers/detail?all_tenants=1&name=kept")).json["servers"]
    shown = await world.admin.show(kept["id"])
    shown.pop("server_groups")
    assert listed == shown


async def test_limit_zero_is_an_empty_page(world: World, kept: dict[str, Any]) -> None:
    assert (await world.demo.get("/servers?limit=0")).json == {"servers": []}

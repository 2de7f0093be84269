# SPDX-License-Identifier: Apache-2.0
"""Lists: filters, fields, sorting, pages in both directions, and what is refused."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.contract.network.conftest import Net, refused


@pytest.fixture
async def five(net: Net) -> Net:
    for name in ("b", "a", "e", "d", "c"):
        await net.make("/networks", name=name, admin_state_up=name != "e", description="x" if name < "c" else "")
    return net


async def test_filters(five: Net) -> None:
    assert sorted(await five.names("/networks?name=a&name=b")) == ["a", "b"]
    assert await five.names("/networks?admin_state_up=False") == ["e"]
    assert await five.names("/networks?admin_state_up=0&name=a") == []
    assert sorted(await five.names("/networks?description=x")) == ["a", "b"]
    assert sorted(await five.names("/networks?description=")) == ["c", "d", "e"]
    assert await five.names("/networks?router:external=true") == []
    assert len(await five.names("/networks?mtu=1450&status=ACTIVE&revision_number=1")) == 5
    assert len(await five.names("/networks?changed_since=2020-01-01T00:00:00")) == 5
    assert await five.names("/networks?changed_since=2120-01-01T00:00:00Z") == []
    message = refused(await five.get("/networks?color=red&name=a"), 400, "HTTPBadRequest")
    assert message == "['color'] is invalid attribute for filtering"
    refused(await five.get("/networks?mtu=many"), 400, "HTTPBadRequest")


async def test_fields(five: Net) -> None:
    (one,) = (await five.get("/networks?name=a&fields=name&fields=mtu")).json["networks"]
    assert one == {"name": "a", "mtu": 1450}
    network = (await five.get("/networks?name=a")).json["networks"][0]
    assert (await five.get(f"/networks/{network['id']}?fields=id")).json == {"network": {"id": network["id"]}}


async def test_sorting(five: Net) -> None:
    assert await five.names("/networks?sort_key=name&sort_dir=asc") == list("abcde")
    query = "sort_key=admin_state_up&sort_dir=asc&sort_key=name&sort_dir=desc"
    assert await five.names(f"/networks?{query}") == list("edcba")
    refused(await five.get("/networks?sort_key=name"), 400, "HTTPBadRequest")
    message = refused(await five.get("/networks?sort_key=color&sort_dir=asc"), 400, "HTTPBadRequest")
    assert message == "['color'] is invalid attribute for sort_keys"
    refused(await five.get("/networks?sort_key=name&sort_dir=up"), 400, "HTTPBadRequest")


async def walk(net: Net, query: str, rel: str) -> list[list[str]]:
    pages = []
    path: str | None = f"/networks?{query}"
    while path is not None:
        reply = await net.get(path)
        pages.append([one["name"] for one in reply.json["networks"]])
        links = {one["rel"]: one["href"] for one in reply.json.get("networks_links", [])}
        path = None
        if rel in links:
            parts = urlsplit(links[rel])
            assert parts.path == "/network/v2.0/networks"
            path = f"/networks?{parts.query}"
    return pages


async def test_pages(five: Net) -> None:
    query = "sort_key=name&sort_dir=asc&limit=2"
    assert await walk(five, query, "next") == [["a", "b"], ["c", "d"], ["e"]]
    assert await walk(five, "sort_key=description&sort_dir=desc&sort_key=name&sort_dir=asc&limit=3", "next") == [
        ["a", "b", "c"], ["d", "e"],
    ]  # fmt: skip
    last = (await five.get("/networks?name=e")).json["networks"][0]
    assert await walk(five, f"{query}&marker={last['id']}&page_reverse=True", "previous") == [
        ["c", "d"],
        ["a", "b"],
        [],
    ]
    assert "networks_links" not in (await five.get("/networks")).json
    assert "networks_links" not in (await five.get("/networks?limit=0")).json


async def test_pages_that_are_refused(five: Net) -> None:
    missing = "6b5f5b4c-0d6b-4d45-a87b-3f1be1b9c6fe"
    refused(await five.get(f"/networks?limit=2&marker={missing}"), 404, "NetworkNotFound")
    message = refused(await five.get("/networks?limit=-1"), 400, "BadRequest")
    assert "Limit must be an integer 0 or greater and not '-1'" in message


async def test_tags(five: Net) -> None:
    networks = {one["name"]: one["id"] for one in (await five.get("/networks")).json["networks"]}
    for name, tags in {"a": ["red"], "b": ["red", "blue"], "c": ["blue"]}.items():
        reply = await five.put(f"/networks/{networks[name]}/tags", {"tags": tags})
        assert (reply.status, reply.json) == (200, {"tags": sorted(tags)})
    assert sorted(await five.names("/networks?tags=red")) == ["a", "b"]
    assert await five.names("/networks?tags=red,blue") == ["b"]
    assert sorted(await five.names("/networks?tags-any=red,blue")) == ["a", "b", "c"]
    assert sorted(await five.names("/networks?not-tags=red,blue")) == ["a", "c", "d", "e"]
    assert sorted(await five.names("/networks?not-tags-any=red,blue")) == ["d", "e"]
    path = f"/networks/{networks['a']}/tags"
    assert (await five.put(f"{path}/green")).status == 201
    assert (await five.get(path)).json == {"tags": ["green", "red"]}
    assert (await five.get(f"{path}/green")).status == 204
    assert (await five.delete(f"{path}/red")).status == 204
    refused(await five.get(f"{path}/red"), 404, "TagNotFound")
    refused(await five.delete(f"{path}/red"), 404, "TagNotFound")
    assert (await five.show(f"/networks/{networks['a']}"))["tags"] == ["green"]
    assert (await five.show(f"/networks/{networks['a']}"))["revision_number"] == 4
    assert (await five.delete(path)).status == 204
    assert (await five.get(path)).json == {"tags": []}
    refused(await five.put(path, {"tags": ["x" * 61]}), 400, "InvalidInput")
    assert (await five.put(path, {"tags": ["a", "a"]})).status == 400
    assert (await five.put(path, {"tag": []})).status == 400


async def test_tags_of_strangers(five: Net) -> None:
    from tests.contract.image.lone import ALT, READER

    (network,) = (await five.get("/networks?name=a")).json["networks"]
    path = f"/networks/{network['id']}/tags"
    refused(await five.by(ALT).get(path), 404, "NetworkNotFound")
    refused(await five.by(ALT).put(path, {"tags": []}), 404, "NetworkNotFound")
    refused(await five.by(READER).put(path, {"tags": []}), 403, "PolicyNotAuthorized")
    assert (await five.by(READER).get(path)).status == 200

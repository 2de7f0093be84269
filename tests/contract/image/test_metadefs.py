# SPDX-License-Identifier: Apache-2.0
"""Metadata definitions as HTTP: the published set, namespaces, objects, properties, tags, resource types, schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.image.lone import ADMIN, ALT, DEMO, READER, Lone, lone_service, project

AT = "/v2/metadefs/namespaces"
PROPERTY = {"name": "cores", "title": "Cores", "type": "integer", "minimum": 1}


async def make(image: Lone, name: str = "ns", **more: Any) -> dict[str, Any]:
    reply = await image.request("POST", AT, {"namespace": name, **more}, token=ADMIN)
    assert reply.status == 201, reply.data
    return dict(reply.json)


async def test_the_published_set_is_there_once(tmp_path: Path) -> None:
    for number in range(2):
        async with lone_service("image", tmp_path, {"image-api"}, mount="/image") as image:
            types = (await image.request("GET", "/v2/metadefs/resource_types", token=READER)).json["resource_types"]
            assert {"OS::Glance::Image", "OS::Nova::Flavor", "OS::Cinder::Volume"} <= {one["name"] for one in types}
            assert set(types[0]) == {"name", "created_at", "updated_at"}
            listed = (await image.request("GET", f"{AT}?limit=100", token=READER)).json["namespaces"]
            assert len(listed) == 32 - number
            cpu = (await image.request("GET", f"{AT}/OS::Compute::VirtCPUTopology", token=DEMO)).json
            assert cpu["properties"]["cpu_cores"]["type"] == "integer"
            assert {one["name"]: one["prefix"] for one in cpu["resource_type_associations"]} == {
                "OS::Cinder::Volume": "hw_", "OS::Glance::Image": "hw_", "OS::Nova::Flavor": "hw:",
            }  # fmt: skip
            if number == 0:  # what an administrator removes stays away
                name = "OS::Compute::AggregateNumInstancesFilter"
                assert (await image.request("DELETE", f"{AT}/{name}", token=ADMIN)).status == 204


async def test_a_namespace_lives(image: Lone) -> None:
    document = await make(image, display_name="N", description="d", visibility="public", protected=True)
    assert document == {
        "namespace": "ns", "display_name": "N", "description": "d", "visibility": "public", "protected": True,
        "owner": project("admin"), "self": f"{AT}/ns", "schema": "/v2/schemas/metadefs/namespace",
        "created_at": document["created_at"], "updated_at": document["updated_at"],
    }  # fmt: skip
    assert (await image.request("GET", f"{AT}/ns", token=READER)).json == document
    assert (await image.request("DELETE", f"{AT}/ns", token=ADMIN)).status == 403
    reply = await image.request("PUT", f"{AT}/ns", {"namespace": "other"}, token=ADMIN)
    assert (reply.status, reply.json["visibility"], reply.json["protected"]) == (200, "private", False)
    assert "display_name" not in reply.json
    assert (await image.request("GET", f"{AT}/ns", token=ADMIN)).status == 404
    assert (await image.request("GET", f"{AT}/other", token=DEMO)).status == 404
    assert (await image.request("DELETE", f"{AT}/other", token=ADMIN)).status == 204


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 400, b"namespace"),
        ({"namespace": "n" * 81}, 400, b"namespace"),
        ({"namespace": "n", "visibility": "shared"}, 400, b"visibility"),
        ({"namespace": "n", "speed": 1}, 400, b"speed"),
        ({"namespace": "n", "self": "x"}, 403, b"Attribute 'self' is read-only."),
        ({"namespace": "n", "created_at": "x"}, 403, b"Attribute 'created_at' is read-only."),
        ({"namespace": "n", "objects": [{"description": "no name"}]}, 400, b"name"),
        ({"namespace": "OS::Compute::Libvirt"}, 409, b"namespace=OS::Compute::Libvirt already exists."),
    ],
)
async def test_a_namespace_is_refused(image: Lone, body: dict[str, Any], status: int, told: bytes) -> None:
    reply = await image.request("POST", AT, body, token=ADMIN)
    assert (reply.status, told in reply.data) == (status, True), reply.data
    assert (await image.request("GET", f"{AT}/n", token=ADMIN)).status == 404


async def test_only_admin_writes_and_private_is_hidden(image: Lone) -> None:
    assert (await image.request("POST", AT, {"namespace": "x"}, token=DEMO)).status == 403
    await make(image, "mine", owner=project("demo"))
    for token, status in ((DEMO, 200), (READER, 200), (ALT, 404), (ADMIN, 200)):
        assert (await image.request("GET", f"{AT}/mine", token=token)).status == status
    assert (await image.request("DELETE", f"{AT}/mine", token=DEMO)).status == 403
    assert (await image.request("POST", f"{AT}/mine/objects", {"name": "o"}, token=DEMO)).status == 403
    names = [one["namespace"] for one in (await image.request("GET", f"{AT}?limit=50", token=ALT)).json["namespaces"]]
    assert "mine" not in names


async def test_lists_of_namespaces(image: Lone) -> None:
    for name in ("a1", "a2", "a3"):
        await make(image, name, resource_type_associations=[{"name": "My::Type", "prefix": "p_"}])
    query = f"{AT}?resource_types=My::Type&sort_key=namespace&sort_dir=asc&limit=2"
    page = (await image.request("GET", query, token=ADMIN)).json
    assert [one["namespace"] for one in page["namespaces"]] == ["a1", "a2"]
    assert page["namespaces"][0]["resource_type_associations"][0]["prefix"] == "p_"
    assert page["first"].startswith(f"{AT}?")
    rest = (await image.request("GET", page["next"], token=ADMIN)).json
    assert ([one["namespace"] for one in rest["namespaces"]], "next" in rest) == (["a3"], False)
    for query, status in (
        ("sort_dir=up", 400), ("visibility=shared", 400), ("limit=x", 400), ("limit=-1", 400), ("marker=no", 404),
        ("sort_key=color", 400),
    ):  # fmt: skip
        assert (await image.request("GET", f"{AT}?{query}", token=ADMIN)).status == status, query


async def test_what_a_namespace_holds_is_shown_with_the_prefix_of_a_type(image: Lone) -> None:
    content = {"title": "Cores", "type": "integer"}
    await make(
        image, visibility="public", properties={"cores": content}, tags=[{"name": "t"}],
        objects=[{"name": "o", "required": ["size"], "properties": {"size": content}}],
        resource_type_associations=[{"name": "My::Type", "prefix": "p_"}],
    )  # fmt: skip
    shown = (await image.request("GET", f"{AT}/ns?resource_type=My::Type", token=DEMO)).json
    assert list(shown["properties"]) == ["p_cores"]
    assert (list(shown["objects"][0]["properties"]), shown["objects"][0]["required"]) == (["p_size"], ["p_size"])
    assert shown["tags"] == [{"name": "t"}]
    reply = await image.request("GET", f"{AT}/ns/properties/p_cores?resource_type=My::Type")
    assert (reply.status, reply.json["name"]) == (200, "cores")
    for path in ("cores?resource_type=My::Type", "p_cores", "p_cores?resource_type=No::Type"):
        assert (await image.request("GET", f"{AT}/ns/properties/{path}")).status == 404


async def test_objects(image: Lone) -> None:
    await make(image)
    at = f"{AT}/ns/objects"
    body = {
        "name": "o",
        "description": "d",
        "required": ["size"],
        "properties": {"size": {"title": "S", "type": "string"}},
    }
    reply = await image.request("POST", at, body, token=ADMIN)
    assert reply.status == 201
    assert reply.json == {
        **body, "self": f"{at}/o", "schema": "/v2/schemas/metadefs/object", "created_at": reply.json["created_at"],
        "updated_at": reply.json["updated_at"],
    }  # fmt: skip
    assert (await image.request("GET", f"{at}/o", token=ADMIN)).json == reply.json
    missing = await image.request("GET", f"{at}/none", token=ADMIN)
    assert missing.status == 404
    assert b"Could not find metadata object none" in missing.data
    assert (await image.request("POST", at, body, token=ADMIN)).status == 409
    bad = {"name": "p", "properties": {"x": {"title": "no type"}}}
    assert (await image.request("POST", at, bad, token=ADMIN)).status == 400
    await image.request("POST", at, {"name": "z"}, token=ADMIN)
    assert (await image.request("PUT", f"{at}/z", {"name": "o"}, token=ADMIN)).status == 409
    renamed = await image.request("PUT", f"{at}/o", {"name": "n"}, token=ADMIN)
    assert (renamed.status, "properties" in renamed.json) == (200, False)
    listed = (await image.request("GET", f"{at}?sort_key=name&sort_dir=asc&limit=1", token=ADMIN)).json
    assert ([one["name"] for one in listed["objects"]], listed["schema"]) == (["n"], "v2/schemas/metadefs/objects")
    assert (await image.request("GET", f"{at}?limit=0", token=ADMIN)).status == 400
    assert (await image.request("DELETE", f"{at}/n", token=ADMIN)).status == 204
    assert (await image.request("DELETE", f"{at}/n", token=ADMIN)).status == 404
    assert (await image.request("DELETE", at, token=ADMIN)).status == 204
    assert (await image.request("GET", at, token=ADMIN)).json["objects"] == []


async def test_properties(image: Lone) -> None:
    await make(image)
    at = f"{AT}/ns/properties"
    reply = await image.request("POST", at, PROPERTY, token=ADMIN)
    assert (reply.status, reply.json) == (201, PROPERTY)
    assert (await image.request("POST", at, PROPERTY, token=ADMIN)).status == 409
    for bad in ({"name": "x"}, {**PROPERTY, "type": "thing"}, {**PROPERTY, "more": 1}, {**PROPERTY, "minLength": -1}):
        assert (await image.request("POST", at, bad, token=ADMIN)).status == 400
    assert (await image.request("GET", at, token=ADMIN)).json == {"properties": {"cores": PROPERTY}}
    changed = await image.request("PUT", f"{at}/cores", {**PROPERTY, "name": "n", "title": "T"}, token=ADMIN)
    assert (changed.status, changed.json["title"]) == (200, "T")
    assert (await image.request("GET", f"{at}/cores", token=ADMIN)).status == 404
    assert (await image.request("DELETE", f"{at}/n", token=ADMIN)).status == 204
    assert (await image.request("DELETE", at, token=ADMIN)).status == 204


async def test_tags(image: Lone) -> None:
    await make(image)
    at = f"{AT}/ns/tags"
    reply = await image.request("POST", at, {"tags": [{"name": "a"}, {"name": "b"}]}, token=ADMIN)
    assert (reply.status, reply.json) == (201, {"tags": [{"name": "a"}, {"name": "b"}]})
    one = await image.request("POST", f"{at}/c", token=ADMIN)
    assert (one.status, set(one.json)) == (201, {"name", "created_at", "updated_at"})
    assert (await image.request("POST", f"{at}/c", token=ADMIN)).status == 409
    assert (await image.request("POST", f"{at}/{'x' * 81}", token=ADMIN)).status == 400
    headers = {"X-Openstack-Append": "True"}
    assert (await image.request("POST", at, {"tags": [{"name": "d"}]}, token=ADMIN, headers=headers)).status == 201
    assert (await image.request("POST", at, {"tags": [{"name": "d"}]}, token=ADMIN, headers=headers)).status == 409
    query = f"{at}?sort_key=name&sort_dir=asc"
    names = [tag["name"] for tag in (await image.request("GET", query, token=ADMIN)).json["tags"]]
    assert names == ["a", "b", "c", "d"]
    page = (await image.request("GET", f"{query}&limit=2&marker=b", token=ADMIN)).json
    assert page == {"tags": [{"name": "c"}, {"name": "d"}]}
    assert (await image.request("PUT", f"{at}/c", {"name": "e"}, token=ADMIN)).json["name"] == "e"
    assert (await image.request("PUT", f"{at}/e", {"name": "a"}, token=ADMIN)).status == 409
    assert (await image.request("PUT", f"{at}/e", {}, token=ADMIN)).status == 400
    assert (await image.request("GET", f"{at}/e", token=ADMIN)).status == 200
    assert (await image.request("DELETE", f"{at}/e", token=ADMIN)).status == 204
    assert (await image.request("POST", at, {"tags": [{"name": "z"}]}, token=ADMIN)).status == 201
    assert (await image.request("GET", at, token=ADMIN)).json == {"tags": [{"name": "z"}]}
    assert (await image.request("DELETE", at, token=ADMIN)).status == 204


async def test_resource_types(image: Lone) -> None:
    await make(image)
    at = f"{AT}/ns/resource_types"
    body = {"name": "OS::Nova::Server", "prefix": "p:", "properties_target": "metadata"}
    reply = await image.request("POST", at, body, token=ADMIN)
    assert reply.status == 201
    assert reply.json == {
        **body, "created_at": reply.json["created_at"], "updated_at": reply.json["updated_at"],
    }  # fmt: skip
    assert (await image.request("POST", at, body, token=ADMIN)).status == 409
    assert (await image.request("POST", at, {"prefix": "x"}, token=ADMIN)).status == 400
    assert (await image.request("GET", at, token=ADMIN)).json == {"resource_type_associations": [reply.json]}
    assert (await image.request("DELETE", f"{at}/OS::Nova::Server", token=ADMIN)).status == 204
    gone = await image.request("DELETE", f"{at}/OS::Nova::Server", token=ADMIN)
    assert (gone.status, b"Failed to find resource type OS::Nova::Server to delete" in gone.data) == (404, True)


async def test_what_a_protected_namespace_holds_stays(image: Lone) -> None:
    await make(
        image, protected=True, tags=[{"name": "t"}], objects=[{"name": "o"}],
        properties={"p": {"title": "P", "type": "string"}}, resource_type_associations=[{"name": "My::Type"}],
    )  # fmt: skip
    for path in ("", "/tags", "/tags/t", "/objects", "/objects/o", "/properties", "/properties/p",
                 "/resource_types/My::Type"):  # fmt: skip
        assert (await image.request("DELETE", f"{AT}/ns{path}", token=ADMIN)).status == 403, path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("namespace", "namespace"), ("namespaces", "namespaces"), ("resource_type", "resource_type_association"),
        ("resource_types", "resource_type_associations"), ("object", "object"), ("objects", "objects"),
        ("property", "property"), ("properties", "properties"), ("tag", "tag"), ("tags", "tags"),
    ],
)  # fmt: skip
async def test_schemas(image: Lone, path: str, name: str) -> None:
    reply = await image.request("GET", f"/v2/schemas/metadefs/{path}", token=READER)
    assert (reply.status, reply.json["name"]) == (200, name)
    assert (await image.request("GET", "/v2/schemas/metadefs/none", token=READER)).status == 404

# SPDX-License-Identifier: Apache-2.0
"""Image records over HTTP: create, show, list, patch, delete, tags, discovery, errors."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.image.lone import ADMIN, ALT, DEMO, READER, Lone, project

PATCH = {"content-type": "application/openstack-images-v2.1-json-patch"}

METHODS = ["glance-direct", "web-download", "copy-image", "glance-download"]


async def make(image: Lone, token: str = DEMO, **body: Any) -> dict[str, Any]:
    reply = await image.request("POST", "/v2/images", body, token=token)
    assert reply.status == 201, reply.data
    document: dict[str, Any] = reply.json
    return document


# ---- discovery


async def test_versions_need_no_token_and_link_to_where_the_client_came_from(image: Lone) -> None:
    root = await image.request("GET", "/", token=None)
    listed = await image.request("GET", "/versions", token=None)
    assert (root.status, listed.status) == (300, 200)
    assert root.json == listed.json
    below = await image.request("GET", "/v2", token=None)
    assert (below.status, below.json) == (300, root.json)
    versions = root.json["versions"]
    assert [one["id"] for one in versions] == [f"v2.{n}" for n in range(18, -1, -1)]
    assert [one["status"] for one in versions].count("CURRENT") == 1
    assert versions[0] == {
        "id": "v2.18",
        "status": "CURRENT",
        "links": [{"rel": "self", "href": "http://localhost/image/v2/"}],
    }


async def test_schemas_and_info(image: Lone) -> None:
    schema = (await image.request("GET", "/v2/schemas/image")).json
    assert schema["name"] == "image"
    assert schema["additionalProperties"] == {"type": "string"}
    assert "qcow2" in schema["properties"]["disk_format"]["enum"]
    for name in ("images", "member", "members", "task", "tasks"):
        assert (await image.request("GET", f"/v2/schemas/{name}")).json["name"] == name
    assert (await image.request("GET", "/v2/schemas/nonsense")).status == 404
    methods = (await image.request("GET", "/v2/info/import")).json
    assert methods["import-methods"]["value"] == METHODS
    assert (await image.request("GET", "/v2/info/stores")).json["stores"][0]["id"] == "file"
    assert (await image.request("GET", "/v2/info/stores/detail")).status == 403
    assert (await image.request("GET", "/v2/info/stores/detail", token=ADMIN)).status == 200


# ---- create and show


async def test_create_answers_the_published_document(image: Lone) -> None:
    reply = await image.request(
        "POST",
        "/v2/images",
        {
            "name": "tiny", "disk_format": "raw", "container_format": "bare", "min_disk": 1, "min_ram": 64,
            "tags": ["b", "a", "a"], "visibility": "private", "hw_rng_model": "virtio",
        },
    )  # fmt: skip
    assert reply.status == 201
    assert reply.headers["openstack-image-import-methods"] == ",".join(METHODS)
    assert reply.headers["openstack-image-store-ids"] == "file"
    document = reply.json
    image_id = document["id"]
    assert reply.headers["location"] == f"http://localhost/image/v2/images/{image_id}"
    assert document["created_at"].endswith("Z")
    assert document == {
        "id": image_id, "name": "tiny", "status": "queued", "visibility": "private", "owner": project("demo"),
        "disk_format": "raw", "container_format": "bare", "min_disk": 1, "min_ram": 64, "protected": False,
        "os_hidden": False, "size": None, "virtual_size": None, "checksum": None, "os_hash_algo": None,
        "os_hash_value": None, "tags": ["a", "b"], "hw_rng_model": "virtio",
        "created_at": document["created_at"], "updated_at": document["created_at"],
        "self": f"/v2/images/{image_id}", "file": f"/v2/images/{image_id}/file", "schema": "/v2/schemas/image",
    }  # fmt: skip
    shown = await image.request("GET", f"/v2/images/{image_id}")
    assert shown.json == document


async def test_defaults_of_create(image: Lone) -> None:
    document = await make(image)
    assert document["name"] is None
    assert document["visibility"] == "shared"
    assert document["disk_format"] is None
    assert document["tags"] == []


async def test_an_id_may_be_chosen_once(image: Lone) -> None:
    image_id = "11111111-2222-3333-4444-555555555555"
    assert (await make(image, id=image_id))["id"] == image_id
    again = await image.request("POST", "/v2/images", {"id": image_id})
    assert again.status == 409
    await image.request("DELETE", f"/v2/images/{image_id}")
    assert (await image.request("POST", "/v2/images", {"id": image_id})).status == 409


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"id": "nonsense"}, 400),
        ({"name": 5}, 400),
        ({"name": "x" * 256}, 400),
        ({"visibility": "secret"}, 400),
        ({"disk_format": "floppy"}, 400),
        ({"container_format": "box"}, 400),
        ({"min_disk": -1}, 400),
        ({"min_ram": "64"}, 400),
        ({"min_ram": 2**31}, 400),
        ({"protected": "yes"}, 400),
        ({"tags": ["x" * 256]}, 400),
        ({"custom": 5}, 400),
        ({"x" * 256: "v"}, 400),
        ({"status": "active"}, 403),
        ({"size": 5}, 403),
        ({"checksum": None}, 403),
        ({"self": "/x"}, 403),
        ({"deleted": "true"}, 403),
        ({"os_glance_import_task": "x"}, 403),
        ({"visibility": "public"}, 403),
        ({"owner": project("alt")}, 403),
    ],
)
async def test_create_refuses(image: Lone, body: dict[str, Any], status: int) -> None:
    reply = await image.request("POST", "/v2/images", body)
    assert reply.status == status, reply.data
    assert (await image.request("GET", "/v2/images", token=ADMIN)).json["images"] == []


async def test_a_body_must_be_json(image: Lone) -> None:
    json = {"content-type": "application/json"}
    assert (await image.request("POST", "/v2/images", body=b"{", headers=json)).status == 400
    assert (await image.request("POST", "/v2/images", body=b"")).status == 400
    assert (await image.request("POST", "/v2/images", [])).status == 400


async def test_a_reader_may_look_and_not_touch(image: Lone) -> None:
    document = await make(image, name="a")
    path = f"/v2/images/{document['id']}"
    assert (await image.request("GET", path, token=READER)).status == 200
    assert (await image.request("POST", "/v2/images", {}, token=READER)).status == 403
    assert (await image.request("DELETE", path, token=READER)).status == 403
    change = [{"op": "replace", "path": "/name", "value": "b"}]
    assert (await image.request("PATCH", path, change, token=READER, headers=PATCH)).status == 403


async def test_the_project_limits(image: Lone) -> None:
    image.configure(count_quota=1)
    await make(image)
    reply = await image.request("POST", "/v2/images", {})
    assert reply.status == 413
    assert "image_count_total" in reply.json["message"]
    assert "retry-after" not in reply.headers
    await make(image, token=ALT)
    usage = (await image.request("GET", "/v2/info/usage")).json["usage"]
    assert usage["image_count_total"] == {"usage": 1, "limit": 1}
    assert (await image.request("POST", "/v2/images", {f"p{n}": "v" for n in range(129)}, token=ADMIN)).status == 413


# ---- who sees what


async def test_what_others_may_not_see_does_not_exist_for_them(image: Lone) -> None:
    for visibility in ("private", "shared"):
        path = f"/v2/images/{(await make(image, visibility=visibility))['id']}"
        for method in ("GET", "DELETE"):
            assert (await image.request(method, path, token=ALT)).status == 404
        assert (await image.request("PATCH", path, [], token=ALT, headers=PATCH)).status == 404
        assert (await image.request("GET", f"{path}/file", token=ALT)).status == 404
        assert (await image.request("GET", path, token=ADMIN)).status == 200


async def test_public_and_community_are_seen_and_not_changed_by_others(image: Lone) -> None:
    community = await make(image, visibility="community", name="c")
    public = await make(image, token=ADMIN, visibility="public", name="p")
    for document in (community, public):
        path = f"/v2/images/{document['id']}"
        assert (await image.request("GET", path, token=ALT)).status == 200
        assert (await image.request("DELETE", path, token=ALT)).status == 403
    names = [one["name"] for one in (await image.request("GET", "/v2/images", token=ALT)).json["images"]]
    assert names == ["p"]
    offered = await image.request("GET", "/v2/images?visibility=community", token=ALT)
    assert [one["name"] for one in offered.json["images"]] == ["c"]
    all_ = await image.request("GET", "/v2/images?visibility=all", token=ALT)
    assert {one["name"] for one in all_.json["images"]} == {"p", "c"}


# ---- lists


async def test_pages_go_through_all_images_once(image: Lone) -> None:
    made = [(await make(image, name=f"i{n % 3}", os_hidden=False))["id"] for n in range(7)]
    for sort in ("", "&sort=name:asc", "&sort_key=name&sort_key=created_at&sort_dir=asc&sort_dir=desc", "&sort=size"):
        path, seen = f"/v2/images?limit=2{sort}", []
        for _ in range(10):
            page = (await image.request("GET", path)).json
            assert page["schema"] == "/v2/schemas/images"
            assert page["first"].startswith("/v2/images?limit=2")
            assert "marker" not in page["first"]
            seen += [one["id"] for one in page["images"]]
            if "next" not in page:
                break
            path = page["next"]
            assert path.startswith("/v2/images?")
        assert sorted(seen) == sorted(made), sort
    newest = [one["id"] for one in (await image.request("GET", "/v2/images")).json["images"]]
    assert newest == list(reversed(made))


async def test_filters(image: Lone) -> None:
    a = await make(image, name="a", disk_format="raw", container_format="bare", os_distro="debian", tags=["x", "y"])
    b = await make(image, name="b,c", disk_format="qcow2", container_format="bare", tags=["x"], protected=True)
    hidden = await make(image, name="h", os_hidden=True)
    every = {"a": a, "b": b, "h": hidden}

    async def found(query: str) -> str:
        reply = await image.request("GET", f"/v2/images?{query}")
        assert reply.status == 200, reply.data
        ids = {one["id"] for one in reply.json["images"]}
        return "".join(sorted(name for name, one in every.items() if one["id"] in ids))

    assert await found("") == "ab"
    assert await found("name=a") == "a"
    assert await found('name=in:a,"b,c"') == "ab"
    assert await found("disk_format=qcow2&container_format=bare") == "b"
    assert await found("status=in:active,queued") == "ab"
    assert await found(f"id={a['id']}") == "a"
    assert await found("tag=x") == "ab"
    assert await found("tag=x&tag=y") == "a"
    assert await found("os_distro=debian") == "a"
    assert await found("os_distro=other") == ""
    assert await found("protected=true") == "b"
    assert await found("os_hidden=true") == "h"
    assert await found(f"owner={project('demo')}") == "ab"
    assert await found(f"created_at=gte:{a['created_at']}") == "ab"
    assert await found("created_at=lt:2001-01-01T00:00:00Z") == ""
    assert await found("min_disk_min=1") == ""
    assert await found("limit=0") == ""


@pytest.mark.parametrize(
    "query",
    [
        "limit=x", "limit=-1", "marker=nonsense", "sort=color", "sort=name:up", "sort_key=color", "sort_dir=up",
        "sort=name&sort_key=size", "sort_key=name&sort_dir=asc&sort_dir=desc", "visibility=x", "os_hidden=x",
        "protected=x", "size_min=x", "created_at=yesterday", "name=gt:x", "member_status=x", "changes-since=2001",
    ],
)  # fmt: skip
async def test_a_senseless_query_is_400(image: Lone, query: str) -> None:
    await make(image)
    assert (await image.request("GET", f"/v2/images?{query}")).status == 400


# ---- changes


async def patch(image: Lone, image_id: str, *changes: dict[str, Any], token: str = DEMO, kind: str = "1") -> Any:
    headers = {"content-type": f"application/openstack-images-v2.{kind}-json-patch"}
    return await image.request("PATCH", f"/v2/images/{image_id}", list(changes), token=token, headers=headers)


async def test_patch_changes_everything_or_nothing(image: Lone) -> None:
    image_id = (await make(image, name="a", os_distro="debian", hw="x"))["id"]
    reply = await patch(
        image,
        image_id,
        {"op": "replace", "path": "/name", "value": "b"},
        {"op": "replace", "path": "/tags", "value": ["t2", "t1"]},
        {"op": "add", "path": "/a~1b", "value": "slash"},
        {"op": "replace", "path": "/os_distro", "value": "other"},
        {"op": "remove", "path": "/hw"},
        {"op": "replace", "path": "/min_ram", "value": 128},
    )
    assert reply.status == 200, reply.data
    document = reply.json
    assert (document["name"], document["tags"], document["a/b"]) == ("b", ["t1", "t2"], "slash")
    assert (document["os_distro"], document["min_ram"]) == ("other", 128)
    assert "hw" not in document
    half = await patch(
        image, image_id, {"op": "replace", "path": "/name", "value": "c"}, {"op": "remove", "path": "/nothing"}
    )
    assert half.status == 409
    assert (await image.request("GET", f"/v2/images/{image_id}")).json == document


async def test_the_older_patch_syntax(image: Lone) -> None:
    image_id = (await make(image, name="a"))["id"]
    reply = await patch(image, image_id, {"add": "/hw_cpu_cores", "value": "5"}, kind="0")
    assert reply.json["hw_cpu_cores"] == "5"
    assert (await patch(image, image_id, {"add": "/hw_cpu_cores", "value": "5"}, kind="0")).status == 409
    assert (await patch(image, image_id, {"replace": "/name", "value": "b"}, kind="0")).json["name"] == "b"
    assert (await patch(image, image_id, {"remove": "/hw_cpu_cores"}, kind="0")).status == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"op": "replace", "path": "/id", "value": "x"}, 403),
        ({"op": "replace", "path": "/status", "value": "active"}, 403),
        ({"op": "replace", "path": "/size", "value": 5}, 403),
        ({"op": "add", "path": "/deleted", "value": "x"}, 403),
        ({"op": "add", "path": "/os_glance_x", "value": "x"}, 403),
        ({"op": "remove", "path": "/name"}, 403),
        ({"op": "replace", "path": "/owner", "value": project("alt")}, 403),
        ({"op": "replace", "path": "/visibility", "value": "public"}, 403),
        ({"op": "replace", "path": "/visibility", "value": "secret"}, 400),
        ({"op": "replace", "path": "/min_disk", "value": -1}, 400),
        ({"op": "replace", "path": "/new", "value": "x"}, 409),
        ({"op": "add", "path": "/new", "value": 5}, 400),
        ({"op": "add", "path": "/new"}, 400),
        ({"op": "move", "path": "/name", "value": "x"}, 400),
        ({"path": "/name", "value": "x"}, 400),
        ({"op": "add", "value": "x"}, 400),
        ({"op": "add", "path": "name", "value": "x"}, 400),
        ({"op": "add", "path": "/a//b", "value": "x"}, 400),
        ({"op": "add", "path": "/a/b", "value": "x"}, 400),
        ({"op": "add", "path": "/a~2", "value": "x"}, 400),
        ({"op": "add", "path": "/", "value": "x"}, 400),
        ({"op": "add", "path": "/locations/-", "value": {}}, 400),
        ({"op": "add", "path": "/locations/-", "value": {"url": "http://a/b", "metadata": {}}}, 403),
    ],
)
async def test_patch_refuses(image: Lone, change: dict[str, Any], status: int) -> None:
    before = await make(image, name="a")
    reply = await patch(image, before["id"], change)
    assert reply.status == status, reply.data
    assert (await image.request("GET", f"/v2/images/{before['id']}")).json == before


async def test_patch_wants_its_own_media_type_and_a_list(image: Lone) -> None:
    path = f"/v2/images/{(await make(image))['id']}"
    wrong = await image.request("PATCH", path, [])
    assert wrong.status == 415
    assert "v2.1-json-patch" in wrong.headers["accept-patch"]
    assert (await image.request("PATCH", path, {}, headers=PATCH)).status == 400
    assert (await image.request("PATCH", path, ["x"], headers=PATCH)).status == 400
    assert (await image.request("PATCH", path, body=b"[", headers=PATCH)).status == 400
    assert (await image.request("PATCH", path, [], headers=PATCH)).status == 200


async def test_admin_gives_an_image_away_and_publishes_it(image: Lone) -> None:
    image_id = (await make(image))["id"]
    given = await patch(image, image_id, {"op": "replace", "path": "/owner", "value": project("alt")}, token=ADMIN)
    assert given.json["owner"] == project("alt")
    assert (await image.request("GET", f"/v2/images/{image_id}")).status == 404
    shown = await patch(image, image_id, {"op": "replace", "path": "/visibility", "value": "public"}, token=ADMIN)
    assert shown.json["visibility"] == "public"
    assert (await image.request("GET", f"/v2/images/{image_id}")).status == 200


async def test_tags(image: Lone) -> None:
    path = f"/v2/images/{(await make(image))['id']}"
    assert (await image.request("PUT", f"{path}/tags/one")).status == 204
    assert (await image.request("PUT", f"{path}/tags/one")).status == 204
    assert (await image.request("GET", path)).json["tags"] == ["one"]
    assert (await image.request("PUT", f"{path}/tags/{'x' * 256}")).status == 400
    assert (await image.request("PUT", f"{path}/tags/two", token=ALT)).status == 404
    assert (await image.request("DELETE", f"{path}/tags/one")).status == 204
    assert (await image.request("DELETE", f"{path}/tags/one")).status == 404
    image.configure(tag_quota=0)
    assert (await image.request("PUT", f"{path}/tags/three")).status == 413


async def test_delete(image: Lone) -> None:
    image_id = (await make(image, protected=True))["id"]
    path = f"/v2/images/{image_id}"
    refused = await image.request("DELETE", path)
    assert refused.status == 403
    assert "is protected and cannot be deleted" in refused.json["message"]
    await patch(image, image_id, {"op": "replace", "path": "/protected", "value": False})
    gone = await image.request("DELETE", path)
    assert (gone.status, gone.data) == (204, b"")
    assert (await image.request("GET", path)).status == 404
    assert (await image.request("DELETE", path)).status == 404
    assert (await image.request("GET", "/v2/images")).json["images"] == []


# ---- the dialect


async def test_errors_are_html_unless_json_is_asked_for(image: Lone) -> None:
    path = "/v2/images/5f4b7c9a-0000-4000-8000-000000000000"
    page = await image.request("GET", path, headers={"accept": "*/*"})
    assert page.status == 404
    assert page.headers["content-type"].startswith("text/html")
    assert b"<h1>404 Not Found</h1>" in page.data
    json = await image.request("GET", path)
    assert json.headers["content-type"].startswith("application/json")
    assert json.json["code"] == "404 Not Found"
    assert json.json["message"].startswith("No image found with ID")
    plain = await image.request("GET", path, headers={"accept": "text/plain"})
    assert plain.headers["content-type"].startswith("text/plain")
    hostile = await image.request("GET", "/v2/images?sort=<script>", headers={"accept": "text/html"})
    assert b"<script>" not in hostile.data


async def test_no_token_wrong_method_unknown_path(image: Lone) -> None:
    nobody = await image.request("GET", "/v2/images", token=None)
    assert nobody.status == 401
    assert nobody.json["code"] == "401 Unauthorized"
    assert nobody.headers["www-authenticate"] == 'Keystone uri="http://localhost/identity"'
    assert (await image.request("GET", "/v2/images", token="nonsense")).status == 401
    wrong = await image.request("PUT", "/v2/images")
    assert wrong.status == 405
    assert "GET" in wrong.headers["allow"]
    assert (await image.request("GET", "/v3/images")).status == 404
    assert (await image.request("GET", "/v2/images")).headers["x-openstack-request-id"].startswith("req-")

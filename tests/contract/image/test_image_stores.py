# SPDX-License-Identifier: Apache-2.0
"""Several stores as HTTP: imports by every method, copies, deletion from a store, locations, cache, tasks, limits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cumulet.image.logic.cache import drop_orphans
from cumulet.image.models import cache as CACHE  # noqa: N812 - a table
from tests.contract.image.lone import ADMIN, ALT, DEMO, READER, SERVICE, Lone, lone_service, project
from tests.services.image.web import LOOPBACK, Site, site

DATA = b"disk" * 3000
DIGEST = hashlib.sha512(DATA).hexdigest()
STORES = [{"id": "first", "weight": 1}, {"id": "second", "weight": 2}, {"id": "web", "type": "web"}]


@asynccontextmanager
async def cloud(folder: Path, **settings: Any) -> AsyncIterator[Lone]:
    told = {"stores": STORES, "show_locations": True, **LOOPBACK, **settings}
    async with lone_service("image", folder / "cloud", {"image-api"}, mount="/image", settings={"image": told}) as lone:
        yield lone


@pytest.fixture
async def image(tmp_path: Path) -> AsyncIterator[Lone]:
    async with cloud(tmp_path) as lone:
        yield lone


@pytest.fixture
async def web() -> AsyncIterator[Site]:
    async with site() as served:
        served.files["/disk"] = DATA
        yield served


async def make(image: Lone, token: str = DEMO, data: bytes | None = None, **more: Any) -> str:
    body = {"name": "n", "disk_format": "raw", "container_format": "bare", **more}
    reply = await image.request("POST", "/v2/images", body, token=token)
    assert reply.status == 201, reply.data
    if data is not None:
        assert (await put(image, reply.json["id"], data)).status == 204
    return str(reply.json["id"])


async def put(image: Lone, image_id: str, data: bytes = DATA, what: str = "file", *, store: str = "") -> Any:
    sent = {"content-type": "application/octet-stream", **({"x-image-meta-store": store} if store else {})}
    return await image.request("PUT", f"/v2/images/{image_id}/{what}", headers=sent, body=data)


async def show(image: Lone, image_id: str, token: str = DEMO) -> dict[str, Any]:
    reply = await image.request("GET", f"/v2/images/{image_id}", token=token)
    assert reply.status == 200, reply.data
    return dict(reply.json)


async def start(image: Lone, image_id: str, method: dict[str, Any], token: str = DEMO, **more: Any) -> Any:
    return await image.request("POST", f"/v2/images/{image_id}/import", {"method": method, **more}, token=token)


async def ended(image: Lone, image_id: str) -> dict[str, Any]:
    """The last task of an image, once it is over."""
    async with asyncio.timeout(60):
        while True:
            tasks = (await image.request("GET", f"/v2/images/{image_id}/tasks")).json["tasks"]
            if tasks[-1]["status"] in ("success", "failure"):
                return dict(tasks[-1])
            await asyncio.sleep(0.02)


async def test_stores_are_told(image: Lone) -> None:
    stores = (await image.request("GET", "/v2/info/stores", token=READER)).json["stores"]
    assert stores == [{"id": "first", "default": "true"}, {"id": "second"}, {"id": "web", "read-only": "true"}]
    assert (await image.request("GET", "/v2/info/stores/detail", token=DEMO)).status == 403
    detail = (await image.request("GET", "/v2/info/stores/detail", token=ADMIN)).json["stores"]
    assert [(one["type"], one["weight"]) for one in detail] == [("file", 1), ("file", 2), ("http", 0)]
    assert detail[0]["properties"]["chunk_size"] == 1024 * 1024


async def test_an_upload_may_choose_its_store(image: Lone) -> None:
    image_id = await make(image)
    for name in ("none", "web"):
        assert (await put(image, image_id, store=name)).status == 400
    assert (await put(image, image_id, store="second")).status == 204
    document = await show(image, image_id)
    assert document["stores"] == "second"
    (location,) = document["locations"]
    assert (location["metadata"], document["direct_url"]) == ({"store": "second"}, location["url"])
    for query, status in (("?prefer=first,second", 200), ("?prefer=none", 400)):
        reply = await image.request("GET", f"/v2/images/{image_id}/file{query}")
        assert reply.status == status


# ---- import


async def test_staged_data_goes_to_all_stores(image: Lone) -> None:
    image_id = await make(image)
    assert (await put(image, image_id, what="stage")).status == 204
    assert (await show(image, image_id))["status"] == "uploading"
    reply = await start(image, image_id, {"name": "glance-direct"}, all_stores=True)
    assert (reply.status, reply.data) == (202, b"")
    task = await ended(image, image_id)
    assert (task["status"], task["type"], task["result"]) == ("success", "api_image_import", {"image_id": image_id})
    assert task["input"]["import_req"]["method"] == {"name": "glance-direct"}
    assert task["request_id"] == reply.headers["x-openstack-request-id"]
    assert "expires_at" in task
    document = await show(image, image_id)
    assert (document["status"], document["stores"], document["os_hash_value"]) == ("active", "second,first", DIGEST)
    assert (document["os_glance_importing_to_stores"], document["os_glance_failed_import"]) == ("", "")
    assert "os_glance_import_task" not in document
    assert (await image.request("GET", f"/v2/images/{image_id}/file")).data == DATA


async def test_data_from_the_web(image: Lone, web: Site) -> None:
    image_id = await make(image)
    web.redirects["/moved"] = f"{web.url}/disk"
    method = {"name": "web-download", "uri": f"{web.url}/moved"}
    assert (await start(image, image_id, method, stores=["second"])).status == 202
    assert (await ended(image, image_id))["status"] == "success"
    document = await show(image, image_id)
    assert (document["status"], document["stores"], document["size"]) == ("active", "second", len(DATA))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/x", "file:///etc/passwd", "http://10.0.0.1/x", "http://169.254.169.254/latest",
        "http://[::ffff:10.0.0.1]/x", "http://user:word@127.0.0.1/x", "http://127.0.0.1:99999/x", "http:///x", "x",
        "http://0x0a000001/x", "http://[64:ff9b::a00:1]/x", "http://[2002:a00:1::]/x", "http://0.0.0.0/x", None, 7,
    ],
)  # fmt: skip
async def test_what_may_not_be_fetched(image: Lone, url: Any) -> None:
    image_id = await make(image)
    reply = await start(image, image_id, {"name": "web-download", "uri": url})
    assert (reply.status, b"does not pass filtering" in reply.data) == (400, True), reply.data
    assert (await show(image, image_id))["status"] == "queued"


async def test_ports_and_hosts_are_allow_listed(tmp_path: Path, web: Site) -> None:
    async with cloud(tmp_path, web_ports=[80, 443]) as image:
        method = {"name": "web-download", "uri": f"{web.url}/disk"}
        assert (await start(image, await make(image), method)).status == 400
    async with cloud(tmp_path / "2", web_hosts=["images.example"]) as image:
        assert (await start(image, await make(image), method)).status == 400
    async with cloud(tmp_path / "3", web_networks=[]) as image:
        assert (await start(image, await make(image), method)).status == 400
    assert web.asked == []


async def test_a_redirect_leads_nowhere_else(image: Lone, web: Site) -> None:
    for path, target in (("/a", "http://10.0.0.1/x"), ("/b", "file:///etc/passwd"), ("/c", f"{web.url}/c")):
        image_id = await make(image)
        web.redirects[path] = target
        assert (await start(image, image_id, {"name": "web-download", "uri": web.url + path})).status == 202
        task = await ended(image, image_id)
        assert (task["status"], "could not be fetched" in task["message"]) == ("failure", True)
        document = await show(image, image_id)
        assert (document["status"], document["os_glance_failed_import"]) == ("queued", "first")


async def test_an_import_is_refused(image: Lone, web: Site) -> None:
    queued, active = await make(image), await make(image, data=DATA)
    bare = (await image.request("POST", "/v2/images", {"name": "x"})).json["id"]
    url = {"name": "web-download", "uri": f"{web.url}/disk"}
    remote = {"name": "glance-download", "glance_region": "R", "glance_image_id": queued}
    for image_id, method, more, status, told in (
        (queued, None, {}, 400, b"requires a 'method' field"),
        (queued, {}, {}, 400, b"requires a 'name' field"),
        (queued, {"name": "magic"}, {}, 400, b"Unknown import method name 'magic'."),
        (queued, url, {"all_stores": "yes"}, 400, b"'all_stores' must be boolean value only"),
        (queued, url, {"all_stores_must_succeed": 1}, 400, b"must be boolean value only"),
        (queued, url, {"all_stores": True, "stores": ["first"]}, 400, b"All_stores parameter can"),
        (queued, url, {"stores": ["none"]}, 409, b"none"),
        (queued, url, {"stores": ["web"]}, 409, b"web"),
        (queued, {"name": "glance-direct"}, {}, 409, b"needs to be staged"),
        (queued, {"name": "copy-image"}, {}, 409, b"Only images with status active"),
        (active, url, {}, 409, b"Image with status active cannot be target for import"),
        (bare, url, {}, 409, b"'container_format' needs to be set before import"),
        (queued, {**remote, "glance_image_id": "x"}, {}, 400, b"image id does not look like a UUID: x"),
        (queued, {"name": "glance-download", "glance_region": "R"}, {}, 400, b"'glance_image_id' needs to be set"),
        (queued, {"name": "glance-download"}, {}, 400, b"'glance_region' needs to be set"),
    ):
        reply = await start(image, image_id, method, **more)  # type: ignore[arg-type]
        assert (reply.status, told in reply.data) == (status, True), (method, reply.data)
    assert (await start(image, queued, url, token=READER)).status == 403
    assert (await start(image, queued, url, token=ALT)).status == 404
    assert (await start(image, queued, {"name": "copy-image"}, token=ALT)).status == 404


async def test_one_operation_at_a_time_and_deletion_in_the_middle(tmp_path: Path, web: Site) -> None:
    async with lone_service(
        "image", tmp_path, {"image-api"}, mount="/image", started=False,
        settings={"image": {"stores": STORES, **LOOPBACK}},
    ) as image:  # fmt: skip
        image_id = await make(image)
        method = {"name": "web-download", "uri": f"{web.url}/disk"}
        assert (await start(image, image_id, method)).status == 202
        document = await show(image, image_id)
        assert (document["status"], document["os_glance_importing_to_stores"]) == ("importing", "first")
        assert len(document["os_glance_import_task"]) == 36
        assert (await start(image, image_id, method)).status == 409
        assert (await put(image, image_id)).status == 409
        assert (await image.request("DELETE", f"/v2/images/{image_id}")).status == 204
        await image.inner.engine.settle()
        tasks = (await image.request("GET", "/v2/tasks", token=ADMIN)).json["tasks"]
        assert [task["status"] for task in tasks] == ["failure"]
        assert not list((tmp_path / "image").rglob("data-*"))


async def test_an_image_of_another_region(image: Lone) -> None:
    image.identity.lists["endpoints"] = [
        {"id": "e", "interface": "public", "region_id": "R", "service_id": "played-image",
         "url": "http://this-cloud.invalid/image"},
    ]  # fmt: skip
    for one in image.inners:
        one.session._transport = lambda type_: image.transport if type_ == "image" else image.identity
    source = await make(image, data=DATA, hw_cpu_cores="5", os_distro="rhel", speed="88")
    target = await make(image, disk_format="iso", container_format="ovf", hw_cpu_cores="1", hw_old="1", mine="1")
    method = {"name": "glance-download", "glance_region": "R", "glance_image_id": source}
    assert (await start(image, target, method)).status == 202
    assert (await ended(image, target))["status"] == "success"
    document = await show(image, target)
    assert (document["disk_format"], document["container_format"]) == ("raw", "bare")
    assert (document["hw_cpu_cores"], document["os_distro"], document["mine"]) == ("5", "rhel", "1")
    assert not {"hw_old", "speed"} & set(document)
    private = await make(image, ALT, data=None)
    for wrong in (
        {"glance_image_id": private}, {"glance_region": "Q"}, {"glance_service_interface": "x"},
        {"glance_image_id": project("x").ljust(36, "0")[:36]},
    ):  # fmt: skip
        other = await make(image, name="o")
        reply = await start(image, other, {**method, **wrong})
        if reply.status == 202:
            assert (await ended(image, other))["status"] == "failure"
            assert (await show(image, other))["status"] == "queued"
        else:
            assert reply.status == 400


# ---- copies


async def test_copies_and_deletion_from_a_store(image: Lone) -> None:
    image_id = await make(image, data=DATA)
    assert (await start(image, image_id, {"name": "copy-image"}, stores=["second"])).status == 403
    assert (await start(image, image_id, {"name": "copy-image"}, ADMIN, stores=["first"])).status == 400
    reply = await start(image, image_id, {"name": "copy-image"}, ADMIN, all_stores=True, all_stores_must_succeed=False)
    assert reply.status == 202
    assert (await ended(image, image_id))["status"] == "success"
    document = await show(image, image_id)
    assert (document["status"], document["stores"]) == ("active", "second,first")
    assert (document["os_glance_importing_to_stores"], document["os_glance_failed_import"]) == ("", "")
    assert (await start(image, image_id, {"name": "copy-image"}, ADMIN, all_stores=True)).status == 202
    at = "/v2/stores"
    for path, token, status in (
        (f"second/{image_id}", DEMO, 403), (f"none/{image_id}", ADMIN, 409), (f"web/{image_id}", ADMIN, 404),
        (f"second/{image_id}", ADMIN, 204), (f"second/{image_id}", ADMIN, 403), (f"first/{image_id}", ADMIN, 403),
    ):  # fmt: skip
        assert (await image.request("DELETE", f"{at}/{path}", token=token)).status == status, path
    assert (await show(image, image_id))["stores"] == "first"
    queued = await make(image)
    assert (await image.request("DELETE", f"{at}/first/{queued}", token=ADMIN)).status == 409
    stores = [place.store for place in image.inner.stores.values()]
    assert [len(await store.list()) for store in stores] == [1, 0, 0]


# ---- locations


async def test_the_newer_way_of_locations(image: Lone, web: Site) -> None:
    url = f"{web.url}/disk"

    async def add(image_id: str, token: str = DEMO, **body: Any) -> Any:
        return await image.request("POST", f"/v2/images/{image_id}/locations", {"url": url, **body}, token=token)

    right = {"os_hash_algo": "sha256", "os_hash_value": hashlib.sha256(DATA).hexdigest()}
    checked, wrong, learnt = await make(image), await make(image), await make(image)
    for bad, status in (
        ({"url": "http://10.0.0.1/x"}, 400), ({"url": 7}, 400), ({"validation_data": {"os_hash_value": "ab"}}, 400),
        ({"validation_data": {**right, "os_hash_algo": "sha512"}}, 400),
        ({"validation_data": {**right, "os_hash_algo": "sha123"}}, 400),
        ({"validation_data": {**right, "os_hash_value": "xy"}}, 400),
    ):  # fmt: skip
        assert (await add(checked, **bad)).status == status, bad
    assert (await add(checked, READER)).status == 403
    assert (await add(checked, validation_data=right)).status == 202
    assert (await ended(image, checked))["status"] == "success"
    document = await show(image, checked)
    assert (document["status"], document["stores"], document["os_hash_algo"]) == ("active", "web", "sha256")
    assert (document["checksum"], document["size"]) == (hashlib.md5(DATA).hexdigest(), len(DATA))
    assert (await image.request("GET", f"/v2/images/{checked}/file")).data == DATA
    part = await image.request("GET", f"/v2/images/{checked}/file", headers={"range": "bytes=5-9"})
    assert (part.status, part.data) == (206, DATA[5:10])
    assert (await add(checked)).status == 409
    assert (await add(wrong, validation_data={**right, "os_hash_value": "0" * 64})).status == 202
    task = await ended(image, wrong)
    assert (task["status"], "not matched" in task["message"]) == ("failure", True)
    document = await show(image, wrong)
    assert (document["status"], document["os_hash_algo"], document["stores"]) == ("queued", None, "web")
    assert (await image.request("GET", f"/v2/images/{wrong}/file")).status == 204
    assert (await add(learnt)).status == 202
    assert (await ended(image, learnt))["type"] == "location_import"
    assert (await show(image, learnt))["os_hash_value"] == DIGEST
    at = f"/v2/images/{learnt}/locations"
    assert (await image.request("GET", at, token=DEMO)).status == 403
    assert (await image.request("GET", at, token=SERVICE)).json == [{"url": url, "metadata": {"store": "web"}}]


async def patch(image: Lone, image_id: str, *changes: dict[str, Any], token: str = DEMO) -> Any:
    import orjson

    headers = {"content-type": "application/openstack-images-v2.1-json-patch"}
    return await image.request(
        "PATCH", f"/v2/images/{image_id}", headers=headers, body=orjson.dumps(list(changes)), token=token
    )


async def test_the_older_way_of_locations(image: Lone, web: Site) -> None:
    url = f"{web.url}/disk"
    image_id = await make(image)
    assert (await show(image, image_id))["locations"] == []

    def add(where: str = "-", **more: Any) -> dict[str, Any]:
        return {"op": "add", "path": f"/locations/{where}", "value": {"url": url, "metadata": {}, **more}}

    for bad, status in (
        (add(url="gopher://x"), 400), (add(url="http://10.0.0.1/"), 400), (add(url=f"{web.url}/none"), 400),
        (add("x"), 400), ({"op": "replace", "path": "/locations", "value": []}, 403),
        (add(validation_data={"os_hash_algo": "sha256", "os_hash_value": "0" * 64}), 409),
        ({"op": "add", "path": "/locations", "value": []}, 400),
    ):  # fmt: skip
        assert (await patch(image, image_id, bad)).status == status, bad
    told = {"checksum": "1" * 32, "os_hash_algo": "sha512", "os_hash_value": "ab" * 64}
    reply = await patch(image, image_id, add(metadata={"foo": "bar"}, validation_data=told))
    assert reply.status == 200, reply.data
    document = await show(image, image_id)
    assert (document["status"], document["size"], document["checksum"]) == ("active", len(DATA), "1" * 32)
    assert document["locations"] == [{"url": url, "metadata": {"foo": "bar", "store": "web"}}]
    assert (await patch(image, image_id, add())).status == 400
    assert (
        await patch(image, image_id, add(url=f"{url}#2", validation_data={**told, "checksum": "2" * 32}))
    ).status == 409
    assert (await patch(image, image_id, add(url=f"{url}#2", validation_data=told))).status == 200
    held = (await show(image, image_id))["locations"]
    changed = [{**held[0], "metadata": {"date": "1"}}, held[1]]
    assert (await patch(image, image_id, {"op": "replace", "path": "/locations", "value": changed})).status == 200
    for value in ([held[0]], [held[0], {**held[1], "url": f"{url}#3"}]):
        assert (await patch(image, image_id, {"op": "replace", "path": "/locations", "value": value})).status == 400
    assert (await patch(image, image_id, {"op": "remove", "path": "/locations/0"})).status == 403
    assert (await patch(image, image_id, {"op": "remove", "path": "/locations/7"}, token=ADMIN)).status == 400
    assert (await patch(image, image_id, {"op": "remove", "path": "/locations/0"}, token=ADMIN)).status == 200
    assert (await patch(image, image_id, {"op": "remove", "path": "/locations/0"}, token=ADMIN)).status == 403
    assert [one["url"] for one in (await show(image, image_id))["locations"]] == [f"{url}#2"]


# ---- cache


async def test_the_cache(tmp_path: Path) -> None:
    async with cloud(tmp_path) as image:
        for method, path in (("GET", ""), ("PUT", "/x"), ("DELETE", ""), ("POST", "/clean"), ("POST", "/prune")):
            status = (await image.request(method, f"/v2/cache{path}", token=DEMO)).status
            assert status in (403, 404), (method, path)
        assert (await image.request("PUT", "/v2/cache/none", token=ADMIN)).status == 404
        assert (await image.request("PUT", f"/v2/cache/{await make(image)}", token=ADMIN)).status == 400
        image_id = await make(image, data=DATA)
        assert (await image.request("PUT", f"/v2/cache/{image_id}", token=ADMIN)).status == 202
        async with asyncio.timeout(60):
            while not (cached := (await image.request("GET", "/v2/cache", token=ADMIN)).json)["cached_images"]:
                await asyncio.sleep(0.02)
        assert cached["queued_images"] == []
        (entry,) = cached["cached_images"]
        assert (entry["image_id"], entry["size"], entry["hits"]) == (image_id, len(DATA), 0)
        for file in (tmp_path / "cloud/image/store-first").iterdir():
            file.unlink()  # the cache serves what the store lost
        assert (await image.request("GET", f"/v2/images/{image_id}/file")).data == DATA
        hits = (await image.request("GET", "/v2/cache", token=ADMIN)).json["cached_images"][0]["hits"]
        assert hits == 1
        image.configure(cache_max_mib=0)
        pruned = (await image.request("POST", "/v2/cache/prune", token=ADMIN)).json
        assert pruned == {"total_files_pruned": 1, "total_bytes_pruned": len(DATA)}
        assert (await image.request("GET", f"/v2/images/{image_id}/file")).status == 503
        for target, status in (("invalid", 400), ("cache", 204), ("queue", 204), ("", 204)):
            headers = {"x-image-cache-clear-target": target}
            assert (await image.request("DELETE", "/v2/cache", token=ADMIN, headers=headers)).status == status
        assert (await image.request("POST", "/v2/cache/clean", token=ADMIN)).status == 200
        assert (await image.request("DELETE", f"/v2/cache/{image_id}", token=ADMIN)).status == 204
        assert (await image.request("DELETE", "/v2/cache/none", token=ADMIN)).status == 404
        assert (await image.request("GET", f"/v2/cache/nodes/{image_id}", token=ADMIN)).status == 409


async def test_a_machine_that_is_gone_stops_no_cleaning_elsewhere(image: Lone, tmp_path: Path) -> None:
    """What it queued and will never fetch is its own."""
    service = image.inner
    queued = {"node": "gone-for-good", "image_id": "i", "size": 0, "hits": 0, "created_at": 1, "accessed_at": 1}
    await service.database.run(lambda tx: tx.insert(CACHE, queued))
    await service.cached.open()
    (tmp_path / "cloud/image/cache/data-orphan").touch()
    await drop_orphans(service)
    assert await service.cached.list() == []


# ---- tasks


async def test_the_older_way_of_importing(image: Lone, web: Site) -> None:
    told = {
        "import_from": f"{web.url}/disk", "import_from_format": "raw",
        "image_properties": {"name": "t", "container_format": "bare", "visibility": "public", "speed": "88"},
    }  # fmt: skip
    for body, status in (
        ({"type": "import", "input": told}, 201), ({"input": told}, 400), ({"type": "import"}, 400),
        ({"type": "other", "input": told}, 400), ({"type": "import", "input": {}}, 400),
        ({"type": "import", "input": {**told, "import_from": "http://10.0.0.1/"}}, 400),
        ({"type": "import", "input": {**told, "import_from_format": "wrong"}}, 400),
    ):  # fmt: skip
        reply = await image.request("POST", "/v2/tasks", body, token=ADMIN)
        assert reply.status == status, (body, reply.data)
        if status == 201:
            task = reply.json
            assert reply.headers["location"].endswith(f"/v2/tasks/{task['id']}")
            assert (task["status"], task["input"], task["type"]) == ("pending", told, "import")
    assert (await image.request("POST", "/v2/tasks", {"type": "import", "input": told}, token=DEMO)).status == 403
    done = await ended(image, task["image_id"])
    assert (done["status"], done["result"]) == ("success", {"image_id": task["image_id"]})
    document = await show(image, task["image_id"])
    assert (document["status"], document["visibility"], document["speed"]) == ("active", "public", "88")
    assert (await image.request("GET", f"/v2/tasks/{task['id']}", token=ADMIN)).json["status"] == "success"
    assert (await image.request("DELETE", f"/v2/tasks/{task['id']}", token=ADMIN)).status == 405


async def test_lists_of_tasks(image: Lone, web: Site) -> None:
    for _ in range(3):
        image_id = await make(image)
        await start(image, image_id, {"name": "web-download", "uri": f"{web.url}/disk"})
        await ended(image, image_id)
    page = (await image.request("GET", "/v2/tasks?limit=2&sort_dir=asc&status=success", token=ADMIN)).json
    assert (len(page["tasks"]), "input" in page["tasks"][0]) == (2, False)
    rest = (await image.request("GET", page["next"], token=ADMIN)).json
    assert (len(rest["tasks"]), "next" in rest) == (1, False)
    for query, status in (
        ("status=odd", 400), ("type=odd", 400), ("limit=x", 400), ("marker=x", 400), ("sort_dir=up", 400),
        (f"marker={image_id}", 400), ("type=import", 200),
    ):  # fmt: skip
        assert (await image.request("GET", f"/v2/tasks?{query}", token=ADMIN)).status == status, query
    assert (await image.request("GET", "/v2/tasks", token=DEMO)).status == 403


# ---- limits


async def test_unified_limits(image: Lone) -> None:
    lists = image.identity.lists
    for one in image.inners:
        one.limits._asked = -100.0
    lists["registered_limits"] = [
        {"service_id": "played-image", "resource_name": "image_count_total", "default_limit": 5},
        {"service_id": "played-image", "resource_name": "image_size_total", "default_limit": 1},
        {"service_id": "played-image", "resource_name": "image_count_uploading", "default_limit": 1},
    ]
    lists["limits"] = [
        {"service_id": "played-image", "project_id": project("demo"), "resource_name": "image_count_total",
         "resource_limit": 2},
    ]  # fmt: skip
    first = await make(image, data=DATA)
    second = await make(image)
    reply = await image.request("POST", "/v2/images", {"name": "third"})
    assert (reply.status, b"image_count_total of 2" in reply.data) == (413, True)
    usage = (await image.request("GET", "/v2/info/usage")).json["usage"]
    assert usage == {
        "image_size_total": {"usage": 0, "limit": 1}, "image_stage_total": {"usage": 0, "limit": -1},
        "image_count_total": {"usage": 2, "limit": 2}, "image_count_uploading": {"usage": 0, "limit": 1},
    }  # fmt: skip
    assert (await put(image, second, b"x" * 1024 * 1024)).status == 413
    assert (await show(image, second))["status"] == "queued"
    assert (await put(image, second, what="stage")).status == 204
    await image.request("DELETE", f"/v2/images/{first}")
    third = await make(image)
    reply = await put(image, third)
    assert (reply.status, b"image_count_uploading" in reply.data) == (413, True)

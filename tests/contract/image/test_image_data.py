# SPDX-License-Identifier: Apache-2.0
"""Image bytes over HTTP: upload, inspection, broken uploads, staging and import, download, ranges, deactivation."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import struct
import subprocess
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cumulet.image import loops
from cumulet.image.store.file import FileWriter
from cumulet.kernel import clock
from tests.contract.image.lone import ADMIN, ALT, DEMO, READER, Lone
from tests.contract.image.test_images import make, patch

OCTETS = {"content-type": "application/octet-stream"}


async def queued(image: Lone, disk_format: str = "raw", container_format: str = "bare", **more: Any) -> str:
    document = await make(image, disk_format=disk_format, container_format=container_format, **more)
    image_id: str = document["id"]
    return image_id


async def put(image: Lone, image_id: str, data: Any, verb: str = "file", **headers: str) -> Any:
    return await image.request("PUT", f"/v2/images/{image_id}/{verb}", body=data, headers={**OCTETS, **headers})


async def status(image: Lone, image_id: str) -> str:
    reply = await image.request("GET", f"/v2/images/{image_id}", token=ADMIN)
    return str(reply.json["status"])


def files(image: Lone) -> list[str]:
    folder = image.parts.data / "image"
    return sorted(path.name for sub in ("store", "staging") for path in (folder / sub).iterdir())


def qemu_image(path: Path, *arguments: str) -> bytes:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)
    return path.read_bytes()


# ---- upload and download


async def test_upload_and_download(image: Lone) -> None:
    data = os.urandom(3 * 1024 * 1024 + 17)
    image_id = await queued(image)
    path = f"/v2/images/{image_id}"
    assert (await image.request("GET", f"{path}/file")).status == 204
    sent = await put(image, image_id, data)
    assert (sent.status, sent.data) == (204, b"")
    document = (await image.request("GET", path)).json
    assert document["status"] == "active"
    assert document["size"] == document["virtual_size"] == len(data)
    assert document["checksum"] == hashlib.md5(data).hexdigest()
    assert document["os_hash_algo"] == "sha512"
    assert document["os_hash_value"] == hashlib.sha512(data).hexdigest()
    assert document["stores"] == "file"
    got = await image.request("GET", f"{path}/file")
    assert got.status == 200
    assert got.data == data
    assert got.headers["content-length"] == str(len(data))
    assert got.headers["content-md5"] == document["checksum"]
    assert got.headers["content-type"] == "application/octet-stream"
    assert len(files(image)) == 1
    assert (await image.request("DELETE", path)).status == 204
    assert files(image) == []


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-4", (0, 4)), ("bytes=5-", (5, 9)), ("bytes=-3", (7, 9)), ("bytes=-30", (0, 9)),
        ("bytes=9-20", (9, 9)), ("bytes=0-0", (0, 0)),
    ],
)  # fmt: skip
async def test_ranges(image: Lone, header: str, span: tuple[int, int]) -> None:
    image_id = await queued(image)
    await put(image, image_id, b"0123456789")
    reply = await image.request("GET", f"/v2/images/{image_id}/file", headers={"range": header})
    assert reply.status == 206
    assert reply.data == b"0123456789"[span[0] : span[1] + 1]
    assert reply.headers["content-range"] == f"bytes {span[0]}-{span[1]}/10"
    assert reply.headers["content-length"] == str(span[1] - span[0] + 1)


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=5-4", "bytes=-0", "bytes=a-b", "lines=0-4"])
async def test_ranges_that_can_not_be(image: Lone, header: str) -> None:
    image_id = await queued(image)
    await put(image, image_id, b"0123456789")
    assert (await image.request("GET", f"/v2/images/{image_id}/file", headers={"range": header})).status == 416


async def test_memory_stays_flat_both_ways(image: Lone) -> None:
    piece = os.urandom(256 * 1024)

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(400):
            yield piece

    image_id = await queued(image)
    tracemalloc.start()
    try:
        sent = await put(image, image_id, stream())
        assert sent.status == 204
        reply = await image.transport.send("GET", f"/v2/images/{image_id}/file", {"x-auth-token": DEMO})
        size = 0
        async for got in reply.pieces():
            size += len(got)
        assert size == 100 * 1024 * 1024
        assert tracemalloc.get_traced_memory()[1] < 40 * 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_upload_refuses(image: Lone) -> None:
    bare = (await make(image))["id"]
    reply = await put(image, bare, b"x")
    assert reply.status == 400
    assert "disk_format, container_format must be set" in reply.json["message"]
    image_id = await queued(image)
    path = f"/v2/images/{image_id}/file"
    assert (await image.request("PUT", path, body=b"x", headers={"content-type": "text/plain"})).status == 415
    assert (await image.request("PUT", path, body=b"x")).status == 415
    assert (await put(image, image_id, b"x", **{"x-image-meta-store": "other"})).status == 400
    assert (await image.request("PUT", path, body=b"x", headers=OCTETS, token=READER)).status == 403
    assert (await image.request("PUT", path, body=b"x", headers=OCTETS, token=ALT)).status == 404
    assert (await put(image, image_id, b"x", **{"x-openstack-image-size": "many"})).status == 400
    assert (await put(image, image_id, b"x")).status == 204
    assert (await put(image, image_id, b"x")).status == 409
    assert len(files(image)) == 1


# ---- what the content is


async def test_a_good_image_of_each_kind(image: Lone, tmp_path: Path) -> None:
    for kind in ("qcow2", "vmdk", "vdi", "vhdx", "vhd"):
        path = tmp_path / f"disk.{kind}"
        tool = {"vhd": "vpc"}.get(kind, kind)
        options = ["-o", "subformat=streamOptimized"] if kind == "vmdk" else []
        raw = tmp_path / "disk.raw"
        raw.write_bytes(os.urandom(65536) + bytes(4 * 1024 * 1024))
        data = qemu_image(path, "convert", "-f", "raw", "-O", tool, *options, str(raw), str(path))
        image_id = await queued(image, kind)
        reply = await put(image, image_id, data)
        assert reply.status == 204, (kind, reply.data)
        document = (await image.request("GET", f"/v2/images/{image_id}")).json
        assert document["virtual_size"] >= 4 * 1024 * 1024 + 65536
        assert document["size"] == len(data)


async def test_content_that_is_something_else_or_names_other_files_is_refused(image: Lone, tmp_path: Path) -> None:
    base, disk = tmp_path / "base.qcow2", tmp_path / "x.qcow2"
    plain = qemu_image(base, "create", "-f", "qcow2", str(base), "8M")
    backed = qemu_image(disk, "create", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(disk), "8M")
    disk.unlink()
    external = qemu_image(disk, "create", "-f", "qcow2", "-o", f"data_file={tmp_path}/d,data_file_raw=on",
                          str(disk), "8M")  # fmt: skip
    flat = tmp_path / "flat.vmdk"
    extents = qemu_image(flat, "create", "-f", "vmdk", "-o", "subformat=monolithicFlat", str(flat), "8M")
    broken = bytearray(plain)
    broken[4:8] = struct.pack(">I", 99)
    cases: list[tuple[str, bytes]] = [
        ("qcow2", os.urandom(1024 * 1024)),
        ("qcow2", b""),
        ("qcow2", backed),
        ("qcow2", external),
        ("qcow2", bytes(broken)),
        ("raw", plain),
        ("raw", backed),
        ("vmdk", plain),
        ("vmdk", extents),
        ("vdi", gzip.compress(plain)),
        ("ami", plain),
    ]
    for kind, data in cases:
        image_id = await queued(image, kind)
        reply = await put(image, image_id, data)
        assert reply.status == 415, (kind, data[:8], reply.status)
        document = (await image.request("GET", f"/v2/images/{image_id}")).json
        assert document["status"] == "queued"
        assert document["size"] is document["checksum"] is document["os_hash_value"] is None
        assert files(image) == []
    again = await queued(image, "qcow2")
    assert (await put(image, again, backed)).status == 415
    assert (await put(image, again, plain)).status == 204  # a refused upload may be tried again


async def test_what_is_packed_is_not_looked_into(image: Lone) -> None:
    image_id = await queued(image, "qcow2", "compressed")
    assert (await put(image, image_id, gzip.compress(b"anything"))).status == 204


# ---- what breaks


async def test_a_client_that_goes_away_leaves_the_image_queued(image: Lone) -> None:
    image_id = await queued(image)
    events = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]
    for length in (None, b"100"):
        headers = [(b"x-auth-token", DEMO.encode()), (b"content-type", b"application/octet-stream")]
        if length is not None:
            headers.append((b"content-length", length))
        pending = iter(events)
        answer: list[Any] = []

        async def receive(pending: Any = pending) -> Any:
            return next(pending, {"type": "http.disconnect"})

        async def send(message: Any, answer: list[Any] = answer) -> None:
            answer.append(message)

        path = f"/v2/images/{image_id}/file"
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "PUT", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers,
            "client": ("127.0.0.1", 1), "server": ("localhost", 80),
        }  # fmt: skip
        await image.service.roles[0].app(scope, receive, send)
        assert answer[0]["status"] == 400
        assert await status(image, image_id) == "queued"
        assert files(image) == []


async def test_fewer_bytes_than_announced(image: Lone) -> None:
    image_id = await queued(image)
    assert (await put(image, image_id, b"half", **{"x-openstack-image-size": "100"})).status == 400
    assert await status(image, image_id) == "queued"
    assert files(image) == []


async def test_a_client_that_stalls(image: Lone) -> None:
    image.configure(stall_seconds=0.05)
    image_id = await queued(image)

    async def stream() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(1)
        yield b"rest"

    assert (await put(image, image_id, stream())).status == 400
    assert await status(image, image_id) == "queued"
    assert files(image) == []


async def test_a_full_disk(image: Lone, monkeypatch: pytest.MonkeyPatch) -> None:
    image_id = await queued(image)
    write = FileWriter.write

    def fail(self: FileWriter, piece: bytes) -> None:
        self._file.close()
        self._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - closed by the writer itself
        write(self, piece)

    monkeypatch.setattr(FileWriter, "write", fail)
    reply = await put(image, image_id, b"x" * 5000)
    assert reply.status == 413
    assert "full" in reply.json["message"]
    assert await status(image, image_id) == "queued"
    assert files(image) == []


async def test_limits_of_size(image: Lone) -> None:
    image.configure(size_cap_bytes=10)
    image_id = await queued(image)
    assert (await put(image, image_id, b"x" * 11)).status == 413

    async def stream() -> AsyncIterator[bytes]:
        yield b"x" * 11

    assert (await put(image, image_id, stream())).status == 413
    image.configure(size_cap_bytes=2**40)
    image.configure(total_mib_quota=1)
    assert (await put(image, image_id, b"x" * (1024 * 1024 + 1))).status == 413
    assert await status(image, image_id) == "queued"
    assert files(image) == []
    assert (await put(image, image_id, b"x" * 1024 * 1024)).status == 204
    assert (await put(image, await queued(image), b"x")).status == 413


async def test_delete_while_data_comes(image: Lone) -> None:
    image_id = await queued(image)

    async def stream() -> AsyncIterator[bytes]:
        yield b"x" * 100
        assert await status(image, image_id) == "saving"
        assert (await image.request("DELETE", f"/v2/images/{image_id}")).status == 204
        yield b"x" * 100

    assert (await put(image, image_id, stream())).status == 410
    assert files(image) == []
    assert (await image.request("GET", f"/v2/images/{image_id}")).status == 404


async def test_two_uploads_at_once(image: Lone) -> None:
    image_id = await queued(image)

    async def stream() -> AsyncIterator[bytes]:
        yield b"first"
        assert (await put(image, image_id, b"second")).status == 409

    assert (await put(image, image_id, stream())).status == 204
    assert (await image.request("GET", f"/v2/images/{image_id}/file")).data == b"first"


async def test_a_killed_upload_is_given_up_and_its_file_removed(image: Lone) -> None:
    image_id = await queued(image)
    inner = image.inner
    folder = image.parts.data / "image" / "store"

    async def stream() -> AsyncIterator[bytes]:
        yield b"x" * 100
        # what a killed process would leave: a busy record that nobody reports on, and a file
        late = clock.now() - 2 * inner.config.lost_seconds
        from cumulet.image.models import images

        statement = images.update().where(images.c.id == image_id).values(upload_seen_at=late)
        await inner.database.run(lambda tx: tx.run(statement))
        await loops.drop_orphans(inner)
        assert len(list(folder.iterdir())) == 1  # still held by the record
        await loops.drop_lost_uploads(inner)
        assert await status(image, image_id) == "queued"
        await loops.drop_orphans(inner)
        assert list(folder.iterdir()) == []
        yield b"x" * 100

    # the process that was believed dead wakes up and finds the door closed
    assert (await put(image, image_id, stream())).status in (410, 503)
    assert await status(image, image_id) == "queued"
    assert files(image) == []
    assert (await put(image, image_id, b"good")).status == 204


async def test_deleted_records_are_purged_in_time(image: Lone) -> None:
    image_id = await queued(image)
    await image.request("DELETE", f"/v2/images/{image_id}")
    await loops.purge(image.inner)
    assert (await image.request("POST", "/v2/images", {"id": image_id})).status == 409
    image.configure(keep_deleted_days=0)
    await loops.purge(image.inner)
    assert (await image.request("POST", "/v2/images", {"id": image_id})).status == 201


# ---- staging and import


async def wait_for(image: Lone, image_id: str, goal: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            document: dict[str, Any] = (await image.request("GET", f"/v2/images/{image_id}")).json
            if document["status"] == goal:
                return document
            await asyncio.sleep(0.01)


async def test_import_of_staged_data(image: Lone) -> None:
    data = os.urandom(100_000)
    image_id = await queued(image)
    assert (await put(image, image_id, data, "stage")).status == 204
    assert await status(image, image_id) == "uploading"
    method = {"method": {"name": "glance-direct"}}
    started = await image.request("POST", f"/v2/images/{image_id}/import", method)
    assert started.status == 202
    document = await wait_for(image, image_id, "active")
    assert document["os_hash_value"] == hashlib.sha512(data).hexdigest()
    assert (await image.request("GET", f"/v2/images/{image_id}/file")).data == data
    async with asyncio.timeout(60):
        while (await tasks(image, image_id))[0]["status"] != "success":
            await asyncio.sleep(0.01)
    (task,) = await tasks(image, image_id)
    assert task["request_id"] == started.headers["x-openstack-request-id"]
    assert task["input"]["import_req"] == method
    assert (await image.request("GET", f"/v2/tasks/{task['id']}")).status == 403
    shown = (await image.request("GET", f"/v2/tasks/{task['id']}", token=ADMIN)).json
    assert {**task, "self": shown["self"], "schema": "/v2/schemas/task"} == {
        **shown,
        "deleted": False,
        "deleted_at": None,
    }
    listed = (await image.request("GET", "/v2/tasks", token=ADMIN)).json["tasks"]
    assert [one["id"] for one in listed] == [task["id"]]
    async with asyncio.timeout(60):
        while len(files(image)) != 1:
            await asyncio.sleep(0.01)
    assert (await image.request("POST", f"/v2/images/{image_id}/import", method)).status == 409


async def tasks(image: Lone, image_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await image.request("GET", f"/v2/images/{image_id}/tasks")).json["tasks"]
    return found


async def test_a_refused_import_goes_back_to_queued(image: Lone) -> None:
    image_id = await queued(image, "qcow2")
    assert (await put(image, image_id, b"no disk", "stage")).status == 204
    method = {"method": {"name": "glance-direct"}}
    assert (await image.request("POST", f"/v2/images/{image_id}/import", method)).status == 202
    await wait_for(image, image_id, "queued")
    async with asyncio.timeout(60):
        while (await tasks(image, image_id))[0]["status"] != "failure" or files(image):
            await asyncio.sleep(0.01)
    assert "does not match" in (await tasks(image, image_id))[0]["message"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, 400), ({"method": {}}, 400), ({"method": {"name": "web-download"}}, 400), ({"method": "x"}, 400),
        ({"method": {"name": "glance-direct"}, "all_stores": "x"}, 400),
        ({"method": {"name": "glance-direct"}, "stores": ["x"]}, 409),
        ({"method": {"name": "glance-direct"}}, 409),
    ],
)  # fmt: skip
async def test_import_refuses(image: Lone, body: dict[str, Any], expected: int) -> None:
    image_id = await queued(image)
    assert (await image.request("POST", f"/v2/images/{image_id}/import", body)).status == expected


# ---- deactivation, store


async def test_deactivated_data_is_for_admin_only(image: Lone) -> None:
    image_id = await queued(image)
    path = f"/v2/images/{image_id}"
    assert (await image.request("POST", f"{path}/actions/deactivate")).status == 403  # not active yet
    await put(image, image_id, b"x")
    for _ in range(2):
        assert (await image.request("POST", f"{path}/actions/deactivate")).status == 204
    assert await status(image, image_id) == "deactivated"
    refused = await image.request("GET", f"{path}/file")
    assert refused.status == 403
    assert "deactivated" in refused.json["message"]
    assert (await image.request("GET", f"{path}/file", token=ADMIN)).data == b"x"
    for _ in range(2):
        assert (await image.request("POST", f"{path}/actions/reactivate")).status == 204
    assert (await image.request("GET", f"{path}/file")).data == b"x"
    frozen = await patch(image, image_id, {"op": "replace", "path": "/disk_format", "value": "qcow2"})
    assert frozen.status == 403


async def test_the_only_copy_stays(image: Lone) -> None:
    image_id = await queued(image)
    await put(image, image_id, b"x")
    assert (await image.request("DELETE", f"/v2/stores/other/{image_id}", token=ADMIN)).status == 409
    assert (await image.request("DELETE", f"/v2/stores/file/{image_id}", token=ADMIN)).status == 403
    assert (await image.request("DELETE", f"/v2/stores/file/{image_id}")).status == 403


async def test_a_reader_may_not_download(image: Lone) -> None:
    image_id = await queued(image)
    await put(image, image_id, b"x")
    assert (await image.request("GET", f"/v2/images/{image_id}/file", token=READER)).status == 403

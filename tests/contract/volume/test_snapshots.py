# SPDX-License-Identifier: Apache-2.0
"""Snapshots over HTTP: create, list, change, delete, volumes made from them, deletes that cascade."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.image.lone import ADMIN, ALT, DEMO, READER, project
from tests.contract.volume.volumes import Volumes

NOWHERE = "5f4b7c9a-0000-4000-8000-000000000000"


async def snap(
    volumes: Volumes, volume_id: str, *, wait: str | None = "available", version: str = "3.71", **body: Any
) -> dict[str, Any]:
    reply = await volumes.request("POST", "/snapshots", {"snapshot": {"volume_id": volume_id, **body}}, version=version)
    assert reply.status == 202, reply.data
    document: dict[str, Any] = reply.json["snapshot"]
    return await volumes.wait(document["id"], wait, kind="snapshot") if wait else document


async def test_create_answers_the_published_document(volumes: Volumes) -> None:
    volume = await volumes.make(size=2)
    made = await snap(volumes, volume["id"], name="s", description="d", metadata={"a": "b"}, wait=None)
    assert made["status"] == "creating"
    await volumes.wait(made["id"], "available", kind="snapshot")
    shown = (await volumes.request("GET", f"/snapshots/{made['id']}")).json["snapshot"]
    assert shown == {
        "id": made["id"], "name": "s", "description": "d", "volume_id": volume["id"], "status": "available",
        "size": 2, "metadata": {"a": "b"}, "created_at": made["created_at"], "updated_at": shown["updated_at"],
        "group_snapshot_id": None, "user_id": project("demo"), "consumes_quota": True,
        "os-extended-snapshot-attributes:progress": "100%",
        "os-extended-snapshot-attributes:project_id": project("demo"),
    }  # fmt: skip
    old = (await volumes.request("GET", f"/snapshots/{made['id']}", version="3.13")).json["snapshot"]
    assert not {"group_snapshot_id", "user_id", "consumes_quota"} & set(old)
    assert await volumes.used() == {"volumes": 1, "gigabytes": 4, "snapshots": 1}
    listed = (await volumes.request("GET", "/snapshots")).json["snapshots"]
    assert set(listed[0]) == {
        "id", "name", "description", "volume_id", "status", "size", "metadata", "created_at", "updated_at",
    }  # fmt: skip


async def test_a_volume_of_a_snapshot(volumes: Volumes) -> None:
    volume = await volumes.make(size=2)
    made = await snap(volumes, volume["id"])
    copy = await volumes.make(size=None, snapshot_id=made["id"])
    assert (copy["size"], copy["snapshot_id"]) == (2, made["id"])
    small = await volumes.request("POST", "/volumes", {"volume": {"size": 1, "snapshot_id": made["id"]}})
    assert small.status == 400


async def test_a_volume_with_snapshots_is_deleted_only_with_them(volumes: Volumes) -> None:
    volume = await volumes.make()
    made = await snap(volumes, volume["id"])
    assert (await volumes.request("DELETE", f"/volumes/{volume['id']}")).status == 400
    assert (await volumes.request("DELETE", f"/volumes/{volume['id']}?cascade=True")).status == 202
    await volumes.wait_gone(volume["id"])
    await volumes.wait_gone(made["id"], "snapshot")
    assert await volumes.used() == {"volumes": 0, "gigabytes": 0, "snapshots": 0}


async def test_lists_filters_and_changes(volumes: Volumes) -> None:
    volume, other = await volumes.make(), await volumes.make()
    one = await snap(volumes, volume["id"], name="one", metadata={"k": "v"})
    two = await snap(volumes, other["id"], name="two")

    async def found(query: str) -> list[str]:
        reply = await volumes.request("GET", f"/snapshots/detail?{query}")
        assert reply.status == 200, reply.data
        return [document["name"] for document in reply.json["snapshots"]]

    assert await found("") == ["two", "one"]
    assert await found("sort=name:asc") == ["one", "two"]
    assert await found(f"volume_id={volume['id']}") == ["one"]
    assert await found("name=two&status=available") == ["two"]
    assert await found("metadata={'k':'v'}") == ["one"]
    assert await found("limit=1") == ["two"]
    assert await found(f"limit=1&marker={two['id']}") == ["one"]
    assert (await volumes.request("GET", "/snapshots", token=ALT)).json["snapshots"] == []
    path = f"/snapshots/{one['id']}"
    changed = await volumes.request("PUT", path, {"snapshot": {"name": "neu"}})
    assert changed.json["snapshot"]["name"] == "neu"
    assert (await volumes.request("PUT", path, {"snapshot": {}})).status == 400
    meta = f"{path}/metadata"
    assert (await volumes.request("POST", meta, {"metadata": {"x": "y"}})).json["metadata"] == {"k": "v", "x": "y"}
    assert (await volumes.request("PUT", f"{meta}/x", {"meta": {"x": "z"}})).json == {"meta": {"x": "z"}}
    assert (await volumes.request("DELETE", f"{meta}/k")).status == 200
    assert (await volumes.request("GET", f"{meta}/k")).status == 404
    assert (await volumes.request("GET", f"{meta}/x")).json == {"meta": {"x": "z"}}
    assert (await volumes.request("GET", meta)).json == {"metadata": {"x": "z"}}
    assert (await volumes.request("PUT", meta, {"metadata": {"q": "r"}})).json == {"metadata": {"q": "r"}}


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 400), ({"volume_id": "x"}, 400), ({"volume_id": NOWHERE}, 404), ({"volume_id": NOWHERE, "x": 1}, 400)],
)
async def test_create_refuses(volumes: Volumes, body: dict[str, Any], status: int) -> None:
    assert (await volumes.request("POST", "/snapshots", {"snapshot": body})).status == status


async def test_of_a_volume_in_use_only_by_force_until_3_66(volumes: Volumes) -> None:
    volume = await volumes.make()
    await volumes.act(volume["id"], "os-attach", {"instance_uuid": NOWHERE, "mountpoint": "/dev/vdb"})
    body = {"snapshot": {"volume_id": volume["id"]}}
    refused = await volumes.request("POST", "/snapshots", body, version="3.65")
    assert refused.status == 400
    await snap(volumes, volume["id"], force="True", version="3.65")
    await snap(volumes, volume["id"])
    await snap(volumes, volume["id"], force=True)
    bad = {"snapshot": {"volume_id": volume["id"], "force": False}}
    assert (await volumes.request("POST", "/snapshots", bad)).status == 400


async def test_failure_quota_and_delete(volumes: Volumes) -> None:
    volume = await volumes.make()
    volumes.knobs.failures["ensure_snapshot"] = "no"
    failed = await snap(volumes, volume["id"], wait="error")
    volumes.knobs.failures.clear()
    assert (await volumes.request("DELETE", f"/snapshots/{failed['id']}", token=READER)).status == 403
    assert (await volumes.request("DELETE", f"/snapshots/{failed['id']}", token=ALT)).status == 404
    assert (await volumes.request("DELETE", f"/snapshots/{failed['id']}")).status == 202
    await volumes.wait_gone(failed["id"], "snapshot")
    await volumes.request("PUT", f"/os-quota-sets/{project('demo')}", {"quota_set": {"snapshots": 1}}, token=ADMIN)
    await snap(volumes, volume["id"])
    over = await volumes.request("POST", "/snapshots", {"snapshot": {"volume_id": volume["id"]}}, token=DEMO)
    assert over.status == 413
    assert over.json["overLimit"]["message"] == "Maximum number of snapshots allowed (1) exceeded"


async def test_operators_actions(volumes: Volumes) -> None:
    volume = await volumes.make()
    made = await snap(volumes, volume["id"])
    path = f"/snapshots/{made['id']}/action"
    reset: dict[str, Any] = {"os-reset_status": {"status": "deleting"}}
    assert (await volumes.request("POST", path, reset)).status == 403
    assert (await volumes.request("POST", path, reset, token=ADMIN)).status == 202
    assert (await volumes.request("DELETE", f"/snapshots/{made['id']}")).status == 400
    nonsense = {"os-reset_status": {"status": "nonsense"}}
    assert (await volumes.request("POST", path, nonsense, token=ADMIN)).status == 400
    creating = {"os-reset_status": {"status": "creating"}}
    assert (await volumes.request("POST", path, creating, token=ADMIN)).status == 202
    told: dict[str, Any] = {"os-update_snapshot_status": {"status": "creating", "progress": "40%"}}
    assert (await volumes.request("POST", path, told)).status == 202
    shown = (await volumes.request("GET", f"/snapshots/{made['id']}")).json["snapshot"]
    assert shown["os-extended-snapshot-attributes:progress"] == "40%"
    told["os-update_snapshot_status"] = {"status": "available"}
    assert (await volumes.request("POST", path, told)).status == 202
    assert (await volumes.request("POST", path, told)).status == 400  # nobody makes it any more
    assert (await volumes.request("POST", path, {"os-force_delete": {}}, token=ADMIN)).status == 202
    await volumes.wait_gone(made["id"], "snapshot")

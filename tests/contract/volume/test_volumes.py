# SPDX-License-Identifier: Apache-2.0
"""Volumes over HTTP: discovery, create in all ways, lists, changes, extend, delete, quotas, errors."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.contract.image.lone import ADMIN, ALT, DEMO, READER, project
from tests.contract.volume.volumes import Volumes

NOWHERE = "5f4b7c9a-0000-4000-8000-000000000000"


async def active_image(volumes: Volumes, data: bytes = b"boot" * 1000, **more: Any) -> str:
    body = {"name": "boot", "disk_format": "raw", "container_format": "bare", "os_distro": "debian", **more}
    image = (await volumes.image.request("POST", "/v2/images", body, token=ADMIN)).json
    octets = {"content-type": "application/octet-stream"}
    path = f"/v2/images/{image['id']}/file"
    assert (await volumes.image.request("PUT", path, body=data, headers=octets, token=ADMIN)).status == 204
    image_id: str = image["id"]
    return image_id


# ---- discovery


async def test_versions_need_no_token(volumes: Volumes) -> None:
    root = await volumes.lone.request("GET", "/", token=None)
    v3 = await volumes.lone.request("GET", "/v3/", token=None)
    assert (root.status, v3.status) == (300, 200)
    assert root.json == v3.json
    (version,) = v3.json["versions"]
    assert (version["id"], version["version"], version["min_version"]) == ("v3.0", "3.71", "3.0")
    assert {"rel": "self", "href": "http://localhost/volume/v3/"} in version["links"]


async def test_microversions(volumes: Volumes) -> None:
    plain = await volumes.request("GET", "/volumes", version=None)
    assert plain.headers["openstack-api-version"] == "volume 3.0"
    assert plain.headers["vary"] == "OpenStack-API-Version"
    assert (await volumes.request("GET", "/volumes", version="latest")).headers["openstack-api-version"].endswith("71")
    assert (await volumes.request("GET", "/volumes", version="3.72")).status == 406
    assert (await volumes.request("GET", "/volumes", version="x")).status == 400
    assert (await volumes.request("GET", "/attachments", version="3.26")).status == 404
    assert (await volumes.request("GET", "/volumes/summary", version="3.11")).status == 404


async def test_the_project_in_the_path_is_the_callers_own(volumes: Volumes) -> None:
    assert (await volumes.request("GET", f"/{project('demo')}/volumes")).status == 200
    assert (await volumes.request("GET", f"/{project('alt')}/volumes")).status == 400


# ---- create and show


async def test_create_answers_the_published_document(volumes: Volumes) -> None:
    reply = await volumes.request(
        "POST", "/volumes", {"volume": {"size": "2", "name": " v ", "description": "d", "metadata": {"a": "b"}}}
    )
    assert reply.status == 202
    created = reply.json["volume"]
    assert created["status"] == "creating"
    assert created["created_at"].count(":") == 2
    assert not created["created_at"].endswith("Z")
    shown = await volumes.wait(created["id"], "available", token=DEMO)
    base = f"http://localhost/volume/v3/volumes/{created['id']}"
    assert shown == {
        "id": created["id"], "status": "available", "size": 2, "availability_zone": "nova",
        "created_at": created["created_at"], "updated_at": shown["updated_at"], "name": "v", "description": "d",
        "volume_type": "__DEFAULT__", "volume_type_id": shown["volume_type_id"], "snapshot_id": None,
        "source_volid": None, "metadata": {"a": "b"}, "user_id": project("demo"), "bootable": "false",
        "encrypted": False, "replication_status": None, "consistencygroup_id": None, "multiattach": False,
        "attachments": [], "group_id": None, "shared_targets": False, "service_uuid": None, "consumes_quota": True,
        "os-vol-tenant-attr:tenant_id": project("demo"),
        "links": [{"rel": "self", "href": base}, {"rel": "bookmark", "href": base.replace("/v3/", "/")}],
    }  # fmt: skip
    for name in ("os-vol-tenant-attr:tenant_id", "os-vol-host-attr:host"):
        assert name not in created
    admin = (await volumes.request("GET", f"/volumes/{created['id']}", token=ADMIN)).json["volume"]
    assert admin["os-vol-host-attr:host"] == "node-1@simulated#simulated"
    assert {"migration_status", "os-vol-mig-status-attr:migstat", "cluster_name", "provider_id"} <= set(admin)


@pytest.mark.parametrize(
    ("version", "absent", "present"),
    [
        ("3.0", {"group_id", "shared_targets", "volume_type_id", "consumes_quota"}, {"volume_type", "multiattach"}),
        ("3.12", {"group_id"}, set()),
        ("3.13", {"shared_targets"}, {"group_id"}),
        ("3.47", {"shared_targets", "service_uuid"}, set()),
        ("3.48", {"volume_type_id"}, {"shared_targets", "service_uuid"}),
        ("3.62", {"volume_type_id"}, set()),
        ("3.63", {"consumes_quota"}, {"volume_type_id"}),
        ("3.64", {"consumes_quota"}, set()),
        ("3.65", set(), {"consumes_quota"}),
    ],
)
async def test_keys_appear_with_their_version(
    volumes: Volumes, version: str, absent: set[str], present: set[str]
) -> None:
    made = await volumes.make()
    shown = (await volumes.request("GET", f"/volumes/{made['id']}", version=version)).json["volume"]
    assert not absent & set(shown)
    assert present <= set(shown)


async def test_a_volume_of_an_image(volumes: Volumes) -> None:
    image_id = await active_image(volumes, min_disk=1, visibility="public")
    made = await volumes.make(imageRef=image_id)
    assert made["bootable"] == "true"
    facts = made["volume_image_metadata"]
    assert (facts["image_id"], facts["image_name"], facts["min_disk"]) == (image_id, "boot", "1")
    assert facts["os_distro"] == "debian"
    by_name = await volumes.make(imageRef="boot")
    assert by_name["volume_image_metadata"]["image_id"] == image_id
    listed = (await volumes.request("GET", "/volumes/detail")).json["volumes"]
    assert {one["volume_image_metadata"]["image_id"] for one in listed} == {image_id}


async def test_an_image_must_fit_and_be_there(volumes: Volumes) -> None:
    big = await active_image(volumes, min_disk=2, visibility="public")
    reply = await volumes.request("POST", "/volumes", {"volume": {"size": 1, "imageRef": big}})
    assert reply.status == 400
    assert "minDisk" in reply.json["badRequest"]["message"]
    private = await active_image(volumes, visibility="private", name="hidden")
    for reference in (private, "hidden", NOWHERE):
        reply = await volumes.request("POST", "/volumes", {"volume": {"size": 1, "imageRef": reference}})
        assert reply.status == 400, reference
    queued = await volumes.image.request("POST", "/v2/images", {"visibility": "community"})
    reply = await volumes.request("POST", "/volumes", {"volume": {"size": 1, "imageRef": queued.json["id"]}})
    assert "is not active" in reply.json["badRequest"]["message"]
    assert await volumes.used() == {"volumes": 0, "gigabytes": 0, "snapshots": 0}


async def test_an_image_whose_bytes_are_lost_makes_no_volume(volumes: Volumes) -> None:
    image_id = await active_image(volumes, os.urandom(5000), visibility="public")
    (stored,) = (volumes.image.parts.data / "image" / "store").iterdir()
    stored.write_bytes(os.urandom(5000))
    made = await volumes.make(imageRef=image_id, wait=None)
    await volumes.request("POST", f"/volumes/{made['id']}/action", {"os-force_delete": {}}, token=ADMIN)
    await volumes.wait_gone(made["id"])
    assert await volumes.used() == {"volumes": 0, "gigabytes": 0, "snapshots": 0}
    assert list((volumes.lone.parts.data / "volume" / "node-1.images").iterdir()) == []


async def test_a_clone_of_a_volume(volumes: Volumes) -> None:
    image_id = await active_image(volumes, visibility="public")
    source = await volumes.make(imageRef=image_id)
    clone = await volumes.make(source_volid=source["id"], size=None)
    assert (clone["size"], clone["source_volid"], clone["bootable"]) == (1, source["id"], "true")
    assert clone["volume_image_metadata"]["image_id"] == image_id
    bigger = await volumes.make(source_volid=source["id"], size=3)
    assert bigger["size"] == 3
    reply = await volumes.request("POST", "/volumes", {"volume": {"size": 2, "source_volid": bigger["id"]}})
    assert reply.status == 400
    assert (await volumes.request("POST", "/volumes", {"volume": {"source_volid": NOWHERE}})).status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"size": 0}, 400),
        ({"size": -1}, 400),
        ({"size": "x"}, 400),
        ({"size": 1.5}, 400),
        ({"size": 2**31}, 400),
        ({"size": 1, "name": "x" * 256}, 400),
        ({"size": 1, "metadata": {"a": 1}}, 400),
        ({"size": 1, "metadata": {"a" * 256: "x"}}, 400),
        ({"size": 1, "unknown": "x"}, 400),
        ({"size": 1, "snapshot_id": "x"}, 400),
        ({"size": 1, "snapshot_id": NOWHERE}, 404),
        ({"size": 1, "volume_type": "nonsense"}, 404),
        ({"size": 1, "volume_type": NOWHERE}, 404),
        ({"size": 1, "availability_zone": "mars"}, 400),
        ({"size": 1, "multiattach": True}, 400),
        ({"size": 1, "consistencygroup_id": NOWHERE}, 404),
        ({"size": 1, "snapshot_id": NOWHERE, "source_volid": NOWHERE}, 400),
    ],
)
async def test_create_refuses(volumes: Volumes, body: dict[str, Any], status: int) -> None:
    reply = await volumes.request("POST", "/volumes", {"volume": body})
    assert reply.status == status, reply.data
    assert (await volumes.request("GET", "/volumes")).json["volumes"] == []
    assert await volumes.used() == {"volumes": 0, "gigabytes": 0, "snapshots": 0}


async def test_unknown_members_are_let_through_until_3_53(volumes: Volumes) -> None:
    body = {"volume": {"size": 1, "unknown": "x"}}
    assert (await volumes.request("POST", "/volumes", body, version="3.52")).status == 202
    assert (await volumes.request("POST", "/volumes", body, version="3.53")).status == 400


async def test_readers_look_and_strangers_see_nothing(volumes: Volumes) -> None:
    made = await volumes.make()
    path = f"/volumes/{made['id']}"
    assert (await volumes.request("GET", path, token=READER)).status == 200
    assert (await volumes.request("POST", "/volumes", {"volume": {"size": 1}}, token=READER)).status == 403
    for method, body in (("PUT", {"volume": {"name": "x"}}), ("DELETE", None)):
        assert (await volumes.request(method, path, body, token=READER)).status == 403
        assert (await volumes.request(method, path, body, token=ALT)).status == 404
    assert (await volumes.request("GET", path, token=ALT)).status == 404
    assert (await volumes.request("GET", "/volumes", token=ALT)).json == {"volumes": []}
    nobody = await volumes.request("GET", path, token=None)
    assert nobody.status == 401
    assert nobody.json["error"]["code"] == 401


# ---- lists


async def test_pages_go_through_all_volumes_once(volumes: Volumes) -> None:
    made = [(await volumes.make(name=f"v{n % 2}", wait=None))["id"] for n in range(5)]
    for sort in ("", "&sort=name:asc,size", "&sort_key=size&sort_dir=asc"):
        path, seen = f"/volumes?limit=2{sort}", []
        for _ in range(10):
            page = (await volumes.request("GET", path)).json
            seen += [one["id"] for one in page["volumes"]]
            if "volumes_links" not in page:
                break
            (link,) = page["volumes_links"]
            assert link["rel"] == "next"
            path = link["href"].removeprefix("http://localhost/volume/v3")
        assert sorted(seen) == sorted(made), sort
    counted = (await volumes.request("GET", "/volumes/detail?limit=1&with_count=true")).json
    assert counted["count"] == 5
    assert len(counted["volumes"]) == 1
    offset = (await volumes.request("GET", "/volumes?offset=3")).json["volumes"]
    assert [one["id"] for one in offset] == list(reversed(made))[3:]


async def test_filters(volumes: Volumes) -> None:
    a = await volumes.make(name="alpha", metadata={"k": "v", "n": "1"})
    b = await volumes.make(name="beta", size=2, metadata={"k": "v"})
    await volumes.make(name="gamma", token=ALT)
    every = {a["id"]: "a", b["id"]: "b"}

    async def found(query: str, token: str = DEMO, version: str = "3.71") -> str:
        reply = await volumes.request("GET", f"/volumes?{query}", token=token, version=version)
        assert reply.status == 200, reply.data
        return "".join(sorted(every.get(one["id"], "?") for one in reply.json["volumes"]))

    assert await found("") == "ab"
    assert await found("name=alpha") == "a"
    assert await found("name~=et") == "b"
    assert await found("status=available&size=2") == "b"
    assert await found("metadata=%7B%27k%27%3A%27v%27%7D") == "ab"
    assert await found("metadata=%7B%22n%22%3A%221%22%7D") == "a"
    assert await found("bootable=true") == ""
    assert await found("bootable=false") == "ab"
    assert await found("availability_zone=nova") == "ab"
    assert await found(f"created_at=gt:{a['created_at']}") == "b"
    assert await found("all_tenants=1") == "ab"
    assert await found("all_tenants=1", ADMIN) == "?ab"
    assert await found(f"all_tenants=1&project_id={project('demo')}", ADMIN) == "ab"
    assert await found("", ADMIN) == ""
    assert await found("color=red", version="3.30") == "ab"
    assert (await volumes.request("GET", "/volumes?color=red")).status == 400


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=x", 400), ("limit=-1", 400), ("offset=x", 400), (f"marker={NOWHERE}", 404), ("sort=color", 400),
        ("sort=name:up", 400), ("sort=name&sort_key=size", 400), ("metadata=x", 400), ("metadata=[1]", 400),
        ("created_at=x", 400), ("created_at=near:2026-01-01", 400), ("bootable=perhaps", 400),
    ],
)  # fmt: skip
async def test_a_senseless_query(volumes: Volumes, query: str, status: int) -> None:
    assert (await volumes.request("GET", f"/volumes?{query}")).status == status


async def test_the_summary(volumes: Volumes) -> None:
    await volumes.make(metadata={"k": "a"})
    await volumes.make(size=2, metadata={"k": "b"})
    assert (await volumes.request("GET", "/volumes/summary", version="3.12")).json == {
        "volume-summary": {"total_count": 2, "total_size": 3}
    }
    newest = (await volumes.request("GET", "/volumes/summary")).json["volume-summary"]
    assert sorted(newest["metadata"]["k"]) == ["a", "b"]


# ---- changes


async def test_update_and_metadata(volumes: Volumes) -> None:
    made = await volumes.make(metadata={"a": "1"})
    path = f"/volumes/{made['id']}"
    named = await volumes.request("PUT", path, {"volume": {"name": "n", "description": None}})
    assert (named.json["volume"]["name"], named.json["volume"]["metadata"]) == ("n", {"a": "1"})
    assert (await volumes.request("PUT", path, {"volume": {"display_name": "m"}})).json["volume"]["name"] == "m"
    assert (await volumes.request("PUT", path, {"volume": {}})).status == 400
    assert (await volumes.request("PUT", path, {"volume": {}}, version="3.52")).status == 200
    assert (await volumes.request("PUT", path, {"volume": {"size": 5}})).status == 400
    meta = f"{path}/metadata"
    assert (await volumes.request("POST", meta, {"metadata": {"b": "2"}})).json == {"metadata": {"a": "1", "b": "2"}}
    assert (await volumes.request("GET", meta)).json == {"metadata": {"a": "1", "b": "2"}}
    assert (await volumes.request("GET", f"{meta}/b")).json == {"meta": {"b": "2"}}
    assert (await volumes.request("PUT", f"{meta}/b", {"meta": {"b": "3"}})).json == {"meta": {"b": "3"}}
    assert (await volumes.request("PUT", f"{meta}/b", {"meta": {"c": "3"}})).status == 400
    assert (await volumes.request("DELETE", f"{meta}/a")).status == 200
    assert (await volumes.request("DELETE", f"{meta}/a")).status == 404
    assert (await volumes.request("GET", f"{meta}/a")).status == 404
    assert (await volumes.request("PUT", meta, {"metadata": {"z": "9"}})).json == {"metadata": {"z": "9"}}
    assert (await volumes.request("GET", path)).json["volume"]["metadata"] == {"z": "9"}
    assert (await volumes.request("POST", meta, {"metadata": {"": "x"}})).status == 400


async def test_bootable_readonly_and_image_metadata(volumes: Volumes) -> None:
    made = await volumes.make()
    assert (await volumes.act(made["id"], "os-set_bootable", {"bootable": "True"})).status == 200
    assert (await volumes.act(made["id"], "os-set_bootable", {"bootable": "perhaps"})).status == 400
    assert (await volumes.act(made["id"], "os-update_readonly_flag", {"readonly": True})).status == 202
    reply = await volumes.act(made["id"], "os-set_image_metadata", {"metadata": {"hw": "x", "os": "y"}})
    assert (reply.status, reply.json) == (200, {"metadata": {"hw": "x", "os": "y"}})
    shown = (await volumes.request("GET", f"/volumes/{made['id']}")).json["volume"]
    assert (shown["bootable"], shown["metadata"]["readonly"]) == ("true", "True")
    assert shown["volume_image_metadata"] == {"hw": "x", "os": "y"}
    assert (await volumes.act(made["id"], "os-unset_image_metadata", {"key": "hw"})).status == 200
    assert (await volumes.act(made["id"], "os-unset_image_metadata", {"key": "hw"})).status == 404
    assert (await volumes.act(made["id"], "os-show_image_metadata", {})).json == {"metadata": {"os": "y"}}
    assert (await volumes.act(made["id"], "os-nonsense", {})).status == 400


async def test_extend(volumes: Volumes) -> None:
    made = await volumes.make()
    assert (await volumes.act(made["id"], "os-extend", {"new_size": 3})).status == 202
    assert (await volumes.wait(made["id"], "available"))["size"] == 3
    assert (await volumes.used())["gigabytes"] == 3
    for bad in ({"new_size": 3}, {"new_size": 1}, {"new_size": "x"}, {}):
        assert (await volumes.act(made["id"], "os-extend", bad)).status == 400
    over = await volumes.act(made["id"], "os-extend", {"new_size": 2000})
    assert over.status == 413
    assert "exceeds allowed gigabytes quota" in over.json["overLimit"]["message"]
    assert over.headers["retry-after"] == "0"
    assert (await volumes.request("GET", f"/volumes/{made['id']}")).json["volume"]["status"] == "available"
    volumes.knobs.failures["ensure_size"] = "no"
    assert (await volumes.act(made["id"], "os-extend", {"new_size": 5})).status == 202
    await volumes.wait(made["id"], "error_extending")
    assert (await volumes.used())["gigabytes"] == 3
    assert (await volumes.request("DELETE", f"/volumes/{made['id']}")).status == 202
    await volumes.wait_gone(made["id"])


# ---- delete and failure


async def test_delete(volumes: Volumes) -> None:
    made = await volumes.make()
    gone = await volumes.request("DELETE", f"/volumes/{made['id']}")
    assert (gone.status, gone.data) == (202, b"")
    await volumes.wait_gone(made["id"])
    assert (await volumes.request("DELETE", f"/volumes/{made['id']}")).status == 404
    assert (await volumes.request("DELETE", f"/volumes/{NOWHERE}")).status == 404
    assert await volumes.used() == {"volumes": 0, "gigabytes": 0, "snapshots": 0}


async def test_a_busy_volume_is_not_deleted_but_by_force(volumes: Volumes) -> None:
    volumes.knobs.slow["ensure_volume"] = 30.0
    made = await volumes.make(wait=None)
    refused = await volumes.request("DELETE", f"/volumes/{made['id']}")
    assert refused.status == 400
    assert refused.json["badRequest"]["message"].startswith("Invalid volume:")
    assert (await volumes.request("DELETE", f"/volumes/{made['id']}?force=true")).status == 403
    assert (await volumes.act(made["id"], "os-force_delete", {})).status == 403
    forced = await volumes.request("DELETE", f"/volumes/{made['id']}?force=true", token=ADMIN)
    assert forced.status == 202
    await volumes.wait_gone(made["id"])
    assert await volumes.used() == {"volumes": 0, "gigabytes": 0, "snapshots": 0}


async def test_a_back_end_that_fails_or_is_full(volumes: Volumes) -> None:
    volumes.knobs.failures["ensure_volume"] = "broken"
    broken = await volumes.make(wait="error")
    volumes.knobs.failures.clear()
    volumes.knobs.full = True
    full = await volumes.make(wait="error")
    volumes.knobs.full = False
    told = [(await volumes.request("GET", f"/cumulet/volumes/{one['id']}/why")).json for one in (broken, full)]
    assert [one["status"] for one in told] == ["error", "error"]
    assert "broken" in told[0]["reason"]
    assert "a back end: " in told[1]["reason"], "its name is for administrators"
    why = await volumes.request("GET", f"/cumulet/volumes/{full['id']}/why", token=ADMIN)
    assert "@simulated: " in why.json["reason"]
    assert (await volumes.request("GET", f"/cumulet/volumes/{full['id']}/why", token=ALT)).status == 404
    huge = await volumes.make(size=900, wait="available")
    for one in (broken, full, huge):
        assert (await volumes.request("DELETE", f"/volumes/{one['id']}")).status == 202
        await volumes.wait_gone(one["id"])
    assert await volumes.used() == {"volumes": 0, "gigabytes": 0, "snapshots": 0}


async def test_a_delete_that_fails_can_be_tried_again_by_force(volumes: Volumes) -> None:
    made = await volumes.make()
    volumes.knobs.failures["ensure_absent"] = "broken"
    await volumes.request("DELETE", f"/volumes/{made['id']}")
    await volumes.wait(made["id"], "error_deleting")
    volumes.knobs.failures.clear()
    assert (await volumes.act(made["id"], "os-force_delete", {}, token=ADMIN)).status == 202
    await volumes.wait_gone(made["id"])


async def test_reset_status(volumes: Volumes) -> None:
    made = await volumes.make()
    assert (await volumes.act(made["id"], "os-reset_status", {"status": "error"})).status == 403
    assert (await volumes.act(made["id"], "os-reset_status", {"status": "error"}, token=ADMIN)).status == 202
    await volumes.wait(made["id"], "error")
    for bad in ({}, {"status": "nonsense"}, {"status": "deleting"}, {"status": "in-use"}, {"attach_status": "x"}):
        assert (await volumes.act(made["id"], "os-reset_status", bad, token=ADMIN)).status == 400


# ---- quotas


async def test_quotas(volumes: Volumes) -> None:
    quota = f"/os-quota-sets/{project('demo')}"
    shown = (await volumes.request("GET", quota)).json["quota_set"]
    assert (shown["id"], shown["volumes"], shown["gigabytes"]) == (project("demo"), 10, 1000)
    assert shown["volumes___DEFAULT__"] == -1
    assert (await volumes.request("PUT", quota, {"quota_set": {"volumes": 1}})).status == 403
    changed = await volumes.request("PUT", quota, {"quota_set": {"volumes": 1, "gigabytes": "20"}}, token=ADMIN)
    assert (changed.json["quota_set"]["volumes"], changed.json["quota_set"]["gigabytes"]) == (1, 20)
    await volumes.make(size=5)
    over = await volumes.request("POST", "/volumes", {"volume": {"size": 1}})
    assert over.status == 413
    assert over.json["overLimit"]["message"] == "Maximum number of volumes allowed (1) exceeded for quota 'volumes'."
    assert over.json["overLimit"]["retryAfter"] == "0"
    used = (await volumes.request("GET", f"{quota}?usage=True")).json["quota_set"]
    assert used["volumes"] == {"limit": 1, "in_use": 1, "reserved": 0}
    assert used["gigabytes___DEFAULT__"]["in_use"] == 5
    for bad in ({}, {"volumes": -2}, {"volumes": "x"}, {"nonsense": 1}, {"gigabytes": 4}, {"volumes": True}):
        assert (await volumes.request("PUT", quota, {"quota_set": bad}, token=ADMIN)).status == 400
    assert (await volumes.request("GET", f"{quota}/defaults")).json["quota_set"]["volumes"] == 10
    assert (await volumes.request("GET", quota, token=ALT)).status == 403
    assert (await volumes.request("DELETE", quota, token=ADMIN)).status == 200
    assert (await volumes.request("GET", quota)).json["quota_set"]["volumes"] == 10


async def test_the_size_of_one_volume_is_limited(volumes: Volumes) -> None:
    quota = f"/os-quota-sets/{project('demo')}"
    await volumes.request("PUT", quota, {"quota_set": {"per_volume_gigabytes": 2}}, token=ADMIN)
    made = await volumes.make(size=2)
    assert (await volumes.request("POST", "/volumes", {"volume": {"size": 3}})).status == 400
    assert (await volumes.act(made["id"], "os-extend", {"new_size": 3})).status == 400


# ---- the rest of the API


async def test_limits_zones_services_and_pools(volumes: Volumes) -> None:
    await volumes.make(size=4)
    absolute = (await volumes.request("GET", "/limits")).json["limits"]["absolute"]
    assert (absolute["maxTotalVolumes"], absolute["totalGigabytesUsed"]) == (10, 4)
    zones = (await volumes.request("GET", "/os-availability-zone")).json["availabilityZoneInfo"]
    assert zones == [{"zoneName": "nova", "zoneState": {"available": True}}]
    assert (await volumes.request("GET", "/os-services")).status == 403
    services = (await volumes.request("GET", "/os-services", token=ADMIN)).json["services"]
    assert {(one["binary"], one["host"], one["state"], one["status"]) for one in services} == {
        ("cinder-scheduler", "node-1", "up", "enabled"),
        ("cinder-volume", "node-1@simulated", "up", "enabled"),
    }
    assert (await volumes.request("GET", "/scheduler-stats/get_pools")).status == 403
    (pool,) = (await volumes.request("GET", "/scheduler-stats/get_pools?detail=True", token=ADMIN)).json["pools"]
    assert pool["name"] == "node-1@simulated#simulated"
    assert pool["capabilities"]["total_capacity_gb"] == 1000
    assert pool["capabilities"]["allocated_capacity_gb"] == 4


async def test_a_disabled_back_end_gets_no_volumes(volumes: Volumes) -> None:
    await volumes.make()
    service = {"host": "node-1@simulated", "binary": "cinder-volume"}
    off = await volumes.request("PUT", "/os-services/disable", service, token=ADMIN)
    assert off.json["status"] == "disabled"
    await volumes.make(wait="error")
    assert (await volumes.request("PUT", "/os-services/enable", service, token=ADMIN)).json["status"] == "enabled"
    await volumes.make()
    reason = {**service, "disabled_reason": "r"}
    told = await volumes.request("PUT", "/os-services/disable-log-reason", reason, token=ADMIN)
    assert told.json["disabled_reason"] == "r"
    missing = {"host": "nowhere", "binary": "cinder-volume"}
    assert (await volumes.request("PUT", "/os-services/enable", missing, token=ADMIN)).status == 404


async def test_a_back_end_is_forgotten_when_nothing_is_on_it(volumes: Volumes) -> None:
    made = await volumes.make(name="stays")
    where = "/cumulet/hosts/node-1"
    assert (await volumes.request("GET", where)).status == 403
    on_it = (await volumes.request("GET", where, token=ADMIN)).json
    assert ([one["id"] for one in on_it["volumes"]], on_it["snapshots"]) == ([made["id"]], [])
    for other in ("node", "node-%", "node-_", "node-11"):
        assert (await volumes.request("GET", f"/cumulet/hosts/{other}", token=ADMIN)).json["volumes"] == []
    refused = await volumes.request("DELETE", where, token=ADMIN)
    assert (refused.status, made["id"] in refused.data.decode()) == (409, True)
    assert (await volumes.request("DELETE", f"/volumes/{made['id']}")).status == 202
    await volumes.wait_gone(made["id"])
    assert (await volumes.request("DELETE", where)).status == 403
    assert (await volumes.request("DELETE", where, token=ADMIN)).status == 204


async def test_types(volumes: Volumes) -> None:
    (default,) = (await volumes.request("GET", "/types")).json["volume_types"]
    assert (default["name"], default["is_public"], default["extra_specs"]) == ("__DEFAULT__", True, {})
    assert "qos_specs_id" not in default
    assert (await volumes.request("GET", "/types/default")).json["volume_type"]["id"] == default["id"]
    assert (await volumes.request("GET", f"/types/{NOWHERE}")).status == 404
    body = {"volume_type": {"name": "fast", "extra_specs": {"multiattach": "<is> True", "secret": "x"}}}
    assert (await volumes.request("POST", "/types", body)).status == 403
    made = await volumes.request("POST", "/types", body, token=ADMIN)
    assert made.status == 200
    type_id = made.json["volume_type"]["id"]
    assert made.json["volume_type"]["extra_specs"] == {"multiattach": "<is> True", "secret": "x"}
    assert (await volumes.request("GET", f"/types/{type_id}")).json["volume_type"]["extra_specs"] == {
        "multiattach": "<is> True"
    }
    assert (await volumes.request("POST", "/types", body, token=ADMIN)).status == 409
    assert (await volumes.make(volume_type="fast"))["multiattach"] is True
    specs = f"/types/{type_id}/extra_specs"
    assert (await volumes.request("POST", specs, {"extra_specs": {"k": "v"}}, token=ADMIN)).status == 200
    assert (await volumes.request("GET", f"{specs}/k", token=ADMIN)).json == {"k": "v"}
    assert (await volumes.request("PUT", f"{specs}/k", {"k": "w"}, token=ADMIN)).json == {"k": "w"}
    assert (await volumes.request("GET", specs, token=ADMIN)).json["extra_specs"]["k"] == "w"
    assert (await volumes.request("DELETE", f"{specs}/k", token=ADMIN)).status == 202
    assert (await volumes.request("DELETE", f"{specs}/k", token=ADMIN)).status == 404
    assert (await volumes.request("DELETE", f"/types/{type_id}", token=ADMIN)).status == 400
    assert (await volumes.request("DELETE", f"/types/{default['id']}", token=ADMIN)).status == 400
    renamed = {"volume_type": {"description": "d", "is_public": False}}
    assert (await volumes.request("PUT", f"/types/{type_id}", renamed, token=ADMIN)).status == 200
    assert (await volumes.request("GET", f"/types/{type_id}")).status == 404


async def test_errors_have_the_published_shape(volumes: Volumes) -> None:
    missing = await volumes.request("GET", f"/volumes/{NOWHERE}")
    assert missing.json == {"itemNotFound": {"code": 404, "message": f"Volume {NOWHERE} could not be found."}}
    assert missing.headers["openstack-api-version"] == "volume 3.71"
    assert missing.headers["x-compute-request-id"] == missing.headers["x-openstack-request-id"]
    assert (await volumes.request("PATCH", "/volumes")).json["badMethod"]["code"] == 405
    assert "itemNotFound" in (await volumes.request("GET", "/nonsense")).json
    bad = await volumes.request("POST", "/volumes", {"volume": {"size": []}})
    assert bad.json["badRequest"]["code"] == 400


async def test_an_empty_id_names_nothing(volumes: Volumes) -> None:
    for method in ("GET", "DELETE"):
        assert (await volumes.request(method, "/volumes/")).status == 404
    assert (await volumes.lone.request("GET", "/v3", token=None)).status == 200
    assert (await volumes.image.request("GET", "/v2/images/")).status == 404
    assert (await volumes.image.request("GET", "/versions/", token=None)).status == 200


async def test_types_for_some_projects(volumes: Volumes) -> None:
    body = {"volume_type": {"name": "secret", "os-volume-type-access:is_public": False}}
    type_id = (await volumes.request("POST", "/types", body, token=ADMIN)).json["volume_type"]["id"]
    path = f"/types/{type_id}"
    assert (await volumes.request("GET", path)).status == 404
    assert (await volumes.request("POST", "/volumes", {"volume": {"size": 1, "volume_type": "secret"}})).status == 404
    grant = {"addProjectAccess": {"project": project("demo")}}
    assert (await volumes.request("POST", f"{path}/action", grant, token=ADMIN)).status == 202
    assert (await volumes.request("POST", f"{path}/action", grant, token=ADMIN)).status == 409
    assert len((await volumes.request("GET", "/types")).json["volume_types"]) == 2
    assert (await volumes.make(volume_type="secret"))["volume_type"] == "secret"
    listed = (await volumes.request("GET", f"{path}/os-volume-type-access", token=ADMIN)).json
    assert listed == {"volume_type_access": [{"volume_type_id": type_id, "project_id": project("demo")}]}
    revoke = {"removeProjectAccess": {"project": project("demo")}}
    assert (await volumes.request("POST", f"{path}/action", revoke, token=ADMIN)).status == 202
    assert (await volumes.request("POST", f"{path}/action", revoke, token=ADMIN)).status == 404
    assert (await volumes.request("GET", path)).status == 404
    unused = (await volumes.request("POST", "/types", {"volume_type": {"name": "unused"}}, token=ADMIN)).json
    path = f"/types/{unused['volume_type']['id']}"
    assert (await volumes.request("DELETE", path)).status == 403
    assert (await volumes.request("DELETE", path, token=ADMIN)).status == 202
    assert (await volumes.request("GET", path, token=ADMIN)).status == 404


async def test_retype_moves_the_quota(volumes: Volumes) -> None:
    await volumes.request("POST", "/types", {"volume_type": {"name": "other"}}, token=ADMIN)
    made = await volumes.make(size=2)
    assert (await volumes.act(made["id"], "os-retype", {"new_type": "__DEFAULT__"})).status == 400
    assert (await volumes.act(made["id"], "os-retype", {"new_type": "nonsense"})).status == 404
    assert (await volumes.act(made["id"], "os-retype", {"new_type": "other"})).status == 202
    shown = (await volumes.request("GET", f"/volumes/{made['id']}")).json["volume"]
    assert (shown["volume_type"], shown["status"]) == ("other", "available")
    used = (await volumes.request("GET", f"/os-quota-sets/{project('demo')}?usage=True")).json["quota_set"]
    assert [used[name]["in_use"] for name in ("gigabytes", "gigabytes_other", "gigabytes___DEFAULT__")] == [2, 2, 0]
    assert [used[name]["in_use"] for name in ("volumes", "volumes_other", "volumes___DEFAULT__")] == [1, 1, 0]


async def test_capabilities_and_extensions(volumes: Volumes) -> None:
    await volumes.make()
    told = await volumes.request("GET", "/capabilities/node-1@simulated", token=ADMIN)
    assert told.json["storage_protocol"] == "simulated"
    assert (await volumes.request("GET", "/capabilities/nowhere", token=ADMIN)).status == 404
    assert (await volumes.request("GET", "/capabilities/node-1@simulated")).status == 403
    listed = (await volumes.request("GET", "/extensions")).json["extensions"]
    assert {"name", "alias", "description", "updated", "links"} == set(listed[0])

# SPDX-License-Identifier: Apache-2.0
"""Attachments over HTTP: the way that compute goes, what others may not do, the older actions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.image.lone import ADMIN, ALT, DEMO, READER, SERVICE, Reply
from tests.contract.volume.volumes import Volumes

SERVER = "5f4b7c9a-0000-4000-8000-00000000000a"
OTHER = "5f4b7c9a-0000-4000-8000-00000000000b"
CHOSEN = "5f4b7c9a-0000-4000-8000-00000000000c"
CONNECTOR = {"host": "node-1", "ip": "127.0.0.1", "mountpoint": "/dev/vdb", "multipath": False}


async def attach(volumes: Volumes, volume_id: str, *, token: str = DEMO, **body: Any) -> Reply:
    sent = {"volume_uuid": volume_id, "instance_uuid": SERVER, **body}
    return await volumes.request("POST", "/attachments", {"attachment": sent}, token=token)


async def status(volumes: Volumes, volume_id: str) -> str:
    return str((await volumes.request("GET", f"/volumes/{volume_id}")).json["volume"]["status"])


async def test_the_way_that_compute_goes(volumes: Volumes) -> None:
    volume = await volumes.make()
    reserved = await attach(volumes, volume["id"], token=SERVICE, id=CHOSEN)
    assert reserved.status == 200
    assert reserved.json["attachment"] == {
        "id": CHOSEN, "status": "reserved", "instance": SERVER, "volume_id": volume["id"], "attached_at": "",
        "detached_at": "", "attach_mode": "null", "connection_info": {},
    }  # fmt: skip
    assert await status(volumes, volume["id"]) == "reserved"
    path = f"/attachments/{CHOSEN}"
    for _ in range(2):  # a repeated step finds its own work
        connected = await volumes.request("PUT", path, {"attachment": {"connector": CONNECTOR}})
        assert connected.status == 200
        found = connected.json["attachment"]
        assert found["status"] == "attaching"
        assert found["connection_info"] == {
            "driver_volume_type": "simulated", "path": f"/simulated/{volume['id']}", "format": "raw",
            "read_only": False, "access_mode": "rw", "attachment_id": CHOSEN, "encrypted": False,
        }  # fmt: skip
    assert await status(volumes, volume["id"]) == "attaching"
    for _ in range(2):
        done = await volumes.request("POST", f"{path}/action", {"os-complete": {}}, token=SERVICE)
        assert (done.status, done.data) == (204, b"")
    shown = (await volumes.request("GET", f"/volumes/{volume['id']}")).json["volume"]
    assert shown["status"] == "in-use"
    (use,) = shown["attachments"]
    assert use == {
        "id": volume["id"], "attachment_id": CHOSEN, "volume_id": volume["id"], "server_id": SERVER,
        "host_name": None, "device": "/dev/vdb", "attached_at": use["attached_at"],
    }  # fmt: skip
    admin = (await volumes.request("GET", f"/volumes/{volume['id']}", token=ADMIN)).json["volume"]
    assert admin["attachments"][0]["host_name"] == "node-1"
    gone = await volumes.request("DELETE", path, token=SERVICE)
    assert (gone.status, gone.json) == (200, {"attachments": []})
    assert await status(volumes, volume["id"]) == "available"
    assert (await volumes.request("DELETE", path, token=SERVICE)).status == 404
    assert (await volumes.request("GET", path)).status == 404


async def test_a_user_may_not_take_a_volume_from_a_server(volumes: Volumes) -> None:
    volume = await volumes.make()
    made = (await attach(volumes, volume["id"], connector=CONNECTOR)).json["attachment"]
    for token in (DEMO, ADMIN):
        refused = await volumes.request("DELETE", f"/attachments/{made['id']}", token=token)
        assert refused.status == 409
        assert refused.json["conflictingRequest"]["message"] == (
            f"Detach volume from instance {SERVER} using the Compute API"
        )
        detached = await volumes.act(volume["id"], "os-detach", {"attachment_id": made["id"]}, token=token)
        assert detached.status == 409
    assert (await volumes.act(volume["id"], "os-force_detach", {}, token=ADMIN)).status == 409
    assert (await volumes.request("DELETE", f"/volumes/{volume['id']}")).status == 400
    assert await status(volumes, volume["id"]) == "attaching"
    with_service = await volumes.lone.request(
        "DELETE",
        f"/v3/attachments/{made['id']}",
        headers={"openstack-api-version": "volume 3.71", "x-service-token": SERVICE},
    )
    assert with_service.status == 200
    assert await status(volumes, volume["id"]) == "available"


async def test_a_reservation_may_be_given_back(volumes: Volumes) -> None:
    volume = await volumes.make()
    made = (await attach(volumes, volume["id"])).json["attachment"]
    again = await attach(volumes, volume["id"], instance_uuid=OTHER)
    assert again.status == 400
    assert "status must be available or downloading to reserve" in again.json["badRequest"]["message"]
    assert (await volumes.request("DELETE", f"/attachments/{made['id']}", token=ALT)).status == 404
    assert (await volumes.request("DELETE", f"/attachments/{made['id']}", token=READER)).status == 403
    assert (await volumes.request("DELETE", f"/attachments/{made['id']}")).status == 200
    assert await status(volumes, volume["id"]) == "available"


async def test_only_a_service_chooses_ids_and_only_once(volumes: Volumes) -> None:
    volume = await volumes.make()
    assert (await attach(volumes, volume["id"], id=CHOSEN)).status == 403
    assert (await attach(volumes, volume["id"], id=CHOSEN, token=SERVICE)).status == 200
    assert (await attach(volumes, volume["id"], id=CHOSEN, token=SERVICE)).status == 409
    assert len((await volumes.request("GET", "/attachments")).json["attachments"]) == 1


async def test_a_server_that_moves_has_two_attachments(volumes: Volumes) -> None:
    volume = await volumes.make()
    old = (await attach(volumes, volume["id"], connector=CONNECTOR)).json["attachment"]
    await volumes.request("POST", f"/attachments/{old['id']}/action", {"os-complete": {}})
    new = await attach(volumes, volume["id"])
    assert new.status == 200
    same_host = {"attachment": {"connector": CONNECTOR}}
    path = f"/attachments/{new.json['attachment']['id']}"
    assert (await volumes.request("PUT", path, same_host)).status == 409
    moved = {"attachment": {"connector": {**CONNECTOR, "host": "node-2"}}}
    assert (await volumes.request("PUT", path, moved)).status == 200
    assert (await attach(volumes, volume["id"], instance_uuid=OTHER)).status == 400
    left = await volumes.request("DELETE", f"/attachments/{old['id']}", token=SERVICE)
    assert [one["id"] for one in left.json["attachments"]] == [new.json["attachment"]["id"]]
    await volumes.request("POST", f"{path}/action", {"os-complete": {}})
    assert await status(volumes, volume["id"]) == "in-use"


async def test_a_multiattach_volume_is_for_many(volumes: Volumes) -> None:
    body = {"volume_type": {"name": "many", "extra_specs": {"multiattach": "<is> True"}}}
    await volumes.request("POST", "/types", body, token=ADMIN)
    volume = await volumes.make(volume_type="many")
    made = []
    for server in (SERVER, OTHER):
        reply = await attach(volumes, volume["id"], instance_uuid=server, connector=CONNECTOR)
        assert reply.status == 200, reply.data
        made.append(reply.json["attachment"]["id"])
        await volumes.request("POST", f"/attachments/{made[-1]}/action", {"os-complete": {}})
        assert await status(volumes, volume["id"]) == "in-use"
    assert (await volumes.request("DELETE", f"/attachments/{made[0]}", token=SERVICE)).status == 200
    assert await status(volumes, volume["id"]) == "in-use"
    assert (await volumes.request("DELETE", f"/attachments/{made[1]}", token=SERVICE)).status == 200
    assert await status(volumes, volume["id"]) == "available"


async def test_modes(volumes: Volumes) -> None:
    volume = await volumes.make()
    made = (await attach(volumes, volume["id"], mode="ro", connector=CONNECTOR)).json["attachment"]
    assert made["attach_mode"] == "ro"
    assert made["connection_info"]["access_mode"] == "ro"
    assert made["connection_info"]["read_only"] is True
    sent = {"attachment": {"volume_uuid": volume["id"], "mode": "ro"}}
    assert (await volumes.request("POST", "/attachments", sent, version="3.53")).status == 400
    locked = await volumes.make()
    await volumes.act(locked["id"], "os-update_readonly_flag", {"readonly": True})
    made = (await attach(volumes, locked["id"], connector=CONNECTOR)).json["attachment"]
    assert made["connection_info"]["read_only"] is True


async def test_lists(volumes: Volumes) -> None:
    volume, other = await volumes.make(), await volumes.make()
    one = (await attach(volumes, volume["id"])).json["attachment"]["id"]
    two = (await attach(volumes, other["id"], instance_uuid=OTHER)).json["attachment"]["id"]

    async def found(query: str, token: str = DEMO) -> list[str]:
        reply = await volumes.request("GET", f"/attachments?{query}", token=token)
        return [document["id"] for document in reply.json["attachments"]]

    assert await found("") == [two, one]
    assert await found(f"instance_id={SERVER}") == [one]
    assert await found(f"volume_id={other['id']}") == [two]
    assert await found("status=attached") == []
    assert await found("all_tenants=1", SERVICE) == [two, one]
    assert await found("", ALT) == []
    detail = (await volumes.request("GET", "/attachments/detail")).json["attachments"]
    assert "connection_info" in detail[0]
    summary = (await volumes.request("GET", "/attachments")).json["attachments"]
    assert set(summary[0]) == {"id", "status", "instance", "volume_id"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, 400), ({"volume_uuid": "x"}, 400), ({"volume_uuid": SERVER}, 404),
        ({"volume_uuid": SERVER, "mode": "rx"}, 400), ({"volume_uuid": SERVER, "connector": "x"}, 400),
    ],
)  # fmt: skip
async def test_create_refuses(volumes: Volumes, body: dict[str, Any], expected: int) -> None:
    assert (await volumes.request("POST", "/attachments", {"attachment": body})).status == expected


async def test_what_is_not_there_or_not_ready_is_not_connected(volumes: Volumes) -> None:
    volumes.knobs.failures["ensure_volume"] = "no"
    failed = await volumes.make(wait="error")
    assert (await attach(volumes, failed["id"])).status == 400
    volumes.knobs.failures = {"connect": "unplugged"}
    volume = await volumes.make()
    made = (await attach(volumes, volume["id"])).json["attachment"]
    path = f"/attachments/{made['id']}"
    broken = await volumes.request("PUT", path, {"attachment": {"connector": CONNECTOR}})
    assert broken.status == 500
    assert "unplugged" in broken.json["computeFault"]["message"]
    bodies: list[dict[str, Any]] = [{}, {"connector": {}}, {"connector": {"host": ""}}, {"connector": {"ip": "1"}}]
    for bad in bodies:
        assert (await volumes.request("PUT", path, {"attachment": bad})).status == 400
    assert (await volumes.request("DELETE", path)).status == 200
    assert await status(volumes, volume["id"]) == "available"


# ---- the older actions


async def test_the_older_actions(volumes: Volumes) -> None:
    volume = await volumes.make()
    volume_id = volume["id"]
    assert (await volumes.act(volume_id, "os-reserve", {})).status == 202
    assert await status(volumes, volume_id) == "attaching"
    assert (await volumes.act(volume_id, "os-reserve", {})).status == 400
    assert (await volumes.act(volume_id, "os-unreserve", {})).status == 202
    assert await status(volumes, volume_id) == "available"
    assert (await volumes.act(volume_id, "os-unreserve", {})).status == 202
    body = {"instance_uuid": SERVER, "mountpoint": "/dev/vdb"}
    assert (await volumes.act(volume_id, "os-attach", body)).status == 202
    assert (await volumes.act(volume_id, "os-attach", body)).status == 400
    shown = (await volumes.request("GET", f"/volumes/{volume_id}")).json["volume"]
    assert (shown["status"], shown["attachments"][0]["server_id"]) == ("in-use", SERVER)
    assert (await volumes.act(volume_id, "os-begin_detaching", {"attachment_id": ["x"]}, token=SERVICE)).status == 202
    assert (await volumes.act(volume_id, "os-roll_detaching", {})).status == 202
    ended = {"attachment_id": SERVER}
    assert (await volumes.act(volume_id, "os-begin_detaching", ended, token=SERVICE)).status == 400
    assert (await volumes.act(volume_id, "os-begin_detaching", {})).status == 202
    assert await status(volumes, volume_id) == "detaching"
    assert (await volumes.act(volume_id, "os-begin_detaching", {})).status == 400
    assert (await volumes.act(volume_id, "os-begin_detaching", {}, token=SERVICE)).status == 202
    assert (await volumes.act(volume_id, "os-roll_detaching", {})).status == 202
    assert await status(volumes, volume_id) == "in-use"
    assert (await volumes.act(volume_id, "os-detach", {})).status == 202
    assert await status(volumes, volume_id) == "available"
    assert (await volumes.act(volume_id, "os-begin_detaching", {})).status == 400
    assert (await volumes.act(volume_id, "os-attach", body)).status == 202
    assert (await volumes.act(volume_id, "os-force_detach", {})).status == 403
    assert (await volumes.act(volume_id, "os-force_detach", {}, token=ADMIN)).status == 202
    assert await status(volumes, volume_id) == "available"


@pytest.mark.parametrize(
    "body",
    [{}, {"mountpoint": "/dev/vdb"}, {"instance_uuid": "x", "mountpoint": "/dev/vdb"}, {"instance_uuid": SERVER}],
)
async def test_os_attach_refuses(volumes: Volumes, body: dict[str, Any]) -> None:
    volume = await volumes.make()
    assert (await volumes.act(volume["id"], "os-attach", body)).status == 400
    assert await status(volumes, volume["id"]) == "available"


async def test_an_operator_ends_attachments_that_nobody_knows(volumes: Volumes) -> None:
    volume = await volumes.make()
    await attach(volumes, volume["id"], connector=CONNECTOR)
    reset = {"status": "available", "attach_status": "detached"}
    assert (await volumes.act(volume["id"], "os-reset_status", reset, token=ADMIN)).status == 202
    assert (await volumes.request("GET", "/attachments")).json["attachments"] == []
    assert await status(volumes, volume["id"]) == "available"

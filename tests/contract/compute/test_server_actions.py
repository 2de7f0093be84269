# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.contract.compute.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(world: World) -> AsyncIterator[dict[str, Any]]:
    made = await world.active(name="acted")
    yield made
    await world.demo.gone(made["id"])


async def test_stop_and_start(world: World, server: dict[str, Any]) -> None:
    demo, server_id = world.demo, server["id"]
    reply = await demo.act(server_id, "os-stop")
    assert (reply.status, reply.data) == (202, b"")
    stopped = await demo.until(server_id, "SHUTOFF")
    assert (stopped["OS-EXT-STS:vm_state"], stopped["OS-EXT-STS:power_state"]) == ("stopped", 4)
    again = await demo.act(server_id, "os-stop")
    assert again.status == 409
    assert again.json["conflictingRequest"]["message"] == (
        f"Cannot 'stop' instance {server_id} while it is in vm_state stopped"
    )
    soft = await demo.act(server_id, "reboot", {"type": "SOFT"})
    assert soft.json["conflictingRequest"]["message"] == (
        f"Cannot 'reboot' instance {server_id} while it is in vm_state stopped"
    )
    assert (await demo.act(server_id, "os-start")).status == 202
    assert (await demo.until(server_id, "ACTIVE"))["OS-EXT-STS:power_state"] == 1


@pytest.mark.parametrize("kind", ["SOFT", "hard"])
async def test_reboot(world: World, server: dict[str, Any], kind: str) -> None:
    assert (await world.demo.act(server["id"], "reboot", {"type": kind})).status == 202
    await world.demo.until(server["id"], "ACTIVE")


async def test_the_action_is_found_by_its_request(world: World, server: dict[str, Any]) -> None:
    reply = await world.demo.act(server["id"], "reboot", {"type": "HARD"})
    await world.demo.until(server["id"], "ACTIVE")
    request_id = reply.headers["x-openstack-request-id"]
    path = f"/servers/{server['id']}/os-instance-actions/{request_id}"
    action = (await world.demo.get(path)).json["instanceAction"]
    assert (action["action"], action["message"], action["user_id"]) == ("reboot", None, world.demo.user_id)
    (event,) = action["events"]
    assert (event["event"], event["result"]) == ("compute_reboot_instance", "Success")
    assert "traceback" not in event
    assert "host" not in event
    assert "hostId" in event
    assert "traceback" in (await world.admin.get(path)).json["instanceAction"]["events"][0]
    assert "events" not in (await world.demo.at("2.50").get(path)).json["instanceAction"]
    assert "updated_at" not in (await world.demo.at("2.57").get(path)).json["instanceAction"]
    assert (await world.demo.get(path[:-4] + "beef")).status == 404


async def test_actions_are_paged(world: World, server: dict[str, Any]) -> None:
    path = f"/servers/{server['id']}/os-instance-actions"
    everything = [one["request_id"] for one in (await world.demo.get(path)).json["instanceActions"]]
    first = (await world.demo.get(path + "?limit=1")).json
    assert [one["request_id"] for one in first["instanceActions"]] == everything[:1]
    assert first["links"][0]["rel"] == "next"
    following = (await world.demo.get(f"{path}?limit=1&marker={everything[0]}")).json
    assert [one["request_id"] for one in following["instanceActions"]] == everything[1:2]
    assert (await world.demo.get(path + "?marker=none")).status == 400


async def test_lock_keeps_everybody_but_an_admin_out(world: World, server: dict[str, Any]) -> None:
    demo, server_id = world.demo, server["id"]
    assert (await demo.act(server_id, "lock", {"locked_reason": "holiday"})).status == 202
    locked = await demo.show(server_id)
    assert (locked["locked"], locked["locked_reason"]) == (True, "holiday")
    reply = await demo.act(server_id, "os-stop")
    assert (reply.status, reply.json["conflictingRequest"]["message"]) == (409, f"Instance {server_id} is locked")
    assert (await demo.delete(f"/servers/{server_id}")).status == 409
    assert (await demo.act(server_id, "unlock")).status == 202
    assert (await world.admin.act(server_id, "lock")).status == 202
    refused = await demo.act(server_id, "unlock")
    assert refused.status == 403
    assert "os-lock-server:unlock:unlock_override" in refused.json["forbidden"]["message"]
    assert (await world.admin.act(server_id, "unlock")).status == 202
    assert (await demo.show(server_id))["locked"] is False


async def test_a_reason_is_refused_before_2_73(world: World, server: dict[str, Any]) -> None:
    assert (await world.demo.at("2.73").act(server["id"], "lock", {"reason": "x"})).status == 400
    assert (await world.demo.at("2.72").act(server["id"], "lock")).status == 202
    assert (await world.demo.act(server["id"], "unlock")).status == 202


async def test_console_output(world: World, server: dict[str, Any]) -> None:
    whole = await world.demo.act(server["id"], "os-getConsoleOutput", {})
    assert whole.status == 200
    lines = whole.json["output"].splitlines()
    assert len(lines) > 1
    last = (await world.demo.act(server["id"], "os-getConsoleOutput", {"length": 1})).json["output"]
    assert last.splitlines() == lines[-1:]
    assert (await world.demo.act(server["id"], "os-getConsoleOutput", {"length": "many"})).status == 400
    assert (await world.reader.act(server["id"], "os-getConsoleOutput", {})).status == 403


async def test_an_admin_sets_a_state(world: World, server: dict[str, Any]) -> None:
    assert (await world.demo.act(server["id"], "os-resetState", {"state": "error"})).status == 403
    assert (await world.admin.act(server["id"], "os-resetState", {"state": "gone"})).status == 400
    assert (await world.admin.act(server["id"], "os-resetState", {"state": "error"})).status == 202
    assert (await world.demo.show(server["id"]))["status"] == "ERROR"
    started = await world.demo.act(server["id"], "os-start")
    assert started.json["conflictingRequest"]["message"].endswith("while it is in vm_state error")
    assert (await world.admin.act(server["id"], "os-resetState", {"state": "active"})).status == 202
    assert (await world.demo.show(server["id"]))["status"] == "ACTIVE"


async def test_security_groups_are_put_on_and_taken_off(world: World, server: dict[str, Any]) -> None:
    demo, server_id = world.demo, server["id"]
    body = {"security_group": {"name": "web-ports"}}
    made = await world.cloud.request("POST", "/network/v2.0/security-groups", body, token=demo.token)
    group = made.json["security_group"]["id"]
    assert (await demo.act(server_id, "addSecurityGroup", {"name": "web-ports"})).status == 202
    shown = (await demo.show(server_id))["security_groups"]
    assert {"name": "web-ports"} in shown
    listed = (await demo.get(f"/servers/{server_id}/os-security-groups")).json["security_groups"]
    assert group in {one["id"] for one in listed}
    assert set(listed[0]) == {"id", "name", "description", "tenant_id", "rules"}
    ports = await world.cloud.request("GET", f"/network/v2.0/ports?device_id={server_id}", token=demo.token)
    assert group in ports.json["ports"][0]["security_groups"]
    assert (await demo.act(server_id, "removeSecurityGroup", {"name": "web-ports"})).status == 202
    assert {"name": "web-ports"} not in (await demo.show(server_id))["security_groups"]
    assert (await demo.act(server_id, "removeSecurityGroup", {"name": "web-ports"})).status == 404
    assert (await demo.act(server_id, "addSecurityGroup", {"name": "unheard-of"})).status == 404
    await world.cloud.request("DELETE", f"/network/v2.0/security-groups/{group}", token=demo.token)


async def test_unknown_and_malformed_actions(world: World, server: dict[str, Any]) -> None:
    unknown = await world.demo.act(server["id"], "os-teleport")
    assert (unknown.status, unknown.json["badRequest"]["message"]) == (400, "There is no such action: os-teleport")
    two = await world.demo.post(f"/servers/{server['id']}/action", {"os-stop": None, "os-start": None})
    assert two.status == 400
    nothing = await world.demo.send("POST", f"/servers/{server['id']}/action", body=b"{")
    assert nothing.status == 400
    missing = await world.demo.act("11111111-1111-4111-8111-111111111111", "os-stop")
    assert missing.status == 404


async def test_force_delete(world: World) -> None:
    server_id = await world.create(name="forced-out", networks="none")
    assert (await world.demo.act(server_id, "forceDelete")).status == 202
    await world.demo.gone(server_id)

# SPDX-License-Identifier: Apache-2.0
"""Version documents, the table of steps, and how faults are said."""

from __future__ import annotations

from tests.contract.image.lone import DEMO, Lone


async def test_anybody_may_ask_for_versions(insight: Lone) -> None:
    reply = await insight.request("GET", "/", token=None)
    assert reply.status == 200
    (version,) = reply.json["versions"]
    assert version == {
        "id": "v1",
        "status": "CURRENT",
        "links": [{"rel": "self", "href": "http://localhost/cumulet/v1"}],
    }
    one = await insight.request("GET", "/v1", token=None)
    assert one.json == {"version": version}


async def test_the_steps_are_the_29_and_the_goal(insight: Lone) -> None:
    reply = await insight.request("GET", "/v1/steps", token=DEMO)
    steps = reply.json["steps"]
    assert [one["step"] for one in steps] == [*range(1, 30), None]
    assert steps[0] == {"step": 1, "name": "auth.request", "between": "client → identity", "transport": "REST"}
    assert [steps[7]["name"], steps[28]["name"], steps[29]["name"]] == [
        "rpc.schedule", "hypervisor.spawn", "server.active",
    ]  # fmt: skip


async def test_faults_have_one_shape(insight: Lone) -> None:
    reply = await insight.request("GET", "/v1/steps", token=None)
    assert reply.status == 401
    assert reply.json["error"]["code"] == 401
    assert reply.headers["www-authenticate"] == 'Keystone uri="http://localhost/identity"'
    missing = await insight.request("GET", "/v1/nothing")
    assert missing.json == {"error": {"code": 404, "title": "Not Found", "message": "The resource could not be found."}}
    wrong = await insight.request("POST", "/v1/steps", {})
    assert wrong.status == 405
    assert wrong.headers["allow"] == "GET"
    assert wrong.headers["x-openstack-request-id"].startswith("req-")

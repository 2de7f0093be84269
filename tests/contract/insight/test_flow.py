# SPDX-License-Identifier: Apache-2.0
"""The flow of a server over HTTP: who may see it, what is in it."""

from __future__ import annotations

import pytest

from tests.contract.image.lone import ADMIN, ALT, DEMO, READER, Lone, project
from tests.contract.insight.conftest import SERVER, PlayedCompute, event, flow_of, tell

RECORD = event("api.record", 5, 2, component="compute-api", detail={"project_id": project("demo")})


async def test_a_flow_is_its_steps_in_order(insight: Lone) -> None:
    await tell(insight, event("compute.receive", 20), RECORD, event("api.request", 0, component="compute-api"))
    told = await flow_of(insight, ADMIN)
    assert told["server"] == SERVER
    assert [(one["step"], one["name"]) for one in told["events"]] == [
        (3, "api.request"), (7, "api.record"), (13, "compute.receive"),
    ]  # fmt: skip
    assert told["events"][1] == {
        "step": 7, "name": "api.record", "component": "compute-api", "between": "compute-api → database",
        "host": "node-1", "transport": "SQL", "attempt": 1, "started_at": "2027-01-15T08:00:00.005000Z",
        "duration_ms": 2.0, "request_id": "req-1", "detail": {"project_id": project("demo")},
        "skipped": None, "error": None,
    }  # fmt: skip


async def test_steps_1_and_2_are_those_of_the_token(insight: Lone) -> None:
    await tell(
        insight,
        event("auth.request", -900, subject="audit-1", component="identity"),
        event("auth.token", -890, subject="audit-1", component="identity"),
        event("auth.request", -800, subject="audit-2", component="identity"),
        event("api.request", 0, detail={"audit_id": "audit-1"}),
    )
    told = (await flow_of(insight))["events"]
    assert [(one["step"], one["started_at"][-10:]) for one in told] == [
        (1, "59.100000Z"), (2, "59.110000Z"), (3, "00.000000Z"),
    ]  # fmt: skip


async def test_a_cached_validation_is_an_event_and_says_so(insight: Lone) -> None:
    await tell(
        insight,
        event("image.token.validate", 10, 1, detail={"cached": True}),
        event("network.token.validate", 20, 5, detail={"cached": False}),
        event("network.token.validate", 30, 1, detail={"cached": True}),
    )
    image, network = (await flow_of(insight))["events"]
    assert image["detail"] == {"cached": True}
    assert network["detail"] == {"cached": False, "cached_calls": 1, "calls": 2}
    assert network["duration_ms"] == pytest.approx(11, abs=0.01)


@pytest.mark.parametrize("token", [DEMO, READER])
async def test_a_reader_is_told_no_host(insight: Lone, token: str) -> None:
    await tell(
        insight,
        event("rpc.build", 1, detail={"to": "rack-7"}),
        event("compute.receive", 2, host="rack-7"),
        event("network.ready", 3, host="rack-7", error="rack-7 did not report the port up", detail={"addresses": []}),
    )
    told = (await flow_of(insight, token))["events"]
    assert {one["host"] for one in told} == {None}
    assert told[-1]["error"] == "(host) did not report the port up"
    assert "rack-7" not in str(told)
    assert "rack-7" in str(await flow_of(insight, ADMIN))


async def test_another_project_sees_nothing(insight: Lone, compute: PlayedCompute) -> None:
    await tell(insight, RECORD)
    for path in ("flow", "flow/stream", "why"):
        reply = await insight.request("GET", f"/v1/servers/{SERVER}/{path}", token=ALT)
        assert reply.status == 404
        assert reply.json["error"]["message"] == f"Server {SERVER} could not be found."
    # compute was asked with nobody's token but the caller's
    assert {token for _, token in compute.asked} == {ALT}


async def test_a_deleted_server_keeps_its_readers(insight: Lone, compute: PlayedCompute) -> None:
    await tell(insight, RECORD)
    del compute.servers[SERVER]
    assert len((await flow_of(insight, READER))["events"]) == 1
    assert len((await flow_of(insight, ADMIN))["events"]) == 1
    reply = await insight.request("GET", f"/v1/servers/{SERVER}/flow", token=ALT)
    assert reply.status == 404


async def test_a_flow_is_told_while_compute_is_away(insight: Lone, compute: PlayedCompute) -> None:
    await tell(insight, RECORD)
    compute.away = True
    assert len((await flow_of(insight, READER))["events"]) == 1
    reply = await insight.request("GET", f"/v1/servers/{SERVER}/flow", token=ALT)
    assert reply.status == 404
    other = SERVER.replace("3f", "4f")
    assert (await insight.request("GET", f"/v1/servers/{other}/flow")).status == 503


async def test_a_server_without_a_role_to_read_it(insight: Lone, compute: PlayedCompute) -> None:
    await tell(insight, RECORD)
    reply = await insight.request("GET", f"/v1/servers/{SERVER}/flow", token="x@demo:observer")
    assert reply.status == 403
    assert reply.json["error"]["message"] == "Policy doesn't allow cumulet:servers:flow to be performed."


@pytest.mark.parametrize("named", ["hello", "audit-1", "..%2Fflavors", "a" * 300])
async def test_what_is_no_id_of_a_server_is_not_found(insight: Lone, compute: PlayedCompute, named: str) -> None:
    reply = await insight.request("GET", f"/v1/servers/{named}/flow", token=ADMIN)
    assert reply.status == 404
    assert compute.asked == []


async def test_a_server_nobody_told_of_has_an_empty_flow(insight: Lone) -> None:
    told = await flow_of(insight)
    assert told == {"server": SERVER, "finished": False, "events": [], "beside": []}


async def test_events_without_a_step_are_beside(insight: Lone) -> None:
    await tell(insight, RECORD, event("placement.token.validate", 9), event("api.token.valid", 500))
    told = await flow_of(insight)
    assert [one["name"] for one in told["events"]] == ["api.record"]
    # the validation of a later request about the server is none of this flow's step 5
    assert [(one["step"], one["name"]) for one in told["beside"]] == [
        (None, "placement.token.validate"), (None, "api.token.valid"),
    ]  # fmt: skip


async def test_the_same_batch_twice_is_told_once(insight: Lone) -> None:
    await tell(insight, event("compute.receive", 3))
    await tell(insight, event("compute.receive", 3))
    (one,) = (await flow_of(insight))["events"]
    assert "calls" not in one["detail"]

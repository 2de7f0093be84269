# SPDX-License-Identifier: Apache-2.0
"""`cumulet flow` and `cumulet why` on a cloud that runs: what a user sees of real servers."""

from __future__ import annotations

import json

import pytest

from tests.services.cli.conftest import Served, Servers


@pytest.fixture(scope="module")
def hello(servers: Servers) -> str:
    return servers.create("hello")


def settled(cloud: Served, server_id: str) -> list[dict[str, object]]:
    """The flow's events once the last has arrived."""
    while not (told := json.loads(cloud.said("flow", server_id, "--json", cloud="cumulet-admin")))["finished"]:
        pass
    events: list[dict[str, object]] = told["events"]
    return events


def test_all_29_steps_of_a_server_really_happened(cloud: Served, hello: str) -> None:
    events = settled(cloud, hello)
    assert [one["step"] for one in events] == [*range(1, 30), None]
    assert [one["name"] for one in events if one["error"] or one["skipped"] == "not recorded"] == []
    assert [one["step"] for one in events if one["skipped"]] == [26, 27, 28]
    assert {one["host"] for one in events} == {"node-1"}
    starts = [str(one["started_at"]) for one in events]
    assert starts[2] <= starts[6] <= starts[7] <= starts[28] <= starts[29]


def test_the_drawing_has_a_line_for_each(cloud: Served, hello: str) -> None:
    settled(cloud, hello)
    lines = cloud.said("flow", "hello").splitlines()
    assert max(map(len, lines)) <= 100
    title, head, *steps = [line for line in lines if line.strip()]
    assert title.startswith(f" hello  {hello}  ACTIVE   29 of 29 steps in ")
    assert head.split()[:3] == ["#", "step", "component"]
    assert [line.split()[:2] for line in steps[:2]] == [["✓", "1"], ["✓", "2"]]
    assert steps[28].startswith(" ✓  29 hypervisor.spawn")
    assert steps[29].startswith(" ★     server.active")
    assert "node-1" not in "\n".join(lines)


def test_an_admin_sees_hosts_and_other_projects(cloud: Served, hello: str) -> None:
    assert "node-1" in cloud.said("flow", "hello", cloud="cumulet-admin")
    result = cloud.run("flow", "hello", cloud="cumulet-alt")
    assert result.exit_code == 1
    assert result.stderr.startswith("cumulet: no server is called 'hello' in this project")
    result = cloud.run("flow", hello, cloud="cumulet-alt")
    assert result.stderr == f"cumulet: insight says: Server {hello} could not be found. (404)\n"


def test_a_name_of_two_servers_is_not_guessed(cloud: Served, servers: Servers) -> None:
    ids = {servers.create("twin"), servers.create("twin")}
    result = cloud.run("flow", "twin")
    assert result.exit_code == 1
    assert "2 servers are called 'twin'; name one by its id:" in result.stderr
    assert ids <= set(result.stderr.split())


def test_a_name_is_not_a_pattern(cloud: Served, hello: str) -> None:
    for name in ("hel", "hell.", ".*", "hello/../x", "a&all_tenants=1"):
        assert cloud.run("flow", name).stderr.startswith("cumulet: no server is called ")


def test_a_deleted_server_can_still_be_looked_at(cloud: Served, servers: Servers) -> None:
    server_id = servers.create("gone")
    settled(cloud, server_id)
    session = cloud.session()
    session.request("compute", "DELETE", f"/servers/{server_id}")
    while cloud.run("flow", "gone").exit_code == 0:
        pass
    assert f"(deleted)  {server_id}  DELETED   29 of 29 steps" in cloud.said("flow", server_id)


def test_watching_ends_when_the_server_is_there(cloud: Served, servers: Servers) -> None:
    server_id = servers.create("watched", wait=False)
    lines = cloud.said("flow", server_id, "--watch").splitlines()
    assert sum(line.startswith("29 hypervisor.spawn") for line in lines) == 1
    assert lines[-1].startswith("   server.active")


def test_watching_as_json_is_a_line_per_change(cloud: Served, servers: Servers) -> None:
    server_id = servers.create("watched-json", wait=False)
    rows = [json.loads(line) for line in cloud.said("flow", server_id, "--watch", "--json").splitlines()]
    assert {row["step"] for row in rows} == {*range(1, 30), None}


def test_watching_on_a_terminal_draws(cloud: Served, servers: Servers) -> None:
    server_id = servers.create("watched-drawn", wait=False)
    told = cloud.said("flow", server_id, "--watch", env={"FORCE_COLOR": "1", "LINES": "45"})
    assert "29 of 29 steps" in told
    assert "BUILD" in told
    assert told.rstrip().splitlines()[-1].count("server.active") == 1


def test_no_valid_host_is_told_with_numbers(cloud: Served, servers: Servers) -> None:
    server_id = servers.create("giant", "m1.xlarge")
    told = json.loads(cloud.said("why", server_id, "--json"))
    failed = [one for one in told["why"]["filters"] if one["hosts_in"] and not one["hosts_out"]]
    assert len(failed) == 1
    assert failed[0]["rejected"][0]["host"] == "host-1"
    shown = cloud.said("why", "giant")
    assert "No valid host was found." in shown
    assert "✗" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert "node-1" in cloud.said("why", server_id, cloud="cumulet-admin")
    events = settled(cloud, server_id)
    assert [one["name"] for one in events if one["error"]] == ["scheduler.select"]
    assert "No valid host was found" in cloud.said("flow", "giant")


def test_why_of_a_server_that_has_a_host(cloud: Served, hello: str) -> None:
    told = json.loads(cloud.said("why", "hello", "--json", cloud="cumulet-admin"))
    assert told["fault"] is None
    assert [one["outcome"] for one in told["why"]["tried"]] == ["claimed"]
    assert "claimed" in cloud.said("why", "hello")

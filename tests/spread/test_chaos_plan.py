# SPDX-License-Identifier: Apache-2.0
"""The plan of a storm can be repeated, what it hit is counted, an ordinary process can be held nowhere."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from cumulet.cli import main
from cumulet.cli.chaos.coverage import PHASES, STEPS, Coverage, Trail, row_of, rows
from cumulet.cli.chaos.storm import Storm, plan_of
from cumulet.compute.sagas.create import CREATE_SERVER
from cumulet.compute.sagas.delete import DELETE_SERVER
from cumulet.compute.sagas.volumes import ATTACH_VOLUME
from cumulet.kernel import halts

KINDS = {"stop": 0.04, "cut-broker": 0.02}


def test_a_seed_gives_one_plan() -> None:
    plan = plan_of(50, 7, KINDS)
    assert plan == plan_of(50, 7, KINDS)
    shorter = plan_of(20, 7, KINDS)
    assert plan[: len(shorter)] == shorter
    assert plan != plan_of(50, 8, KINDS)
    long = plan_of(400, 1, KINDS)
    assert sum(blow.kind == "kill" for blow in long) == 400
    assert {blow.kind for blow in long} == {"kill", *KINDS}
    assert all(0 < blow.after < 2 for blow in long)
    assert not any(blow.aimed for blow in long if blow.kind != "kill")


def test_only_what_was_answered_is_a_promise() -> None:
    storm = Storm(1, [])
    assert storm.accepted("create server", "/a", True)
    assert storm.accepted("create server", "/b", True)
    assert not storm.accepted("create server", "/c", False)
    assert storm.accepted("delete server", "/a", True)
    assert not storm.accepted("delete server", "/b", False)  # it may have been heard
    assert storm._made - storm._deleted == set()
    assert storm.begun == {"create server ok": 2, "create server": 1, "delete server ok": 1, "delete server": 1}


def test_an_ordinary_process_has_no_points() -> None:
    something = object()
    assert halts.around(something, "rpc", "call") is something
    assert halts.saga_hooks() is None


def test_the_steps_that_must_be_hit_are_those_of_the_sagas() -> None:
    sagas = (CREATE_SERVER, DELETE_SERVER, ATTACH_VOLUME)
    assert {saga.name: tuple(step.name for step in saga.steps) for saga in sagas} == STEPS


@pytest.mark.parametrize(
    ("point", "held", "phase"),
    [
        ("compute.create_server build do: before", True, "before"),
        ("compute.create_server build do: before", False, "inside"),  # it went on from there
        ("compute.create_server build do: rpc build after", True, "inside"),
        ("compute.create_server build do: worked", False, "inside"),
        ("compute.create_server build do: before (again)", True, "before"),
        ("compute.create_server build do: committed", False, "after"),
    ],
)
def test_where_a_flow_was(point: str, held: bool, phase: str) -> None:
    assert row_of(point, held=held) == ("compute.create_server", "build", phase)


def test_what_is_no_step_of_them_is_counted_apart() -> None:
    coverage = Coverage()
    coverage.count(["compute-agent: rpc fetch before", "compute.create_server host undo: before"], None)
    assert (sum(coverage.hits.values()), sum(coverage.elsewhere.values())) == (0, 2)


def test_aims_go_where_nothing_was_hit() -> None:
    coverage, dice = Coverage(), random.Random(1)
    for row in rows():
        got, points = coverage.aim({"compute.create_server host do: rpc select_and_claim before"}, dice)
        assert len(points) == 1
        assert row_of(points[0], held=True) == got, (row, points)
        coverage.count([], points[0])
    assert coverage.missing == []
    assert len(coverage.table()) == 1 + sum(len(steps) for steps in STEPS.values())
    assert set(coverage.told()["hits"].values()) == {1}
    assert {row[2] for row in coverage.hits} == set(PHASES)


def test_a_trail_knows_what_is_at_work(tmp_path: Path) -> None:
    trail, file = Trail(tmp_path), tmp_path / "reached"
    assert trail.at_work() == []
    file.write_text(
        "s1 compute.create_server host do: before\ns1 compute.create_server host do: worked\n"
        "s2 compute.delete_server gone do: committed\ns3 compute-agent: rpc fetch before\ns3 compute-"
    )
    assert trail.at_work() == ["compute.create_server host do: worked", "compute-agent: rpc fetch before"]
    trail.begin()
    assert trail.at_work() == []
    assert "compute.delete_server gone do: committed" in trail.known


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--bus", "amqp://a@b/c"], "go together"),
        (["--restart-broker", "true"], "go with --database and --bus"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: list[str], told: str) -> None:
    result = CliRunner().invoke(main, ["chaos", *words])
    assert result.exit_code == 2
    assert told in result.output

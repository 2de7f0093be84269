# SPDX-License-Identifier: Apache-2.0
"""The plan of a storm can be repeated, what it hit is counted, an ordinary process can be held nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from cumulet.cli import main
from cumulet.cli.chaos.backing import backing
from cumulet.cli.chaos.coverage import PHASES, STEPS, Coverage, Trail, row_of, rows
from cumulet.cli.chaos.errands import Errands
from cumulet.cli.chaos.nursery import Child
from cumulet.cli.chaos.process import CloudProcess
from cumulet.cli.chaos.scenarios import Site
from cumulet.cli.chaos.spread import SpreadCloud
from cumulet.cli.chaos.storm import Blow, Storm, plan_of
from cumulet.cli.chaos.users import Promises
from cumulet.compute.sagas.create import CREATE_SERVER
from cumulet.compute.sagas.delete import DELETE_SERVER
from cumulet.compute.sagas.volumes import ATTACH_VOLUME
from cumulet.kernel import halts
from cumulet.kernel.pools import ProgramFailed

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
    said = Promises()
    assert said.accepted("create server", "/a", True)
    assert said.accepted("create server", "/b", True)
    assert not said.accepted("create server", "/c", False)
    assert said.accepted("delete server", "/a", True)
    assert not said.accepted("delete server", "/b", False)  # it may have been heard
    assert said.made - said.deleted == set()
    assert said.begun == {"create server ok": 2, "create server": 1, "delete server ok": 1, "delete server": 1}


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


def test_aims_go_to_each_row_in_the_order_of_the_seed() -> None:
    known = {"compute.create_server host do: rpc select_and_claim before"}
    coverage = Coverage(7)
    order = []
    for _ in rows():
        row, points = coverage.aim(known)
        assert {row_of(point, held=True) for point in points} == {row}
        assert row[2] != "inside" or f"{row[0]} {row[1]} do: worked" in points, "every flow passes that"
        coverage.count([], points[0], row)
        order.append(row)
    assert sorted(order) == sorted(rows())
    assert coverage.missing == []
    assert coverage.came == coverage.aimed
    assert len(coverage.table()) == 1 + sum(len(steps) for steps in STEPS.values())
    assert set(coverage.told()["hits"].values()) == {1}
    assert {row[2] for row in coverage.hits} == set(PHASES)
    assert [coverage.aim(known)[0] for _ in rows()] == order
    others = Coverage(8), Coverage(7)
    assert [[one.aim(known)[0] for _ in rows()] == order for one in others] == [False, True]


def test_a_row_that_was_missed_is_tried_first_in_the_next_round() -> None:
    coverage, missed = Coverage(7), rows()[20]
    for _ in rows():
        row, points = coverage.aim(set())
        coverage.count([], None if row == missed else points[0], row)
    assert coverage.missing == [missed]
    assert coverage.aim(set())[0] == missed
    assert coverage.aim(set())[0] != missed, "one that can't be hit does not keep the others from it"


def test_a_storm_that_could_have_hit_everything_and_did_not_is_not_good() -> None:
    storm = Storm(1, [Blow(0.1, "kill")] * 72)
    assert (storm.sound, storm.idle, storm.good) == (True, True, False), "not one server was accepted"
    storm.promises.accepted("create server", "/a", True)
    assert (storm.idle, storm.thin, storm.good) == (False, False, True)
    storm.blows = 72
    assert (storm.sound, storm.thin, storm.good) == (True, True, False)
    for row in rows():
        storm.coverage.hits[row] += 1
    assert (storm.thin, storm.good) == (False, True)
    storm.broken_promises.append("GET /a answers 404, not 200")
    assert (storm.sound, storm.good) == (False, False)


def test_every_saga_that_is_aimed_at_has_an_errand() -> None:
    assert set(Errands(Site(None, None), Promises())._ways) == set(STEPS)  # type: ignore[arg-type]


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
        (["--every-point", "--spread"], "goes without --spread"),
        (["--single"], "goes with --spread"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: list[str], told: str) -> None:
    result = CliRunner().invoke(main, ["chaos", *words])
    assert result.exit_code == 2
    assert told in result.output


async def test_a_restart_by_the_users_own_program(tmp_path: Path) -> None:
    given = {"database": "postgresql://u:p@h/d", "bus": "amqp://u:p@h/v"}
    programs = {"restart_database": f"touch '{tmp_path}/it was restarted'", "restart_broker": "false"}
    with backing({**given, **programs}) as below:
        assert (below.database, below.bus) == (given["database"], given["bus"])
        await below.restarts["database"]()
        with pytest.raises(ProgramFailed):
            await below.restarts["broker"]()
    assert (tmp_path / "it was restarted").exists()
    with backing({**given, **programs, "restart_broker": None}) as below:
        assert set(below.restarts) == {"database"}, "what can't be restarted is not in the plan"


def test_one_of_each_role_is_the_whole_cloud(tmp_path: Path) -> None:
    given = ("postgresql://u:p@h/d", "amqp://u:p@h/v")
    single, twins = (SpreadCloud(tmp_path / str(one), *given, twins=one) for one in (False, True))
    roles = [role for part in single.control for role in part.roles]
    assert len(roles) == len(set(roles))
    assert sorted(2 * roles) == sorted(role for part in twins.control for role in part.roles)


async def test_what_died_by_itself_is_told(tmp_path: Path) -> None:
    """A process that ended although nobody killed it is started again, and is a finding."""
    cloud = CloudProcess(tmp_path / "cloud", launcher=Stillborn())
    for blow in (cloud.start, lambda: cloud.strike("kill")):
        with pytest.raises(RuntimeError, match="did not start: boom"):
            await blow()
    assert cloud.died == ["the cloud ended by itself: boom"]


class Stillborn:
    """Starts processes that say a word and end."""

    async def launch(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
        log.write_text("boom")
        return await asyncio.create_subprocess_exec("false")

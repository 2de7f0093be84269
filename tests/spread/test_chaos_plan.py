# SPDX-License-Identifier: Apache-2.0
"""The plan of a storm can be repeated, and an ordinary process has none of the points at which it can be held."""

from __future__ import annotations

from cumulet.cli.chaos.storm import Storm, plan_of
from cumulet.kernel import halts


def test_a_seed_gives_one_plan() -> None:
    assert plan_of(50, 7) == plan_of(50, 7)
    assert plan_of(50, 7)[:20] == plan_of(20, 7)
    assert plan_of(50, 7) != plan_of(50, 8)
    assert any(blow.freeze for blow in plan_of(200, 1))
    assert all(0 < blow.after < 3 for blow in plan_of(200, 1))


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

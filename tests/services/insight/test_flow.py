# SPDX-License-Identifier: Apache-2.0
"""How events become rows: attempts, gaps, skipped steps, failures, repetitions."""

from __future__ import annotations

import random
from typing import Any

import pytest

from cumulet.insight.flow import NOT_RECORDED, STALE_SECONDS, STEPS, Flow, Stored, assemble, hider
from cumulet.kernel.trace import Event

START = 1_800_000_000.0


def events(*names: str, attempt: int = 1, at: float = 0.0, host: str = "node-1", **more: Any) -> list[Event]:
    """One event of each name, a millisecond after another."""
    return [
        Event("s", name, "c", host, attempt, START + at + number / 1000, 0.5, "req-1", **more)
        for number, name in enumerate(names)
    ]


def flow_of(*batches: list[Event], now: float = START + 10) -> Flow:
    stored = [Stored(number, event) for number, event in enumerate((one for batch in batches for one in batch), 1)]
    token = [one for one in stored if one.event.name.startswith("auth.")]
    return assemble([one for one in stored if one not in token], token, now)


ALL = [step.name for step in STEPS]


def test_a_whole_flow_has_every_step_once() -> None:
    flow = flow_of(events(*ALL))
    assert [row.step for row in flow.rows] == list(range(1, 31))
    assert [row.skipped for row in flow.rows] == [None] * 30
    assert flow.finished
    assert flow.beside == []


def test_the_order_of_arrival_does_not_matter() -> None:
    told = events(*ALL)
    random.Random(4).shuffle(told)
    assert [row.document() for row in flow_of(told).rows] == [row.document() for row in flow_of(events(*ALL)).rows]


def test_what_a_killed_process_did_not_tell_is_said() -> None:
    flow = flow_of([one for one in events(*ALL) if one.name not in ("rpc.build", "image.ready")])
    assert {row.name: row.skipped for row in flow.rows if row.skipped} == {
        "rpc.build": NOT_RECORDED, "image.ready": NOT_RECORDED,
    }  # fmt: skip
    (build,) = [row for row in flow.rows if row.name == "rpc.build"]
    assert (build.started_at, build.duration_ms, build.host) == (None, None, None)
    assert build.between == "conductor → compute-agent"


def test_a_living_flow_has_no_gaps_yet() -> None:
    flow = flow_of(events("api.request", "conductor.query"))
    assert [row.name for row in flow.rows] == ["api.request", "conductor.query"]
    assert not flow.finished


def test_a_flow_that_fell_silent_is_over() -> None:
    told = events("api.request", "rpc.schedule")
    assert not flow_of(told, now=START + STALE_SECONDS - 1).finished
    flow = flow_of(told, now=START + STALE_SECONDS + 1)
    assert flow.finished
    assert [row.name for row in flow.rows if row.skipped] == ALL[:2] + ALL[3:7]


def test_a_failed_attempt_ends_where_it_failed() -> None:
    flow = flow_of(events(*ALL[:9]), events("scheduler.select", at=1, error="No valid host was found."))
    assert flow.finished
    assert [row.step for row in flow.rows] == list(range(1, 11))
    assert flow.rows[-1].error == "No valid host was found."


def test_a_retry_on_another_host_is_a_second_attempt() -> None:
    first = [*events(*ALL[:24]), *events("network.ready", at=1, error="The port was not wired.")]
    second = events(*ALL[7:], attempt=2, at=2, host="node-2")
    flow = flow_of(first, second)
    assert [(row.attempt, row.step) for row in flow.rows] == [
        *((1, number) for number in range(1, 26)), *((2, number) for number in range(8, 31)),
    ]  # fmt: skip
    assert {row.host for row in flow.rows if row.attempt == 2} == {"node-2"}
    assert flow.finished


def test_a_second_attempt_need_not_schedule_again() -> None:
    flow = flow_of(events(*ALL[:12]), events(*(name for name in ALL[11:] if name != "compute.fetched"), attempt=2))
    gaps = [(row.attempt, row.name) for row in flow.rows if row.skipped == NOT_RECORDED]
    assert gaps == [(2, "compute.fetched")]


def test_the_last_call_counts_and_failures_are_counted() -> None:
    told = [
        *events("rpc.schedule", at=1, error="The scheduler did not answer."),
        *events("rpc.schedule", at=3, detail={"hosts": 2}),
    ]
    (row,) = flow_of(told).rows
    assert row.error is None
    assert row.detail == {"hosts": 2, "calls": 2, "failed_calls": 1}
    assert row.started_at == START + 1
    assert row.duration_ms == pytest.approx(2000.5)


def test_a_step_is_skipped_only_when_it_never_happened() -> None:
    skipped = events("volume.request", skipped="no volume was asked for")
    (row,) = flow_of(skipped).rows
    assert (row.skipped, row.detail) == ("no volume was asked for", {})
    (row,) = flow_of(skipped, events("volume.request", at=1)).rows
    assert row.skipped is None


def test_the_sequence_is_that_of_the_newest_event() -> None:
    flow = flow_of(events("image.token.validate"), events("image.request"), events("image.token.validate", at=1))
    assert {row.name: row.sequence for row in flow.rows} == {"image.request": 2, "image.token.validate": 3}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("node-1 failed", "(host) failed"),
        ("on node-1, then node-10.example", "on (host), then (host)"),
        ("node-11 and xnode-1 are others", "node-11 and xnode-1 are others"),
        ("node-1.", "(host)."),
    ],
)
def test_names_of_hosts_are_hidden_as_words(text: str, hidden: str) -> None:
    hide = hider({"node-1": "(host)", "node-10.example": "(host)"})
    assert hide({"a": [text]}) == {"a": [hidden]}

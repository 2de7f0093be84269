# SPDX-License-Identifier: Apache-2.0
"""The drawing as text: what stands where, within the width, and what a person reads."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len
from rich.text import Text

from cumulet.cli.drawing import Picture, bar, duration, note_of
from cumulet.client.insight import FlowStep, StepName
from cumulet.insight.flow import STEPS
from cumulet.kernel import clock

START = 1_800_000_000.0
NAMES = [StepName(one.published, one.name, one.between, one.transport) for one in STEPS]


def step(number: int, at: float = 0.0, took: float = 1.0, **more: Any) -> FlowStep:
    one = STEPS[number - 1]
    told = {
        "name": one.name, "attempt": 1, "component": one.sender, "step": one.published, "between": one.between,
        "host": "node-1", "started_at": clock.iso_micro_z(START + at / 1000), "duration_ms": took,
    }  # fmt: skip
    return FlowStep(**{**told, **more})


def drawn(steps: list[FlowStep], width: int = 100, names: list[StepName] | None = None, **more: Any) -> list[str]:
    return [line.plain for line in Picture(Text("title"), steps, names or []).lines(width, **more)]


def whole() -> list[FlowStep]:
    return [step(number, number * 10, 10) for number in range(1, 31)]


@pytest.mark.parametrize("width", [72, 80, 100, 160])
def test_every_line_fits(width: int) -> None:
    told = [
        *whole()[:24],
        step(25, 250, error="x" * 300, host="a-very-long-name-of-a-host"),
        step(26, skipped="no volume was asked for, and this reason is long", attempt=2),
        step(27, skipped="not recorded", started_at=None, duration_ms=None, host=None, attempt=2),
    ]
    lines = drawn(told, width, NAMES)
    assert max(cell_len(line) for line in lines) <= width


def test_each_step_is_one_line_in_order() -> None:
    lines = drawn(whole())[3:]
    assert len(lines) == 30
    assert [line.split()[1] for line in lines[:29]] == [str(number) for number in range(1, 30)]
    assert lines[28].startswith(" ✓  29 hypervisor.spawn       agent → hypervisor      node-1")
    assert lines[29].startswith(" ★     server.active")


def test_start_and_duration_are_for_people() -> None:
    line = drawn([step(3, 0, 0), step(7, 12.34, 1500)])[4]
    assert "node-1  +12.3 ms   1.50 s  " in line


def test_the_token_came_before_the_axis() -> None:
    lines = drawn([step(1, -12_300), step(3, 0), step(7, 5, 5)])[3:]
    assert "-12.30 s" in lines[0]
    assert lines[0].rstrip().endswith("◂")
    assert "+0 ms" in lines[1]


def test_a_failure_stands_under_its_step() -> None:
    lines = drawn([step(3), step(10, 5, error="No valid host was found. VCPU left 0 of 12 hosts.")])
    assert lines[4].startswith(" ✗  10 scheduler.select")
    assert lines[5] == "       └─ No valid host was found. VCPU left 0 of 12 hosts. (on node-1)"


def test_skipped_and_not_recorded_are_told_apart() -> None:
    lines = drawn([step(3), step(26, skipped="no volume was asked for"), step(29, skipped="not recorded")])
    assert lines[4].startswith(" –  26 volume.request")
    assert "skipped: no volume was asked for" in lines[4]
    assert lines[5].startswith(" ?  29 hypervisor.spawn")
    assert lines[5].endswith("  not recorded")


def test_attempts_are_parted() -> None:
    lines = drawn([step(25, error="no"), step(12, 50, attempt=2), step(29, 60, attempt=2)])
    (at,) = [number for number, line in enumerate(lines) if line.startswith(" ── attempt 2 ─")]
    assert "rpc.build" in lines[at + 1]


def test_no_host_no_column() -> None:
    assert " host " in drawn([step(3)])[2]
    assert " host " not in drawn([step(3, host=None)])[2]


def test_a_living_flow_shows_what_runs_and_what_is_to_come() -> None:
    lines = drawn(whole()[:19], names=NAMES)[3:]
    assert len(lines) == 30
    assert lines[19].startswith(" ⠋  20 image.request")
    assert lines[20].startswith(" ·  21 image.token.validate")
    # step 14 encloses 15 to 18 and is recorded after them: it runs
    lines = drawn([one for one in whole()[:18] if one.step != 14], names=NAMES)[3:]
    assert lines[13].startswith(" ⠋  14 compute.fetch")
    # what a failure left undone is not to come
    assert len(drawn([step(3), step(10, error="no")], names=NAMES)) == 6


def test_a_low_terminal_sees_the_running_step() -> None:
    lines = drawn(whole()[:19], names=NAMES, height=12)
    assert len(lines) == 12
    assert any(line.startswith(" ⠋  20") for line in lines)


@pytest.mark.parametrize(
    ("begin", "end", "told"),
    [
        (0.0, 1.0, (0, "██████████")),
        (0.0, 0.5, (0, "█████")),
        (0.5, 1.0, (5, "█████")),
        (0.25, 0.75, (2, "▐████▌")),
        (0.0, 0.05, (0, "▌")),
        (0.05, 0.1, (0, "▐")),
        (0.3, 0.3, (3, "▏")),
        (0.35, 0.35, (3, "│")),
        (0.39, 0.39, (3, "▕")),
        (1.0, 1.0, (9, "▕")),
        (0.99, 1.0, (9, "▕")),
    ],
)
def test_bars(begin: float, end: float, told: tuple[int, str]) -> None:
    assert bar(begin, end, 10) == told


def test_no_bar_leaves_its_cells_or_vanishes() -> None:
    for begin in range(101):
        for end in range(begin, 101):
            offset, cells = bar(begin / 100, end / 100, 14)
            assert cells.strip()
            assert offset >= 0
            assert offset + len(cells) <= 14


@pytest.mark.parametrize(
    ("ms", "told"),
    [
        (0, "0 ms"), (0.004, "0.00 ms"), (0.42, "0.42 ms"), (12.34, "12.3 ms"), (812.4, "812 ms"), (999.7, "1000 ms"),
        (1234, "1.23 s"), (59_990, "59.99 s"), (61_000, "1 min 01"), (3_540_000, "59 min 0"), (5_400_000, "1.5 h"),
    ],
)  # fmt: skip
def test_durations(ms: float, told: str) -> None:
    assert duration(ms) == told
    assert len(duration(ms)) <= 8


@pytest.mark.parametrize(
    ("number", "detail", "note"),
    [
        (21, {"cached": True}, "cached"),
        (21, {"cached": True, "calls": 3, "cached_calls": 3}, "×3 cached"),
        (21, {"cached": False, "calls": 3, "cached_calls": 1}, "×3 1 cached"),
        (21, {"cached": False}, ""),
        (12, {"to": "node-2"}, "to node-2"),
        (12, {}, ""),
        (22, {"size": 16 * 1_048_576, "format": "qcow2"}, "qcow2 16 MiB"),
        (23, {"ports": 2}, "2 ports"),
        (25, {"addresses": ["10.20.0.9", "fd00::9"]}, "10.20.0.9 fd00::9"),
    ],
)
def test_notes(number: int, detail: dict[str, Any], note: str) -> None:
    assert note_of(step(number, detail=detail)) == note

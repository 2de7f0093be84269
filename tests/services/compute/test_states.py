# SPDX-License-Identifier: Apache-2.0
"""What a client sees of every state, and which actions each state lets begin."""

from __future__ import annotations

import pytest

from cumulet.compute import states
from cumulet.compute.sagas.table import SAGAS
from cumulet.compute.states import SERVER, states_of, status_of
from cumulet.kernel.states import ANY


@pytest.mark.parametrize(
    ("vm_state", "task_state", "status"),
    [
        ("building", "scheduling", "BUILD"), ("building", "spawning", "BUILD"), ("active", None, "ACTIVE"),
        ("active", "powering-off", "ACTIVE"), ("active", "rebooting", "REBOOT"),
        ("active", "rebooting_hard", "HARD_REBOOT"), ("active", "resize_prep", "RESIZE"),
        ("active", "migrating", "MIGRATING"), ("stopped", None, "SHUTOFF"), ("stopped", "rebuilding", "REBUILD"),
        ("error", None, "ERROR"), ("deleted", None, "DELETED"), ("shelved_offloaded", None, "SHELVED_OFFLOADED"),
        ("resized", "resize_reverting", "REVERT_RESIZE"), ("rescued", None, "RESCUE"), ("limbo", None, "UNKNOWN"),
    ],
)  # fmt: skip
def test_status(vm_state: str, task_state: str | None, status: str) -> None:
    assert status_of(vm_state, task_state) == status


@pytest.mark.parametrize(
    ("statuses", "vm_states", "tasks"),
    [
        (["ACTIVE"], {"active"}, None),
        (["shutoff", "error"], {"stopped", "error"}, None),
        (["REBOOT"], {"active"}, {"rebooting", "reboot_pending", "reboot_started"}),
        (["nonsense"], set(), set()),
    ],
)
def test_the_states_behind_a_status(statuses: list[str], vm_states: set[str], tasks: set[str] | None) -> None:
    assert states_of(statuses) == (vm_states, tasks)


def test_delete_begins_everywhere() -> None:
    delete = SERVER.actions["delete"]
    assert delete.allowed is ANY
    assert delete.while_busy is ANY


def test_every_saga_of_the_table_exists() -> None:
    known = {saga.name for saga in SAGAS}
    assert {action.saga for action in SERVER.actions.values() if action.saga} <= known


def test_every_state_has_a_status() -> None:
    named = {value for name, value in vars(states).items() if name.isupper() and isinstance(value, str)}
    for action in SERVER.actions.values():
        for state in action.allowed - ANY:
            assert state in states.STATUSES
            assert state in named
        assert action.ends is None or action.ends in states.STATUSES

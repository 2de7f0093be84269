# SPDX-License-Identifier: Apache-2.0
"""The life of a server: its published states, its one table of actions, and the status that a client sees.

No other line of the service writes ``vm_state``; ``task_state`` is set by
`SERVER.begin` and `SERVER.progress` and cleared by `SERVER.finish`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cumulet.compute.models import SERVERS
from cumulet.kernel.states import ANY, Action, Life

ACTIVE: Final = "active"
BUILDING: Final = "building"
PAUSED: Final = "paused"
SUSPENDED: Final = "suspended"
STOPPED: Final = "stopped"
RESCUED: Final = "rescued"
RESIZED: Final = "resized"
SOFT_DELETED: Final = "soft-delete"
DELETED: Final = "deleted"
ERROR: Final = "error"
SHELVED: Final = "shelved"
SHELVED_OFFLOADED: Final = "shelved_offloaded"

SCHEDULING: Final = "scheduling"
NETWORKING: Final = "networking"
BLOCK_DEVICE_MAPPING: Final = "block_device_mapping"
SPAWNING: Final = "spawning"
DELETING: Final = "deleting"
POWERING_ON: Final = "powering-on"
POWERING_OFF: Final = "powering-off"
REBOOTING: Final = "rebooting"
REBOOT_PENDING: Final = "reboot_pending"
REBOOT_STARTED: Final = "reboot_started"
REBOOTING_HARD: Final = "rebooting_hard"
REBOOT_PENDING_HARD: Final = "reboot_pending_hard"
REBOOT_STARTED_HARD: Final = "reboot_started_hard"
IMAGE_SNAPSHOT_PENDING: Final = "image_snapshot_pending"
IMAGE_SNAPSHOT: Final = "image_snapshot"
IMAGE_PENDING_UPLOAD: Final = "image_pending_upload"
IMAGE_UPLOADING: Final = "image_uploading"
IMAGE_MARKS: Final = frozenset({IMAGE_SNAPSHOT_PENDING, IMAGE_SNAPSHOT, IMAGE_PENDING_UPLOAD, IMAGE_UPLOADING})
"""What a server shows while an image is made of it."""

_SOFT = (REBOOTING, REBOOT_PENDING, REBOOT_STARTED)
_HARD = (REBOOTING_HARD, REBOOT_PENDING_HARD, REBOOT_STARTED_HARD)
_RESIZE = ("resize_prep", "resize_migrating", "resize_migrated", "resize_finish")
_REBUILD = ("rebuilding", "rebuild_block_device_mapping", "rebuild_spawning")

BETWEEN_HOSTS: Final = frozenset({"migrating", *_RESIZE, "resize_reverting", "rebuilding"})
"""Marks under which a server may have a guest on a host that is not its own."""

LIVE: Final = frozenset({ACTIVE, PAUSED, SUSPENDED, STOPPED})
PLUGGABLE: Final = frozenset({ACTIVE, PAUSED, STOPPED, RESIZED, SOFT_DELETED, SHELVED, SHELVED_OFFLOADED})
_WHILE_REBOOT = frozenset({*_SOFT, *_HARD, "resuming", "unpausing", "pausing", "suspending"})

SERVER: Final = Life(
    "instance",
    SERVERS,
    {
        # action                     allowed in               while busy      ends     done by saga
        "create": Action(frozenset({BUILDING}), SCHEDULING, ACTIVE, "compute.create_server", while_busy=ANY),
        "delete": Action(ANY, DELETING, DELETED, "compute.delete_server", while_busy=ANY),
        "start": Action(frozenset({STOPPED}), POWERING_ON, ACTIVE, "compute.power_server"),
        "stop": Action(frozenset({ACTIVE, ERROR}), POWERING_OFF, STOPPED, "compute.power_server"),
        "reboot_soft": Action(frozenset({ACTIVE}), REBOOTING, ACTIVE, "compute.power_server", word="reboot"),
        "reboot_hard": Action(
            frozenset({ACTIVE, STOPPED, PAUSED, SUSPENDED, ERROR}), REBOOTING_HARD, ACTIVE, "compute.power_server",
            while_busy=_WHILE_REBOOT, word="reboot",
        ),
        "create_image": Action(LIVE, IMAGE_SNAPSHOT_PENDING, None, "compute.create_image", word="createImage"),
        "attach_volume": Action(PLUGGABLE, None, None, "compute.attach_volume"),
        "detach_volume": Action(PLUGGABLE, None, None, "compute.detach_volume"),
        "attach_interface": Action(frozenset({ACTIVE, PAUSED, STOPPED}), None, None, "compute.attach_interface"),
        "detach_interface": Action(frozenset({ACTIVE, PAUSED, STOPPED}), None, None, "compute.detach_interface"),
        "update": Action(ANY, None, None, while_busy=ANY),
        "update_metadata": Action(LIVE, None, None, while_busy=ANY, word="update metadata"),
        "delete_metadata": Action(LIVE, None, None, while_busy=ANY, word="delete metadata"),
        "update_tags": Action(LIVE, None, None, word="update tags"),
        "delete_tags": Action(LIVE, None, None, word="delete tags"),
        "lock": Action(ANY, None, None, while_busy=ANY),
        "unlock": Action(ANY, None, None, while_busy=ANY),
        "reset_state": Action(ANY, None, None, while_busy=ANY),
    },
    state_column="vm_state",
    busy_column="task_state",
)  # fmt: skip


def _busy(marks: Iterable[str], status: str) -> dict[str | None, str]:
    return dict.fromkeys(marks, status)


_MOVING = {**_busy(_RESIZE, "RESIZE"), **_busy(_REBUILD, "REBUILD")}
STATUSES: Final[dict[str, dict[str | None, str]]] = {
    ACTIVE: {
        None: "ACTIVE", **_busy(_SOFT, "REBOOT"), **_busy(_HARD, "HARD_REBOOT"), **_MOVING,
        "updating_password": "PASSWORD", "migrating": "MIGRATING",
    },
    BUILDING: {None: "BUILD"},
    STOPPED: {None: "SHUTOFF", **_MOVING},
    RESIZED: {None: "VERIFY_RESIZE", "resize_reverting": "REVERT_RESIZE"},
    PAUSED: {None: "PAUSED", "migrating": "MIGRATING"},
    SUSPENDED: {None: "SUSPENDED"},
    RESCUED: {None: "RESCUE"},
    ERROR: {None: "ERROR", **_busy(_REBUILD, "REBUILD")},
    DELETED: {None: "DELETED"},
    SOFT_DELETED: {None: "SOFT_DELETED"},
    SHELVED: {None: "SHELVED"},
    SHELVED_OFFLOADED: {None: "SHELVED_OFFLOADED"},
}  # fmt: skip
"""vm_state → task_state → status; None is every other task_state."""


def status_of(vm_state: str, task_state: str | None) -> str:
    """The status that a client sees."""
    by_task = STATUSES.get(vm_state)
    if by_task is None:
        return "UNKNOWN"
    return by_task.get(task_state) or by_task[None]


def states_of(statuses: Iterable[str]) -> tuple[set[str], set[str] | None]:
    """The vm_states, and the task_states (None: any), that stand behind published statuses."""
    wanted = {status.upper() for status in statuses}
    states: set[str] = set()
    tasks: set[str] = set()
    any_task = False
    for state, by_task in STATUSES.items():
        for task, status in by_task.items():
            if status in wanted:
                states.add(state)
                if task is None:
                    any_task = True
                else:
                    tasks.add(task)
    return states, None if any_task else tasks

# SPDX-License-Identifier: Apache-2.0
"""The lives of volumes, snapshots and attachments, as three tables.

`begin` refuses what the table does not allow; nobody else writes a status.
"""

from __future__ import annotations

from cumulet.kernel.states import Action, Life
from cumulet.volume.models import ATTACHMENTS, SNAPSHOTS, VOLUMES

CREATING, AVAILABLE, IN_USE = "creating", "available", "in-use"
RESERVED, ATTACHING, DETACHING = "reserved", "attaching", "detaching"
DELETING, DELETED, EXTENDING = "deleting", "deleted", "extending"
ERROR, ERROR_DELETING, ERROR_EXTENDING = "error", "error_deleting", "error_extending"

EVERY = frozenset({
    CREATING, AVAILABLE, IN_USE, RESERVED, ATTACHING, DETACHING, DELETING, EXTENDING, ERROR, ERROR_DELETING,
    ERROR_EXTENDING, "maintenance", "awaiting-transfer", "restoring-backup", "error_restoring", "error_backing-up",
    "error_managing", "retyping", "uploading", "downloading",
})  # fmt: skip
"""Every state of a volume that is there."""
_AT_REST = frozenset({AVAILABLE, ERROR, "error_restoring", ERROR_EXTENDING, "error_managing"})

VOLUME = Life(
    "volume",
    VOLUMES,
    {
        "create": Action(frozenset({CREATING}), CREATING, AVAILABLE),
        "fail": Action(EVERY, None, ERROR),
        "extend": Action(frozenset({AVAILABLE}), EXTENDING, AVAILABLE),
        "retype": Action(frozenset({AVAILABLE}), None, AVAILABLE),
        "retype in use": Action(frozenset({IN_USE}), None, IN_USE),
        "delete": Action(_AT_REST, DELETING, DELETED),
        "force-delete": Action(EVERY, DELETING, DELETED),
        "reserve": Action(frozenset({AVAILABLE}), None, RESERVED),
        "reserve again": Action(frozenset({AVAILABLE, IN_USE}), None, RESERVED),
        "legacy reserve": Action(frozenset({AVAILABLE}), None, ATTACHING),
        "legacy reserve again": Action(frozenset({AVAILABLE, IN_USE}), None, ATTACHING),
        "unreserve": Action(frozenset({ATTACHING}), None, AVAILABLE),
        "unreserve in use": Action(frozenset({ATTACHING}), None, IN_USE),
        "connect": Action(frozenset({RESERVED, ATTACHING, AVAILABLE, IN_USE}), None, ATTACHING),
        "attach": Action(
            frozenset({RESERVED, ATTACHING, AVAILABLE, IN_USE, DETACHING}), None, IN_USE
        ),
        "legacy attach": Action(frozenset({AVAILABLE, ATTACHING}), None, IN_USE),
        "legacy attach again": Action(frozenset({AVAILABLE, ATTACHING, IN_USE}), None, IN_USE),
        "begin detaching": Action(frozenset({IN_USE}), None, DETACHING),
        "roll detaching": Action(frozenset({DETACHING}), None, IN_USE),
        "detach": Action(frozenset({RESERVED, ATTACHING, IN_USE, DETACHING}), None, AVAILABLE),
        "detach one": Action(frozenset({RESERVED, ATTACHING, IN_USE, DETACHING}), None, IN_USE),
        "detach to reserved": Action(frozenset({RESERVED, ATTACHING, IN_USE, DETACHING}), None, RESERVED),
    },
)  # fmt: skip

SNAPSHOT = Life(
    "snapshot",
    SNAPSHOTS,
    {
        "create": Action(frozenset({CREATING}), CREATING, AVAILABLE),
        "fail": Action(frozenset({CREATING, AVAILABLE, DELETING}), None, ERROR),
        "delete": Action(frozenset({AVAILABLE, ERROR}), DELETING, DELETED),
        "force-delete": Action(
            frozenset({CREATING, AVAILABLE, ERROR, DELETING, ERROR_DELETING}), DELETING, DELETED
        ),
    },
)  # fmt: skip

ATTACHED = "attached"
ATTACHMENT = Life(
    "attachment",
    ATTACHMENTS,
    {
        "connect": Action(frozenset({RESERVED, ATTACHING, ATTACHED}), None, ATTACHING),
        "reconnect": Action(frozenset({ATTACHED}), None, ATTACHED),
        "complete": Action(frozenset({RESERVED, ATTACHING, ATTACHED}), None, ATTACHED),
    },
)

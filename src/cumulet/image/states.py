# SPDX-License-Identifier: Apache-2.0
"""The life of an image, as one table.

`import` goes from staged data, or none, to active; `locate` is active at once,
since the data is there; `restore` and `unlocate` are what a broken upload,
import or check of a location ends in, so that it can be tried again.
"""

from __future__ import annotations

from cumulet.image.models import images
from cumulet.kernel.states import Action, Life

QUEUED, SAVING, UPLOADING, IMPORTING = "queued", "saving", "uploading", "importing"
ACTIVE, DEACTIVATED, DELETED = "active", "deactivated", "deleted"

IMAGE = Life(
    "image",
    images,
    {
        "upload": Action(frozenset({QUEUED}), SAVING, ACTIVE),
        "stage": Action(frozenset({QUEUED}), UPLOADING, UPLOADING),
        "import": Action(frozenset({QUEUED, UPLOADING}), IMPORTING, ACTIVE),
        "locate": Action(frozenset({QUEUED}), None, ACTIVE),
        "unlocate": Action(frozenset({IMPORTING, ACTIVE, DEACTIVATED}), None, QUEUED),
        "restore": Action(frozenset({SAVING, UPLOADING, IMPORTING}), None, QUEUED),
        "deactivate": Action(frozenset({ACTIVE}), None, DEACTIVATED),
        "reactivate": Action(frozenset({DEACTIVATED}), None, ACTIVE),
        "delete": Action(
            frozenset({QUEUED, SAVING, UPLOADING, IMPORTING, ACTIVE, DEACTIVATED}), None, DELETED
        ),
    },
    refusal="Image status transition from {now} to {goal} is not allowed",
)  # fmt: skip

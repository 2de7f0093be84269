# SPDX-License-Identifier: Apache-2.0
"""The section ``[image]``."""

from __future__ import annotations

from typing import Annotated

import msgspec


class ImageConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Limits and timings of the image service."""

    size_cap_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1024**4
    """The largest image that is taken, in bytes."""
    count_quota: Annotated[int, msgspec.Meta(ge=-1)] = -1
    """Images that one project may own (-1: unlimited)."""
    total_mib_quota: Annotated[int, msgspec.Meta(ge=-1)] = -1
    """MiB of image data that one project may own (-1: unlimited)."""
    property_quota: Annotated[int, msgspec.Meta(ge=-1)] = 128
    """Custom properties of one image (-1: unlimited)."""
    tag_quota: Annotated[int, msgspec.Meta(ge=-1)] = 128
    """Tags of one image (-1: unlimited)."""
    member_quota: Annotated[int, msgspec.Meta(ge=-1)] = 128
    """Members of one shared image (-1: unlimited)."""
    page: Annotated[int, msgspec.Meta(ge=1)] = 25
    """Images of a list answer when the client names no limit."""
    page_max: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Images of a list answer at most."""
    stall_seconds: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    """An upload that sends nothing for so long is broken."""
    lost_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """An upload whose process did not report for so long is broken."""
    keep_deleted_days: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """How long the records of deleted images are kept."""

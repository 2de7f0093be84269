# SPDX-License-Identifier: Apache-2.0
"""The settings of insight: section ``[insight]``."""

from __future__ import annotations

from typing import Annotated

import msgspec


class Config(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator may choose."""

    keep_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 7.0
    """How long flow events are kept."""
    check_again_seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 1.0
    """How long after the first look the checker looks again: only what both have is broken."""
    heartbeat_seconds: Annotated[float, msgspec.Meta(gt=0, le=300)] = 15.0
    """How often a stream without news says that it is alive, and looks whether its token still is."""

# SPDX-License-Identifier: Apache-2.0
"""The settings of identity, section ``[identity]``; times in seconds."""

from __future__ import annotations

from typing import Annotated

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1)]


class IdentitySettings(msgspec.Struct, frozen=True):
    """What an operator may choose; the defaults are the published ones."""

    token_lifetime: Positive = 3600
    """How long a new token is valid."""
    expired_window: Annotated[int, msgspec.Meta(ge=0)] = 172_800
    """How long after its end a token may still be validated with ``allow_expired``."""
    region: str = "RegionOne"
    """The region of the cloud's own endpoints."""
    page_limit: Positive = 1000
    """The largest page that a list request gets when it asks for pages."""
    project_tree_depth: Positive = 5
    """How many projects may stand below one another under a domain."""
    hash_memory_kib: Annotated[int, msgspec.Meta(ge=8, le=4_194_304)] = 19_456
    """Memory of one Argon2id password hash."""
    hash_passes: Positive = 2
    """Passes of one Argon2id password hash."""

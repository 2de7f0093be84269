# SPDX-License-Identifier: Apache-2.0
"""What the sagas are told when they are started; everything else they read themselves."""

from __future__ import annotations

from typing import Literal

import msgspec


class CreateVolume(msgspec.Struct):
    volume_id: str
    size_gib: int
    kind: Literal["empty", "image", "volume", "snapshot"]
    source_id: str = ""
    only: str | None = None
    """The back end (host@backend) that holds the source."""
    zone: str | None = None


class DeleteVolume(msgspec.Struct):
    volume_id: str
    snapshots: list[str] = []
    """Those that go with it."""


class ExtendVolume(msgspec.Struct):
    volume_id: str
    old_gib: int
    new_gib: int


class CreateSnapshot(msgspec.Struct):
    snapshot_id: str
    volume_id: str


class DeleteSnapshot(msgspec.Struct):
    snapshot_id: str

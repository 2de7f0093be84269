# SPDX-License-Identifier: Apache-2.0
"""Everything that takes longer than a transaction: making, deleting and growing volumes and snapshots."""

from __future__ import annotations

from cumulet.volume.sagas.snapshots import CREATE_SNAPSHOT, DELETE_SNAPSHOT
from cumulet.volume.sagas.volumes import CREATE_VOLUME, DELETE_VOLUME, EXTEND_VOLUME

ALL = (CREATE_VOLUME, DELETE_VOLUME, EXTEND_VOLUME, CREATE_SNAPSHOT, DELETE_SNAPSHOT)
__all__ = ["ALL", "CREATE_SNAPSHOT", "CREATE_VOLUME", "DELETE_SNAPSHOT", "DELETE_VOLUME", "EXTEND_VOLUME"]

# SPDX-License-Identifier: Apache-2.0
"""What the volume service does, below its API and above its sagas."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cumulet.client.image import ImageClient
from cumulet.kernel.bus import Bus
from cumulet.kernel.db import Database, Transaction
from cumulet.kernel.policy import Policy
from cumulet.kernel.quota import Quota
from cumulet.kernel.saga import SagaEngine
from cumulet.volume.config import VolumeConfig
from cumulet.volume.rpc import POKE, Poke


@dataclass
class Volume:
    """The service's own object, seen by handlers as ``request.service``."""

    database: Database
    config: VolumeConfig
    policy: Policy
    quota: Quota
    engine: SagaEngine
    bus: Bus
    image: ImageClient
    default_type: str = "__DEFAULT__"
    runs_sagas: bool = True
    """Whether the engine runs in this process; else its process is told."""

    async def begin(self, tx: Transaction, name: str, subject: str, params: msgspec.Struct) -> str:
        """Write a saga in the transaction of its record; `told` must follow the commit."""
        return await self.engine.start_saga(tx, name, subject=subject, params=params)

    async def told(self, saga_id: str) -> None:
        """Let the engine begin at once, wherever it runs; it would find the saga by itself within a second."""
        if not self.runs_sagas:
            await self.bus.cast(POKE, Poke(saga_id))

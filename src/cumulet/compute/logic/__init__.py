# SPDX-License-Identifier: Apache-2.0
"""What compute's API does, below the edge: only the newest shape exists here.

Invariant: a check that fails leaves nothing behind, and what was accepted is
one transaction: the record, its quota, its action and the saga that does it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from cumulet.compute.config import ComputeConfig
from cumulet.kernel.bus import Bus
from cumulet.kernel.db import Database, Transaction
from cumulet.kernel.outbox import Outbox
from cumulet.kernel.pools import Pool
from cumulet.kernel.quota import Quota
from cumulet.kernel.secrets import Seal, SecretFile

if TYPE_CHECKING:
    from cumulet.client.image import ImageClient
    from cumulet.client.network import NetworkClient
    from cumulet.client.volume import VolumeClient


class Sagas(Protocol):
    """What logic needs of the saga engine."""

    async def start_saga(self, tx: Transaction, name: str, *, subject: str, params: msgspec.Struct) -> str: ...

    async def cancel(self, tx: Transaction, saga_id: str) -> bool: ...


@dataclass
class Compute:
    """The compute service's own object, as handlers, sagas and the metadata API see it."""

    db: Database
    sagas: Sagas
    quota: Quota
    image: ImageClient
    network: NetworkClient
    volume: VolumeClient
    placement: Any
    bus: Bus
    settings: ComputeConfig
    seal: Seal
    secrets: SecretFile
    outbox: Outbox | None = None
    host: str = ""
    keys: Pool = field(default_factory=lambda: Pool("compute-keys", 1))
    """Where key pairs are generated: a tenth of a second of arithmetic each."""

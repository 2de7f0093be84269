# SPDX-License-Identifier: Apache-2.0
"""What the image service does, below its API and above its tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from cumulet.image.config import ImageConfig
from cumulet.image.store.model import Store
from cumulet.kernel.db import Database
from cumulet.kernel.loops import Loop
from cumulet.kernel.policy import Policy
from cumulet.kernel.pools import Pool

STORE_ID = "file"
"""The one store that clients see."""


@dataclass
class Image:
    """The service's own object, seen by handlers as ``request.service``."""

    database: Database
    config: ImageConfig
    policy: Policy
    store: Store
    staging: Store
    pool: Pool
    loops: dict[str, Loop] = field(default_factory=dict)

    def poke(self, loop: str) -> None:
        """Let a reconciler run soon, if it runs in this process."""
        if loop in self.loops:
            self.loops[loop].poke()

# SPDX-License-Identifier: Apache-2.0
"""What the image service does, below its API and above its tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from cumulet.client.session import ServiceSession
from cumulet.image.config import ImageConfig
from cumulet.image.logic.limits import Limits
from cumulet.image.store.file import FileStore
from cumulet.image.store.model import Place
from cumulet.image.web import Web
from cumulet.kernel.db import Database
from cumulet.kernel.loops import Loop
from cumulet.kernel.policy import Policy
from cumulet.kernel.pools import Pool
from cumulet.kernel.saga import SagaEngine


@dataclass
class Image:
    """The service's own object, seen by handlers as ``request.service`` and by sagas as their world."""

    database: Database
    config: ImageConfig
    policy: Policy
    stores: dict[str, Place]
    """By id; the first one is the default."""
    staging: FileStore
    cached: FileStore
    pool: Pool
    web: Web
    session: ServiceSession
    limits: Limits
    node: str = ""
    """The machine, as its cache's entries name it."""
    engine: SagaEngine = field(init=False)
    loops: dict[str, Loop] = field(default_factory=dict)

    @property
    def default(self) -> Place:
        return next(iter(self.stores.values()))

    @property
    def writable(self) -> list[str]:
        """Ids of the stores that data can be put into."""
        return [place.id for place in self.stores.values() if not place.read_only]

    def poke(self, loop: str) -> None:
        """Let a reconciler run soon, if it runs in this process."""
        if loop in self.loops:
            self.loops[loop].poke()

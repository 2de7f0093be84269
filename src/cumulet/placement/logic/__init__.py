# SPDX-License-Identifier: Apache-2.0
"""What placement does, below its API: one file per resource.

`Placement` is the service's own object; every change of a provider goes through
`logic.providers.touch`, so the feed misses none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cumulet.kernel.db import Database, Transaction
from cumulet.placement.config import Config
from cumulet.placement.feed import Feed

Reader = Database | Transaction


@dataclass
class Placement:
    """The placement service."""

    database: Database
    config: Config = field(default_factory=Config)
    feed: Feed = field(init=False)

    def __post_init__(self) -> None:
        self.feed = Feed(self.database)

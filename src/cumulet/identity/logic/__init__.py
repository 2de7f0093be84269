# SPDX-License-Identifier: Apache-2.0
"""What identity does, below HTTP: one module per kind of thing, and the object that its handlers see."""

from __future__ import annotations

from dataclasses import dataclass

from cumulet.identity.config import IdentitySettings
from cumulet.identity.logic.authentication import Authentication
from cumulet.identity.logic.catalogue import Catalogue
from cumulet.identity.logic.claims import Sealer
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.passwords import Passwords
from cumulet.identity.logic.tokens import Tokens
from cumulet.kernel import clock
from cumulet.kernel.db import Database
from cumulet.kernel.loops import Loop
from cumulet.kernel.secrets import SecretFile


@dataclass
class Identity:
    """The service's own object (`request.service`)."""

    database: Database
    settings: IdentitySettings
    feed: Feed
    tokens: Tokens
    passwords: Passwords
    authentication: Authentication
    catalogue: Catalogue
    own_endpoints: list[tuple[str, str, str, str]]
    """(type, name, mount, endpoint) of every service of this cloud."""
    front_port: int | None = None
    """Where the front door is, for clients that come to the traditional port."""

    @classmethod
    def make(
        cls,
        database: Database,
        settings: IdentitySettings,
        secrets: SecretFile,
        own_endpoints: list[tuple[str, str, str, str]],
        *,
        front_port: int | None = None,
        hash_threads: int | None = None,
    ) -> Identity:
        feed = Feed(database)
        tokens = Tokens(database, feed, Sealer(secrets), settings)
        passwords = Passwords(settings, threads=hash_threads)
        authentication = Authentication(database, feed, tokens, passwords, settings)
        catalogue = Catalogue(database, feed)
        return cls(database, settings, feed, tokens, passwords, authentication, catalogue, own_endpoints, front_port)

    def purge_loop(self) -> Loop:
        """The loop that forgets changes which no token is old enough to be touched by."""

        async def purge() -> None:
            await self.feed.purge(clock.now() - self.settings.token_lifetime - self.settings.expired_window - 3600)

        return Loop("identity purge", 3600.0, purge, at_start=False)

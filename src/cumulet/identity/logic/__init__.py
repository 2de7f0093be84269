# SPDX-License-Identifier: Apache-2.0
"""What identity does, below HTTP: one module per kind of thing, and the object that its handlers see."""

from __future__ import annotations

from dataclasses import dataclass

from cumulet.identity.config import IdentitySettings
from cumulet.identity.logic import compliance
from cumulet.identity.logic.authentication import Authentication
from cumulet.identity.logic.catalogue import Catalogue
from cumulet.identity.logic.claims import Sealer
from cumulet.identity.logic.directories import Directories
from cumulet.identity.logic.domain_options import DomainOptions
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.keyring import CREDENTIALS, RECEIPTS, Keyring
from cumulet.identity.logic.methods import Methods
from cumulet.identity.logic.naming import Naming
from cumulet.identity.logic.oauth1 import OAuth1
from cumulet.identity.logic.passwords import Passwords
from cumulet.identity.logic.receipts import Receipts
from cumulet.identity.logic.sealed_credentials import SealedCredentials
from cumulet.identity.logic.shadows import Shadows
from cumulet.identity.logic.tokens import Tokens
from cumulet.kernel import clock
from cumulet.kernel.db import Database
from cumulet.kernel.loops import Loop
from cumulet.kernel.secrets import Seal, SecretFile


@dataclass
class Identity:
    """The service's own object (`request.service`)."""

    database: Database
    settings: IdentitySettings
    feed: Feed
    tokens: Tokens
    passwords: Passwords
    methods: Methods
    authentication: Authentication
    credentials: SealedCredentials
    oauth1: OAuth1
    catalogue: Catalogue
    domain_options: DomainOptions
    directories: Directories
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
        options = DomainOptions(database, Seal(secrets.get("identity_domain_options")))
        directories = Directories(database, options, Shadows(database, feed), settings)
        naming, sealed = Naming(database, directories), SealedCredentials(database, Keyring(secrets, CREDENTIALS))
        oauth1 = OAuth1(database, feed, Keyring(secrets, CREDENTIALS), settings)
        methods = Methods(database, tokens, passwords, sealed, oauth1, naming, directories)
        receipts = Receipts(Keyring(secrets, RECEIPTS), settings.receipt_lifetime)
        authentication = Authentication(database, feed, tokens, methods, naming, receipts, settings)
        catalogue = Catalogue(database, feed, settings)
        return cls(
            database, settings, feed, tokens, passwords, methods, authentication, sealed, oauth1, catalogue, options,
            directories, own_endpoints, front_port,
        )  # fmt: skip

    def purge_loop(self) -> Loop:
        """The loop that forgets changes which no token is old enough to be touched by."""

        async def purge() -> None:
            await self.feed.purge(clock.now() - self.settings.token_lifetime - self.settings.expired_window - 3600)

        return Loop("identity purge", 3600.0, purge, at_start=False)

    def inactivity_loop(self) -> Loop:
        """The loop that disables accounts which nobody uses any more, where the operator wants that."""

        async def look() -> None:
            await compliance.disable_inactive(self.database, self.feed, self.settings)

        return Loop("identity inactivity", 3600.0, look)

    def directory_loop(self) -> Loop:
        """The loop that looks again at everybody of directories who is used here."""
        return Loop("identity directories", self.settings.directory_refresh, self.directories.refresh)

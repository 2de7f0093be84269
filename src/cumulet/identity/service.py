# SPDX-License-Identifier: Apache-2.0
"""The one object that the assembly reads: identity's role, application and first start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cumulet.identity.bootstrap import bootstrap
from cumulet.identity.config import IdentitySettings
from cumulet.identity.errors import IdentityDialect
from cumulet.identity.logic import Identity
from cumulet.identity.models import METADATA
from cumulet.identity.policy import RULES
from cumulet.kernel.http import Api
from cumulet.kernel.policy import Policy
from cumulet.kernel.registry import Parts, Role, Runnable, Service

MOUNT, PORT = "/identity", 5000
_VARY = {"Vary": "X-Auth-Token"}


def make_api(identity: Identity, host: str = "") -> Api:
    """The ASGI application of the service; it checks tokens by itself."""
    from cumulet.identity.api import ROUTES

    return Api(
        "identity",
        ROUTES,
        dialect=IdentityDialect(MOUNT),
        policy=Policy(RULES),
        service=identity,
        authenticator=identity.tokens,
        component="identity",
        host=host,
        extra_headers=lambda request_id: _VARY,
    )


async def build(parts: Parts, roles: set[str]) -> Service:
    """Build the asked roles (there is one: ``identity-api``)."""
    settings = parts.settings.section("identity", IdentitySettings)
    database = await parts.open_database("identity", METADATA, Path(__file__).parent / "migrations")
    identity = Identity.make(
        database,
        settings,
        parts.secrets,
        [tuple(row) for row in parts.options.get("catalogue", ())],
        front_port=parts.options.get("front_port"),
    )
    loops: list[Runnable] = [identity.purge_loop(), identity.inactivity_loop(), identity.directory_loop()]
    built = [Role("identity-api", make_api(identity, parts.host), loops)]

    async def first(facts: dict[str, Any]) -> dict[str, Any]:
        return await bootstrap(
            identity,
            password=facts["password"],
            service_passwords=facts["service_passwords"],
            region=parts.options.get("region", settings.region),
        )

    async def close() -> None:
        identity.passwords.close()
        identity.directories.close()

    return Service(
        name="identity",
        type="identity",
        mount=MOUNT,
        endpoint="/v3",
        port=PORT,
        roles=[role for role in built if role.name in roles],
        close=close,
        bootstrap=first,
    )

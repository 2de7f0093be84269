# SPDX-License-Identifier: Apache-2.0
"""What the assembly reads: placement has one role, its API, and no work of its own."""

from __future__ import annotations

from pathlib import Path

from cumulet.kernel.fences import Fences
from cumulet.kernel.http import Api, Flow
from cumulet.kernel.policy import Policy
from cumulet.kernel.registry import Parts, Role, Service
from cumulet.placement.api import ROUTES, VERSIONS
from cumulet.placement.config import Config
from cumulet.placement.errors import PlacementDialect
from cumulet.placement.logic import Placement
from cumulet.placement.models import FENCES, METADATA
from cumulet.placement.policy import RULES


async def build(parts: Parts, roles: set[str]) -> Service:
    """Build the role ``placement-api``."""
    config = parts.settings.section("placement", Config)
    database = await parts.open_database("placement", METADATA, Path(__file__).parent / "migrations")
    placement = Placement(database, config)
    api = Api(
        "placement",
        ROUTES,
        dialect=PlacementDialect(),
        policy=Policy(RULES),
        service=placement,
        authenticator=parts.authenticator,
        versions=VERSIONS,
        component="placement-api",
        host=parts.host,
        flow=Flow("placement.token.validate"),
        max_body=1 << 20,
        json_only=True,
        fences=Fences(database, FENCES),
    )

    return Service(
        name="placement",
        type="placement",
        mount="/placement",
        endpoint="",
        port=8778,
        roles=[Role("placement-api", app=api)],
        close=placement.feed.close,
        drain=placement.feed.dismiss,
    )

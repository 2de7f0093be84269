# SPDX-License-Identifier: Apache-2.0
"""Builds the volume service for the asked roles. The agent's role opens no database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from cumulet.client.image import ImageClient
from cumulet.client.session import ServiceSession
from cumulet.kernel import halts
from cumulet.kernel.pools import Pool
from cumulet.kernel.registry import Parts, Role, Service
from cumulet.volume.config import VolumeConfig


async def build(parts: Parts, roles: set[str]) -> Service:
    """The service with the roles among volume-api, volume-scheduler and volume-agent."""
    config = parts.settings.section("volume", VolumeConfig)
    session = parts.once("volume session", lambda: ServiceSession(parts.transport, *parts.login("volume")))
    built: list[Role] = []
    bootstrap = None
    pools: list[Pool] = []
    if roles & {"volume-api", "volume-scheduler"}:
        control, bootstrap = await _control(parts, config, session, roles)
        built += control
    if "volume-agent" in roles:
        pools.append(parts.once("volume files", lambda: Pool("volume-files", 2)))
        built.append(_agent(parts, config, session, pools[0]))

    async def close() -> None:
        for pool in pools:
            pool.close()

    return Service(
        name="volume",
        type="block-storage",
        mount="/volume",
        endpoint="/v3",
        port=8776,
        roles=built,
        close=close,
        aliases=("volumev3",),
        bootstrap=bootstrap,
    )


async def _control(
    parts: Parts, config: VolumeConfig, session: ServiceSession, roles: set[str]
) -> tuple[list[Role], Any]:
    """The roles with a database: the API, and the scheduler with the saga engine."""
    from cumulet.kernel.policy import Policy
    from cumulet.kernel.quota import Quota
    from cumulet.kernel.saga import Ear, SagaEngine
    from cumulet.volume.limits import defaults
    from cumulet.volume.logic import Volume
    from cumulet.volume.logic.types import ensure_default
    from cumulet.volume.models import FENCES, METADATA, QUOTA_LIMITS, QUOTA_USAGE, SAGAS
    from cumulet.volume.policy import BESIDES, RULES
    from cumulet.volume.sagas import ALL
    from cumulet.volume.sagas.world import World

    database = await parts.open_database("volume", METADATA, Path(__file__).parent / "migrations")
    quota = Quota(QUOTA_USAGE, QUOTA_LIMITS, defaults(config))
    world = World(database, parts.bus, quota, config)
    engine = SagaEngine(
        database, SAGAS, ALL, world=world, seal=parts.seal, component="volume-scheduler", host=parts.host,
        sole=bool(parts.options.get("sole", True)),
    )  # fmt: skip
    ear = Ear(engine, parts.bus, "volume", parts.host)
    policy = Policy(RULES, besides=BESIDES)
    volume = Volume(
        database=database,
        config=config,
        policy=policy,
        quota=quota,
        engine=engine,
        bus=parts.bus,
        image=ImageClient(session),
        runs_sagas="volume-scheduler" in roles,
    )
    built: list[Role] = []
    if "volume-api" in roles:
        from cumulet.kernel.fences import Fences
        from cumulet.kernel.http import Api, Flow
        from cumulet.volume.api import ROUTES
        from cumulet.volume.api.discovery import VERSIONS
        from cumulet.volume.errors import VolumeDialect

        app = Api(
            "volume",
            ROUTES,
            dialect=VolumeDialect(),
            policy=policy,
            service=volume,
            authenticator=parts.authenticator,
            versions=VERSIONS,
            component="volume-api",
            host=parts.host,
            strip_project="/v3",
            flow=Flow("volume.token.validate"),
            extra_headers=lambda request_id: {"X-Compute-Request-Id": request_id},
            trailing_slash=False,
            types=("block-storage", "volumev3", "volume"),
            fences=Fences(database, FENCES),
        )
        built.append(Role("volume-api", app=app))
    if "volume-scheduler" in roles:
        from cumulet.volume.loops import VolumeScheduler

        built.append(Role("volume-scheduler", tasks=[VolumeScheduler(world, engine, parts.bus, parts.host), ear]))

    async def first(facts: dict[str, Any]) -> None:
        await ensure_default(database)

    return built, first


def _agent(parts: Parts, config: VolumeConfig, session: ServiceSession, pool: Pool) -> Role:
    """This host's agent, with the back end that the settings or this start chose."""
    from cumulet.volume.agent import VolumeAgent
    from cumulet.volume.drivers import make_backend

    kind = config.backend or parts.options.get("volume_driver", "simulated")
    folder = parts.data / "volume" / parts.host
    backend = make_backend(
        kind,
        folder,
        pool,
        host=parts.host,
        format=config.format,
        gid=parts.options.get("guest_gid"),
        knobs=parts.options.get("volume_knobs"),
        ceph=msgspec.structs.asdict(config.ceph),
    )
    agent = VolumeAgent(
        parts.bus,
        halts.around(backend, "backend", "connect", "disconnect", "ensure_volume", "ensure_absent"),
        host=parts.host,
        name=kind,
        config=config,
        image=ImageClient(session),
        folder=parts.data / "volume" / f"{parts.host}.images",
        pool=pool,
    )
    return Role("volume-agent", tasks=[agent])

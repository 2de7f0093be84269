# SPDX-License-Identifier: Apache-2.0
"""Builds the compute service for the asked roles. An agent's role opens no database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cumulet.client.image import ImageClient
from cumulet.client.network import NetworkClient
from cumulet.client.placement import PlacementClient
from cumulet.client.session import ServiceSession
from cumulet.client.volume import VolumeClient
from cumulet.compute.config import ComputeConfig
from cumulet.kernel import halts, ids
from cumulet.kernel.files import chosen_once
from cumulet.kernel.pools import Pool
from cumulet.kernel.registry import Parts, Role, Service

EFFECTS = ("ensure_running", "ensure_absent", "attach_disk", "detach_disk", "attach_nic", "detach_nic", "start", "stop",
           "copy_root")  # fmt: skip
"""Methods of a hypervisor that change something on the host."""


async def build(parts: Parts, roles: set[str]) -> Service:
    """The service with the roles among compute-api, scheduler, conductor and compute-agent."""
    config = parts.settings.section("compute", ComputeConfig)
    session = parts.once("compute session", lambda: ServiceSession(parts.transport, *parts.login("compute")))
    built: list[Role] = []
    closing: list[Any] = []
    bootstrap = None
    if roles & {"compute-api", "conductor"}:
        control, bootstrap, database = await _control(parts, config, session, roles)
        built += control
        closing.append(database.close)
    if "scheduler" in roles:
        from cumulet.compute.scheduler.service import Scheduler

        placement = PlacementClient(session)
        built.append(Role("scheduler", tasks=[Scheduler(parts.bus, placement, host=parts.host)]))
    if "compute-agent" in roles:
        built.append(_agent(parts, config, session))

    async def close() -> None:
        return None

    return Service("compute", "compute", "/compute", "/v2.1", 8774, built, close, bootstrap=bootstrap)


async def _control(
    parts: Parts, config: ComputeConfig, session: ServiceSession, roles: set[str]
) -> tuple[list[Role], Any, Any]:
    """The roles with a database: the API and the conductor."""
    from cumulet.compute.api import make_api
    from cumulet.compute.bootstrap import bootstrap
    from cumulet.compute.conductor import Conductor
    from cumulet.compute.limits import DEFAULTS
    from cumulet.compute.logic import Compute
    from cumulet.compute.loops import loops
    from cumulet.compute.metadata.app import SECRET
    from cumulet.compute.models import METADATA, OUTBOX, QUOTA_LIMITS, QUOTA_USAGE, SAGAS
    from cumulet.compute.sagas.table import SAGAS as ALL
    from cumulet.compute.sagas.world import World
    from cumulet.kernel.outbox import Outbox
    from cumulet.kernel.quota import Quota
    from cumulet.kernel.saga import Ear, SagaEngine

    database = await parts.open_database("compute", METADATA, Path(__file__).parent / "migrations")
    quota = Quota(QUOTA_USAGE, QUOTA_LIMITS, DEFAULTS)
    outbox = Outbox(database, OUTBOX, _send_notification(parts))
    network, volume, image = NetworkClient(session), VolumeClient(session), ImageClient(session)
    world = World(database, parts.bus, image, network, volume, quota, outbox, dhcp_domain=config.dhcp_domain)
    engine = SagaEngine(
        database, SAGAS, ALL, world=world, seal=parts.seal, component="conductor", host=parts.host,
        sole=bool(parts.options.get("sole", True)),
    )  # fmt: skip
    ear = Ear(engine, parts.bus, "compute", parts.host)
    compute = Compute(
        db=database, sagas=engine, quota=quota, image=image, network=network, volume=volume,
        placement=PlacementClient(session), bus=parts.bus, settings=config, seal=parts.seal, secrets=parts.secrets,
        outbox=outbox, host=parts.host,
    )  # fmt: skip
    conductor = Conductor(world, engine, parts.host, parts.seal, parts.data / "restored")
    built = []
    if "conductor" in roles:
        built.append(Role("conductor", tasks=[conductor, ear, outbox.loop, *loops(compute, conductor)]))
    if "compute-api" in roles:
        app, metadata = make_api(parts, compute)
        parts.secrets.get(SECRET)  # made now, not at the first question: hosts are given it before
        parts.options["metadata_app"] = metadata
        built.append(Role("compute-api", app=app))

    async def first(facts: dict[str, Any]) -> None:
        await bootstrap(compute)

    return built, first, database


def _send_notification(parts: Parts) -> Any:
    """Notifications go to whoever listens on the bus; nobody waits for them."""
    from cumulet.kernel.bus import Method

    method: Method[dict[str, Any], Any] = Method("notifications", "notify", dict, type(None))

    async def send(row: dict[str, Any]) -> None:
        body = {"event_type": row["event_type"], "payload": row["body"], "request_id": row["request_id"]}
        await parts.bus.fanout(method, body)

    return send


def _agent(parts: Parts, config: ComputeConfig, session: ServiceSession) -> Role:
    """This host's agent, with the hypervisor that this start chose."""
    from cumulet.compute.agent import ComputeAgent
    from cumulet.compute.agent.build import Tools
    from cumulet.compute.agent.images import ImageCache
    from cumulet.compute.agent.reports import Reporter, Sweeper
    from cumulet.compute.agent.wiring import Wiring

    home = parts.data / "hosts" / parts.host
    home.mkdir(parents=True, exist_ok=True)
    gid = parts.options.get("guest_gid")
    files = parts.once("agent files", lambda: Pool("agent-files", 2))
    images, network = ImageClient(session), NetworkClient(session)
    host_ip = str(parts.options.get("host_ip", "127.0.0.1"))
    hypervisor = halts.around(_hypervisor(parts, home), "hypervisor", *EFFECTS)
    tools = Tools(
        host=parts.host, bus=parts.bus, image=images, network=network, volume=VolumeClient(session),
        cache=ImageCache(home / "images", images, files, gid), wiring=Wiring(network, parts.host, host_ip),
        hypervisor=hypervisor, disks=hypervisor, files=files, drives=home / "drives", copies=home / "copies", gid=gid,
    )  # fmt: skip
    agent = ComputeAgent(tools)
    reporter = Reporter(
        agent,
        PlacementClient(session),
        node=_node_id(home),
        zone=config.default_zone,
        host_ip=host_ip,
        reserved_mib=512,
    )
    sweeper = Sweeper(agent, age=config.image_unused, every=config.image_sweep)
    return Role("compute-agent", tasks=[agent, reporter.loop, sweeper.loop])


def _hypervisor(parts: Parts, home: Path) -> Any:
    kind = parts.options.get("hypervisor", "simulated")
    if kind == "simulated":
        from cumulet.compute.drivers.simulated import SimulatedHypervisor

        knobs = parts.options.get("simulated_knobs")
        return SimulatedHypervisor(parts.host, state_file=home / "simulated.json", knobs=knobs)
    from cumulet.compute.drivers.libvirt.driver import LibvirtHypervisor

    options = parts.options["libvirt"]
    return LibvirtHypervisor(
        options["uri"],
        home,
        accelerator=options["accelerator"],
        guest_uid=parts.options["guest_uid"],
        guest_gid=parts.options["guest_gid"],
        cloud_id=parts.options["cloud_id"],
        hostname=parts.host,
        log_dir=options.get("log_dir"),
        revive=options.get("revive"),
    )


def _node_id(home: Path) -> str:
    """The host's resource provider id, chosen once and kept."""
    return chosen_once(home / "node", ids.new_uuid)

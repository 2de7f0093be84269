# SPDX-License-Identifier: Apache-2.0
"""What the assembly reads of network: the API with its database, and the agent of a host, which has none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cumulet.kernel.bus import Handlers, Subscription
from cumulet.kernel.registry import METADATA_KEY, Parts, Role, Service
from cumulet.kernel.secrets import derive
from cumulet.network.config import NetworkConfig

Bootstrap = Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]]


async def build(parts: Parts, roles: set[str]) -> Service:
    """Build the roles ``network-api`` and ``network-agent`` as asked."""
    config = parts.settings.section("network", NetworkConfig)
    built: list[Role] = []
    first: Bootstrap | None = None
    if "network-api" in roles:
        role, first = await _api(parts, config)
        built.append(role)
    if "network-agent" in roles:
        built.append(_agent(parts, config))

    async def close() -> None:
        return None

    return Service("network", "network", "/network", "", 9696, built, close, bootstrap=first)


async def _api(parts: Parts, config: NetworkConfig) -> tuple[Role, Bootstrap]:
    from cumulet.kernel.fences import Fences
    from cumulet.kernel.http import Api, Flow
    from cumulet.kernel.loops import Loop
    from cumulet.kernel.outbox import Outbox
    from cumulet.kernel.policy import Policy
    from cumulet.kernel.quota import Quota
    from cumulet.kernel.saga import Ear, SagaEngine
    from cumulet.network import models, rpc
    from cumulet.network.api import ROUTES
    from cumulet.network.errors import NetworkDialect
    from cumulet.network.logic import Network, Pokes, agents, desired, reports
    from cumulet.network.logic.bootstrap import bootstrap
    from cumulet.network.policy import RULES
    from cumulet.network.sagas import ALL
    from cumulet.network.sagas.world import World

    database = await parts.open_database("network", models.METADATA, Path(__file__).parent / "migrations")

    async def poke_one(host: str) -> None:
        await parts.bus.cast(rpc.POKE, rpc.Done(), host=host)

    async def poke_all() -> None:
        await parts.bus.fanout(rpc.POKE, rpc.Done())

    outbox = Outbox(database, models.OUTBOX, _tell_compute(parts))
    quota = Quota(models.USAGE, models.LIMITS, config.quotas())
    engine = SagaEngine(
        database, models.SAGAS, ALL, world=World(database, parts.bus, outbox, config), seal=parts.seal,
        component="network-api", host=parts.host, sole=bool(parts.options.get("sole", True)),
    )  # fmt: skip
    ear = Ear(engine, parts.bus, "network", parts.host)
    net = Network(config, database, quota, outbox, engine, Pokes(poke_one, poke_all))
    duties = Loop("network duties", 15.0, lambda: agents.place(net))
    purge = Loop("network purge", 3600.0, lambda: reports.purge(net))
    net.wake_duties = duties.poke

    async def answer(alive: rpc.Alive) -> rpc.Desired:
        await agents.heartbeat(net, alive)
        state = await desired.desired_state(net, alive.host)
        if state.version == alive.version:
            return rpc.Desired(state.version, unchanged=True, awaited=state.awaited)
        return state

    async def report(told: rpc.Report) -> rpc.Done:
        await reports.apply(net, told)
        return rpc.Done()

    api = Api(
        "network",
        ROUTES,
        dialect=NetworkDialect(),
        policy=Policy(RULES),
        service=net,
        authenticator=parts.authenticator,
        component="network-api",
        host=parts.host,
        flow=Flow("network.token.validate"),
        fences=Fences(database, models.FENCES),
    )

    async def first(facts: dict[str, Any]) -> dict[str, Any] | None:
        projects = facts.get("projects")
        if not projects:
            return None
        taken = parts.options.get("routes", ())
        made = await bootstrap(net, admin_project=projects["admin"], demo_project=projects.get("demo"), taken=taken)
        return {"networks": made}

    answers = _Answers(parts, {rpc.DESIRED: answer, rpc.REPORT: report}, poke_all)
    return Role("network-api", app=api, tasks=[outbox.loop, duties, purge, answers, engine, ear]), first


class _Answers:
    """Serves the agents' questions; agents that asked before there was an answer are called once it is there."""

    def __init__(self, parts: Parts, handlers: Handlers, call: Callable[[], Awaitable[None]]) -> None:
        self._parts, self._handlers, self._call = parts, handlers, call
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        self._subscription = await self._parts.bus.subscribe(
            self._handlers, component="network-api", host=self._parts.host
        )
        await self._call()

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.stop()


def _tell_compute(parts: Parts) -> Callable[[dict[str, Any]], Awaitable[None]]:
    """How an event of the outbox reaches compute; a server that is gone needs none."""
    from cumulet.client.session import ServiceSession
    from cumulet.kernel.errors import Conflict, Invalid, NotFound

    session = ServiceSession(parts.transport, "network", parts.secrets.get("service:network"))

    async def send(row: dict[str, Any]) -> None:
        try:
            await session.call(
                "compute", "POST", "/v2.1/os-server-external-events", {"events": [row["body"]]}, as_service=True
            )
        except (NotFound, Invalid, Conflict):
            return

    return send


def _agent(parts: Parts, config: NetworkConfig) -> Role:
    from cumulet.network.agent import NetworkAgent
    from cumulet.network.drivers.model import MetadataPlan, NetworkDriver

    kind = parts.options.get("network_driver", "simulated")
    driver: NetworkDriver
    if kind == "bridge":
        from cumulet.network.drivers.bridge.driver import BridgeNetwork

        driver = BridgeNetwork(
            parts.privileged,
            cloud=parts.options.get("cloud_id", parts.host),
            underlay=config.underlay_address or None,
            guest_user=parts.options.get("guest_user"),
            domain=config.dns_domain,
        )
    else:
        from cumulet.network.drivers.simulated import SimulatedNetwork

        state = parts.data / "hosts" / parts.host
        state.mkdir(parents=True, exist_ok=True)
        driver = SimulatedNetwork(state_file=state / "network.json")
    metadata = None
    if url := parts.options.get("metadata_url"):
        own = METADATA_KEY if parts.secrets.known(METADATA_KEY) else ""  # a joined host was given its key
        key = parts.secrets.get(own) if own else derive(parts.secrets.get("metadata"), parts.host)
        metadata = MetadataPlan(url, key, parts.host, str(parts.options.get("ca", "")))
    agent = NetworkAgent(
        parts.bus, driver, parts.host, every=config.heartbeat, tunnel_address=config.underlay_address,
        metadata=metadata, kind=kind,
    )  # fmt: skip
    parts.options.setdefault("network_drivers", {})[parts.host] = driver
    return Role("network-agent", tasks=[agent])

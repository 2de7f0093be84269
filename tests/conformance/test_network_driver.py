# SPDX-License-Identifier: Apache-2.0
"""What every network driver promises, asked of the simulated one and of real bridges alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cumulet.kernel import clock
from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.model import (
    DhcpHost,
    FloatingPlan,
    GroupPlan,
    MetadataPlan,
    NetworkDriver,
    NetworkError,
    NetworkPlan,
    Observed,
    PortPlan,
    RouterInterface,
    RouterPlan,
    RulePlan,
    SubnetPlan,
)
from cumulet.network.drivers.simulated import Failure, Knobs, SimulatedNetwork
from tests.machine.wires import Machine

Make = Callable[[], NetworkDriver]

NET, OTHER, PORT, ROUTER = (f"{n}{n}{n}{n}-{n}" for n in "abcd")
NETWORK_PLAN = NetworkPlan(
    id=NET,
    segment=5,
    mtu=1442,
    external=False,
    subnets=[SubnetPlan("s", "10.78.0.0/24", "10.78.0.1", ["10.78.0.3"], [("10.9.0.0/16", "10.78.0.9")])],
    dhcp_port=("dhcp", "fa:16:3e:00:00:02", ["10.78.0.2"]),
    leases=[DhcpHost(PORT, "fa:16:3e:00:00:05", "10.78.0.5", "host-5")],
)
OUTER_PLAN = NetworkPlan(
    id=OTHER, segment=6, mtu=1500, external=True, subnets=[SubnetPlan("o", "172.24.5.0/24", "172.24.5.1", dhcp=False)]
)
PORT_PLAN = PortPlan(
    id=PORT,
    network_id=NET,
    mac="fa:16:3e:00:00:05",
    addresses=["10.78.0.5"],
    mtu=1442,
    tap="tapconform",
    allowed_pairs=[("10.78.0.64/28", "fa:16:3e:00:00:05")],
    rules=[RulePlan("egress", "IPv4"), RulePlan("ingress", "IPv4", 6, 22, 22, ["10.0.0.0/8"])],
)
ROUTER_PLAN = RouterPlan(
    id=ROUTER,
    interfaces=[RouterInterface("inner", NET, "fa:16:3e:00:00:0a", ["10.78.0.1/24"])],
    gateway=RouterInterface("outer", OTHER, "fa:16:3e:00:00:0b", ["172.24.5.9/24"]),
    gateway_next_hop="172.24.5.1",
    floating=[FloatingPlan("172.24.5.77", "10.78.0.5")],
    routes=[("10.44.0.0/16", "10.78.0.5")],
)
ALL = Observed([NET, OTHER], [PORT], [ROUTER])


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine("conform")
    yield machine
    machine.close()


@pytest.fixture(
    params=[
        "simulated",
        pytest.param(
            "bridge",
            marks=pytest.mark.machine,
        ),
    ]
)
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes drivers of one and the same host, as a restarted process would."""
    if request.param == "simulated":
        yield lambda: SimulatedNetwork(state_file=tmp_path / "state" / "network.json")
        return
    machine: Machine = request.getfixturevalue("machine")
    before = machine.left_over()
    yield lambda: BridgeNetwork(machine.host, cloud="conform")
    await BridgeNetwork(machine.host, cloud="conform").purge()
    assert machine.left_over() == before


@pytest.fixture
async def driver(make: Make) -> AsyncIterator[NetworkDriver]:
    driver = make()
    await driver.open()
    yield driver
    await driver.close()


async def apply(driver: NetworkDriver) -> None:
    await driver.ensure_network(NETWORK_PLAN)
    await driver.ensure_network(OUTER_PLAN)
    await driver.ensure_port(PORT_PLAN)
    await driver.ensure_router(ROUTER_PLAN)


async def test_nothing_is_there_at_first(driver: NetworkDriver) -> None:
    assert await driver.observed() == Observed()


async def test_plans_are_observed_and_may_be_repeated(driver: NetworkDriver) -> None:
    for _ in range(3):
        await apply(driver)
        assert await driver.observed() == ALL


async def test_absent_things_may_be_dropped(driver: NetworkDriver) -> None:
    for _ in range(2):
        await driver.drop_port("no-such-port")
        await driver.drop_router("no-such-router")
        await driver.drop_network("no-such-network")
    assert await driver.observed() == Observed()


async def test_drops_take_one_thing_each(driver: NetworkDriver) -> None:
    await apply(driver)
    await driver.drop_router(ROUTER)
    assert await driver.observed() == Observed([NET, OTHER], [PORT], [])
    await driver.drop_port(PORT)
    assert await driver.observed() == Observed([NET, OTHER], [], [])
    await driver.drop_network(OTHER)
    assert await driver.observed() == Observed([NET], [], [])
    await driver.drop_network(NET)
    assert await driver.observed() == Observed()
    await apply(driver)
    assert await driver.observed() == ALL


async def test_a_new_process_finds_what_is_there(make: Make, driver: NetworkDriver) -> None:
    await apply(driver)
    await driver.close()
    again = make()
    await again.open()
    assert await again.observed() == ALL
    await apply(again)
    await again.drop_port(PORT)
    assert await again.observed() == Observed([NET, OTHER], [], [ROUTER])
    await again.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"addresses": ["10.78.0.6"]},
        {"port_security": False, "rules": []},
        {"admin_up": False},
        {"tap": "tapother"},
        {"rules": [RulePlan("ingress", "IPv6", 58, 128), RulePlan("ingress", "IPv4", remotes=[])]},
        {"allowed_pairs": []},
    ],
)
async def test_a_port_changes_in_place(driver: NetworkDriver, changes: dict[str, Any]) -> None:
    await apply(driver)
    await driver.ensure_port(msgspec.structs.replace(PORT_PLAN, **changes))
    assert await driver.observed() == ALL
    await driver.ensure_port(PORT_PLAN)
    assert await driver.observed() == ALL


async def test_groups_come_and_change_and_go(make: Make, driver: NetworkDriver) -> None:
    group = GroupPlan("friends", ["10.78.0.9", "10.78.1.0/24", "fd00::9"])
    for plan in (group, group, msgspec.structs.replace(group, addresses=[]), group):
        await driver.ensure_group(plan)
        assert (await driver.observed()).groups == ["friends"]
    await apply(driver)
    rules = [RulePlan("ingress", "IPv4", 6, 1, 9, group="friends"), RulePlan("egress", "IPv6", group="friends")]
    await driver.ensure_port(msgspec.structs.replace(PORT_PLAN, rules=rules))
    await driver.ensure_group(msgspec.structs.replace(group, addresses=["10.78.0.9"]))
    with pytest.raises(NetworkError):
        await driver.drop_group("friends")
    again = make()
    await again.open()
    assert await again.observed() == msgspec.structs.replace(ALL, groups=["friends"])
    await again.ensure_port(PORT_PLAN)
    for _ in range(2):
        await again.drop_group("friends")
    await again.drop_group("no-such-group")
    assert await again.observed() == ALL
    await again.close()


async def test_networks_and_routers_change_in_place(driver: NetworkDriver) -> None:
    await apply(driver)
    await driver.ensure_network(
        msgspec.structs.replace(NETWORK_PLAN, mtu=1400, leases=[], subnets=NETWORK_PLAN.subnets)
    )
    await driver.ensure_network(msgspec.structs.replace(NETWORK_PLAN, dhcp_port=None))
    await driver.ensure_router(msgspec.structs.replace(ROUTER_PLAN, floating=[], routes=[], snat=False))
    await driver.ensure_router(RouterPlan(ROUTER, admin_up=False))
    assert await driver.observed() == ALL


async def test_what_hangs_on_an_absent_network_is_refused(driver: NetworkDriver) -> None:
    with pytest.raises(NetworkError, match=f"network {NET} of port {PORT} is not on this host"):
        await driver.ensure_port(PORT_PLAN)
    await driver.ensure_network(NETWORK_PLAN)
    with pytest.raises(NetworkError, match=f"network {OTHER} of router {ROUTER} is not on this host"):
        await driver.ensure_router(ROUTER_PLAN)
    assert (await driver.observed()).ports == []


async def test_metadata_may_come_before_and_after_networks(driver: NetworkDriver) -> None:
    await driver.ensure_metadata(MetadataPlan("http://127.0.0.1:9", "one"))
    await apply(driver)
    await driver.ensure_metadata(MetadataPlan("http://127.0.0.1:10", "two"))
    await driver.drop_network(NET)
    await driver.ensure_network(NETWORK_PLAN)
    await driver.ensure_metadata(MetadataPlan("http://127.0.0.1:10", "two"))


async def test_purge_removes_everything_and_may_be_repeated(driver: NetworkDriver) -> None:
    await apply(driver)
    await driver.purge()
    assert await driver.observed() == Observed()
    await driver.purge()
    await driver.open()
    await apply(driver)
    assert await driver.observed() == ALL


# -- the simulated driver's knobs -------------------------------------------------------------------------


async def test_the_simulation_fails_and_waits_as_told() -> None:
    failures = [
        Failure("ensure_network", occurrence=1, message="out of bridges"),
        Failure("ensure_port", id=PORT, when="after", occurrence=1),
    ]
    driver = SimulatedNetwork(knobs=Knobs(latency={"open": 2.0, "*": 0.5}, failures=failures))
    fake = clock.FakeClock()
    clock.use(fake)
    try:
        opening = asyncio.ensure_future(driver.open())
        await fake.advance(1.9)
        assert not opening.done()
        await fake.advance(0.2)
        assert opening.done()
        driver.knobs = Knobs(failures=failures)
        with pytest.raises(NetworkError, match="out of bridges"):
            await driver.ensure_network(NETWORK_PLAN)
        assert await driver.observed() == Observed()
        await driver.ensure_network(NETWORK_PLAN)
        with pytest.raises(NetworkError, match="told to fail"):
            await driver.ensure_port(PORT_PLAN)
        assert await driver.observed() == Observed([NET], [PORT], [])
        await driver.ensure_port(PORT_PLAN)
    finally:
        clock.use(clock.SystemClock())

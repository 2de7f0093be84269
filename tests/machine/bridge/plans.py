# SPDX-License-Identifier: Apache-2.0
"""Plans as the network service would send them, and guests on them."""

from __future__ import annotations

import msgspec

from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.model import (
    DhcpHost,
    FloatingPlan,
    NetworkPlan,
    PortPlan,
    RouterInterface,
    RouterPlan,
    RulePlan,
    SubnetPlan,
)
from tests.machine.wires import Guest, Machine

ANYTHING_OUT = [RulePlan("egress", "IPv4"), RulePlan("egress", "IPv6")]
PING = RulePlan("ingress", "IPv4", 1)
SSH = RulePlan("ingress", "IPv4", 6, 22, 22)


def mac(n: int) -> str:
    return f"fa:16:3e:00:00:{n:02x}"


def network(name: str = "net1", segment: int = 101, **changes: object) -> NetworkPlan:
    """10.77.0.0/24 with DHCP at .2 and guests from .11 on."""
    plan = NetworkPlan(
        id=name,
        segment=segment,
        mtu=1450,
        external=False,
        subnets=[SubnetPlan(f"{name}-sub", "10.77.0.0/24", "10.77.0.1", host_routes=[("10.99.0.0/16", "10.77.0.9")])],
        dhcp_port=(f"{name}-dhcp", mac(0xD0), ["10.77.0.2"]),
        leases=[DhcpHost(f"{name}-p{n}", mac(n), f"10.77.0.{n}", f"host-{n}") for n in (11, 12)],
    )
    return msgspec.structs.replace(plan, **changes)


PUBLIC = NetworkPlan(
    id="public",
    segment=999,
    mtu=1500,
    external=True,
    subnets=[SubnetPlan("public-sub", "172.24.4.0/24", "172.24.4.1", dhcp=False)],
)


def port(n: int, net: str = "net1", **changes: object) -> PortPlan:
    plan = PortPlan(
        id=f"{net}-p{n}",
        network_id=net,
        mac=mac(n),
        addresses=[f"10.77.0.{n}"],
        mtu=1450,
        tap=f"tap{net}-{n}",
        rules=ANYTHING_OUT,
    )
    return msgspec.structs.replace(plan, **changes)


def router(net: str = "net1", n: int = 1, **changes: object) -> RouterPlan:
    plan = RouterPlan(
        id=f"router{n}",
        interfaces=[RouterInterface(f"router{n}-in", net, mac(0xA0 + n), ["10.77.0.1/24"])],
        gateway=RouterInterface(f"router{n}-out", "public", mac(0xB0 + n), [f"172.24.4.{10 + n}/24"]),
        gateway_next_hop="172.24.4.1",
    )
    return msgspec.structs.replace(plan, **changes)


async def guest(
    machine: Machine,
    driver: BridgeNetwork,
    plan: PortPlan,
    address: str | None = None,
    gateway: str | None = "10.77.0.1",
) -> Guest:
    """A guest on the plan's tap, with its address configured by hand."""
    made = machine.guest(plan.tap, plan.mac)
    await driver.ensure_port(plan)
    return made.have(address or f"{plan.addresses[0]}/24", gateway)


async def routed(machine: Machine, driver: BridgeNetwork, plan: RouterPlan) -> tuple[Guest, Guest]:
    await driver.ensure_network(PUBLIC)
    await driver.ensure_network(network())
    await driver.ensure_router(plan)
    return (
        await guest(machine, driver, port(11, rules=[*ANYTHING_OUT, PING, SSH])),
        await guest(machine, driver, port(12)),
    )


def full() -> tuple[NetworkPlan, PortPlan, PortPlan, RouterPlan]:
    return (
        network(),
        port(11, rules=[*ANYTHING_OUT, PING, SSH]),
        port(12, rules=[*ANYTHING_OUT, PING]),
        router(floating=[FloatingPlan("172.24.4.105", "10.77.0.11")], routes=[("10.55.0.0/16", "10.77.0.11")]),
    )


async def apply(driver: BridgeNetwork) -> None:
    net, one, two, way = full()
    await driver.ensure_network(PUBLIC)
    await driver.ensure_network(net)
    await driver.ensure_port(one)
    await driver.ensure_port(two)
    await driver.ensure_router(way)

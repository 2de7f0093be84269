# SPDX-License-Identifier: Apache-2.0
"""Routers, floating addresses, and what never leaves by the uplink."""

from __future__ import annotations

import socket

import msgspec
import pytest

from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.bridge.naming import Names, inner_link
from cumulet.network.drivers.model import (
    FloatingPlan,
    NetworkError,
    RulePlan,
    SubnetPlan,
)
from tests.machine.bridge.plans import (
    ANYTHING_OUT,
    PING,
    PUBLIC,
    guest,
    network,
    port,
    routed,
    router,
)
from tests.machine.wires import Machine, Wire, reached, run

pytestmark = pytest.mark.machine


async def test_router_snat_and_floating_addresses(machine: Machine, driver: BridgeNetwork) -> None:
    floating = router(floating=[FloatingPlan("172.24.4.105", "10.77.0.11")])
    one, two = await routed(machine, driver, floating)
    # A second tenant with the same range, to be seen from.
    await driver.ensure_network(network("net2", 102))
    await driver.ensure_router(router("net2", 2))
    far = await guest(machine, driver, port(12, "net2"))
    host = machine.space
    assert one.ping("172.24.4.1")
    assert host.ping("172.24.4.105")
    with one.listening(22), one.listening(23):
        with host.connect("172.24.4.105", 22) as link:
            assert link.seen_as == "172.24.4.1"
        assert not host.reaches("172.24.4.105", 23)  # the guest's security group
        with far.connect("172.24.4.105", 22) as link:
            assert link.seen_as == "172.24.4.12"  # the other router's own address
        with two.connect("172.24.4.105", 22) as link:
            assert link.seen_as == "172.24.4.11"  # through its own router and back
        held = host.connect("172.24.4.105", 22)
        more = [*floating.floating, FloatingPlan("172.24.4.106", "10.77.0.12")]
        await driver.ensure_router(msgspec.structs.replace(floating, floating=more))
        assert held.alive()
        await driver.ensure_router(router())
        assert not held.alive()
        assert not host.reaches("172.24.4.105", 22)
        held.close()


async def test_static_routes_no_snat_and_admin_down(machine: Machine, driver: BridgeNetwork) -> None:
    one, _ = await routed(machine, driver, router(routes=[("10.55.0.0/16", "10.77.0.11")], snat=False))
    namespace = Names(driver._site.cloud).router_namespace("router1")

    def routes() -> str:
        return run("ip", "-n", namespace, "route")

    assert "10.55.0.0/16 via 10.77.0.11" in routes()
    wire = Wire(machine.space, Names(driver._site.cloud).bridge("public"))
    one.ping("172.24.4.1")
    assert any(socket.inet_aton("10.77.0.11") + socket.inet_aton("172.24.4.1") in frame for frame in wire.frames())
    wire.close()
    await driver.ensure_router(router())
    assert "10.55.0.0" not in routes()
    assert one.ping("172.24.4.1")
    await driver.ensure_router(router(admin_up=False))
    assert not one.ping("172.24.4.1")
    await driver.ensure_router(router(gateway=None, gateway_next_hop=None))
    assert "default" not in routes()
    assert inner_link("router1-out", gateway=True) not in run("ip", "-n", namespace, "link")


async def test_nothing_ever_leaves_by_the_uplink(machine: Machine, driver: BridgeNetwork) -> None:
    """On a host that routes and has a default route: neither guests nor the host reach outside with these addresses,
    outside reaches neither them nor, through them, the host."""
    floating = router(floating=[FloatingPlan("172.24.4.105", "10.77.0.11")])
    one, two = await routed(machine, driver, floating)
    direct = await guest(
        machine,
        driver,
        port(14, "public", addresses=["172.24.4.14"], rules=[*ANYTHING_OUT, PING, RulePlan("ingress", "IPv4", 6)]),
        "172.24.4.14/24",
        "172.24.4.1",
    )
    host, uplink = machine.space, machine.uplink()

    def leaks() -> list[str]:
        """Packets that came by the uplink and are not of its own two addresses."""
        own = {socket.inet_aton("198.51.100.1"), socket.inet_aton("198.51.100.2")}
        packets = {frame[26:34] for frame in uplink.frames(0.1) if frame[12:14] == b"\x08\x00"}
        return [packet.hex() for packet in packets if not {packet[:4], packet[4:]} <= own]

    assert not host.ping("203.0.113.9")
    assert leaks() == [(socket.inet_aton("198.51.100.2") + socket.inet_aton("203.0.113.9")).hex()]  # the watch works
    guests, nowhere = (one, two, direct), ("203.0.113.9", "198.51.100.1", "198.51.100.2")
    assert reached(*((source, "172.24.4.1") for source in guests)) == ["172.24.4.1"] * 3
    assert reached(*((source, to) for source in guests for to in nowhere)) == []
    assert leaks() == []
    machine.outside("ip", "route", "add", "172.24.4.0/24", "via", "198.51.100.2")
    machine.outside("ip", "route", "add", "10.77.0.0/24", "via", "198.51.100.2")
    assert machine.outside.ping("198.51.100.2")
    inner = ("172.24.4.105", "172.24.4.14", "172.24.4.11", "10.77.0.11")
    assert reached(*((machine.outside, to) for to in inner)) == []
    leaks()
    # Between guests of the public network the host is no way around their filters.
    direct.have("172.24.4.14/32")
    direct("ip", "route", "flush", "dev", "eth0")
    direct("ip", "route", "add", "172.24.4.1/32", "dev", "eth0")
    direct("ip", "route", "add", "default", "via", "172.24.4.1")
    assert not direct.ping("172.24.4.105")
    # The host offers nothing to the public network but an answer to ping.
    with host.listening(8080, "172.24.4.1"):
        assert not direct.reaches("172.24.4.1", 8080)
        assert not one.reaches("172.24.4.1", 8080)
        assert host.reaches("172.24.4.1", 8080)
    # The bridges go; the host must not send to their ranges by another way.
    await driver.drop_router("router1")
    await driver.drop_network("net1")
    await driver.drop_network("public")
    assert reached((host, "172.24.4.105"), (host, "172.24.4.1"), (host, "10.77.0.11")) == []
    assert leaks() == []
    uplink.close()


async def test_only_ports_named_reachable_are_open_on_the_gateway(machine: Machine) -> None:
    driver = BridgeNetwork(machine.host, cloud="reachable", reachable=[8080])
    await driver.open()
    try:
        one, _ = await routed(machine, driver, router())
        with machine.space.listening(8080, "172.24.4.1"), machine.space.listening(8081, "172.24.4.1"):
            assert one.reaches("172.24.4.1", 8080)
            assert not one.reaches("172.24.4.1", 8081)
    finally:
        await driver.purge()
        for space in machine.spaces:
            space.remove()
        machine.spaces.clear()


async def test_ranges_of_the_host_are_not_taken_away(machine: Machine, driver: BridgeNetwork) -> None:
    """A tenant may use any range inside; the host's own networks and the Internet stay reachable for the host."""
    host = machine.space
    for n, cidr in enumerate(("198.51.100.0/30", "8.8.8.0/24", "0.0.0.0/1", "10.66.0.0/24", "fd66::/64"), start=1):
        subnet = SubnetPlan(f"s{n}", cidr, None, dhcp=False)
        await driver.ensure_network(network(f"n{n}", n, subnets=[subnet], dhcp_port=None, leases=[]))
    routes = host("ip", "route", "show", "type", "blackhole") + host("ip", "-6", "route", "show", "type", "blackhole")
    assert [line.split()[1] for line in routes.splitlines()] == ["10.66.0.0/24", "fd66::/64"]
    assert host.ping("198.51.100.1")
    taken = msgspec.structs.replace(PUBLIC, subnets=[SubnetPlan("p", "198.51.100.0/26", "198.51.100.33", dhcp=False)])
    with pytest.raises(NetworkError, match=r"198\.51\.100\.0/26 is in use .* up0"):
        await driver.ensure_network(taken)
    # Nor can a tenant take a part of the public network, whoever was first.
    part = SubnetPlan("part", "172.24.4.128/25", None, dhcp=False)
    await driver.ensure_network(network("early", 8, subnets=[part], dhcp_port=None, leases=[]))
    await driver.ensure_network(PUBLIC)
    await driver.ensure_network(network("late", 9, subnets=[part], dhcp_port=None, leases=[]))
    assert "blackhole 172.24.4.128/25" not in host("ip", "route")
    assert "blackhole 172.24.4.0/24" in host("ip", "route")

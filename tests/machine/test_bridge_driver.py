# SPDX-License-Identifier: Apache-2.0
"""The bridge driver with real packets: namespaces stand for the machine, its uplink and the guests."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

import cumulet
from cumulet.kernel.host import ChannelHost, DirectHost
from cumulet.network.drivers.bridge import OPERATIONS, links
from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.bridge.naming import Names, inner_link
from cumulet.network.drivers.model import (
    DhcpHost,
    FloatingPlan,
    GroupPlan,
    MetadataPlan,
    NetworkError,
    NetworkPlan,
    PortPlan,
    RouterInterface,
    RouterPlan,
    RulePlan,
    SubnetPlan,
)
from tests.machine.wires import Guest, Machine, Wire, eventually, reached, run, within

pytestmark = pytest.mark.machine

ANYTHING_OUT = [RulePlan("egress", "IPv4"), RulePlan("egress", "IPv6")]
PING = RulePlan("ingress", "IPv4", 1)
STRIDE = 6
"""Crashes are tried at every so many-th effect of each plan; 1 tries them all and takes more than a minute."""
SSH = RulePlan("ingress", "IPv4", 6, 22, 22)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture
async def driver(machine: Machine, request: pytest.FixtureRequest) -> AsyncIterator[BridgeNetwork]:
    """A driver of a cloud of its own, purged afterwards; purging must leave the machine as it was."""
    before = machine.left_over()
    driver = BridgeNetwork(machine.host, cloud=request.node.name[:60])
    await driver.open()
    yield driver
    await driver.purge()
    for space in machine.spaces:
        space.remove()
    machine.spaces.clear()
    within(5, lambda: machine.left_over() == before)  # the kernel takes its time with the guests' links
    assert machine.left_over() == before


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


# -- addresses by DHCP ----------------------------------------------------------------------------------


async def test_dhcp_gives_address_routes_mtu_and_names(machine: Machine, driver: BridgeNetwork, tmp_path: Path) -> None:
    await driver.ensure_network(network())
    first, second = machine.guest("tapnet1-11", mac(11)), machine.guest("tapnet1-12", mac(12))
    for n in (11, 12):
        await driver.ensure_port(port(n))
    found = first.dhcp(tmp_path)
    assert (found["ip"], found["mask"], found["mtu"]) == ("10.77.0.11", "24", "1450")
    assert (found["dns"], found["domain"], found["router"]) == ("10.77.0.2", "openstacklocal", "10.77.0.1")
    assert found["staticroutes"].split() == [
        *("169.254.169.254/32", "10.77.0.2"),
        *("10.99.0.0/16", "10.77.0.9"),
        *("0.0.0.0/0", "10.77.0.1"),
    ]
    assert second.dhcp(tmp_path)["ip"] == "10.77.0.12"
    assert "10.77.0.12" in first("busybox", "nslookup", "host-12.openstacklocal", "10.77.0.2")


async def test_a_port_has_dhcp_options_of_its_own(machine: Machine, driver: BridgeNetwork, tmp_path: Path) -> None:
    options = [
        ("no-such-option", "x"), ("tftp-server", "10.77.0.9"), ("67", "pxe/linux.0"), ("ntp-server", '"unbalanced'),
        ("router", ""), ("mtu", "1300"),
    ]  # fmt: skip
    plan = network()
    mine = DhcpHost("port-11", mac(11), "10.77.0.11", "host-11", options)
    await driver.ensure_network(msgspec.structs.replace(plan, leases=[mine, plan.leases[1]]))
    first = await guest(machine, driver, port(11), None)
    second = await guest(machine, driver, port(12), None)
    found = first.dhcp(tmp_path)
    assert (found["tftp"], found["bootfile"], found["mtu"]) == ("10.77.0.9", "pxe/linux.0", "1300")
    assert "router" not in found
    assert "ntpsrv" not in found  # a line that dnsmasq can't read costs itself only
    found = second.dhcp(tmp_path)
    assert not {"tftp", "bootfile"} & set(found)
    assert (found["router"], found["mtu"]) == ("10.77.0.1", "1450")
    changed = msgspec.structs.replace(mine, options=[("tftp-server", "10.77.0.8")])
    await driver.ensure_network(msgspec.structs.replace(plan, leases=[changed, plan.leases[1]]))
    found = first.dhcp(tmp_path)
    assert (found["tftp"], found["router"]) == ("10.77.0.8", "10.77.0.1")
    assert "bootfile" not in found


async def test_dhcp_follows_the_plan(machine: Machine, driver: BridgeNetwork, tmp_path: Path) -> None:
    """A new lease is served without a restart; an address may go to somebody else at once; strangers get none."""
    plan = network()
    await driver.ensure_network(plan)
    first, other = machine.guest("tapnet1-11", mac(11)), machine.guest("tapnet1-13", mac(13))
    await driver.ensure_port(port(11))
    await driver.ensure_port(port(13))
    assert first.dhcp(tmp_path)["ip"] == "10.77.0.11"
    with pytest.raises(AssertionError):
        other.dhcp(tmp_path)
    pid = Path(Names(driver._site.cloud).directory, "dhcp/net1/pid")
    before = pid.read_text()
    more = [*plan.leases, DhcpHost("p13", mac(13), "10.77.0.13", "host-13")]
    await driver.ensure_network(msgspec.structs.replace(plan, leases=more))
    assert other.dhcp(tmp_path)["ip"] == "10.77.0.13"
    assert pid.read_text() == before
    status = Path(f"/proc/{int(before)}/status").read_text()
    assert "Uid:\t0" not in status
    moved = [DhcpHost("p13", mac(13), "10.77.0.11", "host-13")]
    await driver.ensure_network(msgspec.structs.replace(plan, leases=moved))
    assert other.dhcp(tmp_path)["ip"] == "10.77.0.11"


# -- security groups ------------------------------------------------------------------------------------


async def test_security_groups_judge_between_guests_of_one_bridge(machine: Machine, driver: BridgeNetwork) -> None:
    await driver.ensure_network(network())
    one = await guest(machine, driver, port(11))
    two = await guest(machine, driver, port(12, rules=[*ANYTHING_OUT, PING, SSH]))
    with two.listening(22), two.listening(23), one.listening(22):
        assert one.ping("10.77.0.12")
        assert one.reaches("10.77.0.12", 22)
        assert not one.reaches("10.77.0.12", 23)
        assert not two.reaches("10.77.0.11", 22)
        assert not two.ping("10.77.0.11")
        await driver.ensure_port(port(11, rules=[RulePlan("egress", "IPv4", 1)]))
        assert one.ping("10.77.0.12")
        assert not one.reaches("10.77.0.12", 22)  # egress is judged too
        await driver.ensure_port(port(11, rules=ANYTHING_OUT))
        only_13 = RulePlan("ingress", "IPv4", 6, 1, 65535, remotes=["10.77.0.13", "10.77.0.64/26"])
        await driver.ensure_port(port(12, rules=[*ANYTHING_OUT, only_13]))
        assert not one.reaches("10.77.0.12", 22)
        or_11 = msgspec.structs.replace(only_13, remotes=[*(only_13.remotes or []), "10.77.0.11"])
        await driver.ensure_port(port(12, rules=[*ANYTHING_OUT, or_11]))
        assert one.reaches("10.77.0.12", 23)
        await driver.ensure_port(port(12, port_security=False))
        assert one.reaches("10.77.0.12", 23)
        assert one.ping("10.77.0.12")


async def test_open_connections_survive_additions_and_end_with_their_permission(
    machine: Machine, driver: BridgeNetwork
) -> None:
    await driver.ensure_network(network())
    one = await guest(machine, driver, port(11))
    two = await guest(machine, driver, port(12, rules=[*ANYTHING_OUT, SSH]))
    with two.listening(22), one.connect("10.77.0.12", 22) as link:
        await driver.ensure_port(port(12, rules=[*ANYTHING_OUT, SSH, PING]))
        assert link.alive()
        await driver.ensure_port(port(12, rules=[*ANYTHING_OUT, PING]))
        assert not link.alive()


async def test_who_joins_a_group_is_let_in_and_who_leaves_is_not(machine: Machine, driver: BridgeNetwork) -> None:
    await driver.ensure_network(network())
    one = await guest(machine, driver, port(11))
    friends = RulePlan("ingress", "IPv4", 6, 22, 22, group="friends")
    two = await guest(machine, driver, port(12, rules=[*ANYTHING_OUT, friends]))
    with two.listening(22):
        assert not one.reaches("10.77.0.12", 22)  # a group that is not here is nobody
        await driver.ensure_group(GroupPlan("friends", ["10.77.0.13", "fd77::1"]))
        assert not one.reaches("10.77.0.12", 22)
        await driver.ensure_group(GroupPlan("friends", ["10.77.0.11", "10.77.0.13"]))
        with one.connect("10.77.0.12", 22) as link:
            await driver.ensure_group(GroupPlan("friends", ["10.77.0.8/29", "10.77.0.11"]))
            assert link.alive()
            await driver.ensure_group(GroupPlan("friends", ["10.77.0.13"]))
            assert not link.alive()
        assert not one.reaches("10.77.0.12", 22)


async def test_ipv6_is_judged_as_well(machine: Machine, driver: BridgeNetwork) -> None:
    subnet = SubnetPlan("six", "fd77:1::/64", None, dhcp=False)
    await driver.ensure_network(network(subnets=[subnet], dhcp_port=None, leases=[]))
    web = RulePlan("ingress", "IPv6", 6, 80, 80, remotes=["fd77:1::/64"])
    one = await guest(machine, driver, port(11, addresses=["fd77:1::11"]), "fd77:1::11/64", None)
    two = await guest(
        machine, driver, port(12, addresses=["fd77:1::12"], rules=[*ANYTHING_OUT, web]), "fd77:1::12/64", None
    )
    with two.listening(80, "fd77:1::12"), two.listening(81, "fd77:1::12"):
        assert within(5, lambda: one.reaches("fd77:1::12", 80))
        assert not one.reaches("fd77:1::12", 81)
        assert not one.ping("fd77:1::12", 1, "-6")
        one.have("fd77:1::66/64")
        with pytest.raises(OSError, match="timed out"):
            one.connect("fd77:1::12", 80, source=("fd77:1::66", 0), patience=1.0)


async def test_networks_with_the_same_ranges_never_meet(machine: Machine, driver: BridgeNetwork) -> None:
    for net, segment in (("red", 7), ("blue", 7 + 65536)):
        await driver.ensure_network(network(net, segment))
        for n in (11, 12):
            await guest(machine, driver, port(n, net, rules=[*ANYTHING_OUT, SSH]))
    red1, red2, blue1, blue2 = (space for space in machine.spaces if isinstance(space, Guest))
    with red2.listening(22):
        same = ("10.77.0.11", 40000)
        with red1.connect("10.77.0.12", 22, source=same) as link:
            with pytest.raises(ConnectionRefusedError):  # the very same addresses and ports: another zone answers
                blue1.connect("10.77.0.12", 22, source=same)
            with blue2.listening(22), blue1.connect("10.77.0.12", 22, source=same) as other:
                assert link.alive()
                assert other.alive()


# -- what a guest may not pretend -------------------------------------------------------------------------


def ether(to: bytes, sender: bytes, kind: int, payload: bytes) -> bytes:
    return to + sender + struct.pack("!H", kind) + payload


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def ipv4(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(to)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(source: int, to: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source, to, 8 + len(payload), 0) + payload


def ipv6(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to)
    return struct.pack("!IHBB", 0x60000000, len(payload), protocol, 255) + addresses + payload


def icmpv6(source: str, to: str, kind: int, rest: bytes) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to)
    body = struct.pack("!BBH", kind, 0, 0) + rest
    total = checksum(addresses + struct.pack("!II", len(body), 58) + body)
    return ipv6(source, to, 58, body[:2] + struct.pack("!H", total) + body[4:])


def arp(sender_mac: bytes, sender: str) -> bytes:
    return (
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
        + sender_mac
        + socket.inet_aton(sender)
        + b"\0" * 6
        + socket.inet_aton("10.77.0.12")
    )


async def test_a_guest_cannot_pretend(machine: Machine, driver: BridgeNetwork) -> None:
    """Each lie is told as a raw frame; the truth beside it arrives, so that the wire is known to work."""
    everything = [*ANYTHING_OUT, RulePlan("ingress", "IPv4"), RulePlan("ingress", "IPv6")]
    await driver.ensure_network(network(dhcp_port=None, leases=[]))
    six, pair = "fd77:1::11", ("10.77.0.200/29", mac(0x77))
    liar = await guest(machine, driver, port(11, addresses=["10.77.0.11", six], allowed_pairs=[pair], rules=everything))
    victim = await guest(machine, driver, port(12, addresses=["10.77.0.12", "fd77:1::12"], rules=everything))
    out, into = Wire(liar, "eth0"), Wire(victim, "eth0")
    me, him, other, everybody = out.mac, into.mac, bytes.fromhex("fa163e000099"), b"\xff" * 6
    vip = bytes.fromhex(mac(0x77).replace(":", ""))
    local, nodes = "fe80::f816:3eff:fe00:b", "ff02::1"
    multicast = bytes.fromhex("333300000001")

    def advert(target: str, mark: bytes) -> bytes:
        options = b"\x02\x01" + me + b"\xfd\x02" + mark.ljust(14)
        return icmpv6(six, nodes, 136, b"\x20\0\0\0" + socket.inet_pton(socket.AF_INET6, target) + options)

    def offer(source: int, to: int, mark: bytes) -> bytes:
        return ipv4("10.77.0.11", "10.77.0.12", 17, udp(source, to, mark))

    def decline(chaddr: bytes, mark: bytes) -> bytes:
        bootp = b"\x01\x01\x06\0" + bytes(24) + chaddr + bytes(10 + 192) + mark
        return ipv4("0.0.0.0", "255.255.255.255", 17, udp(68, 67, bootp))

    def plain(source: str, mark: bytes) -> bytes:
        return ipv4(source, "10.77.0.12", 17, udp(9, 9, mark))

    def plain6(source: str, mark: bytes) -> bytes:
        return ipv6(source, "fd77:1::12", 17, udp(9, 9, mark))

    frames = {
        # truths
        b"true v4": ether(him, me, 0x0800, plain("10.77.0.11", b"true v4")),
        b"true v6": ether(him, me, 0x86DD, plain6(six, b"true v6")),
        b"true pair": ether(him, vip, 0x0800, plain("10.77.0.201", b"true pair")),
        b"true arp": ether(everybody, me, 0x0806, arp(me, "10.77.0.11") + b"true arp"),
        b"true probe": ether(everybody, me, 0x0806, arp(me, "0.0.0.0") + b"true probe"),
        b"true advert": ether(multicast, me, 0x86DD, advert(six, b"true advert")),
        # lies
        b"lie source": ether(him, me, 0x0800, plain("10.77.0.13", b"lie source")),
        b"lie mac": ether(him, other, 0x0800, plain("10.77.0.11", b"lie mac")),
        b"lie pair mac": ether(him, me, 0x0800, plain("10.77.0.201", b"lie pair mac")),
        b"lie pair edge": ether(him, vip, 0x0800, plain("10.77.0.208", b"lie pair edge")),
        b"lie arp": ether(everybody, me, 0x0806, arp(me, "10.77.0.1") + b"lie arp"),
        b"lie arp mac": ether(everybody, me, 0x0806, arp(other, "10.77.0.11") + b"lie arp mac"),
        b"lie dhcp": ether(him, me, 0x0800, offer(67, 68, b"lie dhcp")),
        b"lie decline": ether(everybody, me, 0x0800, decline(him, b"lie decline")),
        b"lie source6": ether(him, me, 0x86DD, plain6("fd77:1::13", b"lie source6")),
        b"lie local6": ether(him, me, 0x86DD, plain6("fe80::1", b"lie local6")),
        b"lie dhcp6": ether(him, me, 0x86DD, ipv6(six, "fd77:1::12", 17, udp(547, 546, b"lie dhcp6"))),
        b"lie advert": ether(multicast, me, 0x86DD, advert("fd77:1::1", b"lie advert")),
        b"lie router": ether(multicast, me, 0x86DD, icmpv6(local, nodes, 134, bytes(12) + b"lie router")),
        b"lie vlan": ether(him, me, 0x8100, b"\0\x07\x08\0" + plain("10.77.0.11", b"lie vlan")),
        b"lie type": ether(him, me, 0x88B5, b"lie type" + bytes(60)),
    }
    for frame in frames.values():
        out.send(frame)
    arrived = b"".join(into.frames(0.7))
    seen = [mark.decode() for mark in frames if mark in arrived]
    out.close()
    into.close()
    assert seen == ["true v4", "true v6", "true pair", "true arp", "true probe", "true advert"]


async def test_without_port_security_a_guest_may_say_anything(machine: Machine, driver: BridgeNetwork) -> None:
    await driver.ensure_network(network(dhcp_port=None, leases=[]))
    one = await guest(machine, driver, port(11, port_security=False))
    two = await guest(machine, driver, port(12, port_security=False))
    out, into = Wire(one, "eth0"), Wire(two, "eth0")
    out.send(
        ether(into.mac, bytes.fromhex("fa163e000099"), 0x0800, ipv4("1.2.3.4", "10.77.0.12", 17, udp(9, 9, b"free")))
    )
    assert into.sees(b"free")
    out.close()
    into.close()


# -- routers, floating addresses, the host ----------------------------------------------------------------


async def _routed(machine: Machine, driver: BridgeNetwork, plan: RouterPlan) -> tuple[Guest, Guest]:
    await driver.ensure_network(PUBLIC)
    await driver.ensure_network(network())
    await driver.ensure_router(plan)
    return (
        await guest(machine, driver, port(11, rules=[*ANYTHING_OUT, PING, SSH])),
        await guest(machine, driver, port(12)),
    )


async def test_router_snat_and_floating_addresses(machine: Machine, driver: BridgeNetwork) -> None:
    floating = router(floating=[FloatingPlan("172.24.4.105", "10.77.0.11")])
    one, two = await _routed(machine, driver, floating)
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
    one, _ = await _routed(machine, driver, router(routes=[("10.55.0.0/16", "10.77.0.11")], snat=False))
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
    one, two = await _routed(machine, driver, floating)
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
        one, _ = await _routed(machine, driver, router())
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


# -- metadata ---------------------------------------------------------------------------------------------


class _Compute(http.server.BaseHTTPRequestHandler):
    """Stands for compute's metadata API: says what it was asked."""

    def do_GET(self) -> None:
        body = json.dumps([self.command, self.path, dict(self.headers)]).encode()
        self.send_response(200 if "missing" not in self.path else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def compute() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Compute)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_metadata_names_network_and_guest(
    machine: Machine, driver: BridgeNetwork, compute: str, tmp_path: Path
) -> None:
    import hashlib
    import hmac

    await driver.ensure_metadata(MetadataPlan(compute, "first"))
    for net, segment in (("red", 1), ("blue", 2)):
        await driver.ensure_network(network(net, segment))
        made = machine.guest(f"tap{net}-11", mac(11))
        await driver.ensure_port(port(11, net, rules=[]))  # metadata must be there whatever the groups say
        made.dhcp(tmp_path)
    red, blue = (space for space in machine.spaces if isinstance(space, Guest))
    await driver.ensure_metadata(MetadataPlan(compute, "s3cret"))

    async def ask(space: Guest, path: str, *more: str) -> tuple[int, list[object]]:
        argv = ["ip", "netns", "exec", space.name, "curl", "-s", "-m", "5", "-w", "\n%{http_code}", *more]
        process = await asyncio.create_subprocess_exec(
            *argv, f"http://169.254.169.254{path}", stdout=asyncio.subprocess.PIPE
        )
        text, _, code = (await process.communicate())[0].decode().rpartition("\n")
        return int(code), json.loads(text) if text else []

    forged = ("-H", "X-Forwarded-For: 10.77.0.12", "-H", "X-Neutron-Network-ID: blue", "-H", "X-Instance-ID: 1")
    for space, net in ((red, "red"), (blue, "blue")):
        code, (method, path, headers) = await ask(space, "/openstack/latest/meta_data.json?x=%2F", *forged)
        assert (code, method, path) == (200, "GET", "/openstack/latest/meta_data.json?x=%2F")
        assert isinstance(headers, dict)
        assert headers["X-Forwarded-For"] == "10.77.0.11"
        assert headers["X-Neutron-Network-ID"] == net
        assert (
            headers["X-Cumulet-Signature"]
            == hmac.new(b"s3cret", f"{net}10.77.0.11".encode(), hashlib.sha256).hexdigest()
        )
        assert "X-Instance-ID" not in headers
    assert (await ask(red, "/missing"))[0] == 404
    assert (await ask(red, "/", "-X", "DELETE"))[0] == 405
    (tmp_path / "big").write_bytes(bytes(200_000))
    assert (await ask(red, "/", "-X", "POST", "-H", "Expect:", "--data-binary", f"@{tmp_path}/big"))[0] == 413
    # One guest cannot hold every connection: the others are still served.
    held = [red.open_socket() for _ in range(40)]
    for one in held:
        one.setblocking(False)
        one.connect_ex(("169.254.169.254", 80))
    assert (await ask(blue, "/"))[0] == 200
    await asyncio.sleep(0.1)
    closed = 0
    for one in held:
        try:
            closed += one.recv(1) == b""
        except BlockingIOError:
            pass
        except ConnectionError:
            closed += 1
        one.close()
    assert closed >= 40 - 16
    # A service that does not answer is a 503, and a new process serves again.
    await driver.ensure_metadata(MetadataPlan("http://127.0.0.1:9", "s3cret"))
    assert (await ask(red, "/"))[0] == 503
    await driver.close()
    again = BridgeNetwork(machine.host, cloud=driver._site.cloud)
    await again.ensure_metadata(MetadataPlan(compute, "s3cret"))
    await again.ensure_network(network("red", 1))
    assert (await ask(red, "/"))[0] == 200
    await again.close()


# -- the same again -----------------------------------------------------------------------------------------


def _full() -> tuple[NetworkPlan, PortPlan, PortPlan, RouterPlan]:
    return (
        network(),
        port(11, rules=[*ANYTHING_OUT, PING, SSH]),
        port(12, rules=[*ANYTHING_OUT, PING]),
        router(floating=[FloatingPlan("172.24.4.105", "10.77.0.11")], routes=[("10.55.0.0/16", "10.77.0.11")]),
    )


async def _apply(driver: BridgeNetwork) -> None:
    net, one, two, way = _full()
    await driver.ensure_network(PUBLIC)
    await driver.ensure_network(net)
    await driver.ensure_port(one)
    await driver.ensure_port(two)
    await driver.ensure_router(way)


async def test_the_same_plans_again_disturb_no_packet(machine: Machine, driver: BridgeNetwork) -> None:
    one, two = machine.guest("tapnet1-11", mac(11)), machine.guest("tapnet1-12", mac(12))
    await _apply(driver)
    one.have("10.77.0.11/24", "10.77.0.1")
    two.have("10.77.0.12/24", "10.77.0.1")
    pid = Path(Names(driver._site.cloud).directory, "dhcp/net1/pid").read_text()
    before = machine.left_over()
    assert one.ping("10.77.0.12")
    assert machine.space.ping("172.24.4.105")
    pings = [
        await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", source, "busybox", "ping", "-c", "100", "-i", "0.02", "-W", "1", to),
            stdout=asyncio.subprocess.PIPE,
        )
        for source, to in ((one.name, "10.77.0.12"), (machine.space.name, "172.24.4.105"))
    ]
    with one.listening(22), machine.space.connect("172.24.4.105", 22) as link:
        while any(ping.returncode is None for ping in pings):
            await _apply(driver)
            assert link.alive()
    for ping in pings:
        assert b" 0% packet loss" in (await ping.communicate())[0]
    assert machine.left_over() == before
    assert Path(Names(driver._site.cloud).directory, "dhcp/net1/pid").read_text() == pid


async def test_everything_comes_back_from_the_plans(machine: Machine, driver: BridgeNetwork, tmp_path: Path) -> None:
    """Pieces vanish, as by a reboot or by somebody's hand; the plans bring them back."""
    one, two = machine.guest("tapnet1-11", mac(11)), machine.guest("tapnet1-12", mac(12))
    await _apply(driver)
    names = Names(driver._site.cloud)
    whole = machine.left_over()

    async def works() -> None:
        await _apply(driver)
        assert machine.left_over() == whole
        assert one.dhcp(tmp_path)["ip"] == "10.77.0.11"
        two.dhcp(tmp_path)
        assert two.ping("10.77.0.11")
        assert machine.space.ping("172.24.4.105")
        assert not machine.space.reaches("172.24.4.105", 23)

    await works()
    machine.space("nft", "flush", "ruleset")
    assert (await driver.observed()).ports == []
    await works()
    run("ip", "netns", "delete", names.dhcp_namespace("net1"))
    await works()
    run("ip", "netns", "delete", names.router_namespace("router1"))
    assert (await driver.observed()).routers == []
    await works()
    machine.space("ip", "link", "delete", names.dhcp_link("net1"))
    await works()
    machine.space("ip", "link", "delete", names.bridge("net1"))
    assert (await driver.observed()).networks == ["public"]
    await works()
    os.kill(int(Path(names.directory, "dhcp/net1/pid").read_text()), 9)
    await works()


async def test_killed_at_any_point_the_plans_repeat(machine: Machine, driver: BridgeNetwork) -> None:
    """Carry a plan out in a process that dies at its n-th effect, for many n; then repeat it and compare."""
    net, one, _, way = _full()
    site = driver._site
    await driver.ensure_network(PUBLIC)

    from cumulet.network.drivers.bridge import operations

    steps: list[tuple[Callable[[Any], object], Any]] = [
        (operations.ensure_network, operations.ForNetwork(site, net)),
        (operations.ensure_port, operations.ForPort(site, one)),
        (operations.ensure_router, operations.ForRouter(site, way)),
        (operations.drop_router, operations.Named(site, way.id)),
        (operations.drop_port, operations.Named(site, one.id)),
        (operations.drop_network, operations.Named(site, net.id)),
    ]
    crashes = 0
    for operation, params in steps:
        await _before(machine, driver, operation.__name__)
        await driver._call(operation, params)
        wanted = machine.left_over()
        died, n = True, 1
        while died:
            await _before(machine, driver, operation.__name__)
            died = _dies_at(machine, n, operation, params)
            await driver._call(operation, params)
            assert machine.left_over() == wanted, (operation.__name__, n)
            crashes += died
            n += STRIDE
    assert crashes * STRIDE > 60


async def _before(machine: Machine, driver: BridgeNetwork, step: str) -> None:
    """Bring the machine to where the step begins."""
    net, one, _, way = _full()
    match step:
        case "ensure_network":
            await driver.drop_network(net.id)
        case "ensure_port":
            await driver.drop_port(one.id)
        case "ensure_router":
            await driver.drop_router(way.id)
        case "drop_router":
            await driver.ensure_router(way)
        case "drop_port":
            await driver.ensure_port(one)
        case "drop_network":
            await driver.ensure_network(net)


def _dies_at(machine: Machine, n: int, operation: Callable[[Any], object], params: object) -> bool:
    """Fork a process that carries the operation out on the machine and is killed before its n-th effect."""
    if not (pid := os.fork()):
        left = n

        def count() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), 9)

        class Counted:
            """A netlink socket whose changes are counted."""

            def __init__(self, inner: Any) -> None:
                self._inner = inner

            def __getattr__(self, name: str) -> Any:
                inner = getattr(self._inner, name)
                if name not in ("link", "addr", "route", "fdb"):
                    return inner

                def call(verb: str, **kwargs: object) -> object:
                    if verb not in ("get", "dump"):
                        count()
                    return inner(verb, **kwargs)

                return call

        status = 1
        try:
            netlink = links.netlink

            @contextmanager
            def counted_netlink() -> Iterator[Any]:
                with netlink() as ip:
                    yield Counted(ip)

            links.netlink = counted_netlink
            program = links.program

            def counted(*argv: str, **kwargs: object) -> str:
                if argv[:3] != ("nft", "-j", "list"):
                    count()
                return program(*argv, **kwargs)  # type: ignore[arg-type]

            links.program = counted
            from cumulet.network.drivers.bridge import dhcp, filters

            for module in (dhcp, filters):
                module.program = counted  # type: ignore[attr-defined]
            for method in ("mkdir", "replace", "unlink", "write_text", "write_bytes"):
                plain = getattr(Path, method)

                def write(self: Path, *args: object, _plain: object = plain, **kwargs: object) -> object:
                    count()
                    return _plain(self, *args, **kwargs)  # type: ignore[operator]

                setattr(Path, method, write)
            with links.inside(machine.space.name):
                operation(params)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    assert ended in (0, 9), f"status {ended} at effect {n}"
    return ended == 9


# -- other things on the machine -------------------------------------------------------------------------------


async def test_two_clouds_share_a_machine(machine: Machine, driver: BridgeNetwork) -> None:
    other = BridgeNetwork(machine.host, cloud="other")
    await driver.ensure_network(network())
    await guest(machine, driver, port(11, rules=[*ANYTHING_OUT, PING]))
    two = await guest(machine, driver, port(12))
    before = machine.left_over()
    await other.open()
    await other.ensure_network(network())
    other_guest = machine.guest("tapother-11", mac(11))
    await other.ensure_port(port(11, tap="tapother-11"))
    other_guest.have("10.77.0.11/24")
    with pytest.raises(NetworkError, match="belongs to somebody else"):
        await other.ensure_port(port(12))
    await driver.ensure_network(PUBLIC)
    with pytest.raises(NetworkError, match="is in use on this host"):
        await other.ensure_network(PUBLIC)
    await driver.drop_network("public")
    await other.purge()
    other_guest.remove()
    eventually(lambda: machine.left_over()["links"] == before["links"])
    assert machine.left_over()["rules"] == before["rules"]
    assert two.ping("10.77.0.11")
    assert (await driver.observed()).ports == ["net1-p11", "net1-p12"]


async def test_bridges_of_others_are_left_alone(machine: Machine, driver: BridgeNetwork) -> None:
    """Foreign guests on a foreign bridge talk as before, whatever they do."""
    host = machine.space
    await _routed(machine, driver, router())
    host("ip", "link", "add", "br-foreign", "type", "bridge")
    host("ip", "link", "set", "br-foreign", "up")
    try:
        a, b = machine.guest("tapf1", mac(0x51)), machine.guest("tapf2", mac(0x52))
        for tap in ("tapf1", "tapf2"):
            host("ip", "link", "set", tap, "master", "br-foreign", "up")
        host("busybox", "sysctl", "-w", "net.bridge.bridge-nf-call-iptables=1")
        a.have("10.77.0.11/24")
        b.have("10.77.0.12/24")
        assert a.ping("10.77.0.12")
        with pytest.raises(NetworkError, match="belongs to somebody else"):
            await driver.ensure_port(port(13, tap="tapf1"))
        await driver.drop_port("net1-p13")
        assert a.ping("10.77.0.12")
        with pytest.raises(NetworkError, match="not the name of a tap"):
            await driver.ensure_port(port(11, tap="up0"))
    finally:
        host("busybox", "sysctl", "-w", "net.bridge.bridge-nf-call-iptables=0")
        host("ip", "link", "delete", "br-foreign")


async def test_the_tap_is_persistent_and_the_guest_users(machine: Machine) -> None:
    driver = BridgeNetwork(machine.host, cloud="owner", guest_user="nobody")
    await driver.open()
    try:
        await driver.ensure_network(network())
        await driver.ensure_port(port(11))
        (shown,) = json.loads(machine.space("ip", "-j", "-d", "link", "show", "tapnet1-11"))
        assert shown["linkinfo"]["info_kind"] == "tun"
        data = shown["linkinfo"]["info_data"]
        assert (data["type"], data["persist"], data["user"]) == ("tap", True, "nobody")
        assert (shown["mtu"], shown["master"]) == (1450, Names("owner").bridge("net1"))
        await driver.ensure_port(port(11, admin_up=False))
        assert '"UP"' not in machine.space("ip", "-j", "link", "show", "tapnet1-11")
        await driver.drop_port("net1-p11")
        assert "tapnet1-11" not in machine.links()
    finally:
        await driver.purge()
    with pytest.raises(NetworkError, match="no user 'nemo'"):
        await BridgeNetwork(machine.host, cloud="owner", guest_user="nemo").open()


async def test_values_that_are_none_are_refused(machine: Machine, driver: BridgeNetwork) -> None:
    """Whatever a plan holds, nothing but its parsed form reaches a command."""

    def lease(option: tuple[str, str]) -> DhcpHost:
        return DhcpHost("p", mac(1), "10.77.0.5", "x", [option])

    await driver.ensure_network(network())
    rules = [RulePlan("ingress", "IPv4", 6, 1, 2, ["10.0.0.1 } accept; flush ruleset #"])]
    wrong = [
        driver.ensure_port(port(11, rules=rules)),
        driver.ensure_port(port(11, rules=[RulePlan("ingress", "IPv4", group="x } accept")])),
        driver.ensure_group(GroupPlan("../friends", [])),
        driver.ensure_group(GroupPlan("friends", ["10.0.0.1 } ; flush ruleset"])),
        driver.ensure_port(port(11, mac="fa:16:3e:00:00:01; drop")),
        driver.ensure_port(port(11, tap='tap" accept')),
        driver.ensure_port(port(11, id="../../etc/passwd")),
        driver.ensure_port(port(11, addresses=["fe80::1%x } drop"])),
        driver.ensure_port(port(11, rules=[RulePlan("ingress", "IPv4", 6, 1, 70000)])),
        driver.ensure_port(port(11, allowed_pairs=[("10.0.0.0/8", "ff:ff:ff:ff:ff:ff")])),
        driver.ensure_network(network(leases=[DhcpHost("p", mac(1), "10.77.0.5", "x\ndhcp-script=/bin/sh")])),
        driver.ensure_network(network(leases=[lease(("mtu", "1\ndhcp-script=/bin/sh"))])),
        driver.ensure_network(network(leases=[lease(("mtu,1,tag:!x", "1"))])),
        driver.ensure_network(network(id="a/b")),
        driver.ensure_router(router(routes=[("10.0.0.0/8", "nowhere")])),
        driver.ensure_router(router(floating=[FloatingPlan("172.24.4.5 }", "10.77.0.11")])),
    ]
    before = machine.space("nft", "list", "ruleset")
    for call in wrong:
        with pytest.raises(NetworkError, match=r"^not |is not on this host"):
            await call
    assert machine.space("nft", "list", "ruleset") == before


async def test_a_tunnel_joins_two_hosts(machine: Machine, driver: BridgeNetwork, tmp_path: Path) -> None:
    second = Machine("host2")
    here = BridgeNetwork(machine.host, cloud="tunnel-1", underlay="10.88.0.1")
    there = BridgeNetwork(second.host, cloud="tunnel-2", underlay="10.88.0.2")
    try:
        run(
            "ip",
            "-n",
            machine.space.name,
            "link",
            "add",
            "under0",
            "type",
            "veth",
            "peer",
            "name",
            "under0",
            "netns",
            second.space.name,
        )
        for n, space in ((1, machine.space), (2, second.space)):
            space("ip", "address", "add", f"10.88.0.{n}/24", "dev", "under0")
            space("ip", "link", "set", "under0", "up")
        for side, peer in ((here, "10.88.0.2"), (there, "10.88.0.1")):
            await side.open()
            plan = network(peers=[peer])
            # Only the first host has the DHCP server.
            await side.ensure_network(plan if side is here else msgspec.structs.replace(plan, dhcp_port=None))
        one, two = machine.guest("tapnet1-11", mac(11)), second.guest("tapnet1-12", mac(12))
        await here.ensure_port(port(11, rules=[*ANYTHING_OUT, SSH]))
        await there.ensure_port(port(12, rules=[*ANYTHING_OUT, PING]))
        assert two.dhcp(tmp_path)["ip"] == "10.77.0.12"
        one.dhcp(tmp_path)
        assert one.ping("10.77.0.12", 1, "-s", "1400")
        with one.listening(22), one.listening(23):
            assert two.reaches("10.77.0.11", 22)
            assert not two.reaches("10.77.0.11", 23)
        await here.ensure_network(network(peers=[]))
        assert "10.88.0.2" not in machine.space(
            "bridge", "fdb", "show", "dev", Names("tunnel-1").tunnel("net1")
        ).replace("10.88.0.2 self", "")
    finally:
        await here.purge()
        await there.purge()
        second.close()
        machine.space("ip", "link", "delete", "under0", check=False)


async def test_a_killed_operator_is_no_loss(machine: Machine, driver: BridgeNetwork) -> None:
    await driver.ensure_network(network())
    one = await guest(machine, driver, port(11))
    two = await guest(machine, driver, port(12, rules=[*ANYTHING_OUT, PING]))
    assert one.ping("10.77.0.12")
    machine.kill_operator()
    assert one.ping("10.77.0.12")
    driver._host = machine.host
    await driver.ensure_port(port(12, rules=ANYTHING_OUT))
    assert not two.ping("10.77.0.11")


# -- the start ------------------------------------------------------------------------------------------------


async def test_what_is_wrong_with_the_host_is_told(
    machine: Machine, driver: BridgeNetwork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine.space("nft", "add", "table", "ip", "filter")
    machine.space("nft", "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
    try:
        await driver.open()
    finally:
        machine.space("nft", "delete", "table", "ip", "filter")
    prefix = Names(driver._site.cloud).prefix
    assert "ip filter FORWARD on this host drops what it does not know" in caplog.text
    assert f"-I FORWARD -i {prefix}b+" in caplog.text
    direct = DirectHost(OPERATIONS)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NetworkError, match="start the cloud as root"):
        await BridgeNetwork(direct, cloud="nobody").open()
    direct.close()


def test_an_unprivileged_worker_runs_real_networks(machine: Machine, tmp_path: Path) -> None:
    """The whole way: a worker of an ordinary user, the parent it was forked from, a guest that asks for metadata."""
    report = tmp_path / "report"
    report.touch()
    report.chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    root = str(Path(__file__).parents[2])
    one = machine.guest("tapnet1-11", mac(11))
    code = (
        f"import sys; sys.path[:0] = [{str(Path(cumulet.__file__).parents[1])!r}, {root!r}]\n"
        "from tests.machine.test_bridge_driver import worker\n"
        # An interpreter in somebody's home can't be read by another user: what is needed is loaded before the fork.
        "import cumulet.network.drivers.bridge.metadata\n"
        "from cumulet.kernel.host import run_privileged\n"
        "from cumulet.network.drivers.bridge import OPERATIONS\n"
        f"sys.exit(run_privileged(lambda host: worker(host, {str(report)!r}), user='nobody', operations=OPERATIONS))"
    )
    with links.inside(machine.space.name):
        process = subprocess.Popen([sys.executable, "-c", code])
    try:
        eventually(lambda: "ready" in report.read_text(), 20)
        one.dhcp(tmp_path)
        answer = one("curl", "-s", "-m", "5", "http://169.254.169.254/")
        assert answer == "nobody proxied for 10.77.0.11"
    finally:
        process.terminate()
        assert process.wait(20) == 0
    machine.spaces.pop().remove()
    eventually(lambda: machine.links() == {"lo", "up0"})


def worker(host: ChannelHost, report: str) -> int:
    """Runs as nobody: brings a network up, answers metadata, purges when told to stop."""

    async def main() -> None:
        async def metadata(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = (await reader.readuntil(b"\r\n\r\n")).decode()
            guest = next(line.split(": ")[1] for line in asked.splitlines() if line.startswith("X-Forwarded-For"))
            body = f"{pwd.getpwuid(os.getuid()).pw_name} proxied for {guest}".encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
            writer.close()

        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        server = await asyncio.start_server(metadata, "127.0.0.1", 0)
        driver = BridgeNetwork(host, cloud="worker")
        await driver.open()
        await driver.ensure_metadata(MetadataPlan(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "s"))
        await driver.ensure_network(network())
        await driver.ensure_port(port(11))
        with open(report, "a") as file:
            file.write("ready")
        await told.wait()
        await driver.purge()
        server.close()

    asyncio.run(main())
    return 0

# SPDX-License-Identifier: Apache-2.0
"""What a guest may not pretend."""

from __future__ import annotations

import socket
import struct

import pytest

from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.model import (
    RulePlan,
)
from tests.machine.bridge.plans import (
    ANYTHING_OUT,
    guest,
    mac,
    network,
    port,
)
from tests.machine.wires import Machine, Wire

pytestmark = pytest.mark.machine


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

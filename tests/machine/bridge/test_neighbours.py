# SPDX-License-Identifier: Apache-2.0
"""Other things on the machine: other clouds, bridges, hosts, operators."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.bridge.naming import Names
from cumulet.network.drivers.model import (
    DhcpHost,
    FloatingPlan,
    GroupPlan,
    NetworkError,
    RulePlan,
)
from tests.machine.bridge.plans import (
    ANYTHING_OUT,
    PING,
    PUBLIC,
    SSH,
    guest,
    mac,
    network,
    port,
    routed,
    router,
)
from tests.machine.wires import Machine, eventually, run

pytestmark = pytest.mark.machine


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
    await routed(machine, driver, router())
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

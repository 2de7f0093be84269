# SPDX-License-Identifier: Apache-2.0
"""Security groups, and networks that never meet."""

from __future__ import annotations

import msgspec
import pytest

from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.model import (
    GroupPlan,
    RulePlan,
    SubnetPlan,
)
from tests.machine.bridge.plans import (
    ANYTHING_OUT,
    PING,
    SSH,
    guest,
    network,
    port,
)
from tests.machine.wires import Guest, Machine, within

pytestmark = pytest.mark.machine


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

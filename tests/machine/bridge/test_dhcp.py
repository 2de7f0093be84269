# SPDX-License-Identifier: Apache-2.0
"""Addresses, routes, MTU and names by DHCP."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.bridge.naming import Names
from cumulet.network.drivers.model import (
    DhcpHost,
)
from tests.machine.bridge.plans import (
    guest,
    mac,
    network,
    port,
)
from tests.machine.wires import Machine

pytestmark = pytest.mark.machine


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

# SPDX-License-Identifier: Apache-2.0
"""What the API lets pass the bridge driver takes, and which connections a router's change ends."""

from __future__ import annotations

import ipaddress

import pytest

from cumulet.network.drivers.bridge import naming
from cumulet.network.drivers.bridge.router import _moved
from cumulet.network.drivers.model import FloatingPlan, RouterPlan
from cumulet.network.logic.ports import host_name


@pytest.mark.parametrize("address", ["10.0.0.1", "2001:db8::1", "2001:db8:0:1::", "::1", "fe80::"])
def test_every_address_gives_a_host_name(address: str) -> None:
    name = host_name("", str(ipaddress.ip_address(address)))
    assert naming.hostname(name) == name


def test_every_cloud_has_names() -> None:
    """Whatever its id is; a cloud whose id began with a `_` had no networks."""
    names = [naming.Names(cloud) for cloud in ("_iC81XI3wqcjOXa1", "-C81XI3wqcjOXa1", "6b1f8c2e-0000-4000-8000-1f")]
    assert len({one.prefix for one in names}) == 3
    assert all(naming.identifier(one.bridge("net")) for one in names)


def test_connections_of_an_address_that_leads_elsewhere_end() -> None:
    floating = [FloatingPlan("192.0.2.2", "10.0.0.9"), FloatingPlan("192.0.2.3", "10.0.0.3")]
    plan = RouterPlan("r", floating=floating)
    before = {"192.0.2.1": "10.0.0.1", "192.0.2.2": "10.0.0.2", "192.0.2.3": "10.0.0.3"}
    assert _moved(before, plan) == {"192.0.2.1", "192.0.2.2"}

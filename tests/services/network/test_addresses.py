# SPDX-License-Identifier: Apache-2.0
"""Addresses: never given twice, whoever asks at the same time, and drawn from the whole of the pools."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from cumulet.network import models as m
from cumulet.network.logic.addresses import _from, eui64, is_usable, number_of
from cumulet.network.logic.subnets import default_pools
from tests.contract.image.lone import lone_service, project
from tests.contract.network.conftest import Net


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with lone_service("network", tmp_path, {"network-api"}, mount="/network") as lone:
        yield Net(lone)


async def at_once(net: Net, path: str, name: str, bodies: list[dict[str, Any]]) -> list[Any]:
    replies = await asyncio.gather(*(net.post(path, {name: body}) for body in bodies))
    assert {reply.status for reply in replies} <= {201, 409}, [one.data for one in replies if one.status > 409]
    return list(replies)


async def test_fifty_at_once_get_fifty_addresses(net: Net) -> None:
    network = await net.make("/networks")
    await net.make("/subnets", network_id=network["id"], ip_version=4, cidr="10.1.0.0/26", enable_dhcp=False)
    replies = await at_once(net, "/ports", "port", [{"network_id": network["id"]}] * 50)
    assert [reply.status for reply in replies] == [201] * 50
    addresses = {reply.json["port"]["fixed_ips"][0]["ip_address"] for reply in replies}
    assert len(addresses) == 50
    assert all(ipaddress.ip_address(one) in ipaddress.ip_network("10.1.0.0/26") for one in addresses)


async def test_too_many_at_once(net: Net) -> None:
    network = await net.make("/networks")
    await net.make("/subnets", network_id=network["id"], ip_version=4, cidr="10.1.0.0/28", enable_dhcp=False)
    replies = await at_once(net, "/ports", "port", [{"network_id": network["id"]}] * 50)
    made = [reply for reply in replies if reply.status == 201]
    assert {reply.json["port"]["fixed_ips"][0]["ip_address"] for reply in made} == {f"10.1.0.{n}" for n in range(2, 15)}
    assert {one.json["NeutronError"]["type"] for one in replies if one.status == 409} == {"IpAddressGenerationFailure"}
    usage = (await net.get(f"/quotas/{project('demo')}/details.json")).json["quota"]["port"]["used"]
    assert usage == len(made) == len((await net.get("/ports")).json["ports"])
    assert len(await net.lone.inner.database.all(select(m.ADDRESSES))) == len(made)


async def test_one_of_many_gets_the_address(net: Net) -> None:
    network_id, subnet_id = await net.network("10.1.0.0/24")
    wanted = [{"subnet_id": subnet_id, "ip_address": "10.1.0.9"}]
    replies = await at_once(net, "/ports", "port", [{"network_id": network_id, "fixed_ips": wanted}] * 20)
    assert sorted(reply.status for reply in replies) == [201] + [409] * 19


async def test_one_of_many_gets_the_mac(net: Net) -> None:
    network_id, _ = await net.network("10.1.0.0/24")
    body = {"network_id": network_id, "mac_address": "fa:16:3e:00:00:01"}
    replies = await at_once(net, "/ports", "port", [body] * 20)
    assert sorted(reply.status for reply in replies) == [201] + [409] * 19
    assert len(await net.lone.inner.database.all(select(m.ADDRESSES))) == 2  # its own, and the DHCP port's


async def test_quota_holds_against_many(net: Net) -> None:
    await net.admin.put(f"/quotas/{project('demo')}", {"quota": {"network": 7}})
    replies = await at_once(net, "/networks", "network", [{}] * 20)
    assert sorted(reply.status for reply in replies) == [201] * 7 + [409] * 13


async def test_one_default_group(net: Net) -> None:
    network_id, _ = await net.network("10.1.0.0/24")
    looks = [net.get("/security-groups") for _ in range(10)]
    makes = [net.post("/ports", {"port": {"network_id": network_id}}) for _ in range(10)]
    replies = await asyncio.gather(*looks, *makes)
    assert {reply.status for reply in replies} == {200, 201}
    assert len((await net.get("/security-groups")).json["security_groups"]) == 1


async def test_a_full_pool_is_found_to_the_last_address(net: Net) -> None:
    network = await net.make("/networks")
    pools = [{"start": "10.1.0.2", "end": "10.1.0.3"}, {"start": "10.1.0.130", "end": "10.1.0.255"}]
    subnet = {"network_id": network["id"], "ip_version": 4, "cidr": "10.1.0.0/23", "allocation_pools": pools}
    await net.make("/subnets", **subnet, enable_dhcp=False)
    got = set()
    for start in range(0, 128, 32):
        reply = await net.post("/ports", {"ports": [{"network_id": network["id"]}] * min(32, 128 - start)})
        got |= {one["fixed_ips"][0]["ip_address"] for one in reply.json["ports"]}
    assert len(got) == 128
    assert (await net.post("/ports", {"port": {"network_id": network["id"]}})).status == 409


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=5), st.integers(0, 200))
def test_a_search_covers_all_pools_once(shape: list[tuple[int, int]], draw: int) -> None:
    ranges, at = [], 0
    for gap, size in shape:
        ranges.append((at + gap, at + gap + size - 1))
        at += gap + size
    every = [n for low, high in ranges for n in range(low, high + 1)]
    offset = draw % len(every)
    seen = [n for low, high in _from(ranges, offset) for n in range(low, high + 1)]
    assert seen[0] == every[offset]
    assert sorted(seen) == every


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_numbers_sort_like_addresses(a: ipaddress.IPv4Address, b: ipaddress.IPv4Address) -> None:
    assert (number_of(str(a)) < number_of(str(b))) == (a < b)


def test_eui64() -> None:
    assert eui64("2001:db8::/64", "fa:16:3e:00:00:01") == "2001:db8::f816:3eff:fe00:1"


@pytest.mark.parametrize(
    ("cidr", "gateway", "pools"),
    [
        ("10.0.0.0/24", "10.0.0.1", [("10.0.0.2", "10.0.0.254")]),
        ("10.0.0.0/24", "10.0.0.254", [("10.0.0.1", "10.0.0.253")]),
        ("10.0.0.0/24", "10.9.9.9", [("10.0.0.1", "10.0.0.254")]),
        ("10.0.0.0/24", None, [("10.0.0.1", "10.0.0.254")]),
        ("10.0.0.0/30", "10.0.0.1", [("10.0.0.2", "10.0.0.2")]),
        ("10.0.0.0/31", None, [("10.0.0.0", "10.0.0.1")]),
        ("10.0.0.0/32", "10.0.0.0", []),
        ("fd00::/64", "fd00::1", [("fd00::2", "fd00::ffff:ffff:ffff:ffff")]),
    ],
)
def test_default_pools(cidr: str, gateway: str | None, pools: list[tuple[str, str]]) -> None:
    found = default_pools(ipaddress.ip_network(cidr), gateway)
    assert [(one["start"], one["end"]) for one in found] == pools
    assert all(is_usable(one, cidr) for pair in pools for one in pair)

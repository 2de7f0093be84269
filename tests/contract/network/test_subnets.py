# SPDX-License-Identifier: Apache-2.0
"""Subnets: defaults, pools, gateways, IPv6 modes, and every published refusal."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.image.lone import ALT
from tests.contract.network.conftest import Net, refused


async def test_defaults(net: Net) -> None:
    network = await net.make("/networks")
    subnet = await net.make("/subnets", network_id=network["id"], ip_version=4, cidr="10.1.0.7/24")
    assert subnet["cidr"] == "10.1.0.0/24"
    assert subnet["gateway_ip"] == "10.1.0.1"
    assert subnet["allocation_pools"] == [{"start": "10.1.0.2", "end": "10.1.0.254"}]
    assert subnet["enable_dhcp"] is True
    assert (subnet["dns_nameservers"], subnet["host_routes"], subnet["subnetpool_id"]) == ([], [], None)
    assert (subnet["ipv6_ra_mode"], subnet["ipv6_address_mode"]) == (None, None)
    assert (await net.show(f"/networks/{network['id']}"))["subnets"] == [subnet["id"]]


async def test_given_values(net: Net) -> None:
    network = await net.make("/networks")
    route = {"destination": "10.7.0.0/16", "nexthop": "10.1.0.9"}
    subnet = await net.make(
        "/subnets", network_id=network["id"], ip_version="4", cidr="10.1.0.0/24", gateway_ip="10.1.0.254",
        allocation_pools=[{"start": "10.1.0.10", "end": "10.1.0.20"}], dns_nameservers=["8.8.4.4"], host_routes=[route],
        enable_dhcp=False, name="s", description="d",
    )  # fmt: skip
    assert subnet["gateway_ip"] == "10.1.0.254"
    assert subnet["allocation_pools"] == [{"start": "10.1.0.10", "end": "10.1.0.20"}]
    assert (subnet["dns_nameservers"], subnet["host_routes"]) == (["8.8.4.4"], [route])
    assert (await net.get("/ports")).json["ports"] == []  # no DHCP, no port of it
    none = await net.make("/subnets", network_id=network["id"], ip_version=4, cidr="10.2.0.0/24", gateway_ip=None)
    assert none["gateway_ip"] is None
    assert none["allocation_pools"] == [{"start": "10.2.0.1", "end": "10.2.0.254"}]


async def test_a_gateway_inside_cuts_the_pool(net: Net) -> None:
    network = await net.make("/networks")
    subnet = await net.make(
        "/subnets", network_id=network["id"], ip_version=4, cidr="10.1.0.0/28", gateway_ip="10.1.0.5"
    )
    assert subnet["allocation_pools"] == [
        {"start": "10.1.0.1", "end": "10.1.0.4"},
        {"start": "10.1.0.6", "end": "10.1.0.14"},
    ]


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"cidr": None}, 400, "HTTPBadRequest", "'None' is not a valid IP subnet"),
    ({"cidr": "10.0.0.0"}, 400, "HTTPBadRequest", "is not a valid IP subnet"),
    ({"ip_version": 6}, 400, "InvalidInput", "cidr '10.1.0.0/24' does not match the ip_version '6'"),
    ({"ip_version": 5}, 400, "HTTPBadRequest", "'5' is not in [4, 6]"),
    ({"cidr": "0.0.0.0/0"}, 400, "InvalidInput", "0 is not allowed as CIDR prefix length"),
    ({"cidr": "224.0.0.0/24"}, 400, "InvalidInput", "Multicast IP subnet is not supported"),
    ({"cidr": "127.0.0.0/24"}, 400, "InvalidInput", "Loopback IP subnet is not supported"),
    ({"cidr": "10.1.0.0/32"}, 400, "InvalidInput", "incompatible with DHCP service enabled"),
    ({"gateway_ip": "10.1.0.255"}, 400, "InvalidInput", "Gateway is not valid on subnet"),
    ({"gateway_ip": "fd00::1"}, 400, "InvalidInput", "does not match the ip_version"),
    ({"gateway_ip": "none"}, 400, "HTTPBadRequest", "'none' is not a valid IP address"),
    ({"ipv6_ra_mode": "slaac"}, 400, "InvalidInput", "ipv6_ra_mode is not valid when ip_version is 4"),
    ({"allocation_pools": [{"start": "10.1.0.9"}]}, 400, "HTTPBadRequest", "Expected keys: ['end', 'start']"),
    ({"allocation_pools": [{"start": "10.1.0.9", "end": "10.1.0.3"}]}, 400, "InvalidAllocationPool", "is not valid"),
    (
        {"allocation_pools": [{"start": "10.1.0.9", "end": "10.1.1.3"}]}, 400, "OutOfBoundsAllocationPool",
        "spans beyond the subnet cidr",
    ),
    (
        {"allocation_pools": [{"start": "10.1.0.9", "end": "10.1.0.13"}, {"start": "10.1.0.13", "end": "10.1.0.14"}]},
        409, "OverlappingAllocationPools", "Found overlapping allocation pools",
    ),
    (
        {"allocation_pools": [{"start": "10.1.0.1", "end": "10.1.0.13"}]}, 409, "GatewayConflictWithAllocationPools",
        "Gateway ip 10.1.0.1 conflicts with allocation pool 10.1.0.1-10.1.0.13",
    ),
    ({"dns_nameservers": ["1.1.1.1", "1.1.1.1"]}, 400, "HTTPBadRequest", "Duplicate items in the list"),
    ({"dns_nameservers": [f"1.1.1.{n}" for n in range(6)]}, 400, "DNSNameServersExhausted", "exceeds the limit 5"),
    ({"host_routes": [{"destination": "10.0.0.0/8", "nexthop": "x"}]}, 400, "HTTPBadRequest", "not a valid IP address"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "status", "kind", "message"), REFUSED)
async def test_refusals(net: Net, given: dict[str, Any], status: int, kind: str, message: str) -> None:
    network = await net.make("/networks")
    body = {"network_id": network["id"], "ip_version": 4, "cidr": "10.1.0.0/24", **given}
    assert message in refused(await net.post("/subnets", {"subnet": body}), status, kind)


async def test_required(net: Net) -> None:
    reply = await net.post("/subnets", {"subnet": {"ip_version": 4, "cidr": "10.0.0.0/24"}})
    assert "Required attribute 'network_id' not specified" in refused(reply, 400, "HTTPBadRequest")
    network = await net.make("/networks")
    reply = await net.post("/subnets", {"subnet": {"ip_version": 4, "network_id": network["id"]}})
    assert "a subnetpool must be specified in the absence of a cidr" in refused(reply, 400, "BadRequest")
    missing = "6b5f5b4c-0d6b-4d45-a87b-3f1be1b9c6fe"
    reply = await net.post("/subnets", {"subnet": {"ip_version": 4, "network_id": missing, "cidr": "10.0.0.0/24"}})
    refused(reply, 404, "NetworkNotFound")


async def test_overlap_on_one_network_only(net: Net) -> None:
    network_id, _ = await net.network("10.1.0.0/24")
    body = {"network_id": network_id, "ip_version": 4, "cidr": "10.1.0.128/25"}
    assert "overlaps with another subnet" in refused(await net.post("/subnets", {"subnet": body}), 400, "InvalidInput")
    await net.network("10.1.0.0/24")  # another network may have the same range


IPV6: list[tuple[dict[str, Any], str | None]] = [
    ({"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}, None),
    ({"ipv6_ra_mode": "dhcpv6-stateless", "ipv6_address_mode": "dhcpv6-stateless"}, None),
    ({"ipv6_ra_mode": "dhcpv6-stateful", "ipv6_address_mode": "dhcpv6-stateful"}, None),
    ({"ipv6_address_mode": "dhcpv6-stateful"}, None),
    ({}, None),
    ({"ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateful"}, "they must be the same value"),
    ({"ipv6_ra_mode": "slaac", "enable_dhcp": False}, "cannot be set when enable_dhcp is set to False"),
    ({"ipv6_address_mode": "slaac", "cidr": "fd00:1::/80"}, "requires the prefix to be /64"),
]


@pytest.mark.parametrize(("given", "message"), IPV6)
async def test_ipv6_modes(net: Net, given: dict[str, Any], message: str | None) -> None:
    network = await net.make("/networks")
    body = {"network_id": network["id"], "ip_version": 6, "cidr": "fd00:1::/64", **given}
    reply = await net.post("/subnets", {"subnet": body})
    if message is not None:
        assert message in refused(reply, 400, "InvalidInput")
        return
    assert reply.status == 201, reply.data
    assert reply.json["subnet"]["gateway_ip"] == "fd00:1::1"
    assert reply.json["subnet"]["allocation_pools"] == [{"start": "fd00:1::2", "end": "fd00:1::ffff:ffff:ffff:ffff"}]


async def test_update(net: Net) -> None:
    network_id, subnet_id = await net.network("10.1.0.0/24")
    path = f"/subnets/{subnet_id}"
    pools = [{"start": "10.1.0.20", "end": "10.1.0.30"}]
    reply = await net.put(path, {"subnet": {"gateway_ip": "10.1.0.2", "allocation_pools": pools, "name": "x"}})
    assert reply.status == 200
    assert (reply.json["subnet"]["gateway_ip"], reply.json["subnet"]["allocation_pools"]) == ("10.1.0.2", pools)
    refused(await net.put(path, {"subnet": {"gateway_ip": "10.1.0.25"}}), 409, "GatewayConflictWithAllocationPools")
    refused(await net.put(path, {"subnet": {"cidr": "10.2.0.0/24"}}), 400, "HTTPBadRequest")
    assert len((await net.get(f"/ports?network_id={network_id}")).json["ports"]) == 1
    assert (await net.put(path, {"subnet": {"enable_dhcp": False}})).status == 200
    assert (await net.get(f"/ports?network_id={network_id}")).json["ports"] == []


async def test_delete_in_use(net: Net) -> None:
    network_id, subnet_id = await net.network("10.1.0.0/24")
    port = await net.make("/ports", network_id=network_id)
    refused(await net.delete(f"/subnets/{subnet_id}"), 409, "SubnetInUse")
    await net.delete(f"/ports/{port['id']}")
    assert (await net.delete(f"/subnets/{subnet_id}")).status == 204
    assert (await net.show(f"/networks/{network_id}"))["subnets"] == []


async def test_strangers(net: Net) -> None:
    network_id, subnet_id = await net.network("10.1.0.0/24")
    refused(await net.by(ALT).get(f"/subnets/{subnet_id}"), 404, "SubnetNotFound")
    body = {"network_id": network_id, "ip_version": 4, "cidr": "10.2.0.0/24"}
    refused(await net.by(ALT).post("/subnets", {"subnet": body}), 404, "NetworkNotFound")
    external = await net.external()
    assert len((await net.by(ALT).get(f"/subnets?network_id={external}")).json["subnets"]) == 1
    body = {"network_id": external, "ip_version": 4, "cidr": "10.2.0.0/24"}
    refused(await net.by(ALT).post("/subnets", {"subnet": body}), 403, "PolicyNotAuthorized")


async def test_bulk(net: Net) -> None:
    network = await net.make("/networks")
    rows = [{"network_id": network["id"], "ip_version": 4, "cidr": f"10.{n}.0.0/24"} for n in range(3)]
    reply = await net.post("/subnets", {"subnets": rows})
    assert [one["cidr"] for one in reply.json["subnets"]] == ["10.0.0.0/24", "10.1.0.0/24", "10.2.0.0/24"]


async def test_an_mtu_too_small_for_its_subnets(net: Net) -> None:
    small = await net.make("/networks", mtu=60)
    body = {"network_id": small["id"], "ip_version": 4, "cidr": "10.1.0.0/24"}
    refused(await net.post("/subnets", {"subnet": body}), 409, "NetworkMTUSubnetConflict")
    network_id, _ = await net.network("fd00:1::/64")
    refused(await net.put(f"/networks/{network_id}", {"network": {"mtu": 1279}}), 409, "NetworkMTUSubnetConflict")
    assert (await net.put(f"/networks/{network_id}", {"network": {"mtu": 1280}})).status == 200


async def test_filters_of_the_network(net: Net) -> None:
    await net.network("10.1.0.0/24")
    await net.external()
    for query, count in {
        "router:external=True": 1,
        "router:external=False": 1,
        "shared=False": 2,
        "shared=1": 0,
    }.items():
        assert len((await net.get(f"/subnets?{query}")).json["subnets"]) == count
    refused(await net.get("/subnets?shared=perhaps"), 400, "HTTPBadRequest")

# SPDX-License-Identifier: Apache-2.0
"""Subnet pools: what is cut out of them never overlaps, and every published refusal."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulet.network.logic.subnetpools import subtracted
from tests.contract.image.lone import ALT
from tests.contract.network.conftest import Net, refused


async def pool(net: Net, *prefixes: str, **more: Any) -> dict[str, Any]:
    return await net.make("/subnetpools", name="pool", prefixes=list(prefixes), **more)


async def subnet(net: Net, network_id: str | None = None, **more: Any) -> dict[str, Any]:
    network_id = network_id or (await net.make("/networks"))["id"]
    return await net.make("/subnets", **{"network_id": network_id, "ip_version": 4, **more})


async def test_a_pool(net: Net) -> None:
    made = await pool(net, "10.8.1.0/24", "10.8.0.0/24", "10.9.0.0/16", description="d", default_prefixlen=26)
    assert set(made) == {
        "id", "name", "tenant_id", "project_id", "prefixes", "ip_version", "default_prefixlen", "min_prefixlen",
        "max_prefixlen", "default_quota", "shared", "is_default", "description", "created_at", "updated_at",
        "revision_number", "tags",
    }  # fmt: skip
    assert made["prefixes"] == ["10.8.0.0/23", "10.9.0.0/16"]
    assert (made["ip_version"], made["min_prefixlen"], made["default_prefixlen"], made["max_prefixlen"]) == (
        4,
        8,
        26,
        32,
    )
    six = await pool(net, "fd00:8::/48")
    assert (six["ip_version"], six["min_prefixlen"], six["default_prefixlen"], six["max_prefixlen"]) == (6, 64, 64, 128)
    path = f"/subnetpools/{made['id']}"
    changed = (await net.put(path, {"subnetpool": {"name": "n", "prefixes": ["10.8.0.0/15"]}})).json["subnetpool"]
    assert (changed["name"], changed["prefixes"]) == ("n", ["10.8.0.0/15"])
    reply = await net.put(path, {"subnetpool": {"prefixes": ["10.8.0.0/16"]}})
    assert "must be a subset" in refused(reply, 400, "IllegalSubnetPoolPrefixUpdate")
    assert await net.names("/subnetpools?ip_version=4") == ["n"]
    refused(await net.by(ALT).get(path), 404, "SubnetPoolNotFound")
    assert (await net.delete(path)).status == 204
    refused(await net.get(path), 404, "SubnetPoolNotFound")


async def test_subnets_out_of_a_pool(net: Net) -> None:
    made = await pool(net, "10.8.0.0/22", default_prefixlen=24)
    key = made["id"]
    first = await subnet(net, subnetpool_id=key)
    assert (first["cidr"], first["subnetpool_id"], first["gateway_ip"]) == ("10.8.0.0/24", key, "10.8.0.1")
    named = await subnet(net, subnetpool_id=key, cidr="10.8.2.0/24", gateway_ip="10.8.2.9")
    assert (named["cidr"], named["gateway_ip"]) == ("10.8.2.0/24", "10.8.2.9")
    small = await subnet(net, subnetpool_id=key, prefixlen=26)
    assert small["cidr"] == "10.8.1.0/26"
    assert "prefixlen" not in small
    another = await subnet(net, subnetpool_id=key, prefixlen=26)  # out of the smallest hole, so large ones stay whole
    assert another["cidr"] == "10.8.1.64/26"
    assert [one["id"] for one in (await net.get(f"/subnets?subnetpool_id={key}")).json["subnets"]].count(
        first["id"]
    ) == 1

    async def fails(status: int, kind: str, **asked: Any) -> str:
        network = await net.make("/networks")
        body = {"subnet": {"network_id": network["id"], "ip_version": 4, **asked}}
        return refused(await net.post("/subnets", body), status, kind)

    await fails(409, "SubnetAllocationError", subnetpool_id=key, cidr="10.8.0.128/25")
    await fails(409, "SubnetAllocationError", subnetpool_id=key, cidr="10.7.0.0/24")
    assert "/23" in await fails(409, "SubnetAllocationError", subnetpool_id=key, prefixlen=23)
    assert "minimum allowed prefix is 8" in await fails(
        400, "MinPrefixSubnetAllocationError", subnetpool_id=key, prefixlen=7
    )
    assert "together" in await fails(400, "BadRequest", subnetpool_id=key, prefixlen=24, cidr="10.8.3.0/24")
    pools = [{"start": "10.8.3.5", "end": "10.8.3.9"}]
    assert "allocation_pools" in await fails(400, "BadRequest", subnetpool_id=key, allocation_pools=pools)
    assert "Cannot allocate IPv6" in await fails(400, "BadRequest", subnetpool_id=key, ip_version=6)
    assert "absence of a cidr" in await fails(400, "BadRequest")
    await fails(404, "SubnetPoolNotFound", subnetpool_id="6b5f5b4c-0d6b-4d45-a87b-3f1be1b9c6fe")
    body = {"subnet": {"network_id": first["network_id"], "ip_version": 4, "cidr": "10.99.0.0/24"}}
    refused(await net.post("/subnets", body), 400, "NetworkSubnetPoolAffinityError")

    assert "existing allocations" in refused(await net.delete(f"/subnetpools/{key}"), 400, "SubnetPoolDeleteError")
    await net.delete(f"/subnets/{first['id']}")
    assert (await subnet(net, subnetpool_id=key))["cidr"] == "10.8.0.0/24"


async def test_prefixes_come_and_go(net: Net) -> None:
    made = await pool(net, "10.8.0.0/24", default_prefixlen=25)
    path = f"/subnetpools/{made['id']}"
    reply = await net.put(f"{path}/add_prefixes", {"prefixes": ["10.8.1.0/24"]})
    assert reply.json == {"prefixes": ["10.8.0.0/23"]}
    await subnet(net, subnetpool_id=made["id"])
    reply = await net.put(f"{path}/remove_prefixes", {"prefixes": ["10.8.0.64/26"]})
    assert "in use" in refused(reply, 400, "IllegalSubnetPoolPrefixUpdate")
    reply = await net.put(f"{path}/remove_prefixes", {"prefixes": ["10.8.1.0/25", "172.16.0.0/12"]})
    assert reply.json == {"prefixes": ["10.8.0.0/24", "10.8.1.128/25"]}
    refused(await net.put(f"{path}/add_prefixes", {"prefixes": []}), 400, "HTTPBadRequest")
    refused(await net.put(f"{path}/add_prefixes", {"prefixes": ["x"]}), 400, "HTTPBadRequest")
    refused(await net.put(f"{path}/add_prefixes", {"prefixes": ["fd00::/64"]}), 400, "PrefixVersionMismatch")
    assert (await net.by(ALT).put(f"{path}/add_prefixes", {"prefixes": ["10.8.9.0/24"]})).status == 404


async def test_shared_and_default_pools(net: Net) -> None:
    for values in ({"shared": True}, {"is_default": True}):
        body = {"subnetpool": {"name": "p", "prefixes": ["10.8.0.0/16"], **values}}
        refused(await net.post("/subnetpools", body), 403, "PolicyNotAuthorized")
    made = await pool(net.admin, "10.8.0.0/16", shared=True, is_default=True, default_prefixlen=24)
    assert (await net.by(ALT).show(f"/subnetpools/{made['id']}"))["shared"] is True
    body = {"subnetpool": {"name": "p", "prefixes": ["10.9.0.0/16"], "is_default": True}}
    assert "Only one default" in refused(await net.admin.post("/subnetpools", body), 400, "InvalidInput")
    mine = await subnet(net, use_default_subnetpool=True)
    other = await subnet(net.by(ALT), subnetpool_id=made["id"])
    assert (mine["cidr"], other["cidr"]) == ("10.8.0.0/24", "10.8.1.0/24")
    network = await net.make("/networks")
    asked = {"network_id": network["id"], "ip_version": 6, "use_default_subnetpool": True}
    message = refused(await net.post("/subnets", {"subnet": asked}), 400, "BadRequest")
    assert "No default subnetpool found for IPv6" in message


async def test_a_project_takes_no_more_than_its_part(net: Net) -> None:
    made = await pool(net.admin, "10.8.0.0/16", shared=True, default_quota=512, default_prefixlen=24)
    for _ in range(2):
        await subnet(net, subnetpool_id=made["id"])
    network = await net.make("/networks")
    body = {"subnet": {"network_id": network["id"], "ip_version": 4, "subnetpool_id": made["id"], "prefixlen": 32}}
    refused(await net.post("/subnets", body), 409, "SubnetPoolQuotaExceeded")
    await subnet(net.by(ALT), subnetpool_id=made["id"])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"prefixes": []}, "EmptySubnetPoolPrefixList"),
        ({"prefixes": ["10.0.0.0/8", "fd00::/8"]}, "PrefixVersionMismatch"),
        ({"min_prefixlen": 25, "max_prefixlen": 24}, "IllegalSubnetPoolPrefixBounds"),
        ({"max_prefixlen": 33}, "IllegalSubnetPoolPrefixBounds"),
        ({"default_prefixlen": 7}, "IllegalSubnetPoolPrefixBounds"),
        ({"default_prefixlen": 30, "max_prefixlen": 28}, "IllegalSubnetPoolPrefixBounds"),
        ({"prefixes": ["nonsense"]}, "HTTPBadRequest"),
        ({"prefixes": "10.0.0.0/8"}, "HTTPBadRequest"),
        ({"name": " "}, "HTTPBadRequest"),
        ({"min_prefixlen": -1}, "HTTPBadRequest"),
        ({"ip_version": 4}, "HTTPBadRequest"),
    ],
)
async def test_pools_that_make_no_sense(net: Net, values: dict[str, Any], kind: str) -> None:
    body = {"name": "p", "prefixes": ["10.0.0.0/8"], **values}
    refused(await net.post("/subnetpools", {"subnetpool": body}), 400, kind)
    assert (await net.get("/subnetpools")).json["subnetpools"] == []


_RANGES = st.builds(
    lambda address, length: ipaddress.ip_network((address, length), strict=False),
    st.integers(0, 255).map(lambda low: (10 << 24) + low),
    st.integers(24, 32),
)


@given(have=st.lists(_RANGES, max_size=4), taken=st.lists(_RANGES, max_size=6))
def test_what_is_left_is_what_is_not_taken(have: list[Any], taken: list[Any]) -> None:
    def numbers(ranges: list[Any]) -> set[int]:
        return {int(one) for each in ranges for one in each}

    whole = list(ipaddress.collapse_addresses(have))
    left = subtracted(whole, taken)
    assert numbers(left) == numbers(whole) - numbers(taken)
    assert sum(one.num_addresses for one in left) == len(numbers(left))

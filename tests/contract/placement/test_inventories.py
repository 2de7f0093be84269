# SPDX-License-Identifier: Apache-2.0
"""Inventories over HTTP: one class or all, generations, and what is in use stays."""

from __future__ import annotations

import pytest

from tests.contract.placement.conftest import Api, claim_body

A = "aaaaaaaa-0000-4000-8000-000000000001"
NIL = "00000000-0000-4000-8000-000000000000"
CONSUMER = "cccccccc-0000-4000-8000-000000000001"
ALL = f"/resource_providers/{A}/inventories"
DEFAULTS = {"reserved": 0, "min_unit": 1, "max_unit": 2147483647, "step_size": 1, "allocation_ratio": 1.0}


@pytest.fixture
async def one(api: Api) -> Api:
    await api.provider("one", A)
    return api


async def test_one_inventory_from_create_to_delete(one: Api) -> None:
    created = await one.post(ALL, {"resource_class": "VCPU", "total": 8})
    assert created.status == 201
    assert created.headers["location"].endswith(f"/placement{ALL}/VCPU")
    assert created.json == {"total": 8, **DEFAULTS, "resource_provider_generation": 1}
    again = await one.post(ALL, {"resource_class": "VCPU", "total": 8})
    assert (again.status, again.json["errors"][0]["code"]) == (409, "placement.concurrent_update")
    body = {"resource_provider_generation": 1, "total": 16, "reserved": 2, "allocation_ratio": 4.0}
    updated = await one.put(f"{ALL}/VCPU", body)
    assert updated.json == {**DEFAULTS, **body, "resource_provider_generation": 2}
    stale = await one.put(f"{ALL}/VCPU", body)
    assert (stale.status, stale.json["errors"][0]["code"]) == (409, "placement.concurrent_update")
    assert (await one.get(f"{ALL}/VCPU")).json == updated.json
    assert (await one.delete(f"{ALL}/VCPU")).status == 204
    assert (await one.delete(f"{ALL}/VCPU")).status == 404
    assert (await one.get(f"{ALL}/VCPU")).status == 404


async def test_all_inventories_are_replaced_at_once(one: Api) -> None:
    body = {"resource_provider_generation": 0, "inventories": {"VCPU": {"total": 8}, "DISK_GB": {"total": 100}}}
    first = await one.put(ALL, body)
    assert (first.status, first.json["resource_provider_generation"]) == (200, 1)
    assert first.json["inventories"]["VCPU"] == {"total": 8, **DEFAULTS}
    assert (await one.put(ALL, body)).status == 409
    second = await one.put(ALL, {"resource_provider_generation": 1, "inventories": {"MEMORY_MB": {"total": 1024}}})
    assert set(second.json["inventories"]) == {"MEMORY_MB"}
    assert (await one.get(ALL)).json == second.json
    assert (await one.at("1.4").delete(ALL)).status == 405
    assert (await one.at("1.5").delete(ALL)).status == 204
    assert (await one.get(ALL)).json == {"resource_provider_generation": 3, "inventories": {}}


async def test_all_may_be_reserved_from_1_26_on(one: Api) -> None:
    body = {"resource_provider_generation": 0, "inventories": {"VCPU": {"total": 8, "reserved": 8}}}
    refused = await one.at("1.25").put(ALL, body)
    assert refused.status == 400
    assert "The reserved value is greater than or equal to total." in refused.json["errors"][0]["detail"]
    assert (await one.at("1.26").put(ALL, body)).status == 200
    body = {"resource_provider_generation": 1, "inventories": {"VCPU": {"total": 8, "reserved": 9}}}
    assert (await one.put(ALL, body)).status == 400


async def test_what_is_in_use_stays_but_may_shrink(one: Api) -> None:
    await one.offer(A, VCPU=8)
    assert (await one.put(f"/allocations/{CONSUMER}", claim_body({A: {"resources": {"VCPU": 6}}}))).status == 204
    generation = await one.generation(A)
    gone = await one.put(ALL, {"resource_provider_generation": generation, "inventories": {}})
    assert (gone.status, gone.json["errors"][0]["code"]) == (409, "placement.inventory.inuse")
    dropped = await one.delete(ALL)
    assert (dropped.status, dropped.json["errors"][0]["code"]) == (409, "placement.inventory.inuse")
    single = await one.delete(f"{ALL}/VCPU")
    assert (single.status, single.json["errors"][0]["code"]) == (409, "placement.concurrent_update")
    smaller = {"resource_provider_generation": generation, "inventories": {"VCPU": {"total": 4}}}
    assert (await one.put(ALL, smaller)).status == 200
    assert (await one.get(f"/resource_providers/{A}/usages")).json["usages"] == {"VCPU": 6}


async def test_bad_bodies_and_unknown_things(one: Api) -> None:
    for body in (
        {"resource_class": "VCPU"},
        {"resource_class": "VCPU", "total": 0},
        {"resource_class": "VCPU", "total": 2**31},
        {"resource_class": "VCPU", "total": "8"},
        {"resource_class": "VCPU", "total": 8, "reserved": -1},
        {"resource_class": "VCPU", "total": 8, "step_size": 0},
        {"resource_class": "VCPU", "total": 8, "more": 1},
        {"resource_class": "no-name", "total": 8},
        {"resource_class": "CUSTOM_NOT_THERE", "total": 8},
    ):
        assert (await one.post(ALL, body)).status == 400, body
    body = {"resource_provider_generation": 0, "inventories": {"CUSTOM_NOT_THERE": {"total": 1}}}
    assert (await one.put(ALL, body)).status == 400
    missing = await one.put(f"{ALL}/VCPU", {"resource_provider_generation": 0, "total": 1})
    assert missing.status == 400
    assert "No inventory of class VCPU found." in missing.json["errors"][0]["detail"]
    assert (await one.get(f"/resource_providers/{NIL}/inventories")).status == 404
    assert (
        await one.post(f"/resource_providers/{NIL}/inventories", {"resource_class": "VCPU", "total": 1})
    ).status == 404

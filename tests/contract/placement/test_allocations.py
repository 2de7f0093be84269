# SPDX-License-Identifier: Apache-2.0
"""Allocations over HTTP: never more than there is, all or nothing, and consumers with generations."""

from __future__ import annotations

import pytest

from tests.contract.placement.conftest import Api, claim_body

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "aaaaaaaa-0000-4000-8000-000000000002"
NIL = "00000000-0000-4000-8000-000000000000"
ONE = "cccccccc-0000-4000-8000-000000000001"
TWO = "cccccccc-0000-4000-8000-000000000002"


def held(**resources: int) -> dict[str, dict[str, int]]:
    return {"resources": resources}


@pytest.fixture
async def two(api: Api) -> Api:
    """A: 8 VCPU and 100 DISK_GB (by tens from 20 to 60); B: 4 VCPU twice overcommitted, 1 reserved."""
    await api.provider("a", A)
    await api.provider("b", B)
    await api.offer(A, VCPU=8, DISK_GB={"total": 100, "min_unit": 20, "max_unit": 60, "step_size": 10})
    await api.offer(B, VCPU={"total": 4, "reserved": 1, "allocation_ratio": 2.0})
    return api


async def put(
    api: Api, consumer: str, allocations: dict[str, dict[str, dict[str, int]]], generation: int | None = None
) -> int:
    return (await api.put(f"/allocations/{consumer}", claim_body(allocations, generation))).status


async def test_a_claim_from_put_to_delete(two: Api) -> None:
    assert await put(two, ONE, {A: held(VCPU=2, DISK_GB=20), B: held(VCPU=1)}) == 204
    shown = (await two.get(f"/allocations/{ONE}")).json
    assert shown == {
        "allocations": {
            A: {"generation": 2, "resources": {"VCPU": 2, "DISK_GB": 20}},
            B: {"generation": 2, "resources": {"VCPU": 1}},
        },
        "project_id": "p1",
        "user_id": "u1",
        "consumer_generation": 1,
        "consumer_type": "INSTANCE",
    }
    of_provider = (await two.get(f"/resource_providers/{A}/allocations")).json
    assert of_provider == {
        "allocations": {ONE: {"resources": {"VCPU": 2, "DISK_GB": 20}, "consumer_generation": 1}},
        "resource_provider_generation": 2,
    }
    assert (await two.get(f"/resource_providers/{A}/usages")).json == {
        "usages": {"VCPU": 2, "DISK_GB": 20},
        "resource_provider_generation": 2,
    }
    in_use = await two.delete(f"/resource_providers/{A}")
    assert (in_use.status, in_use.json["errors"][0]["code"]) == (409, "placement.resource_provider.inuse")
    assert (await two.delete(f"/allocations/{ONE}")).status == 204
    gone = await two.delete(f"/allocations/{ONE}")
    assert (gone.status, gone.json["errors"][0]["detail"]) == (404, f"No allocations for consumer '{ONE}'")
    assert (await two.get(f"/allocations/{ONE}")).json == {"allocations": {}}
    assert (await two.get(f"/resource_providers/{A}/usages")).json["usages"] == {"VCPU": 0, "DISK_GB": 0}


async def test_capacity_is_total_less_reserved_times_ratio(two: Api) -> None:
    assert await put(two, ONE, {B: held(VCPU=6)}) == 204
    refused = await two.put(f"/allocations/{TWO}", claim_body({B: held(VCPU=1)}))
    assert refused.status == 409
    (error,) = refused.json["errors"]
    assert error["code"] == "placement.undefined_code"
    assert error["detail"] == (
        f"Unable to allocate inventory: Unable to create allocation for 'VCPU' on resource provider '{B}'. "
        "The requested amount would exceed the capacity."
    )
    assert (await two.get(f"/allocations/{TWO}")).json == {"allocations": {}}


@pytest.mark.parametrize(("disk", "status"), [(10, 409), (20, 204), (25, 409), (60, 204), (70, 409)])
async def test_units_and_steps(two: Api, disk: int, status: int) -> None:
    assert await put(two, ONE, {A: held(DISK_GB=disk)}) == status


async def test_all_or_nothing(two: Api) -> None:
    assert await put(two, ONE, {A: held(VCPU=2), B: held(VCPU=7)}) == 409
    assert (await two.get(f"/resource_providers/{A}/usages")).json["usages"]["VCPU"] == 0
    body = {ONE: claim_body({A: held(VCPU=5)}), TWO: claim_body({A: held(VCPU=4)})}
    assert (await two.post("/allocations", body)).status == 409
    assert (await two.get(f"/resource_providers/{A}/usages")).json["usages"]["VCPU"] == 0
    body = {ONE: claim_body({A: held(VCPU=5)}), TWO: claim_body({A: held(VCPU=3)})}
    assert (await two.post("/allocations", body)).status == 204
    move = {ONE: claim_body({}, 1), TWO: claim_body({A: held(VCPU=8)}, 1)}
    assert (await two.post("/allocations", move)).status == 204
    assert (await two.get(f"/allocations/{ONE}")).json == {"allocations": {}}
    assert (await two.get(f"/resource_providers/{A}/usages")).json["usages"]["VCPU"] == 8


async def test_a_claim_replaces_what_was_held(two: Api) -> None:
    assert await put(two, ONE, {A: held(VCPU=8)}) == 204
    assert await put(two, ONE, {A: held(VCPU=7)}, 1) == 204
    assert await put(two, ONE, {B: held(VCPU=2)}, 2) == 204
    assert (await two.get(f"/resource_providers/{A}/usages")).json["usages"]["VCPU"] == 0
    assert (await two.get(f"/allocations/{ONE}")).json["consumer_generation"] == 3


async def test_consumer_generations_from_1_28_on(two: Api) -> None:
    assert await put(two, ONE, {A: held(VCPU=1)}, 3) == 409
    assert await put(two, ONE, {A: held(VCPU=1)}, None) == 204
    again = await two.put(f"/allocations/{ONE}", claim_body({A: held(VCPU=1)}))
    assert again.status == 409
    (error,) = again.json["errors"]
    assert error["code"] == "placement.concurrent_update"
    assert error["detail"] == "consumer generation conflict - expected 1 but got None"
    old = {"allocations": {A: held(VCPU=2)}, "project_id": "p1", "user_id": "u1"}
    assert (await two.at("1.27").put(f"/allocations/{ONE}", old)).status == 204  # no guard then
    assert await put(two, ONE, {}, 2) == 204  # an empty claim is a guarded delete
    assert (await two.get(f"/allocations/{ONE}")).json == {"allocations": {}}
    assert await put(two, ONE, {A: held(VCPU=1)}, None) == 204


async def test_an_overcommitted_provider_may_be_relieved(two: Api) -> None:
    assert await put(two, ONE, {A: held(VCPU=8)}) == 204
    await two.offer(A, VCPU={"total": 2}, DISK_GB=100)
    assert await put(two, TWO, {A: held(VCPU=1)}) == 409
    assert await put(two, ONE, {A: held(VCPU=9)}, 1) == 409
    assert await put(two, ONE, {A: held(VCPU=5)}, 1) == 204


@pytest.mark.parametrize(
    ("version", "more"),
    [
        ("1.0", {}),
        ("1.8", {"project_id": "p1", "user_id": "u1"}),
    ],
)
async def test_lists_before_1_12(two: Api, version: str, more: dict[str, str]) -> None:
    body = {"allocations": [{"resource_provider": {"uuid": A}, "resources": {"VCPU": 2}}], **more}
    assert (await two.at(version).put(f"/allocations/{ONE}", body)).status == 204
    assert (await two.at("1.11").get(f"/allocations/{ONE}")).json == {
        "allocations": {A: {"generation": 2, "resources": {"VCPU": 2}}}
    }
    newest = (await two.get(f"/allocations/{ONE}")).json
    assert newest["consumer_type"] == "unknown"
    assert newest["project_id"] == (more.get("project_id") or "00000000-0000-0000-0000-000000000000")


async def test_members_of_the_body_by_version(two: Api) -> None:
    full = claim_body({A: held(VCPU=1)}, mappings={"": [A]})
    for version, missing in (("1.38", "consumer_type"), ("1.28", "consumer_generation"), ("1.8", "project_id")):
        body = {key: value for key, value in full.items() if key != missing}
        assert (await two.at(version).put(f"/allocations/{ONE}", body)).status == 400
    assert (await two.at("1.37").put(f"/allocations/{ONE}", full)).status == 400  # no consumer_type yet
    older = {key: value for key, value in full.items() if key != "consumer_type"}
    assert (await two.at("1.33").put(f"/allocations/{ONE}", older)).status == 400  # no mappings yet
    assert (await two.put(f"/allocations/{ONE}", full)).status == 204


async def test_bad_claims(two: Api) -> None:
    assert await put(two, "nope", {A: held(VCPU=1)}) == 400
    assert await put(two, ONE, {NIL: held(VCPU=1)}) == 400
    assert await put(two, ONE, {A: held(CUSTOM_NOT_THERE=1)}) == 400
    assert await put(two, ONE, {A: held(VCPU=0)}) == 400
    assert await put(two, ONE, {A: held()}) == 400
    assert await put(two, ONE, {A: held(MEMORY_MB=1)}) == 409  # a class that it does not offer
    assert (
        await two.at("1.27").put(f"/allocations/{ONE}", {"allocations": {}, "project_id": "p", "user_id": "u"})
    ).status == 400
    assert (await two.at("1.12").post("/allocations", {})).status == 404
    assert (await two.post("/allocations", {})).status == 400
    assert (await two.get(f"/resource_providers/{NIL}/allocations")).status == 404


async def test_usages_of_a_project(two: Api) -> None:
    await put(two, ONE, {A: held(VCPU=2, DISK_GB=20)})
    migration = claim_body({A: held(VCPU=1), B: held(VCPU=1)}, consumer_type="MIGRATION", user_id="u2")
    assert (await two.put(f"/allocations/{TWO}", migration)).status == 204
    untyped = {"allocations": {A: held(VCPU=1)}, "project_id": "p1", "user_id": "u1"}
    assert (await two.at("1.12").put(f"/allocations/{NIL}", untyped)).status == 204

    async def usages(query: str, version: str = "1.39") -> dict[str, object]:
        reply = await two.at(version).get(f"/usages?{query}")
        assert reply.status == 200, reply.data
        return dict(reply.json["usages"])

    assert await usages("project_id=p1", "1.37") == {"VCPU": 5, "DISK_GB": 20}
    assert await usages("project_id=p1&user_id=u2", "1.37") == {"VCPU": 2}
    assert await usages("project_id=p1") == {
        "INSTANCE": {"VCPU": 2, "DISK_GB": 20, "consumer_count": 1},
        "MIGRATION": {"VCPU": 2, "consumer_count": 1},
        "unknown": {"VCPU": 1, "consumer_count": 1},
    }
    assert await usages("project_id=p1&consumer_type=all") == {"all": {"VCPU": 5, "DISK_GB": 20, "consumer_count": 3}}
    assert await usages("project_id=p1&consumer_type=unknown") == {"unknown": {"VCPU": 1, "consumer_count": 1}}
    assert await usages("project_id=p1&consumer_type=MIGRATION") == {"MIGRATION": {"VCPU": 2, "consumer_count": 1}}
    assert await usages("project_id=other") == {}
    for version, query in (("1.39", ""), ("1.39", "project_id="), ("1.37", "project_id=p&consumer_type=all"),
                           ("1.39", "project_id=p&consumer_type=lower")):  # fmt: skip
        assert (await two.at(version).get(f"/usages?{query}")).status == 400, query


async def test_the_reshaper_moves_inventory_with_its_claims(two: Api) -> None:
    await put(two, ONE, {A: held(VCPU=2, DISK_GB=20)})
    generations = {A: await two.generation(A), B: await two.generation(B)}
    body = {
        "inventories": {
            A: {"resource_provider_generation": generations[A], "inventories": {"DISK_GB": {"total": 100}}},
            B: {"resource_provider_generation": generations[B], "inventories": {"VCPU": {"total": 8}}},
        },
        "allocations": {ONE: claim_body({A: held(DISK_GB=20), B: held(VCPU=2)}, 1)},
    }
    assert (await two.at("1.29").post("/reshaper", body)).status == 404
    stale = {
        **body,
        "inventories": {**body["inventories"], A: {**body["inventories"][A], "resource_provider_generation": 0}},
    }
    refused = await two.post("/reshaper", stale)
    assert (refused.status, refused.json["errors"][0]["code"]) == (409, "placement.concurrent_update")
    lost = {**body, "allocations": {}}
    refused = await two.post("/reshaper", lost)
    assert (refused.status, refused.json["errors"][0]["code"]) == (409, "placement.inventory.inuse")
    unknown = {"inventories": {NIL: {"resource_provider_generation": 0, "inventories": {}}}, "allocations": {}}
    refused = await two.post("/reshaper", unknown)
    assert (refused.status, refused.json["errors"][0]["code"]) == (400, "placement.resource_provider.not_found")
    assert (await two.post("/reshaper", body)).status == 204
    assert (await two.get(f"/resource_providers/{A}/usages")).json["usages"] == {"DISK_GB": 20}
    assert (await two.get(f"/resource_providers/{B}/usages")).json["usages"] == {"VCPU": 2}


@pytest.mark.parametrize("version", ["1.13", "1.27", "1.28", "1.33", "1.34", "1.37"])
async def test_several_consumers_at_once_in_older_forms(two: Api, version: str) -> None:
    """As the published history of versions says: generations from 1.28, mappings from 1.34, types from 1.38."""
    api = two.at(version)
    minor = int(version.partition(".")[2])
    more = {"consumer_generation": None} if minor >= 28 else {}
    claim = {"allocations": {A: held(VCPU=2)}, "project_id": "p1", "user_id": "u1", **more}
    assert (await api.post("/allocations", {ONE: claim, TWO: {**claim, "consumer_type": "INSTANCE"}})).status == 400
    mapped = {**claim, "mappings": {"": [A]}}
    assert (await api.post("/allocations", {ONE: claim, TWO: mapped})).status == (204 if minor >= 34 else 400)
    if minor < 34:
        assert (await api.post("/allocations", {ONE: claim, TWO: claim})).status == 204
    shown = (await two.get(f"/allocations/{TWO}")).json
    assert (shown["allocations"][A]["resources"], shown["consumer_type"]) == ({"VCPU": 2}, "unknown")
    refused = await api.post("/allocations", {NIL: {**claim, "allocations": {A: held(VCPU=5)}}})
    assert (refused.status, "would exceed the capacity" in refused.json["errors"][0]["detail"]) == (409, True)


@pytest.mark.parametrize("version", ["1.28", "1.33", "1.34", "1.37"])
async def test_one_consumer_in_older_forms(two: Api, version: str) -> None:
    api = two.at(version)
    claim = {"allocations": {A: held(VCPU=2)}, "project_id": "p1", "user_id": "u1", "consumer_generation": None}
    assert (await api.put(f"/allocations/{ONE}", {**claim, "consumer_type": "INSTANCE"})).status == 400
    assert (await api.put(f"/allocations/{ONE}", {**claim, "consumer_generation": 7})).status == 409
    assert (await api.put(f"/allocations/{ONE}", claim)).status == 204
    assert (await api.put(f"/allocations/{ONE}", claim)).status == 409
    shown = (await api.get(f"/allocations/{ONE}")).json
    assert (shown["consumer_generation"], "consumer_type" in shown) == (1, False)


@pytest.mark.parametrize("version", ["1.30", "1.33", "1.34", "1.37"])
async def test_the_reshaper_in_older_forms(two: Api, version: str) -> None:
    await put(two, ONE, {A: held(VCPU=2)})
    claim = {"allocations": {B: held(VCPU=2)}, "project_id": "p1", "user_id": "u1", "consumer_generation": 1}
    generations = {one: await two.generation(one) for one in (A, B)}
    body = {
        "inventories": {
            A: {"resource_provider_generation": generations[A], "inventories": {}},
            B: {"resource_provider_generation": generations[B], "inventories": {"VCPU": {"total": 8}}},
        },
        "allocations": {ONE: claim},
    }
    typed = {**body, "allocations": {ONE: {**claim, "consumer_type": "INSTANCE"}}}
    assert (await two.at(version).post("/reshaper", typed)).status == 400
    assert (await two.at(version).post("/reshaper", body)).status == 204
    assert (await two.get(f"/resource_providers/{B}/usages")).json["usages"] == {"VCPU": 2}

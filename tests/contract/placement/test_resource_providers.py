# SPDX-License-Identifier: Apache-2.0
"""Resource providers over HTTP: their life, their trees, and the lists of them."""

from __future__ import annotations

from typing import Any

from tests.contract.placement.conftest import Api

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "aaaaaaaa-0000-4000-8000-000000000002"
C = "aaaaaaaa-0000-4000-8000-000000000003"
AGG1 = "bbbbbbbb-0000-4000-8000-000000000001"
AGG2 = "bbbbbbbb-0000-4000-8000-000000000002"
AGG3 = "bbbbbbbb-0000-4000-8000-000000000003"


async def test_a_provider_from_create_to_delete(api: Api) -> None:
    created = await api.post("/resource_providers", {"name": "one", "uuid": A})
    assert created.status == 200
    own = f"/placement/resource_providers/{A}"
    assert created.headers["location"] == f"http://localhost{own}"
    rels = ("inventories", "usages", "aggregates", "traits", "allocations")
    assert created.json == {
        "uuid": A,
        "name": "one",
        "generation": 0,
        "parent_provider_uuid": None,
        "root_provider_uuid": A,
        "links": [{"rel": "self", "href": own}, *({"rel": rel, "href": f"{own}/{rel}"} for rel in rels)],
    }
    assert (await api.get(f"/resource_providers/{A}")).json == created.json
    renamed = await api.put(f"/resource_providers/{A}", {"name": "uno"})
    assert (renamed.status, renamed.json["name"]) == (200, "uno")
    assert (await api.delete(f"/resource_providers/{A}")).status == 204
    gone = await api.delete(f"/resource_providers/{A}")
    assert gone.status == 404
    assert gone.json["errors"][0]["detail"] == f"No resource provider with uuid {A} found for delete"


async def test_what_older_versions_answer(api: Api) -> None:
    created = await api.at("1.19").post("/resource_providers", {"name": "one", "uuid": A.replace("-", "")})
    assert created.status == 201
    assert created.data == b""
    assert created.headers["location"].endswith(A)
    plain = (await api.at("1.0").get(f"/resource_providers/{A}")).json
    assert set(plain) == {"uuid", "name", "generation", "links"}
    assert [link["rel"] for link in plain["links"]] == ["self", "inventories", "usages"]
    refused = await api.at("1.13").post("/resource_providers", {"name": "two", "parent_provider_uuid": A})
    assert refused.status == 400


async def test_a_uuid_is_made_when_none_is_sent(api: Api) -> None:
    made = await api.post("/resource_providers", {"name": "one"})
    assert (await api.get(f"/resource_providers/{made.json['uuid']}")).status == 200


async def test_names_and_uuids_are_taken_once(api: Api) -> None:
    await api.provider("one", A)
    for body, told in (({"name": "one", "uuid": B}, "name: one"), ({"name": "two", "uuid": A}, f"uuid: {A}")):
        reply = await api.post("/resource_providers", body)
        assert reply.status == 409
        assert reply.json["errors"][0]["code"] == "placement.duplicate_name"
        assert reply.json["errors"][0]["detail"] == f"Conflicting resource provider {told} already exists."
    await api.provider("two", B)
    reply = await api.put(f"/resource_providers/{B}", {"name": "one"})
    assert (reply.status, reply.json["errors"][0]["code"]) == (409, "placement.duplicate_name")


async def test_bad_bodies(api: Api) -> None:
    bodies: list[Any] = [
        {}, {"name": 1}, {"name": "x" * 201}, {"name": "x", "uuid": "no"}, {"name": "x", "more": 1}, [],
    ]  # fmt: skip
    for body in bodies:
        reply = await api.post("/resource_providers", body)
        assert reply.status == 400, body
        assert reply.json["errors"][0]["detail"].startswith("JSON does not validate: ")
    assert (await api.post("/resource_providers", {"name": ""})).status == 400


async def test_trees(api: Api) -> None:
    await api.provider("root", A)
    await api.provider("child", B, parent=A)
    await api.provider("grandchild", C, parent=B)
    assert (await api.get(f"/resource_providers/{C}")).json["root_provider_uuid"] == A
    tree = (await api.get(f"/resource_providers?in_tree={B}")).json["resource_providers"]
    assert {one["uuid"] for one in tree} == {A, B, C}
    refused = await api.delete(f"/resource_providers/{B}")
    assert refused.status == 409
    assert refused.json["errors"][0]["code"] == "placement.resource_provider.cannot_delete_parent"
    unknown = await api.post("/resource_providers", {"name": "x", "parent_provider_uuid": AGG1})
    assert unknown.status == 400
    assert "parent provider UUID does not exist." in unknown.json["errors"][0]["detail"]
    own = await api.post("/resource_providers", {"name": "x", "uuid": AGG1, "parent_provider_uuid": AGG1})
    assert own.status == 400


async def test_a_parent_can_be_exchanged_from_1_37_on(api: Api) -> None:
    for name, uuid, parent in (("a", A, None), ("b", B, A), ("c", C, B)):
        await api.provider(name, uuid, parent)
    body = {"name": "b", "parent_provider_uuid": None}
    refused = await api.at("1.36").put(f"/resource_providers/{B}", body)
    assert refused.status == 400
    assert "un-parenting a provider is not currently allowed." in refused.json["errors"][0]["detail"]
    moved = await api.put(f"/resource_providers/{B}", body)
    assert (moved.json["parent_provider_uuid"], moved.json["root_provider_uuid"]) == (None, B)
    assert (await api.get(f"/resource_providers/{C}")).json["root_provider_uuid"] == B
    loop = await api.put(f"/resource_providers/{B}", {"name": "b", "parent_provider_uuid": C})
    assert loop.status == 400
    assert "creating loop in the provider tree is not allowed." in loop.json["errors"][0]["detail"]
    back = await api.at("1.36").put(f"/resource_providers/{B}", {"name": "b", "parent_provider_uuid": A})
    assert back.json["root_provider_uuid"] == A
    assert (await api.get(f"/resource_providers/{C}")).json["root_provider_uuid"] == A
    again = await api.at("1.36").put(f"/resource_providers/{C}", {"name": "c", "parent_provider_uuid": A})
    assert again.status == 400
    assert (await api.put(f"/resource_providers/{C}", {"name": "c", "parent_provider_uuid": A})).status == 200


async def test_lists_by_name_uuid_resources_traits_and_aggregates(api: Api) -> None:
    for name, uuid in (("one", A), ("two", B), ("three", C)):
        await api.provider(name, uuid)
    await api.offer(A, VCPU=4, DISK_GB={"total": 100, "step_size": 10, "min_unit": 20})
    await api.offer(B, VCPU={"total": 4, "allocation_ratio": 2.0, "max_unit": 6})
    await api.trait(A, "HW_CPU_X86_AVX", "CUSTOM_GOLD")
    await api.trait(B, "HW_CPU_X86_AVX")
    await api.join(A, AGG1)
    await api.join(B, AGG1, AGG2)

    async def found(query: str, version: str = "1.39") -> set[str]:
        reply = await api.at(version).get(f"/resource_providers?{query}")
        assert reply.status == 200, reply.data
        return {one["name"] for one in reply.json["resource_providers"]}

    assert await found("") == {"one", "two", "three"}
    assert await found("name=two") == {"two"}
    assert await found(f"uuid={C}") == {"three"}
    assert await found("resources=VCPU:4") == {"one", "two"}
    assert await found("resources=VCPU:5") == {"two"}
    assert await found("resources=VCPU:7") == set()  # more than max_unit
    assert await found("resources=VCPU:1,DISK_GB:30") == {"one"}
    assert await found("resources=DISK_GB:10") == set()  # less than min_unit
    assert await found("resources=DISK_GB:25") == set()  # no step
    assert await found("required=HW_CPU_X86_AVX") == {"one", "two"}
    assert await found("required=HW_CPU_X86_AVX,!CUSTOM_GOLD") == {"two"}
    assert await found("required=in:CUSTOM_GOLD,HW_CPU_X86_SSE") == {"one"}
    assert await found("required=HW_CPU_X86_AVX&required=!CUSTOM_GOLD") == {"two"}
    assert await found(f"member_of={AGG1}") == {"one", "two"}
    assert await found(f"member_of=in:{AGG2},{AGG3}") == {"two"}
    assert await found(f"member_of={AGG1}&member_of={AGG2}") == {"two"}
    assert await found(f"member_of=!{AGG2}") == {"one", "three"}
    assert await found(f"member_of=!in:{AGG1},{AGG2}") == {"three"}
    assert await found(f"in_tree={AGG3}") == set()
    assert await found("required=!CUSTOM_GOLD&required=HW_CPU_X86_AVX", "1.38") == {"one", "two"}  # the last counts


async def test_lists_refuse_what_they_do_not_know(api: Api) -> None:
    for version, query in (
        ("1.39", "bogus=1"),
        ("1.39", "uuid=nope"),
        ("1.2", f"member_of={AGG1}"),
        ("1.3", "resources=VCPU:1"),
        ("1.13", f"in_tree={A}"),
        ("1.17", "required=HW_CPU_X86_AVX"),
        ("1.21", "required=!HW_CPU_X86_AVX"),
        ("1.23", f"member_of={AGG1}&member_of={AGG2}"),
        ("1.31", f"member_of=!{AGG1}"),
        ("1.38", "required=in:HW_CPU_X86_AVX"),
        ("1.39", "required=in:HW_CPU_X86_AVX,!HW_CPU_X86_SSE"),
        ("1.39", "required="),
        ("1.39", "required=CUSTOM_NOT_THERE"),
        ("1.39", "resources="),
        ("1.39", "resources=VCPU"),
        ("1.39", "resources=VCPU:0"),
        ("1.39", "resources=VCPU:many"),
        ("1.39", "resources=CUSTOM_NOT_THERE:1"),
        ("1.39", f"member_of={AGG1},{AGG2}"),
        ("1.39", "member_of=in:nope"),
    ):
        reply = await api.at(version).get(f"/resource_providers?{query}")
        assert reply.status == 400, (version, query)


async def test_aggregates(api: Api) -> None:
    await api.provider("one", A)
    path = f"/resource_providers/{A}/aggregates"
    assert (await api.get(path)).json == {"aggregates": [], "resource_provider_generation": 0}
    old = await api.at("1.1").put(path, [AGG1, AGG2])
    assert (old.status, old.json) == (200, {"aggregates": [AGG1, AGG2]})
    assert await api.generation(A) == 0
    stale = await api.put(path, {"aggregates": [AGG1], "resource_provider_generation": 5})
    assert (stale.status, stale.json["errors"][0]["code"]) == (409, "placement.concurrent_update")
    new = await api.put(path, {"aggregates": [AGG1], "resource_provider_generation": 0})
    assert new.json == {"aggregates": [AGG1], "resource_provider_generation": 1}
    assert (await api.at("1.18").get(path)).json == {"aggregates": [AGG1]}
    assert (await api.put(path, {"aggregates": ["x"], "resource_provider_generation": 1})).status == 400
    assert (await api.get(f"/resource_providers/{B}/aggregates")).status == 404


async def test_traits_of_a_provider(api: Api) -> None:
    await api.provider("one", A)
    path = f"/resource_providers/{A}/traits"
    assert (await api.get(path)).json == {"traits": [], "resource_provider_generation": 0}
    body = {"traits": ["HW_CPU_X86_AVX"], "resource_provider_generation": 0}
    assert (await api.put(path, body)).json == {"traits": ["HW_CPU_X86_AVX"], "resource_provider_generation": 1}
    stale = await api.put(path, body)
    assert (stale.status, stale.json["errors"][0]["code"]) == (409, "placement.concurrent_update")
    same = await api.put(path, {**body, "resource_provider_generation": 1})
    assert same.json["resource_provider_generation"] == 1  # nothing changed
    unknown = await api.put(path, {"traits": ["CUSTOM_NO"], "resource_provider_generation": 1})
    assert (unknown.status, unknown.json["errors"][0]["detail"]) == (400, "No such trait CUSTOM_NO")
    assert (await api.delete(path)).status == 204
    assert (await api.get(path)).json == {"traits": [], "resource_provider_generation": 2}
    assert (await api.get(f"/resource_providers/{B}/traits")).status == 404

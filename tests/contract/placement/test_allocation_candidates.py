# SPDX-License-Identifier: Apache-2.0
"""Allocation candidates over HTTP: plain hosts, trees, shared storage, groups, and the answer by version.

The world: host `cn1` (CPU and memory, no disk) and `cn2` (all three), both with
two network cards below them; `ss` shares disk with both by an aggregate.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.contract.placement.conftest import Api, claim_body

CN1, CN2, SS = (f"aaaaaaaa-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
PF11, PF12, PF21, PF22 = (f"aaaaaaaa-0000-4000-8000-0000000000{n}" for n in (11, 12, 21, 22))
NIC1, NIC2 = (f"aaaaaaaa-0000-4000-8000-00000000001{n}" for n in (5, 6))
AGG, OTHER = (f"bbbbbbbb-0000-4000-8000-00000000000{n}" for n in (1, 2))
NIL = "00000000-0000-4000-8000-000000000000"
NAMES = {CN1: "cn1", CN2: "cn2", SS: "ss", PF11: "pf11", PF12: "pf12", PF21: "pf21", PF22: "pf22"}


@pytest.fixture
async def world(api: Api) -> Api:
    for name, uuid, parent in (
        ("cn1", CN1, None), ("cn2", CN2, None), ("ss", SS, None), ("nic1", NIC1, CN1), ("nic2", NIC2, CN2),
        ("pf11", PF11, NIC1), ("pf12", PF12, NIC1), ("pf21", PF21, NIC2), ("pf22", PF22, NIC2),
    ):  # fmt: skip
        await api.provider(name, uuid, parent)
    for uuid in (CN1, CN2):
        await api.offer(uuid, VCPU=8, MEMORY_MB=4096, **({"DISK_GB": 100} if uuid == CN2 else {}))
    await api.offer(SS, DISK_GB=1000)
    for uuid in (PF11, PF12, PF21, PF22):
        await api.offer(uuid, SRIOV_NET_VF=4)
    await api.trait(SS, "MISC_SHARES_VIA_AGGREGATE", "STORAGE_DISK_SSD")
    await api.trait(CN1, "HW_CPU_X86_AVX")
    for uuid, physnet in ((PF11, 1), (PF12, 2), (PF21, 1), (PF22, 1)):
        await api.trait(uuid, f"CUSTOM_PHYSNET{physnet}")
    for uuid in (CN1, CN2, SS):
        await api.join(uuid, AGG)
    return api


async def ask(api: Api, query: str) -> dict[str, Any]:
    reply = await api.get("/allocation_candidates?" + quote(query, safe="=&,:!_"))
    assert reply.status == 200, reply.data
    return dict(reply.json)


async def found(api: Api, query: str) -> set[str]:
    """The candidates, each as ``cn1:VCPU=1 ss:DISK_GB=10``."""
    told = await ask(api, query)
    return {
        " ".join(
            sorted(
                f"{NAMES[uuid]}:{','.join(f'{name}={units}' for name, units in sorted(one['resources'].items()))}"
                for uuid, one in wish["allocations"].items()
            )
        )
        for wish in told["allocation_requests"]
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("resources=VCPU:1", {"cn1:VCPU=1", "cn2:VCPU=1"}),
        ("resources=VCPU:9", set()),
        ("resources=VCPU:1,MEMORY_MB:4096", {"cn1:MEMORY_MB=4096,VCPU=1", "cn2:MEMORY_MB=4096,VCPU=1"}),
        # shared disk, and own disk beside it
        (
            "resources=VCPU:1,DISK_GB:50",
            {"cn1:VCPU=1 ss:DISK_GB=50", "cn2:VCPU=1 ss:DISK_GB=50", "cn2:DISK_GB=50,VCPU=1"},
        ),
        ("resources=VCPU:1,DISK_GB:500", {"cn1:VCPU=1 ss:DISK_GB=500", "cn2:VCPU=1 ss:DISK_GB=500"}),
        ("resources=DISK_GB:50", {"cn2:DISK_GB=50", "ss:DISK_GB=50"}),
        # in_tree shuts sharing out
        (f"resources=VCPU:1,DISK_GB:50&in_tree={CN2}", {"cn2:DISK_GB=50,VCPU=1"}),
        (f"resources=VCPU:1,DISK_GB:50&in_tree={CN1}", set()),
        (f"resources=SRIOV_NET_VF:1&in_tree={PF11}", {"pf11:SRIOV_NET_VF=1", "pf12:SRIOV_NET_VF=1"}),
        (f"resources=VCPU:1&in_tree={NIL}", set()),
        # traits of all chosen providers together
        ("resources=VCPU:1&required=HW_CPU_X86_AVX", {"cn1:VCPU=1"}),
        ("resources=VCPU:1&required=!HW_CPU_X86_AVX", {"cn2:VCPU=1"}),
        ("resources=VCPU:1,DISK_GB:50&required=HW_CPU_X86_AVX,STORAGE_DISK_SSD", {"cn1:VCPU=1 ss:DISK_GB=50"}),
        ("resources=VCPU:1,DISK_GB:50&required=!STORAGE_DISK_SSD", {"cn2:DISK_GB=50,VCPU=1"}),
        ("resources=VCPU:1&required=in:HW_CPU_X86_AVX,HW_CPU_X86_SSE", {"cn1:VCPU=1"}),
        ("resources=SRIOV_NET_VF:1&required=CUSTOM_PHYSNET2", {"pf12:SRIOV_NET_VF=1"}),
        # a tree of providers
        (
            "resources=VCPU:1,SRIOV_NET_VF:4&required=CUSTOM_PHYSNET1",
            {"cn1:VCPU=1 pf11:SRIOV_NET_VF=4", "cn2:VCPU=1 pf21:SRIOV_NET_VF=4", "cn2:VCPU=1 pf22:SRIOV_NET_VF=4"},
        ),
        # the root must have it, whoever serves
        ("resources=SRIOV_NET_VF:1&root_required=HW_CPU_X86_AVX", {"pf11:SRIOV_NET_VF=1", "pf12:SRIOV_NET_VF=1"}),
        ("resources=SRIOV_NET_VF:1&root_required=!HW_CPU_X86_AVX", {"pf21:SRIOV_NET_VF=1", "pf22:SRIOV_NET_VF=1"}),
        # groups
        (
            "resources=VCPU:1&resources1=SRIOV_NET_VF:2&required1=CUSTOM_PHYSNET1",
            {"cn1:VCPU=1 pf11:SRIOV_NET_VF=2", "cn2:VCPU=1 pf21:SRIOV_NET_VF=2", "cn2:VCPU=1 pf22:SRIOV_NET_VF=2"},
        ),
        (
            "resources1=SRIOV_NET_VF:2&resources2=SRIOV_NET_VF:2&required2=CUSTOM_PHYSNET2&group_policy=none",
            {"pf12:SRIOV_NET_VF=4", "pf11:SRIOV_NET_VF=2 pf12:SRIOV_NET_VF=2"},
        ),
        (
            "resources1=SRIOV_NET_VF:2&resources2=SRIOV_NET_VF:2&required2=CUSTOM_PHYSNET2&group_policy=isolate",
            {"pf11:SRIOV_NET_VF=2 pf12:SRIOV_NET_VF=2"},
        ),
        (
            "resources1=SRIOV_NET_VF:3&resources2=SRIOV_NET_VF:3&group_policy=none",
            {"pf11:SRIOV_NET_VF=3 pf12:SRIOV_NET_VF=3", "pf21:SRIOV_NET_VF=3 pf22:SRIOV_NET_VF=3"},
        ),
        (
            f"resources_A=VCPU:1&in_tree_A={CN1}&resources_B=DISK_GB:5&in_tree_B={SS}&group_policy=none",
            {"cn1:VCPU=1 ss:DISK_GB=5"},
        ),
        (
            "resources_A=SRIOV_NET_VF:1&required_B=HW_CPU_X86_AVX&same_subtree=_A,_B&group_policy=none",
            {"pf11:SRIOV_NET_VF=1", "pf12:SRIOV_NET_VF=1"},
        ),
        ("resources_A=SRIOV_NET_VF:1&resources_B=SRIOV_NET_VF:4&same_subtree=_A,_B&group_policy=none", set()),
        # aggregates
        (f"resources=VCPU:1&member_of={AGG}", {"cn1:VCPU=1", "cn2:VCPU=1"}),
        (f"resources=VCPU:1&member_of={OTHER}", set()),
        (f"resources=VCPU:1&member_of=!{AGG}", set()),
        (f"resources=SRIOV_NET_VF:4&member_of={AGG}&required=CUSTOM_PHYSNET2", {"pf12:SRIOV_NET_VF=4"}),
        (f"resources1=SRIOV_NET_VF:4&member_of1={AGG}", set()),  # a named group's provider itself
    ],
)  # fmt: skip
async def test_what_is_found(world: Api, query: str, expected: set[str]) -> None:
    assert await found(world, query) == expected


async def test_the_newest_answer(world: Api) -> None:
    await world.put(f"/allocations/{NIL}", claim_body({CN1: {"resources": {"VCPU": 3}}}))
    told = await ask(world, f"resources=VCPU:2&resources_N=SRIOV_NET_VF:1&in_tree={CN1}&required_N=CUSTOM_PHYSNET2")
    assert told["allocation_requests"] == [
        {
            "allocations": {CN1: {"resources": {"VCPU": 2}}, PF12: {"resources": {"SRIOV_NET_VF": 1}}},
            "mappings": {"": [CN1], "_N": [PF12]},
        }
    ]
    assert set(told["provider_summaries"]) == {CN1, NIC1, PF11, PF12}
    assert told["provider_summaries"][CN1] == {
        "resources": {"VCPU": {"capacity": 8, "used": 3}, "MEMORY_MB": {"capacity": 4096, "used": 0}},
        "traits": ["HW_CPU_X86_AVX"],
        "parent_provider_uuid": None,
        "root_provider_uuid": CN1,
    }
    assert told["provider_summaries"][NIC1]["resources"] == {}
    assert told["provider_summaries"][PF11]["parent_provider_uuid"] == NIC1


async def test_a_candidate_can_be_claimed_as_it_is(world: Api) -> None:
    told = await ask(world, "resources=VCPU:2,DISK_GB:10&resources1=SRIOV_NET_VF:1")
    for number, wish in enumerate(told["allocation_requests"]):
        consumer = f"cccccccc-0000-4000-8000-{number:012}"
        body = {"project_id": "p", "user_id": "u", "consumer_generation": None, "consumer_type": "INSTANCE", **wish}
        reply = await world.put(f"/allocations/{consumer}", body)
        assert reply.status == 204, reply.data
    used = {uuid: (await world.get(f"/resource_providers/{uuid}/usages")).json["usages"]["VCPU"] for uuid in (CN1, CN2)}
    assert used == {CN1: 4, CN2: 8}  # two cards and one disk each; two cards and two disks each


@pytest.mark.parametrize("version", ["1.10", "1.12", "1.17", "1.27", "1.28", "1.29", "1.34"])
async def test_answers_by_version(world: Api, version: str) -> None:
    minor = int(version.partition(".")[2])
    told = (await world.at(version).get("/allocation_candidates?resources=VCPU:1,SRIOV_NET_VF:1")).json
    if minor < 29:
        assert told == {"allocation_requests": [], "provider_summaries": {}}  # blind to trees
        told = (await world.at(version).get("/allocation_candidates?resources=VCPU:1")).json
        assert set(told["provider_summaries"]) == {CN1, CN2}
    summary = told["provider_summaries"][CN1]
    assert ("traits" in summary) == (minor >= 17)
    assert ("MEMORY_MB" in summary["resources"]) == (minor >= 27)
    assert ("root_provider_uuid" in summary) == (minor >= 29)
    wish = told["allocation_requests"][0]
    assert ("mappings" in wish) == (minor >= 34)
    assert isinstance(wish["allocations"], dict if minor >= 12 else list)


async def test_limits(world: Api) -> None:
    everything = "resources=SRIOV_NET_VF:1"
    assert len((await ask(world, everything))["allocation_requests"]) == 4
    told = await ask(world, everything + "&limit=1")
    assert len(told["allocation_requests"]) == 1
    assert len({one["root_provider_uuid"] for one in told["provider_summaries"].values()}) == 1


@pytest.mark.parametrize(
    ("version", "query", "detail"),
    [
        ("1.10", "", "'resources' is a required property"),
        ("1.39", "", "There must be at least one resources"),
        ("1.15", "resources=VCPU:1&limit=1", "'limit' was unexpected"),
        ("1.39", "resources=VCPU:1&limit=0", "limit"),
        ("1.16", "resources=VCPU:1&required=HW_CPU_X86_AVX", "'required' was unexpected"),
        ("1.20", f"resources=VCPU:1&member_of={AGG}", "'member_of' was unexpected"),
        ("1.24", "resources=VCPU:1&resources1=VCPU:1", "'resources1' was unexpected"),
        ("1.30", f"resources=VCPU:1&in_tree={CN1}", "'in_tree' was unexpected"),
        ("1.32", "resources=VCPU:1&resources_A=VCPU:1", "'resources_A' was unexpected"),
        ("1.34", "resources=VCPU:1&root_required=HW_CPU_X86_AVX", "'root_required' was unexpected"),
        ("1.35", "resources=VCPU:1&same_subtree=_A", "'same_subtree' was unexpected"),
        ("1.39", "resources=VCPU:1&resources01=VCPU:1&group_policy=none", None),
        ("1.32", "resources=VCPU:1&resources01=VCPU:1", "'resources01' was unexpected"),
        ("1.39", "resources1=VCPU:1&resources2=VCPU:1", '"group_policy" parameter is required'),
        ("1.39", "resources1=VCPU:1&resources2=VCPU:1&group_policy=bogus", "group_policy"),
        ("1.35", "resources=VCPU:1&required1=HW_CPU_X86_AVX", "orphaned traits keys: required1"),
        ("1.35", f"resources=VCPU:1&member_of1={AGG}", "orphaned member_of keys: member_of1"),
        ("1.39", "resources=VCPU:1&required1=HW_CPU_X86_AVX", "bad group(s) - ['1']"),
        ("1.39", "resources=VCPU:1&same_subtree=_A", "Real suffixes should be specified"),
        ("1.39", "resources_A=VCPU:1&same_subtree=_A,", "Empty string"),
        ("1.39", "resources=VCPU:1&required=HW_CPU_X86_AVX,!HW_CPU_X86_AVX", "Conflicting required and forbidden"),
        ("1.39", "resources=VCPU:1&root_required=HW_CPU_X86_AVX,!HW_CPU_X86_AVX", "Conflicting required"),
        ("1.39", "resources=VCPU:1&root_required=HW_CPU_X86_AVX&root_required=HW_CPU_X86_SSE", "only once"),
        ("1.39", "resources=CUSTOM_NO:1", "No such resource class CUSTOM_NO"),
        ("1.39", "resources=VCPU:1&required=CUSTOM_NO", "No such trait(s): CUSTOM_NO."),
        ("1.39", "resources=VCPU:1&in_tree=nope", "Expected 'in_tree' parameter to be a format of uuid"),
    ],
)
async def test_what_is_refused(world: Api, version: str, query: str, detail: str | None) -> None:
    reply = await world.at(version).get(f"/allocation_candidates?{query}")
    if detail is None:
        assert reply.status == 200
        return
    assert reply.status == 400
    assert detail in reply.json["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "placement.query.missing_value"),
        ("resources=VCPU:1&required1=HW_CPU_X86_AVX", "placement.query.bad_value"),
        ("resources=VCPU:1&root_required=HW_CPU_X86_AVX&root_required=HW_CPU_X86_SSE", "placement.query.duplicate_key"),
    ],
)
async def test_codes(world: Api, query: str, code: str) -> None:
    assert (await world.get(f"/allocation_candidates?{query}")).json["errors"][0]["code"] == code

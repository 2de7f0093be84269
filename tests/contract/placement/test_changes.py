# SPDX-License-Identifier: Apache-2.0
"""The feed of changes over HTTP: everything first, then what changed, and waiting for it."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.contract.placement.conftest import Api, claim_body

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "aaaaaaaa-0000-4000-8000-000000000002"
AGG = "bbbbbbbb-0000-4000-8000-000000000001"
ONE = "cccccccc-0000-4000-8000-000000000001"


async def changes(api: Api, after: int, **more: int) -> dict[str, Any]:
    query = "&".join([f"after={after}", *(f"{name}={value}" for name, value in more.items())])
    reply = await api.get(f"/changes?{query}")
    assert reply.status == 200, reply.data
    return dict(reply.json)


async def test_everything_then_what_changed(api: Api) -> None:
    await api.provider("a", A)
    await api.provider("b", B, parent=A)
    await api.offer(A, VCPU=8)
    await api.trait(A, "HW_CPU_X86_AVX")
    await api.join(A, AGG)
    first = await changes(api, 0)
    assert (first["complete"], first["more"], first["deleted"]) == (True, False, [])
    told = {one["uuid"]: one for one in first["providers"]}
    assert told[A] == {
        "uuid": A, "name": "a", "generation": 3, "parent_provider_uuid": None, "root_provider_uuid": A,
        "traits": ["HW_CPU_X86_AVX"], "aggregates": [AGG],
        "inventories": {"VCPU": {
            "total": 8, "reserved": 0, "min_unit": 1, "max_unit": 8, "step_size": 1, "allocation_ratio": 1.0, "used": 0,
        }},
    }  # fmt: skip
    assert told[B]["root_provider_uuid"] == A
    nothing = await changes(api, first["sequence"])
    assert nothing == {
        "sequence": first["sequence"], "complete": False, "more": False, "providers": [], "deleted": [],
    }  # fmt: skip
    await api.put(f"/allocations/{ONE}", claim_body({A: {"resources": {"VCPU": 3}}}))
    second = await changes(api, first["sequence"])
    assert [(one["uuid"], one["inventories"]["VCPU"]["used"]) for one in second["providers"]] == [(A, 3)]
    await api.delete(f"/allocations/{ONE}")
    await api.delete(f"/resource_providers/{B}")
    third = await changes(api, second["sequence"])
    assert [one["inventories"]["VCPU"]["used"] for one in third["providers"]] == [0]
    assert third["deleted"] == [B]
    assert (await changes(api, 0))["deleted"] == []  # who knows nothing has nothing to forget
    await api.provider("b", B)
    fourth = await changes(api, third["sequence"])
    assert ([one["uuid"] for one in fourth["providers"]], fourth["deleted"]) == ([B], [])


async def test_pages(api: Api) -> None:
    names = [f"n{number}" for number in range(5)]
    for number, name in enumerate(names):
        await api.provider(name, f"aaaaaaaa-0000-4000-8000-00000000000{number}")
    seen: list[str] = []
    after, complete, more = 0, [], True
    while more:
        page = await changes(api, after, limit=2)
        seen += [one["name"] for one in page["providers"]]
        complete.append(page["complete"])
        after, more = page["sequence"], page["more"]
    assert sorted(seen) == names
    assert complete == [True, False, False]


async def test_a_reader_waits_for_the_first_change(api: Api) -> None:
    await api.provider("a", A)
    start = (await changes(api, 0))["sequence"]
    async with asyncio.timeout(60):
        waiting = asyncio.create_task(changes(api, start, wait=20))
        await asyncio.sleep(0)  # it is under way
        await api.offer(A, VCPU=8)
        told = await waiting
    assert [one["uuid"] for one in told["providers"]] == [A]


async def test_a_number_from_the_future_gets_everything(api: Api) -> None:
    await api.provider("a", A)
    told = await changes(api, 2**58)
    assert told["complete"]
    assert len(told["providers"]) == 1


async def test_queries_are_checked(api: Api) -> None:
    for query in ("after=-1", "after=x", "wait=21", "limit=0", "limit=1001", "more=1"):
        assert (await api.get(f"/changes?{query}")).status == 400, query

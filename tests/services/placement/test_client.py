# SPDX-License-Identifier: Apache-2.0
"""The typed client against the real service: every call can be repeated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cumulet.client.placement import CONCURRENT_UPDATE, PlacementClient
from cumulet.kernel.errors import Conflict, NotFound
from tests.services.placement.played import placement_client

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "aaaaaaaa-0000-4000-8000-000000000002"
ONE = "cccccccc-0000-4000-8000-000000000001"
WHO: Any = {"project_id": "p", "user_id": "u"}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[PlacementClient]:
    async with placement_client(tmp_path) as (client, _):
        yield client


async def test_ensure_provider_makes_changes_and_keeps(client: PlacementClient) -> None:
    offer: dict[str, dict[str, Any]] = {"VCPU": {"total": 8, "allocation_ratio": 4.0}, "CUSTOM_FPGA": {"total": 1}}
    for _ in range(2):
        await client.ensure_provider(A, "one", offer, ["COMPUTE_NODE", "CUSTOM_HOST"])
    (summary,) = (await client.changes()).providers
    assert (summary.name, summary.traits) == ("one", ["COMPUTE_NODE", "CUSTOM_HOST"])
    assert summary.inventories["VCPU"].allocation_ratio == 4.0
    generation = summary.generation
    await client.ensure_provider(A, "one", offer, ["COMPUTE_NODE", "CUSTOM_HOST"])
    assert (await client.provider(A)).generation == generation  # nothing was written
    await client.ensure_provider(A, "uno", {"VCPU": {"total": 4}}, ["HW_CPU_X86_AVX"])
    (summary,) = (await client.changes()).providers
    assert (summary.name, set(summary.inventories)) == ("uno", {"VCPU"})
    assert summary.traits == ["CUSTOM_HOST", "HW_CPU_X86_AVX"]  # custom ones are the operator's
    assert [one.uuid for one in await client.providers(name="uno")] == [A]


async def test_what_an_operator_chose_stays(client: PlacementClient) -> None:
    """A new class begins with what is offered; the total is the host's to say."""
    kept = ["allocation_ratio"]
    await client.ensure_provider(A, "one", {"VCPU": {"total": 8, "allocation_ratio": 4.0}}, kept=kept)
    await client.ensure_provider(A, "one", {"VCPU": {"total": 8, "allocation_ratio": 16.0}})
    offer: dict[str, dict[str, Any]] = {"VCPU": {"total": 6, "allocation_ratio": 4.0}, "DISK_GB": {"total": 1}}
    await client.ensure_provider(A, "one", offer, kept=kept)
    (summary,) = (await client.changes()).providers
    assert (summary.inventories["VCPU"].total, summary.inventories["VCPU"].allocation_ratio) == (6, 16.0)
    assert summary.inventories["DISK_GB"].allocation_ratio == 1.0
    await client.ensure_provider(A, "one", offer, kept=kept)
    assert (await client.provider(A)).generation == summary.generation, "nothing was written"


async def test_a_name_belongs_to_one_provider(client: PlacementClient) -> None:
    await client.ensure_provider(A, "one", {})
    with pytest.raises(NotFound):
        await client.ensure_provider(B, "one", {})


async def test_claims(client: PlacementClient) -> None:
    await client.ensure_provider(A, "one", {"VCPU": {"total": 4, "max_unit": 4}, "DISK_GB": {"total": 10}})
    (candidate,) = await client.candidates({"VCPU": 2}, in_tree=A)
    assert (candidate.allocations, candidate.roots) == ({A: {"VCPU": 2}}, [A])
    assert await client.candidates({"VCPU": 2}, required=["HW_CPU_X86_AVX"]) == []
    assert (await client.allocations(ONE)).generation is None
    await client.claim(ONE, candidate.allocations, **WHO)
    held = await client.allocations(ONE)
    assert (held.allocations, held.generation, held.project_id) == ({A: {"VCPU": 2}}, 1, "p")
    with pytest.raises(Conflict) as lost:
        await client.claim(ONE, candidate.allocations, **WHO)
    assert lost.value.kind == CONCURRENT_UPDATE
    with pytest.raises(Conflict) as full:
        await client.claim(ONE, {A: {"VCPU": 5}}, generation=1, **WHO)
    assert full.value.kind != CONCURRENT_UPDATE
    assert await client.usages("p") == {"VCPU": 2}
    for _ in range(2):
        await client.drop(ONE)
    assert (await client.allocations(ONE)).allocations == {}
    assert await client.usages("p") == {}
    for _ in range(2):
        await client.delete_provider(A)
    assert await client.providers() == []


async def test_inventory_in_use_is_not_taken_away(client: PlacementClient) -> None:
    await client.ensure_provider(A, "one", {"VCPU": {"total": 4}})
    await client.claim(ONE, {A: {"VCPU": 1}}, **WHO)
    with pytest.raises(Conflict):
        await client.ensure_provider(A, "one", {})


async def test_aggregates(client: PlacementClient) -> None:
    aggregate = "bbbbbbbb-0000-4000-8000-000000000001"
    await client.ensure_provider(A, "one", {"VCPU": {"total": 4}})
    for _ in range(2):
        await client.set_aggregates(A, [aggregate])
    assert len(await client.candidates({"VCPU": 1}, member_of=[aggregate])) == 1

# SPDX-License-Identifier: Apache-2.0
"""Traits and resource classes over HTTP: standard ones are there, custom ones come and go."""

from __future__ import annotations

from cumulet.placement.names import RESOURCE_CLASSES, standard_traits
from tests.contract.placement.conftest import Api

A = "aaaaaaaa-0000-4000-8000-000000000001"


async def test_standard_traits_are_there(api: Api) -> None:
    listed = (await api.get("/traits")).json["traits"]
    assert set(listed) == standard_traits()
    assert {"HW_CPU_X86_AVX512F", "COMPUTE_NODE", "MISC_SHARES_VIA_AGGREGATE", "STORAGE_DISK_SSD"} <= set(listed)
    found = await api.get("/traits/HW_CPU_X86_AVX")
    assert (found.status, found.data) == (204, b"")
    assert "content-type" not in found.headers
    refused = await api.delete("/traits/HW_CPU_X86_AVX")
    assert (refused.status, refused.json["errors"][0]["detail"]) == (
        400,
        "Cannot delete standard trait HW_CPU_X86_AVX.",
    )


async def test_a_custom_trait_from_create_to_delete(api: Api) -> None:
    path = "/traits/CUSTOM_GOLD"
    assert (await api.get(path)).status == 404
    created = await api.put(path)
    assert created.status == 201
    assert created.headers["location"].endswith("/placement/traits/CUSTOM_GOLD")
    assert (await api.put(path)).status == 204
    assert (await api.get(path)).status == 204
    await api.provider("one", A)
    await api.trait(A, "CUSTOM_GOLD")
    refused = await api.delete(path)
    assert refused.status == 409
    assert refused.json["errors"][0]["detail"] == "The trait CUSTOM_GOLD is in use by a resource provider."
    await api.trait(A)
    assert (await api.delete(path)).status == 204
    assert (await api.delete(path)).status == 404


async def test_traits_are_filtered(api: Api) -> None:
    await api.provider("one", A)
    await api.trait(A, "CUSTOM_GOLD", "HW_CPU_X86_AVX")

    async def found(query: str) -> list[str]:
        reply = await api.get(f"/traits?{query}")
        assert reply.status == 200
        return list(reply.json["traits"])

    assert await found("name=startswith:CUSTOM_") == ["CUSTOM_GOLD"]
    assert await found("name=in:CUSTOM_GOLD,HW_CPU_X86_SSE,CUSTOM_NO") == ["CUSTOM_GOLD", "HW_CPU_X86_SSE"]
    assert await found("associated=true") == ["CUSTOM_GOLD", "HW_CPU_X86_AVX"]
    assert await found("associated=False&name=startswith:CUSTOM") == []
    for query in ("name=CUSTOM", "associated=maybe", "more=1"):
        assert (await api.get(f"/traits?{query}")).status == 400


async def test_bad_names(api: Api) -> None:
    for name in ("GOLD", "CUSTOM_gold", "CUSTOM_", "CUSTOM_" + "X" * 249):
        assert (await api.put(f"/traits/{name}")).status == 400, name
        assert (await api.put(f"/resource_classes/{name}")).status == 400, name
        assert (await api.post("/resource_classes", {"name": name})).status == 400, name


async def test_resource_classes(api: Api) -> None:
    listed = (await api.get("/resource_classes")).json["resource_classes"]
    assert [one["name"] for one in listed] == list(RESOURCE_CLASSES)
    own = "/placement/resource_classes/VCPU"
    assert (await api.get("/resource_classes/VCPU")).json == {"name": "VCPU", "links": [{"rel": "self", "href": own}]}
    created = await api.post("/resource_classes", {"name": "CUSTOM_FPGA"})
    assert (created.status, created.data) == (201, b"")
    assert created.headers["location"].endswith("/placement/resource_classes/CUSTOM_FPGA")
    assert (await api.post("/resource_classes", {"name": "CUSTOM_FPGA"})).status == 409
    assert (await api.put("/resource_classes/CUSTOM_FPGA")).status == 204
    assert (await api.put("/resource_classes/CUSTOM_OTHER")).status == 201
    await api.provider("one", A)
    await api.offer(A, CUSTOM_FPGA=2)
    assert (await api.delete("/resource_classes/CUSTOM_FPGA")).status == 409
    await api.offer(A)
    assert (await api.delete("/resource_classes/CUSTOM_FPGA")).status == 204
    assert (await api.delete("/resource_classes/CUSTOM_FPGA")).status == 404
    assert (await api.delete("/resource_classes/VCPU")).status == 400
    assert (await api.get("/resource_classes/CUSTOM_FPGA")).status == 404


async def test_renaming_a_class_ended_with_1_6(api: Api) -> None:
    await api.put("/resource_classes/CUSTOM_OLD")
    renamed = await api.at("1.6").put("/resource_classes/CUSTOM_OLD", {"name": "CUSTOM_NEW"})
    assert (renamed.status, renamed.json["name"]) == (200, "CUSTOM_NEW")
    assert (await api.get("/resource_classes/CUSTOM_OLD")).status == 404
    assert (await api.at("1.6").put("/resource_classes/VCPU", {"name": "CUSTOM_X"})).status == 400
    assert (await api.at("1.6").put("/resource_classes/CUSTOM_NEW")).status == 415

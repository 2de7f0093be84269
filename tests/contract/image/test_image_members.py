# SPDX-License-Identifier: Apache-2.0
"""Members of shared images over HTTP: offered by the owner, answered by the member."""

from __future__ import annotations

from tests.contract.image.lone import ADMIN, ALT, Lone, project
from tests.contract.image.test_images import make, patch


async def test_sharing_from_offer_to_acceptance(image: Lone) -> None:
    image_id = (await make(image, name="s"))["id"]
    path = f"/v2/images/{image_id}"
    member = f"{path}/members/{project('alt')}"
    offered = await image.request("POST", f"{path}/members", {"member": project("alt")})
    assert offered.status == 200
    document = offered.json
    assert document == {
        "member_id": project("alt"), "image_id": image_id, "status": "pending", "schema": "/v2/schemas/member",
        "created_at": document["created_at"], "updated_at": document["updated_at"],
    }  # fmt: skip
    again = await image.request("POST", f"{path}/members", {"member": project("alt")})
    assert again.status == 409
    assert (await image.request("GET", path, token=ALT)).status == 200
    assert (await image.request("GET", "/v2/images", token=ALT)).json["images"] == []
    pending = await image.request("GET", "/v2/images?member_status=pending&visibility=shared", token=ALT)
    assert [one["id"] for one in pending.json["images"]] == [image_id]
    assert (await image.request("PUT", member, {"status": "accepted"})).status == 403  # the owner may not answer
    accepted = await image.request("PUT", member, {"status": "accepted"}, token=ALT)
    assert accepted.json["status"] == "accepted"
    assert len((await image.request("GET", "/v2/images", token=ALT)).json["images"]) == 1
    assert (await image.request("GET", member, token=ALT)).json["status"] == "accepted"
    listed = await image.request("GET", f"{path}/members")
    assert listed.json["schema"] == "/v2/schemas/members"
    assert [one["member_id"] for one in listed.json["members"]] == [project("alt")]
    assert (await image.request("DELETE", member, token=ALT)).status == 403
    assert (await image.request("DELETE", member)).status == 204
    assert (await image.request("DELETE", member)).status == 404
    assert (await image.request("GET", path, token=ALT)).status == 404


async def test_a_member_sees_no_other_member(image: Lone) -> None:
    image_id = (await make(image))["id"]
    path = f"/v2/images/{image_id}/members"
    for name in ("alt", "third"):
        assert (await image.request("POST", path, {"member": project(name)})).status == 200
    seen = (await image.request("GET", path, token=ALT)).json["members"]
    assert [one["member_id"] for one in seen] == [project("alt")]
    assert (await image.request("GET", f"{path}/{project('third')}", token=ALT)).status == 404
    assert len((await image.request("GET", path, token=ADMIN)).json["members"]) == 2


async def test_members_refuse(image: Lone) -> None:
    private = f"/v2/images/{(await make(image, visibility='private'))['id']}/members"
    assert (await image.request("POST", private, {"member": project("alt")})).status == 403
    assert (await image.request("GET", private)).status == 403
    assert (await image.request("GET", f"{private}/{project('alt')}")).status == 404
    image_id = (await make(image))["id"]
    shared = f"/v2/images/{image_id}/members"
    for body in ({}, {"member": ""}, {"member": 5}, {"member": "x" * 256}):
        assert (await image.request("POST", shared, body)).status == 400
    assert (await image.request("POST", shared, {"member": project("alt")}, token=ALT)).status == 404
    await image.request("POST", shared, {"member": project("alt")})
    member = f"{shared}/{project('alt')}"
    for body in ({}, {"status": "maybe"}):
        assert (await image.request("PUT", member, body, token=ALT)).status == 400
    assert (await image.request("POST", shared, {"member": "x"}, token=ALT)).status == 403
    image.configure(member_quota=1)
    assert (await image.request("POST", shared, {"member": "x"})).status == 413
    hidden = await patch(image, image_id, {"op": "replace", "path": "/visibility", "value": "private"})
    assert hidden.status == 200
    assert (await image.request("GET", f"/v2/images/{image_id}", token=ALT)).status == 404

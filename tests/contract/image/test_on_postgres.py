# SPDX-License-Identifier: Apache-2.0
"""The image service on a real PostgreSQL: the statements that only a database can judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.image.lone import ADMIN, DEMO, lone_service
from tests.contract.image.test_image_stores import DATA, STORES, ended, make, put, show, start

pytestmark = pytest.mark.postgres


async def test_an_image_lives(postgres: str, tmp_path: Path) -> None:
    told = {"image": {"stores": STORES, "count_quota": 5, "total_mib_quota": 5}}
    async with lone_service(
        "image", tmp_path, {"image-api"}, mount="/image", settings=told, postgres=postgres
    ) as image:
        image_id = await make(image, tags=["t"], speed="88")
        assert (await put(image, image_id, what="stage")).status == 204
        assert (await start(image, image_id, {"name": "glance-direct"}, all_stores=True)).status == 202
        assert (await ended(image, image_id))["status"] == "success"
        assert (await show(image, image_id))["stores"] == "second,first"
        for query in ("tag=t", "speed=88", "size_min=1", "status=in:active,queued", "sort=name:asc,size:desc"):
            found = (await image.request("GET", f"/v2/images?{query}")).json["images"]
            assert [one["id"] for one in found] == [image_id], query
        usage = (await image.request("GET", "/v2/info/usage")).json["usage"]
        assert usage["image_count_total"] == {"usage": 1, "limit": 5}
        at = "/v2/metadefs/namespaces"
        assert (await image.request("POST", at, {"namespace": "n"}, token=ADMIN)).status == 201
        assert (await image.request("POST", at, {"namespace": "n"}, token=ADMIN)).status == 409
        tags = {"tags": [{"name": "a"}, {"name": "a"}]}
        assert (await image.request("POST", f"{at}/n/tags", tags, token=ADMIN)).status == 409
        listed = await image.request("GET", f"{at}?resource_types=OS::Nova::Flavor&limit=3", token=DEMO)
        assert len(listed.json["namespaces"]) == 3
        assert (await image.request("PUT", f"/v2/cache/{image_id}", token=ADMIN)).status == 202
        assert (await image.request("DELETE", f"/v2/stores/second/{image_id}", token=ADMIN)).status == 204
        assert (await image.request("GET", f"/v2/images/{image_id}/file")).data == DATA
        assert (await image.request("DELETE", f"/v2/images/{image_id}")).status == 204
        assert (await image.request("GET", "/v2/tasks", token=ADMIN)).json["tasks"][0]["status"] == "success"

# SPDX-License-Identifier: Apache-2.0
"""A Swift store behind Keystone: Ceph's gateway, which asks this cloud's own identity whom a token belongs to."""

from __future__ import annotations

import asyncio
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cumulet.cli.chaos.loopback import free_ports
from cumulet.kernel.pools import Pool
from tests.ceph import Cluster
from tests.cloud import PASSWORD, TestCloud, running_cloud
from tests.contract.identity.test_clients import served
from tests.services.image.stores import make

DATA = os.urandom(9 * 1024 * 1024 + 3)


async def told(cloud: TestCloud, path: str, member: str, **fields: Any) -> Any:
    reply = await cloud.request("POST", f"/identity/v3/{path}", {member: fields}, token=await cloud.login("admin"))
    assert reply.status == 201, reply.data
    return reply.json[member]


async def make_container(url: str, token: str) -> None:
    """By the user's own token; the gateway may still be starting."""
    asked = urllib.request.Request(url, method="PUT", headers={"x-auth-token": token, "content-length": "0"})
    async with asyncio.timeout(60):
        while True:
            try:
                with await asyncio.to_thread(urllib.request.urlopen, asked) as answer:
                    assert answer.status in (201, 202)
                    return
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionError):
                    raise
                await asyncio.sleep(0.1)


@pytest.mark.ceph
async def test_a_container_of_a_project_in_a_region(ceph: Cluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with running_cloud(tmp_path / "cloud", packages=[]) as cloud, served(cloud) as front:
        keystone = {
            "rgw_keystone_url": f"{front}/identity", "rgw_keystone_api_version": "3",
            "rgw_keystone_admin_user": "admin", "rgw_keystone_admin_password": PASSWORD,
            "rgw_keystone_admin_domain": "Default", "rgw_keystone_admin_project": "admin",
            "rgw_keystone_accepted_roles": "member", "rgw_keystone_implicit_tenants": "true",
        }  # fmt: skip
        swift = f"http://127.0.0.1:{port}/swift/v1"
        await told(cloud, "regions", "region", id="far-away")
        service = (await told(cloud, "services", "service", type="object-store", name="swift"))["id"]
        for region, url in (("RegionOne", "http://127.0.0.1:1/nobody"), ("far-away", swift)):
            endpoint = {"service_id": service, "interface": "public", "url": url, "region_id": region}
            await told(cloud, "endpoints", "endpoint", **endpoint)
        with ceph.gateway(port, **keystone):
            await make_container(f"{swift}/glance", await cloud.login("demo"))
            config = {
                "type": "swift", "auth_url": f"{front}/identity/v3", "username": "demo", "password": PASSWORD,
                "project": "demo", "container": "glance", "region": "far-away", "segment_mib": 4,
            }  # fmt: skip
            pool = Pool("swift", 2)
            store = make(config, tmp_path / "store", pool)
            await store.open()
            writer = await store.write("data-1")
            await asyncio.to_thread(writer.write, DATA)
            await writer.commit()
            reader = await store.read("data-1", 4 * 1024 * 1024 - 1)
            assert b"".join([piece async for piece in reader]) == DATA[4 * 1024 * 1024 - 1 :]
            assert await store.list() == ["data-1"]
            await store.delete("data-1")
            assert await store.list() == []
            other = make({**config, "username": "alt_demo", "project": "alt_demo"}, tmp_path / "other", pool)
            await other.open()
            with pytest.raises(OSError, match="does not answer"):  # that project has no such container
                await other.list()
            pool.close()

# SPDX-License-Identifier: Apache-2.0
"""What the conductor tells hosts and users, in a whole cloud with simulated machines."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from cumulet.compute.conductor import Conductor
from cumulet.compute.models import BLOCK_DEVICES, SAGAS, SERVERS
from cumulet.compute.sagas.world import set_fault
from cumulet.kernel import clock
from cumulet.kernel.loops import Loop
from tests.cloud import TestCloud, running_cloud


async def _active(cloud: TestCloud, token: str, body: dict[str, Any]) -> str:
    made = await cloud.request("POST", "/compute/v2.1/servers", {"server": body}, token=token)
    assert made.status == 202, made.data
    server_id: str = made.json["server"]["id"]
    async with asyncio.timeout(60):
        while True:
            shown = (await cloud.request("GET", f"/compute/v2.1/servers/{server_id}", token=token)).json["server"]
            assert shown["status"] != "ERROR", shown["fault"]
            if shown["status"] == "ACTIVE":
                return server_id
            await asyncio.sleep(0.02)


async def _swept(cloud: TestCloud) -> list[str]:
    """The images of the host's cache that are left when all of them are old."""
    tasks = [task for role in cloud.cloud.services["compute"].roles for task in role.tasks]
    (sweep,) = [task for task in tasks if isinstance(task, Loop) and task.name == "image cache"]
    images = cloud.cloud.parts.data / "hosts" / "node-1" / "images"
    for path in images.iterdir():
        os.utime(path, (0, 0))
    await sweep.run_once()
    return [path.name for path in images.iterdir()]


async def test_what_hosts_and_users_are_told(tmp_path: Path) -> None:
    image = tmp_path / "tiny.raw"
    image.write_bytes(b"\0" * (1 << 20))
    guest = {"name": "tiny", "path": str(image), "disk_format": "raw"}
    settings = {"compute": {"dhcp_domain": "cloud.example"}}
    async with running_cloud(tmp_path / "data", options={"guest_image": guest}, settings=settings) as cloud:
        token = await cloud.login("demo")
        (found,) = (await cloud.request("GET", "/image/v2/images", token=token)).json["images"]
        body = {"name": "s", "flavorRef": "42", "imageRef": found["id"], "config_drive": True}
        server_id = await _active(cloud, token, body)
        drive = (tmp_path / "data" / "hosts" / "node-1" / "drives" / f"{server_id}.iso").read_bytes()
        assert b'"s.cloud.example"' in drive  # the same domain as the metadata service says

        assert len(await _swept(cloud)) == 1  # the guest stands on it

        (conductor,) = [
            task for role in cloud.cloud.services["compute"].roles for task in role.tasks if isinstance(task, Conductor)
        ]
        long = "No valid host was found. " + "why " * 200

        async def more(tx: Any) -> None:
            await set_fault(tx, server_id, long)
            for position, boots in ((2, None), (1, 1)):
                row = {"id": f"d{position}", "server_id": server_id, "position": position, "boot_index": boots}
                kind = {"source_type": "blank", "destination_type": "local", "created_at": clock.now()}
                await tx.insert(BLOCK_DEVICES, {**row, **kind})

        await conductor.world.db.run(more)
        devices = await conductor.world.devices(server_id)
        assert [one["position"] for one in devices] == [0, 1, 2]
        row = await conductor.world.db.first(SERVERS.select().where(SERVERS.c.id == server_id))
        assert row is not None
        assert row["fault"]["message"] == long

        # a delete that is asked for twice goes on, also that of a server in ERROR
        await conductor.engine.stop()
        admin = await cloud.login("admin")
        path = f"/compute/v2.1/servers/{server_id}"
        reset = await cloud.request("POST", f"{path}/action", {"os-resetState": {"state": "error"}}, token=admin)
        assert reset.status == 202
        for _ in range(2):
            assert (await cloud.request("DELETE", path, token=token)).status == 204
        deletes = SAGAS.select().where(SAGAS.c.subject == server_id, SAGAS.c.name == "compute.delete_server")
        assert [saga["cancel"] for saga in await conductor.world.db.all(deletes)] == [False]
        await conductor.engine.start()
        async with asyncio.timeout(60):
            while (await cloud.request("GET", f"/compute/v2.1/servers/{server_id}", token=token)).status != 404:
                await asyncio.sleep(0.02)
        assert await _swept(cloud) == []

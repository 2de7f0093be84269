# SPDX-License-Identifier: Apache-2.0
"""Requests between services that are carried out once more, long after: nothing comes back, nothing goes.

So it is when they lay in a stopped process whose sender is dead, or when a sender was stopped himself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cumulet.client.session import ServiceSession
from cumulet.compute.drivers.model import HypervisorError
from cumulet.kernel.errors import Fault
from tests.cloud import running_cloud
from tests.services.compute.test_paused import NODES, _tasks
from tests.services.insight.furnished import Rig


class Letters:
    """Every change that services asked of each other, to be asked again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._kept: list[tuple[Any, ...]] = []
        self._once = once = ServiceSession._once

        async def noted(session: Any, service: str, method: str, path: str, body: Any, *rest: Any) -> Any:
            if method not in ("GET", "HEAD") and isinstance(body, bytes):
                self._kept.append((session, service, method, path, body, *rest))
            return await once(session, service, method, path, body, *rest)

        monkeypatch.setattr(ServiceSession, "_once", noted)

    def about(self, method: str, part: str) -> int:
        """How many were sent to such a path."""
        return sum(one[2] == method and part in one[3] for one in self._kept)

    async def again(self) -> AsyncIterator[str]:
        """Send each once more; its method and path, when it was answered."""
        for one in list(self._kept):
            with suppress(Fault):
                await (await self._once(*one)).read()
            yield f"{one[2]} {one[3]}"


@asynccontextmanager
async def two_hosts(folder: Path) -> AsyncIterator[Rig]:
    image = folder / "tiny.raw"
    image.write_bytes(b"\0" * (1 << 20))
    guest = {"name": "tiny", "path": str(image), "disk_format": "raw"}
    settings = {"insight": {"check_again_seconds": 0.02}}
    async with running_cloud(folder / "data", options={"guest_image": guest}, settings=settings, hosts=NODES) as cloud:
        rig = Rig(cloud, await cloud.login("admin"), await cloud.login("demo"))
        for node in NODES:
            await _tasks(cloud, node)[1].run_once()
        yield rig


async def private(rig: Rig) -> str:
    networks = (await rig.call("GET", "/network/v2.0/networks"))["networks"]
    return next(str(one["id"]) for one in networks if one["name"] == "private")


async def build(rig: Rig, *ports: str) -> str:
    """A server that brings a port and a volume into the world, and has these ports of its user's."""
    images = (await rig.call("GET", "/image/v2/images"))["images"]
    disks = [
        {"source_type": "image", "destination_type": "local", "boot_index": 0, "uuid": images[0]["id"]},
        {"source_type": "blank", "destination_type": "volume", "volume_size": 1, "delete_on_termination": True},
    ]
    nics = [{"uuid": await private(rig)}, *({"port": one} for one in ports)]
    body = {
        "name": "s", "flavorRef": "42", "imageRef": images[0]["id"], "networks": nics,
        "block_device_mapping_v2": disks,
    }  # fmt: skip
    server: str = (await rig.call("POST", "/compute/v2.1/servers", {"server": body}))["server"]["id"]
    await rig.until(f"/compute/v2.1/servers/{server}", lambda told: told["server"]["status"] == "ACTIVE")
    return server


async def held(rig: Rig, server: str) -> dict[str, Any]:
    """What there is of a server in all services."""

    async def listed(path: str, name: str) -> list[str]:
        version = {"openstack-api-version": "volume 3.71"}
        told = (await rig.cloud.request("GET", path, token=rig.admin, headers=version)).json
        return sorted(one["id"] for one in told[name])

    claim = await rig.cloud.request(
        "GET", f"/placement/allocations/{server}", token=rig.admin, headers={"openstack-api-version": "placement 1.39"}
    )
    ports = (await rig.cloud.request("GET", f"/network/v2.0/ports?device_id={server}", token=rig.admin)).json["ports"]
    free = (await rig.cloud.request("GET", "/network/v2.0/ports?device_id=", token=rig.admin)).json["ports"]
    attached = f"/volume/v3/attachments?all_tenants=1&instance_id={server}"
    return {
        "claim": claim.json["allocations"],
        "ports": sorted((one["id"], one["binding:host_id"]) for one in ports),
        "free": sorted(one["id"] for one in free if one["name"] == "own"),
        "attachments": await listed(attached, "attachments"),
        "volumes": await listed("/volume/v3/volumes/detail?all_tenants=1", "volumes"),
        "snapshots": await listed("/volume/v3/snapshots?all_tenants=1", "snapshots"),
        "images": await listed("/image/v2/images", "images"),
    }


async def test_nothing_comes_back_of_a_server_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = Letters(monkeypatch)
    async with two_hosts(tmp_path) as rig:
        wish = {"network_id": await private(rig), "name": "own"}
        own = (await rig.call("POST", "/network/v2.0/ports", {"port": wish}))["port"]["id"]
        before = await held(rig, "0" * 32)
        assert before["free"] == [own]
        server = await build(rig, own)
        path = f"/compute/v2.1/servers/{server}"
        await rig.call("POST", f"{path}/os-interface", {"interfaceAttachment": {"net_id": await private(rig)}})
        await rig.until(f"{path}/os-interface", lambda told: len(told["interfaceAttachments"]) == 3)
        made = (await rig.call("POST", "/volume/v3/volumes", {"volume": {"size": 1}}))["volume"]["id"]
        volume = f"/volume/v3/volumes/{made}"
        await rig.until(volume, lambda told: told["volume"]["status"] == "available")
        await rig.call("POST", f"{path}/os-volume_attachments", {"volumeAttachment": {"volumeId": made}})
        await rig.until(volume, lambda told: told["volume"]["status"] == "in-use")
        await rig.call("DELETE", path)
        await rig.until(path, lambda told: told is None)
        await rig.until(volume, lambda told: told["volume"]["status"] == "available")
        await rig.call("DELETE", volume)
        await rig.until(volume, lambda told: told is None)
        await rig.clean()
        for method, part, most in (
            ("POST", "/ports", 2), ("POST", "/volumes", 1), ("POST", "/attachments", 2), ("PUT", "/allocations/", 1),
        ):  # fmt: skip
            assert letters.about(method, part) >= most, (method, part)

        async for letter in letters.again():
            assert await held(rig, server) == {**before, "claim": {}}, letter
        await rig.clean()


async def test_nothing_goes_of_a_server_that_another_host_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what the first attempt made nor what undid that is done to the second one's."""
    letters = Letters(monkeypatch)
    async with two_hosts(tmp_path) as rig:
        failed: list[str] = []
        for node in NODES:
            driver = _tasks(rig.cloud, node)[0].tools.hypervisor

            async def once(plan: Any, node: str = node, run: Any = driver.ensure_running) -> Any:
                if not failed:
                    failed.append(node)
                    raise HypervisorError("the first one fails")
                return await run(plan)

            monkeypatch.setattr(driver, "ensure_running", once)
        server = await build(rig)
        assert len(failed) == 1
        before = await held(rig, server)
        assert len(before["ports"]) == len(before["attachments"]) == 1
        assert letters.about("DELETE", "/ports/") == 1
        assert [host for _, host in before["ports"]] == [node for node in NODES if node not in failed]
        async for letter in letters.again():
            assert await held(rig, server) == before, letter
        await rig.clean()

# SPDX-License-Identifier: Apache-2.0
"""Compute's sagas proved sound in a whole cloud: real services over REST and rpc, simulated machines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from cumulet.compute.conductor import Conductor
from cumulet.compute.logic import Compute, create_image, operations, servers
from cumulet.compute.models import SAGAS, SERVERS
from cumulet.compute.sagas.create import CREATE_SERVER
from cumulet.compute.sagas.delete import DELETE_SERVER
from cumulet.compute.sagas.image import CREATE_IMAGE
from cumulet.compute.sagas.params import CreateImage
from cumulet.compute.sagas.table import SAGAS as ALL
from cumulet.compute.sagas.volumes import ATTACH_VOLUME, DETACH_VOLUME
from cumulet.kernel import clock, ids
from cumulet.kernel.context import Context, current, use
from cumulet.kernel.saga import SagaEngine
from cumulet.kernel.saga.engine import Hooks
from cumulet.kernel.saga.soundness import World, assert_sound
from tests.cloud import TestCloud, running_cloud

VERSION = {"openstack-api-version": "compute 2.90"}


_CLEAN = (("error", None), ("building", "deleting"), ("deleted", None))
"""What a create that was undone may look like: failed, or cancelled by a delete that goes on or is done."""


class NoHooks:
    async def before(self, *_: Any) -> None: ...

    async def worked(self, *_: Any) -> None: ...

    async def committed(self, *_: Any) -> None: ...


@dataclass
class Rig:
    """The cloud with its conductor's engine in the test's hands."""

    cloud: TestCloud
    token: str
    image: str
    network: str
    compute: Compute
    conductor: Conductor
    engine: SagaEngine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = self.conductor.engine

    def new_engine(self, hooks: Hooks) -> SagaEngine:
        """As a new process would make it; API and conductor use it from here on."""
        engine = SagaEngine(
            self.compute.db, SAGAS, ALL, world=self.conductor.world, seal=self.compute.seal, component="conductor",
            host="node-1", sole=True, hooks=hooks,
        )  # fmt: skip
        self.engine = self.conductor.engine = engine
        self.compute.sagas = engine
        return engine

    async def call(self, method: str, path: str, json: Any = None, ok: tuple[int, ...] = (200, 201, 202, 204)) -> Any:
        reply = await self.cloud.request(method, path, json, token=self.token, headers=VERSION)
        assert reply.status in ok, (method, path, reply.status, reply.data)
        return reply.json if reply.data else None

    async def drive(self, done: Callable[[], Any], what: str) -> Any:
        """Run the engine until ``done()`` (awaited) is true."""
        deadline = clock.monotonic() + 120
        while clock.monotonic() < deadline:
            await self.engine.settle()
            if found := await done():
                return found
            await asyncio.sleep(0.005)
        raise AssertionError(f"{what} did not happen")

    async def volume(self) -> str:
        made = await self.call("POST", "/volume/v3/volumes", {"volume": {"size": 1}})
        volume_id: str = made["volume"]["id"]

        async def available() -> bool:
            told = await self.call("GET", f"/volume/v3/volumes/{volume_id}")
            return bool(told["volume"]["status"] == "available")

        await self.drive(available, "an available volume")
        return volume_id

    async def post_server(self, volume: str | None = None, port: str | None = None) -> str:
        nics = [{"uuid": self.network}, *([{"port": port}] if port else [])]
        body: dict[str, Any] = {"name": "s", "flavorRef": "42", "imageRef": self.image, "networks": nics}
        if volume is not None:
            root = {
                "boot_index": 0, "uuid": self.image, "source_type": "image", "destination_type": "local",
                "delete_on_termination": True,
            }  # fmt: skip
            extra = {"boot_index": -1, "uuid": volume, "source_type": "volume", "destination_type": "volume"}
            body["block_device_mapping_v2"] = [root, extra]
        made = await self.call("POST", "/compute/v2.1/servers", {"server": body})
        server_id: str = made["server"]["id"]
        return server_id

    async def row(self, server_id: str) -> Any:
        return await self.compute.db.first(select(SERVERS).where(SERVERS.c.id == server_id))

    async def saga_of(self, server_id: str, name: str) -> str:
        rows = await self.compute.db.all(select(SAGAS).where(SAGAS.c.subject == server_id, SAGAS.c.name == name))
        newest: str = max(rows, key=lambda row: row["created_at"])["id"]
        return newest

    async def active(self, server_id: str) -> None:
        async def is_active() -> bool:
            row = await self.row(server_id)
            assert row["vm_state"] != "error", row["fault"]
            return bool(row["vm_state"] == "active" and row["task_state"] is None)

        await self.drive(is_active, "ACTIVE")

    async def delete(self, server_id: str) -> None:
        await self.cloud.request("DELETE", f"/compute/v2.1/servers/{server_id}", token=self.token)

        async def is_gone() -> bool:
            return bool((await self.row(server_id))["deleted_at"])

        await self.drive(is_gone, "gone")

    async def holdings(self, server_id: str) -> dict[str, Any]:
        """Everything that anybody holds for a server."""
        admin = await self.cloud.login("admin")
        held = await self.cloud.request("GET", f"/placement/allocations/{server_id}", token=admin)
        ports = await self.cloud.request("GET", f"/network/v2.0/ports?device_id={server_id}", token=admin)
        attachments = await self.cloud.request(
            "GET", f"/volume/v3/attachments?all_tenants=1&instance_id={server_id}", token=admin,
            headers={"openstack-api-version": "volume 3.60"},
        )  # fmt: skip
        agent = next(r for r in self.cloud.cloud.services["compute"].roles if r.name == "compute-agent").tasks[0]
        guests = [one for one in await agent.tools.hypervisor.guests() if one.server_id == server_id]  # type: ignore[attr-defined]
        return {
            "allocations": held.json["allocations"],
            "ports": [port["id"] for port in ports.json["ports"]],
            "attachments": [one["id"] for one in attachments.json["attachments"]],
            "guests": len(guests),
        }

    async def assert_holds_nothing(self, server_id: str) -> None:
        held = await self.holdings(server_id)
        assert held == {"allocations": {}, "ports": [], "attachments": [], "guests": 0}

    async def usage(self) -> dict[str, int]:
        project = (await self.call("GET", "/compute/v2.1/limits"))["limits"]["absolute"]
        return {key: project[key] for key in ("totalInstancesUsed", "totalCoresUsed", "totalRAMUsed")}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    image = tmp_path / "tiny.raw"
    image.write_bytes(b"\0" * (1 << 20))
    guest = {"name": "tiny", "path": str(image), "disk_format": "raw"}
    async with running_cloud(tmp_path / "data", options={"guest_image": guest}) as cloud:
        token = await cloud.login("demo")
        images = await cloud.request("GET", "/image/v2/images", token=token)
        networks = await cloud.request("GET", "/network/v2.0/networks?name=private", token=token)
        roles = {role.name: role for role in cloud.cloud.services["compute"].roles}
        conductor = roles["conductor"].tasks[0]
        assert isinstance(conductor, Conductor)
        await conductor.engine.stop()
        one = Rig(
            cloud, token, images.json["images"][0]["id"], networks.json["networks"][0]["id"],
            roles["compute-api"].app.service, conductor,
        )  # fmt: skip
        one.new_engine(NoHooks())

        async def has_a_host() -> bool:
            admin = await cloud.login("admin")
            told = await cloud.request("GET", "/compute/v2.1/os-hypervisors", token=admin)
            return bool(told.json["hypervisors"])

        await one.drive(has_a_host, "a host")
        yield one


class OfServer:
    """What is common to the worlds: a server, an engine, a cancel as the service does it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.server = ""

    def engine(self, hooks: Hooks) -> SagaEngine:
        return self.rig.new_engine(hooks)

    async def cancel(self, engine: SagaEngine, saga_id: str) -> None:
        await self.rig.compute.db.run(lambda tx: engine.cancel(tx, saga_id))

    async def over(self) -> None:
        self.rig.new_engine(NoHooks())
        await self.rig.delete(self.server)
        await self.rig.assert_holds_nothing(self.server)
        assert set((await self.rig.usage()).values()) == {0}


class Create(OfServer):
    """A server with a NIC on a network, the user's own port and the user's own volume."""

    def __init__(self, rig: Rig, volume: str, port: str) -> None:
        super().__init__(rig)
        self.volume, self.port = volume, port

    async def begin(self, engine: SagaEngine) -> str:
        self.server = await self.rig.post_server(self.volume, self.port)
        return await self.rig.saga_of(self.server, CREATE_SERVER.name)

    async def cancel(self, engine: SagaEngine, saga_id: str) -> None:
        """Delete during BUILD, as a user does it."""
        reply = await self.rig.cloud.request("DELETE", f"/compute/v2.1/servers/{self.server}", token=self.rig.token)
        assert reply.status == 204

    async def assert_finished(self) -> None:
        row = await self.rig.row(self.server)
        assert (row["vm_state"], row["task_state"], row["power_state"]) == ("active", None, 1), row["fault"]
        held = await self.rig.holdings(self.server)
        assert held["guests"] == 1
        assert len(held["ports"]) == 2
        assert len(held["attachments"]) == 1
        (amounts,) = [one["resources"] for one in held["allocations"].values()]
        assert amounts == {"VCPU": 1, "MEMORY_MB": 128, "DISK_GB": 1}
        assert len(row["network_cache"]) == 2

    async def assert_clean(self) -> None:
        await self.rig.assert_holds_nothing(self.server)
        row = await self.rig.row(self.server)
        assert (row["vm_state"], row["task_state"]) in _CLEAN, row
        assert row["vm_state"] != "error" or row["fault"]["message"].startswith("injected")

    async def over(self) -> None:
        await super().over()
        port = await self.rig.call("GET", f"/network/v2.0/ports/{self.port}")
        assert port["port"]["device_id"] == ""
        volume = await self.rig.call("GET", f"/volume/v3/volumes/{self.volume}")
        assert volume["volume"]["status"] == "available"


class Delete(OfServer):
    """An active server with a volume, to be deleted."""

    def __init__(self, rig: Rig, volume: str) -> None:
        super().__init__(rig)
        self.volume = volume

    async def begin(self, engine: SagaEngine) -> str:
        hooks, engine._hooks = engine._hooks, None
        self.server = await self.rig.post_server(self.volume)
        await self.rig.active(self.server)
        engine._hooks = hooks
        await self.rig.call("DELETE", f"/compute/v2.1/servers/{self.server}")
        return await self.rig.saga_of(self.server, DELETE_SERVER.name)

    async def assert_finished(self) -> None:
        await self.rig.assert_holds_nothing(self.server)
        assert (await self.rig.row(self.server))["vm_state"] == "deleted"
        assert set((await self.rig.usage()).values()) == {0}
        volume = await self.rig.call("GET", f"/volume/v3/volumes/{self.volume}")
        assert volume["volume"]["status"] == "available"

    async def assert_clean(self) -> None:
        raise AssertionError("a delete only goes forward")

    async def over(self) -> None:
        return None


class Attach(OfServer):
    """A volume attached to an active server."""

    def __init__(self, rig: Rig, server: str, volume: str) -> None:
        super().__init__(rig)
        self.server, self.volume = server, volume

    async def begin(self, engine: SagaEngine) -> str:
        body = {"volumeAttachment": {"volumeId": self.volume}}
        await self.rig.call("POST", f"/compute/v2.1/servers/{self.server}/os-volume_attachments", body)
        return await self.rig.saga_of(self.server, ATTACH_VOLUME.name)

    async def _seen(self) -> tuple[str, int, int]:
        volume = await self.rig.call("GET", f"/volume/v3/volumes/{self.volume}")
        listed = await self.rig.call("GET", f"/compute/v2.1/servers/{self.server}/os-volume_attachments")
        held = await self.rig.holdings(self.server)
        return volume["volume"]["status"], len(listed["volumeAttachments"]), len(held["attachments"])

    async def assert_finished(self) -> None:
        assert await self._seen() == ("in-use", 1, 1)

    async def assert_clean(self) -> None:
        assert await self._seen() == ("available", 0, 0)

    async def over(self) -> None:
        self.rig.new_engine(NoHooks())
        if (await self._seen())[1]:
            await self.rig.call("DELETE", f"/compute/v2.1/servers/{self.server}/os-volume_attachments/{self.volume}")

            async def free() -> bool:
                return await self._seen() == ("available", 0, 0)

            await self.rig.drive(free, "a free volume")


class Detach(Attach):
    """A volume detached from an active server; what fails leaves it attached."""

    async def begin(self, engine: SagaEngine) -> str:
        hooks, engine._hooks = engine._hooks, None
        await super().begin(engine)

        async def attached() -> bool:
            return await self._seen() == ("in-use", 1, 1)

        await self.rig.drive(attached, "an attached volume")
        engine._hooks = hooks
        await self.rig.call("DELETE", f"/compute/v2.1/servers/{self.server}/os-volume_attachments/{self.volume}")
        return await self.rig.saga_of(self.server, DETACH_VOLUME.name)

    async def assert_finished(self) -> None:
        assert await self._seen() == ("available", 0, 0)


class Picture(OfServer):
    """An image of an active server: what fails, or is cancelled, leaves neither image nor data nor copy."""

    def __init__(self, rig: Rig, server: str, *, volume: bool = False) -> None:
        super().__init__(rig)
        self.server, self.image, self.volume = server, "", volume

    async def begin(self, engine: SagaEngine) -> str:
        row = await self.rig.row(self.server)
        context = Context("req-1", project_id=row["project_id"], user_id=row["user_id"], roles=["member"])
        async with engine_as(context, self.rig.token):
            await self._begin(row)
        return await self.rig.saga_of(self.server, CREATE_IMAGE.name)

    async def _begin(self, row: Any) -> None:
        """As the API does it, but for the wait: here the test drives the engine."""
        devices = await servers.devices_of(self.rig.compute, self.server)
        self.image = ids.new_uuid()
        volumes = create_image.volumes_of(devices) if self.volume else []
        params = CreateImage(
            self.server, self.image, "picture", "private", 1, 0, {"instance_uuid": self.server}, volumes
        )  # fmt: skip

        async def prepare(tx: Any, before: Any) -> CreateImage:
            return params

        context = current()
        assert context is not None
        await operations.start(
            self.rig.compute, context, self.server, "create_image", "createImage", prepare, remember=True
        )  # fmt: skip
        self.snapshots = [one.snapshot_id for one in volumes]

    async def _seen(self) -> tuple[str, list[str]]:
        reply = await self.rig.cloud.request("GET", f"/image/v2/images/{self.image}", token=self.rig.token)
        agent = next(r for r in self.rig.cloud.cloud.services["compute"].roles if r.name == "compute-agent").tasks[0]
        row = await self.rig.row(self.server)
        assert (row["vm_state"], row["task_state"]) == ("active", None)
        status = reply.json["status"] if reply.status == 200 else "none"
        return status, [path.name for path in agent.tools.copies.iterdir()]  # type: ignore[attr-defined]

    async def _snapshots(self) -> list[str]:
        found = []
        for one in self.snapshots:
            reply = await self.rig.cloud.request("GET", f"/volume/v3/snapshots/{one}", token=self.rig.token)
            found.append(reply.json["snapshot"]["status"] if reply.status == 200 else "none")
        return found

    async def assert_finished(self) -> None:
        assert await self._seen() == ("active", [])
        assert await self._snapshots() == ["available"] * len(self.snapshots)

    async def assert_clean(self) -> None:
        assert await self._seen() == ("none", [])
        assert set(await self._snapshots()) <= {"none", "deleting"}

    async def over(self) -> None:
        self.rig.new_engine(NoHooks())
        image = f"/image/v2/images/{self.image}"
        await self.rig.cloud.request("DELETE", image, token=self.rig.token)

        async def gone() -> bool:
            for one in self.snapshots:
                await self.rig.cloud.request("DELETE", f"/volume/v3/snapshots/{one}", token=self.rig.token)
            return set(await self._snapshots()) <= {"none"}

        await self.rig.drive(gone, "no snapshot")


@asynccontextmanager
async def engine_as(context: Context, token: str) -> AsyncIterator[None]:
    use(msgspec.structs.replace(context, token=token))
    try:
        yield
    finally:
        use(None)


def _worlds(make: Callable[[], OfServer]) -> Any:
    @asynccontextmanager
    async def world() -> AsyncIterator[World]:
        one = make()
        yield one  # type: ignore[misc]
        await one.over()

    return world


async def test_create_server_is_sound(rig: Rig) -> None:
    volume = await rig.volume()
    made = await rig.call("POST", "/network/v2.0/ports", {"port": {"network_id": rig.network}})
    port = made["port"]["id"]
    titles = await assert_sound(CREATE_SERVER, _worlds(lambda: Create(rig, volume, port)), real_time=True)
    assert len(titles) > 30


async def test_delete_server_is_sound(rig: Rig) -> None:
    volume = await rig.volume()
    await assert_sound(DELETE_SERVER, _worlds(lambda: Delete(rig, volume)), real_time=True, undoable=False)


async def test_attach_volume_is_sound(rig: Rig) -> None:
    volume = await rig.volume()
    server = await rig.post_server()
    await rig.active(server)
    await assert_sound(ATTACH_VOLUME, _worlds(lambda: Attach(rig, server, volume)), real_time=True)


async def test_detach_volume_is_sound(rig: Rig) -> None:
    volume = await rig.volume()
    server = await rig.post_server()
    await rig.active(server)
    await assert_sound(DETACH_VOLUME, _worlds(lambda: Detach(rig, server, volume)), real_time=True, undoable=False)


async def test_create_image_is_sound(rig: Rig) -> None:
    server = await rig.post_server()
    await rig.active(server)
    titles = await assert_sound(CREATE_IMAGE, _worlds(lambda: Picture(rig, server)), real_time=True)
    assert len(titles) > 20


async def test_create_image_of_volumes_is_sound(rig: Rig) -> None:
    server = await rig.post_server(await rig.volume())
    await rig.active(server)
    await assert_sound(CREATE_IMAGE, _worlds(lambda: Picture(rig, server, volume=True)), real_time=True)

# SPDX-License-Identifier: Apache-2.0
"""Roles apart: an API process only tells the scheduler's; what the scheduler names superfluous; the typed client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cumulet.client.session import ServiceSession
from cumulet.client.volume import VolumeClient
from cumulet.kernel import context, ids
from cumulet.kernel.context import Context
from cumulet.kernel.errors import Conflict, Invalid, NotFound
from cumulet.volume.drivers.simulated import Knobs
from cumulet.volume.rpc import HELD, POKE, Held, Nothing, Poke
from tests.contract.image.lone import ADMIN, DEMO, SERVICE, lone_service, project
from tests.contract.volume.volumes import ROLES, Volumes

SERVER = "5f4b7c9a-0000-4000-8000-00000000000a"
CONNECTOR = {"host": "node-1"}


class PlayedSession(ServiceSession):
    """A session whose own token is one that the played identity service knows."""

    async def token(self) -> str:
        return SERVICE


@pytest.fixture
async def volumes(tmp_path: Path) -> AsyncIterator[Volumes]:
    knobs = Knobs()
    options = {"volume_knobs": knobs}
    async with lone_service("volume", tmp_path, ROLES, mount="/volume", options=options) as lone:
        yield Volumes(lone, knobs, lone)


def client_of(volumes: Volumes) -> VolumeClient:
    return VolumeClient(PlayedSession(lambda type_: volumes.lone.transport, "compute", ""))


async def test_an_api_alone_tells_whoever_runs_sagas(tmp_path: Path) -> None:
    heard: list[str] = []

    async def poke(told: Poke) -> Nothing:
        heard.append(told.saga_id)
        return Nothing()

    async with lone_service("volume", tmp_path, {"volume-api"}, mount="/volume") as lone:
        await lone.parts.bus.subscribe({POKE: poke}, component="volume-scheduler")
        made = await Volumes(lone, Knobs(), lone).make(wait=None)
        async with asyncio.timeout(60):
            while not heard:
                await asyncio.sleep(0.01)
        assert len(heard) == 1
    async with lone_service("volume", tmp_path, ROLES, mount="/volume") as lone:
        # whoever starts later finds the work without having been told
        assert (await Volumes(lone, Knobs(), lone).wait(made["id"], "available"))["size"] == 1


async def test_an_agent_alone_needs_no_database(tmp_path: Path) -> None:
    async with lone_service("volume", tmp_path, {"volume-agent"}, mount="/volume"):
        assert not list(tmp_path.glob("*.db"))


async def test_only_known_ends_are_superfluous(volumes: Volumes) -> None:
    kept, deleted, failed = await volumes.make(), await volumes.make(), await volumes.make()
    await volumes.request("DELETE", f"/volumes/{deleted['id']}")
    await volumes.wait_gone(deleted["id"])
    unknown = ids.new_uuid()
    everything = [kept["id"], deleted["id"], failed["id"], unknown]
    bus = volumes.lone.parts.bus
    async with asyncio.timeout(60):  # while the saga is at its last line, nothing is named
        while (await bus.call(HELD, Held("node-1@simulated", everything))).ids != [deleted["id"]]:
            await asyncio.sleep(0.01)
    elsewhere = (await bus.call(HELD, Held("node-2@simulated", everything))).ids
    assert sorted(elsewhere) == sorted([kept["id"], deleted["id"], failed["id"]])


async def test_the_typed_client(volumes: Volumes) -> None:
    client = client_of(volumes)
    made = await client.create_volume({"size": 1, "metadata": {"cumulet_block_device": "d"}})
    await volumes.wait(made.id, "available")
    (found,) = await client.volumes(metadata={"cumulet_block_device": "d"})
    assert (found.id, found.bootable, found.multiattach) == (made.id, False, False)
    assert await client.volumes(metadata={"cumulet_block_device": "other"}) == []
    chosen = {"id": ids.new_uuid(), "size": 1}
    assert (await client.create_volume(chosen)).id == chosen["id"]
    with pytest.raises(Conflict):
        await client.create_volume(chosen)
    await volumes.wait(chosen["id"], "available")
    assert len(await client.volumes()) == 2
    refused = await volumes.request("POST", "/volumes", {"volume": {**chosen, "id": ids.new_uuid()}})
    assert (refused.status, refused.json["forbidden"]["message"]) == (
        403,
        "Only a service may choose the id of a volume.",
    )
    await client.delete_volume(chosen["id"])
    await volumes.wait_gone(chosen["id"])
    with pytest.raises(Conflict):  # who was late finds it gone, and makes no other
        await client.create_volume(chosen)
    attachment_id = ids.new_uuid()
    for _ in range(2):
        reserved = await client.create_attachment(made.id, SERVER, attachment_id=attachment_id)
        assert (reserved.id, reserved.status, reserved.instance) == (attachment_id, "reserved", SERVER)
    with pytest.raises(Conflict):
        await client.create_attachment(made.id, ids.new_uuid(), attachment_id=attachment_id)
    for _ in range(2):
        connection = await client.update_attachment(attachment_id, CONNECTOR)
        assert (connection.driver_volume_type, connection.format) == ("simulated", "raw")
    for _ in range(2):
        await client.complete_attachment(attachment_id, as_service=True)
    (attached,) = await client.attachments(SERVER, as_service=True)
    assert attached.status == "attached"
    assert (await client.volume(made.id)).attachments[0].server_id == SERVER
    for _ in range(2):
        await client.begin_detaching(made.id, attachment_id, as_service=True)
    await client.roll_detaching(made.id, as_service=True)
    assert (await client.volume(made.id)).status == "in-use"
    snapshot = await client.create_snapshot(made.id, "s")
    await volumes.wait(snapshot.id, "available", kind="snapshot")
    assert (await client.snapshot(snapshot.id)).size == 1
    await client.delete_snapshot(snapshot.id)
    await volumes.wait_gone(snapshot.id, "snapshot")
    await client.delete_attachment(attachment_id, as_service=True)
    with pytest.raises(NotFound):
        await client.delete_attachment(attachment_id, as_service=True)
    await client.delete_volume(made.id)
    await volumes.wait_gone(made.id)
    with pytest.raises(NotFound):
        await client.volume(made.id)
    with pytest.raises(Invalid):
        await client.create_volume({"size": 0})


@pytest.mark.parametrize("token", [None, "nonsense"])
async def test_accepted_work_makes_the_user_s_volume(volumes: Volumes, token: str | None) -> None:
    """Whether the user's token was not kept or is refused by now: the volume is never the service's own."""
    asked = (project("demo"), project("eve"))
    context.use(Context(request_id="r", project_id=asked[0], user_id=asked[1], token=token, accepted=True))
    try:
        made = await client_of(volumes).create_volume({"size": 1})
    finally:
        context.use(None)
    shown = await volumes.wait(made.id, "available")
    assert (shown["os-vol-tenant-attr:tenant_id"], shown["user_id"]) == asked


async def test_a_restart_in_the_middle_of_everything(tmp_path: Path) -> None:
    """Work that was accepted before a restart is finished after it."""
    knobs = Knobs(slow={"ensure_volume": 60.0})
    options = {"volume_knobs": knobs}
    async with lone_service("volume", tmp_path, ROLES, mount="/volume", options=options) as lone:
        volumes = Volumes(lone, knobs, lone)
        made = await volumes.make(wait=None)
        await asyncio.sleep(0)
    knobs.slow.clear()
    async with lone_service("volume", tmp_path, ROLES, mount="/volume", options=options) as lone:
        volumes = Volumes(lone, knobs, lone)
        await volumes.wait(made["id"], "available")
        assert (await volumes.request("DELETE", f"/volumes/{made['id']}", token=DEMO)).status == 202
    async with lone_service("volume", tmp_path, ROLES, mount="/volume", options=options) as lone:
        volumes = Volumes(lone, knobs, lone)
        await volumes.wait_gone(made["id"])
        services = (await volumes.request("GET", "/os-services", token=ADMIN)).json["services"]
        assert len(services) == 2

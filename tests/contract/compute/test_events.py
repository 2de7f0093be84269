# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from tests.contract.compute.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")
AT = "/os-server-external-events"
NOWHERE = "11111111-1111-4111-8111-111111111111"


async def test_a_known_server_is_told(world: World, kept: dict[str, Any]) -> None:
    event = {"name": "network-changed", "server_uuid": kept["id"]}
    reply = await world.service.post(AT, {"events": [event]})
    assert reply.status == 200
    assert reply.json == {"events": [{**event, "status": "completed", "code": 200}]}


async def test_what_cannot_be_told_is_207(world: World, kept: dict[str, Any]) -> None:
    events = [
        {"name": "network-vif-plugged", "server_uuid": NOWHERE, "tag": NOWHERE},
        {"name": "volume-extended", "server_uuid": kept["id"]},
        {"name": "network-changed", "server_uuid": kept["id"]},
    ]
    reply = await world.service.post(AT, {"events": events})
    assert reply.status == 207
    assert [(one["code"], one["status"]) for one in reply.json["events"]] == [
        (404, "failed"), (400, "failed"), (200, "completed"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("version", "name", "accepted"),
    [
        ("2.50", "volume-extended", False),
        ("2.51", "volume-extended", True),
        ("2.75", "power-update", False),
        ("2.76", "power-update", True),
        ("2.92", "volume-reimaged", False),
        ("2.104", "server-exploded", False),
    ],
)
async def test_names_by_version(world: World, kept: dict[str, Any], version: str, name: str, accepted: bool) -> None:
    body = {"events": [{"name": name, "server_uuid": kept["id"], "tag": NOWHERE}]}
    assert (await world.service.at(version).post(AT, body)).status == (200 if accepted else 400)


async def test_only_services_and_admins_tell(world: World, kept: dict[str, Any]) -> None:
    body = {"events": [{"name": "network-changed", "server_uuid": kept["id"]}]}
    assert (await world.demo.post(AT, body)).status == 403
    assert (await world.admin.post(AT, body)).status == 200
    assert (await world.service.post(AT, {"events": []})).status == 400

# SPDX-License-Identifier: Apache-2.0
"""Every route, called by nobody, a stranger and a reader: the rules hold from the first row on."""

from __future__ import annotations

from typing import Any

import pytest

from cumulet.compute.api import ROUTES
from cumulet.compute.policy import ADMIN, MEMBER, RULES, SERVICE
from cumulet.kernel.http import Route
from tests.contract.compute.conftest import Caller, World

pytestmark = pytest.mark.asyncio(loop_scope="session")
GUARDED = [route for route in ROUTES if not route.public]
CHECKS = {rule.name: rule.check for rule in RULES}
REFUSED = {ADMIN, MEMBER, SERVICE}


def version_of(route: Route) -> str:
    return route.until or route.since or "2.1"


async def call(caller: Caller, route: Route, kept: dict[str, Any]) -> Any:
    path = route.template.removeprefix("/v2.1")
    values = {"server_id": kept["id"], "project_id": kept["tenant_id"], "flavor_id": "42"}
    for part in path.split("/"):
        if part.startswith("{"):
            path = path.replace(part, values.get(part.strip("{}"), "1"))
    body: Any = {route.action: {}} if route.action else {} if route.method in ("POST", "PUT") else None
    return await caller.at(version_of(route)).send(route.method, path, body)


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: f"{route.at} {route.since or ''}")
async def test_nobody_gets_401(world: World, kept: dict[str, Any], route: Route) -> None:
    reply = await call(world.nobody, route, kept)
    assert reply.status == 401, reply.data


@pytest.mark.parametrize(
    "route",
    [
        route
        for route in GUARDED
        if CHECKS[route.policy or ""] in REFUSED and "group_id" not in route.template and not route.late
    ],
    ids=lambda route: f"{route.at} {route.since or ''}",
)
async def test_a_reader_gets_403_for_what_is_not_reading(world: World, kept: dict[str, Any], route: Route) -> None:
    reply = await call(world.reader, route, kept)
    assert reply.status == 403, reply.data
    assert reply.json["forbidden"]["message"] == f"Policy doesn't allow {route.policy} to be performed."


@pytest.mark.parametrize(
    "route",
    [route for route in GUARDED if "/servers/{server_id}" in route.template],
    ids=lambda route: f"{route.at} {route.since or ''}",
)
async def test_a_stranger_gets_404_for_a_server(world: World, kept: dict[str, Any], route: Route) -> None:
    reply = await call(world.other, route, kept)
    assert reply.status == 404, reply.data

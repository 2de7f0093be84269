# SPDX-License-Identifier: Apache-2.0
"""Inventories of a provider: all of them, or one class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cumulet.kernel.db import Row
from cumulet.kernel.errors import MethodNotAllowed, NotFound
from cumulet.kernel.http import Answer, Request, Route, View
from cumulet.placement import schemas
from cumulet.placement.api.answers import answer, must_accept_json, url
from cumulet.placement.logic import inventories
from cumulet.placement.logic.providers import find_provider

_VIEW = View(*inventories.FIELDS)


def _one(request: Request, provider: Row, inventory: Row) -> dict[str, Any]:
    return {**request.render(_VIEW, inventory), "resource_provider_generation": provider["generation"]}


def _all(request: Request, provider: Row, found: Mapping[str, Row]) -> dict[str, Any]:
    return {
        "resource_provider_generation": provider["generation"],
        "inventories": {name: request.render(_VIEW, row) for name, row in found.items()},
    }


async def list_inventories(request: Request) -> Answer:
    must_accept_json(request)
    database, uuid = request.service.database, request.params["uuid"]
    provider = await find_provider(database, uuid)
    found = await inventories.list_inventories(database, uuid)
    modified = max((row["updated_at"] for row in found.values()), default=None)
    return answer(request, _all(request, provider, found), modified=modified)


async def show_inventory(request: Request) -> Answer:
    must_accept_json(request)
    database, uuid, name = request.service.database, request.params["uuid"], request.params["resource_class"]
    provider = await find_provider(database, uuid)
    row = (await inventories.list_inventories(database, uuid)).get(name)
    if row is None:
        raise NotFound(f"No inventory of class {name} for {uuid}")
    return answer(request, _one(request, provider, row), modified=row["updated_at"])


async def create_inventory(request: Request) -> Answer:
    uuid, body = request.params["uuid"], request.body
    provider, row = await inventories.create_inventory(
        request.service, uuid, body, may_be_empty=request.since("1.26")
    )  # fmt: skip
    location = url(request, "resource_providers", uuid, "inventories", body["resource_class"])
    return answer(request, _one(request, provider, row), location=location)


async def set_inventories(request: Request) -> Answer:
    body = request.body
    provider, found = await inventories.set_inventories(
        request.service,
        request.params["uuid"],
        body["inventories"],
        body["resource_provider_generation"],
        may_be_empty=request.since("1.26"),
    )
    return answer(request, _all(request, provider, found))


async def update_inventory(request: Request) -> Answer:
    uuid, name = request.params["uuid"], request.params["resource_class"]
    provider, row = await inventories.update_inventory(
        request.service, uuid, name, request.body, may_be_empty=request.since("1.26")
    )
    return answer(request, _one(request, provider, row))


async def delete_inventories(request: Request) -> None:
    await inventories.delete_inventories(request.service, request.params["uuid"])


async def refuse_delete(request: Request) -> None:
    raise MethodNotAllowed("The method specified is not allowed for this resource.")


async def delete_inventory(request: Request) -> None:
    await inventories.delete_inventory(request.service, request.params["uuid"], request.params["resource_class"])


_RULE = "placement:resource_providers:inventories"
_ALL = "/resource_providers/{uuid}/inventories"
_ONE = _ALL + "/{resource_class}"
ROUTES = [
    Route(f"GET {_ALL}", list_inventories, policy=f"{_RULE}:list"),
    Route(f"POST {_ALL}", create_inventory, policy=f"{_RULE}:create", body=schemas.CREATE_INVENTORY, ok=201),
    Route(f"PUT {_ALL}", set_inventories, policy=f"{_RULE}:update", body=schemas.UPDATE_INVENTORIES),
    Route(f"DELETE {_ALL}", refuse_delete, policy=f"{_RULE}:delete", until="1.4"),
    Route(f"DELETE {_ALL}", delete_inventories, policy=f"{_RULE}:delete", since="1.5", ok=204),
    Route(f"GET {_ONE}", show_inventory, policy=f"{_RULE}:show"),
    Route(f"PUT {_ONE}", update_inventory, policy=f"{_RULE}:update", body=schemas.UPDATE_INVENTORY),
    Route(f"DELETE {_ONE}", delete_inventory, policy=f"{_RULE}:delete", ok=204),
]

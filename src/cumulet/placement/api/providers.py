# SPDX-License-Identifier: Apache-2.0
"""Resource providers, and what they are associated with: traits and aggregates."""

from __future__ import annotations

from typing import Any

from cumulet.kernel.db import Row
from cumulet.kernel.http import Answer, Out, Request, Route, View
from cumulet.placement import schemas
from cumulet.placement.api.answers import answer, dashed, must_accept_json, path, url
from cumulet.placement.api.criteria import aggregates_of, resources_of, traits_of
from cumulet.placement.logic import providers
from cumulet.placement.logic.providers import Criteria
from cumulet.placement.models import PROVIDER_AGGREGATES, PROVIDER_TRAITS

_VIEW = View(
    "uuid",
    "name",
    "generation",
    "links",
    Out("parent_provider_uuid", "parent_uuid", since="1.14"),
    Out("root_provider_uuid", "root_uuid", since="1.14"),
)
_LINKS = (
    ("inventories", "1.0"), ("usages", "1.0"), ("aggregates", "1.1"), ("traits", "1.6"), ("allocations", "1.11"),
)  # fmt: skip


def _shown(request: Request, row: Row) -> dict[str, Any]:
    own = path(request, "resource_providers", row["uuid"])
    links = [{"rel": "self", "href": own}]
    links += [{"rel": name, "href": f"{own}/{name}"} for name, since in _LINKS if request.since(since)]
    return request.render(_VIEW, {**row, "links": links})


async def list_providers(request: Request) -> Answer:
    must_accept_json(request)
    query = request.query
    criteria = Criteria(name=query.get("name"), uuid=query.get("uuid"), in_tree=query.get("in_tree"))
    criteria.member_of, criteria.forbidden_aggregates = aggregates_of(request, query.get("member_of", []))
    criteria.required, criteria.forbidden = traits_of(request, query.get("required", []))
    if "resources" in query:
        criteria.resources = resources_of(query["resources"])
    rows = await providers.list_providers(request.service, criteria)
    modified = max((row["updated_at"] for row in rows), default=None)
    return answer(request, {"resource_providers": [_shown(request, row) for row in rows]}, modified=modified)


async def create_provider(request: Request) -> Answer:
    body = request.body
    uuid = dashed(body["uuid"]) if "uuid" in body else None
    row = await providers.create_provider(request.service, body["name"], uuid, body.get("parent_provider_uuid"))
    location = url(request, "resource_providers", row["uuid"])
    if not request.since("1.20"):
        return answer(request, status=201, location=location, cached=False)
    return answer(request, _shown(request, row), status=200, location=location, modified=row["updated_at"])


async def show_provider(request: Request) -> Answer:
    must_accept_json(request)
    row = await providers.find_provider(request.service.database, request.params["uuid"])
    return answer(request, _shown(request, row), modified=row["updated_at"])


async def update_provider(request: Request) -> Answer:
    row = await providers.update_provider(
        request.service, request.params["uuid"], request.body, reparent=request.since("1.37")
    )
    return answer(request, _shown(request, row), modified=row["updated_at"])


async def delete_provider(request: Request) -> None:
    await providers.delete_provider(request.service, request.params["uuid"])


# ---- aggregates


def _aggregates(request: Request, provider: Row, aggregates: list[str]) -> Answer:
    body: dict[str, Any] = {"aggregates": aggregates}
    if request.since("1.19"):
        body["resource_provider_generation"] = provider["generation"]
    return answer(request, body)


async def list_aggregates(request: Request) -> Answer:
    must_accept_json(request)
    database = request.service.database
    row = await providers.find_provider(database, request.params["uuid"])
    found = await providers.associated(database, PROVIDER_AGGREGATES, "aggregate_uuid", row["uuid"])
    return _aggregates(request, row, found)


async def set_aggregates(request: Request) -> Answer:
    body = request.body
    aggregates = body.get("aggregates", body.get("value"))
    assert aggregates is not None
    generation = body.get("resource_provider_generation")
    row = await providers.set_aggregates(request.service, request.params["uuid"], aggregates, generation)
    return _aggregates(request, row, aggregates)


# ---- traits


def _traits(request: Request, provider: Row, traits: list[str]) -> Answer:
    body = {"traits": traits, "resource_provider_generation": provider["generation"]}
    return answer(request, body, modified=provider["updated_at"])


async def list_traits(request: Request) -> Answer:
    must_accept_json(request)
    database = request.service.database
    row = await providers.find_provider(database, request.params["uuid"])
    return _traits(request, row, await providers.associated(database, PROVIDER_TRAITS, "trait", row["uuid"]))


async def set_traits(request: Request) -> Answer:
    body = request.body
    traits = sorted(set(body["traits"]))
    row = await providers.set_traits(
        request.service, request.params["uuid"], traits, body["resource_provider_generation"]
    )  # fmt: skip
    return _traits(request, row, traits)


async def delete_traits(request: Request) -> None:
    await providers.set_traits(request.service, request.params["uuid"], [], None)


_RULE = "placement:resource_providers"
_ONE = "/resource_providers/{uuid}"
ROUTES = [
    Route("GET /resource_providers", list_providers, policy=f"{_RULE}:list", query=schemas.LIST_PROVIDERS),
    Route("POST /resource_providers", create_provider, policy=f"{_RULE}:create", body=schemas.CREATE_PROVIDER),
    Route(f"GET {_ONE}", show_provider, policy=f"{_RULE}:show"),
    Route(f"PUT {_ONE}", update_provider, policy=f"{_RULE}:update", body=schemas.UPDATE_PROVIDER),
    Route(f"DELETE {_ONE}", delete_provider, policy=f"{_RULE}:delete", ok=204),
    Route(f"GET {_ONE}/aggregates", list_aggregates, policy=f"{_RULE}:aggregates:list", since="1.1"),
    Route(
        f"PUT {_ONE}/aggregates", set_aggregates, policy=f"{_RULE}:aggregates:update",
        body=schemas.AGGREGATES_1_1, since="1.1", until="1.18",
    ),
    Route(
        f"PUT {_ONE}/aggregates", set_aggregates, policy=f"{_RULE}:aggregates:update",
        body=schemas.AGGREGATES_1_19, since="1.19",
    ),
    Route(f"GET {_ONE}/traits", list_traits, policy=f"{_RULE}:traits:list", since="1.6"),
    Route(f"PUT {_ONE}/traits", set_traits, policy=f"{_RULE}:traits:update", body=schemas.PROVIDER_TRAITS, since="1.6"),
    Route(f"DELETE {_ONE}/traits", delete_traits, policy=f"{_RULE}:traits:delete", since="1.6", ok=204),
]  # fmt: skip

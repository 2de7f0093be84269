# SPDX-License-Identifier: Apache-2.0
"""Services, endpoints and regions."""

from __future__ import annotations

from typing import Any

from cumulet.identity.api import views
from cumulet.identity.api.answers import collection, identity_of, member, page_of, require_same_id
from cumulet.identity.logic import catalogue
from cumulet.identity.logic.catalogue import BASE, front_base
from cumulet.identity.schemas import (
    ENDPOINT_CREATE,
    ENDPOINT_UPDATE,
    REGION_CREATE,
    REGION_UPDATE,
    SERVICE_CREATE,
    SERVICE_UPDATE,
    listing,
)
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Request, Route
from cumulet.kernel.http.fields import one_of

# ---- services


async def list_services(request: Request) -> dict[str, Any]:
    found = await catalogue.list_services(identity_of(request).database, page_of(request, ("type", "name")))
    return collection(request, "services", found, views.service)


def _service(request: Request, row: Row) -> dict[str, Any]:
    return {"service": member(request, "services", views.service(row))}


async def show_service(request: Request) -> dict[str, Any]:
    return _service(request, await catalogue.show_service(identity_of(request).database, request.params["service_id"]))


async def create_service(request: Request) -> dict[str, Any]:
    identity = identity_of(request)
    return _service(request, await catalogue.create_service(identity.database, identity.feed, request.body))


async def update_service(request: Request) -> dict[str, Any]:
    identity, service_id = identity_of(request), request.params["service_id"]
    require_same_id(request, service_id)
    row = await catalogue.update_service(identity.database, identity.feed, service_id, request.body)
    return _service(request, row)


async def delete_service(request: Request) -> None:
    identity = identity_of(request)
    await catalogue.delete_service(identity.database, identity.feed, request.params["service_id"])


# ---- endpoints


def endpoint_view(request: Request, row: Row) -> dict[str, Any]:
    """The endpoint with the address that this client used in place of our own base; other places stay."""
    base = request.context.base
    front = front_base(base, request.base.removeprefix(base), identity_of(request).front_port)
    return views.endpoint({**row, "url": row["url"].replace(BASE, front)})


async def list_endpoints(request: Request) -> dict[str, Any]:
    page = page_of(request, {"service_id": "service_id", "interface": "interface", "region_id": "region_id"})
    found = await catalogue.list_endpoints(identity_of(request).database, page)
    return collection(request, "endpoints", found, lambda row: endpoint_view(request, row))


def _endpoint(request: Request, row: Row) -> dict[str, Any]:
    return {"endpoint": member(request, "endpoints", endpoint_view(request, row))}


async def show_endpoint(request: Request) -> dict[str, Any]:
    database, endpoint_id = identity_of(request).database, request.params["endpoint_id"]
    return _endpoint(request, await catalogue.show_endpoint(database, endpoint_id))


async def create_endpoint(request: Request) -> dict[str, Any]:
    identity = identity_of(request)
    return _endpoint(request, await catalogue.create_endpoint(identity.database, identity.feed, request.body))


async def update_endpoint(request: Request) -> dict[str, Any]:
    identity, endpoint_id = identity_of(request), request.params["endpoint_id"]
    require_same_id(request, endpoint_id)
    row = await catalogue.update_endpoint(identity.database, identity.feed, endpoint_id, request.body)
    return _endpoint(request, row)


async def delete_endpoint(request: Request) -> None:
    identity = identity_of(request)
    await catalogue.delete_endpoint(identity.database, identity.feed, request.params["endpoint_id"])


# ---- regions


async def list_regions(request: Request) -> dict[str, Any]:
    found = await catalogue.list_regions(identity_of(request).database, page_of(request, ("parent_region_id",)))
    return collection(request, "regions", found, views.region)


def _region(request: Request, row: Row) -> dict[str, Any]:
    return {"region": member(request, "regions", views.region(row))}


async def show_region(request: Request) -> dict[str, Any]:
    return _region(request, await catalogue.show_region(identity_of(request).database, request.params["region_id"]))


async def create_region(request: Request) -> dict[str, Any]:
    return _region(request, await catalogue.create_region(identity_of(request).database, request.body))


async def put_region(request: Request) -> dict[str, Any]:
    region_id = request.params["region_id"]
    if (named := request.body.get("id") or region_id) != region_id:
        raise Invalid(f'Conflicting region IDs specified: "{region_id}" != "{named}"')
    body = {**request.body, "id": region_id}
    return _region(request, await catalogue.create_region(identity_of(request).database, body))


async def update_region(request: Request) -> dict[str, Any]:
    region_id = request.params["region_id"]
    require_same_id(request, region_id)
    return _region(request, await catalogue.update_region(identity_of(request).database, region_id, request.body))


async def delete_region(request: Request) -> None:
    await catalogue.delete_region(identity_of(request).database, request.params["region_id"])


_SERVICE, _ENDPOINT, _REGION = "/services/{service_id}", "/endpoints/{endpoint_id}", "/regions/{region_id}"
ROUTES = [
    Route("GET /services", list_services, policy="identity:list_services", query=listing("type", "name")),
    Route("POST /services", create_service, policy="identity:create_service", body=SERVICE_CREATE, ok=201),
    Route(f"GET {_SERVICE}", show_service, policy="identity:get_service"),
    Route(f"PATCH {_SERVICE}", update_service, policy="identity:update_service", body=SERVICE_UPDATE),
    Route(f"DELETE {_SERVICE}", delete_service, policy="identity:delete_service", ok=204),
    Route(
        "GET /endpoints", list_endpoints, policy="identity:list_endpoints",
        query=listing("service_id", "region_id", interface=one_of("admin", "internal", "public")),
    ),
    Route("POST /endpoints", create_endpoint, policy="identity:create_endpoint", body=ENDPOINT_CREATE, ok=201),
    Route(f"GET {_ENDPOINT}", show_endpoint, policy="identity:get_endpoint"),
    Route(f"PATCH {_ENDPOINT}", update_endpoint, policy="identity:update_endpoint", body=ENDPOINT_UPDATE),
    Route(f"DELETE {_ENDPOINT}", delete_endpoint, policy="identity:delete_endpoint", ok=204),
    Route("GET /regions", list_regions, policy="identity:list_regions", query=listing("parent_region_id")),
    Route("POST /regions", create_region, policy="identity:create_region", body=REGION_CREATE, ok=201),
    Route(f"GET {_REGION}", show_region, policy="identity:get_region"),
    Route(f"PUT {_REGION}", put_region, policy="identity:create_region", body=REGION_CREATE, ok=201),
    Route(f"PATCH {_REGION}", update_region, policy="identity:update_region", body=REGION_UPDATE),
    Route(f"DELETE {_REGION}", delete_region, policy="identity:delete_region", ok=204),
]  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""OS-FEDERATION: identity providers, protocols, mappings and service providers."""

from __future__ import annotations

from typing import Any

from cumulet.identity.api import auth
from cumulet.identity.api.answers import collection, identity_of, member, page_of, url
from cumulet.identity.logic import federation
from cumulet.identity.schemas import (
    IDENTITY_PROVIDER_CREATE,
    IDENTITY_PROVIDER_UPDATE,
    MAPPING,
    PROTOCOL_CREATE,
    PROTOCOL_UPDATE,
    SERVICE_PROVIDER_CREATE,
    SERVICE_PROVIDER_UPDATE,
    listing,
)
from cumulet.kernel.db import Row
from cumulet.kernel.http import Request, Route

_IDPS, _MAPPINGS, _SPS = (f"OS-FEDERATION/{name}" for name in ("identity_providers", "mappings", "service_providers"))
_FILTERS = ("id", "enabled")

# ---- identity providers


def _provider_view(request: Request, row: Row) -> dict[str, Any]:
    shown = member(request, _IDPS, row)
    shown["links"]["protocols"] = f"{shown['links']['self']}/protocols"
    return shown


def _provider(request: Request, row: Row) -> dict[str, Any]:
    return {"identity_provider": _provider_view(request, row)}


async def list_providers(request: Request) -> dict[str, Any]:
    found = await federation.list_providers(identity_of(request).database, page_of(request, _FILTERS))
    answer = collection(request, "identity_providers", found, dict, of=_IDPS)
    answer["identity_providers"] = [_provider_view(request, row) for row in found[0]]
    return answer


async def show_provider(request: Request) -> dict[str, Any]:
    return _provider(request, await federation.show_provider(identity_of(request).database, request.params["idp_id"]))


async def create_provider(request: Request) -> dict[str, Any]:
    identity, idp_id = identity_of(request), request.params["idp_id"]
    row = await federation.create_provider(identity.database, identity.feed, idp_id, request.body)
    return _provider(request, row)


async def update_provider(request: Request) -> dict[str, Any]:
    identity, idp_id = identity_of(request), request.params["idp_id"]
    row = await federation.update_provider(identity.database, identity.feed, idp_id, request.body)
    return _provider(request, row)


async def drop_provider(request: Request) -> None:
    identity = identity_of(request)
    await federation.drop_provider(identity.database, identity.feed, request.params["idp_id"])


# ---- protocols


def _protocol_view(request: Request, row: Row) -> dict[str, Any]:
    provider = f"{_IDPS}/{row['idp_id']}"
    links = {"self": url(request, f"{provider}/protocols/{row['id']}"), "identity_provider": url(request, provider)}
    return {**row, "links": links}


def _protocol(request: Request, row: Row) -> dict[str, Any]:
    shown = _protocol_view(request, row)
    return {"protocol": {name: shown[name] for name in ("id", "mapping_id", "links")}}


def _named(request: Request) -> tuple[str, str]:
    return request.params["idp_id"], request.params["protocol_id"]


async def list_protocols(request: Request) -> dict[str, Any]:
    rows = await federation.list_protocols(identity_of(request).database, request.params["idp_id"])
    answer = collection(request, "protocols", (rows, False), dict)
    answer["protocols"] = [_protocol_view(request, row) for row in rows]
    return answer


async def show_protocol(request: Request) -> dict[str, Any]:
    return _protocol(request, await federation.show_protocol(identity_of(request).database, *_named(request)))


async def create_protocol(request: Request) -> dict[str, Any]:
    row = await federation.create_protocol(identity_of(request).database, *_named(request), request.body)
    return _protocol(request, row)


async def update_protocol(request: Request) -> dict[str, Any]:
    identity = identity_of(request)
    row = await federation.update_protocol(identity.database, identity.feed, *_named(request), request.body)
    return _protocol(request, row)


async def drop_protocol(request: Request) -> None:
    identity = identity_of(request)
    await federation.drop_protocol(identity.database, identity.feed, *_named(request))


# ---- mappings


def _mapping(request: Request, row: Row) -> dict[str, Any]:
    return {"mapping": member(request, _MAPPINGS, row)}


async def list_mappings(request: Request) -> dict[str, Any]:
    found = await federation.list_mappings(identity_of(request).database, page_of(request))
    return collection(request, "mappings", found, dict, of=_MAPPINGS)


async def show_mapping(request: Request) -> dict[str, Any]:
    return _mapping(request, await federation.show_mapping(identity_of(request).database, request.params["mapping_id"]))


async def create_mapping(request: Request) -> dict[str, Any]:
    database, mapping_id = identity_of(request).database, request.params["mapping_id"]
    return _mapping(request, await federation.create_mapping(database, mapping_id, request.body["mapping"]))


async def update_mapping(request: Request) -> dict[str, Any]:
    database, mapping_id = identity_of(request).database, request.params["mapping_id"]
    return _mapping(request, await federation.update_mapping(database, mapping_id, request.body["mapping"]))


async def drop_mapping(request: Request) -> None:
    await federation.drop_mapping(identity_of(request).database, request.params["mapping_id"])


# ---- service providers


def _service(request: Request, row: Row) -> dict[str, Any]:
    return {"service_provider": member(request, _SPS, row)}


async def list_services(request: Request) -> dict[str, Any]:
    found = await federation.list_services(identity_of(request).database, page_of(request, _FILTERS))
    return collection(request, "service_providers", found, dict, of=_SPS)


async def show_service(request: Request) -> dict[str, Any]:
    return _service(request, await federation.show_service(identity_of(request).database, request.params["sp_id"]))


async def create_service(request: Request) -> dict[str, Any]:
    identity, sp_id = identity_of(request), request.params["sp_id"]
    return _service(request, await federation.create_service(identity.database, identity.feed, sp_id, request.body))


async def update_service(request: Request) -> dict[str, Any]:
    identity, sp_id = identity_of(request), request.params["sp_id"]
    return _service(request, await federation.update_service(identity.database, identity.feed, sp_id, request.body))


async def drop_service(request: Request) -> None:
    identity = identity_of(request)
    await federation.drop_service(identity.database, identity.feed, request.params["sp_id"])


_IDP, _PROTOCOL = f"/{_IDPS}/{{idp_id}}", f"/{_IDPS}/{{idp_id}}/protocols/{{protocol_id}}"
_MAP, _SP = f"/{_MAPPINGS}/{{mapping_id}}", f"/{_SPS}/{{sp_id}}"
_LIST = listing("id", flags=("enabled",))
ROUTES = [
    Route(f"GET /{_IDPS}", list_providers, policy="identity:list_identity_providers", query=_LIST),
    Route(f"GET {_IDP}", show_provider, policy="identity:get_identity_provider"),
    Route(
        f"PUT {_IDP}", create_provider, policy="identity:create_identity_provider",
        body=IDENTITY_PROVIDER_CREATE, ok=201,
    ),
    Route(
        f"PATCH {_IDP}", update_provider, policy="identity:update_identity_provider", body=IDENTITY_PROVIDER_UPDATE
    ),
    Route(f"DELETE {_IDP}", drop_provider, policy="identity:delete_identity_provider", ok=204),
    Route(f"GET {_IDP}/protocols", list_protocols, policy="identity:list_protocols"),
    Route(f"GET {_PROTOCOL}", show_protocol, policy="identity:get_protocol"),
    Route(f"PUT {_PROTOCOL}", create_protocol, policy="identity:create_protocol", body=PROTOCOL_CREATE, ok=201),
    Route(f"PATCH {_PROTOCOL}", update_protocol, policy="identity:update_protocol", body=PROTOCOL_UPDATE),
    Route(f"DELETE {_PROTOCOL}", drop_protocol, policy="identity:delete_protocol", ok=204),
    Route(f"GET /{_MAPPINGS}", list_mappings, policy="identity:list_mappings", query=listing()),
    Route(f"GET {_MAP}", show_mapping, policy="identity:get_mapping"),
    Route(f"PUT {_MAP}", create_mapping, policy="identity:create_mapping", body=MAPPING, ok=201),
    Route(f"PATCH {_MAP}", update_mapping, policy="identity:update_mapping", body=MAPPING),
    Route(f"DELETE {_MAP}", drop_mapping, policy="identity:delete_mapping", ok=204),
    Route(f"GET /{_SPS}", list_services, policy="identity:list_service_providers", query=_LIST),
    Route(f"GET {_SP}", show_service, policy="identity:get_service_provider"),
    Route(
        f"PUT {_SP}", create_service, policy="identity:create_service_provider", body=SERVICE_PROVIDER_CREATE, ok=201
    ),
    Route(
        f"PATCH {_SP}", update_service, policy="identity:update_service_provider", body=SERVICE_PROVIDER_UPDATE
    ),
    Route(f"DELETE {_SP}", drop_service, policy="identity:delete_service_provider", ok=204),
    Route(
        "GET /OS-FEDERATION/projects", auth.list_projects, policy="identity:get_auth_projects", query=listing()
    ),
    Route("GET /OS-FEDERATION/domains", auth.list_domains, policy="identity:get_auth_domains", query=listing()),
]  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""The network API v2.0 as tables: every row of it is below."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from cumulet.kernel.http import Body, Request, Route
from cumulet.network import schemas as s
from cumulet.network.api import availability, owned, quotas, topology
from cumulet.network.api.extensions import list_extensions, show_extension
from cumulet.network.api.resource import Resource, enforce
from cumulet.network.api.tags import Tags
from cumulet.network.errors import bad, http_bad
from cumulet.network.logic import Document, Values, interfaces, routers
from cumulet.network.logic.agents import AGENT, ZONE
from cumulet.network.logic.floatingips import FLOATINGIP
from cumulet.network.logic.groups import GROUP, RULE, ensure_default_of
from cumulet.network.logic.kinds import Authorize
from cumulet.network.logic.networks import NETWORK
from cumulet.network.logic.ports import PORT
from cumulet.network.logic.rbac import RBAC_POLICY
from cumulet.network.logic.routers import ROUTER
from cumulet.network.logic.subnetpools import SUBNETPOOL, change_prefixes
from cumulet.network.logic.subnets import SUBNET
from cumulet.network.schemas.values import cidr, host_route, items, uuid


async def _ensure_default_group(request: Request) -> None:
    """A project that looks at its groups has its default one; so has one at whose groups an administrator looks."""
    projects = {request.context.project_id}
    if request.context.is_admin:
        projects |= {value for name, value in parse_qsl(request.query_text) if name in ("project_id", "tenant_id")}
    for project in projects:
        if project:
            await ensure_default_of(request.service, request.context, project)


RESOURCES = (
    Resource(NETWORK, s.NETWORK, bulk=True),
    Resource(SUBNET, s.SUBNET, bulk=True),
    Resource(SUBNETPOOL, s.SUBNETPOOL, bulk=True),
    Resource(PORT, s.PORT, bulk=True, chosen_id=True),
    Resource(ROUTER, s.ROUTER, bulk=True),
    Resource(FLOATINGIP, s.FLOATINGIP, bulk=True),
    Resource(GROUP, s.SECURITY_GROUP, bulk=True, before_list=_ensure_default_group),
    Resource(RULE, s.SECURITY_GROUP_RULE, bulk=True, before_list=_ensure_default_group),
    Resource(RBAC_POLICY, s.RBAC_POLICY, bulk=True),
    Resource(AGENT, s.AGENT),
)
_ROUTER = next(one for one in RESOURCES if one.kind is ROUTER)


# ---- discovery


async def versions(request: Request) -> dict[str, Any]:
    links = [{"rel": "self", "href": f"{request.base}/v2.0/"}]
    return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": links}]}


async def resources(request: Request) -> dict[str, Any]:
    """What v2.0 holds: a name, a collection and a link for each."""
    return {
        "resources": [
            {
                "name": one.kind.name,
                "collection": one.path.rpartition("/")[2],
                "links": [{"rel": "self", "href": request.base + one.path}],
            }
            for one in RESOURCES
        ]
    }


# ---- what routers do


def _rule(request: Request, action: str, resource: str = "router") -> Authorize:
    def authorize(document: Document, values: Values) -> None:
        target = {**document, **document["*"]}
        if not request.policy.allows(action, request.context, target):
            enforce(request.policy, request.context, resource, "get", document, {}, frozenset(), before=document)
            request.policy.enforce(action, request.context, target)

    return authorize


def _interface(request: Request) -> Values:
    sent = request.body
    wanted = {name: sent[name] for name in ("subnet_id", "port_id") if sent.get(name) is not None}
    if not wanted:
        raise bad("router", "Either subnet_id or port_id must be specified")
    for name, value in wanted.items():
        try:
            uuid(value)
        except ValueError as error:
            raise http_bad(f"Invalid input for {name}. Reason: {error}.") from None
    return wanted


async def add_router_interface(request: Request) -> dict[str, Any]:
    rule = _rule(request, "add_router_interface")
    return await interfaces.add_interface(
        request.service, request.context, request.params["id"], _interface(request), rule
    )


async def remove_router_interface(request: Request) -> dict[str, Any]:
    rule = _rule(request, "remove_router_interface")
    return await interfaces.remove_interface(
        request.service, request.context, request.params["id"], _interface(request), rule
    )


async def _change_routes(request: Request, *, add: bool) -> dict[str, Any]:
    router = request.body["router"]
    try:
        routes = items(host_route)(router.get("routes") if isinstance(router, dict) else router)
    except ValueError as error:
        raise http_bad(f"Invalid input for routes. Reason: {error}.") from None
    rule = _rule(request, "add_extraroutes" if add else "remove_extraroutes")
    document = await routers.change_routes(
        request.service, request.context, request.params["id"], routes, rule, add=add
    )
    return {"router": _ROUTER.render(request, document)}


async def add_extraroutes(request: Request) -> dict[str, Any]:
    return await _change_routes(request, add=True)


async def remove_extraroutes(request: Request) -> dict[str, Any]:
    return await _change_routes(request, add=False)


# ---- what subnet pools do


async def _change_prefixes(request: Request, *, add: bool) -> dict[str, Any]:
    sent = request.body.get("prefixes")
    if not sent or not isinstance(sent, list):
        raise http_bad("Request body contains invalid data")
    try:
        prefixes = items(cidr)(sent)
    except ValueError as error:
        raise http_bad(f"Invalid input for prefixes. Reason: {error}.") from None
    rule = _rule(request, "add_prefixes" if add else "remove_prefixes", "subnetpool")
    key = request.params["id"]
    document = await change_prefixes(request.service, request.context, key, prefixes, rule, add=add)
    return {"prefixes": document["prefixes"]}


async def add_prefixes(request: Request) -> dict[str, Any]:
    return await _change_prefixes(request, add=True)


async def remove_prefixes(request: Request) -> dict[str, Any]:
    return await _change_prefixes(request, add=False)


# ---- availability zones


async def list_availability_zones(request: Request) -> dict[str, Any]:
    """There is one; it serves networks and routers."""
    request.policy.enforce("get_availability_zone", request.context)
    zones = [{"name": ZONE, "resource": resource, "state": "available"} for resource in ("network", "router")]
    return {"availability_zones": zones}


_ANY_BODY = Body(None, raw={"type": "object"})
_ROUTES_BODY = Body(None, raw=s.ROUTES_BODY)
_PUBLIC = [
    Route("GET /", versions, public=True),
    Route("GET /v2.0", resources, public=True),
]
_ACTIONS = [
    Route("PUT /v2.0/routers/{id}/add_router_interface", add_router_interface, policy="add_router_interface",
          late=True, body=_ANY_BODY),
    Route("PUT /v2.0/routers/{id}/remove_router_interface", remove_router_interface, policy="remove_router_interface",
          late=True, body=_ANY_BODY),
    Route("PUT /v2.0/routers/{id}/add_extraroutes", add_extraroutes, policy="add_extraroutes", late=True,
          body=_ROUTES_BODY),
    Route("PUT /v2.0/routers/{id}/remove_extraroutes", remove_extraroutes, policy="remove_extraroutes", late=True,
          body=_ROUTES_BODY),
    Route("PUT /v2.0/subnetpools/{id}/add_prefixes", add_prefixes, policy="add_prefixes", late=True, body=_ANY_BODY),
    Route("PUT /v2.0/subnetpools/{id}/remove_prefixes", remove_prefixes, policy="remove_prefixes", late=True,
          body=_ANY_BODY),
    Route("GET /v2.0/availability_zones", list_availability_zones, policy="get_availability_zone", late=True),
    Route("GET /v2.0/extensions", list_extensions, policy="regular_user"),
    Route("GET /v2.0/extensions/{alias}", show_extension, policy="regular_user"),
]  # fmt: skip

ROUTES = [
    *_PUBLIC,
    *(row for one in RESOURCES for row in one.routes()),
    *(row for one in RESOURCES if one.tagged for row in Tags(one).routes()),
    *_ACTIONS,
    *quotas.ROUTES,
    *topology.ROUTES,
    *availability.ROUTES,
    *owned.ROUTES,
]

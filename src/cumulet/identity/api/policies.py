# SPDX-License-Identifier: Apache-2.0
"""Policies, and OS-ENDPOINT-POLICY: three kinds of places, each with the same three acts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from cumulet.identity.api.answers import collection, identity_of, member, page_of, require_same_id
from cumulet.identity.api.catalogue import endpoint_view
from cumulet.identity.logic import policies
from cumulet.identity.schemas import POLICY_CREATE, POLICY_UPDATE, listing
from cumulet.kernel.db import Row
from cumulet.kernel.http import Request, Route


def _view(row: Row) -> dict[str, Any]:
    return {**row["extra"], **{name: row[name] for name in ("id", "type", "blob")}}


def _answer(request: Request, row: Row) -> dict[str, Any]:
    return {"policy": member(request, "policies", _view(row))}


async def list_policies(request: Request) -> dict[str, Any]:
    found = await policies.list_policies(identity_of(request).database, page_of(request, ("type",)))
    return collection(request, "policies", found, _view)


async def show_policy(request: Request) -> dict[str, Any]:
    return _answer(request, await policies.show_policy(identity_of(request).database, request.params["policy_id"]))


async def create_policy(request: Request) -> dict[str, Any]:
    return _answer(request, await policies.create_policy(identity_of(request).database, request.body))


async def update_policy(request: Request) -> dict[str, Any]:
    policy_id = request.params["policy_id"]
    require_same_id(request, policy_id)
    return _answer(request, await policies.update_policy(identity_of(request).database, policy_id, request.body))


async def drop_policy(request: Request) -> None:
    await policies.drop_policy(identity_of(request).database, request.params["policy_id"])


# ---- what they are for


async def _act(request: Request, act: Callable[..., Awaitable[None]]) -> None:
    place = dict(request.params)
    policy_id = place.pop("policy_id")
    await act(identity_of(request).database, policy_id, place)


async def list_endpoints(request: Request) -> dict[str, Any]:
    rows = await policies.endpoints_of_policy(identity_of(request).database, request.params["policy_id"])
    return collection(request, "endpoints", (rows, False), lambda row: endpoint_view(request, row))


async def show_effective(request: Request) -> dict[str, Any]:
    row = await policies.policy_of_endpoint(identity_of(request).database, request.params["endpoint_id"])
    return {"policy": member(request, "policies", _view(row))}


_ONE = "/policies/{policy_id}"
_FOR = f"{_ONE}/OS-ENDPOINT-POLICY"
_PLACES = (
    ("endpoint", "endpoints/{endpoint_id}"),
    ("service", "services/{service_id}"),
    ("region_and_service", "services/{service_id}/regions/{region_id}"),
)
_ACTS = (
    ("GET", "check", policies.check_association),
    ("PUT", "create", policies.associate),
    ("DELETE", "delete", policies.dissociate),
)
ROUTES = [
    Route("GET /policies", list_policies, policy="identity:list_policies", query=listing("type")),
    Route("POST /policies", create_policy, policy="identity:create_policy", body=POLICY_CREATE, ok=201),
    Route(f"GET {_ONE}", show_policy, policy="identity:get_policy"),
    Route(f"PATCH {_ONE}", update_policy, policy="identity:update_policy", body=POLICY_UPDATE),
    Route(f"DELETE {_ONE}", drop_policy, policy="identity:delete_policy", ok=204),
    *(
        Route(
            f"{method} {_FOR}/{path}", partial(_act, act=act),
            policy=f"identity:{name}_policy_association_for_{place}", ok=204,
        )
        for place, path in _PLACES
        for method, name, act in _ACTS
    ),
    Route(f"GET {_FOR}/endpoints", list_endpoints, policy="identity:list_endpoints_for_policy"),
    Route(
        "GET /endpoints/{endpoint_id}/OS-ENDPOINT-POLICY/policy", show_effective,
        policy="identity:get_policy_for_endpoint",
    ),
]  # fmt: skip

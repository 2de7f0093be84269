# SPDX-License-Identifier: Apache-2.0
"""Roles, and which role implies which."""

from __future__ import annotations

from typing import Any

from cumulet.identity.api import views
from cumulet.identity.api.answers import (
    collection,
    here,
    identity_of,
    member,
    page_of,
    require_same_id,
    sent,
    target,
    url,
)
from cumulet.identity.logic import roles
from cumulet.identity.schemas import ROLE_CREATE, ROLE_UPDATE, listing
from cumulet.kernel.db import Row
from cumulet.kernel.http import Answer, Request, Route
from cumulet.kernel.policy import Target


async def role_target(request: Request) -> Target:
    """The role of the path. Raises NotFound, as published, before the policy is asked."""
    row = await roles.show_role(identity_of(request).database, request.params["role_id"])
    request.found = row
    return target(role=views.role(row))


def _enforce(request: Request, act: str, domain_id: str | None, role: dict[str, Any] | None = None) -> None:
    """A role that belongs to a domain has rules of its own."""
    noun = "domain_role" if domain_id else "role"
    noun = f"{noun}s" if act == "list" else noun
    request.enforce(f"identity:{act}_{noun}", target(role=role))


async def list_roles(request: Request) -> dict[str, Any]:
    domain_id = request.query.get("domain_id", "")
    _enforce(request, "list", domain_id)
    found = await roles.list_roles(identity_of(request).database, domain_id, page_of(request, ("name",)))
    return collection(request, "roles", found, views.role)


def _answer(request: Request, row: Row) -> dict[str, Any]:
    return {"role": member(request, "roles", views.role(row))}


async def show_role(request: Request) -> dict[str, Any]:
    row: Row = request.found
    _enforce(request, "get", row["domain_id"], views.role(row))
    return _answer(request, row)


async def create_target(request: Request) -> Target:
    domain_id = sent(request, "role").get("domain_id")
    _enforce(request, "create", domain_id, sent(request, "role"))
    return target()


async def create_role(request: Request) -> dict[str, Any]:
    identity = identity_of(request)
    return _answer(request, await roles.create_role(identity.database, identity.feed, request.body))


async def change_target(request: Request) -> Target:
    found = await role_target(request)
    act = "update" if request.method == "PATCH" else "delete"
    _enforce(request, act, request.found["domain_id"], views.role(request.found))
    return found


async def update_role(request: Request) -> dict[str, Any]:
    identity, role_id = identity_of(request), request.params["role_id"]
    require_same_id(request, role_id)
    return _answer(request, await roles.update_role(identity.database, identity.feed, role_id, request.body))


async def delete_role(request: Request) -> None:
    identity = identity_of(request)
    await roles.delete_role(identity.database, identity.feed, request.params["role_id"])


# ---- implications


def _short(request: Request, row: Row) -> dict[str, Any]:
    return {"id": row["id"], "links": {"self": url(request, f"roles/{row['id']}")}, "name": row["name"]}


def _implication(request: Request, prior: Row, implied: Row) -> dict[str, Any]:
    inference = {"prior_role": _short(request, prior), "implies": _short(request, implied)}
    return {"role_inference": inference, "links": {"self": here(request)}}


async def list_implied(request: Request) -> dict[str, Any]:
    graph = await identity_of(request).tokens.graph()
    prior: Row = request.found
    implied = [_short(request, graph.by_id[other]) for other in graph.implied.get(prior["id"], ())]
    inference = {"prior_role": _short(request, prior), "implies": implied}
    return {"role_inference": inference, "links": {"self": here(request)}}


async def show_implied(request: Request) -> dict[str, Any]:
    prior, implied = request.params["role_id"], request.params["implied_role_id"]
    rows = await roles.show_implication(identity_of(request).database, prior, implied)
    return _implication(request, *rows)


async def check_implied(request: Request) -> Answer:
    await show_implied(request)
    return Answer(status=204)


async def imply(request: Request) -> dict[str, Any]:
    identity = identity_of(request)
    prior, implied = request.params["role_id"], request.params["implied_role_id"]
    return _implication(request, *await roles.imply(identity.database, identity.feed, prior, implied))


async def drop_implied(request: Request) -> None:
    identity = identity_of(request)
    prior, implied = request.params["role_id"], request.params["implied_role_id"]
    await roles.drop_implication(identity.database, identity.feed, prior, implied)


async def list_inferences(request: Request) -> dict[str, Any]:
    graph = await identity_of(request).tokens.graph()
    inferences = [
        {
            "prior_role": _short(request, graph.by_id[prior]),
            "implies": [_short(request, graph.by_id[other]) for other in implied],
        }
        for prior, implied in graph.implied.items()
        if prior in graph.by_id
    ]
    return {"role_inferences": inferences}


async def implication_target(request: Request) -> Target:
    """The roles of the path. Raises NotFound, as published, before the policy is asked."""
    database = identity_of(request).database
    request.found = await roles.show_role(database, request.params["role_id"])
    if "implied_role_id" in request.params:
        await roles.show_role(database, request.params["implied_role_id"])
    return target()


_ONE, _IMPLIED = "/roles/{role_id}", "/roles/{role_id}/implies/{implied_role_id}"
ROUTES = [
    Route("GET /roles", list_roles, policy="identity:list_roles", late=True, query=listing("domain_id", "name")),
    Route(
        "POST /roles", create_role, policy="identity:create_role", late=True, target=create_target,
        body=ROLE_CREATE, ok=201,
    ),
    Route(f"GET {_ONE}", show_role, policy="identity:get_role", late=True, target=role_target),
    Route(
        f"PATCH {_ONE}", update_role, policy="identity:update_role", late=True, target=change_target, body=ROLE_UPDATE
    ),
    Route(f"DELETE {_ONE}", delete_role, policy="identity:delete_role", late=True, target=change_target, ok=204),
    Route(f"GET {_ONE}/implies", list_implied, policy="identity:list_implied_roles", target=implication_target),
    Route(f"GET {_IMPLIED}", show_implied, policy="identity:get_implied_role", target=implication_target),
    Route(f"HEAD {_IMPLIED}", check_implied, policy="identity:check_implied_role", target=implication_target),
    Route(f"PUT {_IMPLIED}", imply, policy="identity:create_implied_role", target=implication_target, ok=201),
    Route(f"DELETE {_IMPLIED}", drop_implied, policy="identity:delete_implied_role", target=implication_target, ok=204),
    Route("GET /role_inferences", list_inferences, policy="identity:list_role_inference_rules"),
]  # fmt: skip

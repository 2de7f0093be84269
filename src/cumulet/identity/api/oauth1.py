# SPDX-License-Identifier: Apache-2.0
"""OAuth1 (OS-OAUTH1): consumers, the three steps to an access token, and a user's access tokens."""

from __future__ import annotations

from typing import Any

from cumulet.identity.api import views
from cumulet.identity.api.answers import collection, identity_of, member, page_of, require_same_id, url
from cumulet.identity.api.delegation import refuse_delegated
from cumulet.identity.schemas import AUTHORIZE, CONSUMER_CREATE, CONSUMER_UPDATE, listing
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Answer, Request, Route

_CONSUMERS = "OS-OAUTH1/consumers"
_FORM = "application/x-www-form-urlencoded"
_REFUSAL = "Cannot manage OAuth access tokens with a token issued via delegation."


def _consumer(row: Row) -> dict[str, Any]:
    return {**row["extra"], "id": row["id"], "description": row["description"]}


def _answer(request: Request, row: Row, **more: Any) -> dict[str, Any]:
    return {"consumer": member(request, _CONSUMERS, {**_consumer(row), **more})}


async def list_consumers(request: Request) -> dict[str, Any]:
    found = await identity_of(request).oauth1.list_consumers(page_of(request))
    answer = collection(request, _CONSUMERS, found, _consumer)
    return {"consumers": answer.pop(_CONSUMERS), **answer}


async def show_consumer(request: Request) -> dict[str, Any]:
    return _answer(request, await identity_of(request).oauth1.show_consumer(request.params["consumer_id"]))


async def create_consumer(request: Request) -> dict[str, Any]:
    row, secret = await identity_of(request).oauth1.create_consumer(request.body)
    return _answer(request, row, secret=secret)


async def update_consumer(request: Request) -> dict[str, Any]:
    consumer_id = request.params["consumer_id"]
    if "secret" in request.body:
        raise Invalid("The secret of a consumer can't be changed.")
    require_same_id(request, consumer_id)
    return _answer(request, await identity_of(request).oauth1.update_consumer(consumer_id, request.body))


async def delete_consumer(request: Request) -> None:
    await identity_of(request).oauth1.delete_consumer(request.params["consumer_id"])


# ---- the three steps


def _told(row: Row, secret: str) -> Answer:
    body = f"oauth_token={row['id']}&oauth_token_secret={secret}"
    if row["expires_at"] is not None:
        body += f"&oauth_expires_at={clock.iso_micro_z(row['expires_at'])}"
    return Answer(body.encode(), content_type=_FORM)


async def request_token(request: Request) -> Answer:
    headers = request.headers
    row, secret = await identity_of(request).oauth1.request(
        request.url, request.query_text, headers.get("authorization", ""), headers.get("requested-project-id")
    )
    return _told(row, secret)


async def authorize(request: Request) -> dict[str, Any]:
    await refuse_delegated(request, "Cannot authorize a request token with a token issued via delegation.")
    identity, user_id = identity_of(request), request.context.user_id
    assert user_id is not None
    graph = await identity.tokens.graph()
    named = request.body.get("roles", [])
    verifier = await identity.oauth1.authorize(request.params["request_token_id"], user_id, named, graph)
    return {"token": {"oauth_verifier": verifier}}


async def access_token(request: Request) -> Answer:
    row, secret = await identity_of(request).oauth1.exchange(
        request.url, request.query_text, request.headers.get("authorization", "")
    )
    return _told(row, secret)


# ---- a user's access tokens


def _access(request: Request, row: Row) -> dict[str, Any]:
    place = url(request, f"users/{row['user_id']}/OS-OAUTH1/access_tokens/{row['id']}")
    return {
        "id": row["id"],
        "consumer_id": row["consumer_id"],
        "project_id": row["project_id"],
        "authorizing_user_id": row["user_id"],
        "expires_at": None if row["expires_at"] is None else clock.iso_micro_z(row["expires_at"]),
        "links": {"self": place, "roles": f"{place}/roles"},
    }


async def list_access(request: Request) -> dict[str, Any]:
    await refuse_delegated(request, _REFUSAL)
    rows, _ = await identity_of(request).oauth1.list_access(request.params["user_id"], page_of(request))
    links = {"next": None, "self": request.url, "previous": None}
    return {"access_tokens": [_access(request, row) for row in rows], "links": links}


async def _found(request: Request) -> Row:
    params = request.params
    return await identity_of(request).oauth1.show_access(params["user_id"], params["access_token_id"])


async def show_access(request: Request) -> dict[str, Any]:
    await refuse_delegated(request, _REFUSAL)
    return {"access_token": _access(request, await _found(request))}


async def delete_access(request: Request) -> None:
    await refuse_delegated(request, _REFUSAL)
    params = request.params
    await identity_of(request).oauth1.delete_access(params["user_id"], params["access_token_id"])


def _role(request: Request, row: Row) -> dict[str, Any]:
    shown = views.role(row)
    shown.pop("description")
    return member(request, "roles", shown)


async def list_roles(request: Request) -> dict[str, Any]:
    row, graph = await _found(request), await identity_of(request).tokens.graph()
    roles = [_role(request, graph.by_id[role_id]) for role_id in row["role_ids"] if role_id in graph.by_id]
    return {"roles": roles, "links": {"next": None, "self": request.url, "previous": None}}


async def show_role(request: Request) -> dict[str, Any]:
    identity, params = identity_of(request), request.params
    graph = await identity.tokens.graph()
    named = (params["user_id"], params["access_token_id"], params["role_id"])
    return {"role": _role(request, await identity.oauth1.show_role(*named, graph))}


_ONE = f"/{_CONSUMERS}/{{consumer_id}}"
_ACCESS = "/users/{user_id}/OS-OAUTH1/access_tokens"
_ACCESS_ONE = f"{_ACCESS}/{{access_token_id}}"
ROUTES = [
    Route(f"GET /{_CONSUMERS}", list_consumers, policy="identity:list_consumers", query=listing()),
    Route(f"POST /{_CONSUMERS}", create_consumer, policy="identity:create_consumer", body=CONSUMER_CREATE, ok=201),
    Route(f"GET {_ONE}", show_consumer, policy="identity:get_consumer"),
    Route(f"PATCH {_ONE}", update_consumer, policy="identity:update_consumer", body=CONSUMER_UPDATE),
    Route(f"DELETE {_ONE}", delete_consumer, policy="identity:delete_consumer", ok=204),
    Route("POST /OS-OAUTH1/request_token", request_token, public=True, ok=201),
    Route(
        "PUT /OS-OAUTH1/authorize/{request_token_id}", authorize, policy="identity:authorize_request_token",
        body=AUTHORIZE,
    ),
    Route("POST /OS-OAUTH1/access_token", access_token, public=True, ok=201),
    Route(f"GET {_ACCESS}", list_access, policy="identity:list_access_tokens", query=listing()),
    Route(f"GET {_ACCESS_ONE}", show_access, policy="identity:get_access_token"),
    Route(f"DELETE {_ACCESS_ONE}", delete_access, policy="identity:delete_access_token", ok=204),
    Route(f"GET {_ACCESS_ONE}/roles", list_roles, policy="identity:list_access_token_roles"),
    Route(f"GET {_ACCESS_ONE}/roles/{{role_id}}", show_role, policy="identity:get_access_token_role"),
]  # fmt: skip

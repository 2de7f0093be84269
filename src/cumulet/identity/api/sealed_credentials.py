# SPDX-License-Identifier: Apache-2.0
"""Credentials, and those of EC2 in their older form (OS-EC2) with the tokens for signed requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from cumulet.identity.api.answers import collection, identity_of, member, page_of, require_same_id, sent, target, url
from cumulet.identity.api.auth import token_document
from cumulet.identity.api.delegation import asking, refuse_delegated
from cumulet.identity.errors import forbidden_action
from cumulet.identity.logic import projects, users
from cumulet.identity.logic.listing import Filter
from cumulet.identity.logic.sealed_credentials import EC2, access_id, ec2_content
from cumulet.identity.logic.signatures import check_ec2, check_s3, check_time
from cumulet.identity.schemas import EC2_CREATE, SEALED_CREATE, SEALED_UPDATE, SIGNED, listing
from cumulet.kernel import ids
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid, NotFound, Unauthorized
from cumulet.kernel.http import Answer, Request, Route
from cumulet.kernel.policy import Target

_REFUSAL = forbidden_action("Delegated tokens cannot access credentials directly").message
_EC2_GONE = "EC2 access key not found."


def _view(row: Row) -> dict[str, Any]:
    return {**row["extra"], **{name: row[name] for name in ("id", "user_id", "project_id", "type", "blob")}}


async def own_target(request: Request) -> Target:
    return target(credential={"user_id": request.context.user_id})


async def sent_target(request: Request) -> Target:
    return target(credential=sent(request, "credential"))


async def credential_target(request: Request) -> Target:
    """The credential of the path; one that is not there is told to those only who might have seen it."""
    try:
        request.found = await identity_of(request).credentials.show(request.params["credential_id"])
    except NotFound:
        return target()
    return target(credential={name: request.found[name] for name in ("id", "user_id", "project_id", "type")})


async def _found(request: Request) -> Row:
    await refuse_delegated(request, _REFUSAL)
    row: Row | None = request.found
    return row if row is not None else await identity_of(request).credentials.show(request.params["credential_id"])


async def list_credentials(request: Request) -> dict[str, Any]:
    page, rule = page_of(request, ("user_id", "type")), "identity:get_credential"
    if not request.allows(rule, target()):  # not everybody's, so only the caller's own
        page = replace(page, filters=(*page.filters, Filter("user_id", request.context.user_id)))
    rows, more = await identity_of(request).credentials.list(page)
    if (await asking(request)).delegated:
        rows, more = [], False
    rows = [row for row in rows if request.allows(rule, target(credential={"user_id": row["user_id"]}))]
    return collection(request, "credentials", (rows, more and bool(rows)), _view)


def _answer(request: Request, row: Row) -> dict[str, Any]:
    return {"credential": member(request, "credentials", _view(row))}


async def create_credential(request: Request) -> dict[str, Any]:
    await refuse_delegated(request, _REFUSAL)
    return _answer(request, await identity_of(request).credentials.create(request.body))


async def show_credential(request: Request) -> dict[str, Any]:
    return _answer(request, await _found(request))


async def update_credential(request: Request) -> dict[str, Any]:
    await _found(request)
    credential_id = request.params["credential_id"]
    require_same_id(request, credential_id)
    return _answer(request, await identity_of(request).credentials.update(credential_id, request.body["blob"]))


async def delete_credential(request: Request) -> None:
    await _found(request)
    await identity_of(request).credentials.delete(request.params["credential_id"])


# ---- the older form


def _ec2_view(request: Request, row: Row) -> dict[str, Any]:
    content = ec2_content(row["blob"])
    path = f"users/{row['user_id']}/credentials/OS-EC2/{content['access']}"
    return {
        "user_id": row["user_id"],
        "tenant_id": row["project_id"],
        **{name: content.get(name) for name in ("access", "secret", "trust_id")},
        "links": {"self": url(request, path)},
    }


async def ec2_owner(request: Request) -> Target:
    user_id = request.params["user_id"]
    return {"user_id": user_id, **target(credential={"user_id": user_id})}


async def ec2_target(request: Request) -> Target:
    """The EC2 credential with the access key of the path."""
    row = await identity_of(request).credentials.show(access_id(request.params["credential_id"]))
    if row["type"].lower() != EC2:
        raise Unauthorized
    request.found = row
    return {"user_id": request.params["user_id"], **target(credential={"user_id": row["user_id"]})}


async def list_ec2(request: Request) -> dict[str, Any]:
    identity, user_id = identity_of(request), request.params["user_id"]
    await refuse_delegated(request, _REFUSAL)
    await users.show_user(identity.database, user_id)
    shown = [_ec2_view(request, row) for row in await identity.credentials.of_user(user_id, EC2)]
    links = {"next": None, "self": request.url, "previous": None}
    return {"credentials": shown, "links": links}


async def create_ec2(request: Request) -> dict[str, Any]:
    identity, user_id = identity_of(request), request.params["user_id"]
    await users.show_user(identity.database, user_id)
    await projects.show_project(identity.database, request.body["tenant_id"])
    await refuse_delegated(request, _REFUSAL)
    content = {"access": ids.new_hex(), "secret": ids.new_secret(24), "trust_id": None}
    sent = {
        "user_id": user_id,
        "project_id": request.body["tenant_id"],
        "type": EC2,
        "blob": orjson.dumps(content).decode(),
    }
    return {"credential": _ec2_view(request, await identity.credentials.create(sent))}


async def show_ec2(request: Request) -> dict[str, Any]:
    await refuse_delegated(request, _REFUSAL)
    await users.show_user(identity_of(request).database, request.params["user_id"])
    return {"credential": _ec2_view(request, request.found)}


async def delete_ec2(request: Request) -> None:
    await refuse_delegated(request, _REFUSAL)
    await users.show_user(identity_of(request).database, request.params["user_id"])
    await identity_of(request).credentials.delete(request.found["id"])


# ---- tokens for signed requests


async def _signed(request: Request, check: Any) -> Answer:
    """The token of the owner of the key with which a request to another service was signed."""
    identity, body = identity_of(request), request.body
    if not body:
        raise Invalid("request must include a request body")
    signed = body.get("credentials") or body.get("credential") or body.get("ec2Credentials") or {}
    if not isinstance(signed, dict) or not isinstance(signed.get("access"), str):
        raise Unauthorized
    try:
        row = await identity.credentials.show(access_id(signed["access"]))
    except NotFound:
        raise NotFound(_EC2_GONE) from None
    if row["type"] != EC2:
        raise NotFound(_EC2_GONE)
    content = ec2_content(row["blob"])
    secret = content.get("secret")
    if not isinstance(secret, str) or not secret:
        raise Unauthorized  # nothing to sign with, so anybody could
    check(secret, signed)
    check_time(signed, identity.settings.ec2_window)
    token, seen = await identity.authentication.issue_for_key(row["user_id"], row["project_id"] or "", content)
    return Answer(await token_document(request, seen), headers={"X-Subject-Token": token})


async def ec2_token(request: Request) -> Answer:
    return await _signed(request, check_ec2)


async def s3_token(request: Request) -> Answer:
    answer = await _signed(request, check_s3)
    answer.headers.clear()  # who answers S3 requests needs to know who asks, and no token
    return answer


_ONE = "/credentials/{credential_id}"
_EC2 = "/users/{user_id}/credentials/OS-EC2"
_EC2_ONE = f"{_EC2}/{{credential_id}}"
ROUTES = [
    Route(
        "GET /credentials", list_credentials, policy="identity:list_credentials", target=own_target,
        query=listing("user_id", "type"),
    ),
    Route(
        "POST /credentials", create_credential, policy="identity:create_credential", target=sent_target,
        body=SEALED_CREATE, ok=201,
    ),
    Route(f"GET {_ONE}", show_credential, policy="identity:get_credential", target=credential_target),
    Route(
        f"PATCH {_ONE}", update_credential, policy="identity:update_credential", target=credential_target,
        body=SEALED_UPDATE,
    ),
    Route(f"DELETE {_ONE}", delete_credential, policy="identity:delete_credential", target=credential_target, ok=204),
    Route(f"GET {_EC2}", list_ec2, policy="identity:ec2_list_credentials", target=ec2_owner),
    Route(
        f"POST {_EC2}", create_ec2, policy="identity:ec2_create_credential", target=ec2_owner, body=EC2_CREATE, ok=201
    ),
    Route(f"GET {_EC2_ONE}", show_ec2, policy="identity:ec2_get_credential", target=ec2_target),
    Route(f"DELETE {_EC2_ONE}", delete_ec2, policy="identity:ec2_delete_credential", target=ec2_target, ok=204),
    Route("POST /ec2tokens", ec2_token, policy="identity:ec2tokens_validate", body=SIGNED),
    Route("POST /s3tokens", s3_token, policy="identity:s3tokens_validate", body=SIGNED),
]  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""Tokens, and what the caller itself may reach."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from cumulet.identity.api import views
from cumulet.identity.api.answers import collection, identity_of, page_of, target, url
from cumulet.identity.logic import assignments, projects
from cumulet.identity.logic.catalogue import front_base
from cumulet.identity.logic.methods import Asked
from cumulet.identity.logic.receipts import MoreNeeded
from cumulet.identity.logic.tokens import Seen
from cumulet.identity.schemas import AUTH, listing
from cumulet.kernel.errors import Forbidden, NotFound
from cumulet.kernel.http import Answer, Request, Route
from cumulet.kernel.policy import Target

_ACCESS_RULES, _RECEIPT = "openstack-identity-access-rules", "openstack-auth-receipt"


def _asked(request: Request, name: str) -> str | None:
    for key, value in parse_qsl(request.query_text, keep_blank_values=True):
        if key == name:
            return value
    return None


async def _entries(request: Request, project_id: str | None, user_id: str | None) -> list[dict[str, Any]]:
    """The catalogue by the address that the client used."""
    identity = identity_of(request)
    base = request.context.base
    front = front_base(base, request.base.removeprefix(base), identity.front_port)
    return await identity.catalogue.entries(front, project_id=project_id, user_id=user_id)


async def token_document(request: Request, seen: Seen) -> dict[str, Any]:
    document = dict(seen.document)
    if trusted := await identity_of(request).catalogue.service_providers():
        document["service_providers"] = trusted
    if seen.claims.scope and _asked(request, "nocatalog") is None:
        caller = seen.verified.context
        document["catalog"] = await _entries(request, caller.project_id, caller.user_id)
    return {"token": document}


async def issue_token(request: Request) -> Answer:
    asked = Asked(
        address=request.remote,
        receipt=request.headers.get(_RECEIPT),
        authorization=request.headers.get("authorization", ""),
        url=request.url,
        query=request.query_text,
    )
    try:
        token, seen = await identity_of(request).authentication.authenticate(request.body["auth"], asked)
    except MoreNeeded as more:
        return Answer(more.document, status=401, headers={_RECEIPT: more.receipt})
    return Answer(await token_document(request, seen), headers={"X-Subject-Token": token})


async def subject(request: Request) -> Target:
    """Loads the token that the request is about; raises NotFound."""
    token = request.headers.get("x-subject-token")
    if not token:
        raise NotFound("No token in the request")
    expired = (_asked(request, "allow_expired") or "").lower() in ("1", "true", "t", "yes", "y", "on")
    seen = await identity_of(request).tokens.read(token, allow_expired=expired)
    if seen.verified.access_rules is not None and not _knows_rules(request.headers.get(_ACCESS_RULES)):
        raise NotFound("Failed to validate token")  # who asks could not keep to the rules
    request.found = seen
    return target(token={"user_id": seen.claims.user_id, "user": seen.document["user"]})


def _knows_rules(version: str | None) -> bool:
    """Whether who asks says that it keeps to access rules (from version 1.0 on)."""
    try:
        return version is not None and float(version) >= 1.0
    except ValueError:
        return False


async def show_token(request: Request) -> Answer:
    headers = {"X-Subject-Token": request.headers["x-subject-token"]}
    return Answer(await token_document(request, request.found), headers=headers)


async def revoke_token(request: Request) -> None:
    cascade = (_asked(request, "cascade") or "true").lower() not in ("0", "false", "f", "no", "n", "off")
    await identity_of(request).tokens.revoke(request.headers["x-subject-token"], cascade=cascade)


async def rotate_keys(request: Request) -> dict[str, Any]:
    """Our own addition: tokens are sealed with a new key from now on."""
    return {"keys": await identity_of(request).tokens.rotate()}


async def list_revoked(request: Request) -> None:
    """Tokens of this form can't be listed; what is left of the path is a refusal."""
    raise Forbidden


async def _reachable(request: Request) -> tuple[list[str], list[str], bool]:
    user_id = request.context.user_id
    assert user_id is not None
    return await assignments.reachable(identity_of(request).database, user_id)


async def list_projects(request: Request) -> dict[str, Any]:
    ids, _, _ = await _reachable(request)
    page = page_of(request)
    found = await projects.list_projects(identity_of(request).database, page, is_domain=False, only=ids)
    enabled = [row for row in found[0] if row["enabled"]]
    return collection(request, "projects", (enabled, found[1]), views.project)


async def list_domains(request: Request) -> dict[str, Any]:
    _, ids, _ = await _reachable(request)
    found = await projects.list_projects(identity_of(request).database, page_of(request), is_domain=True, only=ids)
    enabled = [row for row in found[0] if row["enabled"]]
    return collection(request, "domains", (enabled, found[1]), views.domain)


async def list_system(request: Request) -> dict[str, Any]:
    _, _, system = await _reachable(request)
    return {"system": [{"all": True}] if system else [], "links": {"self": url(request, "auth/system")}}


async def show_catalogue(request: Request) -> dict[str, Any]:
    caller = request.context
    if caller.project_id is None:
        raise Forbidden
    entries = await _entries(request, caller.project_id, caller.user_id)
    return {"catalog": entries, "links": {"self": url(request, "auth/catalog")}}


ROUTES = [
    Route("POST /auth/tokens", issue_token, public=True, body=AUTH, ok=201),
    Route("GET /auth/tokens", show_token, policy="identity:validate_token", target=subject),
    Route("HEAD /auth/tokens", show_token, policy="identity:check_token", target=subject),
    Route("DELETE /auth/tokens", revoke_token, policy="identity:revoke_token", target=subject, ok=204),
    Route("GET /auth/tokens/OS-PKI/revoked", list_revoked, policy="identity:revocation_list"),
    Route("POST /cumulet/token-keys", rotate_keys, policy="cumulet:rotate_token_keys"),
    Route("GET /auth/projects", list_projects, policy="identity:get_auth_projects", query=listing()),
    Route("GET /auth/domains", list_domains, policy="identity:get_auth_domains", query=listing()),
    Route("GET /auth/system", list_system, policy="identity:get_auth_system"),
    Route("GET /auth/catalog", show_catalogue, policy="identity:get_auth_catalog"),
]

# SPDX-License-Identifier: Apache-2.0
"""OAuth 2.0 client credentials (OS-OAUTH2): an application credential is the client; errors are in OAuth's form."""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import parse_qs

from cumulet.identity.api.answers import identity_of
from cumulet.identity.logic.methods import Asked
from cumulet.identity.logic.receipts import MoreNeeded
from cumulet.kernel.errors import Fault
from cumulet.kernel.http import Answer, Request, Route
from cumulet.kernel.http.fields import TEXT, record

_LONGEST = 16_384
_FAILED = "Client authentication failed."


def _error(request: Request, status: int, error: str, description: str) -> Answer:
    headers = {"WWW-Authenticate": f'Keystone uri="{request.base}/v3"'} if status == 401 else {}
    return Answer({"error": error, "error_description": description}, status=status, headers=headers)


async def _form(request: Request) -> dict[str, str]:
    assert request.stream is not None
    data = await request.stream.read(_LONGEST)
    try:
        return {name: values[0] for name, values in parse_qs(data.decode()).items()}
    except ValueError:
        return {}


def _basic(header: str) -> tuple[str | None, str | None]:
    """User and password of a basic authorization."""
    kind, _, rest = header.partition(" ")
    if kind.lower() != "basic":
        return None, None
    try:
        user, colon, password = base64.b64decode(rest, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None, None
    return (user, password) if colon else (None, None)


async def token(request: Request) -> Answer:
    form = await _form(request)
    grant = form.get("grant_type")
    if grant is None:
        return _error(request, 400, "invalid_request", "The parameter grant_type is required.")
    if grant != "client_credentials":
        told = f"The parameter grant_type {grant[:100]} is not supported."
        return _error(request, 400, "unsupported_grant_type", told)
    client_id, secret = _basic(request.headers.get("authorization", ""))
    if client_id is None:
        client_id, secret = form.get("client_id"), form.get("client_secret")
    if not client_id or not secret:
        return _error(request, 401, "invalid_client", _FAILED)
    method = "application_credential"
    auth: dict[str, Any] = {"identity": {"methods": [method], method: {"id": client_id, "secret": secret}}}
    try:
        made, seen = await identity_of(request).authentication.authenticate(auth, Asked(address=request.remote))
    except MoreNeeded:
        return _error(request, 401, "invalid_client", _FAILED)
    except Fault as fault:
        kinds = {401: "invalid_client", 400: "invalid_request"}
        if fault.status in kinds:
            return _error(request, fault.status, kinds[fault.status], fault.message)
        answer = _error(
            request, fault.status, "other_error",
            "An unknown error occurred and failed to get an OAuth2.0 access token.",
        )  # fmt: skip
        answer.headers.update(fault.headers)
        return answer
    left = int(seen.claims.expires - seen.claims.issued)
    return Answer(
        {"access_token": made, "token_type": "Bearer", "expires_in": left},
        headers={"Cache-Control": "no-store", "Pragma": "no-cache"},
    )


async def wrong_method(request: Request) -> Answer:
    return _error(request, 405, "other_error", "The method is not allowed for the requested URL.")


_PATH = "/OS-OAUTH2/token"
_FAULT = record({"error": TEXT, "error_description": TEXT}, ("error",))
ROUTES = [
    Route(f"POST {_PATH}", token, public=True, raw=True, faults=_FAULT),
    *(
        Route(f"{verb} {_PATH}", wrong_method, public=True, ok=405)
        for verb in ("GET", "HEAD", "PUT", "PATCH", "DELETE")
    ),
]

# SPDX-License-Identifier: Apache-2.0
"""How identity says that something is wrong: ``{"error": {code, message, title}}`` in the published wording."""

from __future__ import annotations

import re
from typing import Any

import orjson

from cumulet.kernel.errors import Conflict, Fault, Forbidden, Invalid, NotFound, Unauthorized
from cumulet.kernel.http.api import FaultRequest
from cumulet.kernel.http.body import Violation

_SECRET = re.compile(r"(password|secret|token|passcode|blob)(/id)?$")

_MALFORMED = (
    "The server could not comply with the request since it is either malformed or otherwise incorrect."
    " The client is assumed to be in error."
)


class AuthenticationFailed(Unauthorized):
    """An authentication that says more than that it failed; ``details['identity']`` goes into the body."""


class AuthenticationTold(Unauthorized):
    """A failure that its user must be told about: the password was right, or the account is locked."""


def missing(noun: str, id: object) -> NotFound:
    """The published 404 of one thing that is named by its id."""
    return NotFound(f"Could not find {noun}: {id}.")


def expecting(attribute: str, target: str) -> Invalid:
    """The published 400 for something that is not in the request."""
    return Invalid(f"Expecting to find {attribute} in {target}. {_MALFORMED}")


def taken(noun: str, details: str) -> Conflict:
    """The published 409 for a name or id that is in use."""
    return Conflict(f"Conflict occurred attempting to store {noun} - {details}.")


def forbidden_action(action: str) -> Forbidden:
    return Forbidden(f"You are not authorized to perform the requested action: {action}.")


def _tells_secret(name: str, value: Any) -> bool:
    """Whether a message that repeats this value would repeat a password, a secret or a token."""
    if isinstance(value, dict):
        return any(_tells_secret(key, inner) for key, inner in value.items())
    if isinstance(value, list):
        return any(_tells_secret(name, inner) for inner in value)
    return _SECRET.search(name) is not None


class IdentityDialect:
    """The published error bodies; ``mount`` is where the service stands below the host."""

    def __init__(self, mount: str) -> None:
        self._mount = mount

    def fault(self, fault: Fault, request: FaultRequest) -> tuple[int, dict[str, str], bytes]:
        headers = {"Content-Type": "application/json"}
        error: dict[str, Any] = {"code": fault.status, "message": fault.message, "title": fault.title}
        if isinstance(fault, Violation) and _tells_secret(fault.path, fault.value):
            error["message"] = f"Invalid input for field/attribute {fault.path} ({fault.keyword})."
        if isinstance(fault, Forbidden) and (rule := fault.details.get("rule")):
            error["message"] = forbidden_action(rule).message
        if isinstance(fault, Unauthorized):
            headers["WWW-Authenticate"] = f'Keystone uri="{request.base}{self._mount}/v3"'
            if isinstance(fault, AuthenticationFailed):
                error["identity"] = fault.details.get("identity", {})
            elif not isinstance(fault, AuthenticationTold):  # why an authentication failed is never told otherwise
                error["message"] = (Unauthorized.__doc__ or "").strip()
        return fault.status, headers, orjson.dumps({"error": error})

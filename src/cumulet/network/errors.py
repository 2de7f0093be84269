# SPDX-License-Identifier: Apache-2.0
"""The error dialect of network: ``{"NeutronError": {"type", "message", "detail"}}``.

Clients branch on the type, so every refusal has its published one here, next to
its wording. Source: Network API reference and what clients parse.
"""

from __future__ import annotations

from typing import Any

import orjson

from cumulet.kernel.errors import Conflict, Fault, Forbidden, Invalid, NotFound, OverQuota, PreconditionFailed
from cumulet.kernel.http.api import FaultRequest

_BY_STATUS = {
    400: "HTTPBadRequest",
    403: "HTTPForbidden",
    404: "HTTPNotFound",
    405: "HTTPMethodNotAllowed",
    409: "HTTPConflict",
    412: "HTTPPreconditionFailed",
    413: "HTTPRequestEntityTooLarge",
    415: "HTTPUnsupportedMediaType",
    500: "HTTPInternalServerError",
    501: "HTTPNotImplemented",
    503: "HTTPServiceUnavailable",
}
_OWN = {"Invalid", "NotFound", "Conflict", "Forbidden", "MethodNotAllowed", "Internal", "Unavailable", "TooLarge",
        "UnsupportedMedia", "PreconditionFailed", "NotSupported", "ValidationError", "Violation"}  # fmt: skip


class NetworkDialect:
    """A quota refusal is 409; 401 comes as identity's middleware says it."""

    def fault(self, fault: Fault, request: FaultRequest) -> tuple[int, dict[str, str], bytes]:
        headers = {"Content-Type": "application/json"}
        status = 409 if isinstance(fault, OverQuota) else fault.status
        if status == 401:
            headers["WWW-Authenticate"] = f'Keystone uri="{request.base}/identity"'
            told = {"code": 401, "title": fault.title, "message": fault.message}
            return 401, headers, orjson.dumps({"error": told})
        kind = _BY_STATUS.get(status, "HTTPError") if fault.kind in _OWN else fault.kind
        message = fault.message
        if isinstance(fault, OverQuota) and "exceeded" in fault.details:
            names = [one.resource for one in fault.details["exceeded"]]
            message = f"Quota exceeded for resources: {names}."
        elif kind == "PolicyNotAuthorized" and "rule" in fault.details:
            message = f"rule:{fault.details['rule']} is disallowed by policy"
        elif status == 500:
            message = "Request Failed: internal server error while processing your request."
        error: dict[str, Any] = {"type": kind, "message": message, "detail": fault.details.get("detail", "")}
        return status, headers, orjson.dumps({"NeutronError": error})


# ---- 400


def bad(resource: str, why: str) -> Fault:
    """A request about ``resource`` that can't be meant."""
    return Invalid(f"Bad {resource} request: {why}.", kind="BadRequest")


def invalid(why: str, kind: str = "InvalidInput") -> Fault:
    """An input that is wrong by itself."""
    return Invalid(f"Invalid input for operation: {why}.", kind=kind)


def http_bad(message: str) -> Fault:
    """A body or query that does not have the published shape."""
    return Invalid(message, kind="HTTPBadRequest")


# ---- 403, 404


def refuse(rule: str) -> Forbidden:
    """A policy rule that the caller does not satisfy."""
    return Forbidden(f"rule:{rule} is disallowed by policy", kind="PolicyNotAuthorized", rule=rule)


def missing(kind: str, message: str) -> NotFound:
    return NotFound(message, kind=kind)


def hidden() -> NotFound:
    """What may not be seen is not there."""
    return NotFound("The resource could not be found.", kind="HTTPNotFound")


# ---- 409, 412


def in_use(kind: str, message: str) -> Conflict:
    return Conflict(message, kind=kind)


def revision_mismatch(expected: int, current: int) -> PreconditionFailed:
    """If-Match named another revision than the current one."""
    return PreconditionFailed(
        f"Constrained to {expected}, but current revision is {current}", kind="RevisionNumberConstraintFailed"
    )


def no_address(network_id: str) -> Conflict:
    return Conflict(f"No more IP addresses available on network {network_id}.", kind="IpAddressGenerationFailure")


def address_taken(address: str, subnet_id: str) -> Conflict:
    return Conflict(f"IP address {address} already allocated in subnet {subnet_id}", kind="IpAddressAlreadyAllocated")

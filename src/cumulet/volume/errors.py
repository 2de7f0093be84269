# SPDX-License-Identifier: Apache-2.0
"""The volume API's published way of saying that something is wrong.

A volume in the wrong state is a bad request here (400), not a conflict; over
quota is 413 with ``Retry-After: 0``, as published.
"""

from __future__ import annotations

from typing import Any

import orjson

from cumulet.kernel.errors import Conflict, Fault, Invalid, OverQuota
from cumulet.kernel.http.api import FaultRequest
from cumulet.kernel.quota import Exceeded

_NAMES = {
    400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound", 405: "badMethod",
    409: "conflictingRequest", 413: "overLimit", 415: "badMediaType", 501: "notImplemented",
    503: "serviceUnavailable",
}  # fmt: skip


class InvalidInput(Invalid):
    """Invalid input received."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Invalid input received: {reason}", kind="InvalidInput")


class InvalidVolume(Invalid):
    """Invalid volume."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Invalid volume: {reason}", kind="InvalidVolume")


class VolumeDialect:
    """Faults as the volume service writes them."""

    def fault(self, fault: Fault, request: FaultRequest) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a fault."""
        status, message = fault.status, fault.message
        headers = {"Content-Type": "application/json"}
        if status == 401:
            told = {"error": {"code": 401, "title": fault.title, "message": message}}
            headers["WWW-Authenticate"] = f'Keystone uri="{request.base}/identity"'
            return status, headers, orjson.dumps(told)
        if isinstance(fault, Conflict) and fault.kind == "InvalidState":
            status, message = 400, f"Invalid volume: {message}"
        body: dict[str, Any] = {}
        if isinstance(fault, OverQuota):
            status, message = 413, _over(fault)
            headers["Retry-After"] = body["retryAfter"] = "0"
        body = {"code": status, "message": message, **body}
        return status, headers, orjson.dumps({_NAMES.get(status, "computeFault"): body})


def _over(fault: OverQuota) -> str:
    """What does not fit, in the published words."""
    exceeded: list[Exceeded] = fault.details.get("exceeded", [])
    for one in exceeded:
        if "gigabytes" in one.resource:
            return (
                f"Requested volume or snapshot exceeds allowed {one.resource} quota. Requested {one.asked}G, "
                f"quota is {one.limit}G and {one.used}G has been consumed."
            )
    for one in exceeded:
        if one.resource.startswith("volumes"):
            return f"Maximum number of volumes allowed ({one.limit}) exceeded for quota '{one.resource}'."
        if one.resource.startswith("snapshots"):
            return f"Maximum number of snapshots allowed ({one.limit}) exceeded"
    return fault.message

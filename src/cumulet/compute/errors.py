# SPDX-License-Identifier: Apache-2.0
"""How the Compute API says that something is wrong.

The body is one member named after the status with code and message; a missing
or refused token is answered in the words of the token middleware instead.
"""

from __future__ import annotations

from typing import Final

import orjson

from cumulet.kernel.errors import Fault, Invalid, NotFound
from cumulet.kernel.http.api import FaultRequest

NAMES: Final = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}
"""Any other status is a computeFault."""


class ComputeDialect:
    """The published error bodies of compute."""

    def fault(self, fault: Fault, request: FaultRequest) -> tuple[int, dict[str, str], bytes]:
        headers = {"Content-Type": "application/json; charset=UTF-8"}
        if fault.status == 401:
            headers["WWW-Authenticate"] = f'Keystone uri="{request.base}/identity"'
            told: dict[str, object] = {"code": 401, "title": "Unauthorized", "message": fault.message}
            return 401, headers, orjson.dumps({"error": told})
        body: dict[str, object] = {"code": fault.status, "message": fault.message}
        if fault.status in (413, 429):
            headers["Retry-After"] = "0"
            body["retryAfter"] = "0"
        return fault.status, headers, orjson.dumps({NAMES.get(fault.status, "computeFault"): body})


def server_missing(server_id: str) -> NotFound:
    return NotFound(f"Instance {server_id} could not be found.", kind="InstanceNotFound")


def marker_missing(marker: str) -> Invalid:
    return Invalid(f"marker [{marker}] not found", kind="MarkerNotFound")

# SPDX-License-Identifier: Apache-2.0
"""The error dialect of placement, and its published codes.

A fault's ``kind`` is its code; every other kind is shown as the undefined one.
Source: Placement API reference, "Errors".
"""

from __future__ import annotations

from typing import Any

import orjson

from cumulet.kernel.errors import Conflict, Fault
from cumulet.kernel.http.api import FaultRequest
from cumulet.kernel.http.body import QueryViolation, Violation
from cumulet.kernel.http.versions import within

UNDEFINED = "placement.undefined_code"
INVENTORY_IN_USE = "placement.inventory.inuse"
CONCURRENT_UPDATE = "placement.concurrent_update"
DUPLICATE_NAME = "placement.duplicate_name"
PROVIDER_IN_USE = "placement.resource_provider.inuse"
PROVIDER_IS_PARENT = "placement.resource_provider.cannot_delete_parent"
PROVIDER_NOT_FOUND = "placement.resource_provider.not_found"
DUPLICATE_KEY = "placement.query.duplicate_key"
BAD_VALUE = "placement.query.bad_value"
MISSING_VALUE = "placement.query.missing_value"


def generation_conflict() -> Conflict:
    """Someone else changed the provider since the caller read it."""
    return Conflict("resource provider generation conflict", kind=CONCURRENT_UPDATE)


class PlacementDialect:
    """``{"errors": [{status, title, detail, request_id, code}]}``; 401 comes as identity's middleware says it."""

    def fault(self, fault: Fault, request: FaultRequest) -> tuple[int, dict[str, str], bytes]:
        headers = {"Content-Type": "application/json"}
        if fault.status == 401:
            headers["WWW-Authenticate"] = f'Keystone uri="{request.base}/identity"'
            told = {"code": 401, "title": fault.title, "message": fault.message}
            return 401, headers, orjson.dumps({"error": told})
        error: dict[str, Any] = {
            "status": fault.status,
            "title": fault.title,
            "detail": _detail(fault),
            "request_id": request.request_id,
        }
        if request.version is not None and within(request.version, "1.23", None):
            error["code"] = fault.kind if fault.kind.startswith("placement.") else UNDEFINED
        if fault.status == 406 and "maximum" in fault.details:
            error["max_version"], error["min_version"] = fault.details["maximum"], fault.details["minimum"]
        return fault.status, headers, orjson.dumps({"errors": [error]})


def _detail(fault: Fault) -> str:
    if isinstance(fault, QueryViolation):
        return f"Invalid query string parameters: {fault.message}"
    if isinstance(fault, Violation):
        return f"JSON does not validate: {fault.message}"
    return fault.message

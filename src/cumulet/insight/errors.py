# SPDX-License-Identifier: Apache-2.0
"""The error dialect of insight: ``{"error": {"code", "title", "message"}}``."""

from __future__ import annotations

import orjson

from cumulet.kernel.errors import Fault
from cumulet.kernel.http.api import FaultRequest


class InsightDialect:
    """One shape for every fault; a 401 also says where tokens come from."""

    def fault(self, fault: Fault, request: FaultRequest) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a fault."""
        headers = {"Content-Type": "application/json"}
        if fault.status == 401:
            headers["WWW-Authenticate"] = f'Keystone uri="{request.base}/identity"'
        told = {"code": fault.status, "title": fault.title, "message": fault.message}
        return fault.status, headers, orjson.dumps({"error": told})

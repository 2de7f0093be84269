# SPDX-License-Identifier: Apache-2.0
"""The Compute API: its rows, one file per resource, and the application that they make.

Requests are lifted to the newest shape here and answers lowered here; no file
below this folder knows a microversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cumulet.compute.api import (
    aggregates,
    attachments,
    events,
    extensions,
    flavors,
    groups,
    hosts,
    keypairs,
    owned,
    quotas,
    server_actions,
    server_parts,
    servers,
    usage,
    versions,
    why,
)
from cumulet.compute.errors import ComputeDialect
from cumulet.compute.logic import Compute
from cumulet.compute.metadata.app import MetadataApp
from cumulet.compute.policy import RULES
from cumulet.kernel.http import Api, Flow, Route
from cumulet.kernel.http.route import under
from cumulet.kernel.policy import Policy
from cumulet.kernel.registry import Parts

_RESOURCES = (
    servers, server_actions, server_parts, attachments, flavors, keypairs, quotas, hosts, aggregates, groups, events,
    usage, extensions, why, owned,
)  # fmt: skip
ROUTES: Final[list[Route]] = [
    *versions.ROUTES,
    *under("/v2.1", [route for resource in _RESOURCES for route in resource.ROUTES]),
]


def make_api(
    parts: Parts, compute: Compute, *, policy_overrides: Mapping[str, str] | None = None
) -> tuple[Api, MetadataApp]:
    """The ASGI application of the role compute-api, and that of the guests' metadata beside it."""
    api = Api(
        "compute",
        ROUTES,
        dialect=ComputeDialect(),
        policy=Policy(RULES, policy_overrides or {}),
        service=compute,
        authenticator=parts.authenticator,
        versions=versions.VERSIONS,
        component="compute-api",
        host=parts.host,
        strip_project="/v2.1",
        flow=Flow("api.token.validate", "api.token.valid", always=True),
        max_body=1 << 20,
        extra_headers=lambda request_id: {"X-Compute-Request-Id": request_id},
    )
    return api, MetadataApp(compute)

# SPDX-License-Identifier: Apache-2.0
"""The Identity API v3 as one table of routes."""

from __future__ import annotations

from cumulet.identity.api import (
    assignments,
    auth,
    catalogue,
    credentials,
    discovery,
    domain_options,
    endpoint_filters,
    federation,
    feed,
    groups,
    limits,
    oauth1,
    oauth2,
    policies,
    projects,
    revocations,
    roles,
    sealed_credentials,
    trusts,
    users,
)
from cumulet.identity.api.directories import through_directories
from cumulet.identity.shapes import shapes
from cumulet.kernel.http.route import Route, returning, under

_ALL = [
    *discovery.ROUTES,
    *under(
        "/v3",
        [
            *auth.ROUTES,
            *users.ROUTES,
            *groups.ROUTES,
            *projects.ROUTES,
            *roles.ROUTES,
            *assignments.ROUTES,
            *catalogue.ROUTES,
            *credentials.ROUTES,
            *limits.ROUTES,
            *endpoint_filters.ROUTES,
            *policies.ROUTES,
            *domain_options.ROUTES,
            *federation.ROUTES,
            *trusts.ROUTES,
            *sealed_credentials.ROUTES,
            *oauth1.ROUTES,
            *oauth2.ROUTES,
            *revocations.ROUTES,
            *feed.ROUTES,
        ],
    ),
]
ROUTES: list[Route] = returning(shapes([route.at for route in _ALL]), through_directories(_ALL))

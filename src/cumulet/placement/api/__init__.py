# SPDX-License-Identifier: Apache-2.0
"""The Placement API: every operation as a row, by resource.

Source: Placement API reference and its microversion history, 1.0 to 1.39.
"""

from cumulet.kernel.http import Route, Versions
from cumulet.placement.api import allocations, candidates, inventories, names, owned, providers, root
from cumulet.placement.api.confined import confined

VERSIONS = Versions("placement", "1.0", "1.39")

ROUTES: list[Route] = confined(
    [
        *root.ROUTES,
        *providers.ROUTES,
        *inventories.ROUTES,
        *names.ROUTES,
        *allocations.ROUTES,
        *candidates.ROUTES,
        *owned.ROUTES,
    ]
)

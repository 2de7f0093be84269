# SPDX-License-Identifier: Apache-2.0
"""The first start: what a new cloud holds before anybody asks for anything.

Every part is an *ensure* and runs at each start, so a first start that was
killed half-way is finished by the next.
"""

from __future__ import annotations

from typing import Any

from cumulet.assembly.build import Cloud
from cumulet.assembly.table import SERVICES


async def first_start(cloud: Cloud, *, password: str) -> None:
    """Ensure users, catalogue, flavors and networks; ``password`` is that of admin, demo and alt_demo."""
    facts: dict[str, Any] = {
        "password": password,
        "service_passwords": {entry.package: cloud.parts.secrets.get(f"service:{entry.package}") for entry in SERVICES},
    }
    for entry in SERVICES:
        service = cloud.services.get(entry.package)
        if service is not None and service.bootstrap is not None:
            facts.update(await service.bootstrap(facts) or {})

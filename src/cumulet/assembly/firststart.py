# SPDX-License-Identifier: Apache-2.0
"""The first start: what a new cloud holds before anybody asks for anything.

Every part is an *ensure* and runs at each start, so a first start that was
killed half-way is finished by the next. Of processes that start together one
works on a service at a time.
"""

from __future__ import annotations

import logging
from typing import Any

from cumulet.assembly.build import Cloud
from cumulet.assembly.table import SERVICES
from cumulet.client.identity import IdentityClient
from cumulet.client.session import ServiceSession
from cumulet.kernel import clock
from cumulet.kernel.errors import Fault, Unauthorized

_log = logging.getLogger(__name__)
_AGAIN = 0.2


async def first_start(cloud: Cloud, *, password: str) -> None:
    """Ensure users, catalogue, flavors and networks; ``password`` is that of admin, demo and alt_demo."""
    facts: dict[str, Any] = {
        "password": password,
        "service_passwords": {entry.package: cloud.parts.secrets.get(f"service:{entry.package}") for entry in SERVICES},
    }
    for entry in SERVICES:
        service = cloud.services.get(entry.package)
        if service is None or service.bootstrap is None:
            continue
        async with cloud.databases[entry.package].hold("first start"):
            facts.update(await service.bootstrap(facts) or {})


async def start_services(cloud: Cloud) -> None:
    """The same for a process with some of the services; what they need to know identity tells, once it answers."""
    facts: dict[str, Any] = {}
    for entry in SERVICES:
        service = cloud.services.get(entry.package)
        if service is None or service.bootstrap is None:
            continue
        if not facts:
            secrets = cloud.parts.secrets
            facts = {
                "password": secrets.get("admin_password", 18),
                "service_passwords": {one.package: secrets.get(f"service:{one.package}") for one in SERVICES},
            }
        if entry.package != "identity" and "projects" not in facts:
            facts["projects"] = await _projects(cloud, entry.package)
        async with cloud.databases[entry.package].hold("first start"):
            facts.update(await service.bootstrap(facts) or {})


async def _projects(cloud: Cloud, package: str) -> dict[str, str]:
    """Name → id of the projects in identity's default domain, as soon as it answers."""
    session = ServiceSession(cloud.parts.transport, package, cloud.parts.secrets.get(f"service:{package}"))
    while True:
        try:
            found = await IdentityClient(session).projects(as_service=True)
            cloud.health.waiting_for = ""
            return {one.name: one.id for one in found if one.domain_id == "default"}
        except Fault as fault:
            # identity may be starting, too; a wrong password is told and tried again, since it is made there
            reason = "it refuses our password: is [cloud] secrets the same file everywhere?"
            told = f"identity: {reason if isinstance(fault, Unauthorized) else fault.message}"
            if told != cloud.health.waiting_for:
                _log.warning("waiting for %s", told)
            cloud.health.waiting_for = told
            await clock.sleep(_AGAIN)

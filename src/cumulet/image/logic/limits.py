# SPDX-License-Identifier: Apache-2.0
"""What a project may own: unified limits, which identity keeps; the settings where none is registered.

Registered limits are asked for at most every few seconds, a project's own only
when some are registered; when identity can't be asked, what was known last counts.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

from cumulet.client.session import ServiceSession
from cumulet.image.config import ImageConfig
from cumulet.kernel import clock
from cumulet.kernel.errors import Fault, NotFound

_log = logging.getLogger(__name__)
_FRESH = 5.0
"""Seconds that the registered limits are believed."""

SIZE, STAGE, COUNT, UPLOADING = "image_size_total", "image_stage_total", "image_count_total", "image_count_uploading"


class Limits:
    """The limits of all projects; sizes in MiB, -1 is unlimited."""

    def __init__(self, session: ServiceSession, config: ImageConfig) -> None:
        self._session, self._config = session, config
        self._service_id = ""
        self._registered: dict[str, int] = {}
        self._asked = -_FRESH

    @property
    def _defaults(self) -> dict[str, int]:
        config = self._config
        return {
            SIZE: config.total_mib_quota,
            STAGE: config.stage_mib_quota,
            COUNT: config.count_quota,
            UPLOADING: config.upload_count_quota,
        }

    async def of(self, project_id: str | None) -> dict[str, int]:
        """All limits of a project by their published names."""
        registered = await self._all_registered()
        found = {**self._defaults, **registered}
        if registered and project_id:
            query = f"/v3/limits?service_id={self._service_id}&project_id={quote(project_id, safe='')}"
            for one in await self._ask(query, "limits") or []:
                if one["resource_name"] in found:
                    found[one["resource_name"]] = one["resource_limit"]
        return found

    async def _all_registered(self) -> dict[str, int]:
        if clock.monotonic() - self._asked >= _FRESH:
            self._asked = clock.monotonic()
            services = await self._ask("/v3/services?type=image", "services")
            if services is not None:  # asked anew: limits of a service that is gone stay, and are nobody's
                self._service_id = services[0]["id"] if services else ""
            if self._service_id:
                query = f"/v3/registered_limits?service_id={self._service_id}"
                known = await self._ask(query, "registered_limits")
                if known is not None:
                    self._registered = {
                        one["resource_name"]: one["default_limit"]
                        for one in known
                        if one["resource_name"] in self._defaults
                    }
        return self._registered

    async def _ask(self, path: str, collection: str) -> list[dict[str, Any]] | None:
        """What identity lists; None when it can't be asked."""
        try:
            answer = await self._session.call("identity", "GET", path, as_service=True)
        except NotFound:
            return []
        except Fault as error:
            _log.warning("identity did not tell the limits: %s", error)
            return None
        found: list[dict[str, Any]] = answer[collection]
        return found

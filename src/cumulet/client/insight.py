# SPDX-License-Identifier: Apache-2.0
"""Insight as the others see it: the flow of a server as typed rows, and the explanation of its host.

The shapes are also those of the command line, which reads the same documents
with a session of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from cumulet.client.session import ServiceSession


GOAL = "server.active"
"""What comes after the 29 steps; it has no number."""


def _place(step: int | None, name: str) -> int:
    return step or (30 if name == GOAL else 0)


class FlowStep(msgspec.Struct):
    """One step of one attempt."""

    name: str
    attempt: int
    component: str
    step: int | None = None
    """1 to 29; None is the goal, or something besides."""
    between: str | None = None
    transport: str | None = None
    host: str | None = None
    """Only for admins."""
    started_at: str | None = None
    """ISO 8601; None: nobody recorded it."""
    duration_ms: float | None = None
    request_id: str | None = None
    detail: dict[str, Any] = {}
    skipped: str | None = None
    error: str | None = None

    @property
    def place(self) -> int:
        """Where it stands in the order: the steps, then the goal; 0 is something besides."""
        return _place(self.step, self.name)


class Flow(msgspec.Struct):
    """All that is known of the way of one server."""

    server: str
    events: list[FlowStep]
    beside: list[FlowStep] = []
    finished: bool = False


class StepName(msgspec.Struct):
    """What a step is, whether it happened or not."""

    step: int | None
    name: str
    between: str
    transport: str

    @property
    def place(self) -> int:
        """Where it stands in the order: the steps, then the goal."""
        return _place(self.step, self.name)


class InsightClient:
    """The REST client of the insight service."""

    def __init__(self, session: ServiceSession) -> None:
        self._session = session

    async def flow(self, server_id: str, *, as_service: bool = False) -> Flow:
        """The steps of a server so far. Raises NotFound when the caller may not see the server."""
        told = await self._session.call("cumulet", "GET", f"/v1/servers/{server_id}/flow", as_service=as_service)
        return msgspec.convert(told, Flow)

    async def why(self, server_id: str, *, as_service: bool = False) -> dict[str, Any]:
        """How the scheduler decided on a server: ``{"why": {...}, "fault": {...}}``."""
        told: dict[str, Any] = await self._session.call(
            "cumulet", "GET", f"/v1/servers/{server_id}/why", as_service=as_service
        )
        return told

# SPDX-License-Identifier: Apache-2.0
"""Allocation candidates: the answer in the form that the asked version can send back as a claim."""

from __future__ import annotations

from typing import Any

from cumulet.kernel.http import Answer, Request, Route
from cumulet.placement import schemas
from cumulet.placement.api.answers import answer, must_accept_json
from cumulet.placement.api.criteria import groups_of, wide_of
from cumulet.placement.logic.candidates import list_candidates
from cumulet.placement.logic.inventories import capacity
from cumulet.placement.search import Candidate, Provider


async def list_allocation_candidates(request: Request) -> Answer:
    must_accept_json(request)
    wide = wide_of(request)
    groups = groups_of(request, wide)
    asked = {name for group in groups for name in group.resources}
    found, described = await list_candidates(request.service, groups, wide, request.query.get("limit", [None])[0])
    body = {
        "allocation_requests": [_wish(request, candidate) for candidate in found],
        "provider_summaries": {provider.uuid: _summary(request, provider, asked) for provider in described},
    }
    return answer(request, body)


def _wish(request: Request, candidate: Candidate) -> dict[str, Any]:
    if not request.since("1.12"):
        listed = [
            {"resource_provider": {"uuid": uuid}, "resources": amounts}
            for uuid, amounts in candidate.allocations.items()
        ]
        return {"allocations": listed}
    wish: dict[str, Any] = {
        "allocations": {uuid: {"resources": amounts} for uuid, amounts in candidate.allocations.items()}
    }
    if request.since("1.34"):
        wish["mappings"] = candidate.mappings
    return wish


def _summary(request: Request, provider: Provider, asked: set[str]) -> dict[str, Any]:
    whole = request.since("1.27")
    summary: dict[str, Any] = {
        "resources": {
            name: {"capacity": capacity(row), "used": row["used"]}
            for name, row in provider.inventories.items()
            if whole or name in asked
        }
    }
    if request.since("1.17"):
        summary["traits"] = sorted(provider.traits)
    if request.since("1.29"):
        summary |= {"parent_provider_uuid": provider.parent, "root_provider_uuid": provider.root}
    return summary


ROUTES = [
    Route(
        "GET /allocation_candidates", list_allocation_candidates, policy="placement:allocation_candidates:list",
        query=schemas.LIST_CANDIDATES, since="1.10",
    ),
]  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""Why a server has no host: compute's explanation, with hosts' names for admins only."""

from __future__ import annotations

from typing import Any

from tests.contract.image.lone import ADMIN, DEMO, SERVICE, Lone
from tests.contract.insight.conftest import SERVER, PlayedCompute

WHY: dict[str, Any] = {
    "why": {
        "hosts": 3,
        "filters": [
            {
                "name": "ComputeFilter", "hosts_in": 3, "hosts_out": 2, "wanted": "up and enabled",
                "rejected": [{"host": "rack-1", "found": "disabled"}],
            },
            {
                "name": "ServerGroupAffinityFilter", "hosts_in": 2, "hosts_out": 1, "wanted": ["rack-2"],
                "rejected": [{"host": "rack-10", "found": "rack-10"}],
            },
        ],
        "best": [{"host": "rack-2", "node": "5db23d9a-f6fe-46fa-b105-0d1180476952", "weight": 1.5, "parts": {}}],
        "tried": [{"host": "rack-2", "outcome": "refused", "reason": "rack-2 has no room"}],
        "rounds": 1,
    },
    "fault": {"code": 500, "message": "No valid host was found. rack-1 is disabled."},
}  # fmt: skip


async def test_an_admin_is_told_everything(insight: Lone, compute: PlayedCompute) -> None:
    compute.whys[SERVER] = WHY
    reply = await insight.request("GET", f"/v1/servers/{SERVER}/why", token=ADMIN)
    assert reply.status == 200
    assert reply.json == WHY


async def test_a_user_is_told_numbers_and_no_names(insight: Lone, compute: PlayedCompute) -> None:
    compute.whys[SERVER] = WHY
    told = (await insight.request("GET", f"/v1/servers/{SERVER}/why", token=DEMO)).json
    first, second = told["why"]["filters"]
    assert (first["hosts_in"], first["hosts_out"]) == (3, 2)
    assert first["rejected"] == [{"host": "host-1", "found": "disabled"}]
    assert second["rejected"] == [{"host": "host-2", "found": "host-2"}]
    assert second["wanted"] == ["host-3"]
    assert told["why"]["best"] == [{"host": "host-3", "weight": 1.5, "parts": {}}]
    assert told["fault"]["message"] == "No valid host was found. host-1 is disabled."
    assert "rack" not in str(told)


async def test_only_after_the_caller_was_let_in_a_service_asks(insight: Lone, compute: PlayedCompute) -> None:
    compute.whys[SERVER] = WHY
    await insight.request("GET", f"/v1/servers/{SERVER}/why", token=DEMO)
    assert compute.asked == [
        (f"/v2.1/servers/{SERVER}", DEMO),
        (f"/v2.1/cumulet/servers/{SERVER}/why", SERVICE),
    ]


async def test_why_needs_compute(insight: Lone, compute: PlayedCompute) -> None:
    compute.away = True
    reply = await insight.request("GET", f"/v1/servers/{SERVER}/why", token=ADMIN)
    assert reply.status == 503
    assert reply.json["error"]["title"] == "Service Unavailable"

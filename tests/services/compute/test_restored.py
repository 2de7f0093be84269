# SPDX-License-Identifier: Apache-2.0
"""After a restore the records are older than the hosts: what they do not know stays until an operator says so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from cumulet.compute.drivers.model import PowerState
from cumulet.kernel import clock, ids
from tests.services.insight.furnished import furnished


async def test_an_unknown_guest_goes_only_once_the_restored_cloud_is_settled(tmp_path: Path) -> None:
    async with furnished(tmp_path) as rig:
        agent: Any = rig.role("compute", "compute-agent")
        marker = rig.cloud.cloud.parts.data / "restored"
        marker.write_text("from a backup\n")
        guests, unknown = agent.tools.hypervisor._guests, ids.new_uuid()
        known = guests[rig.server]
        plan = msgspec.structs.replace(known.plan, server_id=unknown)
        guests[unknown] = type(known)(plan, PowerState.RUNNING, [], [])
        reports = next(one for one in rig.cloud.cloud.services["compute"].roles if one.name == "compute-agent").tasks[1]
        await reports.run_once()  # type: ignore[attr-defined]
        assert unknown in guests
        marker.unlink()
        await reports.run_once()  # type: ignore[attr-defined]
        deadline = clock.monotonic() + 120
        while unknown in guests and clock.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert unknown not in guests
        assert rig.server in guests

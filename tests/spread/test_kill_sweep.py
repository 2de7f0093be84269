# SPDX-License-Identifier: Apache-2.0
"""Create and delete, killed with SIGKILL at every point of every step, in a process of its own.

After the restart each server is ACTIVE, in ERROR with a fault, or gone; every
invariant of the checker holds; and when all is deleted nothing is left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cumulet.cli.chaos.process import CloudProcess
from cumulet.cli.chaos.scenarios import SCENARIOS, Site, opened
from cumulet.cli.chaos.sweep import Swept, sweep
from cumulet.compute.sagas.create import CREATE_SERVER
from cumulet.compute.sagas.delete import DELETE_SERVER
from cumulet.kernel.saga import Saga


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[tuple[CloudProcess, Site]]:
    """A simulated cloud whose process can be held at its points, and its users."""
    process = CloudProcess(folder / "cloud", halts=True)
    async with opened(process) as site:
        await site.server({})  # the image is in the host's cache from here on
        yield process, site


def assert_survived(found: Swept, saga: Saga) -> None:
    for step in saga.steps:
        for phase in ("before", "worked", "committed"):
            assert f"{saga.name} {step.name} do: {phase}" in found.held, found.unreached
    assert len(found.held) >= len(found.points) * 0.9, found.unreached
    assert found.unexplained == []
    assert found.findings == []
    assert found.leftovers == []


async def test_create_and_delete_survive_a_kill_at_every_point(tmp_path: Path) -> None:
    async with started(tmp_path) as (process, site):
        create = await sweep(process, site, SCENARIOS["create"])
        assert_survived(create, CREATE_SERVER)
        assert create.outcomes.get("ERROR", 0) == 0, create.faults  # nothing failed but the process: all go forward
        delete = await sweep(process, site, SCENARIOS["delete"])
        assert_survived(delete, DELETE_SERVER)
        assert delete.outcomes == {}
        assert process.starts == 3

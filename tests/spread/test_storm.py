# SPDX-License-Identifier: Apache-2.0
"""A short storm over a spread cloud: processes are killed, stopped and cut off while users work; nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulet.cli.chaos.nursery import Nursery
from cumulet.cli.chaos.scenarios import opened
from cumulet.cli.chaos.spread import SpreadCloud
from cumulet.cli.chaos.storm import storm
from tests.cloud import new_database
from tests.rabbit import Rabbit

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit]


class Rough(SpreadCloud):
    """Cut off much more often than usual, so that a short storm has it all."""

    @property
    def kinds(self) -> dict[str, float]:
        return {kind: 0.5 if "-" in kind else rate for kind, rate in super().kinds.items()}


async def test_a_short_storm_leaves_nothing_behind(postgres: str, rabbit: Rabbit, tmp_path: Path) -> None:
    bus = rabbit.url().replace("@", f":{rabbit.password}@", 1)
    async with new_database(postgres) as dsn, Nursery() as nursery:
        cloud = Rough(tmp_path / "spread", dsn, bus, seed=5, launcher=nursery)
        async with opened(cloud) as site:
            found = await storm(cloud, site, kills=4, seed=5, workers=4)
    assert found.kills == 4
    assert found.blows > 4
    assert {"cut", "silence"} & {what.partition("-")[0] for what in found.struck}, found.struck
    assert len(found.restarts) == 4
    assert found.promises.begun.get("create server ok", 0) > 0
    assert found.coverage.came.total() > 0, "a flow came to where a kill was aimed"
    assert not found.thin, "four kills can't be everywhere"
    assert found.died == []
    assert found.broken_promises == []
    assert (found.swept.unexplained, found.swept.findings, found.swept.leftovers) == ([], [], [])

# SPDX-License-Identifier: Apache-2.0
"""A short storm over a spread cloud: processes are killed, stopped and cut off while users work; nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
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


def running_with(folder: Path) -> list[str]:
    """The processes, zombies apart, that were told of ``folder`` by an argument or their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            if words and str(folder).encode() in words + (process / "environ").read_bytes():
                found.append(f"{process.name} {words.decode(errors='replace')}")
        except OSError:  # it has ended, or is nobody of ours
            continue
    return found


async def test_a_storm_that_is_told_to_end_takes_all_with_it(tmp_path: Path) -> None:
    """Its processes, its PostgreSQL and its RabbitMQ; what it did so far is judged. A script's background job, too."""
    argv = [str(Path(sys.executable).with_name("cumulet")), "chaos", "--spread", "--kills", "1000"]
    process = await asyncio.create_subprocess_exec(
        "env", "--ignore-signal=INT", *argv, env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    lines = []
    async for line in process.stderr:
        lines.append(line.decode())
        if "blows are to come" in lines[-1]:
            break
    assert len(running_with(tmp_path)) > 5, lines
    process.send_signal(signal.SIGTERM)
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert "Nothing lost, nothing left over, nothing stuck." in said.decode()
    assert (running_with(tmp_path), list(tmp_path.iterdir())) == ([], [])

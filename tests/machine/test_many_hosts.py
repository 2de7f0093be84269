# SPDX-License-Identifier: Apache-2.0
"""Two hundred simulated hosts in four processes: all are known with what they have, servers go to many, and go again.

`python bench/hosts.py` measures the same with two of each control role and more servers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulet.cli.chaos import crowd
from cumulet.cli.chaos.nursery import Nursery
from cumulet.cli.chaos.scenarios import opened
from cumulet.cli.chaos.spread import SpreadCloud
from tests.cloud import new_database
from tests.rabbit import Rabbit

PROCESSES, EACH = 4, 50
HOSTS, SERVERS = PROCESSES * EACH, 60
CONTROL = (
    ("identity-api", "image-api", "placement-api", "network-api", "volume-api", "compute-api", "insight"),
    ("scheduler", "conductor", "volume-scheduler"),
)
WITHIN = 600.0
"""Seconds for each part, generous; no test runs beside this one, since it keeps the machine busy."""


@pytest.mark.machine
@pytest.mark.postgres
@pytest.mark.rabbit
@pytest.mark.timeout(2400)
async def test_two_hundred_hosts_in_four_processes(postgres: str, rabbit: Rabbit, tmp_path: Path) -> None:
    bus = rabbit.url().replace("@", f":{rabbit.password}@", 1)
    async with new_database(postgres) as dsn, Nursery() as nursery:
        cloud = SpreadCloud(
            tmp_path / "c", dsn, bus, groups=CONTROL, hosts=PROCESSES, each=EACH, launcher=nursery, halts=False
        )
        async with opened(cloud) as site:
            names = await crowd.known(site, HOSTS, WITHIN)
            assert names == {f"host-{one}-{two}" for one in range(1, PROCESSES + 1) for two in range(1, EACH + 1)}
            where = await crowd.boot(site, SERVERS, WITHIN)
            assert set(where) <= names
            assert where.total() == SERVERS
            assert max(where.values()) <= 3, where  # they spread, though all were asked for at once
            assert len({host.rpartition("-")[0] for host in where}) == PROCESSES, where
            await crowd.remove(site, WITHIN)
            checked = await site.admin.need("GET", "/cumulet/v1/check")
            assert checked["clean"], checked

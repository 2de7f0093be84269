# SPDX-License-Identifier: Apache-2.0
"""Many simulated hosts in two processes: all are known with what they have, servers go to all of them, and go again.

`python bench/hosts.py` does the same with two hundred.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from cumulet.cli import main
from cumulet.cli.chaos.nursery import Nursery
from cumulet.cli.chaos.scenarios import Site
from cumulet.cli.chaos.spread import SpreadCloud
from cumulet.cli.chaos.user import User
from tests.cloud import new_database
from tests.rabbit import Rabbit

PROCESSES, EACH = 2, 12
HOSTS, SERVERS = PROCESSES * EACH, 30
CONTROL = (
    ("identity-api", "image-api", "placement-api", "network-api", "volume-api", "compute-api", "insight"),
    ("scheduler", "conductor", "volume-scheduler"),
)
WITHIN = 150.0


@pytest.mark.postgres
@pytest.mark.rabbit
@pytest.mark.timeout(600)
async def test_one_process_is_many_hosts(postgres: str, rabbit: Rabbit, tmp_path: Path) -> None:
    bus = rabbit.url().replace("@", f":{rabbit.password}@", 1)
    async with new_database(postgres) as dsn, Nursery() as nursery:
        cloud = SpreadCloud(
            tmp_path / "c", dsn, bus, groups=CONTROL, hosts=PROCESSES, each=EACH, launcher=nursery, halts=False
        )
        try:
            await cloud.start()
            async with User(lambda: cloud.url, cloud.data, "admin") as admin:
                site = Site(admin, admin)
                await site.open()
                names = await _known(admin)
                assert names == {f"host-{one}-{two}" for one in range(1, PROCESSES + 1) for two in range(1, EACH + 1)}
                replies = await asyncio.gather(*(site.post_server({}) for _ in range(SERVERS)))
                assert [reply.status for reply in replies] == [202] * SERVERS
                assert await admin.when(lambda: _all_active(admin), WITHIN), await admin.servers()
                where = Counter(one["OS-EXT-SRV-ATTR:host"] for one in await admin.servers())
                assert set(where) <= names
                assert len(where) > EACH, where  # so both processes have some
                for one in await admin.servers():
                    assert (await admin.ask("DELETE", f"/compute/v2.1/servers/{one['id']}")).status == 204
                assert await admin.when(lambda: _none(admin), WITHIN)
                checked = await admin.need("GET", "/cumulet/v1/check")
                assert checked["clean"], checked
        finally:
            await cloud.remove()


async def _known(admin: User) -> set[str]:
    """The hosts, once all are there with what they have, in compute as in placement, and so are their other agents."""

    async def all_there() -> bool:
        hypervisors = await admin.listed("/compute/v2.1/os-hypervisors/detail", "hypervisors")
        providers = await admin.listed("/placement/resource_providers", "resource_providers")
        agents = await admin.listed("/network/v2.0/agents", "agents")
        return len(hypervisors) == HOSTS and len(providers) == HOSTS and len({one["host"] for one in agents}) == HOSTS

    assert await admin.when(all_there, WITHIN)
    providers = await admin.listed("/placement/resource_providers", "resource_providers")
    names = {one["name"] for one in providers}
    assert names == {
        one["hypervisor_hostname"] for one in await admin.listed("/compute/v2.1/os-hypervisors", "hypervisors")
    }
    for one in providers:
        held = (await admin.need("GET", f"/placement/resource_providers/{one['uuid']}/inventories"))["inventories"]
        assert {"VCPU", "MEMORY_MB", "DISK_GB"} <= set(held)
        assert all(row["total"] > 0 for row in held.values())
    return names


async def _all_active(admin: User) -> bool:
    statuses = {one["status"] for one in await admin.servers()}
    assert "ERROR" not in statuses, await admin.servers()
    return statuses == {"ACTIVE"}


async def _none(admin: User) -> bool:
    return not await admin.servers()


def test_only_simulated_hosts_share_a_process(tmp_path: Path) -> None:
    words = ["run", "compute-agent", "--hypervisor", "libvirt", "--hosts", "2", "--data", str(tmp_path / "d")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "only with --hypervisor simulated" in result.output

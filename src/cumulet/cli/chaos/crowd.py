# SPDX-License-Identifier: Apache-2.0
"""Many simulated hosts at once: known with all that they have, servers spread over them, and gone again.

For a test and a measurement. Everything is asked of the published APIs, with the
limits (in seconds) that the caller sets; RuntimeError says what was not so.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from cumulet.cli.chaos.scenarios import Site

AT_ONCE = 40
"""Requests at the same time."""


async def known(site: Site, hosts: int, within: float) -> set[str]:
    """The names of all hosts, once compute, placement and network know them, and volume has somewhere to put data."""
    admin = site.admin
    seen: dict[str, int] = {}

    async def all_there() -> bool:
        hypervisors = await admin.listed("/compute/v2.1/os-hypervisors", "hypervisors")
        providers = await admin.listed("/placement/resource_providers", "resource_providers")
        agents = await admin.listed("/network/v2.0/agents", "agents")
        seen.update(compute=len(hypervisors), placement=len(providers), network=len({one["host"] for one in agents}))
        return all(number >= hosts for number in seen.values())

    if not await admin.when(all_there, within):
        raise RuntimeError(f"of {hosts} hosts there are {seen} after {within:g} s")
    providers = await admin.listed("/placement/resource_providers", "resource_providers")
    names = {one["name"] for one in providers}
    listed = {one["hypervisor_hostname"] for one in await admin.listed("/compute/v2.1/os-hypervisors", "hypervisors")}
    if names != listed:
        raise RuntimeError(f"compute and placement don't agree: {sorted(names ^ listed)}")
    places = asyncio.Semaphore(AT_ONCE)

    async def lacks(provider: str) -> bool:
        async with places:
            told = await admin.need("GET", f"/placement/resource_providers/{provider}/inventories")
        totals = {name: one["total"] for name, one in told["inventories"].items()}
        return not all(totals.get(name, 0) > 0 for name in ("VCPU", "MEMORY_MB", "DISK_GB"))

    lacking = await asyncio.gather(*(lacks(one["uuid"]) for one in providers))
    if any(lacking):
        raise RuntimeError(f"{sum(lacking)} hosts have no inventory")
    return names


async def boot(site: Site, servers: int, within: float) -> Counter[str]:
    """Create so many servers and wait until all are ACTIVE; returns how many are on which host."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with places:
            reply = await site.post_server({})
        if not reply.good:
            raise RuntimeError(f"a server was refused: {reply.status} {reply.json}")

    await asyncio.gather(*(one() for _ in range(servers)))

    async def at_rest() -> bool:
        await asyncio.sleep(0.5)  # each look at many servers is work for the cloud, too
        return all(one["status"] in ("ACTIVE", "ERROR") for one in await site.user.servers())

    in_time = await site.user.when(at_rest, within)
    found = await site.admin.listed("/compute/v2.1/servers/detail?all_tenants=1&limit=1000", "servers")
    ends = Counter(str(one["status"]) for one in found)
    if not in_time or ends != {"ACTIVE": servers}:
        raise RuntimeError(f"of {servers} servers after at most {within:g} s: {dict(ends)}")
    return Counter(str(one["OS-EXT-SRV-ATTR:host"]) for one in found)


async def remove(site: Site, within: float) -> None:
    """Delete all servers of the user, and wait until there are none."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(server: str) -> None:
        async with places:
            reply = await site.user.ask("DELETE", f"/compute/v2.1/servers/{server}")
        if not reply.good:
            raise RuntimeError(f"the deletion of {server} was refused: {reply.status} {reply.json}")

    await asyncio.gather(*(one(server["id"]) for server in await site.user.servers()))

    async def none() -> bool:
        await asyncio.sleep(0.5)
        return not await site.user.servers()

    if not await site.user.when(none, within):
        raise RuntimeError(f"{len(await site.user.servers())} servers are still there after {within:g} s")

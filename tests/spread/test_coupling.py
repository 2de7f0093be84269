# SPDX-License-Identifier: Apache-2.0
"""Each part of a cloud is taken away in turn: what does not need it goes on, what needs it names what is missing.

All is asked through the front door. When the part is back everything goes on by
itself: requests are answered, and what was accepted meanwhile is done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cumulet.cli.chaos.nursery import Nursery
from cumulet.cli.chaos.scenarios import Site, opened
from cumulet.cli.chaos.spread import Part, SpreadCloud
from cumulet.cli.chaos.user import Reply
from tests.cloud import new_database
from tests.rabbit import Rabbit

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit]

GROUPS = (
    ("identity-api", "placement-api", "compute-api", "conductor", "insight"),
    ("image-api",),
    ("network-api",),
    ("volume-api", "volume-scheduler"),
    ("scheduler",),
)
"""What is taken away has a process of its own."""
WITHIN = 120.0
"""Seconds for whatever must come true by itself, on a machine that has more to do than this."""
LISTS = {
    "compute": "/compute/v2.1/servers", "image": "/image/v2/images", "network": "/network/v2.0/networks",
    "block-storage": "/volume/v3/volumes", "placement": "/placement/resource_providers",
    "identity": "/identity/v3/users",
}  # fmt: skip


class Town:
    """The cloud, its administrator at the front door, and what can be taken away."""

    def __init__(self, cloud: SpreadCloud, site: Site) -> None:
        self.cloud, self.site, self.user = cloud, site, site.user

    def part(self, role: str) -> Part:
        return next(part for part in self.cloud.parts if role in part.roles)

    @asynccontextmanager
    async def without(self, role: str) -> AsyncIterator[None]:
        """That role's process is dead meanwhile."""
        await self.part(role).end()
        yield
        await self.cloud.revive(self.part(role))
        await self.answers()

    @contextmanager
    def cut(self, what: str) -> Iterator[None]:
        """Nobody reaches the broker, or the database, meanwhile."""
        relays = [relay for part in self.cloud.parts if (relay := getattr(part, what)) is not None]
        for relay in relays:
            relay.refuse()
        yield
        for relay in relays:
            relay.mend()

    async def lists(self, *, without: str = "") -> None:
        """Every service answers but that one, and the front door says which is missing."""
        for name, path in LISTS.items():
            reply = await self.user.ask("GET", path)
            if name == without:
                names(reply, name)
            else:
                assert reply.status == 200, (name, reply)

    async def answers(self) -> None:
        """Wait until every service does."""

        async def all_do() -> bool:
            return all([(await self.user.ask("GET", path)).good for path in LISTS.values()])

        assert await self.user.when(all_do, WITHIN)

    async def well(self) -> None:
        """All answer, and a server can be built and removed."""
        await self.answers()
        posted: list[Reply] = []

        async def taken() -> bool:
            posted.append(await self.site.post_server({}))
            return posted[-1].good

        assert await self.user.when(taken, WITHIN), posted[-1]
        await self.gone(await self.active(posted[-1]))

    async def active(self, posted: Reply) -> str:
        """The path of the accepted server, once it is ACTIVE."""
        assert posted.status == 202, posted
        path = f"/compute/v2.1/servers/{posted.json['server']['id']}"
        assert await self.user.until(path, "server", ["ACTIVE", "ERROR"], WITHIN) == "ACTIVE"
        return path

    async def gone(self, path: str) -> None:
        """Delete it, and wait until it is not there."""
        assert (await self.user.ask("DELETE", path)).good
        await self.user.until(path, path.split("/")[-2].removesuffix("s"), ["gone"], WITHIN)

    async def stops(self, path: str) -> None:
        """A running server can be stopped."""
        assert (await self.user.ask("POST", f"{path}/action", {"os-stop": None})).status == 202
        await self.user.until(path, "server", ["SHUTOFF"], WITHIN)

    async def new_volume(self) -> str:
        made = await self.user.ask("POST", "/volume/v3/volumes", {"volume": {"size": 1}})
        assert made.good, made
        path = f"/volume/v3/volumes/{made.json['volume']['id']}"
        assert await self.user.until(path, "volume", ["available", "error"], WITHIN) == "available"
        return path

    async def attach(self, server: str, volume: str) -> Reply:
        body = {"volumeAttachment": {"volumeId": volume.rpartition("/")[2]}}
        return await self.user.ask("POST", f"{server}/os-volume_attachments", body)

    async def health(self, role: str, path: str) -> tuple[int, Any]:
        """What that role's process says of itself."""
        async with aiohttp.ClientSession() as session, session.get(self.part(role).url + path) as reply:
            return reply.status, await reply.json()

    async def says(self, role: str, word: str) -> None:
        """Wait until that role's process, which lives, says that it is not ready, and why."""

        async def does() -> bool:
            status, told = await self.health(role, "/readyz")
            return status == 503 and any(word in problem for problem in told["problems"])

        assert await self.user.when(does, WITHIN), await self.health(role, "/readyz")
        assert (await self.health(role, "/healthz"))[0] == 200


def names(reply: Reply, *words: str) -> None:
    """503, with the name of what is missing."""
    assert reply.status == 503, reply
    assert any(word in reply.text for word in words), reply


async def image_is_away(town: Town) -> None:
    async with town.without("image-api"):
        await town.lists(without="image")
        names(await town.site.post_server({}), "image")
        await town.gone(await town.new_volume())


async def network_is_away(town: Town) -> None:
    kept = await town.active(await town.site.post_server({}))
    async with town.without("network-api"):
        await town.lists(without="network")
        names(await town.site.post_server({}), "network")
        await town.gone(await town.new_volume())
        await town.stops(kept)
        assert (await town.user.ask("DELETE", kept)).status == 204  # its ports go when network is back
    await town.user.until(kept, "server", ["gone"], WITHIN)


async def volume_is_away(town: Town) -> None:
    volume = await town.new_volume()
    kept = await town.active(await town.site.post_server({}))
    assert (await town.attach(kept, volume)).good
    await town.user.until(volume, "volume", ["in-use"], WITHIN)
    async with town.without("volume-api"):
        await town.lists(without="block-storage")
        other = await town.active(await town.site.post_server({}))
        names(await town.attach(other, volume), "volume", "block-storage")
        await town.gone(other)
        assert (await town.user.ask("DELETE", kept)).status == 204  # its attachment goes when volume is back
    await town.user.until(kept, "server", ["gone"], WITHIN)
    await town.user.until(volume, "volume", ["available"], WITHIN)
    await town.gone(volume)


async def scheduler_is_away(town: Town) -> None:
    kept = await town.active(await town.site.post_server({}))
    async with town.without("scheduler"):
        await town.lists()
        waiting = await town.site.post_server({})
        assert waiting.status == 202, waiting  # it waits in its saga
        await town.stops(kept)
        shown = await town.user.ask("GET", f"/compute/v2.1/servers/{waiting.json['server']['id']}")
        assert shown.json["server"]["status"] == "BUILD"
    await town.gone(kept)
    await town.gone(await town.active(waiting))


async def broker_is_away(town: Town) -> None:
    with town.cut("broker"):
        await town.lists()
        network = await town.user.ask("POST", "/network/v2.0/networks", {"network": {"name": "quiet"}})
        assert network.status == 201, network
        waiting = await town.site.post_server({})
        assert waiting.status == 202 or "broker" in waiting.text, waiting
        await town.says("compute-api", "broker")
    await town.answers()
    assert (await town.user.ask("DELETE", f"/network/v2.0/networks/{network.json['network']['id']}")).good
    if waiting.good:
        await town.gone(await town.active(waiting))


async def database_is_away(town: Town) -> None:
    kept = await town.active(await town.site.post_server({}))
    with town.cut("database"):
        for path in LISTS.values():
            names(await town.user.ask("GET", path), "database")
        names(await town.site.post_server({}), "database")
        for role in ("compute-api", "network-api"):
            await town.says(role, "database")
    await town.answers()
    await town.gone(kept)


async def test_whatever_is_away_the_rest_goes_on(postgres: str, rabbit: Rabbit, tmp_path: Path) -> None:
    bus = rabbit.url().replace("@", f":{rabbit.password}@", 1)
    async with new_database(postgres) as dsn, Nursery() as nursery:
        cloud = SpreadCloud(tmp_path / "c", dsn, bus, groups=GROUPS, hosts=1, launcher=nursery, halts=False)
        async with opened(cloud, "admin") as site:
            town = Town(cloud, site)
            await town.well()
            for away in (image_is_away, network_is_away, volume_is_away, scheduler_is_away):
                await away(town)
            for away in (broker_is_away, database_is_away):
                await away(town)
                await town.well()
            assert all(part.alive for part in cloud.parts)
            checked = await site.admin.need("GET", "/cumulet/v1/check")
            assert checked["clean"], checked

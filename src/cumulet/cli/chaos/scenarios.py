# SPDX-License-Identifier: Apache-2.0
"""What is done to the cloud while it is killed: one row per operation.

Each makes what it needs (``prepare``), does one thing (``act``), which may go
unanswered, and leaves things whose end anybody can see through the API.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cumulet.cli.chaos.user import Reply, User

Item = dict[str, str]


@dataclass
class Site:
    """The cloud as its users know it."""

    user: User
    admin: User
    image: str = ""
    private: str = ""
    public: str = ""
    made: int = 0
    names: set[str] = field(default_factory=set)

    async def open(self) -> None:
        """Find image and networks, and let the quota allow what is to come."""
        self.image = (await self.user.listed("/image/v2/images", "images"))[0]["id"]
        networks = {one["name"]: one["id"] for one in await self.user.listed("/network/v2.0/networks", "networks")}
        self.private, self.public = networks["private"], networks["public"]
        project = (await self.user.listed("/identity/v3/auth/projects", "projects"))[0]["id"]
        many = {"instances": 2000, "cores": 4000, "ram": 4_000_000}
        await self.admin.need("PUT", f"/compute/v2.1/os-quota-sets/{project}", {"quota_set": many})
        some = {"volumes": 2000, "gigabytes": 4000}
        await self.admin.need("PUT", f"/volume/v3/os-quota-sets/{project}", {"quota_set": some})
        ports = {"port": 2000, "floatingip": 200}
        await self.admin.need("PUT", f"/network/v2.0/quotas/{project}", {"quota": ports})
        await self.admin.when(lambda: self.admin.listed("/compute/v2.1/os-hypervisors", "hypervisors"))

    def name(self, what: str) -> str:
        self.made += 1
        return f"{what}-{self.made}"

    # ---- things

    async def volume(self) -> str:
        made = await self.user.need("POST", "/volume/v3/volumes", {"volume": {"size": 1}})
        volume_id: str = made["volume"]["id"]
        await self.user.until(f"/volume/v3/volumes/{volume_id}", "volume", ["available"])
        return volume_id

    async def port(self) -> str:
        made = await self.user.need("POST", "/network/v2.0/ports", {"port": {"network_id": self.private}})
        port_id: str = made["port"]["id"]
        return port_id

    async def post_server(self, item: Item) -> Reply:
        """A server with a NIC of its own, the user's port and the user's volume, as far as the item has them.

        An item's ``root`` of "volume" has its root disk be a volume that is made for it.
        """
        nics: list[dict[str, str]] = [{"uuid": self.private}]
        if "port" in item:
            nics.append({"port": item["port"]})
        body: dict[str, Any] = {"name": self.name("s"), "flavorRef": "42", "imageRef": self.image, "networks": nics}
        on_volume = item.get("root") == "volume"
        root = {"boot_index": 0, "uuid": self.image, "source_type": "image", "delete_on_termination": True}
        root |= {"destination_type": "volume", "volume_size": 1} if on_volume else {"destination_type": "local"}
        disks = [root] if on_volume or "volume" in item else []
        if on_volume:
            body["imageRef"] = ""
        if "volume" in item:
            more = {"boot_index": -1, "uuid": item["volume"], "source_type": "volume", "destination_type": "volume"}
            disks.append(more)
        if disks:
            body["block_device_mapping_v2"] = disks
        return await self.user.ask("POST", "/compute/v2.1/servers", {"server": body})

    async def server(self, item: Item) -> str:
        """An ACTIVE server."""
        reply = await self.post_server(item)
        if not reply.good:
            raise RuntimeError(f"a server was refused: {reply.status} {reply.json}")
        server_id: str = reply.json["server"]["id"]
        await self.user.until(f"/compute/v2.1/servers/{server_id}", "server", ["ACTIVE"])
        return server_id

    async def floating(self) -> str:
        body = {"floatingip": {"floating_network_id": self.public}}
        made = await self.user.need("POST", "/network/v2.0/floatingips", body)
        floating_id: str = made["floatingip"]["id"]
        return floating_id

    async def first_port(self, server_id: str) -> str:
        ports = await self.user.listed(f"/network/v2.0/ports?device_id={server_id}", "ports")
        port_id: str = ports[0]["id"]
        return port_id

    async def attach(self, item: Item) -> Reply:
        body = {"volumeAttachment": {"volumeId": item["volume"]}}
        return await self.user.ask("POST", f"/compute/v2.1/servers/{item['server']}/os-volume_attachments", body)

    async def lead(self, item: Item, port: str | None) -> Reply:
        """Let the item's floating IP lead to a port, or nowhere."""
        body = {"floatingip": {"port_id": port}}
        return await self.user.ask("PUT", f"/network/v2.0/floatingips/{item['floating']}", body)


class Opened(Protocol):
    """A cloud under test, as far as its users see it."""

    data: Path

    @property
    def url(self) -> str: ...

    async def start(self) -> float: ...

    async def remove(self) -> None: ...


@asynccontextmanager
async def opened(cloud: Opened, user: str = "demo") -> AsyncIterator[Site]:
    """Start a cloud, with its user and its administrator at the door; end it in the end."""
    try:
        await cloud.start()
        demo, admin = (User(lambda: cloud.url, cloud.data, name) for name in (user, "admin"))
        async with demo, admin:
            site = Site(demo, admin)
            await site.open()
            yield site
    finally:
        await cloud.remove()


@dataclass(frozen=True)
class Scenario:
    """One operation."""

    name: str
    prepare: Callable[[Site], Awaitable[Item]]
    act: Callable[[Site, Item], Awaitable[Any]]
    done: Callable[[Site, Item], Awaitable[bool]]
    """Whether the operation is over (asked while nothing is killed)."""
    gate: str = ""
    """A point at which all wait until ``then`` was asked, too; only what comes after it is swept."""
    then: Callable[[Site, Item], Awaitable[Any]] | None = None


async def _nothing_yet(site: Site) -> Item:
    volume, port = await asyncio.gather(site.volume(), site.port())
    return {"volume": volume, "port": port}


async def _root_to_make(site: Site) -> Item:
    return {"root": "volume"}


async def _whole_server(site: Site) -> Item:
    item = {"volume": await site.volume()}
    return {**item, "server": await site.server(item)}


async def _server_and_volume(site: Site) -> Item:
    volume, server = await asyncio.gather(site.volume(), site.server({}))
    return {"volume": volume, "server": server}


async def _attached(site: Site) -> Item:
    item = await _server_and_volume(site)
    await site.attach(item)
    await site.user.until(f"/volume/v3/volumes/{item['volume']}", "volume", ["in-use"])
    return item


async def _server_and_floating(site: Site) -> Item:
    server, floating = await asyncio.gather(site.server({}), site.floating())
    return {"server": server, "floating": floating, "port": await site.first_port(server)}


async def _associated(site: Site) -> Item:
    item = await _server_and_floating(site)
    await site.lead(item, item["port"])
    await site.user.until(f"/network/v2.0/floatingips/{item['floating']}", "floatingip", ["ACTIVE"])
    return item


async def _delete(site: Site, item: Item) -> Any:
    return await site.user.ask("DELETE", f"/compute/v2.1/servers/{item['server']}")


async def _post_named(site: Site, item: Item) -> Any:
    reply = await site.post_server(item)
    item["server"] = reply.json["server"]["id"]
    return reply


async def _detach(site: Site, item: Item) -> Any:
    path = f"/compute/v2.1/servers/{item['server']}/os-volume_attachments/{item['volume']}"
    return await site.user.ask("DELETE", path)


async def _server(site: Site) -> Item:
    return {"server": await site.server({})}


async def _server_and_nic(site: Site) -> Item:
    server, port = await asyncio.gather(site.server({}), site.port())
    item = {"server": server, "port": port}
    await _plug(site, item)
    return item


async def _server_and_port(site: Site) -> Item:
    server, port = await asyncio.gather(site.server({}), site.port())
    return {"server": server, "port": port}


async def _plug(site: Site, item: Item) -> Any:
    body = {"interfaceAttachment": {"port_id": item["port"]}}
    return await site.user.ask("POST", f"/compute/v2.1/servers/{item['server']}/os-interface", body)


async def _unplug(site: Site, item: Item) -> Any:
    return await site.user.ask("DELETE", f"/compute/v2.1/servers/{item['server']}/os-interface/{item['port']}")


async def _stop(site: Site, item: Item) -> Any:
    return await site.user.ask("POST", f"/compute/v2.1/servers/{item['server']}/action", {"os-stop": None})


async def _make_volume(site: Site, item: Item) -> Any:
    return await site.user.ask("POST", "/volume/v3/volumes", {"volume": {"size": 1}})


async def _drop_volume(site: Site, item: Item) -> Any:
    return await site.user.ask("DELETE", f"/volume/v3/volumes/{item['volume']}")


async def _nothing(site: Site) -> Item:
    return {}


async def _one_volume(site: Site) -> Item:
    return {"volume": await site.volume()}


async def _nothing_works(site: Site, item: Item) -> bool:
    """No saga of any service is left."""
    paths = ("/compute/v2.1", "/volume/v3", "/network/v2.0")
    return not any([await site.admin.listed(f"{path}/cumulet/owned?kind=saga", "owned") for path in paths])


async def _all_at_rest(site: Site, item: Item) -> bool:
    return all(one["status"] != "BUILD" and one["OS-EXT-STS:task_state"] is None for one in await site.user.servers())


async def _all_gone(site: Site, item: Item) -> bool:
    return all(one["id"] != item["server"] for one in await site.user.servers())


async def _volume_is(site: Site, item: Item, status: str) -> bool:
    reply = await site.user.ask("GET", f"/volume/v3/volumes/{item['volume']}")
    return bool(reply.good and reply.json["volume"]["status"] == status)


_BUILT = "compute.create_server build do: worked"

SCENARIOS = {
    one.name: one
    for one in (
        Scenario("create", _nothing_yet, lambda site, item: site.post_server(item), _all_at_rest),
        Scenario("create-root", _root_to_make, lambda site, item: site.post_server(item), _all_at_rest),
        Scenario("cancel-root", _root_to_make, _post_named, _all_gone, _BUILT, _delete),
        Scenario("delete", _whole_server, _delete, _all_at_rest),
        Scenario("cancel", _nothing_yet, _post_named, _all_gone, _BUILT, _delete),
        Scenario("attach", _server_and_volume, lambda site, item: site.attach(item),
                 lambda site, item: _volume_is(site, item, "in-use")),
        Scenario("detach", _attached, _detach, lambda site, item: _volume_is(site, item, "available")),
        Scenario("plug", _server_and_port, _plug, _nothing_works),
        Scenario("unplug", _server_and_nic, _unplug, _nothing_works),
        Scenario("stop", _server, _stop, _nothing_works),
        Scenario("make-volume", _nothing, _make_volume, _nothing_works),
        Scenario("drop-volume", _one_volume, _drop_volume, _nothing_works),
        Scenario("associate", _server_and_floating, lambda site, item: site.lead(item, item["port"]), _nothing_works),
        Scenario("disassociate", _associated, lambda site, item: site.lead(item, None), _nothing_works),
    )
}  # fmt: skip

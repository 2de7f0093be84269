# SPDX-License-Identifier: Apache-2.0
"""The main thread of a cloud through separate processes, two of each, by the front door alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.spread.processes import Spread

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit, pytest.mark.asyncio(loop_scope="session")]


async def make(cloud: Spread, path: str, member: str, values: dict[str, Any]) -> dict[str, Any]:
    reply = await cloud.request("POST", path, {member: values})
    assert reply.status in (200, 201, 202), reply.data
    made: dict[str, Any] = reply.json[member]
    return made


async def image_of(cloud: Spread) -> str:
    """A small image, uploaded in pieces through the front door."""
    made = (
        await cloud.request(
            "POST", "/image/v2/images", {"name": "blank", "disk_format": "raw", "container_format": "bare"}
        )
    ).json
    where = f"/image/v2/images/{made['id']}/file"

    async def pieces() -> Any:
        for _ in range(16):
            yield bytes(64 * 1024)

    reply = await cloud.request("PUT", where, body=pieces(), headers={"content-type": "application/octet-stream"})
    assert reply.status == 204, reply.data
    back = await cloud.request("GET", where)
    assert (back.status, len(back.data)) == (200, 1 << 20)
    identity: str = made["id"]
    return identity


async def test_the_thread(spread: Spread) -> None:
    """Network, port, volume, server, attachment, floating IP; then everything goes again."""
    image = await image_of(spread)
    flavors = (await spread.request("GET", "/compute/v2.1/flavors")).json["flavors"]
    flavor = next(one["id"] for one in flavors if one["name"] == "m1.nano")
    networks = (await spread.request("GET", "/network/v2.0/networks?name=public")).json["networks"]
    network = await make(spread, "/network/v2.0/networks", "network", {"name": "n"})
    subnet = await make(
        spread, "/network/v2.0/subnets", "subnet",
        {"network_id": network["id"], "cidr": "10.77.0.0/24", "ip_version": 4},
    )  # fmt: skip
    router = await make(
        spread, "/network/v2.0/routers", "router",
        {"name": "r", "external_gateway_info": {"network_id": networks[0]["id"]}},
    )  # fmt: skip
    joined = await spread.request(
        "PUT", f"/network/v2.0/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]}
    )
    assert joined.status == 200, joined.data
    port = await make(spread, "/network/v2.0/ports", "port", {"network_id": network["id"], "name": "p"})
    volume = await make(spread, "/volume/v3/volumes", "volume", {"size": 1, "name": "v"})
    server = await make(
        spread, "/compute/v2.1/servers", "server",
        {"name": "s", "imageRef": image, "flavorRef": flavor, "networks": [{"port": port["id"]}]},
    )  # fmt: skip
    where = f"/compute/v2.1/servers/{server['id']}"
    shown = await spread.settle(where, "server", ["ACTIVE"])
    assert shown["OS-EXT-SRV-ATTR:host"] == "host-0"
    assert shown["links"][0]["href"].startswith(spread.front + "/compute/"), "links name the front door"
    await spread.settle(f"/volume/v3/volumes/{volume['id']}", "volume", ["available"])
    attached = await spread.request(
        "POST", f"{where}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume["id"]}}
    )
    assert attached.status == 200, attached.data
    await spread.settle(f"/volume/v3/volumes/{volume['id']}", "volume", ["in-use"])
    floating = await make(
        spread, "/network/v2.0/floatingips", "floatingip",
        {"floating_network_id": networks[0]["id"], "port_id": port["id"]},
    )  # fmt: skip
    await spread.settle(f"/network/v2.0/floatingips/{floating['id']}", "floatingip", ["ACTIVE"])
    flow = (await spread.request("GET", f"/cumulet/v1/servers/{server['id']}/flow")).json
    assert flow
    assert (await spread.request("DELETE", f"/network/v2.0/floatingips/{floating['id']}")).status == 204
    assert (await spread.request("DELETE", f"{where}/os-volume_attachments/{volume['id']}")).status == 202
    await spread.settle(f"/volume/v3/volumes/{volume['id']}", "volume", ["available"])
    assert (await spread.request("DELETE", where)).status == 204
    await spread.gone(where)
    assert (await spread.request("DELETE", f"/volume/v3/volumes/{volume['id']}")).status == 202
    await spread.gone(f"/volume/v3/volumes/{volume['id']}")


async def test_the_catalogue_names_the_front_door(spread: Spread) -> None:
    told = (await spread.request("GET", "/identity/v3/auth/catalog")).json["catalog"]
    urls = {endpoint["url"] for service in told for endpoint in service["endpoints"]}
    assert urls
    assert all(url.startswith(spread.front + "/") for url in urls), urls

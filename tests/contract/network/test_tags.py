# SPDX-License-Identifier: Apache-2.0
"""Tags of every kind of resource that has them: the same seven operations, the same answers."""

from __future__ import annotations

import pytest

from tests.contract.image.lone import ALT, READER
from tests.contract.network.conftest import Net, refused

KINDS = {
    "networks": "NetworkNotFound",
    "subnets": "SubnetNotFound",
    "ports": "PortNotFound",
    "routers": "RouterNotFound",
    "floatingips": "FloatingIPNotFound",
    "security-groups": "SecurityGroupNotFound",
    "subnetpools": "SubnetPoolNotFound",
}


async def tagged(net: Net, kind: str) -> str:
    """Path of a new resource of this kind."""
    if kind == "floatingips":
        made = await net.make("/floatingips", floating_network_id=await net.external())
    elif kind == "subnetpools":
        made = await net.make("/subnetpools", name="tagged", prefixes=["10.9.0.0/16"])
    elif kind in ("subnets", "ports"):
        network = (await net.make("/networks", name="tagged"))["id"]
        more = {"ip_version": 4, "cidr": "10.9.0.0/24"} if kind == "subnets" else {}
        made = await net.make(f"/{kind}", network_id=network, **more)
    else:
        made = await net.make(f"/{kind}", name="tagged")
    return f"/{kind}/{made['id']}"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_seven_operations(net: Net, kind: str) -> None:
    resource = await tagged(net, kind)
    path = f"{resource}/tags"
    first = (await net.show(resource))["revision_number"]
    reply = await net.put(path, {"tags": ["red", "blue"]})
    assert (reply.status, reply.json) == (200, {"tags": ["blue", "red"]})
    reply = await net.post(path, {"tags": ["green", "red"]})
    assert (reply.status, reply.json) == (201, {"tags": ["blue", "green", "red"]})
    assert (await net.get(f"{path}/green")).status == 204
    assert (await net.delete(f"{path}/green")).status == 204
    refused(await net.get(f"{path}/green"), 404, "TagNotFound")
    refused(await net.delete(f"{path}/green"), 404, "TagNotFound")
    assert (await net.put(f"{path}/white")).status == 201
    assert (await net.get(path)).json == {"tags": ["blue", "red", "white"]}
    seen = await net.show(resource)
    assert seen["tags"] == ["blue", "red", "white"]
    assert seen["revision_number"] == first + 4
    assert (await net.delete(path)).status == 204
    assert (await net.show(resource))["tags"] == []


@pytest.mark.parametrize("kind", KINDS)
async def test_tags_of_others(net: Net, kind: str) -> None:
    path = f"{await tagged(net, kind)}/tags"
    for reply in (
        await net.by(ALT).get(path),
        await net.by(ALT).put(path, {"tags": []}),
        await net.by(ALT).post(path, {"tags": ["x"]}),
        await net.by(ALT).delete(f"{path}/x"),
    ):
        refused(reply, 404, KINDS[kind])
    assert (await net.by(READER).get(path)).status == 200
    refused(await net.by(READER).put(f"{path}/x"), 403, "PolicyNotAuthorized")
    refused(await net.by(READER).delete(path), 403, "PolicyNotAuthorized")


async def test_no_more_than_fifty(net: Net) -> None:
    path = f"{await tagged(net, 'networks')}/tags"
    assert (await net.put(path, {"tags": [f"t{n}" for n in range(50)]})).status == 200
    message = refused(await net.put(f"{path}/one-more"), 400, "BadRequest")
    assert "exceed the per-resource limit of 50" in message
    assert len((await net.get(path)).json["tags"]) == 50

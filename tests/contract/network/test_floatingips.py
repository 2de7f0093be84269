# SPDX-License-Identifier: Apache-2.0
"""Floating IPs: allocation, association in one step, and every published refusal."""

from __future__ import annotations

import pytest

from tests.contract.image.lone import ALT, SERVICE
from tests.contract.network.conftest import Net, project, refused


class Site:
    """A subnet behind a router with a way out."""

    def __init__(self, net: Net) -> None:
        self.net = net

    async def build(self) -> Site:
        self.external = await self.net.external("198.51.100.0/24")
        self.network, self.subnet = await self.net.network("10.1.0.0/24")
        self.router = (await self.net.make("/routers", external_gateway_info={"network_id": self.external}))["id"]
        path = f"/routers/{self.router}/add_router_interface"
        assert (await self.net.put(path, {"subnet_id": self.subnet})).status == 200
        return self

    async def port(self, **more: object) -> dict[str, object]:
        return await self.net.make("/ports", network_id=self.network, **more)


@pytest.fixture
async def site(net: Net) -> Site:
    return await Site(net).build()


async def test_allocate_and_release(site: Site) -> None:
    net = site.net
    floating = await net.make("/floatingips", floating_network_id=site.external, description="d")
    assert set(floating) == {
        "id", "tenant_id", "project_id", "floating_network_id", "floating_ip_address", "router_id", "port_id",
        "fixed_ip_address", "status", "dns_name", "dns_domain", "port_details", "description", "created_at",
        "updated_at", "revision_number", "tags",
    }  # fmt: skip
    assert floating["floating_ip_address"].startswith("198.51.100.")
    assert (floating["status"], floating["port_id"], floating["router_id"]) == ("DOWN", None, None)
    refused(await net.by(ALT).get(f"/floatingips/{floating['id']}"), 404, "FloatingIPNotFound")
    (port,) = (await net.admin.get(f"/ports?device_id={floating['id']}")).json["ports"]
    assert (port["device_owner"], port["status"]) == ("network:floatingip", "N/A")
    refused(await net.admin.delete(f"/ports/{port['id']}"), 409, "ServicePortInUse")
    assert (await net.delete(f"/floatingips/{floating['id']}")).status == 204
    refused(await net.admin.get(f"/ports/{port['id']}"), 404, "PortNotFound")


async def test_associate_disassociate(site: Site) -> None:
    net, port = site.net, await site.port(name="p")
    floating = await net.make("/floatingips", floating_network_id=site.external)
    path = f"/floatingips/{floating['id']}"
    done = (await net.put(path, {"floatingip": {"port_id": port["id"]}})).json["floatingip"]
    fixed = port["fixed_ips"][0]["ip_address"]  # type: ignore[index]
    assert (done["port_id"], done["fixed_ip_address"], done["router_id"]) == (port["id"], fixed, site.router)
    assert done["port_details"]["name"] == "p"
    other = await net.make("/floatingips", floating_network_id=site.external)
    reply = await net.put(f"/floatingips/{other['id']}", {"floatingip": {"port_id": port["id"]}})
    refused(reply, 409, "FloatingIPPortAlreadyAssociated")
    assert (await net.show(f"/floatingips/{other['id']}"))["port_id"] is None
    kept = (await net.put(path, {"floatingip": {"description": "x"}})).json["floatingip"]
    assert (kept["port_id"], kept["description"]) == (port["id"], "x")
    assert (await net.put(path, {"floatingip": {}})).json["floatingip"]["port_id"] is None  # as published
    assert (await net.put(path, {"floatingip": {"port_id": port["id"]}})).json["floatingip"]["port_id"] == port["id"]
    gone = (await net.put(path, {"floatingip": {"port_id": None}})).json["floatingip"]
    assert (gone["port_id"], gone["fixed_ip_address"], gone["router_id"], gone["status"]) == (None, None, None, "DOWN")


async def test_create_associated(site: Site) -> None:
    port = await site.port()
    made = await site.net.make("/floatingips", floating_network_id=site.external, port_id=port["id"])
    assert (made["port_id"], made["router_id"]) == (port["id"], site.router)
    await site.net.delete(f"/ports/{port['id']}")  # the port goes, the floating IP stays
    left = await site.net.show(f"/floatingips/{made['id']}")
    assert (left["port_id"], left["router_id"], left["status"]) == (None, None, "DOWN")


async def test_needed_routers_stay(site: Site) -> None:
    net, port = site.net, await site.port()
    await net.make("/floatingips", floating_network_id=site.external, port_id=port["id"])
    reply = await net.put(f"/routers/{site.router}", {"router": {"external_gateway_info": None}})
    refused(reply, 409, "RouterExternalGatewayInUseByFloatingIp")
    reply = await net.put(f"/routers/{site.router}/remove_router_interface", {"subnet_id": site.subnet})
    refused(reply, 409, "RouterInterfaceInUseByFloatingIP")


async def test_refusals(site: Site) -> None:
    net = site.net
    missing = "6b5f5b4c-0d6b-4d45-a87b-3f1be1b9c6fe"

    async def message(status: int, kind: str, **values: object) -> str:
        body = {"floatingip": {"floating_network_id": site.external, **values}}
        return refused(await net.post("/floatingips", body), status, kind)

    assert "not a valid external network" in await message(400, "BadRequest", floating_network_id=site.network)
    await message(404, "NetworkNotFound", floating_network_id=missing)
    await message(404, "PortNotFound", port_id=missing)
    assert "without a port_id" in await message(400, "BadRequest", fixed_ip_address="10.1.0.9")
    rule = await message(403, "PolicyNotAuthorized", floating_ip_address="198.51.100.9")
    assert "create_floatingip:floating_ip_address" in rule
    port = await site.port()
    assert "does not have fixed ip" in await message(
        400, "BadRequest", port_id=port["id"], fixed_ip_address="10.1.0.10"
    )
    bare = await site.port(fixed_ips=[])
    assert "no fixed IPv4 addresses" in await message(400, "BadRequest", port_id=bare["id"])
    two = await site.port(fixed_ips=[{"subnet_id": site.subnet}, {"subnet_id": site.subnet}])
    assert "multiple fixed IPv4 addresses" in await message(400, "BadRequest", port_id=two["id"])
    lonely, _ = await net.network("10.8.0.0/24")
    far = await net.make("/ports", network_id=lonely)
    await message(404, "ExternalGatewayForFloatingIPNotFound", port_id=far["id"])
    refused(await net.post("/floatingips", {"floatingip": {}}), 400, "HTTPBadRequest")
    assert (await net.get("/floatingips")).json["floatingips"] == []


async def test_an_administrator_chooses_the_address(site: Site) -> None:
    admin = site.net.admin
    made = await admin.make("/floatingips", floating_network_id=site.external, floating_ip_address="198.51.100.9")
    assert made["floating_ip_address"] == "198.51.100.9"
    body = {"floating_network_id": site.external, "floating_ip_address": "198.51.100.9"}
    refused(await admin.post("/floatingips", {"floatingip": body}), 409, "IpAddressAlreadyAllocated")
    body["floating_ip_address"] = "203.0.113.1"
    refused(await admin.post("/floatingips", {"floatingip": body}), 400, "InvalidIpForNetwork")


async def test_the_host_makes_it_active(host: Net) -> None:
    site = await Site(host).build()
    binding = {"binding__host_id": "node-1", "device_id": "d", "device_owner": "compute:nova"}
    port = await host.by(SERVICE).make("/ports", network_id=site.network, project_id=project("demo"), **binding)
    made = await host.make("/floatingips", floating_network_id=site.external, port_id=port["id"])
    assert made["status"] == "DOWN"
    await host.eventually(f"/floatingips/{made['id']}", status="ACTIVE")
    path = f"/floatingips/{made['id']}"
    assert (await host.put(path, {"floatingip": {"port_id": None}})).json["floatingip"]["status"] == "DOWN"
    await host.put(path, {"floatingip": {"port_id": port["id"]}})
    await host.eventually(path, status="ACTIVE")

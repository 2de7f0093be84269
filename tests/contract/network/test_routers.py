# SPDX-License-Identifier: Apache-2.0
"""Routers: interfaces, gateways, routes, and what may not be taken away."""

from __future__ import annotations

from typing import Any

from tests.contract.image.lone import ALT, READER, Reply
from tests.contract.network.conftest import Net, project, refused

MISSING = "6b5f5b4c-0d6b-4d45-a87b-3f1be1b9c6fe"


async def interface(net: Net, router: str, way: str = "add", **wanted: Any) -> Reply:
    return await net.put(f"/routers/{router}/{way}_router_interface", wanted)


async def test_create_and_show(net: Net) -> None:
    router = await net.make("/routers", name="r")
    assert set(router) == {
        "id", "name", "tenant_id", "project_id", "admin_state_up", "status", "external_gateway_info", "routes",
        "availability_zones", "availability_zone_hints", "description", "created_at", "updated_at", "revision_number",
        "tags",
    }  # fmt: skip
    assert (router["status"], router["external_gateway_info"], router["routes"]) == ("ACTIVE", None, [])
    assert await net.show(f"/routers/{router['id']}") == router
    refused(await net.by(ALT).get(f"/routers/{router['id']}"), 404, "RouterNotFound")
    refused(await net.by(READER).put(f"/routers/{router['id']}", {"router": {}}), 403, "PolicyNotAuthorized")
    assert (await net.delete(f"/routers/{router['id']}")).status == 204
    message = refused(await net.get(f"/routers/{router['id']}"), 404, "RouterNotFound")
    assert message == f"Router {router['id']} could not be found"


async def test_interface_by_subnet(net: Net) -> None:
    network_id, subnet_id = await net.network("10.1.0.0/24")
    router = await net.make("/routers")
    reply = await interface(net, router["id"], subnet_id=subnet_id)
    assert reply.status == 200
    port_id = reply.json["port_id"]
    assert reply.json == {
        "id": router["id"], "tenant_id": project("demo"), "project_id": project("demo"), "port_id": port_id,
        "network_id": network_id, "subnet_id": subnet_id, "subnet_ids": [subnet_id],
    }  # fmt: skip
    port = await net.show(f"/ports/{port_id}")
    assert (port["device_owner"], port["device_id"]) == ("network:router_interface", router["id"])
    assert port["fixed_ips"] == [{"subnet_id": subnet_id, "ip_address": "10.1.0.1"}]
    assert (await net.show(f"/routers/{router['id']}"))["revision_number"] == 2
    again = await interface(net, router["id"], subnet_id=subnet_id)
    assert f"Router already has a port on subnet {subnet_id}" in refused(again, 400, "BadRequest")
    refused(await net.delete(f"/routers/{router['id']}"), 409, "RouterInUse")
    message = refused(await net.delete(f"/ports/{port_id}"), 409, "ServicePortInUse")
    assert message.endswith("has device owner network:router_interface.")
    refused(await net.delete(f"/subnets/{subnet_id}"), 409, "SubnetInUse")
    reply = await net.put(f"/subnets/{subnet_id}", {"subnet": {"gateway_ip": "10.1.0.254"}})
    refused(reply, 409, "GatewayIpInUse")
    gone = await interface(net, router["id"], "remove", subnet_id=subnet_id)
    assert (gone.status, gone.json["port_id"]) == (200, port_id)
    refused(await net.get(f"/ports/{port_id}"), 404, "PortNotFound")
    assert (await net.delete(f"/routers/{router['id']}")).status == 204


async def test_interface_by_port(net: Net) -> None:
    network_id, subnet_id = await net.network("10.1.0.0/24")
    router = await net.make("/routers")
    port = await net.make("/ports", network_id=network_id)
    reply = await interface(net, router["id"], port_id=port["id"])
    assert (reply.json["port_id"], reply.json["subnet_ids"]) == (port["id"], [subnet_id])
    seen = await net.show(f"/ports/{port['id']}")
    assert (seen["device_owner"], seen["security_groups"]) == ("network:router_interface", [])
    other = await net.make("/routers")
    refused(await interface(net, other["id"], port_id=port["id"]), 409, "PortInUse")
    assert (await interface(net, router["id"], "remove", port_id=port["id"])).status == 200


async def test_interfaces_that_are_refused(net: Net) -> None:
    _, subnet_id = await net.network("10.1.0.0/24")
    router = (await net.make("/routers"))["id"]
    assert "must be specified" in refused(await interface(net, router), 400, "BadRequest")
    both = await interface(net, router, subnet_id=subnet_id, port_id=MISSING)
    assert "Cannot specify both" in refused(both, 400, "BadRequest")
    refused(await interface(net, router, subnet_id=MISSING), 404, "SubnetNotFound")
    refused(await interface(net, router, port_id=MISSING), 404, "PortNotFound")
    refused(await interface(net, router, subnet_id="x"), 400, "HTTPBadRequest")
    refused(await interface(net, MISSING, subnet_id=subnet_id), 404, "RouterNotFound")
    refused(await interface(net, router, "remove", subnet_id=subnet_id), 404, "RouterInterfaceNotFoundForSubnet")
    refused(await interface(net, router, "remove", port_id=MISSING), 404, "RouterInterfaceNotFound")
    _, overlapping = await net.network("10.1.0.0/16")
    await interface(net, router, subnet_id=subnet_id)
    assert "overlaps with cidr" in refused(await interface(net, router, subnet_id=overlapping), 400, "BadRequest")
    (outside,) = (await net.show(f"/networks/{await net.external()}"))["subnets"]
    message = refused(await interface(net, router, subnet_id=outside), 400, "BadRequest")
    assert "is not owned by project making the request" in message
    network = await net.make("/networks")
    bare = await net.make("/subnets", network_id=network["id"], ip_version=4, cidr="10.5.0.0/24", gateway_ip=None)
    assert "must have a gateway IP" in refused(await interface(net, router, subnet_id=bare["id"]), 400, "BadRequest")


async def test_one_port_carries_the_ipv6_prefixes_of_a_network(net: Net) -> None:
    network = await net.make("/networks")
    subnets = [
        (await net.make("/subnets", network_id=network["id"], ip_version=6, cidr=f"fd00:{n}::/64"))["id"]
        for n in (1, 2)
    ]
    router = (await net.make("/routers"))["id"]
    first, second = [(await interface(net, router, subnet_id=one)).json["port_id"] for one in subnets]
    assert first == second
    assert {one["ip_address"] for one in (await net.show(f"/ports/{first}"))["fixed_ips"]} == {"fd00:1::1", "fd00:2::1"}
    await interface(net, router, "remove", subnet_id=subnets[0])
    assert len((await net.show(f"/ports/{first}"))["fixed_ips"]) == 1


async def test_gateway(net: Net) -> None:
    external = await net.external("198.51.100.0/24")
    router = await net.make("/routers", external_gateway_info={"network_id": external})
    info = router["external_gateway_info"]
    assert (info["network_id"], info["enable_snat"]) == (external, True)
    (fixed,) = info["external_fixed_ips"]
    assert fixed["ip_address"].startswith("198.51.100.")
    (port,) = (await net.admin.get("/ports?device_owner=network:router_gateway")).json["ports"]
    assert (port["project_id"], port["device_id"]) == ("", router["id"])
    refused(await net.get(f"/ports/{port['id']}"), 404, "PortNotFound")  # it belongs to nobody's project
    path = f"/routers/{router['id']}"
    reply = await net.put(path, {"router": {"external_gateway_info": {"network_id": external, "enable_snat": False}}})
    assert "enable_snat is disallowed" in refused(reply, 403, "PolicyNotAuthorized")
    body = {"router": {"external_gateway_info": {"network_id": external, "enable_snat": False}}}
    changed = (await net.admin.put(path, body)).json["router"]["external_gateway_info"]
    assert (changed["enable_snat"], changed["external_fixed_ips"]) == (False, [fixed])  # the address stays
    wanted = [{"ip_address": "198.51.100.77"}]
    body = {"router": {"external_gateway_info": {"network_id": external, "external_fixed_ips": wanted}}}
    changed = (await net.admin.put(path, body)).json["router"]["external_gateway_info"]
    assert changed["external_fixed_ips"][0]["ip_address"] == "198.51.100.77"
    refused(await net.admin.delete(f"/networks/{external}"), 409, "NetworkInUse")
    reply = await net.put(path, {"router": {"external_gateway_info": {}}})
    assert reply.json["router"]["external_gateway_info"] is None
    assert (await net.admin.delete(f"/networks/{external}")).status == 204


async def test_gateways_that_are_refused(net: Net) -> None:
    network_id, _ = await net.network()
    reply = await net.post("/routers", {"router": {"external_gateway_info": {"network_id": network_id}}})
    assert f"Network {network_id} is not an external network" in refused(reply, 400, "BadRequest")
    reply = await net.post("/routers", {"router": {"external_gateway_info": {"network_id": MISSING}}})
    refused(reply, 404, "NetworkNotFound")
    reply = await net.post("/routers", {"router": {"external_gateway_info": {"network": network_id}}})
    refused(reply, 400, "HTTPBadRequest")
    assert (await net.get("/routers")).json["routers"] == []


async def test_routes(net: Net) -> None:
    _, subnet_id = await net.network("10.1.0.0/24")
    router = (await net.make("/routers"))["id"]
    await interface(net, router, subnet_id=subnet_id)
    path = f"/routers/{router}"
    route = {"destination": "10.50.0.0/16", "nexthop": "10.1.0.7"}
    reply = await net.put(path, {"router": {"routes": [route]}})
    assert reply.json["router"]["routes"] == [route]
    far = {"destination": "10.50.0.0/16", "nexthop": "10.2.0.7"}
    message = refused(await net.put(path, {"router": {"routes": [far]}}), 400, "InvalidRoutes")
    assert "the nexthop is not connected with router" in message
    own = {"destination": "10.50.0.0/16", "nexthop": "10.1.0.1"}
    message = refused(await net.put(path, {"router": {"routes": [own]}}), 400, "InvalidRoutes")
    assert "the nexthop is used by router" in message
    refused(await interface(net, router, "remove", subnet_id=subnet_id), 409, "RouterInterfaceInUseByRoute")
    second = {"destination": "10.51.0.0/16", "nexthop": "10.1.0.8"}
    reply = await net.put(f"{path}/add_extraroutes", {"router": {"routes": [second]}})
    assert reply.json["router"]["routes"] == [route, second]
    reply = await net.put(f"{path}/remove_extraroutes", {"router": {"routes": [route]}})
    assert reply.json["router"]["routes"] == [second]
    assert (await net.put(path, {"router": {"routes": None}})).json["router"]["routes"] == []
    assert (await interface(net, router, "remove", subnet_id=subnet_id)).status == 200


async def test_nobody_slips_a_port_into_a_router(host: Net) -> None:
    """What users write into a port's device never makes it part of somebody's router."""
    _, subnet_id = await host.network("10.1.0.0/24")
    router = (await host.make("/routers"))["id"]
    own = (await interface(host, router, subnet_id=subnet_id)).json["port_id"]
    mallory = host.by(ALT)
    network_id, _ = await mallory.network("10.6.0.0/24")
    fake = {"device_owner": "network:router_interface", "device_id": router}
    port = await mallory.make("/ports", network_id=network_id, **fake)
    refused(await interface(mallory, router, "remove", port_id=port["id"]), 404, "RouterNotFound")
    refused(await interface(host, router, "remove", port_id=port["id"]), 404, "RouterInterfaceNotFound")
    reply = await host.put(f"/ports/{own}", {"port": {"device_id": (await host.make("/routers"))["id"]}})
    refused(reply, 409, "ServicePortInUse")
    await host.eventually(f"/ports/{own}", status="ACTIVE")
    driver = host.lone.options["network_drivers"]["node-1"]
    assert [one.port_id for one in driver.plans.routers[router].interfaces] == [own]
    assert (await mallory.delete(f"/ports/{port['id']}")).status == 204
    dhcp = await mallory.make("/ports", network_id=network_id, device_owner="network:dhcp")
    assert (await mallory.show(f"/ports/{dhcp['id']}"))["status"] == "DOWN"
    assert (await mallory.delete(f"/networks/{network_id}")).status == 204

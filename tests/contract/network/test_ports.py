# SPDX-License-Identifier: Apache-2.0
"""Ports: addresses, MACs, groups, bindings, and who may set what."""

from __future__ import annotations

import ipaddress
import re

from tests.contract.image.lone import ALT, SERVICE
from tests.contract.network.conftest import Net, project, refused

PORT_ID = "11111111-2222-4333-8444-555555555555"
OWN = {
    "id", "name", "tenant_id", "project_id", "network_id", "admin_state_up", "status", "mac_address", "fixed_ips",
    "device_id", "device_owner", "security_groups", "allowed_address_pairs", "extra_dhcp_opts", "port_security_enabled",
    "binding:vnic_type", "ip_allocation", "dns_name", "dns_assignment", "description", "created_at", "updated_at",
    "revision_number", "tags",
}  # fmt: skip
BINDING = {"binding:host_id", "binding:profile", "binding:vif_type", "binding:vif_details"}


async def test_create_and_show(net: Net) -> None:
    network_id, subnet_id = await net.network("10.1.0.0/24")
    port = await net.make("/ports", network_id=network_id, name="p")
    assert set(port) == OWN
    assert re.fullmatch(r"fa:16:3e(:[0-9a-f]{2}){3}", port["mac_address"])
    (fixed,) = port["fixed_ips"]
    assert fixed["subnet_id"] == subnet_id
    assert ipaddress.ip_address(fixed["ip_address"]) in ipaddress.ip_network("10.1.0.0/24")
    assert fixed["ip_address"] != "10.1.0.1"
    assert (port["status"], port["admin_state_up"], port["ip_allocation"]) == ("DOWN", True, "immediate")
    (default,) = (await net.get("/security-groups?name=default")).json["security_groups"]
    assert port["security_groups"] == [default["id"]]
    name = "host-" + fixed["ip_address"].replace(".", "-")
    assert port["dns_assignment"] == [
        {"hostname": name, "ip_address": fixed["ip_address"], "fqdn": f"{name}.openstacklocal."}
    ]
    assert await net.show(f"/ports/{port['id']}") == port
    seen = await net.admin.show(f"/ports/{port['id']}")
    assert set(seen) == OWN | BINDING
    assert (seen["binding:vif_type"], seen["binding:host_id"], seen["binding:profile"]) == ("unbound", "", {})


async def test_addresses_asked_for(net: Net) -> None:
    network_id, subnet_id = await net.network("10.1.0.0/24")
    fixed = [{"subnet_id": subnet_id, "ip_address": "10.1.0.77"}]
    port = await net.make("/ports", network_id=network_id, fixed_ips=fixed)
    assert port["fixed_ips"] == fixed
    by_subnet = await net.make("/ports", network_id=network_id, fixed_ips=[{"subnet_id": subnet_id}])
    assert by_subnet["fixed_ips"][0]["subnet_id"] == subnet_id
    by_address = await net.make("/ports", network_id=network_id, fixed_ips=[{"ip_address": "10.1.0.78"}])
    assert by_address["fixed_ips"] == [{"subnet_id": subnet_id, "ip_address": "10.1.0.78"}]
    none = await net.make("/ports", network_id=network_id, fixed_ips=[])
    assert (none["fixed_ips"], none["ip_allocation"]) == ([], "none")

    async def message(wanted: list[dict[str, str]], status: int, kind: str) -> str:
        body = {"port": {"network_id": network_id, "fixed_ips": wanted}}
        return refused(await net.post("/ports", body), status, kind)

    assert "10.1.0.77 already allocated" in await message(fixed, 409, "IpAddressAlreadyAllocated")
    await message([{"ip_address": "10.2.0.1"}], 400, "InvalidIpForNetwork")
    await message([{"subnet_id": subnet_id, "ip_address": "10.2.0.1"}], 400, "InvalidIpForSubnet")
    await message([{"subnet_id": subnet_id, "ip_address": "10.1.0.255"}], 400, "InvalidIpForSubnet")
    await message([{"subnet_id": PORT_ID}], 404, "SubnetNotFound")
    _, other = await net.network("10.9.0.0/24")
    assert "included invalid subnet" in await message([{"subnet_id": other}], 400, "InvalidInput")
    assert "Duplicate IP address" in await message(
        [{"ip_address": "10.1.0.9"}, {"ip_address": "10.1.0.9"}], 400, "HTTPBadRequest"
    )
    assert "maximum amount" in await message([{"subnet_id": subnet_id}] * 6, 400, "InvalidInput")
    assert "requires subnet_id or ip_address" in await message([{}], 400, "InvalidInput")


async def test_only_owners_choose_addresses_on_shared_networks(net: Net) -> None:
    network = await net.admin.make("/networks", shared=True)
    await net.admin.make("/subnets", network_id=network["id"], ip_version=4, cidr="10.3.0.0/24")
    body = {"network_id": network["id"], "fixed_ips": [{"ip_address": "10.3.0.9"}]}
    message = refused(await net.post("/ports", {"port": body}), 403, "PolicyNotAuthorized")
    assert "create_port:fixed_ips:ip_address" in message
    body = {"network_id": network["id"], "mac_address": "fa:16:3e:00:00:01"}
    refused(await net.post("/ports", {"port": body}), 403, "PolicyNotAuthorized")
    await net.make("/ports", network_id=network["id"])


async def test_exhaustion(net: Net) -> None:
    network = await net.make("/networks")
    await net.make("/subnets", network_id=network["id"], ip_version=4, cidr="10.1.0.0/29", enable_dhcp=False)
    taken = {(await net.make("/ports", network_id=network["id"]))["fixed_ips"][0]["ip_address"] for _ in range(5)}
    assert taken == {f"10.1.0.{n}" for n in range(2, 7)}
    message = refused(
        await net.post("/ports", {"port": {"network_id": network["id"]}}), 409, "IpAddressGenerationFailure"
    )
    assert message == f"No more IP addresses available on network {network['id']}."
    assert len((await net.get("/ports")).json["ports"]) == 5


async def test_dual_stack_and_slaac(net: Net) -> None:
    network_id, v4 = await net.network("10.1.0.0/24")
    modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    early = await net.make("/ports", network_id=network_id)
    v6 = await net.make("/subnets", network_id=network_id, ip_version=6, cidr="fd00:1::/64", **modes)
    port = await net.make("/ports", network_id=network_id, mac_address="fa:16:3e:01:02:03")
    held = {one["subnet_id"]: one["ip_address"] for one in port["fixed_ips"]}
    assert set(held) == {v4, v6["id"]}
    assert held[v6["id"]] == "fd00:1::f816:3eff:fe01:203"
    assert len((await net.show(f"/ports/{early['id']}"))["fixed_ips"]) == 2  # it got its address in the new subnet
    body = {"network_id": network_id, "fixed_ips": [{"subnet_id": v6["id"], "ip_address": "fd00:1::5"}]}
    refused(await net.post("/ports", {"port": body}), 400, "AllocationOnAutoAddressSubnet")
    await net.delete(f"/ports/{port['id']}")
    await net.delete(f"/ports/{early['id']}")


async def test_macs(net: Net) -> None:
    network_id, _ = await net.network()
    await net.make("/ports", network_id=network_id, mac_address="FA-16-3E-00-00-01")
    body = {"network_id": network_id, "mac_address": "fa:16:3e:00:00:01"}
    refused(await net.post("/ports", {"port": body}), 409, "MacAddressInUse")
    for wrong in ("nothing", "00:00:00:00:00:00", "01:00:5e:00:00:01"):
        body = {"network_id": network_id, "mac_address": wrong}
        refused(await net.post("/ports", {"port": body}), 400, "HTTPBadRequest")


async def test_bindings_are_for_services(net: Net) -> None:
    network_id, _ = await net.network()
    body = {"network_id": network_id, "binding:host_id": "node-1"}
    message = refused(await net.post("/ports", {"port": body}), 403, "PolicyNotAuthorized")
    assert message == "rule:create_port:binding:host_id is disallowed by policy"
    port = await net.by(SERVICE).make(
        "/ports", project_id=project("demo"), network_id=network_id, binding__host_id="node-1"
    )
    assert port["binding:vif_type"] == "binding_failed"  # no agent lives there
    assert port["project_id"] == project("demo")


async def test_services_choose_ids(net: Net) -> None:
    network_id, _ = await net.network()
    body = {"id": PORT_ID, "network_id": network_id}
    assert "'id' not allowed" in refused(await net.post("/ports", {"port": body}), 400, "HTTPBadRequest")
    made = await net.by(SERVICE).make("/ports", **body, project_id=project("demo"))
    assert made["id"] == PORT_ID
    refused(await net.by(SERVICE).post("/ports", {"port": body}), 409, "PortIdInUse")
    sent = {"x-service-token": SERVICE}
    other = {"id": PORT_ID[:-1] + "6", "network_id": network_id}
    reply = await net.lone.request("POST", "/v2.0/ports", {"port": other}, token=net.token, headers=sent)
    assert reply.status == 201  # a user whom a service vouches for
    refused(
        await net.by(SERVICE).post("/ports", {"port": {"id": "x", "network_id": network_id}}), 400, "HTTPBadRequest"
    )


async def test_a_bound_port_comes_up(host: Net) -> None:
    network_id, _ = await host.network()
    binding = {"binding__host_id": "node-1", "device_id": "d", "device_owner": "compute:nova"}
    port = await host.by(SERVICE).make("/ports", network_id=network_id, project_id=project("demo"), **binding)
    assert (port["status"], port["binding:vif_type"]) == ("DOWN", "tap")
    assert port["binding:vif_details"] == {"port_filter": True, "connectivity": "l2"}
    up = await host.eventually(f"/ports/{port['id']}", status="ACTIVE")
    assert up["revision_number"] == port["revision_number"]  # a status is no new revision
    reply = await host.by(SERVICE).put(f"/ports/{port['id']}", {"port": {"binding:host_id": ""}})
    assert (reply.json["port"]["status"], reply.json["port"]["binding:vif_type"]) == ("DOWN", "unbound")


async def test_binding_is_fenced_by_revision(net: Net) -> None:
    network_id, _ = await net.network()
    port = await net.make("/ports", network_id=network_id)
    path, body = f"/ports/{port['id']}", {"port": {"binding:host_id": "node-1"}}
    service = net.by(SERVICE)
    assert (await service.put(path, body, if_match=f"revision_number={port['revision_number']}")).status == 200
    reply = await service.put(path, {"port": {"binding:host_id": "node-2"}}, if_match="revision_number=1")
    refused(reply, 412, "RevisionNumberConstraintFailed")
    assert (await net.admin.show(path))["binding:host_id"] == "node-1"


async def test_update_addresses(net: Net) -> None:
    network_id, subnet_id = await net.network("10.1.0.0/24")
    port = await net.make("/ports", network_id=network_id)
    first = port["fixed_ips"][0]
    path = f"/ports/{port['id']}"
    new = {"subnet_id": subnet_id, "ip_address": "10.1.0.99" if first["ip_address"] != "10.1.0.99" else "10.1.0.98"}
    reply = await net.put(path, {"port": {"fixed_ips": [first, new]}})
    assert reply.json["port"]["fixed_ips"] == [first, new]
    reply = await net.put(path, {"port": {"fixed_ips": [new]}})
    assert reply.json["port"]["fixed_ips"] == [new]
    await net.make("/ports", network_id=network_id, fixed_ips=[first])  # given back
    refused(await net.put(path, {"port": {"fixed_ips": [first]}}), 409, "IpAddressAlreadyAllocated")
    assert (await net.show(path))["fixed_ips"] == [new]  # nothing of the refused change stayed


async def test_groups_and_port_security(net: Net) -> None:
    network_id, _ = await net.network()
    group = await net.make("/security-groups", name="g")
    port = await net.make("/ports", network_id=network_id, security_groups=[group["id"]])
    assert port["security_groups"] == [group["id"]]
    path = f"/ports/{port['id']}"
    reply = await net.put(path, {"port": {"port_security_enabled": False}})
    refused(reply, 409, "PortSecurityPortHasSecurityGroup")
    body = {"port": {"port_security_enabled": False, "security_groups": []}}
    assert (await net.put(path, body)).json["port"]["security_groups"] == []
    refused(
        await net.put(path, {"port": {"security_groups": [group["id"]]}}),
        400, "PortSecurityAndIPRequiredForSecurityGroups",
    )  # fmt: skip
    open_port = await net.make("/ports", network_id=network_id, port_security_enabled=False)
    assert open_port["security_groups"] == []
    body = {"port": {"network_id": network_id, "security_groups": [PORT_ID]}}
    assert f"{PORT_ID} does not exist" in refused(await net.post("/ports", body), 404, "SecurityGroupNotFound")
    theirs = await net.by(ALT).make("/security-groups", name="theirs")
    body = {"port": {"network_id": network_id, "security_groups": [theirs["id"]]}}
    refused(await net.post("/ports", body), 404, "SecurityGroupNotFound")


async def test_address_pairs(net: Net) -> None:
    network_id, _ = await net.network()
    port = await net.make("/ports", network_id=network_id, allowed_address_pairs=[{"ip_address": "10.9.0.100"}])
    assert port["allowed_address_pairs"] == [{"ip_address": "10.9.0.100", "mac_address": port["mac_address"]}]
    given = [{"ip_address": "10.9.1.0/24", "mac_address": "fa:16:3e:0a:0b:0c"}]
    reply = await net.put(f"/ports/{port['id']}", {"port": {"allowed_address_pairs": given}})
    assert reply.json["port"]["allowed_address_pairs"] == given
    body = {"network_id": network_id, "port_security_enabled": False, "allowed_address_pairs": given}
    refused(await net.post("/ports", {"port": body}), 409, "AddressPairAndPortSecurityRequired")
    body = {"network_id": network_id, "allowed_address_pairs": [{"mac_address": "fa:16:3e:0a:0b:0c"}]}
    assert "must contain ip_address" in refused(await net.post("/ports", {"port": body}), 400, "HTTPBadRequest")


async def test_members_may_not_delete_ports_of_servers(net: Net) -> None:
    network_id, _ = await net.network()
    owner = {"device_id": "d", "device_owner": "compute:nova"}
    port = await net.make("/ports", network_id=network_id, **owner)
    refused(await net.delete(f"/ports/{port['id']}"), 403, "PolicyNotAuthorized")
    sent = {"x-service-token": SERVICE}
    reply = await net.lone.request("DELETE", f"/v2.0/ports/{port['id']}", token=net.token, headers=sent)
    assert reply.status == 204
    body = {"network_id": network_id, "device_owner": "network:dhcp"}
    foreign = await net.admin.make("/networks", shared=True)
    body["network_id"] = foreign["id"]
    refused(await net.post("/ports", {"port": body}), 403, "PolicyNotAuthorized")


async def test_dns_names(net: Net) -> None:
    network_id, _ = await net.network()
    port = await net.make("/ports", network_id=network_id, dns_name="Web-1")
    assert (port["dns_name"], port["dns_assignment"][0]["fqdn"]) == ("web-1", "web-1.openstacklocal.")
    body = {"network_id": network_id, "dns_name": "not_a_name!"}
    refused(await net.post("/ports", {"port": body}), 400, "HTTPBadRequest")


async def test_find_by_address(net: Net) -> None:
    network_id, subnet_id = await net.network("10.1.0.0/24")
    port = await net.make("/ports", network_id=network_id, fixed_ips=[{"ip_address": "10.1.0.40"}])
    await net.make("/ports", network_id=network_id, fixed_ips=[{"ip_address": "10.1.0.41"}])

    async def found(query: str) -> list[str]:
        return [one["id"] for one in (await net.get(f"/ports?{query}")).json["ports"]]

    assert await found(f"network_id={network_id}&fixed_ips=ip_address=10.1.0.40") == [port["id"]]
    assert await found(f"fixed_ips=ip_address%3D10.1.0.40&fixed_ips=subnet_id%3D{subnet_id}") == [port["id"]]
    assert len(await found("fixed_ips=ip_address=10.1.0.40&fixed_ips=ip_address=10.1.0.41")) == 2
    assert len(await found("fixed_ips=ip_address_substr=1.0.4")) == 2
    assert await found(f"fixed_ips=subnet_id={PORT_ID}") == []
    group = port["security_groups"][0]
    assert len(await found(f"security_groups={group}")) == 2


async def test_bulk_ports(net: Net) -> None:
    network_id, _ = await net.network()
    rows = [{"network_id": network_id, "name": f"p{n}"} for n in range(5)]
    reply = await net.post("/ports", {"ports": rows})
    assert [one["name"] for one in reply.json["ports"]] == [f"p{n}" for n in range(5)]
    assert len({one["fixed_ips"][0]["ip_address"] for one in reply.json["ports"]}) == 5


async def test_dhcp_options_of_a_port(net: Net) -> None:
    network_id, _ = await net.network("10.1.0.0/24")
    boot: dict[str, object] = {"opt_name": "bootfile-name", "opt_value": "pxe.0"}
    port = await net.make(
        "/ports", network_id=network_id, extra_dhcp_opts=[boot, {"opt_name": "router", "opt_value": ""}]
    )
    assert port["extra_dhcp_opts"] == [
        {**boot, "ip_version": 4},
        {"opt_name": "router", "opt_value": "", "ip_version": 4},
    ]

    async def put(*options: dict[str, object]) -> list[tuple[str, str, int]]:
        reply = await net.put(f"/ports/{port['id']}", {"port": {"extra_dhcp_opts": list(options)}})
        assert reply.status == 200, reply.data
        kept = reply.json["port"]["extra_dhcp_opts"]
        return [(one["opt_name"], one["opt_value"], one["ip_version"]) for one in kept]

    six: dict[str, object] = {"opt_name": "bootfile-name", "opt_value": "http://[fd00::1]/x", "ip_version": "6"}
    told = await put({"opt_name": "router", "opt_value": None}, six, {"opt_name": "42", "opt_value": "10.1.0.9"})
    assert told == [("bootfile-name", "pxe.0", 4), ("bootfile-name", "http://[fd00::1]/x", 6), ("42", "10.1.0.9", 4)]
    assert len(await put({"opt_name": "bootfile-name", "opt_value": "other"}, {"opt_name": "42", "opt_value": ""})) == 3
    assert (await net.make("/ports", network_id=network_id))["extra_dhcp_opts"] == []
    for wrong in (
        {"opt_name": "router"},
        {"opt_name": "a,tag:x", "opt_value": "1"},
        {"opt_name": "mtu", "opt_value": "1\nuser=root"},
        {"opt_name": "mtu", "opt_value": "1", "ip_version": 5},
        {"opt_name": "mtu", "opt_value": "1", "colour": "red"},
        {"opt_name": "", "opt_value": "1"},
        "mtu",
    ):
        body = {"port": {"network_id": network_id, "extra_dhcp_opts": [wrong]}}
        refused(await net.post("/ports", body), 400, "HTTPBadRequest")

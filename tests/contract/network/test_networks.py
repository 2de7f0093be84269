# SPDX-License-Identifier: Apache-2.0
"""Networks: shape, defaults, policy of attributes, revisions, in-use refusals."""

from __future__ import annotations

from tests.contract.image.lone import ALT, READER
from tests.contract.network.conftest import Net, project, refused

OWN = {
    "id", "name", "tenant_id", "project_id", "admin_state_up", "status", "subnets", "shared", "router:external", "mtu",
    "port_security_enabled", "dns_domain", "ipv4_address_scope", "ipv6_address_scope", "availability_zones",
    "availability_zone_hints", "description", "created_at", "updated_at", "revision_number", "tags",
}  # fmt: skip
PROVIDER = {"provider:network_type", "provider:physical_network", "provider:segmentation_id"}


async def test_create_and_show(net: Net) -> None:
    reply = await net.post("/networks", {"network": {"name": "n1"}})
    assert reply.status == 201
    network = reply.json["network"]
    assert set(network) == OWN
    assert network["tenant_id"] == network["project_id"] == project("demo")
    assert (network["status"], network["admin_state_up"], network["mtu"]) == ("ACTIVE", True, 1450)
    assert (network["subnets"], network["shared"], network["revision_number"]) == ([], False, 1)
    assert network["created_at"].endswith("Z")
    assert len(network["created_at"]) == 20
    assert (await net.get(f"/networks/{network['id']}")).json["network"] == network


async def test_provider_attributes_are_the_administrators(net: Net) -> None:
    network = await net.make("/networks", name="n1")
    seen = await net.admin.show(f"/networks/{network['id']}")
    assert set(seen) == OWN | PROVIDER
    assert seen["provider:network_type"] == "vxlan"
    assert 1 <= seen["provider:segmentation_id"] < 2**24
    reply = await net.post("/networks", {"network": {"provider:network_type": "vxlan"}})
    assert "create_network:provider:network_type" in refused(reply, 403, "PolicyNotAuthorized")
    made = await net.admin.make("/networks", provider__network_type="vxlan", provider__segmentation_id=77)
    assert made["provider:segmentation_id"] == 77
    again = {"network": {"provider:network_type": "vxlan", "provider:segmentation_id": 77}}
    refused(await net.admin.post("/networks", again), 409, "TunnelIdInUse")
    refused(await net.admin.post("/networks", {"network": {"provider:network_type": "vlan"}}), 400, "InvalidInput")


async def test_attributes_with_a_policy_of_their_own(net: Net) -> None:
    for name in ("shared", "router:external"):
        reply = await net.post("/networks", {"network": {name: True}})
        assert refused(reply, 403, "PolicyNotAuthorized") == f"rule:create_network:{name} is disallowed by policy"
        assert (await net.post("/networks", {"network": {name: False}})).status == 201  # the default needs no right
    network = await net.make("/networks", name="n1")
    reply = await net.put(f"/networks/{network['id']}", {"network": {"shared": True}})
    refused(reply, 403, "PolicyNotAuthorized")


async def test_strangers_see_shared_and_external_only(net: Net) -> None:
    await net.make("/networks", name="own")
    await net.admin.make("/networks", name="shared", shared=True)
    await net.admin.make("/networks", name="out", router__external=True)
    assert sorted(await net.by(ALT).names("/networks")) == ["out", "shared"]
    own = (await net.get("/networks?name=own")).json["networks"][0]
    assert "could not be found" in refused(await net.by(ALT).get(f"/networks/{own['id']}"), 404, "NetworkNotFound")
    refused(await net.by(ALT).delete(f"/networks/{own['id']}"), 404, "NetworkNotFound")
    shared = (await net.get("/networks?name=shared")).json["networks"][0]
    refused(await net.put(f"/networks/{shared['id']}", {"network": {"name": "x"}}), 403, "PolicyNotAuthorized")


async def test_a_reader_reads(net: Net) -> None:
    network = await net.make("/networks", name="n1")
    reader = net.by(READER)
    assert (await reader.get(f"/networks/{network['id']}")).status == 200
    refused(await reader.post("/networks", {"network": {}}), 403, "PolicyNotAuthorized")
    refused(await reader.put(f"/networks/{network['id']}", {"network": {"name": "x"}}), 403, "PolicyNotAuthorized")
    refused(await reader.delete(f"/networks/{network['id']}"), 403, "PolicyNotAuthorized")


async def test_other_project(net: Net) -> None:
    reply = await net.post("/networks", {"network": {"project_id": project("alt")}})
    assert "admin privileges" in refused(reply, 400, "HTTPBadRequest")
    made = await net.admin.make("/networks", tenant_id=project("alt"))
    assert made["project_id"] == project("alt")
    reply = await net.admin.post("/networks", {"network": {"tenant_id": "a", "project_id": "b"}})
    assert refused(reply, 400, "HTTPBadRequest") == "'project_id' and 'tenant_id' do not match"


async def test_bodies_that_are_wrong(net: Net) -> None:
    cases = [
        ({"net": {}}, "Unable to find 'network' in request body"),
        ({"network": []}, "Object 'network' contains invalid data"),
        ({"network": {"color": "red"}}, "Unrecognized attribute(s) 'color'"),
        ({"network": {"id": "x"}}, "Attribute 'id' not allowed in POST"),
        ({"network": {"status": "UP"}}, "Attribute 'status' not allowed in POST"),
        ({"network": {"name": 5}}, "Invalid input for name. Reason: '5' is not a valid string."),
        ({"network": {"name": "x" * 256}}, "exceeds maximum length of 255"),
        ({"network": {"admin_state_up": "maybe"}}, "'maybe' cannot be converted to boolean"),
        ({"networks": []}, "Resources required"),
    ]
    for body, message in cases:
        assert message in refused(await net.post("/networks", body), 400, "HTTPBadRequest")
    refused(await net.lone.request("POST", "/v2.0/networks", body=b"{", token=net.token), 400, "HTTPBadRequest")


async def test_bulk_is_all_or_nothing(net: Net) -> None:
    reply = await net.post("/networks", {"networks": [{"name": "a"}, {"name": "b"}]})
    assert reply.status == 201
    assert [one["name"] for one in reply.json["networks"]] == ["a", "b"]
    reply = await net.post("/networks", {"networks": [{"name": "c"}, {"name": "d", "mtu": 9000}]})
    assert "maximum is 1450" in refused(reply, 400, "InvalidInput")
    assert sorted(await net.names("/networks")) == ["a", "b"]


async def test_update_and_revisions(net: Net) -> None:
    network = await net.make("/networks", name="n1")
    path = f"/networks/{network['id']}"
    changed = await net.put(path, {"network": {"name": "n2", "admin_state_up": "False", "mtu": 1400}})
    assert changed.status == 200
    document = changed.json["network"]
    assert (document["name"], document["admin_state_up"], document["mtu"]) == ("n2", False, 1400)
    assert document["revision_number"] == 2
    reply = await net.put(path, {"network": {"name": "n3"}}, if_match="revision_number=1")
    message = refused(reply, 412, "RevisionNumberConstraintFailed")
    assert message == "Constrained to 1, but current revision is 2"
    assert (await net.put(path, {"network": {"name": "n3"}}, if_match="revision_number=2")).status == 200
    refused(await net.put(path, {"network": {"name": "n4"}}, if_match="revision_number=x"), 400, "BadRequest")
    refused(await net.send("DELETE", path, if_match="revision_number=1"), 412, "RevisionNumberConstraintFailed")
    reply = await net.put(path, {"network": {"status": "DOWN"}})
    assert refused(reply, 400, "HTTPBadRequest") == "Cannot update read-only attribute status"


async def test_delete(net: Net) -> None:
    network_id, subnet_id = await net.network()
    port = await net.make("/ports", network_id=network_id)
    message = refused(await net.delete(f"/networks/{network_id}"), 409, "NetworkInUse")
    assert message.endswith(f"id for these ports is: {port['id']}.")
    assert (await net.delete(f"/ports/{port['id']}")).status == 204
    reply = await net.delete(f"/networks/{network_id}")  # the DHCP port goes with it
    assert (reply.status, reply.data) == (204, b"")
    refused(await net.get(f"/networks/{network_id}"), 404, "NetworkNotFound")
    refused(await net.get(f"/subnets/{subnet_id}"), 404, "SubnetNotFound")
    refused(await net.delete(f"/networks/{network_id}"), 404, "NetworkNotFound")
    details = (await net.get(f"/quotas/{project('demo')}/details.json")).json["quota"]
    assert [details[name]["used"] for name in ("network", "subnet", "port")] == [0, 0, 0]


async def test_unsharing_with_foreign_ports(net: Net) -> None:
    network = await net.admin.make("/networks", shared=True)
    await net.admin.make("/subnets", network_id=network["id"], ip_version=4, cidr="10.3.0.0/24")
    await net.make("/ports", network_id=network["id"])
    reply = await net.admin.put(f"/networks/{network['id']}", {"network": {"shared": False}})
    refused(reply, 409, "InvalidSharedSetting")


async def test_an_external_network_takes_unused_floating_ips_along(net: Net) -> None:
    external = await net.external()
    floating = await net.make("/floatingips", floating_network_id=external)
    assert (await net.admin.delete(f"/networks/{external}")).status == 204
    refused(await net.get(f"/floatingips/{floating['id']}"), 404, "FloatingIPNotFound")
    details = (await net.get(f"/quotas/{project('demo')}/details.json")).json["quota"]
    assert details["floatingip"]["used"] == 0

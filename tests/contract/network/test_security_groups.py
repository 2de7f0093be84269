# SPDX-License-Identifier: Apache-2.0
"""Security groups: the default one of each project, rules, and what two rules may not both say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.image.lone import ALT, READER
from tests.contract.network.conftest import Net, project, refused


async def test_looking_makes_the_default_group(net: Net) -> None:
    (group,) = (await net.by(READER).get("/security-groups")).json["security_groups"]
    assert (group["name"], group["project_id"]) == ("default", project("demo"))
    rules = {(r["direction"], r["ethertype"], r["remote_group_id"]) for r in group["security_group_rules"]}
    assert rules == {
        ("egress", "IPv4", None), ("egress", "IPv6", None),
        ("ingress", "IPv4", group["id"]), ("ingress", "IPv6", group["id"]),
    }  # fmt: skip
    assert len((await net.get("/security-groups")).json["security_groups"]) == 1
    (other,) = (await net.by(ALT).get("/security-groups")).json["security_groups"]
    assert other["id"] != group["id"]


async def test_a_port_makes_the_default_group(net: Net) -> None:
    network_id, _ = await net.network()
    port = await net.make("/ports", network_id=network_id)
    (group,) = (await net.get("/security-groups")).json["security_groups"]
    assert port["security_groups"] == [group["id"]]


async def test_create_update_delete(net: Net) -> None:
    group = await net.make("/security-groups", name="web", description="d")
    assert set(group) == {
        "id", "name", "tenant_id", "project_id", "description", "shared", "security_group_rules",
        "created_at", "updated_at", "revision_number", "tags",
    }  # fmt: skip
    assert {(r["direction"], r["ethertype"]) for r in group["security_group_rules"]} == {
        ("egress", "IPv4"), ("egress", "IPv6"),
    }  # fmt: skip
    path = f"/security-groups/{group['id']}"
    assert (await net.put(path, {"security_group": {"name": "w2"}})).json["security_group"]["name"] == "w2"
    refused(await net.by(ALT).get(path), 404, "SecurityGroupNotFound")
    refused(await net.by(READER).put(path, {"security_group": {"name": "x"}}), 403, "PolicyNotAuthorized")
    network_id, _ = await net.network()
    port = await net.make("/ports", network_id=network_id, security_groups=[group["id"]])
    message = refused(await net.delete(path), 409, "SecurityGroupInUse")
    assert message == f"Security Group {group['id']} in use."
    await net.delete(f"/ports/{port['id']}")
    assert (await net.delete(path)).status == 204
    assert refused(await net.get(path), 404, "SecurityGroupNotFound") == f"Security group {group['id']} does not exist"


async def test_the_default_group_stays(net: Net) -> None:
    (group,) = (await net.get("/security-groups")).json["security_groups"]
    path = f"/security-groups/{group['id']}"
    refused(await net.delete(path), 409, "SecurityGroupCannotRemoveDefault")
    refused(await net.put(path, {"security_group": {"name": "x"}}), 409, "SecurityGroupCannotUpdateDefault")
    reply = await net.post("/security-groups", {"security_group": {"name": "Default"}})
    refused(reply, 409, "SecurityGroupDefaultAlreadyExists")
    assert (await net.admin.delete(path)).status == 204  # a project's end
    assert len((await net.get("/security-groups")).json["security_groups"]) == 1  # and it is made anew


async def test_a_rule(net: Net) -> None:
    group = await net.make("/security-groups", name="web")
    rule = await net.make(
        "/security-group-rules", security_group_id=group["id"], direction="ingress", protocol="TCP",
        port_range_min="80", port_range_max=90, remote_ip_prefix="10.1.2.3/16", ethertype="ipv4",
    )  # fmt: skip
    assert set(rule) == {
        "id", "tenant_id", "project_id", "security_group_id", "direction", "ethertype", "protocol", "port_range_min",
        "port_range_max", "remote_ip_prefix", "remote_group_id", "normalized_cidr", "description", "created_at",
        "updated_at", "revision_number",
    }  # fmt: skip
    assert (rule["protocol"], rule["port_range_min"], rule["port_range_max"]) == ("tcp", 80, 90)
    assert (rule["ethertype"], rule["normalized_cidr"]) == ("IPv4", "10.1.0.0/16")
    assert rule["remote_ip_prefix"] == "10.1.2.3/16"
    assert (await net.show(f"/security-groups/{group['id']}"))["revision_number"] == 2
    assert await net.show(f"/security-group-rules/{rule['id']}") == rule
    found = (await net.get(f"/security-group-rules?security_group_id={group['id']}&direction=ingress")).json
    assert [one["id"] for one in found["security_group_rules"]] == [rule["id"]]
    refused(await net.by(ALT).get(f"/security-group-rules/{rule['id']}"), 404, "SecurityGroupRuleNotFound")
    assert (await net.delete(f"/security-group-rules/{rule['id']}")).status == 204
    refused(await net.delete(f"/security-group-rules/{rule['id']}"), 404, "SecurityGroupRuleNotFound")
    reply = await net.put(f"/security-group-rules/{rule['id']}", {"security_group_rule": {}})
    assert reply.status == 405


async def test_same_meaning_is_the_same_rule(net: Net) -> None:
    group = await net.make("/security-groups", name="web")
    rule = {"security_group_id": group["id"], "direction": "ingress", "protocol": "icmp"}
    first = await net.make("/security-group-rules", **rule)
    for protocol in ("icmp", "1", 1):
        reply = await net.post("/security-group-rules", {"security_group_rule": {**rule, "protocol": protocol}})
        message = refused(reply, 409, "SecurityGroupRuleExists")
        assert message == f"Security group rule already exists. Rule id is {first['id']}."
    await net.make("/security-group-rules", **{**rule, "direction": "egress"})


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"direction": "up"}, "HTTPBadRequest", "'up' is not in ['ingress', 'egress']"),
    ({"ethertype": "IPv5"}, "HTTPBadRequest", "is not in ['IPv4', 'IPv6']"),
    ({"protocol": "nothing"}, "HTTPBadRequest", "protocol nothing not supported"),
    ({"protocol": 256}, "HTTPBadRequest", "protocol 256 not supported"),
    (
        {"port_range_min": 1, "port_range_max": 2},
        "SecurityGroupProtocolRequiredWithPorts",
        "Must also specify protocol",
    ),
    ({"protocol": "tcp", "port_range_min": 9, "port_range_max": 2}, "SecurityGroupInvalidPortRange", "must be <="),
    ({"protocol": "tcp", "port_range_min": 9}, "SecurityGroupInvalidPortRange", "must be <="),
    ({"protocol": "tcp", "port_range_min": 0, "port_range_max": 1}, "SecurityGroupInvalidPortValue", "port 0"),
    (
        {"protocol": "tcp", "port_range_min": 70000, "port_range_max": 70001},
        "HTTPBadRequest",
        "Invalid value for port 70000",
    ),
    ({"protocol": "icmp", "port_range_min": 300}, "SecurityGroupInvalidIcmpValue", "ICMP type (port_range_min) 300"),
    ({"protocol": "icmp", "port_range_max": 3}, "SecurityGroupMissingIcmpType", "ICMP code (port-range-max) 3"),
    ({"protocol": "gre", "port_range_min": 1, "port_range_max": 2}, "SecurityGroupInvalidProtocolForPort", "47"),
    ({"protocol": "ipv6-icmp"}, "SecurityGroupEthertypeConflictWithProtocol", "Invalid ethertype IPv4"),
    ({"protocol": 58}, "SecurityGroupEthertypeConflictWithProtocol", "Invalid ethertype IPv4"),
    ({"remote_ip_prefix": "fd00::/8"}, "SecurityGroupRuleParameterConflict", "Conflicting value ethertype IPv4"),
    ({"remote_ip_prefix": "x"}, "HTTPBadRequest", "Invalid CIDR x given as IP prefix"),
]


@pytest.mark.parametrize(("given", "kind", "message"), REFUSED)
async def test_rules_that_are_refused(net: Net, given: dict[str, Any], kind: str, message: str) -> None:
    group = await net.make("/security-groups", name="web")
    body = {"security_group_id": group["id"], "direction": "ingress", **given}
    assert message in refused(await net.post("/security-group-rules", {"security_group_rule": body}), 400, kind)


async def test_rules_of_others(net: Net) -> None:
    group = await net.make("/security-groups", name="web")
    theirs = await net.by(ALT).make("/security-groups", name="theirs")
    body = {"security_group_id": theirs["id"], "direction": "ingress"}
    refused(await net.post("/security-group-rules", {"security_group_rule": body}), 404, "SecurityGroupNotFound")
    body = {"security_group_id": group["id"], "direction": "ingress", "remote_group_id": theirs["id"]}
    refused(await net.post("/security-group-rules", {"security_group_rule": body}), 404, "SecurityGroupNotFound")
    body["remote_ip_prefix"] = "10.0.0.0/8"
    reply = await net.post("/security-group-rules", {"security_group_rule": body})
    refused(reply, 400, "SecurityGroupMultipleRemoteEntites")
    body = {"security_group_id": group["id"], "direction": "ingress"}
    refused(
        await net.by(READER).post("/security-group-rules", {"security_group_rule": body}), 403, "PolicyNotAuthorized"
    )


async def test_all_ports_is_no_range(net: Net) -> None:
    group = await net.make("/security-groups", name="web")
    rule = await net.make(
        "/security-group-rules", security_group_id=group["id"], direction="ingress", protocol="udp",
        port_range_min=1, port_range_max=65535,
    )  # fmt: skip
    assert (rule["port_range_min"], rule["port_range_max"]) == (None, None)


async def test_the_rules_of_a_new_group_count(net: Net) -> None:
    await net.get("/security-groups")
    path = f"/quotas/{project('demo')}"
    assert (await net.get(f"{path}/details.json")).json["quota"]["security_group_rule"]["used"] == 4
    await net.admin.put(path, {"quota": {"security_group_rule": 5}})
    refused(await net.post("/security-groups", {"security_group": {"name": "web"}}), 409, "OverQuota")
    await net.admin.put(path, {"quota": {"security_group_rule": 6}})
    group = await net.make("/security-groups", name="web")
    await net.delete(f"/security-groups/{group['id']}")
    assert (await net.get(f"{path}/details.json")).json["quota"]["security_group_rule"]["used"] == 4


async def test_an_administrators_rule_in_ones_own_group(net: Net) -> None:
    group = await net.make("/security-groups", name="web")
    rule = await net.admin.make("/security-group-rules", security_group_id=group["id"], direction="ingress")
    assert rule["project_id"] == project("admin")
    found = (await net.get("/security-group-rules")).json["security_group_rules"]
    assert rule["id"] in [one["id"] for one in found]


async def test_bulk_items_in_envelopes(net: Net) -> None:
    rows = [{"security_group": {"name": "a"}}, {"name": "b"}]
    reply = await net.post("/security-groups", {"security_groups": rows})
    assert [one["name"] for one in reply.json["security_groups"]] == ["a", "b"]

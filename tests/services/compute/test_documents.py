# SPDX-License-Identifier: Apache-2.0
"""The documents of a guest: a pure function of its record."""

from __future__ import annotations

import base64
from typing import Any

import orjson

from cumulet.compute.metadata.documents import documents_for, network_data

SERVER: dict[str, Any] = {
    "id": "11111111-1111-4111-8111-111111111111", "number": 10, "name": "box", "hostname": "box", "project_id": "p",
    "launch_index": 0, "availability_zone": "nova", "metadata": {}, "key_data": None, "user_data": None,
    "personality": [{"path": "/etc/motd", "contents": base64.b64encode(b"hi").decode()}], "network_cache": [],
    "image_id": None, "flavor": {"name": "m1.nano"}, "security_groups": [], "root_device_name": None,
    "reservation_id": None, "admin_pass": "clear",
}  # fmt: skip


def vif(**changes: Any) -> dict[str, Any]:
    subnet = {
        "id": "s", "cidr": "10.0.0.0/24", "gateway": "10.0.0.1", "version": 4, "dns": ["9.9.9.9"], "dhcp": False,
        "routes": [{"destination": "192.168.0.0/16", "nexthop": "10.0.0.9"}],
    }  # fmt: skip
    address = {"addr": "10.0.0.5", "version": 4, "type": "fixed", "subnet_id": "s"}
    floating = {"addr": "203.0.113.7", "version": 4, "type": "floating", "fixed": "10.0.0.5"}
    return {
        "network_id": "n", "network_label": "net", "port_id": "abcdefgh-ijkl-mnop", "mac": "fa:16:3e:00:00:01",
        "mtu": 1450, "tag": None, "addresses": [address, floating], "subnets": [{**subnet, **changes}],
    }  # fmt: skip


def test_a_config_drive_holds_every_version() -> None:
    files = documents_for(SERVER)
    assert {
        "openstack/latest/meta_data.json",
        "openstack/2012-08-10/meta_data.json",
        "ec2/latest/meta-data.json",
    } <= set(files)
    assert not [path for path in files if path.endswith(("user_data", "user-data"))]
    told = orjson.loads(files["openstack/latest/meta_data.json"])
    assert (told["hostname"], told["admin_pass"]) == ("box.novalocal", "clear")
    assert told["files"] == [{"path": "/etc/motd", "content_path": "/content/0000"}]
    assert files["openstack/content/0000"] == b"hi"
    assert orjson.loads(files["ec2/latest/meta-data.json"])["instance-id"] == "i-0000000a"


def test_all_versions_carry_the_same_seed() -> None:
    files = documents_for(SERVER)
    seeds = {
        orjson.loads(data).get("random_seed") for path, data in files.items() if path.endswith("meta_data.json")
    } - {None}
    assert len(seeds) == 1


def test_static_addresses_are_spelt_out() -> None:
    told = network_data([vif()])
    (network,) = told["networks"]
    assert (network["type"], network["ip_address"], network["netmask"]) == ("ipv4", "10.0.0.5", "255.255.255.0")
    assert network["routes"] == [
        {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"},
        {"network": "192.168.0.0", "netmask": "255.255.0.0", "gateway": "10.0.0.9"},
    ]
    assert told["services"] == [{"type": "dns", "address": "9.9.9.9"}]
    assert told["links"][0]["mtu"] == 1450


def test_addresses_by_dhcp_are_not() -> None:
    (network,) = network_data([vif(dhcp=True)])["networks"]
    assert network == {"id": "network0", "type": "ipv4_dhcp", "link": "tapabcdefgh-ij", "network_id": "n"}


def test_hostile_text_stays_text() -> None:
    files = documents_for({**SERVER, "name": '"}{', "metadata": {"a": "\u2028</script>"}, "user_data": "!!"})
    told = orjson.loads(files["openstack/latest/meta_data.json"])
    assert (told["name"], told["meta"]) == ('"}{', {"a": "\u2028</script>"})
    assert files["openstack/latest/user_data"] == b""

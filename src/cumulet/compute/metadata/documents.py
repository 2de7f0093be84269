# SPDX-License-Identifier: Apache-2.0
"""The documents that a guest reads about itself, by path: on its config drive and from 169.254.169.254.

A pure function of the server's record: no database, no service, so that any
host may call it. Source: the OpenStack documentation "Metadata" and the EC2
instance metadata categories that clients of the service read.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from cumulet.kernel import ids

VERSIONS: Final = (
    "2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27",
    "2020-10-14", "latest",
)  # fmt: skip
EC2_VERSIONS: Final = (
    "1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01",
    "2009-04-04", "latest",
)  # fmt: skip
DRIVE_EC2_VERSIONS: Final = ("2009-04-04", "latest")
DOMAIN: Final = "novalocal"
Server = Mapping[str, Any]


def documents_for(server: Server, *, domain: str = DOMAIN) -> dict[str, bytes]:
    """All files of a config drive by their path.

    ``server`` is the server's row; ``admin_pass`` (clear) and ``block_devices`` (rows) may be added to it.
    """
    seed = random_seed()
    found: dict[str, bytes] = {}
    for version in VERSIONS:
        for name, data in openstack_documents(server, version, domain=domain, seed=seed).items():
            found[f"openstack/{version}/{name}"] = data
    for number, file in enumerate(server.get("personality") or []):
        found[f"openstack/content/{number:04}"] = decoded(file.get("contents"))
    for version in DRIVE_EC2_VERSIONS:
        found[f"ec2/{version}/meta-data.json"] = orjson.dumps(ec2_metadata(server, domain=domain))
        if server.get("user_data"):
            found[f"ec2/{version}/user-data"] = decoded(server["user_data"])
    return found


def openstack_documents(
    server: Server, version: str, *, domain: str = DOMAIN, seed: str | None = None
) -> dict[str, bytes]:
    """The documents of one dated version, by their name."""
    found = {"meta_data.json": orjson.dumps(meta_data(server, version, domain=domain, seed=seed))}
    if server.get("user_data"):
        found["user_data"] = decoded(server["user_data"])
    if _since(version, "2013-10-17"):
        found["vendor_data.json"] = b"{}"
    if _since(version, "2015-10-15"):
        found["network_data.json"] = orjson.dumps(network_data(server.get("network_cache") or []))
    if _since(version, "2016-10-06"):
        found["vendor_data2.json"] = b"{}"
    return found


def meta_data(server: Server, version: str, *, domain: str = DOMAIN, seed: str | None = None) -> dict[str, Any]:
    """``meta_data.json`` of one dated version."""
    key = server.get("key_data")
    told: dict[str, Any] = {
        "uuid": server["id"],
        "name": server["name"],
        "hostname": fqdn(server, domain),
        "launch_index": server.get("launch_index") or 0,
        "availability_zone": server.get("availability_zone") or "",
    }
    if server.get("metadata"):
        told["meta"] = server["metadata"]
    if key:
        told["public_keys"] = {key["name"]: key["public_key"]}
        told["keys"] = [{"name": key["name"], "type": key["type"], "data": key["public_key"]}]
    files = server.get("personality") or []
    if files:
        told["files"] = [
            {"path": file.get("path", ""), "content_path": f"/content/{number:04}"} for number, file in enumerate(files)
        ]
    if server.get("admin_pass"):
        told["admin_pass"] = server["admin_pass"]
    if _since(version, "2013-04-04"):
        told["random_seed"] = seed or random_seed()
    if _since(version, "2015-10-15"):
        told["project_id"] = server["project_id"]
    if _since(version, "2016-06-30"):
        told["devices"] = _devices(server)
    if _since(version, "2020-10-14"):
        told["dedicated_cpus"] = []
    return told


def random_seed() -> str:
    """512 random bytes in base64, for the guest's own random numbers."""
    return base64.b64encode(ids.new_secret(512).encode()[:512]).decode()


def fqdn(server: Server, domain: str = DOMAIN) -> str:
    """The guest's full host name; a host name with dots stays as it is."""
    name = str(server["hostname"])
    return f"{name}.{domain}" if domain and "." not in name else name


def decoded(text: str | None) -> bytes:
    """User data and files are kept in base64 as they were sent."""
    try:
        return base64.b64decode(text or "")
    except (binascii.Error, ValueError):
        return b""


def _devices(server: Server) -> list[dict[str, Any]]:
    """The tagged devices of a server."""
    return [
        {"type": "nic", "bus": "none", "address": "none", "mac": vif["mac"], "tags": [vif["tag"]]}
        for vif in server.get("network_cache") or []
        if vif.get("tag")
    ]


def _since(version: str, first: str) -> bool:
    return version == "latest" or version >= first


# ---- network_data.json


def network_data(vifs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``network_data.json``: links, networks on them, and name servers."""
    links: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    services: list[dict[str, Any]] = []
    for vif in vifs:
        link = "tap" + vif["port_id"][:11]
        links.append(
            {
                "id": link, "vif_id": vif["port_id"], "type": "bridge", "mtu": vif.get("mtu"),
                "ethernet_mac_address": vif["mac"],
            }
        )  # fmt: skip
        subnets = {subnet["id"]: subnet for subnet in vif.get("subnets") or []}
        for address in vif["addresses"]:
            if address["type"] != "fixed":
                continue
            subnet = subnets.get(address.get("subnet_id"), {})
            networks.append(_network(f"network{len(networks)}", link, vif["network_id"], address, subnet))
            services += [
                {"type": "dns", "address": one}
                for one in subnet.get("dns") or []
                if all(known["address"] != one for known in services)
            ]
    return {"links": links, "networks": networks, "services": services}


def _network(
    name: str, link: str, network_id: str, address: Mapping[str, Any], subnet: Mapping[str, Any]
) -> dict[str, Any]:
    kind = f"ipv{address['version']}"
    told: dict[str, Any] = {"id": name, "type": kind, "link": link, "network_id": network_id}
    if subnet.get("dhcp"):
        told["type"] = kind + "_dhcp"
        return told
    prefix = ipaddress.ip_network(subnet["cidr"]) if subnet.get("cidr") else None
    told["ip_address"] = address["addr"]
    told["netmask"] = str(prefix.netmask) if prefix else ""
    routes = [_route(one["destination"], one["nexthop"]) for one in subnet.get("routes") or []]
    if subnet.get("gateway"):
        routes.insert(0, _route("0.0.0.0/0" if address["version"] == 4 else "::/0", subnet["gateway"]))
    told["routes"] = routes
    told["services"] = [{"type": "dns", "address": one} for one in subnet.get("dns") or []]
    return told


def _route(destination: str, gateway: str) -> dict[str, str]:
    target = ipaddress.ip_network(destination, strict=False)
    return {"network": str(target.network_address), "netmask": str(target.netmask), "gateway": gateway}


# ---- the EC2 tree


def ec2_metadata(server: Server, *, domain: str = DOMAIN) -> dict[str, Any]:
    """The EC2 categories as a tree: a dict is a directory, a list is its lines."""
    addresses = [one for vif in server.get("network_cache") or [] for one in vif["addresses"] if one["version"] == 4]
    fixed = [one["addr"] for one in addresses if one["type"] == "fixed"]
    floating = [one["addr"] for one in addresses if one["type"] == "floating"]
    name, root = fqdn(server, domain), server.get("root_device_name") or "/dev/vda"
    told: dict[str, Any] = {
        "ami-id": "ami-" + (server.get("image_id") or "")[:8],
        "ami-launch-index": server.get("launch_index") or 0,
        "ami-manifest-path": "",
        "block-device-mapping": {"ami": root.removeprefix("/dev/"), "root": root, **_local_disks(server)},
        "hostname": name,
        "instance-action": "none",
        "instance-id": f"i-{server['number']:08x}",
        "instance-type": server["flavor"]["name"],
        "local-hostname": name,
        "local-ipv4": fixed[0] if fixed else "",
        "placement": {"availability-zone": server.get("availability_zone") or ""},
        "public-hostname": name,
        "public-ipv4": floating[0] if floating else "",
        "reservation-id": server.get("reservation_id") or "",
        "security-groups": [one["name"] for one in server.get("security_groups") or []],
    }
    if key := server.get("key_data"):
        told["public-keys"] = {"0": {"_name": key["name"], "openssh-key": key["public_key"]}}
    return told


def _local_disks(server: Server) -> dict[str, str]:
    """``ephemeral0`` …, ``swap`` → device name, of the block devices that may stand beside the record."""
    found: dict[str, str] = {}
    for row in server.get("block_devices") or []:
        if (row["source_type"], row["destination_type"]) == ("blank", "local") and row["device_name"]:
            number = sum(name != "swap" for name in found)
            found["swap" if row["guest_format"] == "swap" else f"ephemeral{number}"] = row["device_name"]
    return found

# SPDX-License-Identifier: Apache-2.0
"""How a server looks, by version and by who asks: one table, one inner document.

The inner document is made once from the row; members that only some may see
name their policy. Nothing here asks another service.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from cumulet.compute.api.links import bookmark_of, links_of
from cumulet.compute.states import status_of
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.http import Out, Request, View

EXTENDED: Final = "os_compute_api:os-extended-server-attributes"
HOST_STATUS: Final = "os_compute_api:servers:show:host_status"
HOST_UNKNOWN: Final = "os_compute_api:servers:show:host_status:unknown-only"
EXTRA_SPECS: Final = "os_compute_api:servers:show:flavor-extra-specs"
_PROGRESS = {"ACTIVE", "BUILD", "REBUILD", "RESIZE", "VERIFY_RESIZE", "MIGRATING"}
_FAULTY = {"ERROR", "DELETED"}

_PLAIN: Final = (
    Out("id"), Out("name"), Out("status"), Out("tenant_id", "project_id"), Out("user_id"),
    Out("metadata"), Out("hostId", "host_id"), Out("image", until="2.97"), Out("image", "image_full", since="2.98"),
    Out("flavor", "flavor_link", until="2.46"), Out("flavor", since="2.47"),
    Out("created"), Out("updated"), Out("accessIPv4"), Out("accessIPv6"), Out("links"),
    Out("OS-DCF:diskConfig", "disk_config"), Out("progress"), Out("fault"),
    Out("locked", since="2.9"), Out("description", since="2.19"), Out("tags", since="2.26"),
    Out("trusted_image_certificates", "trusted_certs", since="2.63"), Out("locked_reason", since="2.73"),
)  # fmt: skip
_REST: Final = (
    Out("addresses"), Out("config_drive"), Out("key_name"), Out("security_groups"),
    Out("OS-EXT-AZ:availability_zone", "zone"), Out("OS-SRV-USG:launched_at", "launched"),
    Out("OS-SRV-USG:terminated_at", "terminated"), Out("OS-EXT-STS:task_state", "task_state"),
    Out("OS-EXT-STS:vm_state", "vm_state"), Out("OS-EXT-STS:power_state", "power_state"),
    Out("os-extended-volumes:volumes_attached", "volume_ids", until="2.2"),
    Out("os-extended-volumes:volumes_attached", "volumes_attached", since="2.3"),
    Out("OS-EXT-SRV-ATTR:host", "host", policy=EXTENDED),
    Out("OS-EXT-SRV-ATTR:instance_name", "instance_name", policy=EXTENDED),
    Out("OS-EXT-SRV-ATTR:hypervisor_hostname", "node_name", policy=EXTENDED),
    Out("OS-EXT-SRV-ATTR:reservation_id", "reservation_id", since="2.3", policy=EXTENDED),
    Out("OS-EXT-SRV-ATTR:launch_index", "launch_index", since="2.3", policy=EXTENDED),
    Out("OS-EXT-SRV-ATTR:hostname", "hostname", since="2.3", until="2.89", policy=EXTENDED),
    Out("OS-EXT-SRV-ATTR:hostname", "hostname", since="2.90"),
    Out("OS-EXT-SRV-ATTR:kernel_id", "kernel_id", since="2.3", policy=EXTENDED),
    Out("OS-EXT-SRV-ATTR:ramdisk_id", "ramdisk_id", since="2.3", policy=EXTENDED),
    Out("OS-EXT-SRV-ATTR:root_device_name", "root_device_name", since="2.3", policy=EXTENDED),
    Out("OS-EXT-SRV-ATTR:user_data", "user_data", since="2.3", policy=EXTENDED),
    Out("host_status", "unknown_host_status", since="2.16", policy=HOST_UNKNOWN),
    Out("host_status", since="2.16", policy=HOST_STATUS),
    Out("pinned_availability_zone", since="2.96"), Out("scheduler_hints", since="2.100"),
)  # fmt: skip
_GROUPS: Final = (Out("server_groups", since="2.71"),)

SHOW: Final = View(*_PLAIN, *_REST, *_GROUPS)
DETAIL: Final = View(*_PLAIN, *_REST)
CHANGED: Final = View(*_PLAIN, Out("addresses", "plain_addresses"), *_GROUPS)
"""What PUT answers before 2.75; from then on the same as a GET."""


def host_id(host: str | None, project_id: str) -> str:
    """The host as a project may know it: the same host, another project, another id."""
    return hashlib.sha224(f"{project_id}{host}".encode()).hexdigest() if host else ""


def document(
    request: Request,
    row: Row,
    *,
    volumes: list[dict[str, Any]],
    node_name: str | None = None,
    host_status: str | None = None,
    server_groups: list[str] | None = None,
    extra_specs: bool | None = None,
) -> dict[str, Any]:
    """The inner document of a server's row; what is None stays unknown to the view."""
    status = "DELETED" if row["deleted_at"] is not None else status_of(row["vm_state"], row["task_state"])
    if extra_specs is None:
        extra_specs = request.allows(EXTRA_SPECS, {"project_id": row["project_id"]})
    building = row["vm_state"] == "building"
    image = _image(request, row)
    found: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "status": status,
        "project_id": row["project_id"],
        "user_id": row["user_id"],
        "metadata": row["metadata"],
        "host_id": host_id(row["host"], row["project_id"]),
        "image": image,
        "image_full": {**image, "properties": _standard(row["image_properties"])} if image else "",
        "flavor_link": {
            "id": row["flavor"]["id"], "links": [bookmark_of(request, "flavors", row["flavor"]["id"])],
        },
        "flavor": _flavor(row["flavor"], extra_specs),
        "created": clock.iso_z(row["created_at"]),
        "updated": clock.iso_z(row["updated_at"]),
        "accessIPv4": row["access_ip_v4"] or "",
        "accessIPv6": row["access_ip_v6"] or "",
        "links": links_of(request, "servers", row["id"]),
        "disk_config": row["disk_config"],
        "locked": row["locked"],
        "description": row["description"],
        "tags": row["tags"],
        "trusted_certs": row["trusted_certs"],
        "locked_reason": row["locked_reason"],
        "addresses": {} if building else addresses(row),
        "plain_addresses": {} if building else addresses(row, extended=False),
        "config_drive": "True" if row["config_drive"] else "",
        "key_name": row["key_name"],
        "zone": row["availability_zone"] or "",
        "launched": bare(row["launched_at"]),
        "terminated": bare(row["terminated_at"]),
        "task_state": row["task_state"],
        "vm_state": row["vm_state"],
        "power_state": row["power_state"],
        "volumes_attached": volumes,
        "volume_ids": [{"id": volume["id"]} for volume in volumes],
        "host": row["host"],
        "instance_name": f"instance-{row['number']:08x}",
        "node_name": node_name or row["host"],
        "reservation_id": row["reservation_id"],
        "launch_index": row["launch_index"],
        "hostname": row["hostname"],
        "kernel_id": "",
        "ramdisk_id": "",
        "root_device_name": row["root_device_name"],
        "user_data": row["user_data"],
        "pinned_availability_zone": row["pinned_availability_zone"],
        "scheduler_hints": row["scheduler_hints"],
    }  # fmt: skip
    if row["security_groups"]:
        found["security_groups"] = [{"name": group["name"]} for group in row["security_groups"]]
    if status in _PROGRESS:
        found["progress"] = row["progress"]
    if status in _FAULTY and row["fault"]:
        found["fault"] = _fault(request, row["fault"])
    if host_status is not None:
        found["host_status"] = host_status
        if host_status == "UNKNOWN":
            found["unknown_host_status"] = host_status
    if server_groups is not None:
        found["server_groups"] = server_groups
    return found


def addresses(row: Mapping[str, Any], *, extended: bool = True) -> dict[str, list[dict[str, Any]]]:
    """network label → addresses, the fixed ones first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for vif in row["network_cache"]:
        listed = found.setdefault(vif["network_label"], [])
        for one in sorted(vif["addresses"], key=lambda address: address["type"] != "fixed"):
            told = {"version": one["version"], "addr": one["addr"]}
            if extended:
                told |= {"OS-EXT-IPS:type": one["type"], "OS-EXT-IPS-MAC:mac_addr": vif["mac"]}
            listed.append(told)
    return found


def _image(request: Request, row: Row) -> Any:
    if row["image_id"] is None:
        return ""
    return {"id": row["image_id"], "links": [bookmark_of(request, "images", row["image_id"])]}


def _standard(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The image properties that mean something to a hypervisor; the rest is the image's own business."""
    return {name: value for name, value in properties.items() if name.startswith(("hw_", "img_", "os_", "trait:"))}


def _flavor(flavor: Mapping[str, Any], extra_specs: bool) -> dict[str, Any]:
    told = {name: flavor[name] for name in ("vcpus", "ram", "disk", "ephemeral", "swap")}
    told["original_name"] = flavor["name"]
    if extra_specs:
        told["extra_specs"] = flavor["extra_specs"]
    return told


def _fault(request: Request, fault: Mapping[str, Any]) -> dict[str, Any]:
    """The reason of a failure; the details of an internal one are for admins."""
    told = {"code": fault["code"], "created": clock.iso_z(fault["created"]), "message": fault["message"]}
    if fault.get("details") and (request.context.is_admin or fault["code"] != 500):
        told["details"] = fault["details"]
    return told


def bare(moment: float | None) -> str | None:
    """``2026-01-02T03:04:05.000000``: some published times were never given a zone."""
    return None if moment is None else clock.iso_micro(moment)

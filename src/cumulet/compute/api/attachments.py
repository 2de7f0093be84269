# SPDX-License-Identifier: Apache-2.0
"""Volumes and NICs of a server. Source: "Servers with volume attachments", "Port interfaces"."""

from __future__ import annotations

from typing import Any, Final

from cumulet.compute.api.targets import server
from cumulet.compute.logic import operations, servers
from cumulet.compute.schemas import BOOLEAN, IP, PAGE_LIMIT, STRICT, STRICT_ALL, TAG, UUID
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Conflict, Invalid, NotFound
from cumulet.kernel.http import Answer, Body, Field, Out, Param, Query, Request, Route, View
from cumulet.kernel.http.fields import array, record, truth

# ---- volumes

DEVICE: Final = {"type": ["string", "null"], "pattern": "^/dev/x?[a-z]?d?[a-z]+[0-9]*$"}
VOLUME: Final = View(
    Out("id", "volume_id", until="2.88"), Out("volumeId", "volume_id"), Out("serverId", "server_id"),
    Out("device", "device_shown"), Out("tag", since="2.70"), Out("delete_on_termination", since="2.79"),
    Out("attachment_id", since="2.89"), Out("bdm_uuid", "block_device_id", since="2.89"),
)  # fmt: skip
ATTACHED: Final = View(
    Out("id", "volume_id"), Out("volumeId", "volume_id"), Out("serverId", "server_id"), Out("device"),
    Out("tag", since="2.70"), Out("delete_on_termination", since="2.79"),
)  # fmt: skip


def _shown(row: Row) -> dict[str, Any]:
    told = {**row, "block_device_id": row["id"]}
    if row["device_name"]:
        told["device_shown"] = row["device_name"]
    return told


async def list_volumes(request: Request) -> dict[str, Any]:
    rows = [row for row in await servers.devices_of(request.service, request.found["id"]) if row["volume_id"]]
    if request.since("2.89"):
        rows = [row for row in rows if row["attachment_id"]]
    start = int(request.query.get("offset", 0))
    most = request.service.settings.max_limit
    rows = rows[start : start + min(int(request.query.get("limit") or most), most)]
    return {"volumeAttachments": [request.render(VOLUME, _shown(row)) for row in rows]}


async def show_volume(request: Request) -> dict[str, Any]:
    server_id, volume_id = request.found["id"], request.params["volume_id"]
    row = await operations.attachment_of(request.service, server_id, volume_id)
    if request.since("2.89") and not row["attachment_id"]:
        raise operations.volume_missing(server_id, volume_id)
    return {"volumeAttachment": request.render(VOLUME, _shown(row))}


async def attach_volume(request: Request) -> Answer:
    body = request.body
    goes_with = truth(body.get("delete_on_termination", False))
    device = await operations.attach_volume(
        request.service, request.context, request.found, body["volumeId"], device=body.get("device"),
        tag=body.get("tag"), delete_on_termination=goes_with, multiattach=request.since("2.60"),
    )  # fmt: skip
    if request.since("2.101"):
        return Answer()
    told = {
        "volume_id": body["volumeId"], "server_id": request.found["id"], "device": device, "tag": body.get("tag"),
        "delete_on_termination": goes_with,
    }  # fmt: skip
    return Answer({"volumeAttachment": request.render(ATTACHED, told)})


async def update_volume(request: Request) -> None:
    body, server_id, volume_id = request.body, request.found["id"], request.params["volume_id"]
    target = {"project_id": request.found["project_id"]}
    if not request.since("2.85") or body["volumeId"] != volume_id:
        request.enforce("os_compute_api:os-volumes-attachments:swap", target)
        await request.service.volume.volume(volume_id)
        raise Conflict(f"volume {volume_id} is not migrating; this API should only be called by Cinder")
    request.enforce("os_compute_api:os-volumes-attachments:update", target)
    row = await operations.attachment_of(request.service, server_id, volume_id)
    fixed = {"id": volume_id, "serverId": server_id, "device": row["device_name"], "tag": row["tag"]}
    for name, value in fixed.items():
        if name in body and body[name] != value:
            raise Invalid(f"The {name} property is not mutable")
    if "delete_on_termination" in body:
        wanted = truth(body["delete_on_termination"])
        await operations.keep_volume(request.service, row, delete_on_termination=wanted)


async def detach_volume(request: Request) -> None:
    volume_id = request.params["volume_id"]
    row = await operations.attachment_of(request.service, request.found["id"], volume_id)
    await operations.detach_volume(request.service, request.context, request.found, row)


# ---- NICs

INTERFACE: Final = View(
    Out("net_id"), Out("port_id"), Out("mac_addr"), Out("port_state"), Out("fixed_ips"), Out("tag", since="2.70"),
)  # fmt: skip


def _port(found: Row, port: Any) -> dict[str, Any]:
    tags = {slot.get("port_id") or slot.get("new_port_id"): slot.get("tag") for slot in found["slots"]}
    return {
        "net_id": port.network_id, "port_id": port.id, "mac_addr": port.mac_address, "port_state": port.status,
        "fixed_ips": [{"subnet_id": one["subnet_id"], "ip_address": one["ip_address"]} for one in port.fixed_ips],
        "tag": tags.get(port.id),
    }  # fmt: skip


async def list_interfaces(request: Request) -> dict[str, Any]:
    ports = await request.service.network.ports(device_id=request.found["id"])
    return {"interfaceAttachments": [request.render(INTERFACE, _port(request.found, port)) for port in ports]}


async def show_interface(request: Request) -> dict[str, Any]:
    return await _interface(request, request.params["port_id"])


async def _interface(request: Request, port_id: str) -> dict[str, Any]:
    try:
        port = await request.service.network.port(port_id)
    except NotFound:
        raise NotFound(f"Port id {port_id} could not be found.", kind="PortNotFound") from None
    if port.device_id != request.found["id"]:
        raise NotFound(f"Instance {request.found['id']} does not have a port with id {port_id}")
    return {"interfaceAttachment": request.render(INTERFACE, _port(request.found, port))}


async def attach_interface(request: Request) -> dict[str, Any]:
    body = request.body
    fixed = body.get("fixed_ips")
    port_id = await operations.attach_interface(
        request.service, request.context, request.found, network_id=body.get("net_id"), port_id=body.get("port_id"),
        fixed_ip=fixed[0]["ip_address"] if fixed else None, tag=body.get("tag"), allows=request.allows,
    )  # fmt: skip
    request.found = await servers.load(request.service, request.context, request.found["id"])
    return await _interface(request, port_id)


async def detach_interface(request: Request) -> None:
    await operations.detach_interface(request.service, request.context, request.found, request.params["port_id"])


ATTACH: Final = Body(
    "volumeAttachment",
    Field("volumeId", UUID),
    Field("device", DEVICE, optional=True),
    Field("tag", TAG, since="2.49", optional=True),
    Field("delete_on_termination", BOOLEAN, since="2.79", optional=True),
)
CHANGE: Final = Body(
    "volumeAttachment",
    Field("volumeId", UUID),
    Field("device", DEVICE, since="2.85", optional=True),
    Field("tag", TAG, since="2.85", optional=True),
    Field("delete_on_termination", BOOLEAN, since="2.85", optional=True),
    Field("serverId", UUID, since="2.85", optional=True),
    Field("id", UUID, since="2.85", optional=True),
)
PLUG: Final = Body(
    "interfaceAttachment",
    Field("net_id", UUID, optional=True),
    Field("port_id", UUID, optional=True),
    Field("fixed_ips", array(record({"ip_address": IP}, ("ip_address",)), minItems=1, maxItems=1), optional=True),
    Field("tag", TAG, since="2.49", optional=True),
)
PAGE: Final = Query(Param("limit", PAGE_LIMIT), Param("offset", PAGE_LIMIT), strict_since=STRICT)
PLAIN: Final = Query(strict_since=STRICT_ALL)

_AT, _NIC = "/servers/{server_id}/os-volume_attachments", "/servers/{server_id}/os-interface"
_VOLUMES, _NICS = "os_compute_api:os-volumes-attachments:", "os_compute_api:os-attach-interfaces:"
ROUTES: Final = [
    Route(f"GET {_AT}", list_volumes, policy=_VOLUMES + "index", target=server, query=PAGE),
    Route(f"POST {_AT}", attach_volume, until="2.100", body=ATTACH, policy=_VOLUMES + "create", target=server),
    Route(f"POST {_AT}", attach_volume, since="2.101", body=ATTACH, policy=_VOLUMES + "create", target=server, ok=202),
    Route(f"GET {_AT}/{{volume_id}}", show_volume, policy=_VOLUMES + "show", target=server, query=PLAIN),
    Route(
        f"PUT {_AT}/{{volume_id}}", update_volume, body=CHANGE, policy=_VOLUMES + "update", late=True, target=server,
        ok=202,
    ),
    Route(f"DELETE {_AT}/{{volume_id}}", detach_volume, policy=_VOLUMES + "delete", target=server, ok=202),
    Route(f"GET {_NIC}", list_interfaces, policy=_NICS + "list", target=server, query=PLAIN),
    Route(f"POST {_NIC}", attach_interface, body=PLUG, policy=_NICS + "create", target=server),
    Route(f"GET {_NIC}/{{port_id}}", show_interface, policy=_NICS + "show", target=server, query=PLAIN),
    Route(f"DELETE {_NIC}/{{port_id}}", detach_interface, policy=_NICS + "delete", target=server, ok=202),
]  # fmt: skip

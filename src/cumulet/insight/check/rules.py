# SPDX-License-Identifier: Apache-2.0
"""The invariants of a cloud as a table: one row each, with the sentence that is told and what mends it.

A row's function yields what breaks it: an ``id`` and the words of the sentence.
A repair is a list of calls of published APIs, or None where a reconciler does
it by itself, or where a person must look.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cumulet.insight.check.facts import SOURCES, WITH_GUEST, Facts, Thing, repeated
from cumulet.kernel import clock

RUNNING = 1


@dataclass(frozen=True)
class Call:
    """One call of a published API; the texts of path and body are filled with what the rule found."""

    service: str
    method: str
    path: str
    body: dict[str, Any] | None = None
    version: str | None = None

    def filled(self, found: Thing) -> tuple[str, dict[str, Any] | None]:
        """(path, body) for one finding."""
        return self.path.format_map(found), _filled(self.body, found)


def _filled(value: Any, found: Thing) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one, found) for key, one in value.items()}
    return value.format_map(found) if isinstance(value, str) else value


@dataclass(frozen=True)
class Rule:
    """One invariant."""

    name: str
    needs: tuple[str, ...]
    """Services that must have been read."""
    find: Callable[[Facts], Iterator[Thing]]
    sentence: str
    repair: tuple[Call, ...] = ()
    mended_by: str = ""
    """Who mends it where no call does: shown beside the finding."""


# ---- servers and guests


def _stuck_servers(facts: Facts) -> Iterator[Thing]:
    for one in facts.servers.values():
        if one["id"] not in facts.busy and (one["vm_state"] == "building" or one["task_state"] is not None):
            yield one


def _errors_without_fault(facts: Facts) -> Iterator[Thing]:
    for one in facts.servers.values():
        if one["vm_state"] == "error" and one["id"] not in facts.busy and not (one["fault"] or {}).get("message"):
            yield one


def _missing_guests(facts: Facts) -> Iterator[Thing]:
    for one in facts.servers.values():
        there = {guest["host"] for guest in facts.guests_of[one["id"]]}
        judged = one["vm_state"] in WITH_GUEST and one["id"] not in facts.busy and one["host"] in facts.hosts
        if judged and one["host"] not in there:
            yield one


def _guests_not_running(facts: Facts) -> Iterator[Thing]:
    for guest in facts.guests:
        server = facts.at_rest(guest["server_id"])
        active = server is not None and server["vm_state"] == "active" and server["host"] == guest["host"]
        if active and guest["power_state"] != RUNNING:
            yield {**guest, "id": guest["server_id"]}


def _stray_guests(facts: Facts) -> Iterator[Thing]:
    for guest in facts.guests:
        if _is_stray(facts, guest["server_id"], guest["host"]):
            yield {**guest, "id": f"{guest['server_id']}@{guest['host']}"}


def _stray_files(facts: Facts) -> Iterator[Thing]:
    for host in facts.of("compute.host"):
        for server_id in host.get("files", ()):
            if _is_stray(facts, server_id, host["id"]):
                yield {"id": f"{server_id}@{host['id']}", "server_id": server_id, "host": host["id"]}


def _is_stray(facts: Facts, server_id: str, host: str) -> bool:
    """Whether a host has something of a server that is nowhere, or elsewhere for good."""
    server = facts.at_rest(server_id)
    elsewhere = server is not None and server["host"] != host and server["vm_state"] != "resized"
    return elsewhere or facts.nobody(server_id)


def _guests_twice(facts: Facts) -> Iterator[Thing]:
    for server_id, times in repeated(guest["server_id"] for guest in facts.guests):
        server = facts.at_rest(server_id)
        if server is None or server["vm_state"] != "resized":
            hosts = ", ".join(sorted(guest["host"] for guest in facts.guests_of[server_id]))
            if server_id not in facts.busy:
                yield {"id": server_id, "times": times, "hosts": hosts}


def _wrong_disks(facts: Facts) -> Iterator[Thing]:
    recorded: dict[str, set[str]] = defaultdict(set)
    for device in facts.of("compute.device"):
        if device["destination_type"] == "volume" and device["volume_id"]:
            recorded[device["server_id"]].add(device["volume_id"])
    for server, guest in facts.guests_at_rest:
        if server["vm_state"] in WITH_GUEST and set(guest["disks"]) != recorded[server["id"]]:
            told = {"found": _listed(guest["disks"]), "wanted": _listed(recorded[server["id"]])}
            yield {"id": server["id"], "host": guest["host"], **told}


def _wrong_nics(facts: Facts) -> Iterator[Thing]:
    bound: dict[str, set[str]] = defaultdict(set)
    for port in _server_ports(facts):
        bound[port["device_id"]].add(port["mac_address"].lower())
    for server, guest in facts.guests_at_rest:
        if server["vm_state"] in WITH_GUEST and {mac.lower() for mac in guest["macs"]} != bound[server["id"]]:
            told = {"found": _listed(guest["macs"]), "wanted": _listed(bound[server["id"]])}
            yield {"id": server["id"], "host": guest["host"], **told}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


# ---- allocations


def _stray_allocations(facts: Facts) -> Iterator[Thing]:
    for one in facts.consumers.values():
        if one["consumer_type"] == "INSTANCE" and facts.nobody(one["id"]):
            yield one


def _allocations_without_host(facts: Facts) -> Iterator[Thing]:
    for one in facts.consumers.values():
        server = facts.at_rest(one["id"])
        if server is not None and server["host"] is None:
            yield one


def _wrong_allocations(facts: Facts) -> Iterator[Thing]:
    for one in facts.servers.values():
        if one["vm_state"] not in WITH_GUEST or one["id"] in facts.busy or one["host"] is None:
            continue
        held = list((facts.consumers.get(one["id"]) or {"allocations": {}})["allocations"].values())
        wanted = {"VCPU": one["flavor"]["vcpus"], "MEMORY_MB": one["flavor"]["ram"]}
        found = {name: sum(provider.get(name, 0) for provider in held) for name in wanted}
        if found != wanted:
            yield {"id": one["id"], "found": found, "wanted": wanted}


def _wrong_inventories(facts: Facts) -> Iterator[Thing]:
    return (one for one in facts.of("placement.inventory") if one["used"] != one["counted"])


# ---- ports and addresses


def _server_ports(facts: Facts) -> Iterator[Thing]:
    return (one for one in facts.ports.values() if one["device_id"] and one["device_owner"].startswith("compute:"))


def _stray_ports(facts: Facts) -> Iterator[Thing]:
    return (one for one in _server_ports(facts) if facts.nobody(one["device_id"]))


def _misplaced_ports(facts: Facts) -> Iterator[Thing]:
    for one in _server_ports(facts):
        server = facts.at_rest(one["device_id"])
        if server is not None and one["binding_host"] and one["binding_host"] != (server["host"] or ""):
            yield {**one, "host": server["host"] or ""}


def _lost_service_ports(facts: Facts) -> Iterator[Thing]:
    owners = {
        "network:router_interface": {one["id"] for one in facts.of("network.router")},
        "network:router_gateway": {one["id"] for one in facts.of("network.router")},
        "network:floatingip": {one["id"] for one in facts.of("network.floatingip")},
    }
    for one in facts.ports.values():
        if one["ours"] and one["device_owner"] in owners and one["device_id"] not in owners[one["device_owner"]]:
            yield one


def _lost_floating(facts: Facts) -> Iterator[Thing]:
    for one in facts.of("network.floatingip"):
        if one["id"] in facts.busy:
            continue
        for name in ("floating_port_id", "port_id"):
            if one[name] is not None and one[name] not in facts.ports:
                yield {**one, "missing": one[name]}


def _idle_floating(facts: Facts) -> Iterator[Thing]:
    for one in facts.of("network.floatingip"):
        if one["port_id"] is not None and one["status"] != "ACTIVE" and one["id"] not in facts.busy:
            yield one


def _stray_wires(facts: Facts) -> Iterator[Thing]:
    for host in facts.of("network.host"):
        for kind, found in host.get("stray", {}).items():
            for one in found:
                yield {"id": f"{one}@{host['id']}", "what": kind, "thing": one, "host": host["id"]}


def _missing_wires(facts: Facts) -> Iterator[Thing]:
    for host in facts.of("network.host"):
        for kind, found in host.get("missing", {}).items():
            for one in found:
                yield {"id": f"{one}@{host['id']}", "what": kind, "thing": one, "host": host["id"]}


# ---- volumes


def _stray_attachments(facts: Facts) -> Iterator[Thing]:
    for one in facts.attachments:
        if one["instance_uuid"] and facts.nobody(one["instance_uuid"]):
            yield one


def _unrecorded_attachments(facts: Facts) -> Iterator[Thing]:
    known = {one["attachment_id"] for one in facts.of("compute.device")}
    for one in facts.attachments:
        if one["id"] not in known and one["instance_uuid"] and facts.at_rest(one["instance_uuid"]) is not None:
            yield one


def _devices_without_attachment(facts: Facts) -> Iterator[Thing]:
    there = {one["id"] for one in facts.attachments}
    for one in facts.of("compute.device"):
        server = facts.at_rest(one["server_id"])
        if server is None or server["vm_state"] not in WITH_GUEST or one["destination_type"] != "volume":
            continue
        if one["attachment_id"] not in there:
            yield one


def _attached_twice(facts: Facts) -> Iterator[Thing]:
    pairs = [(one["volume_id"], one["instance_uuid"]) for one in facts.attachments if one["instance_uuid"]]
    for (volume, server), times in repeated(pairs):
        if server not in facts.busy:
            yield {"id": f"{volume}@{server}", "volume": volume, "server": server, "times": times}


def _stuck_volumes(facts: Facts) -> Iterator[Thing]:
    for one in facts.stored.values():
        if one["id"] not in facts.busy and one["status"] in ("creating", "deleting", "extending", "downloading"):
            yield one


def _volumes_in_wrong_state(facts: Facts) -> Iterator[Thing]:
    for one in facts.volumes.values():
        if one["id"] in facts.busy:
            continue
        states = {attachment["status"] for attachment in facts.attachments_of[one["id"]]}
        attached = one["status"] == "in-use"
        if (attached and "attached" not in states) or (one["status"] == "available" and states):
            yield {**one, "attachments": ", ".join(sorted(states)) or "none"}


def _volume_errors_without_fault(facts: Facts) -> Iterator[Thing]:
    return (one for one in facts.stored.values() if one["status"] == "error" and not one["fault"])


def _stray_data(facts: Facts) -> Iterator[Thing]:
    for backend in facts.of("block-storage.backend"):
        for one in backend["held"]:
            if one not in facts.stored and one not in facts.busy:
                yield {"id": f"{one}@{backend['id']}", "thing": one, "backend": backend["id"]}


def _missing_data(facts: Facts) -> Iterator[Thing]:
    held = {one["id"]: set(one["held"]) for one in facts.of("block-storage.backend") if one["answers"]}
    for one in facts.stored.values():
        backend = (one["host"] or "").partition("#")[0]
        judged = one["status"] in ("available", "in-use") and one["id"] not in facts.busy and backend in held
        if judged and one["id"] not in held[backend]:
            yield {**one, "backend": backend}


def _made_twice(facts: Facts) -> Iterator[Thing]:
    for device, times in repeated(one["device_id"] for one in facts.of("block-storage.mark")):
        yield {"id": device, "times": times}


# ---- images of servers


def _stray_copies(facts: Facts) -> Iterator[Thing]:
    for host in facts.of("compute.host"):
        for server_id in host.get("copies", ()):
            if server_id not in facts.busy:
                yield {"id": f"{server_id}@{host['id']}", "server_id": server_id, "host": host["id"]}


def _stray_images(facts: Facts) -> Iterator[Thing]:
    there = {one["id"] for one in facts.of("image.image")}
    return (one for one in facts.of("compute.unmade") if one["id"] in there)


def _stray_image_data(facts: Facts) -> Iterator[Thing]:
    return iter(facts.of("image.stray"))


# ---- everything


def _late_sagas(facts: Facts) -> Iterator[Thing]:
    return (one for one in facts.sagas if one["state"] == "ready" and one["late_at"] < clock.now())


def _stuck_sagas(facts: Facts) -> Iterator[Thing]:
    return (one for one in facts.sagas if one["state"] == "stuck")


def _wrong_usage(facts: Facts) -> Iterator[Thing]:
    for kind, found in facts.things.items():
        if kind.endswith(".usage"):
            service = kind.removesuffix(".usage")
            where = {"service": service, "prefix": SOURCES[service].removesuffix("/owned")}
            yield from ({**one, **where} for one in found if one["used"] != one["counted"])


def _silent(facts: Facts) -> Iterator[Thing]:
    for kind in ("compute.host", "network.host", "block-storage.backend"):
        for one in facts.of(kind):
            if not one["answers"]:
                yield {**one, "kind": kind}


_PLACEMENT, _COMPUTE, _NETWORK, _VOLUME, _IMAGE = "placement", "compute", "network", "block-storage", "image"
_TO_ERROR = Call(_COMPUTE, "POST", "/v2.1/servers/{id}/action", {"os-resetState": {"state": "error"}})
_LET_GO = {"port": {"device_id": "", "device_owner": "", "binding:host_id": ""}}
_REPORT = "the host removes it at its next report, within 10 s (after a deletion within 45 s)"
_LOOK = "the host's network agent does it at its next look, within 20 s"

RULES = (
    Rule("server-stuck", (_COMPUTE,), _stuck_servers,
         "Server {id} is {vm_state} ({task_state}) and nothing works on it.", (_TO_ERROR,)),
    Rule("server-error-unexplained", (_COMPUTE,), _errors_without_fault, "Server {id} is in ERROR without a fault."),
    Rule("guest-missing", (_COMPUTE,), _missing_guests,
         "Server {id} is {vm_state}, and its host {host} has no guest of it.", (_TO_ERROR,)),
    Rule("guest-not-running", (_COMPUTE,), _guests_not_running,
         "Server {id} is ACTIVE, and its guest on {host} does not run.",
         mended_by="the next report of the host shows it as it is"),
    Rule("guest-stray", (_COMPUTE,), _stray_guests, "Host {host} has a guest of {server_id}, which is not there.",
         mended_by=_REPORT),
    Rule("files-stray", (_COMPUTE,), _stray_files, "Host {host} has files of {server_id}, which is not there."),
    Rule("guest-twice", (_COMPUTE,), _guests_twice, "Server {id} has {times} guests: on {hosts}."),
    Rule("disks-wrong", (_COMPUTE,), _wrong_disks,
         "The guest of server {id} on {host} has these volumes: {found}; its record has: {wanted}."),
    Rule("nics-wrong", (_COMPUTE, _NETWORK), _wrong_nics,
         "The guest of server {id} on {host} has NICs {found}; its ports have {wanted}."),
    Rule("allocation-stray", (_PLACEMENT, _COMPUTE), _stray_allocations,
         "Consumer {id} holds resources, and there is no such server.",
         (Call(_PLACEMENT, "DELETE", "/allocations/{id}"),)),
    Rule("allocation-without-host", (_PLACEMENT, _COMPUTE), _allocations_without_host,
         "Server {id} is on no host and holds resources.", (Call(_PLACEMENT, "DELETE", "/allocations/{id}"),)),
    Rule("allocation-wrong", (_PLACEMENT, _COMPUTE), _wrong_allocations,
         "Server {id} holds {found} in placement; its flavor is {wanted}."),
    Rule("inventory-wrong", (_PLACEMENT,), _wrong_inventories,
         "Inventory {id} says that {used} are taken; its allocations are {counted}."),
    Rule("port-stray", (_NETWORK, _COMPUTE), _stray_ports,
         "Port {id} belongs to server {device_id}, which is not there.",
         (Call(_NETWORK, "PUT", "/v2.0/ports/{id}", _LET_GO),)),
    Rule("port-misplaced", (_NETWORK, _COMPUTE), _misplaced_ports,
         "Port {id} is bound to {binding_host}; its server {device_id} is on {host}.",
         (Call(_NETWORK, "PUT", "/v2.0/ports/{id}", {"port": {"binding:host_id": "{host}"}}),)),
    Rule("port-ownerless", (_NETWORK,), _lost_service_ports,
         "Port {id} is the {device_owner} of {device_id}, which is not there.",
         (Call(_NETWORK, "DELETE", "/v2.0/ports/{id}"),)),
    Rule("floatingip-lost", (_NETWORK,), _lost_floating,
         "Floating IP {floating_ip_address} names port {missing}, which is not there.",
         (Call(_NETWORK, "PUT", "/v2.0/floatingips/{id}", {"floatingip": {"port_id": None}}),)),
    Rule("floatingip-idle", (_NETWORK,), _idle_floating,
         "Floating IP {floating_ip_address} leads to port {port_id} and is {status}."),
    Rule("wire-stray", (_NETWORK,), _stray_wires, "Host {host} carries {what} {thing}, which nobody wants there.",
         mended_by=_LOOK),
    Rule("wire-missing", (_NETWORK,), _missing_wires, "Host {host} should carry {what} {thing}, and does not.",
         mended_by=_LOOK),
    Rule("attachment-stray", (_VOLUME, _COMPUTE), _stray_attachments,
         "Attachment {id} of volume {volume_id} is for server {instance_uuid}, which is not there.",
         (Call(_VOLUME, "DELETE", "/v3/attachments/{id}", version="3.60"),)),
    Rule("attachment-unrecorded", (_VOLUME, _COMPUTE), _unrecorded_attachments,
         "Attachment {id} of volume {volume_id} is for server {instance_uuid}, whose record does not know it.",
         (Call(_VOLUME, "DELETE", "/v3/attachments/{id}", version="3.60"),)),
    Rule("attachment-missing", (_VOLUME, _COMPUTE), _devices_without_attachment,
         "Server {server_id} has volume {volume_id} in its record, and the volume has no such attachment."),
    Rule("attachment-twice", (_VOLUME, _COMPUTE), _attached_twice,
         "Volume {volume} has {times} attachments for server {server}."),
    Rule("volume-stuck", (_VOLUME,), _stuck_volumes, "Volume or snapshot {id} is {status} and nothing works on it.",
         (Call(_VOLUME, "POST", "/v3/volumes/{id}/action", {"os-reset_status": {"status": "error"}}),)),
    Rule("volume-state-wrong", (_VOLUME, _COMPUTE), _volumes_in_wrong_state,
         "Volume {id} is {status}; its attachments are: {attachments}."),
    Rule("volume-error-unexplained", (_VOLUME,), _volume_errors_without_fault,
         "Volume or snapshot {id} is in error without a reason."),
    Rule("data-stray", (_VOLUME,), _stray_data, "Back end {backend} has {thing}, which is in no record.",
         mended_by="the back end's sweep, within 5 min, if the record says that it was deleted"),
    Rule("data-missing", (_VOLUME,), _missing_data, "Volume or snapshot {id} is {status} and is not on {backend}."),
    Rule("volume-twice", (_VOLUME,), _made_twice, "{times} volumes were made for block device {id}."),
    Rule("copy-stray", (_COMPUTE,), _stray_copies,
         "Host {host} has a copy of the disk of server {server_id}, and no image is made of it.",
         mended_by="the compute agent removes it when it starts"),
    Rule("image-stray", (_COMPUTE, _IMAGE), _stray_images,
         "Image {id} of server {server_id} was given up and is there all the same.",
         (Call(_IMAGE, "DELETE", "/v2/images/{id}"),)),
    Rule("image-data-stray", (_IMAGE,), _stray_image_data, "Store {store} has {key}, which no image names.",
         mended_by="the image service's sweep, within 5 min"),
    Rule("saga-late", (), _late_sagas, "{name} of {subject} should have finished its step long ago."),
    Rule("saga-stuck", (), _stuck_sagas, "{name} of {subject} could be neither finished nor undone."),
    Rule("usage-wrong", (), _wrong_usage,
         "Project {project_id} is charged for {used} {resource} by {service}; there are {counted}.",
         (Call("{service}", "POST", "{prefix}/recount", {"project_id": "{project_id}", "resource": "{resource}"}),)),
    Rule("host-silent", (), _silent, "{kind} {id} does not answer; what it holds was not looked at."),
)  # fmt: skip

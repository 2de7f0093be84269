# SPDX-License-Identifier: Apache-2.0
"""Create servers: steps 3 to 7 of the flow.

Everything is checked first and nothing written when a check fails; then one
durable transaction holds the servers, their disks, their quota, the action and
the sagas that build them. The 202 goes out after its commit.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from sqlalchemy import select

from cumulet.compute import limits
from cumulet.compute.logic import Compute, actions, devices, flavors, groups, hosts, networks
from cumulet.compute.models import BLOCK_DEVICES, HOSTS, KEYPAIRS, SERVER_GROUPS, SERVERS, next_number
from cumulet.compute.sagas.params import CreateServer, NetworkSlot
from cumulet.compute.states import BUILDING, SERVER
from cumulet.kernel import clock, ids, trace
from cumulet.kernel.context import Context
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Forbidden, Invalid, NotFound, OverQuota
from cumulet.kernel.http.fields import truth

_LETTERS: Final = "".join(one for one in string.ascii_letters + string.digits if one not in "0O1lI")
FORCED: Final = "os_compute_api:servers:create:forced_host"
DESTINATION: Final = "compute:servers:create:requested_destination"
VOLUME: Final = "os_compute_api:servers:create:attach_volume"
NETWORK: Final = "os_compute_api:servers:create:attach_network"
CERTS: Final = "os_compute_api:servers:create:trusted_certs"
ZERO_DISK: Final = "os_compute_api:servers:create:zero_disk_flavor"


@dataclass(frozen=True)
class Asker:
    """Who asks, and what the policy lets them."""

    context: Context
    allows: Callable[[str], bool]

    def enforce(self, rule: str) -> None:
        if not self.allows(rule):
            raise Forbidden(f"Policy doesn't allow {rule} to be performed.", kind="PolicyNotAuthorized", rule=rule)


@dataclass
class Plan:
    """All decisions about the servers of one request."""

    body: Mapping[str, Any]
    flavor: Row
    disks: devices.Disks
    slots: list[NetworkSlot]
    groups: networks.Groups
    shown_groups: networks.Groups
    key: Row | None
    group: Row | None
    zone: str | None
    forced_host: str | None
    forced_node: str | None
    destination: str | None
    least: int
    most: int
    password: str
    reservation: str = field(default_factory=lambda: "r-" + ids.new_hex()[:8])


@dataclass(frozen=True)
class Accepted:
    """What the 202 tells: the first server, its password, the reservation of all of them."""

    server: Row
    password: str
    reservation_id: str
    security_groups: list[dict[str, str]]


async def create_servers(compute: Compute, asker: Asker, body: Mapping[str, Any], *, multiattach: bool) -> Accepted:
    """Accept the request or raise in the published wording; ``body`` is the lifted one of POST /servers."""
    with trace.step("api.validate") as detail:
        plan = await _plan(compute, asker, body, multiattach)
        detail.update(flavor=plan.flavor["name"], servers=plan.most, nics=len(plan.slots))
    server_ids = [ids.new_uuid() for _ in range(plan.most)]
    with trace.step("api.record", project_id=asker.context.project_id) as detail:
        rows = await _record(compute, asker.context, plan, server_ids)
        detail.update(vm_state=rows[0]["vm_state"], task_state=rows[0]["task_state"], servers=len(rows))
    if (flow := trace.current()) is not None:
        flow.bind(*(row["id"] for row in rows))
    return Accepted(rows[0], plan.password, plan.reservation, plan.shown_groups)


async def _plan(compute: Compute, asker: Asker, body: Mapping[str, Any], multiattach: bool) -> Plan:
    context = asker.context
    least = int(body.get("min_count", 1))
    most = int(body.get("max_count", least))
    if least < 1 or least > most:
        raise Invalid("min_count must be <= max_count" if least > most else "min_count must be at least 1")
    if body.get("hostname") and most > 1:
        raise Invalid("Unable to allocate a single hostname to multiple instances")
    zone, forced_host, forced_node = parse_zone(body.get("availability_zone"))
    if forced_host or forced_node:
        asker.enforce(FORCED)
    destination = await _destination(compute, asker, body, forced=bool(forced_host or forced_node))
    if zone is not None and not (forced_host or forced_node) and zone not in (await hosts.zones(compute))[0]:
        raise Invalid("The requested availability zone is not available")
    if body.get("trusted_image_certificates"):
        asker.enforce(CERTS)
    mappings, legacy = body.get("block_device_mapping_v2") or [], body.get("block_device_mapping") or []
    if mappings or legacy:
        asker.enforce(VOLUME)
    wanted = body.get("networks", "any")
    if isinstance(wanted, list) and wanted:
        asker.enforce(NETWORK)
    flavor = await _flavor(compute, context, body["flavorRef"])
    disks = await devices.plan_disks(
        compute, flavor, body.get("imageRef"), mappings, legacy, count=most, multiattach=multiattach,
        zero_disk=asker.allows(ZERO_DISK),
    )  # fmt: skip
    key = await _key(compute, context, body.get("key_name"))
    asked_groups = [one["name"] for one in body.get("security_groups") or [] if one.get("name")]
    chosen = await networks.resolve_groups(compute, context, asked_groups)
    slots, ports = await networks.plan_slots(compute, context, wanted, count=most, allows=asker.allows)
    carried = await networks.names_of(compute, context, [one for port in ports for one in port.security_groups])
    group = await _group(compute, context, body.get("scheduler_hints") or {})
    fitting = await _check_limits(compute, context, body, flavor, least, most, group)
    made_here = any(slot.new_port_id for slot in slots)
    shown = (chosen or [{"name": "default"}]) if made_here else []
    return Plan(
        body, flavor, disks, slots, chosen, [*shown, *carried], key, group, zone, forced_host, forced_node,
        destination, least, fitting, body.get("adminPass") or new_password(),
    )  # fmt: skip


# ---- the single checks


def parse_zone(text: str | None) -> tuple[str | None, str | None, str | None]:
    """``zone[:host[:node]]`` in its three parts; raises Invalid."""
    if not text:
        return None, None, None
    parts = text.split(":")
    if len(parts) > 3:
        raise Invalid("Invalid input received: Unable to parse availability_zone")
    zone, host, node = (*parts, "", "")[:3]
    return zone or None, host or None, node or None


async def _destination(compute: Compute, asker: Asker, body: Mapping[str, Any], *, forced: bool) -> str | None:
    """The host that must be chosen, filters and claims all the same (2.74)."""
    host, node = body.get("host"), body.get("hypervisor_hostname")
    if not host and not node:
        return None
    asker.enforce(DESTINATION)
    if forced:
        raise Invalid(
            "One mechanism with host and/or hypervisor_hostname and another mechanism with zone:host:node are "
            "mutually exclusive."
        )
    known = await compute.db.all(select(HOSTS).where(HOSTS.c.binary == hosts.COMPUTE, HOSTS.c.node.is_not(None)))
    for row in known:
        if host in (None, row["host"]) and node in (None, hosts.hostname_of(row)):
            return str(row["host"])
    raise Invalid(f"Compute host {host or node} could not be found.", kind="ComputeHostNotFound")


async def _flavor(compute: Compute, context: Context, reference: object) -> Row:
    try:
        return await flavors.load(compute, context, str(reference).rstrip("/").rsplit("/", 1)[-1])
    except NotFound as missing:
        raise Invalid(missing.message, kind="FlavorNotFound") from None


async def _key(compute: Compute, context: Context, name: str | None) -> Row | None:
    if name is None:
        return None
    k = KEYPAIRS.c
    row = await compute.db.first(select(KEYPAIRS).where(k.user_id == (context.user_id or ""), k.name == name))
    if row is None:
        raise Invalid("Invalid key_name provided.", kind="KeypairNotFound")
    return row


async def _group(compute: Compute, context: Context, hints: Mapping[str, Any]) -> Row | None:
    wanted = hints.get("group")
    if isinstance(wanted, list):
        wanted = wanted[0] if wanted else None
    if not wanted:
        return None
    try:
        return await groups.load(compute, context, str(wanted))
    except NotFound as missing:
        raise Invalid(missing.message, kind="InstanceGroupNotFound") from None


async def _check_limits(
    compute: Compute,
    context: Context,
    body: Mapping[str, Any],
    flavor: Row,
    least: int,
    most: int,
    group: Row | None,
) -> int:
    """Early answers about quota; returns how many servers may fit. The transaction decides again."""
    project = context.project_id or ""
    allowed = await compute.quota.limits_of(compute.db, project)
    if 0 <= allowed["metadata_items"] < len(body.get("metadata") or {}):
        raise OverQuota(f"Maximum number of metadata items exceeds {allowed['metadata_items']}")
    files = body.get("personality") or []
    if 0 <= allowed["injected_files"] < len(files):
        raise OverQuota("Personality file limit exceeded")
    for file in files:
        if 0 <= allowed["injected_file_path_bytes"] < len(file.get("path", "")):
            raise OverQuota(f"Personality file path exceeds maximum {allowed['injected_file_path_bytes']}")
        if 0 <= allowed["injected_file_content_bytes"] < len(file.get("contents", "")) * 3 // 4:
            raise OverQuota(f"Personality file content exceeds maximum {allowed['injected_file_content_bytes']}")
    used = await compute.quota.used_of(compute.db, project)
    cost = limits.cost_of(flavor)
    asked = {name: each * least for name, each in cost.items()}
    if over := limits.exceeded(asked, used, allowed):
        raise OverQuota(limits.message_of(over), exceeded=over)
    if group is not None:
        members = (await groups.members_of(compute, [group["id"]]))[group["id"]]
        if 0 <= allowed["server_group_members"] < len(members) + least:
            raise OverQuota("Quota exceeded, too many servers in group", kind="GroupMemberLimitExceeded")
    at_once = compute.settings.max_servers_at_once
    if least > at_once:
        raise Invalid(f"No more than {at_once} servers can be created by one request.")
    return limits.fits(cost, used, allowed, min(most, at_once))


def new_password() -> str:
    """An administrator's password of 12 letters and digits that are hard to confuse."""
    return "".join(one for one in ids.new_secret(96) if one in _LETTERS)[:12]


def hostname_of(name: str, server_id: str) -> str:
    """A host name made from a server's name: letters, digits and dashes, at most 63."""
    plain = name.encode("ascii", "ignore").decode().lower()
    cleaned = re.sub(r"[^a-z0-9-]+", "", re.sub(r"[ _.]", "-", plain)).strip("-")
    return cleaned[:63].rstrip("-") or f"server-{server_id}"


# ---- the record


async def _record(compute: Compute, context: Context, plan: Plan, server_ids: Sequence[str]) -> list[Row]:
    sealed = compute.seal.close(plan.password)

    async def body(tx: Transaction) -> list[Row]:
        fitting = await _take_quota(compute, tx, context, plan)
        number, now = await next_number(tx, SERVERS), clock.now()
        rows = []
        for index, server_id in enumerate(server_ids[:fitting]):
            slots = plan.slots if index == 0 else networks.renewed(plan.slots)
            row = _server(plan, context, server_id, index, fitting, slots)
            row.update(number=number + index, admin_pass_sealed=sealed, created_at=now, updated_at=now)
            params = CreateServer(
                server_id, slots=slots, security_groups=[one["id"] for one in plan.groups],
                scheduler_hints=dict(plan.body.get("scheduler_hints") or {}), availability_zone=plan.zone,
                forced_host=plan.forced_host, forced_node=plan.forced_node, requested_destination=plan.destination,
            )  # fmt: skip
            with _flow_of(server_id):
                row["saga_id"] = await compute.sagas.start_saga(tx, CREATE_SAGA, subject=server_id, params=params)
            await tx.insert(SERVERS, row)
            for device in devices.written(plan.disks.rows, server_id, now):
                await tx.insert(BLOCK_DEVICES, device)
            await actions.record(tx, server_id, "create", row["project_id"], row["saga_id"])
            rows.append(row)
        return rows

    return await compute.db.run(body)


@contextmanager
def _flow_of(server_id: str) -> Iterator[None]:
    """File what is started inside under one server's flow."""
    flow = trace.current()
    if flow is None or flow.subject == server_id:
        yield
        return
    trace.use(trace.Trace(flow.component, flow.host, server_id))
    try:
        yield
    finally:
        trace.use(flow)


CREATE_SAGA: Final = SERVER.actions["create"].saga or ""


async def _take_quota(compute: Compute, tx: Transaction, context: Context, plan: Plan) -> int:
    """Take what the servers cost, at least ``least`` of them; returns how many fit."""
    project, cost = context.project_id or "", limits.cost_of(plan.flavor)
    allowed = await compute.quota.limits_of(tx, project)
    used = await compute.quota.used_of(tx, project)
    fitting = limits.fits(cost, used, allowed, plan.most)
    if fitting < plan.least:
        over = limits.exceeded({name: each * plan.least for name, each in cost.items()}, used, allowed)
        raise OverQuota(limits.message_of(over), exceeded=over)
    if plan.group is not None:
        # the group's row is written, so that two requests for its last place meet
        same = SERVER_GROUPS.update().where(SERVER_GROUPS.c.id == plan.group["id"])
        if not await tx.run(same.values(name=plan.group["name"])):
            raise Invalid(f"Instance group {plan.group['id']} could not be found.", kind="InstanceGroupNotFound")
        room = allowed["server_group_members"]
        if 0 <= room < await groups.count_members(tx, plan.group["id"]) + fitting:
            raise OverQuota("Quota exceeded, too many servers in group", kind="GroupMemberLimitExceeded")
    await compute.quota.take(tx, project, {name: each * fitting for name, each in cost.items()})
    return fitting


def _server(
    plan: Plan, context: Context, server_id: str, index: int, total: int, slots: Sequence[NetworkSlot]
) -> dict[str, Any]:
    body, flavor = plan.body, plan.flavor
    name = body["name"] if total == 1 else f"{body['name']}-{index + 1}"
    key = plan.key
    return {
        "id": server_id,
        "project_id": context.project_id or "",
        "user_id": context.user_id or "",
        "name": name,
        "hostname": body.get("hostname") or hostname_of(name, server_id),
        "description": body.get("description"),
        "vm_state": BUILDING,
        "task_state": SERVER.actions["create"].busy,
        "power_state": 0,
        "progress": 0,
        "availability_zone": plan.zone,
        "pinned_availability_zone": plan.zone,
        "flavor": {
            "id": flavor["id"], "name": flavor["name"], "vcpus": flavor["vcpus"], "ram": flavor["ram"],
            "disk": flavor["disk"], "ephemeral": flavor["ephemeral"], "swap": flavor["swap"],
            "extra_specs": flavor["extra_specs"],
        },
        "image_id": plan.disks.image_id,
        "image_properties": plan.disks.properties,
        "key_name": key["name"] if key else None,
        "key_data": {"name": key["name"], "type": key["type"], "public_key": key["public_key"]} if key else None,
        "user_data": body.get("user_data"),
        "config_drive": truth(body.get("config_drive") or False),
        "personality": body.get("personality") or [],
        "metadata": body.get("metadata") or {},
        "tags": sorted(set(body.get("tags") or [])),
        "locked": False,
        "locked_by": None,
        "disk_config": body.get("disk_config", "MANUAL"),
        "reservation_id": plan.reservation,
        "launch_index": index,
        "scheduler_hints": body.get("scheduler_hints") or {},
        "server_group_id": plan.group["id"] if plan.group else None,
        "trusted_certs": body.get("trusted_image_certificates"),
        "attempt": 1,
        "slots": msgspec.to_builtins(list(slots)),
        "security_groups": plan.shown_groups,
        "network_cache": [],
        "access_ip_v4": body.get("access_ip_v4") or None,
        "access_ip_v6": body.get("access_ip_v6") or None,
        "root_device_name": plan.disks.rows[0]["device_name"],
        "request_id": context.request_id,
    }  # fmt: skip

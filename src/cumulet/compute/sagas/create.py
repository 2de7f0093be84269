# SPDX-License-Identifier: Apache-2.0
"""Create a server: find and claim a host, have it built there, make it active. The main job.

Invariant: a server that is not ACTIVE at the end holds nothing: no claim, no
port of ours, no attachment, no guest. A host that can't build is left clean and
the next one is tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from cumulet.compute.logic.making import volume_of
from cumulet.compute.models import BLOCK_DEVICES, HOSTS, SERVER_GROUPS, SERVERS
from cumulet.compute.rpc import BUILD, ENSURE_ABSENT, Build, EnsureAbsent
from cumulet.compute.sagas.params import CreateServer
from cumulet.compute.sagas.world import DEAD_AFTER, World, set_fault
from cumulet.compute.scheduler.rpc import RELEASE, SELECT_AND_CLAIM, GroupWish, ReleaseHost, SelectHost
from cumulet.compute.states import SERVER
from cumulet.compute.vifs import keep_vifs
from cumulet.kernel import clock, fences, ids, trace
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.saga import Cancelled, Failed, RetryFrom, Run, Saga, Step, Wait

HOSTS_APPEAR = 30.0
"""Seconds that a server waits for the first host to report: libvirt's first look at a machine takes up to 8."""


async def claim_host(run: Run) -> dict[str, Any]:
    """Steps 8 to 11: ask the scheduler, which claims the best host in placement."""
    world: World = run.world
    params: CreateServer = run.params
    server = await world.server(params.server_id)
    request = await _request(world, server, params, run.attempt, run.notes.get("tried", []))
    with trace.step("rpc.schedule", attempt=run.attempt):
        selection = await world.bus.call(SELECT_AND_CLAIM, request, timeout=30.0)

    async def record(tx: Transaction) -> bool:
        """Affinity and its opposite are decided here, where two servers of a group can't both win."""
        fits = selection.host is None or await _group_allows(tx, server, selection.host)
        chosen: dict[str, Any] = {"host": None, "node": None}
        if selection.host is not None and fits:
            chosen = {"host": selection.host, "node": selection.node, "attempt": run.attempt, "built": None}
            service = (HOSTS.c.host == selection.host) & (HOSTS.c.binary == "nova-compute")
            if (where := await tx.first(select(HOSTS.c.zone).where(service))) is not None:
                chosen["availability_zone"] = where["zone"]
        row = SERVERS.update().where(SERVERS.c.id == params.server_id)
        await tx.run(row.values(**chosen, why=selection.why, updated_at=clock.now()))
        return fits

    fits = await world.db.run(record, durable=False)
    if selection.host is None:
        if clock.now() - run.since < HOSTS_APPEAR and not await _hosts_are_there(world, selection.why):
            raise Wait(0.5)
        reason = run.notes.get("last_reason")
        tried = f" After {_failures(run)} failed build(s), the last because: {reason}" if reason else ""
        raise Failed(f"No valid host was found. {selection.reason}{tried}".strip(), step="scheduler.select")
    if not fits:
        raise RetryFrom("host", "The policy of the server group was violated.", tried=[selection.host])
    return {"host": selection.host, "node": selection.node}


async def _hosts_are_there(world: World, why: Mapping[str, Any]) -> bool:
    """Whether a scheduler that found no host had any to choose from: not so before the first one reported.

    After the whole cloud was away its hosts are silent until they report again, too.
    """
    if not why.get("hosts"):
        return False
    service = (HOSTS.c.binary == "nova-compute") & HOSTS.c.forced_down.is_(False)
    seen = [row["last_seen"] for row in await world.db.all(select(HOSTS.c.last_seen).where(service))]
    return not seen or max(seen) >= clock.now() - DEAD_AFTER


async def release_host(run: Run) -> None:
    """Give the claim back. A dead host's claim was kept until here: the guest is known to be gone."""
    world: World = run.world
    await world.bus.call(RELEASE, ReleaseHost(run.subject, fences.undoing(run.attempt)), timeout=30.0)

    async def record(tx: Transaction) -> None:
        await tx.run(SERVERS.update().where(SERVERS.c.id == run.subject).values(host=None, node=None))

    run.commit(record)


async def build(run: Run) -> dict[str, Any]:
    """Steps 12 to 29 on the chosen host: tell it, then wait for its word or look again."""
    world: World = run.world
    server = await world.server(run.subject)
    told = server["built"]
    if told is None or told["attempt"] != run.attempt:
        host = run.outputs["host"]["host"]
        if _failures(run) + 1 < world.max_attempts and await _is_lost(run, host):
            reason = f"Host {host} does not answer."
            raise RetryFrom("host", reason, tried=[host], last_reason=reason, failures=_failures(run) + 1)
        casts = run.notes.get("casts", 0) if run.notes.get("cast_attempt") == run.attempt else 0
        if casts == 0:
            trace.record("rpc.build", detail={"to": host})
        run.notes.update(casts=casts + 1, cast_attempt=run.attempt)
        await world.bus.cast(BUILD, Build(run.subject, run.attempt), host=host)
        raise Wait(min(2.0 * 1.5**casts, 30.0))
    if told["error"] is None:
        return {"root_device": told["root_device"]}
    reason = f"{told['step']} failed on {told['host']}: {told['error']}" if told["step"] else told["error"]
    if told["retryable"] and _failures(run) + 1 < world.max_attempts:
        raise RetryFrom("host", reason, tried=[told["host"]], last_reason=reason, failures=_failures(run) + 1)
    raise Failed(reason, step=told["step"], host=told["host"])


def _failures(run: Run) -> int:
    """How many builds failed: a host that was lost to another member of the group is an attempt, but no build."""
    failures: int = run.notes.get("failures", 0)
    return failures


async def _is_lost(run: Run, host: str) -> bool:
    """Whether a host that was told to build is given up: declared down, or silent for two times the usual.

    The second time is this saga's own, so that a cloud which was down as a whole
    waits for its hosts. A user's volume is never taken elsewhere because of silence.
    """
    world: World = run.world
    worked = clock.now() - run.since
    if not await world.host_is_dead(host):
        run.notes.pop("silent_from", None)
        return False
    if await world.host_is_declared_down(host):
        return True
    if run.notes.get("silent_attempt") != run.attempt or "silent_from" not in run.notes:
        run.notes.update(silent_from=worked, silent_attempt=run.attempt)
    devices = await world.devices(run.subject)
    if any(one["destination_type"] == "volume" and not one["created_by_us"] for one in devices):
        return False
    return bool(worked - run.notes["silent_from"] > DEAD_AFTER)


async def unbuild(run: Run) -> None:
    """Leave nothing of this attempt: guest and disks on the host, attachments, ports."""
    world: World = run.world
    server = await world.db.first(select(SERVERS).where(SERVERS.c.id == run.subject))
    if server is None:
        return
    if server["host"]:
        await world.on_host(ENSURE_ABSENT, EnsureAbsent(run.subject, run.attempt), server["host"])
    await drop_devices(world, run.subject, run.attempt)
    await world.drop_ports(run.subject, our_ports(run.params), fences.undoing(run.attempt))

    async def record(tx: Transaction) -> None:
        await keep_vifs(tx, run.subject, [], built=None)

    run.commit(record)


async def activate(run: Run) -> None:
    """The server is ACTIVE: one commit with the end of the saga's work."""
    world: World = run.world

    async def record(tx: Transaction) -> None:
        active = await SERVER.finish(
            tx,
            "create",
            run.subject,
            power_state=1,
            launched_at=clock.now(),
            root_device_name=run.outputs["build"]["root_device"],
            fault=None,
        )
        if active:
            await world.outbox.add(tx, "instance.create.end", {"server_id": run.subject, "attempt": run.attempt})

    run.commit(record)
    trace.record("server.active")


async def mark_error(run: Run, failed: Failed) -> None:
    """Everything is undone: the record says what happened (a cancelled create leaves that to the delete)."""
    if isinstance(failed, Cancelled):
        return

    async def record(tx: Transaction) -> None:
        details = {key: value for key, value in failed.details.items() if isinstance(value, str)}
        told = ", ".join(f"{key}: {value}" for key, value in sorted(details.items()))
        await SERVER.finish(tx, "create", run.subject, ends="error", power_state=0)
        await set_fault(tx, run.subject, failed.message, details=told)

    run.commit(record)


# ---- shared with the other sagas


def our_ports(params: CreateServer) -> set[str]:
    return {slot.new_port_id for slot in params.slots if slot.new_port_id}


async def drop_devices(world: World, server_id: str, newest: int, *, finally_: bool = False) -> None:
    """Delete the server's attachments of all attempts up to the ``newest``, and the volumes that they made for it.

    ``finally_`` also deletes volumes marked ``delete_on_termination`` (a server's delete).
    """
    for device in await world.devices(server_id):
        if device["destination_type"] != "volume":
            continue
        for attempt in range(1, newest + 1):
            await world.drop_attachment(attachment_of(server_id, device["id"], attempt))
        await world.drop_attachment(device["attachment_id"])
        made = device["created_by_us"] and (not finally_ or device["delete_on_termination"])
        if device["volume_id"] and (made or (finally_ and device["delete_on_termination"])):
            await world.drop_volume(device["volume_id"])
        if device["created_by_us"] and not finally_:  # of a host that died before it told of them
            ours = {volume_of(device["id"], attempt) for attempt in range(1, newest + 1)}
            for volume_id in ours - {device["volume_id"]}:
                await world.drop_volume(volume_id)

        async def forget(tx: Transaction, device_id: str = device["id"], made: bool = made) -> None:
            values: dict[str, Any] = {"attachment_id": None}
            if made:
                values["volume_id"] = None
            await tx.run(BLOCK_DEVICES.update().where(BLOCK_DEVICES.c.id == device_id).values(**values))

        await world.db.run(forget, durable=False)


def attachment_of(server_id: str, device_id: str, attempt: int) -> str:
    """The attachment's id of one block device in one attempt: the same for every repetition."""
    return ids.derive_uuid(server_id, device_id, str(attempt))


async def _request(world: World, server: Row, params: CreateServer, attempt: int, tried: list[str]) -> SelectHost:
    """What the scheduler is asked: the flavor's resources, the user's wishes, and where the named servers are."""
    flavor = server["flavor"]
    hints = params.scheduler_hints
    named = {one for key in ("same_host", "different_host") for one in _listed(hints.get(key))}
    where = select(SERVERS.c.id, SERVERS.c.host).where(SERVERS.c.id.in_(sorted(named)), SERVERS.c.host.is_not(None))
    hosts_of = {row["id"]: row["host"] for row in await world.db.all(where, point=True)} if named else {}
    return SelectHost(
        server_id=server["id"], attempt=attempt, project_id=server["project_id"], user_id=server["user_id"],
        vcpus=flavor["vcpus"], memory_mib=flavor["ram"],
        disk_gib=(flavor["disk"] if server["image_id"] else 0)
        + flavor.get("ephemeral", 0)
        - (-flavor.get("swap", 0) // 1024),
        exclude=list(tried), force_host=params.forced_host, force_node=params.forced_node,
        destination=params.requested_destination, availability_zone=params.availability_zone,
        hints=hints, hosts_of=hosts_of,
        group=await _group_wish(world, server), extra_specs=flavor.get("extra_specs") or {},
        image_properties=server["image_properties"] or {},
    )  # fmt: skip


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


async def _group_wish(world: World, server: Row) -> GroupWish | None:
    """The server's group, with how many of its other members are where."""
    if server["server_group_id"] is None:
        return None
    group = await world.db.first(select(SERVER_GROUPS).where(SERVER_GROUPS.c.id == server["server_group_id"]))
    if group is None:
        return None
    members = await world.db.all(_members_of(server), point=False)
    hosts = Counter(row["host"] for row in members if row["host"])
    return GroupWish(group["policy"], dict(hosts), int((group["rules"] or {}).get("max_server_per_host", 1)))


async def _group_allows(tx: Transaction, server: Row, host: str) -> bool:
    """Whether the policy of the server's group lets one more member onto this host."""
    if server["server_group_id"] is None:
        return True
    group = await tx.first(select(SERVER_GROUPS).where(SERVER_GROUPS.c.id == server["server_group_id"]))
    if group is None or group["policy"] not in ("affinity", "anti-affinity"):
        return True
    hosts = [row["host"] for row in await tx.all(_members_of(server)) if row["host"]]
    if group["policy"] == "affinity":
        return set(hosts) <= {host}
    return hosts.count(host) < int((group["rules"] or {}).get("max_server_per_host", 1))


def _members_of(server: Row) -> Any:
    """The other living members of a server's group."""
    same = SERVERS.c.server_group_id == server["server_group_id"]
    return select(SERVERS.c.id, SERVERS.c.host).where(
        same, SERVERS.c.id != server["id"], SERVERS.c.deleted_at.is_(None)
    )


CREATE_SERVER = Saga(
    "compute.create_server",
    CreateServer,
    (
        Step("host", claim_host, undo=release_host, within=120.0),
        Step("build", build, undo=unbuild, within=900.0),
        Step("active", activate),
    ),
    on_failed=mark_error,
)

# SPDX-License-Identifier: Apache-2.0
"""The conductor: the agents' only way to the database, and where the sagas run.

Invariant: what an agent says counts only for the attempt that the record names;
anything older is refused as a stale attempt.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select

from cumulet.compute import rpc
from cumulet.compute.logic.hosts import host_report, seen
from cumulet.compute.logic.making import ensure_volume
from cumulet.compute.metadata.documents import documents_for
from cumulet.compute.models import BLOCK_DEVICES, HOSTS, SAGAS, SERVERS, next_number
from cumulet.compute.sagas.create import attachment_of
from cumulet.compute.sagas.params import CreateServer, NetworkSlot
from cumulet.compute.sagas.world import World, set_fault
from cumulet.compute.scheduler.rpc import HOSTS as SCHEDULER_HOSTS
from cumulet.compute.scheduler.rpc import REPORT as SCHEDULER_REPORT
from cumulet.compute.scheduler.rpc import AskHosts, Hosts
from cumulet.compute.states import ACTIVE, BETWEEN_HOSTS, ERROR, RESIZED, SERVER, STOPPED
from cumulet.compute.vifs import keep_vifs, read_vifs
from cumulet.kernel import clock, ids, trace
from cumulet.kernel.bus import Bus, Method, Subscription
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, NotFound
from cumulet.kernel.saga import SagaEngine
from cumulet.kernel.secrets import Seal

_log = logging.getLogger(__name__)
RUNNING, SHUTDOWN, CRASHED = 1, 4, 6
BOOTED = "booted_at"
"""Of a host's resources: when its last boot was noticed."""
SETTLED = 2.0
"""Seconds after its last change in which a server's guest need not be in its host's report yet."""


class StaleAttempt(Conflict):
    """This attempt of the build is not the current one."""


class Conductor:
    """Serves `compute.conductor`; several may run side by side."""

    def __init__(self, world: World, engine: SagaEngine, host: str, seal: Seal, restored: Path | None = None) -> None:
        """``restored``: while this file is there the records are older than the hosts, and no unknown guest goes."""
        self.world, self.engine, self._host, self._seal = world, engine, host, seal
        self._restored = restored
        self._subscription: Subscription | None = None

    @property
    def _bus(self) -> Bus:
        return self.world.bus

    async def start(self) -> None:
        handlers: dict[Method[Any, Any], Any] = {
            rpc.FETCH: self.fetch,
            rpc.NEED_VOLUME: self.need_volume,
            rpc.PROGRESS: self.progress,
            rpc.NETWORKED: self.networked,
            rpc.BUILT: self.built,
            rpc.REPORT: self.report,
            rpc.POWER_CHANGED: self.power_changed,
            rpc.EVENT: self.event,
            rpc.RECALL: self.recall,
            rpc.LOST: self.lost,
            SCHEDULER_HOSTS: self.hosts,
        }
        self._subscription = await self._bus.subscribe(handlers, component="conductor", host=self._host)
        await self.engine.start()

    async def stop(self) -> None:
        await self.engine.stop()
        if self._subscription is not None:
            await self._subscription.stop()

    # ---- a build

    async def fetch(self, asked: rpc.Fetch) -> rpc.ServerRecord:
        """Steps 15 to 18: all that a host needs to build a server."""
        trace.record("conductor.receive")
        with trace.step("conductor.query"):
            server = await self._current(asked.server_id, asked.attempt, asked.host)
            saga = await self._creation(asked.server_id)
            devices = await self.world.devices(asked.server_id)
        if saga is None:
            raise NotFound(f"Instance {asked.server_id} is not being built.")
        trace.record("conductor.rows", detail={"servers": 1, "block_devices": len(devices)})
        params = msgspec.convert(saga["params"], CreateServer)
        caller = self.engine.journal.caller_of(saga)
        record = msgspec.structs.replace(
            _record(server, devices), slots=params.slots, security_groups=params.security_groups,
            block_devices=[_device(one, attachment_of(server["id"], one["id"], asked.attempt)) for one in devices],
            caller=caller.journal() if caller else None, token=caller.token if caller else None,
        )  # fmt: skip
        trace.record("conductor.reply")
        return record

    async def _creation(self, server_id: str) -> Row | None:
        """The saga that creates a server."""
        creates = (SAGAS.c.subject == server_id) & (SAGAS.c.name == "compute.create_server")
        return await self.world.db.first(select(SAGAS).where(creates))

    async def need_volume(self, asked: rpc.NeedVolume) -> rpc.NeededVolume:
        """The volume of a device, made first where that was asked; who asks again finds the one that was made."""
        server = await self._current(asked.server_id, asked.attempt, asked.host)
        saga = await self._creation(asked.server_id)
        mine = (BLOCK_DEVICES.c.id == asked.device_id) & (BLOCK_DEVICES.c.server_id == asked.server_id)
        device = await self.world.db.first(select(BLOCK_DEVICES).where(mine))
        if saga is None or device is None:
            raise NotFound(f"Instance {asked.server_id} is not being built with {asked.device_id}.")
        caller = self.engine.journal.caller_of(saga)
        return rpc.NeededVolume(await ensure_volume(self.world.volume, caller, server, device))

    async def progress(self, told: rpc.Progress) -> rpc.Nothing:
        """The fence: refuse a stale attempt; otherwise show what the host does next."""
        await self._current(told.server_id, told.attempt, told.host)
        if told.task_state is not None:
            state = told.task_state

            async def body(tx: Transaction) -> None:
                await SERVER.progress(tx, "create", told.server_id, state)

            await self.world.db.run(body, durable=False)
        return rpc.Nothing()

    async def networked(self, told: rpc.Networked) -> rpc.Documents:
        """The ports are bound: keep the server's addresses, and make its metadata documents."""
        server = await self._current(told.server_id, told.attempt, told.host)
        cache = await self.refresh(told.server_id)
        return rpc.Documents(await self._documents({**server, "network_cache": cache}))

    async def _documents(self, server: Row) -> dict[str, bytes]:
        """What the server's config drive holds; nothing when it has none."""
        if not server["config_drive"]:
            return {}
        sealed = server["admin_pass_sealed"]
        whole = {
            **server, "admin_pass": self._seal.open(sealed) if sealed else None,
            "block_devices": await self.world.devices(server["id"]),
        }  # fmt: skip
        return documents_for(whole, domain=self.world.dhcp_domain)

    async def built(self, told: rpc.Built) -> rpc.Nothing:
        """A build ended; the saga takes it from here."""
        await self._current(told.server_id, told.attempt, told.host)
        result = {
            "attempt": told.attempt, "host": told.host, "error": told.error, "step": told.step,
            "retryable": told.retryable, "root_device": told.root_device,
        }  # fmt: skip

        async def body(tx: Transaction) -> None:
            current = (SERVERS.c.id == told.server_id) & (SERVERS.c.attempt == told.attempt)
            if not await tx.run(SERVERS.update().where(current).values(built=result)):
                raise StaleAttempt(kind="StaleAttempt")
            for device_id, made in told.devices.items():
                device = (BLOCK_DEVICES.c.id == device_id) & (BLOCK_DEVICES.c.server_id == told.server_id)
                await tx.run(BLOCK_DEVICES.update().where(device).values(**made))

        await self.world.db.run(body, durable=False)
        await self.engine.poke_subject(told.server_id)
        return rpc.Nothing()

    async def _current(self, server_id: str, attempt: int, host: str) -> Row:
        """The server's row, if this attempt on this host is the one that counts."""
        row = await self.world.db.first(select(SERVERS).where(SERVERS.c.id == server_id))
        if row is None or row["deleted_at"] is not None:
            raise StaleAttempt(f"Instance {server_id} is gone.", kind="StaleAttempt")
        if (row["attempt"], row["host"]) != (attempt, host) or row["task_state"] == "deleting":
            raise StaleAttempt(f"Attempt {attempt} on {host} is not the current one.", kind="StaleAttempt")
        return row

    # ---- guests that a host has no more

    async def recall(self, asked: rpc.Recall) -> rpc.Recalled:
        """What a server at rest on this host consists of; refused for any other."""
        row = await self.world.db.first(select(SERVERS).where(SERVERS.c.id == asked.server_id))
        if row is None or row["deleted_at"] is not None:
            raise NotFound(f"Instance {asked.server_id} could not be found.")
        if row["host"] != asked.host or not _should_be_there(row):
            raise Conflict(f"Instance {asked.server_id} is not at rest on {asked.host}.")
        record = _record(row, await self.world.devices(row["id"]))
        return rpc.Recalled(record, row["vm_state"] == ACTIVE, await self._documents(row))

    async def lost(self, told: rpc.Lost) -> rpc.Nothing:
        """What the guest kept on its host is gone: the server says so, and is not called active."""

        async def body(tx: Transaction) -> None:
            here = (SERVERS.c.id == told.server_id) & (SERVERS.c.host == told.host)
            row = await tx.first(select(SERVERS).where(here & (SERVERS.c.attempt == told.attempt)))
            if row is not None and _should_be_there(row):
                await SERVER.finish(tx, "update", told.server_id, ends=ERROR, power_state=0)
                await set_fault(tx, told.server_id, f"The guest was lost on {told.host}: {told.reason}")

        await self.world.db.run(body)
        return rpc.Nothing()

    # ---- hosts

    async def report(self, told: rpc.Report) -> rpc.Verdict:
        """Keep what a host has, tell the schedulers, and compare its guests with the records."""

        async def body(tx: Transaction) -> Row:
            return await self._keep_host(tx, told)

        row = await self.world.db.run(body, durable=False)
        await self._bus.fanout(SCHEDULER_REPORT, host_report(row))
        return await self._compare(told, row["resources"].get(BOOTED) or 0.0)

    async def _keep_host(self, tx: Transaction, told: rpc.Report) -> Row:
        now = clock.now()
        resources = {
            field: getattr(told, field) for field in told.__struct_fields__ if field not in ("guests", "host", "zone")
        }
        where = (HOSTS.c.host == told.host) & (HOSTS.c.binary == "nova-compute")
        before = await tx.first(select(HOSTS.c.resources).where(where))
        known = before["resources"] if before is not None else {}
        same = not told.boot or known.get("boot") == told.boot
        resources[BOOTED] = known.get(BOOTED, 0.0) if same else now
        values = {"last_seen": now, "node": told.node, "resources": resources}
        if not await tx.run(HOSTS.update().where(where).values(**values)):
            number = await next_number(tx, HOSTS)
            # from here on the zone follows from the aggregates that the host is put into
            fresh = {
                "id": ids.new_uuid(), "number": number, "host": told.host, "binary": "nova-compute", "zone": told.zone,
            }  # fmt: skip
            await tx.insert(HOSTS, {**values, **fresh, "created_at": now})
        row = await tx.first(select(HOSTS).where(where))
        assert row is not None
        return row

    async def _compare(self, told: rpc.Report, booted: float = 0.0) -> rpc.Verdict:
        """Which guests should not be there, which should and are not, and which should run since the host ``booted``.

        Servers at work are left alone.
        """
        here = {guest.server_id: guest for guest in told.guests}
        known = await self.world.db.all(
            select(SERVERS).where(SERVERS.c.host == told.host, SERVERS.c.deleted_at.is_(None))
        )
        rows = {row["id"]: row for row in known}
        remove, attempts = [], {}
        for server_id in here.keys() - rows.keys():
            row = await self.world.db.first(select(SERVERS).where(SERVERS.c.id == server_id))
            if row is None and self._is_restored():
                _log.warning("guest of %s on %s is unknown to the restored records and stays", server_id, told.host)
            elif row is None or (row["deleted_at"] is not None and row["deleted_at"] < clock.now() - 30):
                remove.append(server_id)
            elif row["deleted_at"] is None and self._is_stale(here[server_id], row):
                remove.append(server_id)
                attempts[server_id] = here[server_id].attempt
        start: list[str] = []
        restore: list[str] = []
        for server_id, row in rows.items():
            guest = here.get(server_id)
            if row["task_state"] is not None:
                continue
            if guest is None:
                if _should_be_there(row) and row["updated_at"] < clock.now() - SETTLED and not self._is_restored():
                    restore.append(server_id)
            elif guest.power_state in (SHUTDOWN, CRASHED) and row["vm_state"] == ACTIVE:
                # it stopped while nobody watched: with the host it comes back, by itself it stays off
                if row["updated_at"] < booted and row["power_state"] == RUNNING:
                    start.append(server_id)
                else:
                    await self.power_changed(rpc.PowerChanged(told.host, server_id, guest.power_state))
            elif guest.power_state != row["power_state"] or row["updated_at"] < booted:
                # noted once after each boot too, so that the boot is no reason to start what goes off later
                await self.power_changed(rpc.PowerChanged(told.host, server_id, guest.power_state))
        return rpc.Verdict(remove=remove, start=start, attempts=attempts, restore=restore)

    def _is_restored(self) -> bool:
        """Whether the records are older than the hosts, after a restore that nobody has settled yet."""
        return self._restored is not None and self._restored.exists()

    def _is_stale(self, guest: rpc.GuestReport, row: Row) -> bool:
        """Whether a guest is what an earlier attempt left on a host that was silent then.

        A server's row names its host before anything is built there, so a guest
        anywhere else is of the past, unless the records are (after a restore) or
        the server is between two hosts.
        """
        if self._is_restored():
            return False
        return guest.attempt <= row["attempt"] and row["vm_state"] != RESIZED and row["task_state"] not in BETWEEN_HOSTS

    async def power_changed(self, told: rpc.PowerChanged) -> rpc.Nothing:
        """A guest changed by itself: its server shows it, unless an operation is at work."""

        async def body(tx: Transaction) -> None:
            at_rest = (SERVERS.c.id == told.server_id) & (SERVERS.c.host == told.host) & SERVERS.c.task_state.is_(None)
            row = await tx.first(select(SERVERS).where(at_rest))
            if row is None:
                return
            name = {RUNNING: "start", SHUTDOWN: "stop", CRASHED: "stop"}.get(told.power_state)
            ends = SERVER.actions[name].ends if name is not None else None
            if name is None or row["vm_state"] not in ("active", "stopped"):
                name, ends = "update", row["vm_state"]
            await SERVER.finish(tx, name, told.server_id, ends=ends, power_state=told.power_state)

        await self.world.db.run(body, durable=False)
        return rpc.Nothing()

    async def hosts(self, asked: AskHosts) -> Hosts:
        """All hosts, for a scheduler, which shows so that it lives."""

        async def body(tx: Transaction) -> None:
            await seen(tx, host=asked.host, binary="nova-scheduler")

        if asked.host:
            await self.world.db.run(body, durable=False)
        rows = await self.world.db.all(select(HOSTS).where(HOSTS.c.binary == "nova-compute"))
        return Hosts([host_report(row) for row in rows])

    # ---- events

    async def event(self, event: rpc.ServerEvent) -> rpc.Nothing:
        """Something outside happened to a server: refresh its addresses, tell its host."""
        row = await self.world.db.first(select(SERVERS).where(SERVERS.c.id == event.server_id))
        if row is None or row["deleted_at"] is not None:
            return rpc.Nothing()
        if row["host"]:
            await self._bus.cast(rpc.AGENT_EVENT, event, host=row["host"])
        if event.name == "network-changed" or (event.name.startswith("network-vif") and row["task_state"] is None):
            await self.refresh(event.server_id)
        return rpc.Nothing()

    async def refresh(self, server_id: str) -> list[dict[str, Any]]:
        """Ask the network service for the server's addresses and keep them; returns the new cache."""
        row = await self.world.db.first(select(SERVERS).where(SERVERS.c.id == server_id))
        if row is None:
            return []
        slots = [msgspec.convert(slot, NetworkSlot) for slot in row["slots"] or []]
        cache = await read_vifs(self.world.network, server_id, row["project_id"], slots)

        async def body(tx: Transaction) -> None:
            await keep_vifs(tx, server_id, cache)

        await self.world.db.run(body, durable=False)
        return cache


def _should_be_there(row: Row) -> bool:
    """Whether a server's host should have its guest, running or not: it is at rest in a state that has one."""
    return row["task_state"] is None and row["vm_state"] in (ACTIVE, STOPPED)


def _record(server: Row, devices: list[Row]) -> rpc.ServerRecord:
    """A server as it is now, for its host."""
    flavor = server["flavor"]
    return rpc.ServerRecord(
        server_id=server["id"], attempt=server["attempt"], project_id=server["project_id"], user_id=server["user_id"],
        name=server["name"], hostname=server["hostname"], vcpus=flavor["vcpus"], memory_mib=flavor["ram"],
        disk_gib=flavor["disk"], image_id=server["image_id"],
        availability_zone=server["availability_zone"] or "nova",
        slots=[msgspec.convert(one, NetworkSlot) for one in server["slots"] or []], security_groups=[],
        block_devices=[_device(one, one["attachment_id"] or "") for one in devices],
        config_drive=server["config_drive"], caller=None, token=None,
    )  # fmt: skip


def _device(row: Row, attachment_id: str) -> rpc.BlockDevice:
    return rpc.BlockDevice(
        id=row["id"], boot_index=row["boot_index"], source_type=row["source_type"],
        destination_type=row["destination_type"],
        volume_id=row["volume_id"], image_id=row["image_id"], snapshot_id=row["snapshot_id"],
        size_gib=row["size_gib"], delete_on_termination=row["delete_on_termination"], device_name=row["device_name"],
        attachment_id=attachment_id, volume_type=row["volume_type"],
        guest_format=row["guest_format"], swap_mib=row["swap_mib"],
    )  # fmt: skip

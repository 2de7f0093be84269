# SPDX-License-Identifier: Apache-2.0
"""The checker: a cloud that worked is clean, and each invariant, broken on purpose, is found and named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from sqlalchemy import Table, and_, select

from cumulet.compute import models as compute
from cumulet.compute.drivers.model import PowerState
from cumulet.insight.check.rules import RULES
from cumulet.kernel import clock, ids
from cumulet.network import models as network
from cumulet.network.api.owned import COUNTED
from cumulet.network.config import NetworkConfig
from cumulet.placement import models as placement
from cumulet.volume import models as volume
from tests.services.insight.furnished import Rig, furnished

pytestmark = pytest.mark.asyncio(loop_scope="module")
NOBODY = ids.new_uuid()
Break = Callable[[Rig], AbstractAsyncContextManager[str]]
"""Breaks one invariant while it is entered; gives the id that the finding must name."""
BREAKS: dict[str, Break] = {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with furnished(tmp_path_factory.mktemp("check")) as one:
        await one.clean()
        async with one.still():
            yield one


# ---- how things are broken


def _change(
    rule: str, service: str, table: Table, key: str, of: Callable[[Rig], str], names: str = "", **values: Any
) -> None:
    """A row is not as it was. ``names`` is the attribute of the rig that the finding names (default: the row's id)."""

    @asynccontextmanager
    async def broken(rig: Rig) -> AsyncIterator[str]:
        before = await rig.database(service).all(select(table).where(table.c[key] == of(rig)))
        row = and_(*(column == before[0][column.name] for column in table.primary_key))
        await rig.change(service, table.update().where(row).values(**values))
        try:
            yield getattr(rig, names) if names else of(rig)
        finally:
            await rig.change(service, table.update().where(row).values(**{k: before[0][k] for k in values}))

    BREAKS[rule] = broken


def _copy(rule: str, service: str, table: Table, of: Callable[[Rig], str], key: str = "id", **values: Any) -> None:
    """There is one row too many: a copy of another under a new id."""

    @asynccontextmanager
    async def broken(rig: Rig) -> AsyncIterator[str]:
        row = (await rig.database(service).all(select(table).where(table.c[key] == of(rig))))[0]
        fresh = {**row, "id": ids.new_uuid(), **values}
        await rig.change(service, table.insert().values(**fresh))
        try:
            yield str(values.get("host") or of(rig))
        finally:
            await rig.change(service, table.delete().where(table.c.id == fresh["id"]))

    BREAKS[rule] = broken


def _held(rule: str, of: Callable[[Rig], tuple[dict[str, Any], str]], into: Callable[[Any], Any] | None) -> None:
    """A host has something else than it should: ``into`` makes the new entry of the old, None takes it away."""

    @asynccontextmanager
    async def broken(rig: Rig) -> AsyncIterator[str]:
        things, key = of(rig)
        kept = things[key]
        if into is None:
            del things[key]
        else:
            things[NOBODY] = into(kept)
        try:
            yield key if into is None else NOBODY
        finally:
            things[key] = kept
            things.pop(NOBODY, None)

    BREAKS[rule] = broken


def _server(rig: Rig) -> str:
    return rig.server


def _volume(rig: Rig) -> str:
    return rig.volume


def _port(rig: Rig) -> str:
    return rig.port


def _floating(rig: Rig) -> str:
    return rig.floating


def _guests(rig: Rig) -> tuple[dict[str, Any], str]:
    return rig.role("compute", "compute-agent").tools.hypervisor._guests, rig.server


def _plans(rig: Rig) -> tuple[dict[str, Any], str]:
    return rig.role("network", "network-agent")._driver.plans.ports, rig.port


def _data(rig: Rig) -> tuple[dict[str, Any], str]:
    return rig.role("volume", "volume-agent")._backend._state.things, rig.volume


def _of_another(guest: Any) -> Any:
    plan = msgspec.structs.replace(guest.plan, server_id=NOBODY)
    return type(guest)(plan, guest.power, [], [])


_change("server-stuck", "compute", compute.SERVERS, "id", _server, task_state="spawning")
_change("server-error-unexplained", "compute", compute.SERVERS, "id", _server, vm_state="error", fault=None)
_held("guest-missing", _guests, None)
_held("guest-stray", _guests, _of_another)
_change("allocation-without-host", "compute", compute.SERVERS, "id", _server, host=None)
_change("allocation-wrong", "placement", placement.ALLOCATIONS, "resource_class", lambda rig: "VCPU", "server", used=3)
_change("inventory-wrong", "placement", placement.INVENTORIES, "resource_class", lambda rig: "VCPU", used=9)
_change("port-stray", "network", network.PORTS, "id", _port, device_id=NOBODY)
_change("port-misplaced", "network", network.PORTS, "id", _port, binding_host="elsewhere")
_change("port-ownerless", "network", network.PORTS, "device_owner", lambda rig: "network:floatingip", device_id=NOBODY)
_change("floatingip-lost", "network", network.FLOATINGIPS, "id", _floating, port_id=NOBODY)
_change("floatingip-idle", "network", network.FLOATINGIPS, "id", _floating, status="DOWN")
_held("wire-stray", _plans, lambda plan: plan)
_held("wire-missing", _plans, None)
_change("attachment-stray", "volume", volume.ATTACHMENTS, "volume_id", _volume, instance_uuid=NOBODY)
_change("attachment-unrecorded", "compute", compute.BLOCK_DEVICES, "volume_id", _volume, attachment_id=NOBODY)
_change("attachment-missing", "compute", compute.BLOCK_DEVICES, "volume_id", _volume, attachment_id=None)
_copy("attachment-twice", "volume", volume.ATTACHMENTS, _volume, "volume_id")
_change("volume-stuck", "volume", volume.VOLUMES, "id", _volume, status="creating")
_change("volume-state-wrong", "volume", volume.VOLUMES, "id", _volume, status="available")
_change("volume-error-unexplained", "volume", volume.VOLUMES, "id", _volume, status="error", fault=None)
_held("data-stray", _data, lambda thing: thing)
_held("data-missing", _data, None)
_change("usage-wrong", "compute", compute.QUOTA_USAGE, "resource", lambda rig: "cores", used=7)
_copy("host-silent", "compute", compute.HOSTS, lambda rig: "nova-compute", "binary", host="ghost", number=4711)


def _breaks(rule: str) -> Callable[[Break], Break]:
    def keep(broken: Break) -> Break:
        BREAKS[rule] = broken
        return broken

    return keep


@_breaks("guest-not-running")
@asynccontextmanager
async def _guest_is_off(rig: Rig) -> AsyncIterator[str]:
    guests, key = _guests(rig)
    guests[key].power = PowerState.SHUTDOWN
    yield key
    guests[key].power = PowerState.RUNNING


@_breaks("guest-twice")
@asynccontextmanager
async def _guest_is_there_twice(rig: Rig) -> AsyncIterator[str]:
    guests, key = _guests(rig)
    guests["another"] = guests[key]
    yield key
    del guests["another"]


@_breaks("disks-wrong")
@asynccontextmanager
async def _disk_is_missing(rig: Rig) -> AsyncIterator[str]:
    guests, key = _guests(rig)
    kept, guests[key].disks = guests[key].disks, []
    yield key
    guests[key].disks = kept


@_breaks("nics-wrong")
@asynccontextmanager
async def _nic_is_missing(rig: Rig) -> AsyncIterator[str]:
    guests, key = _guests(rig)
    kept, guests[key].nics = guests[key].nics, []
    yield key
    guests[key].nics = kept


@_breaks("files-stray")
@asynccontextmanager
async def _config_drive_is_left(rig: Rig) -> AsyncIterator[str]:
    file = rig.role("compute", "compute-agent").tools.drives / f"{NOBODY}.iso"
    file.write_bytes(b"")
    yield NOBODY
    file.unlink()


@_breaks("allocation-stray")
@asynccontextmanager
async def _allocation_is_left(rig: Rig) -> AsyncIterator[str]:
    await _allocate(rig)
    yield NOBODY
    await rig.cloud.request("DELETE", f"/placement/allocations/{NOBODY}", token=rig.admin)


async def _allocate(rig: Rig) -> None:
    provider = (await rig.database("placement").all(select(placement.PROVIDERS.c.uuid)))[0]["uuid"]
    claim = {
        "allocations": {provider: {"resources": {"VCPU": 1}}}, "project_id": "p", "user_id": "u",
        "consumer_generation": None, "consumer_type": "INSTANCE",
    }  # fmt: skip
    headers = {"openstack-api-version": "placement 1.38"}
    path = f"/placement/allocations/{NOBODY}"
    reply = await rig.cloud.request("PUT", path, claim, token=rig.admin, headers=headers)
    assert reply.status == 204, reply.data


@_breaks("volume-twice")
@asynccontextmanager
async def _volume_was_made_twice(rig: Rig) -> AsyncIterator[str]:
    v, w = volume.VOLUMES, volume.WORDS
    row = (await rig.database("volume").all(select(v).where(v.c.id == rig.volume)))[0]
    copy = {**row, "id": ids.new_uuid(), "status": "error", "fault": "a copy", "host": None}
    word = {"kind": "user", "key": "cumulet_block_device", "value": NOBODY}
    words = [w.insert().values(owner_id=owner, **word) for owner in (rig.volume, copy["id"])]
    await rig.change("volume", v.insert().values(**copy), *words)
    yield NOBODY
    await rig.change("volume", w.delete().where(w.c.value == NOBODY), v.delete().where(v.c.id == copy["id"]))


@_breaks("copy-stray")
@asynccontextmanager
async def _copy_is_left(rig: Rig) -> AsyncIterator[str]:
    file = rig.role("compute", "compute-agent").tools.copies / NOBODY
    file.write_bytes(b"")
    yield NOBODY
    file.unlink()


@_breaks("image-stray")
@asynccontextmanager
async def _image_was_not_undone(rig: Rig) -> AsyncIterator[str]:
    t = compute.SAGAS
    row = (await rig.database("compute").all(select(t).where(t.c.subject == rig.server).limit(1)))[0]
    image = (await rig.call("GET", "/image/v2/images"))["images"][0]["id"]
    fresh = {
        **row, "id": ids.new_uuid(), "name": "compute.create_image", "state": "failed", "params": {"image_id": image},
    }  # fmt: skip
    await rig.change("compute", t.insert().values(**fresh))
    yield image
    await rig.change("compute", t.delete().where(t.c.id == fresh["id"]))


@_breaks("image-data-stray")
@asynccontextmanager
async def _image_data_is_left(rig: Rig) -> AsyncIterator[str]:
    key = f"data-{NOBODY}"
    writer = await rig.service("image").default.store.write(key)
    await writer.commit()
    yield key
    await rig.service("image").default.store.delete(key)


def _saga(rule: str, **values: Any) -> None:
    @asynccontextmanager
    async def broken(rig: Rig) -> AsyncIterator[str]:
        t, now = compute.SAGAS, clock.now()
        row = (await rig.database("compute").all(select(t).where(t.c.subject == rig.server).limit(1)))[0]
        fresh = {**row, "id": ids.new_uuid(), "subject": NOBODY, "cursor": 0, "wake_at": now + 3600, **values}
        await rig.change("compute", t.insert().values(**fresh))
        yield fresh["id"]
        await rig.change("compute", t.delete().where(t.c.id == fresh["id"]))

    BREAKS[rule] = broken


_saga("saga-late", state="ready", step_since=1_000_000.0)
_saga("saga-stuck", state="stuck")


# ---- tests


def _named(verdict: dict[str, Any], rule: str) -> Iterator[dict[str, Any]]:
    return (one for one in verdict["findings"] if one["rule"] == rule)


async def test_a_cloud_at_work_is_clean(rig: Rig) -> None:
    verdict = await rig.check()
    assert verdict["clean"], verdict
    for kind in ("compute.server", "block-storage.attachment", "network.floatingip", "placement.consumer"):
        assert verdict["looked_at"][kind] == 1, kind


async def test_every_rule_can_be_broken() -> None:
    assert set(BREAKS) == {rule.name for rule in RULES}


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
async def test_what_is_broken_is_found_and_named(rig: Rig, rule: str) -> None:
    async with BREAKS[rule](rig) as named:
        verdict = await rig.check()
        found = list(_named(verdict, rule))
        assert found, verdict["findings"]
        assert not verdict["clean"]
        assert any(named in one["id"] or named in one["sentence"] for one in found), (named, found)
        assert "{" not in found[0]["sentence"].replace("{'", "")
    verdict = await rig.check()
    assert verdict["clean"], verdict["findings"]


async def test_all_that_network_limits_is_counted() -> None:
    assert set(COUNTED) == set(NetworkConfig().quotas())


async def test_only_administrators_may_look(rig: Rig) -> None:
    for path in ("/cumulet/v1/check", "/compute/v2.1/cumulet/owned", "/network/v2.0/cumulet/owned"):
        assert (await rig.cloud.request("GET", path, token=rig.token)).status == 403


async def test_pages_hold_everything_once(rig: Rig) -> None:
    """Ports, two a page."""
    found: list[str] = []
    after = ""
    while True:
        path = f"/network/v2.0/cumulet/owned?kind=port&limit=2&after={after}"
        told = (await rig.cloud.request("GET", path, token=rig.admin)).json
        found += [one["id"] for one in told["owned"]]
        if told["next"] is None:
            break
        after = told["next"]
    rows = await rig.database("network").all(select(network.PORTS.c.id))
    assert sorted(row["id"] for row in rows) == found
    assert len(found) > 2


@pytest.mark.parametrize(
    "rule", ["allocation-stray", "port-misplaced", "attachment-stray", "floatingip-lost", "usage-wrong"]
)
async def test_a_repair_mends_what_was_confirmed(rig: Rig, rule: str) -> None:
    async with BREAKS[rule](rig):
        found = list(_named(await rig.check(), rule))
        body = {"findings": [{"rule": one["rule"], "id": one["id"]} for one in found]}
        reply = await rig.cloud.request("POST", "/cumulet/v1/check/repair", body, token=rig.admin)
        assert reply.status == 200, reply.data
        assert [one["done"] for one in reply.json["repaired"]] == [True], reply.json
        assert not list(_named(await rig.check(), rule))


async def test_usage_that_drifted_is_counted_anew(rig: Rig) -> None:
    """Of each service with quotas: a number that is wrong, and a row that is not there."""
    tables = {"compute": compute.QUOTA_USAGE, "network": network.USAGE, "volume": volume.QUOTA_USAGE}
    before = {name: await rig.database(name).all(select(table)) for name, table in tables.items()}
    for name, table in tables.items():
        first, *_, last = [row for row in before[name] if row["used"]]
        for row, change in ((first, table.update().values(used=99)), (last, table.delete())):
            mine = (table.c.project_id == row["project_id"]) & (table.c.resource == row["resource"])
            await rig.change(name, change.where(mine))
    found = list(_named(await rig.check(), "usage-wrong"))
    assert len(found) == 6
    body = {"findings": [{"rule": one["rule"], "id": one["id"]} for one in found]}
    reply = await rig.cloud.request("POST", "/cumulet/v1/check/repair", body, token=rig.admin)
    assert [one["done"] for one in reply.json["repaired"]] == [True] * 6, reply.json
    for name, table in tables.items():
        rows = await rig.database(name).all(select(table))
        assert sorted(map(str, rows)) == sorted(map(str, before[name]))
    refused = await rig.cloud.request(
        "POST", "/compute/v2.1/cumulet/recount", {"project_id": "x", "resource": "cores"}, token=rig.token
    )
    assert refused.status == 403

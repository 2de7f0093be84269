# SPDX-License-Identifier: Apache-2.0
"""Versions, limits, quotas, zones, services and pools over HTTP."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.kernel import clock
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Invalid, NotFound
from cumulet.kernel.http import Request
from cumulet.kernel.http.versions import Versions
from cumulet.volume.limits import of_types
from cumulet.volume.logic import Volume, hosts
from cumulet.volume.logic import volumes as volumes_logic
from cumulet.volume.models import QUOTA_LIMITS, SERVICES, TYPES
from cumulet.volume.rpc import backend_host
from cumulet.volume.sagas.world import AGENT_BINARY, candidates
from cumulet.volume.schemas import MAX_INT, moment

VERSIONS = Versions("volume", "3.0", "3.71")
_VENDOR, _DRIVER = "Cumulet", "1.0"
_UPDATED = "2025-09-01T00:00:00Z"


async def versions(request: Request) -> dict[str, Any]:
    """The one version document, the same at the root and at ``/v3``."""
    links = [
        {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
        {"rel": "self", "href": f"{request.base}/v3/"},
    ]
    media = {"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}
    version = {
        "id": "v3.0", "status": "CURRENT", "version": VERSIONS.maximum, "min_version": VERSIONS.minimum,
        "updated": _UPDATED, "links": links, "media-types": [media],
    }  # fmt: skip
    return {"versions": [version]}


# ---- limits and quotas


async def _limits(volume: Volume, project_id: str) -> dict[str, int]:
    names = [row["name"] for row in await volume.database.all(select(TYPES.c.name), point=True)]
    return {**of_types(names), **await volume.quota.limits_of(volume.database, project_id)}


async def limits(request: Request) -> dict[str, Any]:
    volume: Volume = request.service
    project_id = request.context.project_id or ""
    if request.since("3.39") and request.context.is_admin:
        project_id = request.query.get("project_id") or request.query.get("tenant_id") or project_id
    quota = await volume.quota.limits_of(volume.database, project_id)
    absolute = {
        "maxTotalVolumes": quota["volumes"],
        "maxTotalSnapshots": quota["snapshots"],
        "maxTotalVolumeGigabytes": quota["gigabytes"],
        "maxTotalBackups": quota["backups"],
        "maxTotalBackupGigabytes": quota["backup_gigabytes"],
    }
    if request.allows("limits_extension:used_limits"):
        used = await volume.quota.used_of(volume.database, project_id)
        absolute |= {
            "totalVolumesUsed": used["volumes"],
            "totalGigabytesUsed": used["gigabytes"],
            "totalSnapshotsUsed": used["snapshots"],
            "totalBackupsUsed": used["backups"],
            "totalBackupGigabytesUsed": used["backup_gigabytes"],
        }
    return {"limits": {"rate": [], "absolute": absolute}}


async def quota_target(request: Request) -> dict[str, Any]:
    return {"project_id": request.params["project_id"]}


async def show_quota(request: Request) -> dict[str, Any]:
    volume: Volume = request.service
    project_id = request.params["project_id"]
    found: dict[str, Any] = await _limits(volume, project_id)
    if request.query.get("usage"):
        used = await volume.quota.used_of(volume.database, project_id)
        found = {name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0} for name, limit in found.items()}
    return {"quota_set": {"id": project_id, **found}}


async def default_quota(request: Request) -> dict[str, Any]:
    volume: Volume = request.service
    names = [row["name"] for row in await volume.database.all(select(TYPES.c.name), point=True)]
    return {"quota_set": {"id": request.params["project_id"], **of_types(names), **volume.quota.defaults}}


async def update_quota(request: Request) -> dict[str, Any]:
    """Set limits; none may be below what is used."""
    volume: Volume = request.service
    project_id = request.params["project_id"]
    known = await _limits(volume, project_id)
    used = await volume.quota.used_of(volume.database, project_id)
    wanted: dict[str, int] = {}
    for name, given in request.body.items():
        if name in ("tenant_id", "id", "project_id"):
            continue
        if name not in known:
            raise Invalid(f"Bad key(s) in quota set: {name[:80]}")
        value = int(given) if isinstance(given, str) and given.lstrip("-").isdigit() and len(given) < 12 else given
        if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value <= MAX_INT:
            raise Invalid(f"{name} must be >= -1 and <= {MAX_INT}")
        if value != -1 and value < used.get(name, 0):
            raise Invalid(
                f"Quota {name} limit must be equal or greater than existing resources. Current usage is "
                f"{used.get(name, 0)} and the requested limit is {value}."
            )
        wanted[name] = value

    async def body(tx: Transaction) -> None:
        for name, value in wanted.items():
            row = (QUOTA_LIMITS.c.project_id == project_id) & (QUOTA_LIMITS.c.resource == name)
            if not await tx.run(QUOTA_LIMITS.update().where(row).values(hard_limit=value)):
                await tx.insert(QUOTA_LIMITS, {"project_id": project_id, "resource": name, "hard_limit": value})

    await volume.database.run(body)
    return {"quota_set": await _limits(volume, project_id)}


async def delete_quota(request: Request) -> None:
    volume: Volume = request.service
    mine = QUOTA_LIMITS.delete().where(QUOTA_LIMITS.c.project_id == request.params["project_id"])
    await volume.database.run(lambda tx: tx.run(mine))


# ---- zones, services, pools


async def zones(request: Request) -> dict[str, Any]:
    found = await volumes_logic.zones(request.service)
    return {
        "availabilityZoneInfo": [
            {"zoneName": name, "zoneState": {"available": usable}} for name, usable in sorted(found.items())
        ]
    }


async def services(request: Request) -> dict[str, Any]:
    volume: Volume = request.service
    asked = dict(request.query.get("*", []))
    rows = await volume.database.all(select(SERVICES).order_by(SERVICES.c.binary, SERVICES.c.host), point=True)
    return {
        "services": [
            _service(request, row)
            for row in rows
            if asked.get("binary", row["binary"]) == row["binary"]
            and asked.get("host", row["host"]) in (row["host"], row["host"].partition("@")[0])
        ]
    }


def _service(request: Request, row: Row) -> dict[str, Any]:
    volume: Volume = request.service
    up = row["seen_at"] > clock.now() - volume.config.down_seconds
    shown = {
        "binary": row["binary"],
        "host": row["host"],
        "zone": row["zone"],
        "status": "disabled" if row["disabled"] else "enabled",
        "state": "up" if up else "down",
        "updated_at": moment(row["seen_at"]),
        "disabled_reason": row["disabled_reason"],
    }
    if request.since("3.7"):
        shown["cluster"] = None
    if row["binary"] == "cinder-volume":
        shown |= {"replication_status": "disabled", "active_backend_id": None, "frozen": False}
        if request.since("3.49"):
            shown["backend_state"] = "up" if up else "down"
    return shown


async def on_host(request: Request) -> dict[str, Any]:
    """Some of the volumes and snapshots that are on a host."""
    return await hosts.on_host(request.service, request.params["host"])


async def forget_host(request: Request) -> None:
    await hosts.forget(request.service, request.params["host"])


async def enable_service(request: Request) -> dict[str, Any]:
    return await _switch(request, disabled=False, reason=None)


async def disable_service(request: Request) -> dict[str, Any]:
    answer = await _switch(request, disabled=True, reason=None)
    del answer["disabled_reason"]
    return answer


async def disable_service_for(request: Request) -> dict[str, Any]:
    if "disabled_reason" not in request.body:
        raise Invalid("Invalid input for field/attribute disabled_reason. It is a required property.")
    return await _switch(request, disabled=True, reason=request.body["disabled_reason"])


async def _switch(request: Request, *, disabled: bool, reason: str | None) -> dict[str, Any]:
    volume: Volume = request.service
    host, binary = request.body["host"], request.body.get("binary")
    if binary is None:
        raise Invalid("Invalid input: 'binary' is a required property.")
    row = (SERVICES.c.host == host) & (SERVICES.c.binary == binary)
    change = SERVICES.update().where(row).values(disabled=disabled, disabled_reason=reason)
    if not await volume.database.run(lambda tx: tx.run(change)):
        raise NotFound(f"Service {binary} could not be found on host {host}.")
    return {
        "host": host, "service": binary, "binary": binary, "disabled": disabled,
        "status": "disabled" if disabled else "enabled", "disabled_reason": reason,
    }  # fmt: skip


async def pools(request: Request) -> dict[str, Any]:
    """What each back end has, in GiB."""
    volume: Volume = request.service
    rows = {row["host"]: row for row in await volume.database.all(select(SERVICES), point=True)}
    shown: list[dict[str, Any]] = []
    for one in await candidates(volume.database, volume.config):
        if not one.up:
            continue
        backend = backend_host(one.host).partition("@")[2]
        pool: dict[str, Any] = {"name": f"{one.host}#{backend}"}
        if request.query.get("detail"):
            pool["capabilities"] = {
                "pool_name": backend,
                "volume_backend_name": backend,
                "storage_protocol": rows[one.host]["protocol"],
                "vendor_name": _VENDOR,
                "driver_version": _DRIVER,
                "total_capacity_gb": round(one.total_gib, 2),
                "free_capacity_gb": round(one.free_gib, 2),
                "allocated_capacity_gb": one.promised_gib,
                "provisioned_capacity_gb": one.promised_gib,
                "max_over_subscription_ratio": str(volume.config.over_subscription),
                "thin_provisioning_support": True,
                "thick_provisioning_support": False,
                "reserved_percentage": 0,
                "multiattach": False,
                "QoS_support": False,
                "location_info": one.host,
                "timestamp": moment(rows[one.host]["seen_at"]),
            }
        shown.append(pool)
    return {"pools": shown}


async def capabilities(request: Request) -> dict[str, Any]:
    """What one back end can do; the host may be named with or without its pool."""
    volume: Volume = request.service
    host = backend_host(request.params["host"])
    row = await volume.database.first(
        select(SERVICES).where(SERVICES.c.host == host, SERVICES.c.binary == AGENT_BINARY)
    )
    if row is None:
        raise NotFound(f"Can't find service: {host}")
    backend = host.partition("@")[2]
    return {
        "namespace": f"OS::Storage::Capabilities::{host}",
        "vendor_name": _VENDOR,
        "volume_backend_name": backend,
        "pool_name": backend,
        "driver_version": _DRIVER,
        "storage_protocol": row["protocol"],
        "display_name": None,
        "description": None,
        "visibility": "public",
        "replication_targets": [],
        "properties": {},
    }


async def extensions(request: Request) -> dict[str, Any]:
    """The parts of the API that were once optional, as far as they are offered."""
    return {
        "extensions": [
            {"name": name, "alias": alias, "description": f"{name} support.", "updated": _UPDATED, "links": []}
            for alias, name in _EXTENSIONS
        ]
    }


_EXTENSIONS = (
    ("OS-SCH-HNT", "SchedulerHints"), ("capabilities", "Capabilities"), ("os-admin-actions", "AdminActions"),
    ("os-availability-zone", "AvailabilityZones"), ("os-extended-services", "ExtendedServices"),
    ("os-extended-snapshot-attributes", "ExtendedSnapshotAttributes"), ("os-quota-sets", "Quotas"),
    ("os-services", "Services"), ("os-snapshot-actions", "SnapshotActions"),
    ("os-types-extra-specs", "TypesExtraSpecs"),
    ("os-types-manage", "TypesManage"), ("os-used-limits", "UsedLimits"), ("os-vol-host-attr", "VolumeHostAttribute"),
    ("os-vol-image-meta", "VolumeImageMetadata"), ("os-vol-mig-status-attr", "VolumeMigStatusAttribute"),
    ("os-vol-tenant-attr", "VolumeTenantAttribute"), ("os-volume-actions", "VolumeActions"),
    ("os-volume-type-access", "VolumeTypeAccess"), ("scheduler-stats", "Scheduler_stats"),
)  # fmt: skip

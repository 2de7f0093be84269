# SPDX-License-Identifier: Apache-2.0
"""The extensions list, kept for old clients: since microversions it names what is always there."""

from __future__ import annotations

from typing import Any, Final

from cumulet.compute.schemas import STRICT_ALL
from cumulet.kernel.errors import NotFound
from cumulet.kernel.http import Query, Request, Route

KNOWN: Final = {
    "OS-DCF": "DiskConfig", "OS-EXT-AZ": "ExtendedAvailabilityZone", "OS-EXT-IPS": "ExtendedIps",
    "OS-EXT-IPS-MAC": "ExtendedIpsMac", "OS-EXT-SRV-ATTR": "ExtendedServerAttributes",
    "OS-EXT-STS": "ExtendedStatus", "OS-FLV-DISABLED": "FlavorDisabled", "OS-FLV-EXT-DATA": "FlavorExtraData",
    "OS-SCH-HNT": "SchedulerHints", "OS-SRV-USG": "ServerUsage", "os-admin-actions": "AdminActions",
    "os-aggregates": "Aggregates", "os-attach-interfaces": "AttachInterfaces",
    "os-availability-zone": "AvailabilityZone", "os-block-device-mapping-v2-boot": "BlockDeviceMappingV2Boot",
    "os-config-drive": "ConfigDrive", "os-console-output": "ConsoleOutput", "os-deferred-delete": "DeferredDelete",
    "os-extended-hypervisors": "ExtendedHypervisors", "os-extended-volumes": "ExtendedVolumes",
    "os-flavor-access": "FlavorAccess", "os-flavor-extra-specs": "FlavorExtraSpecs", "os-flavor-manage": "FlavorManage",
    "os-hypervisors": "Hypervisors", "os-instance-actions": "InstanceActions", "os-keypairs": "Keypairs",
    "os-multiple-create": "MultipleCreate", "os-quota-sets": "Quotas", "os-security-groups": "SecurityGroups",
    "os-server-external-events": "ServerExternalEvents", "os-server-groups": "ServerGroups",
    "os-server-start-stop": "ServerStartStop", "os-services": "Services",
    "os-simple-tenant-usage": "SimpleTenantUsage", "os-used-limits": "UsedLimits", "os-user-data": "UserData",
    "os-volumes": "Volumes",
}  # fmt: skip
"""alias → name, of what this service offers."""


def _shown(alias: str) -> dict[str, Any]:
    return {
        "alias": alias, "name": KNOWN[alias], "description": "", "links": [],
        "namespace": "http://docs.openstack.org/compute/ext/fake_xml", "updated": "2014-12-03T00:00:00Z",
    }  # fmt: skip


async def index(request: Request) -> dict[str, Any]:
    return {"extensions": [_shown(alias) for alias in sorted(KNOWN)]}


async def show(request: Request) -> dict[str, Any]:
    alias = request.params["alias"]
    if alias not in KNOWN:
        raise NotFound
    return {"extension": _shown(alias)}


PLAIN: Final = Query(strict_since=STRICT_ALL)
ROUTES: Final = [
    Route("GET /extensions", index, policy="os_compute_api:extensions", query=PLAIN),
    Route("GET /extensions/{alias}", show, policy="os_compute_api:extensions", query=PLAIN),
]

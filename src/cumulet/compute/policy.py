# SPDX-License-Identifier: Apache-2.0
"""The rules of compute, by their published names and newest defaults (project scope, personas).

A rule is here when a route or a field of ours asks it. Source: the Compute
service's published policy reference.
"""

from __future__ import annotations

from typing import Final

from cumulet.kernel.policy import Rule

ADMIN: Final = "rule:context_is_admin"
MEMBER: Final = "rule:project_member_or_admin"
READER: Final = "rule:project_reader_or_admin"
SERVICE: Final = "rule:service_or_admin"
ANYBODY: Final = "@"

_PERSONAS: Final = {
    "context_is_admin": "role:admin",
    "admin_or_owner": "is_admin:True or project_id:%(project_id)s",
    "admin_api": "is_admin:True",
    "project_manager_api": "role:manager and project_id:%(project_id)s",
    "project_member_api": "role:member and project_id:%(project_id)s",
    "project_reader_api": "role:reader and project_id:%(project_id)s",
    "service_api": "role:service",
    "project_manager_or_admin": "rule:project_manager_api or rule:context_is_admin",
    "project_member_or_admin": "rule:project_member_api or rule:context_is_admin",
    "project_reader_or_admin": "rule:project_reader_api or rule:context_is_admin",
    "service_or_admin": "rule:service_api or rule:context_is_admin",
}

_OWN_KEYS: Final = "(" + ADMIN + ") or user_id:%(user_id)s"

_RULES: Final[dict[str, dict[str, str]]] = {
    "os_compute_api:": {"extensions": ANYBODY, "limits": ANYBODY, "limits:other_project": ADMIN},
    "os_compute_api:servers:": {
        "index": READER, "detail": READER, "show": READER, "create": MEMBER, "delete": MEMBER, "update": MEMBER,
        "index:get_all_tenants": ADMIN, "detail:get_all_tenants": ADMIN, "allow_all_filters": ADMIN,
        "show:flavor-extra-specs": READER, "show:host_status": ADMIN, "show:host_status:unknown-only": ADMIN,
        "create:forced_host": ADMIN, "create:attach_volume": MEMBER, "create:attach_network": MEMBER,
        "create:trusted_certs": MEMBER, "create:zero_disk_flavor": ADMIN,
        "reboot": MEMBER, "start": MEMBER, "stop": MEMBER,
        "create_image": MEMBER, "create_image:allow_volume_backed": MEMBER,
    },
    "compute:servers:": {"create:requested_destination": ADMIN},
    "network:": {"attach_external_network": ADMIN},
    "os_compute_api:os-extended-server-attributes": {"": ADMIN},
    "os_compute_api:os-admin-actions:": {"reset_state": ADMIN},
    "os_compute_api:os-deferred-delete:": {"force": MEMBER},
    "os_compute_api:os-lock-server:": {"lock": MEMBER, "unlock": MEMBER, "unlock:unlock_override": ADMIN},
    "os_compute_api:os-console-output": {"": MEMBER},
    "os_compute_api:os-security-groups:": {"list": READER, "add": MEMBER, "remove": MEMBER},
    "os_compute_api:server-metadata:": {
        "index": READER, "show": READER, "create": MEMBER, "update_all": MEMBER, "update": MEMBER, "delete": MEMBER,
    },
    "os_compute_api:os-server-tags:": {
        "index": READER, "show": READER, "update_all": MEMBER, "update": MEMBER, "delete": MEMBER,
        "delete_all": MEMBER,
    },
    "os_compute_api:ips:": {"index": READER, "show": READER},
    "os_compute_api:os-attach-interfaces:": {"list": READER, "show": READER, "create": MEMBER, "delete": MEMBER},
    "os_compute_api:os-volumes-attachments:": {
        "index": READER, "show": READER, "create": MEMBER, "update": MEMBER, "delete": MEMBER, "swap": SERVICE,
    },
    "os_compute_api:os-instance-actions:": {"list": READER, "show": READER, "events": ADMIN, "events:details": ADMIN},
    "os_compute_api:os-server-external-events:": {"create": SERVICE},
    "os_compute_api:os-flavor-manage:": {"create": ADMIN, "update": ADMIN, "delete": ADMIN},
    "os_compute_api:os-flavor-access": {"": ADMIN, ":add_tenant_access": ADMIN, ":remove_tenant_access": ADMIN},
    "os_compute_api:os-flavor-extra-specs:": {
        "index": READER, "show": READER, "create": ADMIN, "update": ADMIN, "delete": ADMIN,
    },
    "os_compute_api:os-keypairs:": {"index": _OWN_KEYS, "show": _OWN_KEYS, "create": _OWN_KEYS, "delete": _OWN_KEYS},
    "os_compute_api:os-quota-sets:": {
        "show": READER, "detail": READER, "defaults": ANYBODY, "update": ADMIN, "delete": ADMIN,
    },
    "os_compute_api:os-services:": {"list": ADMIN, "update": ADMIN, "delete": ADMIN},
    "os_compute_api:os-hypervisors:": {
        "list": ADMIN, "list-detail": ADMIN, "show": ADMIN, "statistics": ADMIN, "uptime": ADMIN, "search": ADMIN,
        "servers": ADMIN,
    },
    "os_compute_api:os-availability-zone:": {"list": ANYBODY, "detail": ADMIN},
    "os_compute_api:os-aggregates:": {
        "index": ADMIN, "show": ADMIN, "create": ADMIN, "update": ADMIN, "delete": ADMIN, "add_host": ADMIN,
        "remove_host": ADMIN, "set_metadata": ADMIN,
    },
    "os_compute_api:os-server-groups:": {
        "index": READER, "index:all_projects": ADMIN, "show": READER, "create": MEMBER, "delete": MEMBER,
    },
    "os_compute_api:os-simple-tenant-usage:": {"list": ADMIN, "show": READER},
    "cumulet:": {"flavors:read": ANYBODY, "servers:why": SERVICE, "owned": ADMIN},
}  # fmt: skip
"""prefix → rest of the name → check."""

RULES: Final[list[Rule]] = [
    *(Rule(name, check, ("project", "system", "domain")) for name, check in _PERSONAS.items()),
    *(
        Rule(prefix + rest, check, ("project", "system") if prefix == "cumulet:" else ("project",))
        for prefix, rules in _RULES.items()
        for rest, check in rules.items()
    ),
]

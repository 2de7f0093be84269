# SPDX-License-Identifier: Apache-2.0
"""The rules of placement, by their published names and newest defaults."""

from __future__ import annotations

from cumulet.kernel.owned import CHECK, READ
from cumulet.kernel.policy import Rule

_ADMIN_OR_SERVICE = "rule:admin_or_service_api"
_OPERATIONS = {
    "placement:resource_providers": ("list", "create", "show", "update", "delete"),
    "placement:resource_classes": ("list", "create", "show", "update", "delete"),
    "placement:resource_providers:inventories": ("list", "create", "show", "update", "delete"),
    "placement:resource_providers:aggregates": ("list", "update"),
    "placement:resource_providers:traits": ("list", "update", "delete"),
    "placement:resource_providers:allocations": ("list",),
    "placement:traits": ("list", "show", "update", "delete"),
    "placement:allocations": ("manage", "list", "update", "delete"),
    "placement:allocation_candidates": ("list",),
    "placement:cumulet:changes": ("list",),
}

RULES = [
    Rule("admin_api", "role:admin"),
    Rule("service_api", "role:service"),
    Rule("admin_or_service_api", "role:admin or role:service"),
    Rule("project_reader_api", "role:reader and project_id:%(project_id)s"),
    Rule("admin_or_project_reader_or_service_api", "role:admin or rule:project_reader_api or role:service"),
    *(
        Rule(f"{prefix}:{operation}", _ADMIN_OR_SERVICE)
        for prefix, operations in _OPERATIONS.items()
        for operation in operations
    ),
    Rule("placement:resource_providers:usages", _ADMIN_OR_SERVICE),
    Rule("placement:usages", "rule:admin_or_project_reader_or_service_api"),
    Rule("placement:reshaper:reshape", "rule:service_api"),
    Rule(READ, CHECK),
]

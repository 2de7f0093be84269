# SPDX-License-Identifier: Apache-2.0
"""The volume service's policy: upstream's names and newest defaults (project scope, legacy admin)."""

from __future__ import annotations

from cumulet.kernel.owned import CHECK, READ
from cumulet.kernel.policy import Rule

_READER = "rule:xena_system_admin_or_project_reader"
_MEMBER = "rule:xena_system_admin_or_project_member"
_ADMIN = "rule:admin_api"
HOST = "cumulet:volume_hosts"
_ANY = ("project", "system", "domain")

_RULES: list[tuple[str, str]] = [
    ("volume:create", _MEMBER),
    ("volume:create_from_image", _MEMBER),
    ("volume:get", _READER),
    ("volume:get_all", _READER),
    ("volume:update", _MEMBER),
    ("volume:delete", _MEMBER),
    ("volume:force_delete", _ADMIN),
    ("volume:multiattach", _MEMBER),
    ("volume:extend", _MEMBER),
    ("volume:extend_attached_volume", _MEMBER),
    ("volume:update_readonly_flag", _MEMBER),
    ("volume:retype", _MEMBER),
    ("volume:get_volume_metadata", _READER),
    ("volume:create_volume_metadata", _MEMBER),
    ("volume:update_volume_metadata", _MEMBER),
    ("volume:delete_volume_metadata", _MEMBER),
    ("volume_extension:volume_image_metadata:show", _READER),
    ("volume_extension:volume_image_metadata:set", _MEMBER),
    ("volume_extension:volume_image_metadata:remove", _MEMBER),
    ("volume_extension:volume_host_attribute", _ADMIN),
    ("volume_extension:volume_tenant_attribute", _READER),
    ("volume_extension:volume_mig_status_attribute", _ADMIN),
    ("volume_extension:volume_actions:attach", _MEMBER),
    ("volume_extension:volume_actions:detach", _MEMBER),
    ("volume_extension:volume_actions:reserve", _MEMBER),
    ("volume_extension:volume_actions:unreserve", _MEMBER),
    ("volume_extension:volume_actions:begin_detaching", _MEMBER),
    ("volume_extension:volume_actions:roll_detaching", _MEMBER),
    ("volume_extension:volume_admin_actions:reset_status", _ADMIN),
    ("volume_extension:volume_admin_actions:force_delete", _ADMIN),
    ("volume_extension:volume_admin_actions:force_detach", _ADMIN),
    ("volume:attachment_create", _MEMBER),
    ("volume:attachment_update", _MEMBER),
    ("volume:attachment_delete", _MEMBER),
    ("volume:attachment_complete", _MEMBER),
    ("volume:multiattach_bootable_volume", _MEMBER),
    ("volume:get_all_snapshots", _READER),
    ("volume:get_snapshot", _READER),
    ("volume:create_snapshot", _MEMBER),
    ("volume:update_snapshot", _MEMBER),
    ("volume:delete_snapshot", _MEMBER),
    ("volume:get_snapshot_metadata", _READER),
    ("volume:update_snapshot_metadata", _MEMBER),
    ("volume:delete_snapshot_metadata", _MEMBER),
    ("volume_extension:extended_snapshot_attributes", _READER),
    ("volume_extension:snapshot_admin_actions:reset_status", _ADMIN),
    ("volume_extension:snapshot_admin_actions:force_delete", _ADMIN),
    ("snapshot_extension:snapshot_actions:update_snapshot_status", _MEMBER),
    ("volume_extension:type_get", _READER),
    ("volume_extension:type_get_all", _READER),
    ("volume_extension:type_create", _ADMIN),
    ("volume_extension:type_update", _ADMIN),
    ("volume_extension:type_delete", _ADMIN),
    ("volume_extension:access_types_extra_specs", _READER),
    ("volume_extension:volume_type_access", _MEMBER),
    ("volume_extension:volume_type_access:get_all_for_type", _ADMIN),
    ("volume_extension:volume_type_access:addProjectAccess", _ADMIN),
    ("volume_extension:volume_type_access:removeProjectAccess", _ADMIN),
    ("volume_extension:access_types_qos_specs_id", _ADMIN),
    ("volume_extension:types_extra_specs:index", _READER),
    ("volume_extension:types_extra_specs:show", _READER),
    ("volume_extension:types_extra_specs:create", _ADMIN),
    ("volume_extension:types_extra_specs:update", _ADMIN),
    ("volume_extension:types_extra_specs:delete", _ADMIN),
    ("volume_extension:types_extra_specs:read_sensitive", _ADMIN),
    ("volume_extension:quotas:show", _READER),
    ("volume_extension:quotas:update", _ADMIN),
    ("volume_extension:quotas:delete", _ADMIN),
    ("volume_extension:services:index", _ADMIN),
    ("volume_extension:services:update", _ADMIN),
    ("limits_extension:used_limits", _READER),
    ("scheduler_extension:scheduler_stats:get_pools", _ADMIN),
    ("volume_extension:capabilities", _ADMIN),
    ("volume_extension:list_extensions", ""),
    ("volume:availability_zone_list", ""),
]

_CONNECT = "cumulet:volumes:connect_by_services"
BESIDES = dict.fromkeys(
    (
        "volume:get", "volume:attachment_create", "volume:attachment_update", "volume:attachment_complete",
    ),
    _CONNECT,
)  # fmt: skip
"""A host connects the volumes of its servers, also when the user's token was revoked meanwhile; it has no role but
``service``."""

RULES = [
    Rule(_CONNECT, "role:service", description="See and connect any volume, as a service with no user behind it."),
    Rule("context_is_admin", "role:admin", _ANY),
    Rule("admin_api", "role:admin", _ANY),
    Rule("xena_system_admin_or_project_reader", "(role:admin) or (role:reader and project_id:%(project_id)s)", _ANY),
    Rule("xena_system_admin_or_project_member", "(role:admin) or (role:member and project_id:%(project_id)s)", _ANY),
    *(Rule(name, check, _ANY) for name, check in _RULES),
    Rule(READ, CHECK, _ANY),
    Rule(HOST, "role:admin", _ANY, description="See what is on a host's back end, and forget one that is gone."),
]

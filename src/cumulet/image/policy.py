# SPDX-License-Identifier: Apache-2.0
"""The image service's policy: upstream's names and newest defaults."""

from __future__ import annotations

from cumulet.kernel.owned import CHECK, READ
from cumulet.kernel.policy import Rule

_ANY = ("project", "domain", "system")
_ADMIN = "rule:context_is_admin"
_MEMBER = f"{_ADMIN} or (role:member and project_id:%(project_id)s)"
_READER = f"{_ADMIN} or (role:reader and project_id:%(project_id)s)"
_OPEN = (
    "(project_id:%(project_id)s or project_id:%(member_id)s or 'community':%(visibility)s"
    " or 'public':%(visibility)s or 'shared':%(visibility)s)"
)
_SHARED_MEMBER = f"{_ADMIN} or (role:member and project_id:%(member_id)s)"
_READER_OR_SHARED = f"{_ADMIN} or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)"

_READER_OR_PUBLIC = f"{_ADMIN} or (role:reader and (project_id:%(project_id)s or 'public':%(visibility)s))"
_METADEF_ADMIN = "rule:metadef_admin"
_METADEF_READS = (
    "get_metadef_namespace", "get_metadef_object", "get_metadef_objects", "list_metadef_resource_types",
    "get_metadef_resource_type", "get_metadef_property", "get_metadef_properties", "get_metadef_tag",
    "get_metadef_tags",
)  # fmt: skip
_METADEF_WRITES = (
    "modify_metadef_namespace", "add_metadef_namespace", "delete_metadef_namespace", "modify_metadef_object",
    "add_metadef_object", "delete_metadef_object", "add_metadef_resource_type_association",
    "remove_metadef_resource_type_association", "modify_metadef_property", "add_metadef_property",
    "remove_metadef_property", "modify_metadef_tag", "add_metadef_tag", "add_metadef_tags", "delete_metadef_tag",
    "delete_metadef_tags",
)  # fmt: skip

_BY_SERVICES = "cumulet:images:by_services"
BESIDES = dict.fromkeys(("get_image", "download_image", "upload_image"), _BY_SERVICES)
"""A host fetches an image for a server, or fills one that was asked for, also when the user's token was revoked
meanwhile; it has no role but ``service``."""

RULES = [
    Rule(_BY_SERVICES, "role:service", description="Read and fill images, as a service with no user behind it."),
    Rule("default", "", _ANY),
    Rule("context_is_admin", "role:admin", _ANY),
    Rule("service_api", "role:service or role:admin", _ANY),
    Rule("add_image", f"{_ADMIN} or (role:member and project_id:%(project_id)s and project_id:%(owner)s)"),
    Rule("delete_image", _MEMBER),
    Rule("get_image", f"{_ADMIN} or (role:reader and {_OPEN})"),
    Rule("get_images", _READER),
    Rule("modify_image", _MEMBER),
    Rule("publicize_image", _ADMIN),
    Rule("communitize_image", _MEMBER),
    Rule("download_image", f"{_ADMIN} or (role:member and {_OPEN})"),
    Rule("download_from_store", f"{_ADMIN} or (role:member and {_OPEN})"),
    Rule("upload_image", _MEMBER),
    Rule("delete_image_location", _ADMIN),
    Rule("get_image_location", _READER),
    Rule("set_image_location", _MEMBER),
    Rule(
        "add_image_location",
        "rule:service_api or (role:member and project_id:%(project_id)s and project_id:%(owner)s)",
    ),
    Rule("fetch_image_location", "rule:service_api"),
    Rule("add_member", _MEMBER),
    Rule("delete_member", _MEMBER),
    Rule("get_member", _READER_OR_SHARED),
    Rule("get_members", _READER_OR_SHARED),
    Rule("modify_member", _SHARED_MEMBER),
    Rule("deactivate", _MEMBER),
    Rule("reactivate", _MEMBER),
    Rule("copy_image", _ADMIN),
    Rule("get_task", "rule:default"),
    Rule("get_tasks", "rule:default"),
    Rule("add_task", "rule:default"),
    Rule("modify_task", "rule:default"),
    Rule("tasks_api_access", _ADMIN),
    Rule("manage_image_cache", _ADMIN),
    Rule("cache_image", _ADMIN),
    Rule("cache_list", _ADMIN),
    Rule("cache_delete", _ADMIN),
    Rule("cache_clean", _ADMIN),
    Rule("cache_prune", _ADMIN),
    Rule("list_cached_nodes", _ADMIN),
    Rule("stores_info_detail", f"{_ADMIN} or rule:service_api"),
    Rule("metadef_default", "", _ANY),
    Rule("metadef_admin", _ADMIN, _ANY),
    Rule("get_metadef_namespaces", _READER),
    *(Rule(name, _READER_OR_PUBLIC) for name in _METADEF_READS),
    *(Rule(name, _METADEF_ADMIN) for name in _METADEF_WRITES),
    Rule(READ, CHECK, ("project", "system")),
]

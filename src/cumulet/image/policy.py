# SPDX-License-Identifier: Apache-2.0
"""The image service's policy: upstream's names and newest defaults."""

from __future__ import annotations

from cumulet.kernel.policy import Rule

_ADMIN = "rule:context_is_admin"
_MEMBER = f"{_ADMIN} or (role:member and project_id:%(project_id)s)"
_READER = f"{_ADMIN} or (role:reader and project_id:%(project_id)s)"
_OPEN = (
    "(project_id:%(project_id)s or project_id:%(member_id)s or 'community':%(visibility)s"
    " or 'public':%(visibility)s or 'shared':%(visibility)s)"
)
_SHARED_MEMBER = f"{_ADMIN} or (role:member and project_id:%(member_id)s)"
_READER_OR_SHARED = f"{_ADMIN} or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)"

RULES = [
    Rule("default", ""),
    Rule("context_is_admin", "role:admin"),
    Rule("service_api", "role:service or role:admin"),
    Rule("add_image", f"{_ADMIN} or (role:member and project_id:%(project_id)s and project_id:%(owner)s)"),
    Rule("delete_image", _MEMBER),
    Rule("get_image", f"{_ADMIN} or (role:reader and {_OPEN})"),
    Rule("get_images", _READER),
    Rule("modify_image", _MEMBER),
    Rule("publicize_image", _ADMIN),
    Rule("communitize_image", _MEMBER),
    Rule("download_image", f"{_ADMIN} or (role:member and {_OPEN})"),
    Rule("upload_image", _MEMBER),
    Rule("delete_image_location", _ADMIN),
    Rule("add_member", _MEMBER),
    Rule("delete_member", _MEMBER),
    Rule("get_member", _READER_OR_SHARED),
    Rule("get_members", _READER_OR_SHARED),
    Rule("modify_member", _SHARED_MEMBER),
    Rule("deactivate", _MEMBER),
    Rule("reactivate", _MEMBER),
    Rule("tasks_api_access", _ADMIN),
    Rule("stores_info_detail", f"{_ADMIN} or rule:service_api"),
]

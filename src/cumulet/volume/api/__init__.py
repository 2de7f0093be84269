# SPDX-License-Identifier: Apache-2.0
"""The volume API: every operation is one row of this table.

Source: the Block Storage API reference (v3). A project id may stand after
``/v3``; it is taken off before a row is looked for.
"""

from __future__ import annotations

from cumulet.kernel.http import Body, Route
from cumulet.volume import schemas as s
from cumulet.volume.api import actions, attachments, discovery, owned, snapshots, types, volumes
from cumulet.volume.policy import HOST

_VOLUME = "/v3/volumes/{volume_id}"
_SNAPSHOT = "/v3/snapshots/{snapshot_id}"
_ATTACHMENT = "/v3/attachments/{attachment_id}"
_TYPE = "/v3/types/{type_id}"
_QUOTA = "/v3/os-quota-sets/{project_id}"
_ACT = "volume_extension:volume_actions"
_ADMIN = "volume_extension:volume_admin_actions"
_SPECS = "volume_extension:types_extra_specs"


def _act(at: str, handler: object, rule: str, body: Body = s.ANY_ACTION, ok: int = 202) -> Route:
    return Route(f"POST {_VOLUME}/action#{at}", handler, policy=rule, body=body, ok=ok, target=volumes.target)  # type: ignore[arg-type]


ROUTES = [
    Route("GET /", discovery.versions, public=True, ok=300),
    Route("GET /v3", discovery.versions, public=True),
    # volumes
    Route("POST /v3/volumes", volumes.create, policy="volume:create", late=True, body=s.CREATE_VOLUME_LOOSE,
          ok=202, until="3.52"),
    Route("POST /v3/volumes", volumes.create, policy="volume:create", late=True, body=s.CREATE_VOLUME,
          ok=202, since="3.53"),
    Route("GET /v3/volumes", volumes.index, policy="volume:get_all", query=s.LIST),
    Route("GET /v3/volumes/detail", volumes.detail, policy="volume:get_all", query=s.LIST),
    Route("GET /v3/volumes/summary", volumes.summary, policy="volume:get_all", query=s.LIST, since="3.12"),
    Route(f"GET {_VOLUME}", volumes.show, policy="volume:get", target=volumes.target),
    Route(f"PUT {_VOLUME}", volumes.update, policy="volume:update", body=s.UPDATE_VOLUME, target=volumes.target,
          until="3.52"),
    Route(f"PUT {_VOLUME}", volumes.update, policy="volume:update", body=s.UPDATE_VOLUME_353, target=volumes.target,
          since="3.53"),
    Route(f"DELETE {_VOLUME}", volumes.delete, policy="volume:delete", query=s.DELETE_VOLUME, ok=202,
          target=volumes.target),
    Route(f"GET {_VOLUME}/metadata", volumes.metadata, policy="volume:get_volume_metadata", target=volumes.target),
    Route(f"POST {_VOLUME}/metadata", volumes.add_metadata, policy="volume:create_volume_metadata", body=s.METADATA,
          target=volumes.target),
    Route(f"PUT {_VOLUME}/metadata", volumes.replace_metadata, policy="volume:update_volume_metadata",
          body=s.METADATA, target=volumes.target),
    Route(f"GET {_VOLUME}/metadata/{{key}}", volumes.metadata_item, policy="volume:get_volume_metadata",
          target=volumes.target),
    Route(f"PUT {_VOLUME}/metadata/{{key}}", volumes.set_metadata_item, policy="volume:update_volume_metadata",
          body=s.META_ITEM, target=volumes.target),
    Route(f"DELETE {_VOLUME}/metadata/{{key}}", volumes.delete_metadata_item,
          policy="volume:delete_volume_metadata", target=volumes.target),
    # actions of volumes
    _act("os-extend", actions.extend, "volume:extend", s.EXTEND),
    _act("os-set_bootable", actions.set_bootable, "volume:update", s.SET_BOOTABLE, 200),
    _act("os-update_readonly_flag", actions.set_readonly, "volume:update_readonly_flag", s.READONLY),
    _act("os-retype", actions.retype, "volume:retype", s.RETYPE),
    _act("os-reset_status", actions.reset_status, f"{_ADMIN}:reset_status", s.RESET),
    _act("os-force_delete", actions.force_delete, f"{_ADMIN}:force_delete"),
    _act("os-force_detach", actions.detach, f"{_ADMIN}:force_detach", s.DETACH),
    _act("os-attach", actions.attach, f"{_ACT}:attach", s.ATTACH),
    _act("os-detach", actions.detach, f"{_ACT}:detach", s.DETACH),
    _act("os-reserve", actions.reserve, f"{_ACT}:reserve"),
    _act("os-unreserve", actions.unreserve, f"{_ACT}:unreserve"),
    _act("os-begin_detaching", actions.begin_detaching, f"{_ACT}:begin_detaching"),
    _act("os-roll_detaching", actions.roll_detaching, f"{_ACT}:roll_detaching"),
    _act("os-set_image_metadata", volumes.set_image_metadata, "volume_extension:volume_image_metadata:set",
         s.IMAGE_METADATA, 200),
    _act("os-show_image_metadata", volumes.show_image_metadata, "volume_extension:volume_image_metadata:show", ok=200),
    _act("os-unset_image_metadata", volumes.unset_image_metadata, "volume_extension:volume_image_metadata:remove",
         s.UNSET_IMAGE_METADATA, 200),
    # snapshots
    Route("POST /v3/snapshots", snapshots.create, policy="volume:create_snapshot", late=True,
          body=s.CREATE_SNAPSHOT, ok=202),
    Route("GET /v3/snapshots", snapshots.index, policy="volume:get_all_snapshots", query=s.LIST),
    Route("GET /v3/snapshots/detail", snapshots.detail, policy="volume:get_all_snapshots", query=s.LIST),
    Route(f"GET {_SNAPSHOT}", snapshots.show, policy="volume:get_snapshot", target=snapshots.target),
    Route(f"PUT {_SNAPSHOT}", snapshots.update, policy="volume:update_snapshot", body=s.UPDATE_SNAPSHOT,
          target=snapshots.target),
    Route(f"DELETE {_SNAPSHOT}", snapshots.delete, policy="volume:delete_snapshot", ok=202, target=snapshots.target),
    Route(f"GET {_SNAPSHOT}/metadata", snapshots.metadata, policy="volume:get_snapshot_metadata",
          target=snapshots.target),
    Route(f"POST {_SNAPSHOT}/metadata", snapshots.add_metadata, policy="volume:update_snapshot_metadata",
          body=s.METADATA, target=snapshots.target),
    Route(f"PUT {_SNAPSHOT}/metadata", snapshots.replace_metadata, policy="volume:update_snapshot_metadata",
          body=s.METADATA, target=snapshots.target),
    Route(f"GET {_SNAPSHOT}/metadata/{{key}}", snapshots.metadata_item, policy="volume:get_snapshot_metadata",
          target=snapshots.target),
    Route(f"PUT {_SNAPSHOT}/metadata/{{key}}", snapshots.set_metadata_item,
          policy="volume:update_snapshot_metadata", body=s.META_ITEM, target=snapshots.target),
    Route(f"DELETE {_SNAPSHOT}/metadata/{{key}}", snapshots.delete_metadata_item,
          policy="volume:delete_snapshot_metadata", target=snapshots.target),
    Route(f"POST {_SNAPSHOT}/action#os-reset_status", actions.reset_snapshot,
          policy="volume_extension:snapshot_admin_actions:reset_status", body=s.RESET_SNAPSHOT, ok=202,
          target=snapshots.target),
    Route(f"POST {_SNAPSHOT}/action#os-force_delete", actions.force_delete_snapshot,
          policy="volume_extension:snapshot_admin_actions:force_delete", body=s.ANY_ACTION, ok=202,
          target=snapshots.target),
    Route(f"POST {_SNAPSHOT}/action#os-update_snapshot_status", actions.update_snapshot_status,
          policy="snapshot_extension:snapshot_actions:update_snapshot_status", body=s.SNAPSHOT_STATUS, ok=202,
          target=snapshots.target),
    # attachments
    Route("POST /v3/attachments", attachments.create, policy="volume:attachment_create", late=True,
          body=s.CREATE_ATTACHMENT, since="3.27"),
    Route("GET /v3/attachments", attachments.index, policy="volume:get_all", query=s.LIST, since="3.27"),
    Route("GET /v3/attachments/detail", attachments.detail, policy="volume:get_all", query=s.LIST, since="3.27"),
    Route(f"GET {_ATTACHMENT}", attachments.show, policy="volume:get", target=attachments.target, since="3.27"),
    Route(f"PUT {_ATTACHMENT}", attachments.update, policy="volume:attachment_update", body=s.UPDATE_ATTACHMENT,
          target=attachments.target, since="3.27"),
    Route(f"DELETE {_ATTACHMENT}", attachments.delete, policy="volume:attachment_delete",
          target=attachments.target, since="3.27"),
    Route(f"POST {_ATTACHMENT}/action#os-complete", attachments.complete, policy="volume:attachment_complete",
          body=s.ANY_ACTION, target=attachments.target, ok=204, since="3.44"),
    # types
    Route("GET /v3/types", types.index, policy="volume_extension:type_get_all"),
    Route("POST /v3/types", types.create, policy="volume_extension:type_create", body=s.CREATE_TYPE),
    Route(f"GET {_TYPE}", types.show, policy="volume_extension:type_get", target=types.target),
    Route(f"PUT {_TYPE}", types.update, policy="volume_extension:type_update", body=s.UPDATE_TYPE,
          target=types.target),
    Route(f"DELETE {_TYPE}", types.delete, policy="volume_extension:type_delete", ok=202, target=types.target),
    Route(f"GET {_TYPE}/os-volume-type-access", types.access,
          policy="volume_extension:volume_type_access:get_all_for_type", target=types.target),
    Route(f"POST {_TYPE}/action#addProjectAccess", types.grant, body=s.GRANT, ok=202, target=types.target,
          policy="volume_extension:volume_type_access:addProjectAccess"),
    Route(f"POST {_TYPE}/action#removeProjectAccess", types.revoke, body=s.REVOKE, ok=202, target=types.target,
          policy="volume_extension:volume_type_access:removeProjectAccess"),
    Route(f"GET {_TYPE}/extra_specs", types.specs, policy=f"{_SPECS}:index", target=types.target),
    Route(f"POST {_TYPE}/extra_specs", types.set_specs, policy=f"{_SPECS}:create", body=s.SET_SPECS,
          target=types.target),
    Route(f"GET {_TYPE}/extra_specs/{{key}}", types.spec, policy=f"{_SPECS}:show", target=types.target),
    Route(f"PUT {_TYPE}/extra_specs/{{key}}", types.set_spec, policy=f"{_SPECS}:update",
          body=Body(None, raw=s.SPECS), target=types.target),
    Route(f"DELETE {_TYPE}/extra_specs/{{key}}", types.delete_spec, policy=f"{_SPECS}:delete", ok=202,
          target=types.target),
    # limits, quotas, services
    Route("GET /v3/limits", discovery.limits, policy="limits_extension:used_limits", late=True, query=s.LIMITS),
    Route(f"GET {_QUOTA}", discovery.show_quota, policy="volume_extension:quotas:show", query=s.USAGE,
          target=discovery.quota_target),
    Route(f"GET {_QUOTA}/defaults", discovery.default_quota, policy="volume_extension:quotas:show",
          target=discovery.quota_target),
    Route(f"PUT {_QUOTA}", discovery.update_quota, policy="volume_extension:quotas:update", body=s.UPDATE_QUOTA,
          target=discovery.quota_target),
    Route(f"DELETE {_QUOTA}", discovery.delete_quota, policy="volume_extension:quotas:delete",
          target=discovery.quota_target),
    Route("GET /v3/os-availability-zone", discovery.zones, policy="volume:availability_zone_list"),
    Route("GET /v3/os-services", discovery.services, policy="volume_extension:services:index", query=s.DETAIL),
    Route("PUT /v3/os-services/enable", discovery.enable_service, policy="volume_extension:services:update",
          body=s.SERVICE),
    Route("PUT /v3/os-services/disable", discovery.disable_service, policy="volume_extension:services:update",
          body=s.SERVICE),
    Route("PUT /v3/os-services/disable-log-reason", discovery.disable_service_for,
          policy="volume_extension:services:update", body=s.SERVICE),
    Route("GET /v3/scheduler-stats/get_pools", discovery.pools,
          policy="scheduler_extension:scheduler_stats:get_pools", query=s.DETAIL),
    Route("GET /v3/capabilities/{host}", discovery.capabilities, policy="volume_extension:capabilities"),
    Route("GET /v3/extensions", discovery.extensions, policy="volume_extension:list_extensions"),
    Route("GET /v3/cumulet/volumes/{volume_id}/why", volumes.why, policy="volume:get", target=volumes.target),
    Route("GET /v3/cumulet/hosts/{host}", discovery.on_host, policy=HOST),
    Route("DELETE /v3/cumulet/hosts/{host}", discovery.forget_host, policy=HOST, ok=204),
    *owned.ROUTES,
]  # fmt: skip

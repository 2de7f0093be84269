# SPDX-License-Identifier: Apache-2.0
"""Request bodies and query strings of the volume API, and what each version's answers hold.

Source: the Block Storage API reference (v3) and its microversion history.
Until 3.53 unknown members of a new volume are let through and ignored.
"""

from __future__ import annotations

from typing import Any

from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.http import Body, Field, Out, Param, Query, View
from cumulet.kernel.http.fields import LOOSE_BOOL, OBJECT, Schema, nullable, one_of, text, truth

MAX_INT = 2**31 - 1
_NAME = nullable(text(0, 255))
_DESCRIPTION = nullable(text(0, 255))
_UUID: Schema = {"type": "string", "format": "uuid"}
_SIZE: Schema = {"type": ["integer", "string"], "pattern": "^[0-9]+$", "minimum": 1, "maximum": MAX_INT}
WORDS: Schema = {
    "type": "object",
    "patternProperties": {r"^[a-zA-Z0-9\-_:. /]{1,255}$": text(0, 255)},
    "additionalProperties": False,
}
SPECS: Schema = {
    "type": "object",
    "patternProperties": {r"^[a-zA-Z0-9\-_:.]{1,255}$": nullable(text(0, 255))},
    "additionalProperties": False,
}


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _named(**more: Any) -> tuple[Field, ...]:
    """name and description, and what older clients call them."""
    return (
        Field("display_name", _NAME, optional=True, convert=_stripped, inner="name", **more),
        Field("display_description", _DESCRIPTION, optional=True, convert=_stripped, inner="description", **more),
        Field("name", _NAME, optional=True, convert=_stripped, **more),
        Field("description", _DESCRIPTION, optional=True, convert=_stripped, **more),
    )


_VOLUME_FIELDS = (
    *_named(),
    Field("size", {**_SIZE, "type": ["integer", "string", "null"]}, optional=True),
    Field("volume_type", _NAME, optional=True),
    Field("metadata", nullable(WORDS), optional=True),
    Field("snapshot_id", nullable(_UUID), optional=True),
    Field("source_volid", nullable(_UUID), optional=True),
    Field("consistencygroup_id", nullable(_UUID), optional=True),
    Field("group_id", _NAME, since="3.13", optional=True),
    Field("backup_id", nullable(_UUID), since="3.47", optional=True),
    Field("availability_zone", nullable(text(1, 255)), optional=True),
    Field("multiattach", nullable(LOOSE_BOOL), optional=True),
    Field("image_id", _NAME, optional=True, inner="imageRef"),
    Field("imageRef", _NAME, optional=True),
    Field("project_id", text(1, 64), optional=True),  # our own, with the next: whom a service makes the volume for
    Field("user_id", text(1, 64), optional=True),
    Field("id", _UUID, optional=True),  # our own: chosen by a service
)
_HINTS = (Field("OS-SCH-HNT:scheduler_hints", {"type": ["object", "null"]}, optional=True),)
CREATE_VOLUME = Body("volume", *_VOLUME_FIELDS, beside=_HINTS)
CREATE_VOLUME_LOOSE = Body("volume", *_VOLUME_FIELDS, beside=_HINTS, open=True)
UPDATE_VOLUME = Body("volume", *_named(), Field("metadata", WORDS, optional=True))
UPDATE_VOLUME_353 = Body("volume", *_named(), Field("metadata", WORDS, optional=True), at_least_one=True)

CREATE_SNAPSHOT = Body(
    "snapshot",
    *_named(),
    Field("volume_id", nullable(_UUID)),
    Field("force", LOOSE_BOOL, optional=True, convert=truth),
    Field("metadata", nullable(WORDS), optional=True),
    Field("id", _UUID, optional=True),  # our own: chosen by a service
)
UPDATE_SNAPSHOT = Body("snapshot", *_named(), at_least_one=True)
METADATA = Body(None, Field("metadata", WORDS))
META_ITEM = Body(None, Field("meta", WORDS))

_INSTANCE = Field("instance_uuid", nullable(_UUID), optional=True)
CREATE_ATTACHMENT = Body(
    "attachment",
    Field("volume_uuid", _UUID),
    _INSTANCE,
    Field("connector", nullable(OBJECT), optional=True),
    Field("mode", one_of("rw", "ro"), since="3.54", optional=True),
    Field("id", _UUID, optional=True),  # our own: chosen by a service
)
UPDATE_ATTACHMENT = Body("attachment", Field("connector", {"type": "object", "minProperties": 1}))


def _action(name: str, *fields: Field, loose: bool = False) -> Body:
    """The body of an action; ``loose`` takes whatever it holds."""
    return Body(None, raw={"type": "object"}) if loose else Body(name, *fields)


ANY_ACTION = _action("", loose=True)
EXTEND = _action("os-extend", Field("new_size", _SIZE, convert=int))
SET_BOOTABLE = _action("os-set_bootable", Field("bootable", LOOSE_BOOL, convert=truth))
READONLY = _action("os-update_readonly_flag", Field("readonly", LOOSE_BOOL, convert=truth))
RESET = _action(
    "os-reset_status",
    Field("status", nullable(text(1, 32)), optional=True),
    Field("attach_status", nullable(one_of("attached", "detached", "ATTACHED", "DETACHED")), optional=True),
    Field("migration_status", nullable(text(1, 32)), optional=True),
)
RESET_SNAPSHOT = _action("os-reset_status", Field("status", text(1, 32)))
SNAPSHOT_STATUS = _action(
    "os-update_snapshot_status", Field("status", text(1, 32)), Field("progress", text(0, 8), optional=True)
)
RETYPE = _action(
    "os-retype",
    Field("new_type", text(1, 255)),
    Field("migration_policy", {"enum": ["on-demand", "never", None]}, optional=True),
)
ATTACH = _action(
    "os-attach",
    Field("instance_uuid", _UUID, optional=True),
    Field("host_name", text(0, 255), optional=True),
    Field("mountpoint", text(1, 255)),
    Field("mode", one_of("rw", "ro"), optional=True),
)
IMAGE_METADATA = _action("os-set_image_metadata", Field("metadata", WORDS))
UNSET_IMAGE_METADATA = _action("os-unset_image_metadata", Field("key", text(1, 255)))
DETACH_FIELDS: Schema = {
    "type": ["object", "null"],
    "properties": {"attachment_id": nullable(_UUID), "connector": {"type": ["object", "string", "null"]}},
    "additionalProperties": False,
}
DETACH = Body(
    None, raw={"type": "object", "properties": {"os-detach": DETACH_FIELDS, "os-force_detach": DETACH_FIELDS}}
)

CREATE_TYPE = Body(
    "volume_type",
    Field("name", text(1, 255)),
    Field("description", _DESCRIPTION, optional=True),
    Field("extra_specs", nullable(SPECS), optional=True),
    Field("os-volume-type-access:is_public", LOOSE_BOOL, optional=True, convert=truth, inner="is_public"),
)
UPDATE_TYPE = Body(
    "volume_type",
    Field("name", nullable(text(1, 255)), optional=True),
    Field("description", _DESCRIPTION, optional=True),
    Field("is_public", LOOSE_BOOL, optional=True, convert=truth),
    at_least_one=True,
)
GRANT = _action("addProjectAccess", Field("project", text(1, 255)))
REVOKE = _action("removeProjectAccess", Field("project", text(1, 255)))
SET_SPECS = Body(None, Field("extra_specs", SPECS))
UPDATE_QUOTA = Body("quota_set", raw={"type": "object", "minProperties": 1})
SERVICE = Body(
    None,
    Field("host", text(1, 255)),
    Field("binary", text(1, 255), optional=True),
    Field("service", text(1, 255), optional=True, inner="binary"),
    Field("disabled_reason", text(1, 255), optional=True),
)

# ---- lists: what may be asked is known here, what it means in `logic.lists`

VOLUME_FILTERS = frozenset({
    "name", "status", "metadata", "bootable", "migration_status", "availability_zone", "group_id", "size",
    "created_at", "updated_at", "consumes_quota", "all_tenants", "project_id", "host", "glance_metadata",
})  # fmt: skip
SNAPSHOT_FILTERS = frozenset({
    "name", "status", "volume_id", "metadata", "availability_zone", "consumes_quota", "all_tenants", "project_id",
})  # fmt: skip
ATTACHMENT_FILTERS = frozenset({"volume_id", "status", "instance_id", "attach_status", "all_tenants", "project_id"})
LIST = Query(
    Param("limit", {"type": "string"}),
    Param("marker", {"type": "string"}),
    Param("offset", {"type": "string"}),
    Param("sort", {"type": "string"}),
    Param("sort_key", {"type": "string"}),
    Param("sort_dir", {"type": "string"}),
    Param("with_count", {"type": "string"}, since="3.45"),
)
DELETE_VOLUME = Query(
    Param("cascade", {"type": "string"}, convert=truth), Param("force", {"type": "string"}, since="3.23", convert=truth)
)
USAGE = Query(Param("usage", {"type": "string"}, convert=truth))
DETAIL = Query(Param("detail", {"type": "string"}, convert=truth))
LIMITS = Query(Param("project_id", {"type": "string"}), Param("tenant_id", {"type": "string"}))

# ---- answers


def moment(value: float | None) -> str | None:
    """A time as the volume API writes it."""
    return clock.iso_micro(value) if value is not None else None


def _host(row: Row) -> str | None:
    host: str | None = row["host"]
    return host


def _time(name: str) -> Out:
    return Out(name, lambda row: moment(row[name]))


_ADMIN = "context_is_admin"
_MIGRATION = "volume_extension:volume_mig_status_attribute"
_BASE = (
    "id", "status", "size", "availability_zone", _time("created_at"), _time("updated_at"), "name", "description",
    Out("volume_type", "type_name"), "snapshot_id", "source_volid", "metadata", "links", "user_id",
    Out("bootable", lambda row: str(row["bootable"]).lower()), Out("encrypted", lambda row: False),
    Out("replication_status", lambda row: None), Out("consistencygroup_id", lambda row: None), "multiattach",
    "attachments", Out("migration_status", lambda row: None, policy=_ADMIN),
    Out("group_id", lambda row: None, since="3.13"), Out("provider_id", lambda row: None, since="3.21", policy=_ADMIN),
    Out("shared_targets", lambda row: False, since="3.48"), Out("service_uuid", lambda row: None, since="3.48"),
    Out("cluster_name", lambda row: None, since="3.61", policy=_ADMIN),
    Out("volume_type_id", "type_id", since="3.63"), Out("consumes_quota", lambda row: True, since="3.65"),
)  # fmt: skip
VOLUME = View(*_BASE)
"""What create and update answer."""
VOLUME_DETAIL = View(
    *_BASE,
    Out("os-vol-host-attr:host", _host, policy="volume_extension:volume_host_attribute"),
    Out("os-vol-tenant-attr:tenant_id", "project_id", policy="volume_extension:volume_tenant_attribute"),
    Out("os-vol-mig-status-attr:migstat", lambda row: None, policy=_MIGRATION),
    Out("os-vol-mig-status-attr:name_id", lambda row: None, policy=_MIGRATION),
    Out("volume_image_metadata", policy="volume_extension:volume_image_metadata:show"),
)
"""What show and the detailed list answer."""

_SNAPSHOT = (
    "id", _time("created_at"), _time("updated_at"), "name", "description", "volume_id", "status", "size", "metadata",
)  # fmt: skip
_SNAPSHOT_NEWER = (
    Out("group_snapshot_id", lambda row: None, since="3.14"),
    Out("user_id", since="3.41"),
    Out("consumes_quota", lambda row: True, since="3.65"),
)
_EXTENDED = "volume_extension:extended_snapshot_attributes"
SNAPSHOT_SUMMARY = View(*_SNAPSHOT)
SNAPSHOT = View(*_SNAPSHOT, *_SNAPSHOT_NEWER)
SNAPSHOT_DETAIL = View(
    *_SNAPSHOT,
    *_SNAPSHOT_NEWER,
    Out("os-extended-snapshot-attributes:progress", "progress", policy=_EXTENDED),
    Out("os-extended-snapshot-attributes:project_id", "project_id", policy=_EXTENDED),
)

_ATTACHMENT = ("id", "status", Out("instance", "instance_uuid"), "volume_id")
ATTACHMENT_SUMMARY = View(*_ATTACHMENT)
ATTACHMENT = View(
    *_ATTACHMENT,
    Out("attached_at", lambda row: moment(row["attached_at"]) or ""),
    Out("detached_at", lambda row: ""),
    Out("attach_mode", lambda row: row["mode"] or "null"),
    Out("connection_info", lambda row: row["connection_info"] or {}),
)

_TYPE = (
    "id", "name", "is_public", "description",
    Out("extra_specs", policy="volume_extension:access_types_extra_specs"),
)  # fmt: skip
_ACCESS = Out("os-volume-type-access:is_public", "is_public", policy="volume_extension:volume_type_access")
CHANGED_TYPE = View(*_TYPE)
"""What update answers."""
NEW_TYPE = View(*_TYPE, _ACCESS)
"""What create answers."""
TYPE = View(*_TYPE, _ACCESS, Out("qos_specs_id", lambda row: None, policy="volume_extension:access_types_qos_specs_id"))
"""What show and lists answer."""

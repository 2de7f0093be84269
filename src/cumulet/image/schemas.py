# SPDX-License-Identifier: Apache-2.0
"""The documents of the image API as JSON Schema: what is checked and what `/v2/schemas` publishes.

Source: the Image API reference, "Image schemas". Custom properties are strings.
"""

from __future__ import annotations

from typing import Any

from cumulet.kernel.http.body import Body
from cumulet.kernel.http.fields import Schema

CONTAINER_FORMATS = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")
DISK_FORMATS = ("ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop")
IMAGE_ID = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"
STATUSES = (
    "queued", "saving", "active", "killed", "deleted", "uploading", "importing", "pending_delete", "deactivated",
)  # fmt: skip
READ_ONLY = frozenset({
    "created_at", "updated_at", "status", "checksum", "size", "virtual_size", "direct_url", "self", "file",
    "schema", "id", "os_hash_algo", "os_hash_value",
})  # fmt: skip
NEVER_SENT = frozenset({"direct_url", "self", "file", "schema", "stores"})
RESERVED = frozenset({"location", "deleted", "deleted_at"})
RESERVED_PREFIX = "os_glance"
SETTABLE = frozenset({
    "name", "visibility", "protected", "os_hidden", "owner", "container_format", "disk_format", "min_disk",
    "min_ram", "tags",
})  # fmt: skip
"""Attributes of the record that a client may change; everything else is a custom property."""


def _read_only(kind: Any, description: str, **more: Any) -> Schema:
    return {"type": kind, "readOnly": True, "description": description, **more}


_TEXT_OR_NULL = ["null", "string"]
IMAGE_PROPERTIES: dict[str, Schema] = {
    "id": {"type": "string", "description": "Identifier of the image", "pattern": IMAGE_ID},
    "name": {"type": _TEXT_OR_NULL, "description": "Name of the image", "maxLength": 255},
    "status": _read_only("string", "State of the image", enum=list(STATUSES)),
    "visibility": {
        "type": "string",
        "description": "Who may see the image",
        "enum": ["community", "public", "private", "shared"],
    },
    "protected": {"type": "boolean", "description": "Whether deleting is refused"},
    "os_hidden": {"type": "boolean", "description": "Whether lists leave the image out by default"},
    "checksum": _read_only(_TEXT_OR_NULL, "MD5 of the data", maxLength=32),
    "os_hash_algo": _read_only(_TEXT_OR_NULL, "Algorithm of os_hash_value", maxLength=64),
    "os_hash_value": _read_only(_TEXT_OR_NULL, "Digest of the data, as hex digits", maxLength=128),
    "owner": {"type": _TEXT_OR_NULL, "description": "Project that owns the image", "maxLength": 255},
    "size": _read_only(["null", "integer"], "Bytes of the data"),
    "virtual_size": _read_only(["null", "integer"], "Bytes of the disk that the image describes"),
    "container_format": {
        "type": _TEXT_OR_NULL,
        "description": "What the disk is packed in",
        "enum": [None, *CONTAINER_FORMATS],
    },
    "disk_format": {"type": _TEXT_OR_NULL, "description": "Format of the disk", "enum": [None, *DISK_FORMATS]},
    "created_at": _read_only("string", "When the image was registered"),
    "updated_at": _read_only("string", "When the image was last changed"),
    "tags": {
        "type": "array",
        "description": "Words attached to the image",
        "items": {"type": "string", "maxLength": 255},
    },
    "locations": {
        "type": "array",
        "description": "Where stores hold the data",
        "items": {
            "type": "object",
            "properties": {
                "url": {"type": "string", "maxLength": 255},
                "metadata": {"type": "object"},
                "validation_data": {
                    "type": "object",
                    "description": "What the data's digests are; while the image is queued they are taken over",
                    "writeOnly": True,
                    "additionalProperties": False,
                    "properties": {
                        "checksum": {"type": "string", "minLength": 32, "maxLength": 32},
                        "os_hash_algo": {"type": "string", "maxLength": 64},
                        "os_hash_value": {"type": "string", "maxLength": 128},
                    },
                    "required": ["os_hash_algo", "os_hash_value"],
                },
            },
            "required": ["url", "metadata"],
        },
    },
    "direct_url": _read_only("string", "Where a store holds the data"),
    "min_ram": {"type": "integer", "description": "MiB of memory that a guest needs"},
    "min_disk": {"type": "integer", "description": "GiB of disk that a guest needs"},
    "self": _read_only("string", "Path of the image"),
    "file": _read_only("string", "Path of the data"),
    "stores": _read_only("string", "Stores that hold the data, comma-separated"),
    "schema": _read_only("string", "Path of the schema"),
}
_IMAGE_LINKS = [
    {"rel": "self", "href": "{self}"},
    {"rel": "enclosure", "href": "{file}"},
    {"rel": "describedby", "href": "{schema}"},
]
IMAGE: Schema = {
    "name": "image",
    "properties": IMAGE_PROPERTIES,
    "additionalProperties": {"type": "string"},
    "links": _IMAGE_LINKS,
}

_LIMITS: dict[str, Schema] = {
    "min_ram": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "min_disk": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
}
CHECKED: Schema = {
    "type": "object",
    "properties": {**IMAGE_PROPERTIES, **_LIMITS},
    "additionalProperties": {"type": "string", "maxLength": 65535},
}
CREATE = Body(None, raw=CHECKED)

LOCATION = Body(None, raw={
    "type": "object",
    "properties": {
        "url": {"type": "string"},
        "validation_data": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "os_hash_algo": {"type": "string", "enum": ["sha1", "sha256", "sha512", "md5"]},
                "os_hash_value": {"type": "string", "maxLength": 128},
            },
            "dependencies": {"os_hash_value": ["os_hash_algo"], "os_hash_algo": ["os_hash_value"]},
        },
    },
    "required": ["url"],
})  # fmt: skip
"""A location that is added by the newer way."""

MEMBER_PROPERTIES: dict[str, Schema] = {
    "member_id": {"type": "string", "description": "Project that the image is shared with"},
    "image_id": {"type": "string", "description": "Identifier of the image", "pattern": IMAGE_ID},
    "created_at": {"type": "string", "description": "When the member was added"},
    "updated_at": {"type": "string", "description": "When the member was last changed"},
    "status": {
        "type": "string",
        "description": "What the member made of the offer",
        "enum": ["pending", "accepted", "rejected"],
    },
    "schema": {"readOnly": True, "type": "string"},
}
MEMBER: Schema = {"name": "member", "properties": MEMBER_PROPERTIES}

TASK_PROPERTIES: dict[str, Schema] = {
    "id": {"type": "string", "description": "Identifier of the task", "pattern": IMAGE_ID},
    "type": {
        "type": "string",
        "description": "What the task does",
        "enum": ["import", "api_image_import", "location_import"],
    },
    "status": {
        "type": "string",
        "description": "State of the task",
        "enum": ["pending", "processing", "success", "failure"],
    },
    "input": {"type": ["null", "object"], "description": "What the task was asked"},
    "result": {"type": ["null", "object"], "description": "What came out"},
    "owner": {"type": "string", "description": "Project of the task"},
    "message": {"type": "string", "description": "Why it failed, if it did"},
    "image_id": {"type": "string", "description": "Image of the task"},
    "request_id": {"type": "string", "description": "Request that started the task"},
    "user_id": {"type": "string", "description": "User who started the task"},
    "expires_at": {"type": ["null", "string"], "description": "When the record may be removed"},
    "created_at": {"type": "string", "description": "When the task was made"},
    "updated_at": {"type": "string", "description": "When the task was last changed"},
    "self": {"readOnly": True, "type": "string"},
    "schema": {"readOnly": True, "type": "string"},
}
NEW_TASK = Body(None, raw={
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["import", "api_image_import", "location_import"]},
        "input": {"type": ["null", "object"]},
    },
})  # fmt: skip
TASK: Schema = {"name": "task", "properties": TASK_PROPERTIES}
_DETAILS = ("input", "result", "message")
_BRIEF_TASK: Schema = {**TASK, "properties": {n: one for n, one in TASK_PROPERTIES.items() if n not in _DETAILS}}


def _collection(name: str, item: Schema, *, paged: bool) -> Schema:
    members: dict[str, Schema] = {name: {"type": "array", "items": item}, "schema": {"type": "string"}}
    links = [{"rel": "describedby", "href": "{schema}"}]
    if paged:
        members |= {"first": {"type": "string"}, "next": {"type": "string"}}
        links = [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}, *links]
    return {"name": name, "properties": members, "links": links}


PUBLISHED: dict[str, Schema] = {
    "image": IMAGE,
    "images": _collection("images", IMAGE, paged=True),
    "member": MEMBER,
    "members": _collection("members", MEMBER, paged=False),
    "task": TASK,
    "tasks": _collection("tasks", _BRIEF_TASK, paged=False),
}

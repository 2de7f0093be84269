# SPDX-License-Identifier: Apache-2.0
"""The shapes of the image service's answers, by route: what its OpenAPI document says and the tests hold it to."""

from __future__ import annotations

from typing import Any, Final

from cumulet.image import metadef_schemas as metadefs
from cumulet.image.schemas import IMAGE_PROPERTIES, MEMBER_PROPERTIES, TASK_PROPERTIES
from cumulet.kernel.http.fields import COUNT, Schema, array, record

_TEXT: Final[Schema] = {"type": "string"}
_LOCATION = record({"url": _TEXT, "metadata": {"type": "object"}}, ("url", "metadata"))
_IMAGE: Schema = {
    "type": "object",
    "properties": {**IMAGE_PROPERTIES, "locations": array(_LOCATION)},
    "additionalProperties": {"type": ["string", "null"]},
    "required": [
        "id", "name", "status", "visibility", "protected", "os_hidden", "checksum", "os_hash_algo", "os_hash_value",
        "owner", "size", "virtual_size", "container_format", "disk_format", "created_at", "updated_at", "tags",
        "min_ram", "min_disk", "self", "file", "schema",
    ],
}  # fmt: skip
_IMAGES = record(
    {"images": array(_IMAGE), "first": _TEXT, "next": _TEXT, "schema": _TEXT}, ("images", "first", "schema")
)
_MEMBER = record(MEMBER_PROPERTIES, tuple(MEMBER_PROPERTIES))
_TASK = record(TASK_PROPERTIES, ("id", "type", "status", "owner", "created_at", "updated_at", "self", "schema"))
_DELETION: Schema = {"deleted": {"const": False}, "deleted_at": {"type": "null"}}
_OF_IMAGE = {name: one for name, one in TASK_PROPERTIES.items() if name not in ("self", "schema")} | _DELETION
_IMAGE_TASKS = record({"tasks": array(record(_OF_IMAGE, ("id", "type", "status", *_DELETION)))}, ("tasks",))
_TASKS = record({"tasks": array(_TASK), "first": _TEXT, "next": _TEXT, "schema": _TEXT}, ("tasks",))
_STORE = {"id": _TEXT, "description": _TEXT, "default": {"const": "true"}, "read-only": {"const": "true"}}
_DETAILED = {**_STORE, "type": _TEXT, "weight": {"type": "integer"}, "properties": {"type": "object"}}
_CACHED = {
    "image_id": _TEXT, "hits": COUNT, "last_accessed": {"type": "number"}, "last_modified": {"type": "number"},
    "size": COUNT,
}  # fmt: skip
_VERSION = record({"id": _TEXT, "status": _TEXT, "links": array({"type": "object"})}, ("id", "status", "links"))
_VERSIONS = record({"versions": array(_VERSION)}, ("versions",))


# ---- metadata definitions


def _inlined(schema: Any) -> Any:
    """A schema with what it refers to in its place: an OpenAPI document has other names for definitions."""
    if isinstance(schema, list):
        return [_inlined(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(metadefs.DEFINITIONS[schema["$ref"].rpartition("/")[2]])
    return {name: _inlined(one) for name, one in schema.items()}


def _definition(schema: Schema, *more: str, **changed: Schema) -> Schema:
    """The answer that a published schema describes: closed, with its required members and ``more``."""
    return record({**_inlined(schema["properties"]), **changed}, (*schema["required"], *more))


_STAMPS = ("created_at", "updated_at")
_LINKED = (*_STAMPS, "self", "schema")
_OBJECT = _definition(metadefs.OBJECT, *_LINKED)
_PROPERTY = _definition(metadefs.PROPERTY)
_TAG = _definition(metadefs.TAG, *_STAMPS)
_NAMES = array(record({"name": _TEXT}, ("name",)))
_ASSOCIATION = _definition(metadefs.ASSOCIATION, *_STAMPS)
_NAMESPACE = _definition(metadefs.NAMESPACE, *_LINKED, "visibility", "protected")
_TYPE = record({"name": _TEXT, "created_at": _TEXT, "updated_at": _TEXT}, ("name", *_STAMPS))
_SPACES = "/v2/metadefs/namespaces"
_SPACE = f"{_SPACES}/{{namespace}}"
_METADEFS: dict[str, Schema] = {
    "GET /v2/metadefs/resource_types": record({"resource_types": array(_TYPE)}, ("resource_types",)),
    f"GET {_SPACES}": record(
        {"namespaces": array(_NAMESPACE), "first": _TEXT, "next": _TEXT, "schema": _TEXT},
        ("namespaces", "first", "schema"),
    ),
    f"POST {_SPACES}": _NAMESPACE,
    f"GET {_SPACE}": _NAMESPACE,
    f"PUT {_SPACE}": _NAMESPACE,
    f"GET {_SPACE}/resource_types": record(
        {"resource_type_associations": array(_ASSOCIATION)}, ("resource_type_associations",)
    ),
    f"POST {_SPACE}/resource_types": _ASSOCIATION,
    f"GET {_SPACE}/objects": record({"objects": array(_OBJECT), "schema": _TEXT}, ("objects", "schema")),
    f"POST {_SPACE}/objects": _OBJECT,
    f"GET {_SPACE}/objects/{{name}}": _OBJECT,
    f"PUT {_SPACE}/objects/{{name}}": _OBJECT,
    f"GET {_SPACE}/properties": record(
        {
            "properties": {
                "type": "object",
                "additionalProperties": record(_inlined(metadefs.PROPERTY_FIELDS), ("title", "type")),
            }
        },
        ("properties",),
    ),
    f"POST {_SPACE}/properties": _PROPERTY,
    f"GET {_SPACE}/properties/{{name}}": _PROPERTY,
    f"PUT {_SPACE}/properties/{{name}}": _PROPERTY,
    f"GET {_SPACE}/tags": record({"tags": _NAMES}, ("tags",)),
    f"POST {_SPACE}/tags": record({"tags": _NAMES}, ("tags",)),
    f"GET {_SPACE}/tags/{{name}}": _TAG,
    f"POST {_SPACE}/tags/{{name}}": _TAG,
    f"PUT {_SPACE}/tags/{{name}}": _TAG,
    "GET /v2/schemas/metadefs/{name}": {"type": "object", "required": ["name", "properties"]},
}

_AT = "/v2/images/{image_id}"

ANSWERS: dict[str, Schema] = {
    **_METADEFS,
    "GET /": _VERSIONS,
    "GET /versions": _VERSIONS,
    "GET /v2": _VERSIONS,
    "POST /v2/images": _IMAGE,
    "GET /v2/images": _IMAGES,
    f"GET {_AT}": _IMAGE,
    f"PATCH {_AT}": _IMAGE,
    f"GET {_AT}/tasks": _IMAGE_TASKS,
    f"GET {_AT}/locations": array(_LOCATION),
    f"POST {_AT}/members": _MEMBER,
    f"GET {_AT}/members": record({"members": array(_MEMBER), "schema": _TEXT}, ("members", "schema")),
    f"GET {_AT}/members/{{member_id}}": _MEMBER,
    f"PUT {_AT}/members/{{member_id}}": _MEMBER,
    "POST /v2/tasks": _TASK,
    "GET /v2/tasks": _TASKS,
    "GET /v2/tasks/{task_id}": _TASK,
    "GET /v2/cache": record(
        {"cached_images": array(record(_CACHED, tuple(_CACHED))), "queued_images": array(_TEXT)},
        ("cached_images", "queued_images"),
    ),
    "POST /v2/cache/prune": record(
        {"total_files_pruned": COUNT, "total_bytes_pruned": COUNT}, ("total_files_pruned", "total_bytes_pruned")
    ),
    "GET /v2/schemas/{name}": {"type": "object", "required": ["name", "properties"]},
    "GET /v2/info/import": record(
        {
            "import-methods": record(
                {"description": _TEXT, "type": {"const": "array"}, "value": array(_TEXT)}, ("type", "value")
            )
        },
        ("import-methods",),
    ),
    "GET /v2/info/stores": record({"stores": array(record(_STORE, ("id",)))}, ("stores",)),
    "GET /v2/info/stores/detail": record(
        {"stores": array(record(_DETAILED, ("id", "type", "weight", "properties")))}, ("stores",)
    ),
    "GET /v2/info/usage": record(
        {
            "usage": {
                "type": "object",
                "additionalProperties": record({"usage": COUNT, "limit": {"type": "integer"}}, ("usage", "limit")),
            }
        },
        ("usage",),
    ),
}
